//! Histories of contention: tenants of several weights, with more short work than a stage can do, whose files take ten times as
//! long as those of others. Verbs, groups, admission and costs are the real ones; the stage is first come, first served. While all of them wait each
//! must get its weighted share of the slots' time, within a bound (protocol 2.5).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{
    BatchId, BatchRef, FileRef, FileState, Reason, Stage, StageSet, StageVersion, TenantId, Token,
};
use caudal_node::scope::MeshSecret;
use caudal_proto::convert::file_tokens_from_proto;
use caudal_proto::mesh::v1::Dispatches;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::database::{Database, Shared};
use super::ledger::SimLedger;
use super::steps::Asked;
use crate::likeness::Likeness;
use crate::memory::costs::Cost;
use crate::settings::LedgerSettings;
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::writer::core::Verb;
use crate::writer::manifest_page::{ManifestPage, NewEntry, NewFile};
use crate::writer::request_key::RequestKey;
use crate::writer::verbs::add_entries::AddEntries;
use crate::writer::verbs::complete_batch::CompleteBatch;
use crate::writer::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};
use crate::writer::verbs::create_batch::CreateBatch;
use crate::writer::verbs::lease::Lease;
use crate::writer::verbs::release::Release;
use crate::writer::verbs::report::{BadResult, Report, Reported};

const STAGE: Stage = Stage::Upload;
const PROCESS: Uuid = Uuid::from_u128(7);
/// Files of each tenant, and their bytes.
const FILES: u32 = 400;
const SIZE: u64 = 1_000;
/// Files of each batch that are known from before.
const LEARNT: usize = 20;
/// The steps that a group in flight may take before it is waited for.
const STEPS: u32 = 1_000;
/// Files after which the provider pauses, at most, and the seconds for which it does.
const PAUSES_AFTER: u32 = 200;
const PAUSED_FOR: u32 = 20;
/// Groups after which nothing is to be done, whatever was asked.
const MOST_GROUPS: u32 = 10_000;

/// Who contends.
struct Tenant {
    batch: BatchRef,
    weight: u32,
    /// What each of its files takes.
    takes: Cost,
    got: Cost,
}

struct Contention {
    dice: SmallRng,
    shared: Shared,
    ledger: SimLedger,
    next_id: u128,
}

/// One history; what it broke.
pub(super) fn run(seed: u64) -> Vec<String> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let slots = dice.random_range(2..=4);
    let tenants = dice.random_range(2..=4_usize);
    let tenants: Vec<Tenant> = (1..=tenants as u128)
        .map(|number| Tenant {
            batch: BatchRef::new(
                TenantId::from_uuid(Uuid::from_u128(number)),
                BatchId::from_uuid(Uuid::from_u128(number)),
            ),
            weight: dice.random_range(1..=3),
            // Each has room for some in its share of the window. Of work that is about as long as the share everybody has a
            // file out, and there weights count for less.
            takes: dice.random_range(30_000..300_000),
            got: 0,
        })
        .collect();
    Contention::new(dice, &tenants, slots).contend(tenants, slots)
}

impl Contention {
    fn new(mut dice: SmallRng, tenants: &[Tenant], slots: u32) -> Self {
        let settings = Arc::new(LedgerSettings::new("", "", MeshSecret::generate()));
        let mut database = Database::default();
        database.now = Micros(1_000_000_000_000);
        database.windows = settings.windows.clone();
        database.asked = Some(Asked::default());
        database.change(|tables| {
            tables.epoch = 1;
            for tenant in tenants {
                let mut row = TenantRow::new(tenant.batch.tenant, "{}".into(), 1);
                row.weight = tenant.weight;
                tables.tenants.insert(row.tenant, Arc::new(row));
            }
        });
        let leads_until = Instant::now() + Duration::from_secs(3_600);
        let metrics = SimLedger::metrics();
        let seed = dice.random();
        let mut ledger = SimLedger::lead(&database, &settings, &metrics, leads_until, true, seed);
        // What such files take, and on how many slots, is known from others before them.
        let dispatcher = &mut ledger.memory.dispatcher;
        dispatcher.hear(STAGE, PROCESS, slots, database.now);
        for tenant in tenants.iter().cycle().take(tenants.len() * LEARNT) {
            let (file, token) = (tenant.batch.file(FILES), Token::FIRST);
            dispatcher.enter(STAGE, file, token, Likeness::sized(SIZE), database.now);
            dispatcher.took(file, token, Likeness::sized(SIZE), tenant.takes);
            dispatcher.leave(file, token);
        }
        Self {
            dice,
            shared: Rc::new(RefCell::new(database)),
            ledger,
            next_id: 1_000,
        }
    }

