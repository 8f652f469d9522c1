//! The world around the core: clients, stage processes, Redis, an object store, operators and the other ledgers, moved by
//! one scheduler whose dice are seeded. What it does is the same each time; what must hold is checked at every commit and,
//! once the faults have ended and everything has come to rest, on all that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{
    BatchId, BatchRef, BatchState, FileRef, FileState, Outcome, Reason, Refusal, Stage, StageSet,
    StageVersion, Target, TenantId, Token,
};
use caudal_node::scope::MeshSecret;
use caudal_proto::v1::Batch;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot::error::TryRecvError;
use uuid::Uuid;

use super::database::{CommitFate, Database, Shared, Tables};
use super::ledger::SimLedger;
use super::streams::{Entry, Pair, Streams};
use crate::leader::rules;
use crate::memory::lease_cache::Granted;
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::operations::{FileVerb, OperationState};
use crate::store::progress::Renamed;
use crate::store::results::{ResultRow, StoredArtifact, Used};
use crate::store::selection::Position;
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::writer::core::Answered;
use crate::writer::request_key::RequestKey;
use crate::writer::verbs::add_entries::{AddEntries, AddedEntries, NewEntry, NewFile};
use crate::writer::verbs::apply_slice::{ApplySlice, FoundBytes};
use crate::writer::verbs::cancel_batch::CancelBatch;
use crate::writer::verbs::cancel_files::CancelFiles;
use crate::writer::verbs::complete_batch::CompleteBatch;
use crate::writer::verbs::complete_idle::CompleteIdle;
use crate::writer::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};
use crate::writer::verbs::create_batch::CreateBatch;
use crate::writer::verbs::end_operation::EndOperation;
use crate::writer::verbs::fail_missing::FailMissing;
use crate::writer::verbs::lease::Lease;
use crate::writer::verbs::look_up::{LookUp, LookedUp};
use crate::writer::verbs::prune::Prune;
use crate::writer::verbs::prune_operations::PruneOperations;
use crate::writer::verbs::release::Release;
use crate::writer::verbs::renew::Renew;
use crate::writer::verbs::repair::{KillCause, Repair};
use crate::writer::verbs::report::{BadResult, GoodResult, Report, StageOutcome};
use crate::writer::verbs::set_pause::{NewPause, SetPause};
use crate::writer::verbs::start_operation::StartOperation;
use crate::writer::verbs::update_batch::UpdateBatch;

/// Files that one group of the model takes at most.
const VERBS_A_GROUP: usize = 6;
/// Rounds without faults in which everything must come to rest.
const ROUNDS: u32 = 600;
/// Dispatches of an outbox row that go into one entry.
const PACKED: usize = 2;

/// What a file turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Good,
    /// Its first attempt at each stage fails.
    Flaky,
    /// Every attempt at its second stage fails, and may be tried again.
    Hopeless,
    /// Its second stage fails for good.
    Broken,
    /// It takes the process with it at its second stage.
    Poison,
    /// Nobody uploads it.
    Missing,
    /// The first bytes that come are of another size.
    WrongSize,
    /// Its second stage takes longer than a lease lives.
    Slow,
    /// Its second stage finds that the bytes are not what they should be, the first time.
    Spoilt,
}

const NATURES: [Nature; 13] = [
    Nature::Slow,
    Nature::Good,
    Nature::Good,
    Nature::Good,
    Nature::Good,
    Nature::Flaky,
    Nature::Hopeless,
    Nature::Broken,
    Nature::Poison,
    Nature::Missing,
    Nature::WrongSize,
    Nature::Spoilt,
    Nature::Spoilt,
];

/// A file as its client knows it.
#[derive(Clone, Debug)]
struct Planned {
    parent: String,
    name: String,
    size: u64,
    content: u8,
    declared: bool,
    nature: Nature,
}

/// A client's call under way.
enum Call {
    Create(Answered<Batch>),
    Add(usize, Answered<AddedEntries>),
    Confirm(Answered<caudal_proto::v1::ConfirmUploadsResponse>),
    Batch(&'static str, Answered<Batch>),
}

/// A client and the batch that it brings.
struct Client {
    batch: BatchRef,
    create: RequestKey,
    pages: Vec<(RequestKey, Vec<Planned>)>,
    complete: RequestKey,
    missing_fails: bool,
    starts_when_completed: bool,
    created: Option<BatchRef>,
    /// What each page was answered.
    added: Vec<Option<AddedEntries>>,
    completed: bool,
    /// It was told that it cannot go on.
    gives_up: bool,
    call: Option<Call>,
    /// Bytes that it put: (ordinal, target, etag).
    puts: Vec<(u32, Target, String)>,
}

impl Client {
    fn planned(&self, ordinal: u32) -> Option<&Planned> {
        self.pages
            .iter()
            .zip(&self.added)
            .find_map(|((_, page), added)| {
                let added = added.as_ref()?;
                let at = added.ordinals.iter().position(|known| *known == ordinal)?;
                page.get(at)
            })
    }
}

/// Bytes in the object store.
#[derive(Clone, Debug, PartialEq)]
struct Object {
    content: u8,
    size: u64,
    etag: String,
}

/// How far a process is with a dispatch.
enum Work {
    Read,
    Granted(Arc<Granted>, Micros),
    /// What came of it, the token it was made under.
    Ran(Box<(FileRef, Token, StageOutcome)>),
    /// There is a final answer.
    Done,
}

/// What leases are answered, by position.
type Leases = Vec<Option<Arc<Granted>>>;

/// An entry that a process holds.
struct Held {
    entry: Entry,
    works: Vec<(Pair, Work)>,
    leasing: Option<(Vec<usize>, Answered<Leases>)>,
    reporting: Option<(Vec<usize>, Report, Answered<Vec<bool>>)>,
    acknowledged: bool,
}

/// A stage process.
struct Process {
    id: u64,
    stage: Stage,
    held: Vec<Held>,
    renewing: Option<(Vec<Pair>, Answered<Vec<bool>>)>,
    releasing: Option<Answered<()>>,
}

impl Process {
    fn granted(&self) -> impl Iterator<Item = Pair> {
        let works = self.held.iter().flat_map(|held| &held.works);
        works
            .filter(|(_, work)| matches!(work, Work::Granted(..) | Work::Ran(_)))
            .map(|(pair, _)| *pair)
    }
}

/// A call that comes too late: it must be refused.
enum Probe {
    Entries(Answered<AddedEntries>),
    Bytes(Answered<caudal_proto::v1::ConfirmUploadsResponse>),
}

/// A pass of the reconciler under way.
enum Pass {
    Looking(Answered<LookedUp>),
    Judged(LookedUp),
    Repairing(Answered<()>),
}

/// What a history consists of.
pub(super) struct World {
    dice: SmallRng,
    shared: Shared,
    settings: Arc<LedgerSettings>,
    metrics: LedgerMetrics,
    leader: SimLedger,
    deposed: Option<SimLedger>,
    begun: Instant,
    /// Time that no clock jump touches.
    steady: Duration,
    streams: Streams,
    processes: Vec<Process>,
    next_process: u64,
    next_id: u128,
    clients: Vec<Client>,
    landing: BTreeMap<(FileRef, Target), Object>,
    finals: BTreeMap<(FileRef, u8), Object>,
    /// Artifacts by key, with the execution that wrote them.
    artifacts: BTreeMap<String, u64>,
    executions: u64,
    /// Landing objects whose delayed delete is due.
    deletes: Vec<(FileRef, Target)>,
    old_reports: Vec<Report>,
    late: Vec<(Report, Answered<Vec<bool>>)>,
    pass: Option<Pass>,
    sliced: Option<Answered<()>>,
    started: Vec<(RequestKey, Answered<caudal_proto::longrunning::Operation>)>,
    ended: Vec<Answered<()>>,
    endings: Vec<Answered<Option<u32>>>,
    /// Where the next slices of batches begin that are being ended.
    from: FxHashMap<BatchRef, u32>,
    /// The last sign of life of whoever holds a dispatch.
    signs: FxHashMap<Pair, Micros>,
    cancelled: BTreeSet<BatchRef>,
    spoilt: BTreeSet<FileRef>,
    faults: bool,
    redis_away_until: Micros,
    /// Calls that must be refused.
    probes: Vec<Probe>,
    /// What went wrong.
    pub(super) violations: Vec<String>,
    /// What happened, for whoever reads a history again.
    pub(super) trace: Option<Vec<String>>,
}

fn answered<A>(answer: &mut Answered<A>) -> Option<Option<Result<A, Refusal>>> {
    match answer.try_recv() {
        Ok(answer) => Some(Some(answer)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => Some(None),
    }
}

/// For whoever reads a history: the last digits of the batch, the file, the token.
fn short(pairs: &[Pair]) -> String {
    let pairs = pairs.iter().map(|(file, token)| {
        let batch = file.batch.as_uuid().as_u128();
        format!("{batch:x}/{}@{token}", file.ordinal)
    });
    pairs.collect::<Vec<String>>().join(" ")
}

fn sha(content: u8) -> [u8; 32] {
    [content; 32]
}

fn media_type(content: u8) -> &'static str {
    match content % 3 {
        0 => "application/pdf",
        1 => "image/png",
        _ => "application/x-unknown",
    }
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut settings = LedgerSettings::new("", "", MeshSecret::generate());
        settings.windows.set([
            (Stage::Upload, 4),
            (Stage::ExtractText, 3),
            (Stage::ImageProcessing, 2),
            (Stage::Embeddings, 2),
            (Stage::Metadata, 3),
        ]);
        settings.windows.of_tenant = 8;
        let settings = Arc::new(settings);
        let tenants = [1_u128, 2].map(|number| TenantId::from_uuid(Uuid::from_u128(number)));
        let mut database = Database::default();
        database.now = Micros(1_000_000_000_000);
        database.windows = settings.windows.clone();
        database.told = traced.then(Vec::new);
        database.change(|tables| {
            tables.epoch = 1;
            for tenant in tenants {
                let row = TenantRow {
                    tenant,
                    limits: "{}".into(),
                    paused: false,
                    used_bytes: 0,
                    used_files: 0,
                    revision: 0,
                };
                tables.tenants.insert(tenant, Arc::new(row));
            }
        });
        let metrics = SimLedger::metrics();
        let begun = Instant::now();
        let one_at_a_time = dice.random_ratio(1, 3);
        let term = settings.term;
        let leader = SimLedger::lead(
            &database,
            &settings,
            &metrics,
            begun + term,
            one_at_a_time,
            dice.random(),
        );
        let mut world = Self {
            dice,
            shared: Rc::new(std::cell::RefCell::new(database)),
            settings,
            metrics,
            leader,
            deposed: None,
            begun,
            steady: Duration::ZERO,
            streams: Streams::default(),
            processes: Vec::new(),
            next_process: 0,
            next_id: 1_000,
            clients: Vec::new(),
            landing: BTreeMap::new(),
            finals: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            executions: 0,
            deletes: Vec::new(),
            old_reports: Vec::new(),
            late: Vec::new(),
            pass: None,
            sliced: None,
            started: Vec::new(),
            ended: Vec::new(),
            endings: Vec::new(),
            from: FxHashMap::default(),
            signs: FxHashMap::default(),
            cancelled: BTreeSet::new(),
            spoilt: BTreeSet::new(),
            faults: true,
            redis_away_until: Micros(0),
            probes: Vec::new(),
            violations: Vec::new(),
            trace: traced.then(Vec::new),
        };
        for tenant in tenants {
            for _ in 0..=u8::from(world.one_in(3)) {
                let client = world.new_client(tenant);
                world.clients.push(client);
            }
        }
        for stage in Stage::ALL {
            world.start_process(stage);
        }
        world
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.dice.random_ratio(1, times)
    }

