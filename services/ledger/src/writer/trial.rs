//! One verb at a time, for the tests of the verbs: each is a whole group on the model of the database, decided, written,
//! committed and learnt by memory, as the writer does it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use caudal_domain::{
    BatchId, BatchRef, FileRef, Outcome, Reason, Refusal, Stage, StageSet, StageVersion, TenantId,
};
use caudal_node::Registry;
use caudal_node::scope::MeshSecret;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::conclude::Decided;
use super::decide::decide;
use super::error::GroupError;
use super::in_flight::{Settled, Writing, learn};
use super::manifest_page::{ManifestPage, NewEntry, NewFile};
use super::request_key::RequestKey;
use super::verb::{Request, Verb};
use super::verbs::Held;
use super::verbs::add_entries::AddEntries;
use super::verbs::apply_slice::ApplySlice;
use super::verbs::cancel_batch::CancelBatch;
use super::verbs::complete_batch::CompleteBatch;
use super::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};
use super::verbs::create_batch::CreateBatch;
use super::verbs::create_tus::CreateTus;
use super::verbs::lease::Lease;
use super::verbs::report::{BadResult, GoodResult, Report, Reported, StageOutcome};
use super::verbs::set_pause::{NewPause, SetPause};
use super::verbs::settle_missing::{AskedUpload, SettleMissing};
use super::verbs::start_operation::StartOperation;
use crate::memory::relay_queue::RelayQueue;
use crate::memory::{Memory, Recovered, Told};
use crate::metrics::LedgerMetrics;
use crate::phases::Phases;
use crate::settings::LedgerSettings;
use crate::simulation::database::{CommitFate, Database, Shared, Tables};
use crate::simulation::invariants::check;
use crate::store::attempts::AttemptRow;
use crate::store::credentials::KeyRow;
use crate::store::operations::{FileVerb, OperationRow};
use crate::store::progress::ProgressRow;
use crate::store::results::{ResultRow, StoredArtifact, Used};
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::store::tus::UnderWay;
use crate::store::work::WorkRow;

/// Bytes of each file that a trial adds.
pub(super) const SIZE: u64 = 10;
/// Polls after which a group never ends.
const MOST_POLLS: u32 = 1_000_000;

/// A model database with one tenant, and the memory of the ledger that leads.
pub(super) struct Trial {
    shared: Shared,
    pub(super) memory: Memory,
    relay: RelayQueue,
    pub(super) tenant: TenantId,
    next_id: u128,
}

/// Polls a future to its end. Those of the model wait for nothing but for others to go on.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MOST_POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("a group never ends");
}

/// The version that stage processes run.
pub(super) fn version(stage: Stage) -> StageVersion {
    StageVersion::new(stage, "1")
}

/// The sha256 of a file's bytes; no two files share them by themselves.
pub(super) fn content_of(file: FileRef) -> [u8; 32] {
    let mut content = [0; 32];
    content[..16].copy_from_slice(file.batch.as_bytes());
    content[16..20].copy_from_slice(&file.ordinal.to_be_bytes());
    content
}

/// A good result of a stage: of the upload stage a document, which goes through extract-text and embeddings.
pub(super) fn good(stage: Stage, content: [u8; 32]) -> GoodResult {
    let uploads = stage == Stage::Upload;
    GoodResult {
        artifacts: vec![StoredArtifact {
            name: "original".into(),
            size: SIZE,
            media_type: String::new(),
        }],
        nonce: "n".into(),
        facts: "{}".into(),
        content: uploads.then_some(content),
        media_type: uploads.then(|| "application/pdf".to_owned()),
        has_text: true,
        warnings: Vec::new(),
        used: Used::default(),
        outcome: (stage == Stage::Metadata).then_some(Outcome::Complete),
        dimensions: None,
    }
}