    fn key(&mut self) -> RequestKey {
        self.next_id += 1;
        RequestKey {
            id: Uuid::from_u128(self.next_id),
            method: "Method",
            body_hash: [0; 32],
        }
    }

    /// Groups until nothing is to be done.
    fn settle(&mut self) {
        for _ in 0..MOST_GROUPS {
            if self.ledger.is_idle() {
                return;
            }
            self.ledger.group(&self.shared, 8, &mut self.dice);
            self.ledger.advance(STEPS);
            self.ledger.settle_all(&self.shared, &mut self.dice);
        }
        let stuck = "groups without end, in which nothing is asked";
        self.ledger.defects.push(stuck.to_owned());
    }

    fn ask<V: Verb>(&mut self, verb: V) -> Option<V::Answer> {
        let mut answer = self.ledger.ask(verb);
        self.settle();
        answer.try_recv().ok()?.ok()
    }

    /// A batch all of whose files have arrived.
    fn bring(&mut self, batch: BatchRef) {
        let request = self.key();
        self.ask(CreateBatch {
            batch,
            request,
            name: String::new(),
            options: "{}".into(),
            metadata: None,
            priority: 2,
            stages: StageSet::all(),
            starts_when_completed: true,
            created_by: String::new(),
        });
        let entries = (0..FILES).map(|number| {
            NewEntry::File(NewFile {
                path: format!("f{number}"),
                size: SIZE,
                sha256: None,
                metadata: None,
                modified_at: None,
            })
        });
        let page = Arc::new(ManifestPage::new(entries.collect()));
        let request = self.key();
        self.ask(AddEntries {
            batch,
            request,
            knows_one_batch: false,
            token: None,
            page,
            folders: 1,
            path_bytes: 10,
        });
        let uploads: Vec<ConfirmedUpload> = {
            let database = self.shared.borrow();
            let files = &database.committed.files;
            let rows = files.range(batch.file(0)..=batch.file(u32::MAX));
            let uploads = rows.map(|(file, row)| ConfirmedUpload {
                ordinal: file.ordinal,
                target: row.target,
                etag: format!("landed/{}", row.target.get()),
            });
            uploads.collect()
        };
        let request = self.key();
        self.ask(ConfirmUploads {
            batch,
            request,
            uploads,
            foreign: std::collections::HashSet::new(),
        });
    }

    /// What went out since the last look, in order.
    fn sent(&mut self) -> Vec<(FileRef, Token)> {
        let mut database = self.shared.borrow_mut();
        let rows: Vec<Vec<u8>> = database
            .committed
            .outbox
            .values()
            .filter(|(row, _)| row.stage == STAGE)
            .map(|(row, _)| row.body.clone())
            .collect();
        database.change(|tables| tables.outbox.clear());
        let dispatches = rows.iter().filter_map(|body| {
            let dispatches = Dispatches::decode(body.as_slice()).ok()?;
            file_tokens_from_proto(&dispatches.files?, 1_024).ok()
        });
        dispatches.flatten().collect()
    }

    /// The stage works on what was sent, first come, first served, until somebody has nothing left.
    fn contend(mut self, mut tenants: Vec<Tenant>, slots: u32) -> Vec<String> {
        for tenant in &tenants {
            self.bring(tenant.batch);
        }
        // All begin in one group, so that nobody has the window alone.
        let mut answers = Vec::new();
        for tenant in &tenants {
            let request = self.key();
            answers.push(self.ledger.ask(CompleteBatch {
                batch: tenant.batch,
                request,
                missing_fails: false,
                expected_entries: 0,
            }));
        }
        self.settle();
        drop(answers);
        let mut queue: VecDeque<(FileRef, Token)> = VecDeque::new();
        let mut running: BTreeMap<(Cost, u32), (FileRef, Token)> = BTreeMap::new();
        let (mut now, mut begun, mut ended) = (0, 0, 0);
        let mut has_paused = false;
        // What went out when they began is no part of the interval.
        let mut before = 0;
        let pauses_after = self.dice.random_range(1..PAUSES_AFTER) as usize;
        while tenants.iter().all(|tenant| self.waits(tenant.batch)) {
            let sent = self.sent();
            if ended == 0 {
                before += sent.len();
            }
            queue.extend(sent);
            if ended == pauses_after && !has_paused {
                has_paused = true;
                // What had begun has taken its time for nothing, and what is out goes out anew.
                let begun = std::mem::take(&mut running).into_values();
                let held = begun.chain(std::mem::take(&mut queue)).collect();
                if let Some(words) = self.pause_provider(held) {
                    return vec![words];
                }
                continue;
            }
            while running.len() < slots as usize
                && let Some(next) = queue.pop_front()
            {
                begun += 1;
                self.lease(next);
                running.insert((now + takes_of(&tenants, next.0), begun), next);
            }
            let Some(((at, _), (file, token))) = running.pop_first() else {
                return vec!["nothing goes out although all wait".to_owned()];
            };
            now = at;
            ended += 1;
            let takes = takes_of(&tenants, file);
            self.work(file, token, takes, slots);
            let mut tenants = tenants.iter_mut();
            let tenant = tenants.find(|tenant| tenant.batch == file.batch_ref());
            if let Some(tenant) = tenant.filter(|_| ended > before) {
                tenant.got += takes;
            }
        }
        let mut broken = self.ledger.defects.clone();
        broken.append(&mut self.shared.borrow_mut().found);
        broken.extend(unfair(&tenants, slots));
        broken
    }