    fn note(&mut self, words: impl FnOnce() -> String) {
        self.tell_commits();
        if let Some(trace) = &mut self.trace {
            trace.push(words());
        }
    }

    fn tell_commits(&mut self) {
        if let Some(trace) = &mut self.trace
            && let Some(told) = &mut self.shared.borrow_mut().told
        {
            trace.append(told);
        }
    }

    fn breaks(&mut self, words: String) {
        self.violations.push(words);
    }

    fn now(&self) -> Micros {
        self.shared.borrow().now
    }

    fn committed<R>(&self, read: impl FnOnce(&Tables) -> R) -> R {
        read(&self.shared.borrow().committed)
    }

    fn id(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(self.next_id)
    }

    fn key(&mut self, method: &'static str) -> RequestKey {
        RequestKey {
            id: self.id(),
            method,
            body_hash: [0; 32],
        }
    }

    fn new_client(&mut self, tenant: TenantId) -> Client {
        let batch = BatchRef::new(tenant, BatchId::from_uuid(self.id()));
        let mut pages = Vec::new();
        let mut number = 0;
        for _ in 0..self.dice.random_range(1..=2) {
            let mut page = Vec::new();
            for _ in 0..self.dice.random_range(1..=6) {
                number += 1;
                let nature = NATURES[self.dice.random_range(0..NATURES.len())];
                // Some share their content.
                let content =
                    self.dice.random_range(0..9) + if nature == Nature::Good { 0 } else { 90 };
                page.push(Planned {
                    parent: ["", "a", "a/b", "c"][self.dice.random_range(0..4)].to_owned(),
                    name: format!("f{number}"),
                    size: u64::from(content) + 1,
                    content,
                    declared: nature == Nature::Good && self.one_in(2),
                    nature,
                });
            }
            pages.push((self.key("AddEntries"), page));
        }
        let added = pages.iter().map(|_| None).collect();
        Client {
            batch,
            create: self.key("CreateBatch"),
            complete: self.key("CompleteBatch"),
            missing_fails: true,
            starts_when_completed: self.one_in(4),
            pages,
            added,
            created: None,
            completed: false,
            gives_up: false,
            call: None,
            puts: Vec::new(),
        }
    }

    fn start_process(&mut self, stage: Stage) {
        self.next_process += 1;
        self.processes.push(Process {
            id: self.next_process,
            stage,
            held: Vec::new(),
            renewing: None,
            releasing: None,
        });
    }

    /// One history: so many events with faults, then as many rounds without as it takes until everything rests.
    pub(super) fn run(mut self, events: u32) -> Self {
        // Without faults for a while, so that what follows meets files at every place.
        self.faults = false;
        for _ in 0..self.dice.random_range(0..10) {
            self.round();
            self.pass_time();
        }
        self.faults = true;
        for _ in 0..events {
            self.event();
            self.check_commits();
            if !self.violations.is_empty() {
                return self;
            }
        }
        self.come_to_rest();
        self
    }

    fn event(&mut self) {
        match self.dice.random_range(0..100_u32) {
            0..=17 => self.client_step(),
            18..=43 => self.process_step(),
            44..=61 => self.group(),
            62..=66 => {
                let steps = self.dice.random_range(1..8);
                self.leader.advance(steps);
            }
            67..=74 => self.relay(),
            75..=79 => self.reconcile_step(),
            80..=83 => self.pass_time(),
            84..=88 => self.operator(),
            89..=90 => {
                self.operation_slice();
            }
            91 => self.late_report(),
            92 => self.delete_landing(),
            _ => self.fault(),
        }
    }

    fn fault(&mut self) {
        match self.dice.random_range(0..14_u32) {
            0..=1 => {
                let fate =
                    [CommitFate::LostBefore, CommitFate::LostAfter][self.dice.random_range(0..2)];
                self.note(|| format!("the next COMMIT: {fate:?}"));
                self.shared.borrow_mut().next_commit = fate;
            }
            2 => {
                let after = self.dice.random_range(0..12);
                self.note(|| format!("statement {after} from now fails"));
                self.shared.borrow_mut().fails_after = Some(after);
            }
            3 => self.crash(),
            4..=5 => self.take_over(),
            6 => {
                self.note(|| "Redis forgets everything".into());
                self.streams.flush();
            }
            7 => {
                let (stage, count) = (self.any_stage(), self.dice.random_range(1..3));
                self.note(|| format!("Redis forgets {count} entries of {stage}"));
                self.streams.lose_tail(stage, count);
            }
            8 => {
                let number = self.dice.random_range(0..1_000);
                self.note(|| "Redis brings an old entry back".into());
                self.streams.bring_back(number);
            }
            9..=10 => {
                let at = self.dice.random_range(0..self.processes.len());
                self.kill(at);
            }
            11 => self.release(),
            12 => {
                let away = Duration::from_secs(self.dice.random_range(3..30));
                self.note(|| format!("Redis is away for {away:?}"));
                self.redis_away_until = self.now().plus(away);
            }
            _ => {
                let jump = Duration::from_secs(self.dice.random_range(5..90));
                self.note(|| format!("the clock jumps by {jump:?}"));
                self.shared.borrow_mut().now = self.now().plus(jump);
            }
        }
    }