/// A failure, to be tried again in five seconds at the earliest where it may be.
pub(super) fn bad(reason: Reason) -> BadResult {
    BadResult {
        reason,
        detail: "as told".into(),
        trace_id: String::new(),
        retry_after: Some(Duration::from_secs(5)),
    }
}

impl Trial {
    pub(super) fn new() -> Self {
        let settings = Arc::new(LedgerSettings::new("", "", MeshSecret::generate()));
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let mut database = Database::default();
        database.now = Micros(1_000_000_000_000);
        database.windows = settings.windows.clone();
        database.change(|tables| {
            tables.epoch = 1;
            let row = TenantRow::new(tenant, "{}".into(), 1);
            tables.tenants.insert(tenant, Arc::new(row));
        });
        let read = Recovered {
            now: database.now,
            dispatched: Vec::new(),
            waiting: Vec::new(),
            priorities: Default::default(),
            versions: Vec::new(),
            newest_versions: Default::default(),
            stages: Vec::new(),
            dimensions: Vec::new(),
        };
        let metrics = LedgerMetrics::new(&Registry::new("ledger"));
        Self {
            memory: Memory::recover(settings, 1, read, Told::default(), metrics, 1),
            shared: Rc::new(RefCell::new(database)),
            relay: RelayQueue::default(),
            tenant,
            next_id: 1_000,
        }
    }

    // Asking

    /// A verb that is a group of its own; what its caller gets.
    pub(super) fn ask<V: Verb>(&mut self, verb: V) -> Result<V::Answer, Refusal> {
        let (request, mut answer) = Request::new(verb);
        self.group(vec![request]);
        answer.try_recv().unwrap()
    }

    /// A group in which nothing is asked: whoever waits and may go out does.
    pub(super) fn tick(&mut self) {
        self.group(Vec::new());
    }

    /// A group of verbs. It must be committed, do nothing that no commit may do, and leave tables that `caudal verify` finds
    /// nothing wrong with.
    pub(super) fn group(&mut self, requests: Vec<Request>) {
        if let Settled::Failed { error, .. } = self.settled(requests) {
            panic!("a group was not committed: {error:?}");
        }
        let database = self.shared.borrow();
        assert!(database.found.is_empty(), "{:?}", database.found);
        let mut tables = database.committed.clone();
        // Nobody relays here.
        tables.outbox.clear();
        let found = check(&tables);
        assert!(found.is_empty(), "{found:?}");
    }

    /// A verb that is a group of its own, whose COMMIT the database takes and nobody hears of.
    pub(super) fn lose_answer<V: Verb>(&mut self, verb: V) {
        self.shared.borrow_mut().next_commit = CommitFate::LostAfter;
        let settled = self.settled(vec![Request::new(verb).0]);
        assert!(matches!(
            settled,
            Settled::Failed {
                error: GroupError::Unknown(_),
                ..
            }
        ));
    }

    fn settled(&mut self, mut requests: Vec<Request>) -> Settled {
        let transaction = Database::begin(&self.shared);
        let deciding = decide(
            &transaction,
            &mut self.memory,
            &mut requests,
            true,
            Phases::begin(),
        );
        let (decided, delta) = finish(deciding).unwrap();
        let writing = Writing {
            relay: self.relay.clone(),
            hints: mpsc::channel(1).0,
            leases: self.memory.leases.clone(),
            stages: self.memory.stages.clone(),
            metrics: self.memory.metrics.clone(),
            begun: Instant::now(),
            ahead: None,
            committed: oneshot::channel().0,
        };
        let written = finish(writing.write(transaction, decided, requests));
        learn(delta, written, &mut self.memory, &self.relay)
    }

    /// What a group of one verb would write. Nothing of it happens.
    pub(super) fn decided<V: Verb>(&mut self, verb: V) -> Decided {
        let transaction = Database::begin(&self.shared);
        let mut requests = vec![Request::new(verb).0];
        let deciding = decide(
            &transaction,
            &mut self.memory,
            &mut requests,
            true,
            Phases::begin(),
        );
        let (decided, delta) = finish(deciding).unwrap();
        delta.undone(&mut self.memory);
        decided
    }