    /// The provider pauses (protocol 7.4): all that is out is given back, and nothing is read for a while. What went out then
    /// waits in the stream, and nothing more goes out.
    fn pause_provider(&mut self, held: Vec<(FileRef, Token)>) -> Option<String> {
        if let Some(asked) = &mut self.shared.borrow_mut().asked {
            asked.released.extend(&held);
        }
        self.ask(Release { held });
        let out = self.ledger.places(STAGE);
        for _ in 0..PAUSED_FOR {
            let mut database = self.shared.borrow_mut();
            database.now = database.now.plus(Duration::from_secs(1));
            drop(database);
            self.settle();
        }
        let later = self.ledger.places(STAGE);
        (later != out).then(|| {
            format!("{out} files were out when the provider paused, and {later} when it went on")
        })
    }

    fn lease(&mut self, one: (FileRef, Token)) {
        self.ask(Lease {
            version: StageVersion::new(STAGE, "1"),
            held: vec![one],
        });
    }

    /// A file ends at this stage: it is all that there is.
    fn work(&mut self, file: FileRef, token: Token, takes: Cost, slots: u32) {
        if let Some(asked) = &mut self.shared.borrow_mut().asked {
            asked.reported.insert((file, token));
        }
        let version = StageVersion::new(STAGE, "1");
        let outcome = Err(BadResult {
            reason: Reason::CorruptDocument,
            detail: String::new(),
            trace_id: String::new(),
            retry_after: None,
        });
        self.ask(Report {
            stage: STAGE,
            version,
            slots: Some((PROCESS, slots)),
            reported: vec![Reported {
                file,
                token,
                outcome,
                took: Some(takes),
            }],
        });
    }

    fn waits(&self, batch: BatchRef) -> bool {
        let database = self.shared.borrow();
        let mut rows = database
            .committed
            .files
            .range(batch.file(0)..=batch.file(u32::MAX));
        rows.any(|(_, row)| row.state == FileState::Uploaded)
    }
}

fn takes_of(tenants: &[Tenant], file: FileRef) -> Cost {
    let mut tenants = tenants.iter();
    let tenant = tenants.find(|tenant| tenant.batch == file.batch_ref());
    tenant.map_or(0, |tenant| tenant.takes)
}

/// Who got less or more of what was done than it may. Out of each is its share of the window and at most one file more (protocol
/// 2.5), so that it gets between its share beside such a file of each of the others and its share with one of its own; but for what
/// may be out when the interval begins and ends, and a turn: the window, and two files of the longest.
fn unfair(tenants: &[Tenant], slots: u32) -> Vec<String> {
    const WINDOW: Cost = 2_000_000;
    let all: Cost = tenants.iter().map(|tenant| tenant.got).sum();
    if all == 0 {
        return vec!["all that waited went out at once".to_owned()];
    }
    let weights: Cost = tenants.iter().map(|tenant| Cost::from(tenant.weight)).sum();
    let longest = tenants.iter().map(|tenant| tenant.takes).max();
    let window = WINDOW * Cost::from(slots);
    let bound = window + 2 * longest.unwrap_or(0);
    let told = tenants.iter().filter_map(|tenant| {
        let share = window * Cost::from(tenant.weight) / weights;
        let of_others = tenants.iter().map(|other| other.takes).sum::<Cost>() - tenant.takes;
        let least = all * share / (window + of_others) - bound;
        let most = all * (share + tenant.takes) / (window + tenant.takes) + bound;
        let due = all * share / window;
        (tenant.got < least || tenant.got > most).then(|| {
            format!(
                "a tenant of weight {} of {weights}, whose files take {} ms, got {} ms of {} ms in {slots} slots, and {} ms were due",
                tenant.weight,
                tenant.takes / 1_000,
                tenant.got / 1_000,
                all / 1_000,
                due / 1_000,
            )
        })
    });
    told.collect()
}

#[test]
fn while_others_wait_a_tenant_gets_its_weighted_share_of_what_is_done() {
    for seed in 0..8 {
        assert_eq!(run(seed), Vec::<String>::new(), "seed {seed}");
    }
}