    fn any_stage(&mut self) -> Stage {
        let stages: Vec<Stage> = Stage::ALL.into_iter().collect();
        stages[self.dice.random_range(0..stages.len())]
    }

    fn pass_time(&mut self) {
        let by = Duration::from_millis(self.dice.random_range(100..4_000));
        self.tick(by);
    }

    fn tick(&mut self, by: Duration) {
        self.steady += by;
        let now = self.now().plus(by);
        self.shared.borrow_mut().now = now;
        let until = self.begun + self.steady + self.settings.term;
        if !self.leader.lost {
            self.leader.leases.leads_until(until);
        }
    }

    fn group(&mut self) {
        let most = self.dice.random_range(1..=VERBS_A_GROUP);
        self.leader.group(&self.shared, most, &mut self.dice);
        if let Some(deposed) = &mut self.deposed
            && self.dice.random_ratio(1, 4)
        {
            deposed.group(&self.shared, most, &mut self.dice);
        }
    }

    fn crash(&mut self) {
        self.note(|| "the ledger is killed".into());
        self.shared.borrow_mut().kill_all();
        self.lead_anew(false);
    }

    fn take_over(&mut self) {
        self.note(|| "another ledger takes over".into());
        if self.one_in(2) {
            self.leader.settle_all(&self.shared, &mut self.dice);
        } else {
            self.shared.borrow_mut().kill_all();
        }
        self.lead_anew(true);
    }

    fn lead_anew(&mut self, keep: bool) {
        self.steady += self.settings.term;
        self.shared.borrow_mut().change(|tables| tables.epoch += 1);
        self.shared.borrow_mut().next_commit = CommitFate::Committed;
        self.shared.borrow_mut().fails_after = None;
        let leads_until = self.begun + self.steady + self.settings.term;
        let one_at_a_time = self.dice.random_ratio(1, 3);
        let seed = self.dice.random();
        let leader = SimLedger::lead(
            &self.shared.borrow(),
            &self.settings,
            &self.metrics,
            leads_until,
            one_at_a_time,
            seed,
        );
        let old = std::mem::replace(&mut self.leader, leader);
        if keep {
            self.deposed = Some(old);
        } else {
            old.crash(&self.shared);
        }
        self.pass = None;
        self.from.clear();
    }

    // Redis

    fn relay(&mut self) {
        let refused = self.faults && self.one_in(6);
        let away = self.faults && self.now() < self.redis_away_until;
        let page = self.leader.relay.take_page();
        let mut accepted = Vec::new();
        let mut back = Vec::new();
        for row in page {
            if away || (refused && self.one_in(2)) {
                if planted!(DeletedBeforePublished) {
                    accepted.push(row.id);
                } else {
                    back.push(row);
                }
                continue;
            }
            let Ok(dispatch) = caudal_streams::decode(&row.body) else {
                self.breaks(format!("outbox row {} cannot be read", row.id));
                continue;
            };
            for files in dispatch.files.chunks(PACKED) {
                self.note(|| format!("published for {}: {}", row.stage, short(files)));
                self.streams.publish(row.stage, files.to_vec());
            }
            // Redis may have taken it and its answer be lost.
            if self.faults && self.one_in(12) {
                back.push(row);
            } else {
                accepted.push(row.id);
            }
        }
        self.leader.relay.settle(accepted, back);
    }

    // Stage processes

    fn process_step(&mut self) {
        let at = self.dice.random_range(0..self.processes.len());
        for _ in 0..self.dice.random_range(1..4) {
            self.step_process(at);
        }
    }

    /// Moves one process on; whether anything happened.
    fn step_process(&mut self, at: usize) -> bool {
        self.finish_calls_of(at);
        let process = &mut self.processes[at];
        if process.releasing.is_some() {
            return false;
        }
        let stage = process.stage;
        if process.held.len() < 2
            && let Some(entry) = self
                .streams
                .read(stage, process.id, self.shared.borrow().now)
        {
            let now = self.shared.borrow().now;
            for pair in &entry.files {
                self.signs.insert(*pair, now);
            }
            let works = entry.files.iter().map(|pair| (*pair, Work::Read)).collect();
            self.processes[at].held.push(Held {
                entry,
                works,
                leasing: None,
                reporting: None,
                acknowledged: false,
            });
            return true;
        }
        if self.one_in(5) && self.renew(at) {
            return true;
        }
        for held in 0..self.processes[at].held.len() {
            if self.step_held(at, held) {
                return true;
            }
        }
        false
    }

    fn version(&self, stage: Stage) -> StageVersion {
        StageVersion::new(stage, "1")
    }

    fn step_held(&mut self, at: usize, held: usize) -> bool {
        let stage = self.processes[at].stage;
        let version = self.version(stage);
        let instant = self.begun + self.steady;
        let now = self.now();
        let entry = &mut self.processes[at].held[held];
        if entry.leasing.is_some() || entry.reporting.is_some() {
            return false;
        }
        let positions = |entry: &Held, wanted: fn(&Work) -> bool| -> Vec<usize> {
            let works = entry.works.iter().enumerate();
            let found = works.filter(|(_, (_, work))| wanted(work));
            found.map(|(position, _)| position).collect()
        };
        let read = positions(entry, |work| matches!(work, Work::Read));
        if !read.is_empty() {
            let pairs: Vec<Pair> = read
                .iter()
                .map(|position| entry.works[*position].0)
                .collect();
            let known = self.leader.leases.grant(&version, &pairs, instant);
            let mut asked = Vec::new();
            let mut granted_now = Vec::new();
            for ((position, pair), known) in read.into_iter().zip(pairs).zip(known) {
                match known {
                    Some((granted, _)) => {
                        entry.works[position].1 = Work::Granted(granted, now);
                        granted_now.push(pair);
                    }
                    None => asked.push(position),
                }
            }
            for pair in granted_now {
                let current = self.committed(|tables| {
                    let row = tables.files.get(&pair.0);
                    row.is_some_and(|row| row.token == pair.1)
                });
                if !current && !self.leader.lost && !self.leader.has_flight() {
                    self.breaks(format!(
                        "{pair:?} was granted from memory and is not current"
                    ));
                }
            }
            if !asked.is_empty() {
                let entry = &self.processes[at].held[held];
                let pairs = asked.iter().map(|position| entry.works[*position].0);
                let lease = Lease {
                    version,
                    held: pairs.collect(),
                };
                let answer = self.leader.ask(lease);
                self.processes[at].held[held].leasing = Some((asked, answer));
            }
            return true;
        }
        let granted = positions(entry, |work| matches!(work, Work::Granted(..)));
        for position in granted {
            if self.execute(at, held, position) {
                return true;
            }
        }
        let entry = &mut self.processes[at].held[held];
        let ran = positions(entry, |work| matches!(work, Work::Ran(_)));
        if !ran.is_empty() {
            let outcomes = ran
                .iter()
                .filter_map(|position| match &entry.works[*position].1 {
                    Work::Ran(ran) => Some(ran.as_ref().clone()),
                    _ => None,
                });
            let report = Report {
                stage,
                version,
                outcomes: outcomes.collect(),
            };
            if planted!(AcknowledgedBeforeRecorded) {
                let id = entry.entry.id;
                entry.acknowledged = true;
                self.streams.acknowledge(stage, id);
            }
            if planted!(FreedBeforeRecorded) && stage == Stage::Upload {
                for (file, ..) in &report.outcomes {
                    let target = self.committed(|tables| tables.files[file].target);
                    self.landing.remove(&(*file, target));
                }
            }
            let answer = self.leader.ask(report.clone());
            self.old_reports.push(report.clone());
            self.processes[at].held[held].reporting = Some((ran, report, answer));
            return true;
        }
        let undone = |(_, work): &(Pair, Work)| !matches!(work, Work::Done);
        if entry.works.iter().any(undone) {
            return false;
        }
        // Every dispatch has a final answer.
        let entry = self.processes[at].held.remove(held);
        if !entry.acknowledged {
            self.streams.acknowledge(stage, entry.entry.id);
        }
        true
    }

