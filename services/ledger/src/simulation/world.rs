//! The world around the core: clients, stage processes, Redis, an object store, operators and the other ledgers, moved by
//! one scheduler whose dice are seeded. What it does is the same each time; what must hold is checked at every commit and,
//! once the faults have ended and everything has come to rest, on all that is left.

mod clients;
mod gateways;
mod operators;
mod processes;
mod reconciler;
mod redis;
mod rest;
mod stages;
mod tenancy;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{
    BatchId, BatchRef, BatchState, FileRef, FileState, Generation, Outcome, Reason, Refusal, Stage,
    StageSet, StageVersion, Target, TenantId, Token,
};
use caudal_node::scope::MeshSecret;
use caudal_proto::v1::Batch;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot::error::TryRecvError;
use uuid::Uuid;

use self::gateways::TusUpload;
use self::tenancy::{TenancyAct, Waking};
use super::database::{CommitFate, Database, Shared, Tables};
use super::ledger::{SimLedger, VERSIONS};
use super::steps::{Asked, provider_wait};
use super::streams::{Entry, Pair, Streams};
use crate::leader::rules;
use crate::memory::costs::Cost;
use crate::memory::lease_cache::{Declared, Granted, Inputs};
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::operations::{FileVerb, OperationState};
use crate::store::progress::{ProgressRow, Renamed};
use crate::store::results::{ResultRow, StoredArtifact, Used};
use crate::store::selection::Position;
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::store::tus::{TusRow, TusState, UnderWay};
use crate::store::work::WorkRow;
use crate::writer::core::Answered;
use crate::writer::manifest_page::{ManifestPage, NewEntry, NewFile};
use crate::writer::request_key::RequestKey;
use crate::writer::verbs::add_entries::{AddEntries, AddedEntries};
use crate::writer::verbs::advance_tus::AdvanceTus;
use crate::writer::verbs::apply_slice::{ApplySlice, FoundBytes};
use crate::writer::verbs::cancel_batch::CancelBatch;
use crate::writer::verbs::cancel_files::CancelFiles;
use crate::writer::verbs::complete_batch::CompleteBatch;
use crate::writer::verbs::complete_idle::CompleteIdle;
use crate::writer::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};
use crate::writer::verbs::create_batch::CreateBatch;
use crate::writer::verbs::create_tus::CreateTus;
use crate::writer::verbs::end_operation::EndOperation;
use crate::writer::verbs::end_tus::EndTus;
use crate::writer::verbs::keep_uploading::KeepUploading;
use crate::writer::verbs::lease::Lease;
use crate::writer::verbs::leave_out::{LeaveOut, LeftOut};
use crate::writer::verbs::lock_tus::LockTus;
use crate::writer::verbs::look_up::{LookUp, LookedUp};
use crate::writer::verbs::mark_collected::MarkCollected;
use crate::writer::verbs::prune::Prune;
use crate::writer::verbs::prune_operations::PruneOperations;
use crate::writer::verbs::release::Release;
use crate::writer::verbs::renew::Renew;
use crate::writer::verbs::repair::{KillCause, Repair};
use crate::writer::verbs::report::{BadResult, GoodResult, Report, Reported, StageOutcome};
use crate::writer::verbs::set_pause::{NewPause, SetPause};
use crate::writer::verbs::settle_missing::{AskedUpload, SettleMissing};
use crate::writer::verbs::start_operation::StartOperation;
use crate::writer::verbs::update_batch::UpdateBatch;

/// Verbs that one group takes at most: few, so that many groups meet, or as many as wait.
const VERBS_A_GROUP: [usize; 3] = [6, 24, 64];
/// Rounds without faults in which everything must come to rest.
const ROUNDS: u32 = 600;
/// Dispatches of an outbox row that go into one entry.
const PACKED: usize = 2;

/// Beyond the number of the last event.
const EVENTS_IN_ALL: u32 = 98;
/// One number of each kind of event.
const EMPHASES: [u32; 13] = [0, 18, 44, 62, 67, 75, 80, 84, 89, 91, 92, 93, 96];
/// How many kinds of faults there are.
const FAULTS: u32 = 15;

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
    /// It takes each process with it at its second stage.
    Deadly,
    /// Nobody uploads it.
    Missing,
    /// Its bytes are put, and nobody says so.
    Unconfirmed,
    /// The first bytes that come are of another size.
    WrongSize,
    /// Its second stage takes longer than a lease lives.
    Slow,
    /// Its second stage finds that the bytes are not what they should be, the first time.
    Spoilt,
}