    fn id(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(self.next_id)
    }

    /// The key of a new request.
    pub(super) fn request(&mut self) -> RequestKey {
        RequestKey {
            id: self.id(),
            method: "Method",
            body_hash: [0; 32],
        }
    }

    // Time, and what is changed from outside

    pub(super) fn now(&self) -> Micros {
        self.shared.borrow().now
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let now = self.now().plus(time);
        self.shared.borrow_mut().now = now;
    }

    /// Changes the tenant's limits, a JSON object.
    pub(super) fn limit(&mut self, limits: &str) {
        let tenant = self.tenant;
        self.shared.borrow_mut().change(|tables| {
            let row = tables.tenants.get_mut(&tenant).unwrap();
            Arc::make_mut(row).limits = limits.to_owned();
        });
        self.memory.known.forget();
    }

    // Reading back

    /// Keys that are there already.
    pub(super) fn hold_keys(&mut self, keys: impl Iterator<Item = KeyRow>) {
        self.shared.borrow_mut().change(|tables| {
            for key in keys {
                tables.keys.insert(key.id.clone(), Arc::new(key));
            }
        });
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&Tables) -> R) -> R {
        read(&self.shared.borrow().committed)
    }

    /// All tables, to be compared: what a refusal must leave as it is.
    pub(super) fn everything(&self) -> String {
        self.read(|tables| format!("{tables:?}"))
    }

    pub(super) fn row(&self, file: FileRef) -> WorkRow {
        self.read(|tables| WorkRow::clone(&tables.files[&file]))
    }

    pub(super) fn progress(&self, batch: BatchRef) -> ProgressRow {
        self.read(|tables| tables.batches[&batch].0.clone())
    }

    /// The reason of its dead letter.
    pub(super) fn letter(&self, file: FileRef) -> Option<Reason> {
        self.read(|tables| tables.letters.get(&file).map(|letter| letter.row.reason))
    }

    pub(super) fn attempts(&self, file: FileRef) -> Vec<AttemptRow> {
        self.read(|tables| {
            let attempts = tables.attempts.values().filter(|row| row.file == file);
            attempts.map(|row| AttemptRow::clone(row)).collect()
        })
    }

    /// What was recorded of its present generation, in the order of the stages.
    pub(super) fn results(&self, file: FileRef) -> Vec<ResultRow> {
        let generation = self.row(file).generation;
        self.read(|tables| {
            let results = tables.results.values();
            let of_file = results.filter(|row| (row.file, row.generation) == (file, generation));
            of_file.map(|row| ResultRow::clone(row)).collect()
        })
    }

    /// Places used at a stage.
    pub(super) fn places(&self, stage: Stage) -> u32 {
        self.memory.dispatcher.used(stage)
    }

    // What clients do

    /// A batch that is not made yet.
    pub(super) fn creation(&mut self) -> CreateBatch {
        CreateBatch {
            batch: BatchRef::new(self.tenant, BatchId::from_uuid(self.id())),
            request: self.request(),
            name: "first".into(),
            options: "{}".into(),
            metadata: None,
            priority: 2,
            stages: StageSet::all(),
            starts_when_completed: false,
            created_by: "somebody".into(),
        }
    }

    pub(super) fn batch(&mut self) -> BatchRef {
        let create = self.creation();
        let batch = create.batch;
        self.ask(create).unwrap();
        batch
    }

    /// A batch whose files go out only when its manifest is complete.
    pub(super) fn batch_held_back(&mut self) -> BatchRef {
        let create = CreateBatch {
            starts_when_completed: true,
            ..self.creation()
        };
        let batch = create.batch;
        self.ask(create).unwrap();
        batch
    }

    /// A page of files under these paths.
    pub(super) fn page(&mut self, batch: BatchRef, paths: &[&str]) -> AddEntries {
        let entries = paths.iter().map(|path| {
            NewEntry::File(NewFile {
                path: (*path).to_owned(),
                size: SIZE,
                sha256: None,
                metadata: None,
                modified_at: None,
            })
        });
        AddEntries {
            batch,
            request: self.request(),
            knows_one_batch: false,
            token: None,
            page: Arc::new(ManifestPage::new(entries.collect())),
            folders: 1,
            path_bytes: 10,
        }
    }

    /// A page of one file that declares these bytes.
    pub(super) fn page_declaring(&mut self, batch: BatchRef, sha256: [u8; 32]) -> AddEntries {
        let page = self.page(batch, &["declared"]);
        let mut entries = page.page.entries().to_vec();
        for entry in &mut entries {
            if let NewEntry::File(file) = entry {
                file.sha256 = Some(sha256);
            }
        }
        AddEntries {
            page: Arc::new(ManifestPage::new(entries)),
            ..page
        }
    }

    /// The store is asked for files that wait for their bytes, and has none of them.
    pub(super) fn settle_missing(&mut self, files: &[FileRef], last: bool) {
        let asked = files.iter().map(|file| AskedUpload {
            file: *file,
            target: self.row(*file).target,
            etag: None,
        });
        let settle = SettleMissing {
            batch: files[0].batch_ref(),
            asked: asked.collect(),
            last,
        };
        self.ask(settle).unwrap();
    }

    /// Adds so many files.
    pub(super) fn add(&mut self, batch: BatchRef, count: u32) -> Vec<FileRef> {
        let first = self.progress(batch).next_ordinal;
        let names: Vec<String> = (first..first + count).map(|at| format!("f{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let page = self.page(batch, &names);
        let added = self.ask(page).unwrap();
        let ordinals = added.ordinals.into_iter();
        ordinals.map(|ordinal| batch.file(ordinal)).collect()
    }

    /// Says that the bytes of these files, all of one batch, landed under their targets.
    pub(super) fn confirmation(&mut self, files: &[FileRef]) -> ConfirmUploads {
        let uploads = files.iter().map(|file| ConfirmedUpload {
            ordinal: file.ordinal,
            target: self.row(*file).target,
            etag: "etag".into(),
        });
        let uploads = uploads.collect();
        ConfirmUploads {
            foreign: HashSet::new(),
            batch: files[0].batch_ref(),
            request: self.request(),
            uploads,
        }
    }

    pub(super) fn confirm(&mut self, files: &[FileRef]) {
        let confirmation = self.confirmation(files);
        self.ask(confirmation).unwrap();
    }

    pub(super) fn completion(&mut self, batch: BatchRef) -> CompleteBatch {
        CompleteBatch {
            batch,
            request: self.request(),
            missing_fails: false,
            expected_entries: 0,
        }
    }

    pub(super) fn complete(&mut self, batch: BatchRef, missing_fails: bool) {
        let complete = CompleteBatch {
            missing_fails,
            ..self.completion(batch)
        };
        self.ask(complete).unwrap();
    }

    pub(super) fn cancel(&mut self, batch: BatchRef) {
        let request = self.request();
        self.ask(CancelBatch { batch, request }).unwrap();
    }

    pub(super) fn pausing(&mut self, batch: BatchRef, pauses: bool) -> SetPause {
        SetPause {
            batch,
            request: self.request(),
            pause: pauses.then(|| NewPause {
                who: "somebody".into(),
                note: "not now".into(),
            }),
        }
    }

    pub(super) fn pause(&mut self, batch: BatchRef, pauses: bool) {
        let pausing = self.pausing(batch, pauses);
        self.ask(pausing).unwrap();
    }

    /// Files that have arrived and are out to the upload stage.
    pub(super) fn queued(&mut self, count: u32) -> Vec<FileRef> {
        let batch = self.batch();
        let files = self.add(batch, count);
        self.confirm(&files);
        files
    }

    /// The same, leased.
    pub(super) fn processing(&mut self, count: u32) -> Vec<FileRef> {
        let files = self.queued(count);
        self.lease(&files);
        files
    }

    // What stage processes do

    /// Files with their present tokens.
    pub(super) fn held(&self, files: &[FileRef]) -> Held {
        let held = files.iter().map(|file| (*file, self.row(*file).token));
        held.collect()
    }

    /// A process of their stage leases files.
    pub(super) fn lease(&mut self, files: &[FileRef]) {
        let version = version(self.row(files[0]).stage);
        let held = self.held(files);
        let granted = self.ask(Lease { version, held }).unwrap();
        assert!(granted.iter().all(Option::is_some), "not granted");
    }

    /// The report of a file under its present token.
    pub(super) fn reporting(&self, file: FileRef, outcome: StageOutcome) -> Report {
        let row = self.row(file);
        Report {
            stage: row.stage,
            version: version(row.stage),
            slots: None,
            reported: vec![Reported {
                file,
                token: row.token,
                outcome,
                took: None,
            }],
        }
    }

    /// Its stage has done its work.
    pub(super) fn succeed(&mut self, file: FileRef) {
        self.lease(&[file]);
        let outcome = Ok(good(self.row(file).stage, content_of(file)));
        let report = self.reporting(file, outcome);
        assert_eq!(self.ask(report).unwrap(), [true]);
    }

    /// Its stage has failed.
    pub(super) fn fail(&mut self, file: FileRef, reason: Reason) {
        self.lease(&[file]);
        let report = self.reporting(file, Err(bad(reason)));
        assert_eq!(self.ask(report).unwrap(), [true]);
    }

    /// A file that has gone through all of its stages.
    pub(super) fn processed(&mut self) -> FileRef {
        let file = self.queued(1)[0];
        while !self.row(file).state.is_final() {
            self.succeed(file);
        }
        file
    }

    // What gateways do

    /// An upload that is not begun yet; of a file, or of one that is not known.
    pub(super) fn tus(&mut self, file: Option<FileRef>) -> CreateTus {
        CreateTus {
            tenant: self.tenant,
            id: self.id(),
            batch: file.map(|file| file.batch),
            ordinal: file.map(|file| file.ordinal),
            length: file.map(|_| SIZE),
            facts: Vec::new(),
            lifetime: Duration::from_secs(60),
            under_way: UnderWay::default(),
        }
    }

    // What operations do

    /// An operation that is not begun yet.
    pub(super) fn operation(&mut self, verb: FileVerb) -> StartOperation {
        StartOperation {
            tenant: self.tenant,
            id: self.id(),
            request: self.request(),
            verb,
            selector: Vec::new(),
            matched: 1,
            max_count: 0,
            requested_by: "somebody".into(),
            by_operator: false,
        }
    }

    /// The last slice of an operation.
    pub(super) fn slice(&self, operation: Uuid, files: &[FileRef]) -> ApplySlice {
        ApplySlice {
            tenant: self.tenant,
            operation,
            files: files.to_vec(),
            arrived: Vec::new(),
            cursor: None,
            ended: true,
        }
    }

    pub(super) fn operation_row(&self, id: Uuid) -> OperationRow {
        self.read(|tables| OperationRow::clone(&tables.operations[&(self.tenant, id)]))
    }

    /// Does something to a file: why it was refused, or nothing.
    pub(super) fn apply(&mut self, verb: FileVerb, file: FileRef) -> Option<String> {
        let start = self.operation(verb);
        let id = start.id;
        self.ask(start).unwrap();
        let slice = self.slice(id, &[file]);
        self.ask(slice).unwrap();
        let row = self.operation_row(id);
        assert_eq!(row.done + row.refused.values().sum::<u64>(), 1);
        row.refused.into_keys().next()
    }
}