    /// Runs the handler of one dispatch; whether it has come to anything.
    fn execute(&mut self, at: usize, held: usize, position: usize) -> bool {
        let stage = self.processes[at].stage;
        let (pair, work) = &self.processes[at].held[held].works[position];
        let (pair, Work::Granted(granted, since)) = (*pair, work) else {
            return false;
        };
        let (granted, since) = (granted.clone(), *since);
        if granted.row.token != pair.1 {
            self.breaks(format!("{pair:?} was granted as {}", granted.row.token));
            return true;
        }
        let nature = self.nature(pair.0);
        let second = stage != Stage::Upload && stage != Stage::Metadata;
        if nature == Nature::Poison && second && granted.row.kills == 0 {
            self.note(|| format!("{} takes its process with it", short(&[pair])));
            self.kill(at);
            return true;
        }
        let takes = self.settings.lease * 2;
        if nature == Nature::Slow && second && self.now().since(since) < takes {
            return false;
        }
        let outcome = self.outcome(stage, &granted, nature);
        self.note(|| {
            format!(
                "{stage} ran {}: {:?}",
                short(&[pair]),
                outcome.as_ref().map(|_| "good").map_err(|bad| bad.reason)
            )
        });
        let ran = Work::Ran(Box::new((pair.0, pair.1, outcome)));
        self.processes[at].held[held].works[position].1 = ran;
        true
    }

    fn nature(&self, file: FileRef) -> Nature {
        let mut clients = self.clients.iter();
        let client = clients.find(|client| client.created == Some(file.batch_ref()));
        let planned = client.and_then(|client| client.planned(file.ordinal));
        planned.map_or(Nature::Good, |planned| planned.nature)
    }

    fn outcome(&mut self, stage: Stage, granted: &Granted, nature: Nature) -> StageOutcome {
        let row = &granted.row;
        let bad = |reason| {
            Err(BadResult {
                reason,
                detail: String::new(),
                trace_id: String::new(),
                retry_after: None,
            })
        };
        let second = stage != Stage::Upload && stage != Stage::Metadata;
        match nature {
            Nature::Flaky if row.fails == 0 => return bad(Reason::StageTimeout),
            Nature::Hopeless if second => return bad(Reason::StageTimeout),
            Nature::Broken if second => return bad(Reason::CorruptDocument),
            // It runs alone, and its parent reports what became of it.
            Nature::Poison if second => return bad(Reason::ParserCrashed),
            Nature::Spoilt if second && self.spoilt.insert(row.file) => {
                return bad(Reason::ChecksumMismatch);
            }
            _ => {}
        }
        let mut content = None;
        if stage == Stage::Upload {
            let found = if granted.reads_final_object() {
                let mut finals = self.finals.range((row.file, 0)..=(row.file, u8::MAX));
                finals.next_back().map(|(_, object)| object.clone())
            } else {
                self.landing.get(&(row.file, row.target)).cloned()
            };
            let Some(found) = found.or_else(|| self.held_object(row.file)) else {
                return bad(Reason::ObjectMissing);
            };
            let landed = !granted.reads_final_object();
            if landed && row.etag.as_ref() != Some(&found.etag) {
                return bad(Reason::ObjectChanged);
            }
            if found.size != row.size {
                return bad(Reason::SizeMismatch);
            }
            content = Some(found.content);
            self.finals.insert((row.file, found.content), found);
        }
        self.executions += 1;
        let execution = self.executions;
        let nonce = if planted!(NonceReused) { 0 } else { execution };
        let key = format!(
            "{}/{}/{stage}/{}-{nonce}",
            row.file,
            row.generation.get(),
            row.token
        );
        self.artifacts.insert(key, execution);
        let last = stage == Stage::Metadata;
        Ok(GoodResult {
            artifacts: vec![StoredArtifact {
                name: "original".into(),
                size: row.size,
                media_type: String::new(),
            }],
            nonce: nonce.to_string(),
            facts: execution.to_string(),
            content: content.map(sha),
            media_type: content.map(|content| media_type(content).to_owned()),
            has_text: true,
            warnings: Vec::new(),
            used: Used::default(),
            outcome: last.then_some(Outcome::Complete),
        })
    }

    /// The object that a file holds by reference.
    fn held_object(&self, file: FileRef) -> Option<Object> {
        self.committed(|tables| {
            let results = tables.results.values().rev();
            let mut uploads = results.filter(|row| row.file == file && row.stage == Stage::Upload);
            let maker = uploads.next()?.maker();
            let mut finals = self.finals.range((maker.file, 0)..=(maker.file, u8::MAX));
            finals.next_back().map(|(_, object)| object.clone())
        })
    }

    fn finish_calls_of(&mut self, at: usize) {
        let version = self.version(self.processes[at].stage);
        let mut recorded = Vec::new();
        let mut violations = Vec::new();
        let mut noted = false;
        let mut dropped = Vec::new();
        let now = self.now();
        let process = &mut self.processes[at];
        for held in &mut process.held {
            if let Some((positions, answer)) = &mut held.leasing
                && let Some(answer) = answered(answer)
            {
                if let Some(Ok(granted)) = answer {
                    noted = true;
                    for (position, granted) in positions.iter().zip(granted) {
                        held.works[*position].1 =
                            granted.map_or(Work::Done, |granted| Work::Granted(granted, now));
                    }
                    let finished = |(_, work): &(Pair, Work)| matches!(work, Work::Done);
                    if planted!(MessageDroppedUnfinished) && held.works.iter().any(finished) {
                        held.acknowledged = true;
                        dropped.push(held.entry.id);
                    }
                }
                held.leasing = None;
            }
            if let Some((positions, report, answer)) = &mut held.reporting
                && let Some(answer) = answered(answer)
            {
                if let Some(Ok(verdicts)) = answer {
                    for ((position, verdict), outcome) in
                        positions.iter().zip(verdicts).zip(&report.outcomes)
                    {
                        held.works[*position].1 = Work::Done;
                        recorded.push((outcome.clone(), verdict));
                    }
                    if planted!(MessageDroppedUnfinished) && held.works.len() > positions.len() {
                        held.acknowledged = true;
                        dropped.push(held.entry.id);
                    }
                }
                held.reporting = None;
            }
        }
        if let Some((pairs, answer)) = &mut process.renewing
            && let Some(answer) = answered(answer)
        {
            if let Some(Ok(kept)) = answer {
                for (pair, kept) in pairs.iter().zip(kept) {
                    if kept {
                        self.signs.insert(*pair, now);
                        continue;
                    }
                    // Superseded: its handler is stopped.
                    for held in &mut process.held {
                        for (held, work) in &mut held.works {
                            if held == pair && matches!(work, Work::Granted(..)) {
                                *work = Work::Done;
                            }
                        }
                    }
                }
            }
            process.renewing = None;
        }
        if let Some(answer) = &mut process.releasing
            && let Some(answer) = answered(answer)
        {
            if let Some(Ok(())) = answer {
                let stage = process.stage;
                for held in process.held.drain(..) {
                    dropped.push(held.entry.id);
                }
                for id in dropped.drain(..) {
                    self.streams.acknowledge(stage, id);
                }
            }
            self.processes[at].releasing = None;
        }
        let stage = self.processes[at].stage;
        for id in dropped {
            self.streams.acknowledge(stage, id);
        }
        if noted {
            self.leader.leases.noted(&version);
        }
        for ((file, token, outcome), verdict) in recorded {
            self.told(stage, file, token, &outcome, verdict, &mut violations);
        }
        self.violations.append(&mut violations);
    }