const NATURES: [Nature; 15] = [
    Nature::Deadly,
    Nature::Unconfirmed,
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
    path: String,
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
    LeaveOut(Answered<caudal_proto::v1::LeaveOutFilesResponse>),
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
    Ran(Box<Reported>),
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

/// A dispatch whose lease is renewed, and whether it had moved on when that was asked for.
type Renewed = (Pair, bool);

/// A stage process.
struct Process {
    id: u64,
    stage: Stage,
    version: StageVersion,
    held: Vec<Held>,
    renewing: Option<(Vec<Renewed>, Answered<Vec<bool>>)>,
    /// A suspect whose handler begins when the renewal that says so is answered.
    beginning: Option<Pair>,
    /// Suspects of which that is known.
    begun: BTreeSet<Pair>,
    releasing: Option<Answered<()>>,
    /// For so many steps a provider has asked to be left alone.
    rests: u32,
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
    /// Uploads that come in pieces through gateways.
    uploads: Vec<TusUpload>,
    landing: BTreeMap<(FileRef, Target), Object>,
    finals: BTreeMap<(FileRef, u8), Object>,
    /// Artifacts by key, with the execution that wrote them.
    artifacts: BTreeMap<String, u64>,
    executions: u64,
    /// Landing objects whose delayed delete is due.
    deletes: Vec<(FileRef, Target)>,
    old_reports: Vec<Report>,
    old_releases: Vec<Pair>,
    /// The landing keys that executions of the upload stage read.
    sources: FxHashMap<Pair, Target>,
    late: Vec<(Report, Answered<Vec<bool>>)>,
    pass: Option<Pass>,
    sliced: Option<Answered<()>>,
    started: Vec<(RequestKey, Answered<caudal_proto::longrunning::Operation>)>,
    ended: Vec<Answered<()>>,
    endings: Vec<Answered<Option<u32>>>,
    settlings: Vec<Answered<()>>,
    /// What is done to tenants and keys.
    acts: Vec<TenancyAct>,
    /// Batches of tenants that go on.
    wakings: Vec<Waking>,
    /// Where the next slices of batches begin that are being ended.
    from: FxHashMap<BatchRef, u32>,
    /// The last sign of life of whoever holds a dispatch.
    signs: FxHashMap<Pair, Micros>,
    cancelled: BTreeSet<BatchRef>,
    spoilt: BTreeSet<FileRef>,
    faults: bool,
    /// Of a hundred events, how many are faults in this history: each history has its own weather.
    fault_share: u32,
    verbs_a_group: usize,
    /// Handlers take seconds, and those of some files are long work.
    is_heavy: bool,
    rounds: u32,
    /// The kinds of faults that this history has more of than others.
    favoured: [u32; 2],
    /// What else this history does more of than others: a number of `event`.
    emphasis: u32,
    /// For so many events Redis takes nothing.
    redis_away: u32,
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
        database.asked = Some(Asked::default());
        database.told = traced.then(Vec::new);
        database.change(|tables| {
            tables.epoch = 1;
            tenancy::begin(tables, tenants, Micros(1_000_000_000_000));
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
        let fault_share = [7, 12, 25][dice.random_range(0..3)];
        let verbs_a_group = VERBS_A_GROUP[dice.random_range(0..VERBS_A_GROUP.len())];
        let is_heavy = dice.random_ratio(1, 3);
        let favoured = [dice.random_range(0..FAULTS), dice.random_range(0..FAULTS)];
        let emphasis = EMPHASES[dice.random_range(0..EMPHASES.len())];
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
            uploads: Vec::new(),
            landing: BTreeMap::new(),
            finals: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            executions: 0,
            deletes: Vec::new(),
            old_reports: Vec::new(),
            old_releases: Vec::new(),
            sources: FxHashMap::default(),
            late: Vec::new(),
            pass: None,
            sliced: None,
            started: Vec::new(),
            ended: Vec::new(),
            endings: Vec::new(),
            settlings: Vec::new(),
            acts: Vec::new(),
            wakings: Vec::new(),
            from: FxHashMap::default(),
            signs: FxHashMap::default(),
            cancelled: BTreeSet::new(),
            spoilt: BTreeSet::new(),
            faults: true,
            fault_share,
            verbs_a_group,
            is_heavy,
            rounds: 0,
            favoured,
            emphasis,
            redis_away: 0,
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
                let parent = ["", "a/", "a/b/", "c/"][self.dice.random_range(0..4)];
                page.push(Planned {
                    path: format!("{parent}f{number}"),
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
        // Who comes later may be of the next version.
        let begun = self.next_process as usize > Stage::ALL.into_iter().count();
        let version = VERSIONS[usize::from(begun && self.one_in(2))];
        self.processes.push(Process {
            id: self.next_process,
            stage,
            version: StageVersion::new(stage, version),
            held: Vec::new(),
            renewing: None,
            beginning: None,
            begun: BTreeSet::new(),
            releasing: None,
            rests: 0,
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
        if self.redis_away > 0 {
            self.redis_away -= 1;
            self.pass_time();
        }
        if self.dice.random_range(0..100_u32) < self.fault_share {
            return self.fault();
        }
        let kind = match self.dice.random_range(0..4_u32) {
            0 => self.emphasis,
            _ => self.dice.random_range(0..EVENTS_IN_ALL),
        };
        if self.one_in(10) {
            // Work goes on between the faults, so that they meet files at every place.
            return self.round();
        }
        match kind {
            0..=17 if self.one_in(6) => self.upload_step(),
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
            93..=95 => self.run_tenants(),
            _ => self.run_stages(),
        }
    }

    fn fault(&mut self) {
        let kind = match self.dice.random_range(0..4_u32) {
            0..2 => self.favoured[self.dice.random_range(0..2)],
            _ => self.dice.random_range(0..FAULTS),
        };
        match kind {
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
                if self.one_in(2) {
                    // With the next group decided meanwhile.
                    self.group();
                    self.group();
                }
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
                // Best one whose file is out to that stage under another token by now, and begun; or one that memory
                // might mistake for a current one.
                let mistakable = self.committed(|tables| {
                    let mistakable = |stage: Stage, pair: &Pair| {
                        let row = tables.files.get(&pair.0);
                        row.filter(|row| row.token != pair.1).is_some_and(|row| {
                            let current = (row.file, row.token);
                            let known = self.leader.leases.get(&[*pair, current]);
                            known[0].is_some() || (known[1].is_some() && row.stage == stage)
                        })
                    };
                    self.streams
                        .published(|stage, files| files.iter().any(|pair| mistakable(stage, pair)))
                });
                let out_again = self.committed(|tables| {
                    let stale = |stage: Stage, (file, token): &Pair| {
                        tables.files.get(file).is_some_and(|row| {
                            let begun = row.state == FileState::Processing;
                            let out = row.dispatched_at.is_some() && begun && row.stage == stage;
                            out && row.token != *token
                        })
                    };
                    self.streams
                        .published(|stage, files| files.iter().any(|pair| stale(stage, pair)))
                });
                let wanted = match mistakable.is_empty() {
                    false if self.one_in(2) => mistakable,
                    _ => out_again,
                };
                self.streams.bring_back(&wanted, number);
            }
            9..=10 => {
                let at = self.dice.random_range(0..self.processes.len());
                self.kill(at);
            }
            11 if self.one_in(3) => self.release_late(),
            11 => self.release(),
            12 => {
                let away = self.dice.random_range(3..40);
                self.note(|| format!("Redis is away for {away} events"));
                self.redis_away = away;
            }
            13 => self.late_report(),
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
        let most = self.dice.random_range(1..=self.verbs_a_group);
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
            self.check_ended_term(&old);
            self.deposed = Some(old);
        } else {
            old.crash(&self.shared);
        }
        self.pass = None;
        self.from.clear();
    }

    /// Nobody grants from memory once another ledger may lead (protocol 1.1, 5.1).
    fn check_ended_term(&mut self, old: &SimLedger) {
        let instant = self.begun + self.steady;
        let out: Vec<(Stage, Pair)> = self.committed(|tables| {
            let rows = tables.files.values();
            let out = rows.filter(|row| row.dispatched_at.is_some());
            out.map(|row| (row.stage, (row.file, row.token))).collect()
        });
        for (stage, pair) in out {
            if old.would_grant(stage, pair, instant) {
                let pair = short(&[pair]);
                self.breaks(format!(
                    "{pair} is granted by a ledger whose term has ended"
                ));
            }
        }
    }
}