    /// A process was told whether its outcome is recorded.
    fn told(
        &mut self,
        stage: Stage,
        file: FileRef,
        token: Token,
        outcome: &StageOutcome,
        verdict: bool,
        violations: &mut Vec<String>,
    ) {
        if !verdict {
            return;
        }
        let is_there = self.committed(|tables| match outcome {
            Ok(_) => {
                let mut results = tables.results.values();
                results.any(|row| (row.file, row.token) == (file, token))
            }
            Err(_) => tables.attempts.contains_key(&(file, token)),
        });
        if !is_there {
            violations.push(format!(
                "{file} token {token} was answered RECORDED and is not"
            ));
        }
        if stage == Stage::Upload && outcome.is_ok() {
            // The bytes that this execution has read, never newer ones.
            let target = self.committed(|tables| {
                let result = tables
                    .results
                    .values()
                    .find(|row| (row.file, row.token) == (file, token));
                result.map(|_| tables.files[&file].target)
            });
            if let Some(target) = target {
                self.deletes.push((file, target));
            }
        }
    }

    fn renew(&mut self, at: usize) -> bool {
        let process = &self.processes[at];
        let held: Vec<Pair> = process.granted().collect();
        if held.is_empty() || process.renewing.is_some() {
            return false;
        }
        let answer = self.leader.ask(Renew { held: held.clone() });
        self.processes[at].renewing = Some((held, answer));
        true
    }

    fn release(&mut self) {
        let at = self.dice.random_range(0..self.processes.len());
        let process = &self.processes[at];
        let busy = |held: &Held| held.leasing.is_some() || held.reporting.is_some();
        if process.releasing.is_some() || process.held.is_empty() || process.held.iter().any(busy) {
            return;
        }
        let works = process.held.iter().flat_map(|held| &held.works);
        let undone = works.filter(|(_, work)| !matches!(work, Work::Done));
        let held: Vec<Pair> = undone.map(|(pair, _)| *pair).collect();
        self.note(|| format!("a process drains: {}", short(&held)));
        let answer = self.leader.ask(Release { held });
        self.processes[at].releasing = Some(answer);
    }

    fn kill(&mut self, at: usize) {
        let process = self.processes.remove(at);
        self.note(|| format!("a process of {} is killed", process.stage));
        for held in &process.held {
            for (pair, _) in &held.works {
                // Nobody gives a sign for it any more.
                self.signs.remove(pair);
            }
        }
        self.start_process(process.stage);
        // At the same place, so that the dice choose among as many.
        let started = self.processes.len() - 1;
        self.processes.swap(at, started);
    }

    fn late_report(&mut self) {
        if self.old_reports.is_empty() {
            return;
        }
        let at = self.dice.random_range(0..self.old_reports.len());
        let report = self.old_reports[at].clone();
        let answer = self.leader.ask(report.clone());
        self.late.push((report, answer));
    }

    fn finish_late_reports(&mut self) {
        self.finish_probes();
        let mut violations = Vec::new();
        for (report, mut answer) in std::mem::take(&mut self.late) {
            match answered(&mut answer) {
                None => self.late.push((report, answer)),
                Some(Some(Ok(verdicts))) => {
                    for ((file, token, outcome), verdict) in report.outcomes.iter().zip(verdicts) {
                        let quiet = Stage::Metadata;
                        self.told(quiet, *file, *token, outcome, verdict, &mut violations);
                    }
                }
                Some(_) => {}
            }
        }
        self.violations.append(&mut violations);
    }

    fn delete_landing(&mut self) {
        if !self.deletes.is_empty() {
            let at = self.dice.random_range(0..self.deletes.len());
            let key = self.deletes.swap_remove(at);
            self.note(|| {
                format!(
                    "landing {}/{} is freed",
                    short(&[(key.0, Token::FIRST)]),
                    key.1.get()
                )
            });
            self.landing.remove(&key);
        }
    }

    // Clients

    fn client_step(&mut self) {
        let at = self.dice.random_range(0..self.clients.len());
        self.step_client(at);
    }

    /// Moves a client on; whether anything happened.
    fn step_client(&mut self, at: usize) -> bool {
        if self.finish_call_of(at) {
            return true;
        }
        if self.clients[at].call.is_some() {
            return false;
        }
        let client = &self.clients[at];
        let Some(batch) = client.created else {
            let create = CreateBatch {
                batch: client.batch,
                request: client.create.clone(),
                name: String::new(),
                options: "{}".into(),
                metadata: None,
                priority: 2,
                stages: StageSet::all(),
                starts_when_completed: client.starts_when_completed,
                created_by: String::new(),
            };
            // The server names each batch that is made anew.
            let named = BatchRef::new(client.batch.tenant, BatchId::from_uuid(self.id()));
            let answer = self.leader.ask(CreateBatch {
                batch: named,
                ..create
            });
            self.clients[at].call = Some(Call::Create(answer));
            return true;
        };
        let repeats = self.faults && self.one_in(8);
        let client = &self.clients[at];
        let missing = client.added.iter().position(Option::is_none);
        let page = missing.or_else(|| repeats.then_some(0));
        if let Some(page) = page.filter(|_| !client.gives_up) {
            let (request, planned) = &client.pages[page];
            let entries = planned.iter().map(|planned| {
                NewEntry::File(NewFile {
                    parent: planned.parent.clone(),
                    name: planned.name.clone(),
                    size: planned.size,
                    sha256: planned.declared.then(|| sha(planned.content)),
                    media_type_hint: None,
                    metadata: None,
                    modified_at: None,
                })
            });
            let add = AddEntries {
                batch,
                request: request.clone(),
                knows_one_batch: false,
                entries: entries.collect(),
                folders: 1,
                path_bytes: 10,
            };
            let answer = self.leader.ask(add);
            self.clients[at].call = Some(Call::Add(page, answer));
            return true;
        }
        if self.upload_some(at, batch) {
            return true;
        }
        // Who has no bytes for what is asked of him gives it up again.
        let waits = !self.faults && self.clients[at].completed && self.waits_for_bytes(batch);
        if waits {
            self.clients[at].complete = self.key("CompleteBatch");
        }
        let client = &self.clients[at];
        if (!client.completed || repeats || waits) && !client.gives_up {
            let complete = CompleteBatch {
                batch,
                request: client.complete.clone(),
                missing_fails: client.missing_fails,
                expected_entries: 0,
            };
            let answer = self.leader.ask(complete);
            self.clients[at].call = Some(Call::Batch("complete", answer));
            return true;
        }
        false
    }

    fn waits_for_bytes(&self, batch: BatchRef) -> bool {
        self.committed(|tables| {
            let row = tables.batches.get(&batch);
            row.is_some_and(|row| row.0.uploads_open && !row.0.missing_fails)
        })
    }

    /// Puts and confirms the bytes of some files that wait for them; now and then such as were put before.
    fn upload_some(&mut self, at: usize, batch: BatchRef) -> bool {
        let span = batch.file(0)..=batch.file(u32::MAX);
        let waiting: Vec<(u32, Target, u64)> = self.committed(|tables| {
            let rows = tables.files.range(span).map(|(_, row)| row);
            let waiting = rows.filter(|row| row.state == FileState::Pending);
            waiting
                .map(|row| (row.file.ordinal, row.target, row.size))
                .collect()
        });
        let cancelled = self.committed(|tables| {
            tables
                .batches
                .get(&batch)
                .is_none_or(|row| row.0.facts.cancel_requested)
        });
        let mut uploads = Vec::new();
        if !cancelled {
            for (ordinal, target, size) in waiting {
                let Some(planned) = self.clients[at].planned(ordinal).cloned() else {
                    continue;
                };
                if planned.nature == Nature::Missing || (self.faults && self.one_in(3)) {
                    continue;
                }
                let wrong = planned.nature == Nature::WrongSize && target == Target::FIRST;
                let object = Object {
                    content: planned.content,
                    size: size + u64::from(wrong),
                    etag: format!("{}-{wrong}", planned.content),
                };
                self.clients[at]
                    .puts
                    .push((ordinal, target, object.etag.clone()));
                self.landing.insert((batch.file(ordinal), target), object);
                // It may die before it confirms.
                if !(self.faults && self.one_in(6)) {
                    uploads.push(self.clients[at].puts.last().cloned());
                }
            }
        }
        let puts = &self.clients[at].puts;
        if !puts.is_empty() && self.dice.random_ratio(1, 6) {
            let number = self.dice.random_range(0..puts.len());
            uploads.push(puts.get(number).cloned());
        }
        let mut named = BTreeSet::new();
        let uploads: Vec<ConfirmedUpload> = uploads
            .into_iter()
            .flatten()
            .filter(|(ordinal, ..)| named.insert(*ordinal))
            .map(|(ordinal, target, etag)| ConfirmedUpload {
                ordinal,
                target,
                etag,
            })
            .collect();
        if uploads.is_empty() {
            return false;
        }
        let confirm = ConfirmUploads {
            batch,
            request: self.key("ConfirmUploads"),
            uploads,
        };
        let answer = self.leader.ask(confirm);
        self.clients[at].call = Some(Call::Confirm(answer));
        true
    }

    fn finish_call_of(&mut self, at: usize) -> bool {
        let Some(call) = self.clients[at].call.take() else {
            return false;
        };
        let mut violation = None;
        let client = &mut self.clients[at];
        let (finished, refusal) = match call {
            Call::Create(mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Create(answer));
                    return false;
                }
                Some(Some(Ok(batch))) => {
                    let id = caudal_domain::names::parse_batch_name(&batch.name).ok();
                    let named = id.map(|id| BatchRef::new(client.batch.tenant, id));
                    if client.created.is_some() && client.created != named {
                        violation = Some(format!("a repeated CreateBatch was answered {named:?}"));
                    }
                    client.created = named;
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
            Call::Add(page, mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Add(page, answer));
                    return false;
                }
                Some(Some(Ok(added))) => {
                    let before = client.added[page].replace(added.clone());
                    if before.is_some_and(|before| before != added) {
                        violation = Some("a repeated page was answered otherwise".to_owned());
                    }
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
            Call::Confirm(mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Confirm(answer));
                    return false;
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(_) => (true, None),
            },
            Call::Batch(what, mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Batch(what, answer));
                    return false;
                }
                Some(Some(Ok(_))) => {
                    client.completed |= what == "complete";
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
        };
        if refusal.is_some() {
            // Cancelled, completed or full: there is nothing more to bring.
            client.gives_up = true;
        }
        self.violations.extend(violation);
        finished
    }

    // Operators

    fn any_batch(&mut self) -> Option<BatchRef> {
        let created: Vec<BatchRef> = self
            .clients
            .iter()
            .filter_map(|client| client.created)
            .collect();
        if created.is_empty() {
            return None;
        }
        Some(created[self.dice.random_range(0..created.len())])
    }

    fn operator(&mut self) {
        let Some(batch) = self.any_batch() else {
            return;
        };
        let client = self
            .clients
            .iter()
            .position(|client| client.created == Some(batch));
        let Some(at) = client else { return };
        match self.dice.random_range(0..13_u32) {
            11..=12 => self.come_too_late(at, batch),
            0 => {
                let request = self.key("CancelBatch");
                self.cancelled.insert(batch);
                self.note(|| format!("batch {:x} is cancelled", batch.batch.as_uuid().as_u128()));
                let answer = self.leader.ask(CancelBatch { batch, request });
                self.follow(at, "cancel", answer);
            }
            1..=2 => self.pause(at, batch, true),
            3 => self.pause(at, batch, false),
            4 => {
                let request = self.key("UpdateBatch");
                let changes = Renamed {
                    priority: Some(self.dice.random_range(1..4)),
                    ..Renamed::default()
                };
                let update = UpdateBatch {
                    batch,
                    request,
                    changes,
                };
                let answer = self.leader.ask(update);
                self.follow(at, "update", answer);
            }
            5 => {
                let running = self.committed(|tables| {
                    let mut running = tables.operations.values();
                    running
                        .find(|row| row.state == OperationState::Running)
                        .map(|row| (row.tenant, row.id))
                });
                if let Some((tenant, operation)) = running {
                    let state = OperationState::Cancelled;
                    let end = EndOperation {
                        tenant,
                        operation,
                        state,
                    };
                    let answer = self.leader.ask(end);
                    self.ended.push(answer);
                }
            }
            _ => self.start_operation(batch),
        }
    }

    /// Only one call of a client is followed at a time.
    fn follow(&mut self, at: usize, what: &'static str, answer: Answered<Batch>) {
        if self.clients[at].call.is_none() {
            self.clients[at].call = Some(Call::Batch(what, answer));
        }
    }

    /// Brings entries to a completed manifest, and bytes to a cancelled batch.
    fn come_too_late(&mut self, at: usize, batch: BatchRef) {
        let facts = self.committed(|tables| tables.batches.get(&batch).map(|row| row.0.facts));
        let Some(facts) = facts else { return };
        if facts.manifest_complete {
            let number = self.next_id;
            let entry = NewEntry::File(NewFile {
                parent: String::new(),
                name: format!("late{number}"),
                size: 1,
                sha256: None,
                media_type_hint: None,
                metadata: None,
                modified_at: None,
            });
            let add = AddEntries {
                batch,
                request: self.key("AddEntries"),
                knows_one_batch: false,
                entries: vec![entry],
                folders: 1,
                path_bytes: 10,
            };
            let answer = self.leader.ask(add);
            self.probes.push(Probe::Entries(answer));
        }
        let put = self.clients[at].puts.first().cloned();
        if let Some((ordinal, target, etag)) = put.filter(|_| facts.cancel_requested) {
            let confirm = ConfirmUploads {
                batch,
                request: self.key("ConfirmUploads"),
                uploads: vec![ConfirmedUpload {
                    ordinal,
                    target,
                    etag,
                }],
            };
            let answer = self.leader.ask(confirm);
            self.probes.push(Probe::Bytes(answer));
        }
    }

    fn finish_probes(&mut self) {
        let mut taken = Vec::new();
        self.probes.retain_mut(|probe| match probe {
            Probe::Entries(answer) => match answered(answer) {
                Some(Some(Ok(_))) => {
                    taken.push("a completed manifest took entries".to_owned());
                    false
                }
                answer => answer.is_none(),
            },
            Probe::Bytes(answer) => match answered(answer) {
                Some(Some(Ok(_))) => {
                    taken.push("a cancelled batch took bytes".to_owned());
                    false
                }
                answer => answer.is_none(),
            },
        });
        self.violations.append(&mut taken);
    }

    fn pause(&mut self, at: usize, batch: BatchRef, paused: bool) {
        let request = self.key("SetPause");
        let pause = paused.then(|| NewPause {
            who: "simulation".into(),
            note: String::new(),
        });
        self.note(|| {
            format!(
                "batch {:x} is paused: {paused}",
                batch.batch.as_uuid().as_u128()
            )
        });
        let answer = self.leader.ask(SetPause {
            batch,
            request,
            pause,
        });
        self.follow(at, "pause", answer);
    }

    fn start_operation(&mut self, batch: BatchRef) {
        let from = self.any_stage();
        let verb = match self.dice.random_range(0..9_u32) {
            0 => FileVerb::Cancel,
            1..=4 => FileVerb::Retry {
                skip_backoff: self.one_in(2),
            },
            5..=7 => FileVerb::Reprocess {
                from,
                force: self.one_in(2),
            },
            _ => FileVerb::Dismiss,
        };
        if verb == FileVerb::Cancel {
            self.cancelled.insert(batch);
        }
        self.note(|| format!("{verb:?} of {:x}", batch.batch.as_uuid().as_u128()));
        let request = self.key("Bulk");
        let id = self.id();
        let start = StartOperation {
            tenant: batch.tenant,
            id,
            request: request.clone(),
            verb,
            selector: batch.batch.as_bytes().to_vec(),
            matched: 0,
            max_count: 0,
            requested_by: String::new(),
            by_operator: false,
        };
        let answer = self.leader.ask(start);
        self.started.push((request, answer));
    }

    /// The next slice of an operation that goes on; whether there was any.
    fn operation_slice(&mut self) -> bool {
        if let Some(answer) = &mut self.sliced {
            if answered(answer).is_none() {
                return false;
            }
            self.sliced = None;
        }
        let most = self.dice.random_range(1..4);
        let slice = self.committed(|tables| {
            let mut running = tables.operations.values();
            let row = running.find(|row| row.state == OperationState::Running)?;
            let batch = BatchRef::new(row.tenant, BatchId::from_slice(&row.selector).ok()?);
            let from = row.cursor.map_or(0, |position| position.ordinal);
            let span = batch.file(from)..=batch.file(u32::MAX);
            let files: Vec<FileRef> = tables
                .files
                .range(span)
                .map(|(file, _)| *file)
                .take(most + 1)
                .collect();
            let next = files.get(most).copied();
            let files: Vec<FileRef> = files.into_iter().take(most).collect();
            let given_up = |file: &&FileRef| {
                let row = &tables.files[*file];
                row.state == FileState::Failed && row.reason == Some(Reason::NeverArrived)
            };
            let retries = matches!(row.verb, FileVerb::Retry { .. });
            let arrived = files.iter().filter(given_up).filter_map(|file| {
                let row = &tables.files[file];
                let object = self.landing.get(&(*file, row.target))?;
                (retries && object.size == row.size).then(|| FoundBytes {
                    file: *file,
                    target: row.target,
                    etag: object.etag.clone(),
                })
            });
            Some(ApplySlice {
                tenant: row.tenant,
                operation: row.id,
                arrived: arrived.collect(),
                files,
                cursor: next.map(|file| Position {
                    batch: file.batch,
                    ordinal: file.ordinal,
                }),
                ended: next.is_none(),
            })
        });
        let Some(slice) = slice else { return false };
        let answer = self.leader.ask(slice);
        self.sliced = Some(answer);
        true
    }

    // The reconciler

    fn reconcile_step(&mut self) {
        self.finish_late_reports();
        match self.dice.random_range(0..6_u32) {
            0 => self.sweep(),
            1 => self.remove_superseded(),
            2 => {
                self.end_batches();
            }
            3 if self.one_in(8) => {
                let first = self.leader.ask(Prune);
                let second = self.leader.ask(PruneOperations);
                self.ended.extend([first, second]);
            }
            _ => {
                self.pass_step();
            }
        }
    }

    fn sweep(&mut self) {
        let own = crate::store::outbox::outbox_id(self.leader.memory.epoch, 0);
        let before = self.now().minus(self.settings.reconcile_age);
        let left = self.committed(|tables| {
            let rows = tables.outbox.values();
            let left = rows.filter(|(row, at)| {
                let dead = row.id < own;
                (dead || *at <= before) && !(dead && planted!(DeadLedgersOutboxLeft))
            });
            left.map(|(row, _)| (**row).clone()).collect()
        });
        self.leader.relay.publish(left);
    }

    /// Rows first, streams second, write last (protocol 8.1); whether anything happened.
    fn pass_step(&mut self) -> bool {
        match self.pass.take() {
            None => {
                let before = self.now().minus(self.settings.reconcile_age);
                let held = self.leader.old_pairs(before);
                if held.is_empty() {
                    return false;
                }
                let answer = self.leader.ask(LookUp { held });
                self.pass = Some(Pass::Looking(answer));
            }
            Some(Pass::Looking(mut answer)) => match answered(&mut answer) {
                None => {
                    self.pass = Some(Pass::Looking(answer));
                    return false;
                }
                Some(Some(Ok(looked))) => self.pass = Some(Pass::Judged(looked)),
                Some(_) => {}
            },
            Some(Pass::Judged(looked)) => {
                let candidates = rules::candidates(&looked, self.settings.reconcile_age);
                let now = self.now();
                let messages = Stage::ALL.into_iter();
                let messages = messages.map(|stage| (stage, self.streams.messages(stage, now)));
                let repairs = rules::judge(
                    &candidates,
                    &messages.collect(),
                    looked.now,
                    self.settings.lease,
                );
                self.check_repairs(&repairs, &looked);
                if !(repairs.redispatch.is_empty() && repairs.kill.is_empty()) {
                    self.note(|| {
                        let killed = repairs.kill.iter().map(|(file, token, _)| (*file, *token));
                        let killed: Vec<Pair> = killed.collect();
                        format!(
                            "sent again: {}; killed: {}",
                            short(&repairs.redispatch),
                            short(&killed)
                        )
                    });
                    let answer = self.leader.ask(repairs);
                    self.pass = Some(Pass::Repairing(answer));
                }
            }
            Some(Pass::Repairing(mut answer)) => {
                if answered(&mut answer).is_none() {
                    self.pass = Some(Pass::Repairing(answer));
                    return false;
                }
            }
        }
        true
    }

    /// Nothing is charged, and nothing sent out again, that was not lost.
    fn check_repairs(&mut self, repairs: &Repair, looked: &LookedUp) {
        let now = self.now();
        let lease = self.settings.lease;
        let mut violations = Vec::new();
        for pair in &repairs.redispatch {
            let row = looked
                .rows
                .iter()
                .find(|row| (row.file, row.token) == *pair);
            // What moved on since it was looked at is left alone by the writer.
            let moved_on = self.committed(|tables| tables.files[&pair.0].token != pair.1);
            let Some(row) = row.filter(|_| !moved_on) else {
                continue;
            };
            let idle = self.streams.finds(row.stage, *pair, now);
            let unread = matches!(idle, Some(Some(idle)) if idle >= lease);
            let lost = self.streams.lost.contains(pair) && idle.is_none();
            let alive = self
                .signs
                .get(pair)
                .is_some_and(|sign| now.since(*sign) < lease);
            let leased = row.lease_until.is_some_and(|until| until >= looked.now);
            if leased && alive {
                violations.push(format!("{pair:?} is sent out again while its lease lives"));
            } else if !lost && !unread {
                violations.push(format!("{pair:?} is sent out again and was never lost"));
            }
        }
        let kills = repairs.kill.iter();
        for (file, token, cause) in kills.filter(|(.., cause)| *cause == KillCause::NeverRenewed) {
            // What moved on or was renewed since it was looked at is left alone by the writer.
            let moved_on = self.committed(|tables| {
                let row = &tables.files[file];
                row.token != *token || row.lease_until.is_some()
            });
            let sign = self.signs.get(&(*file, *token)).filter(|_| !moved_on);
            if sign.is_some_and(|sign| now.since(*sign) < lease) {
                violations.push(format!(
                    "{file} token {token} is killed ({cause:?}) and its process lives"
                ));
            }
        }
        self.violations.append(&mut violations);
    }

    fn remove_superseded(&mut self) {
        for stage in Stage::ALL {
            let superseded: Vec<Entry> = self.committed(|tables| {
                let entries = self.streams.entries(stage).iter();
                let superseded = entries.filter(|entry| {
                    let files = entry
                        .files
                        .iter()
                        .filter_map(|(file, _)| tables.files.get(file));
                    let out = files.filter(|row| row.dispatched_at.is_some());
                    let current = out.map(|row| (row.file, row.token)).collect();
                    rules::is_superseded(&entry.files, &current) || planted!(CurrentMessageRemoved)
                });
                superseded.cloned().collect()
            });
            for entry in superseded {
                self.streams.acknowledge(stage, entry.id);
            }
        }
    }

    /// Whether there was anything to end.
    fn end_batches(&mut self) -> bool {
        self.endings.retain_mut(|answer| answered(answer).is_none());
        if !self.endings.is_empty() {
            return false;
        }
        let ending: Vec<(BatchRef, bool)> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let live = rows.filter(|row| !row.state.is_ended());
            let ending = live.filter(|row| row.facts.cancel_requested || row.missing_fails);
            ending
                .map(|row| (row.key(), row.facts.cancel_requested))
                .collect()
        });
        let idle: Vec<BatchRef> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let open = rows.filter(|row| row.state == BatchState::Open);
            open.map(crate::store::progress::ProgressRow::key).collect()
        });
        for batch in idle {
            let answer = self.leader.ask(CompleteIdle { batch });
            self.ended.push(answer);
        }
        self.ended.retain_mut(|answer| answered(answer).is_none());
        for (batch, cancelled) in &ending {
            let (batch, from) = (*batch, 0);
            let answer = if *cancelled {
                self.leader.ask(CancelFiles { batch, from })
            } else {
                self.leader.ask(FailMissing { batch, from })
            };
            self.endings.push(answer);
        }
        !ending.is_empty()
    }

    // Rest

    /// No more faults: everything that waits is done, in turns, until nothing happens any more.
    fn come_to_rest(&mut self) {
        self.note(|| "no more faults".into());
        self.faults = false;
        {
            let mut database = self.shared.borrow_mut();
            database.next_commit = CommitFate::Committed;
            database.fails_after = None;
        }
        self.deposed = None;
        for round in 0..ROUNDS {
            if self.is_at_rest() {
                break;
            }
            if round % 60 == 0 {
                self.resume_all();
            }
            self.round();
            self.check_commits();
            if !self.violations.is_empty() {
                return;
            }
            let due = self.leader.memory.dispatcher.next_promotion();
            let far = due
                .filter(|_| self.leader.is_idle())
                .map(|at| at.since(self.now()));
            let by = far.unwrap_or_default().min(Duration::from_secs(400));
            self.tick(by.max(Duration::from_secs(1)));
        }
        self.check_rest();
    }

    fn resume_all(&mut self) {
        for at in 0..self.clients.len() {
            if let Some(batch) = self.clients[at].created {
                let paused = self.committed(|tables| {
                    tables
                        .batches
                        .get(&batch)
                        .is_some_and(|row| row.0.pause.is_some())
                });
                if paused {
                    self.pause(at, batch, false);
                }
            }
        }
    }

    fn round(&mut self) {
        if self.leader.lost {
            self.lead_anew(false);
        }
        for at in 0..self.clients.len() {
            self.step_client(at);
        }
        self.operation_slice();
        self.started
            .retain_mut(|(_, answer)| answered(answer).is_none());
        self.finish_late_reports();
        self.sweep();
        self.pass_step();
        self.end_batches();
        self.remove_superseded();
        for _ in 0..4 {
            self.leader
                .group(&self.shared, VERBS_A_GROUP, &mut self.dice);
            if self.leader.is_idle() {
                break;
            }
        }
        self.leader.settle_all(&self.shared, &mut self.dice);
        self.relay();
        let mut at = 0;
        while at < self.processes.len() {
            for _ in 0..6 {
                if !self.step_process(at) {
                    break;
                }
            }
            self.renew(at);
            at += 1;
        }
        // The delete of what landed is delayed, and may come late.
        for _ in 0..self.deletes.len() {
            if self.one_in(4) {
                self.delete_landing();
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let ended = self.committed(|tables| {
            let batches = tables.batches.values().all(|row| row.0.state.is_ended());
            let mut operations = tables.operations.values();
            batches
                && tables.outbox.is_empty()
                && operations.all(|row| row.state != OperationState::Running)
        });
        let clients = self.clients.iter().all(|client| {
            let brought = client.completed || client.gives_up;
            client.created.is_some() && brought && client.call.is_none()
        });
        let places = Stage::ALL
            .into_iter()
            .map(|stage| self.leader.places(stage));
        ended && clients && places.sum::<u32>() == 0 && self.leader.is_idle()
    }

    fn check_commits(&mut self) {
        self.tell_commits();
        let mut found = std::mem::take(&mut self.shared.borrow_mut().found);
        found.append(&mut self.leader.defects);
        self.violations.append(&mut found);
    }

    fn check_rest(&mut self) {
        if !self.is_at_rest() {
            let words = self.committed(|tables| {
                let live = tables
                    .batches
                    .values()
                    .filter(|row| !row.0.state.is_ended());
                let live = live.map(|row| {
                    format!(
                        "{} is {}: {:?}",
                        row.0.key(),
                        row.0.state,
                        row.0.facts.counts
                    )
                });
                let files = tables.files.values().filter(|row| !row.state.is_final());
                let files = files.map(|row| format!("{row:?}"));
                live.chain(files).collect::<Vec<String>>().join("\n  ")
            });
            let places: Vec<u32> = Stage::ALL.map(|stage| self.leader.places(stage)).into();
            let clients = self.clients.iter().map(|client| {
                let calls = client.call.is_some();
                let made = client.created.is_some();
                format!(
                    "({made}, {}, {}, {calls})",
                    client.completed, client.gives_up
                )
            });
            let clients: Vec<String> = clients.collect();
            let running = self.committed(|tables| {
                let mut rows = tables.operations.values();
                rows.find(|row| row.state == OperationState::Running)
                    .map(|row| format!("{row:?}"))
            });
            self.breaks(format!(
                "it never comes to rest: outbox {}, idle {}, places {places:?}, clients {clients:?}, \
                 running {running:?}\n  {words}",
                self.committed(|tables| tables.outbox.len()),
                self.leader.is_idle()
            ));
            return;
        }
        let (report, made) =
            self.committed(|tables| (super::invariants::check(tables), tables.batches.len()));
        self.violations.extend(report);
        if made != self.clients.len() {
            self.breaks(format!(
                "{} clients made {made} batches",
                self.clients.len()
            ));
        }
        let mut violations = Vec::new();
        let ends: Vec<Arc<crate::store::work::WorkRow>> =
            self.committed(|tables| tables.files.values().cloned().collect());
        for row in ends {
            self.check_end(&row, &mut violations);
        }
        self.violations.append(&mut violations);
    }

    /// Whether a file may have ended so.
    fn check_end(&self, row: &crate::store::work::WorkRow, violations: &mut Vec<String>) {
        let nature = self.nature(row.file);
        match row.state {
            FileState::Cancelled if !self.cancelled.contains(&row.file.batch_ref()) => {
                violations.push(format!("{} is CANCELLED and nobody asked for it", row.file));
            }
            FileState::Failed => {
                let right = match row.reason {
                    Some(Reason::NeverArrived | Reason::TooManyKills) => true,
                    Some(Reason::StageTimeout) => nature == Nature::Hopeless,
                    Some(Reason::CorruptDocument) => nature == Nature::Broken,
                    Some(Reason::ParserCrashed) => nature == Nature::Poison,
                    Some(Reason::SizeMismatch) => nature == Nature::WrongSize,
                    Some(Reason::ChecksumMismatch) => nature == Nature::Spoilt,
                    _ => false,
                };
                if !right {
                    violations.push(format!(
                        "{} ({nature:?}) is FAILED: {:?}",
                        row.file, row.reason
                    ));
                }
            }
            FileState::Processed => self.check_processed(row, violations),
            _ => {}
        }
    }

    /// What a PROCESSED file refers to is what its recorded executions made.
    fn check_processed(&self, row: &crate::store::work::WorkRow, violations: &mut Vec<String>) {
        let results: Vec<Arc<ResultRow>> = self.committed(|tables| {
            let results = tables.results.values();
            let own = results
                .filter(|result| (result.file, result.generation) == (row.file, row.generation));
            own.cloned().collect()
        });
        for stage in [Stage::Upload, Stage::Metadata] {
            if !results.iter().any(|result| result.stage == stage) {
                violations.push(format!(
                    "{} is PROCESSED without a result of {stage}",
                    row.file
                ));
            }
        }
        for result in results.iter().filter(|result| !result.skipped) {
            let maker = result.maker();
            let key = format!(
                "{}/{}/{}/{}-{}",
                maker.file,
                maker.generation.get(),
                result.stage,
                maker.token,
                maker.nonce
            );
            if maker.file.tenant != row.file.tenant {
                violations.push(format!("{} has what another tenant made", row.file));
            }
            let made = self.artifacts.get(&key).map(u64::to_string);
            if made.as_ref() != Some(&result.facts) {
                violations.push(format!(
                    "{}: {key} holds what execution {made:?} made, recorded is {}",
                    row.file, result.facts
                ));
            }
        }
    }
}
