//! Counters never drift: every operation from many callers at once, with faults, and then a recount of everything.
//!
//! `CAUDAL_SOAK_SECONDS` makes the storm longer (5 by default) and `CAUDAL_SOAK_SEED` takes the choices of an earlier
//! run, whose seed was printed; the order in which they meet is the scheduler's.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use caudal_domain::{BatchId, FileRef, Stage, TenantId, Token, names};
use caudal_harness::{Database, Loss, PostgresProxy};
use caudal_proto::convert::file_tokens_to_proto;
use caudal_proto::mesh::v1::{
    LeaseRequest, LeaseVerdict, ReleaseRequest, RenewRequest, Report, ReportRequest, ReportVerdict,
    report,
};
use caudal_proto::v1::{
    AddEntriesRequest, Batch, BatchOptions, BatchState, CancelBatchRequest, CancelFilesRequest,
    CompleteBatchRequest, ConfirmUploadsRequest, CreateBatchRequest, DirectoryEntry,
    DismissFailuresRequest, Entry, FileSelector, FileState, GetBatchRequest, MissingFiles, Outcome,
    PauseBatchRequest, ReprocessFilesRequest, ResumeBatchRequest, RetryFilesRequest, Start,
    Uploaded, entry,
};
use caudal_streams::Reader;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use tokio::task::JoinSet;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::support::{TestLedger, done, failed, file, finished, request_id, uploaded, version};

/// Callers that act for members, and processes of each stage.
const MEMBERS: u64 = 6;
const WORKERS: u64 = 2;
/// Batches of a storm, and files of one page.
const BATCHES: usize = 14;
const PAGE: usize = 24;
/// Files of one tenant that may be out, over all stages.
const WINDOW_OF_TENANT: u32 = 30;
/// How often a file's bytes can have been asked for in a storm.
const MOST_TARGETS: u32 = 6;
const LEASE: Duration = Duration::from_millis(600);
/// How long a caller repeats a call that is not answered, and how long the batches may take to end after the storm.
const PATIENCE: Duration = Duration::from_secs(60);

/// Small, so that most files wait.
fn windows() -> HashMap<Stage, u32> {
    HashMap::from(Stage::ALL.map(|stage| {
        let window = match stage {
            Stage::Upload => 20,
            Stage::ExtractText => 8,
            Stage::Metadata => 12,
            _ => 6,
        };
        (stage, window)
    }))
}

/// A batch as its callers know it.
#[derive(Clone)]
struct StormBatch {
    tenant: TenantId,
    id: BatchId,
    /// Files that were acknowledged as new.
    added: u32,
}

/// What a stage process was told of a report.
struct Told {
    stage: Stage,
    file: FileRef,
    token: Token,
    good: bool,
    recorded: bool,
}

struct Storm {
    ledger: TestLedger,
    tenants: [TenantId; 2],
    proxy: Option<PostgresProxy>,
    batches: Mutex<Vec<StormBatch>>,
    told: Mutex<Vec<Told>>,
    /// The storm is over: everyone does his best.
    calm: AtomicBool,
    /// All batches have ended.
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Repeats a call until it is answered; the code of a refusal.
async fn insist<T, F>(mut call: impl FnMut() -> F) -> Result<T, Code>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::Unavailable => {
                assert!(begun.elapsed() < PATIENCE, "not answered: {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => {
                let is_a_refusal = matches!(
                    status.code(),
                    Code::FailedPrecondition
                        | Code::NotFound
                        | Code::AlreadyExists
                        | Code::InvalidArgument
                );
                assert!(is_a_refusal, "{status}");
                return Err(status.code());
            }
        }
    }
}

impl Storm {
    async fn start(on: Database) -> Self {
        let mut proxy = None;
        let ledger = TestLedger::start_with(on, |settings| {
            settings.windows.of_stage = windows();
            settings.windows.of_tenant = WINDOW_OF_TENANT;
            settings.lease = LEASE;
            settings.reconcile_age = Duration::from_millis(200);
            if on == Database::Postgres {
                let before = PostgresProxy::start(&settings.database_url).unwrap();
                settings.database_url = before.url();
                proxy = Some(before);
            }
        })
        .await;
        let other = TenantId::from_uuid(Uuid::now_v7());
        let database = ledger.database().await;
        let statement = Statement::from_sql_and_values(
            database.get_database_backend(),
            "INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, created_at) \
             VALUES ($1, 'other', '{}', 0, 0, 0, 0)",
            [other.as_uuid().into()],
        );
        database.execute_raw(statement).await.unwrap();
        database.close().await.unwrap();
        Self {
            tenants: [ledger.tenant, other],
            ledger,
            proxy,
            batches: Mutex::default(),
            told: Mutex::default(),
            calm: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn some_batch(&self, dice: &mut StdRng) -> Option<StormBatch> {
        let batches = lock(&self.batches);
        (!batches.is_empty()).then(|| batches[dice.random_range(0..batches.len())].clone())
    }

    async fn member(self: Arc<Self>, mut dice: StdRng) {
        while !self.is_calm() {
            let few = lock(&self.batches).len() < BATCHES;
            match (self.some_batch(&mut dice), dice.random_range(0..100)) {
                (None, _) | (_, 0..4) if few => self.create(&mut dice).await,
                (None, _) => {}
                (Some(batch), 0..40) => self.add(&batch, &mut dice).await,
                (Some(batch), 40..88) => self.confirm(&batch, &mut dice).await,
                (Some(batch), 88..90) => self.complete(&batch, dice.random()).await,
                (Some(batch), 90..98) => self.act_on_files(&batch, &mut dice).await,
                (Some(batch), 98) => self.act_on_the_batch(&batch, &mut dice).await,
                (Some(batch), _) => {
                    self.look(&batch).await;
                }
            }
        }
    }

    async fn create(&self, dice: &mut StdRng) {
        let tenant = self.tenants[dice.random_range(0..2)];
        let mut options = BatchOptions::default();
        if dice.random_bool(0.3) {
            options.stages = vec!["upload".into(), "extract-text".into(), "metadata".into()];
        }
        if dice.random_bool(0.2) {
            options.start = Start::WhenCompleted.into();
        }
        let request = CreateBatchRequest {
            batch: Some(Batch {
                options: Some(options),
                ..Batch::default()
            }),
            request_id: request_id(),
        };
        let made = insist(|| {
            let (mut batches, request) = (self.ledger.batches_of(tenant), request.clone());
            async move { batches.create_batch(request).await }
        })
        .await
        .unwrap();
        let known = StormBatch {
            tenant,
            id: names::parse_batch_name(&made.name).unwrap(),
            added: 0,
        };
        lock(&self.batches).push(known);
    }

    /// A page of a small tree, so that pages meet: known entries, known folders, files where folders are.
    async fn add(&self, batch: &StormBatch, dice: &mut StdRng) {
        let count = dice.random_range(1..PAGE);
        let mut paths = HashSet::new();
        while paths.len() < count {
            let mut parts = Vec::new();
            for _ in 0..dice.random_range(0..4) {
                parts.push(format!("d{}", dice.random_range(0..3)));
            }
            parts.push(format!("f{}", dice.random_range(0..60)));
            paths.insert(parts.join("/"));
        }
        let mut entries: Vec<Entry> = paths
            .iter()
            .map(|path| file(path, i64::try_from(path.len()).unwrap()))
            .collect();
        if dice.random_bool(0.2) {
            entries.push(Entry {
                path: format!("d0/empty{}", dice.random_range(0..9)),
                kind: Some(entry::Kind::Directory(DirectoryEntry {})),
            });
        }
        if dice.random_bool(0.05) {
            entries.push(file("d0", 1));
        }
        let request = AddEntriesRequest {
            batch: names::batch_name(batch.id),
            entries,
            request_id: request_id(),
        };
        let added = insist(|| {
            let (mut batches, request) = (self.ledger.batches_of(batch.tenant), request.clone());
            async move { batches.add_entries(request).await }
        })
        .await;
        if let Ok(added) = added {
            let mut batches = lock(&self.batches);
            let known = batches.iter_mut().find(|known| known.id == batch.id);
            known.unwrap().added += added.new_count;
        }
    }

    async fn confirm(&self, batch: &StormBatch, dice: &mut StdRng) {
        let from = dice.random_range(0..=batch.added);
        let ordinals = from..from + dice.random_range(1..40);
        let uploads = ordinals.map(|ordinal| Uploaded {
            ordinal,
            target: if dice.random_bool(0.95) { 1 } else { 2 },
            etag: "e".into(),
        });
        self.confirm_uploads(batch, uploads.collect()).await;
    }

    async fn confirm_all(&self, batch: &StormBatch) {
        // A file whose bytes were asked for again waits for a later target.
        for target in 1..=MOST_TARGETS {
            let uploads = (0..batch.added).map(|ordinal| Uploaded {
                ordinal,
                target,
                etag: "e".into(),
            });
            let uploads: Vec<Uploaded> = uploads.collect();
            for page in uploads.chunks(500) {
                self.confirm_uploads(batch, page.to_vec()).await;
            }
        }
    }

    async fn confirm_uploads(&self, batch: &StormBatch, uploads: Vec<Uploaded>) {
        let request = ConfirmUploadsRequest {
            batch: names::batch_name(batch.id),
            uploads,
            request_id: request_id(),
        };
        let _ = insist(|| {
            let (mut uploads, request) = (self.ledger.uploads_of(batch.tenant), request.clone());
            async move { uploads.confirm_uploads(request).await }
        })
        .await;
    }

    async fn complete(&self, batch: &StormBatch, missing_fails: bool) {
        let missing = if missing_fails {
            MissingFiles::Fail
        } else {
            MissingFiles::Wait
        };
        let request = CompleteBatchRequest {
            name: names::batch_name(batch.id),
            missing: missing.into(),
            request_id: request_id(),
            ..CompleteBatchRequest::default()
        };
        let _ = insist(|| {
            let (mut batches, request) = (self.ledger.batches_of(batch.tenant), request.clone());
            async move { batches.complete_batch(request).await }
        })
        .await;
    }

    /// Cancels, retries, reprocesses or dismisses some files: an operation that goes on by itself.
    async fn act_on_files(&self, batch: &StormBatch, dice: &mut StdRng) {
        let selector = |states: &[FileState]| {
            Some(FileSelector {
                batch: names::batch_name(batch.id),
                states: states.iter().map(|state| (*state).into()).collect(),
                ..FileSelector::default()
            })
        };
        let files = || self.ledger.files_of(batch.tenant);
        let failed = [FileState::Failed];
        match dice.random_range(0..10) {
            0 => {
                let from = dice.random_range(0..=batch.added);
                let request = CancelFilesRequest {
                    selector: Some(FileSelector {
                        ordinals: (from..from + 3).collect(),
                        ..selector(&[]).unwrap_or_default()
                    }),
                    request_id: request_id(),
                    ..CancelFilesRequest::default()
                };
                let _ = insist(|| {
                    let (mut files, request) = (files(), request.clone());
                    async move { files.cancel_files(request).await }
                })
                .await;
            }
            1..5 => {
                let skip_backoff = dice.random();
                let both = [FileState::Failed, FileState::Retrying];
                let request = RetryFilesRequest {
                    selector: selector(if skip_backoff { &both } else { &failed }),
                    skip_backoff,
                    request_id: request_id(),
                    ..RetryFilesRequest::default()
                };
                let _ = insist(|| {
                    let (mut files, request) = (files(), request.clone());
                    async move { files.retry_files(request).await }
                })
                .await;
            }
            5..9 => {
                let from = Stage::ALL[dice.random_range(0..Stage::ALL.len())];
                let request = ReprocessFilesRequest {
                    selector: selector(&[FileState::Processed]),
                    from_stage: from.name().into(),
                    force: dice.random(),
                    request_id: request_id(),
                    ..ReprocessFilesRequest::default()
                };
                let _ = insist(|| {
                    let (mut files, request) = (files(), request.clone());
                    async move { files.reprocess_files(request).await }
                })
                .await;
            }
            _ => {
                let request = DismissFailuresRequest {
                    selector: selector(&failed),
                    request_id: request_id(),
                    ..DismissFailuresRequest::default()
                };
                let _ = insist(|| {
                    let (mut files, request) = (files(), request.clone());
                    async move { files.dismiss_failures(request).await }
                })
                .await;
            }
        }
    }

    /// Pauses, lets go on, or cancels.
    async fn act_on_the_batch(&self, batch: &StormBatch, dice: &mut StdRng) {
        let name = names::batch_name(batch.id);
        let batches = || self.ledger.batches_of(batch.tenant);
        match dice.random_range(0..10) {
            0 => {
                let request = CancelBatchRequest {
                    name,
                    request_id: request_id(),
                };
                let _ = insist(|| {
                    let (mut batches, request) = (batches(), request.clone());
                    async move { batches.cancel_batch(request).await }
                })
                .await;
            }
            1..6 => {
                let request = PauseBatchRequest {
                    name,
                    note: "the river is high".into(),
                    request_id: request_id(),
                };
                let _ = insist(|| {
                    let (mut batches, request) = (batches(), request.clone());
                    async move { batches.pause_batch(request).await }
                })
                .await;
            }
            _ => self.resume(batch).await,
        }
    }

    async fn resume(&self, batch: &StormBatch) {
        let request = ResumeBatchRequest {
            name: names::batch_name(batch.id),
            request_id: request_id(),
        };
        let _ = insist(|| {
            let (mut batches, request) = (self.ledger.batches_of(batch.tenant), request.clone());
            async move { batches.resume_batch(request).await }
        })
        .await;
    }

    async fn look(&self, batch: &StormBatch) -> Batch {
        let request = GetBatchRequest {
            name: names::batch_name(batch.id),
        };
        let seen = insist(|| {
            let (mut batches, request) = (self.ledger.batches_of(batch.tenant), request.clone());
            async move { batches.get_batch(request).await }
        })
        .await
        .unwrap();
        let counts = seen.counts.unwrap();
        let sum = counts.pending
            + counts.uploading
            + counts.uploaded
            + counts.queued
            + counts.processing
            + counts.processed
            + counts.retrying
            + counts.failed
            + counts.cancelled;
        assert_eq!(sum, counts.total, "{counts:?}");
        assert!(counts.total >= batch.added);
        seen
    }

    /// One process of a stage: mostly honest.
    async fn worker(self: Arc<Self>, stage: Stage, mut dice: StdRng) {
        let mut reader: Reader = self.ledger.reader(stage);
        let mut late: Vec<(FileRef, Token)> = Vec::new();
        while !self.has_ended() {
            let Ok(read) = reader.read(4, Duration::from_millis(50)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            for message in read.entries {
                let held = message.files.clone();
                if self.work(stage, &held, &mut late, &mut dice).await {
                    let _ = self
                        .ledger
                        .streams()
                        .acknowledge(stage, std::slice::from_ref(&message.id))
                        .await;
                }
            }
        }
    }

    /// Works on what a message brought; whether all of it has a final answer.
    async fn work(
        &self,
        stage: Stage,
        held: &[(FileRef, Token)],
        late: &mut Vec<(FileRef, Token)>,
        dice: &mut StdRng,
    ) -> bool {
        let honest = self.is_calm();
        if !honest && dice.random_bool(0.04) {
            return false;
        }
        let granted = self.lease(stage, held).await;
        if granted.is_empty() {
            return true;
        }
        let fate = if honest {
            99
        } else {
            dice.random_range(0..100)
        };
        if fate < 8 {
            self.renew(&granted).await;
        }
        match fate {
            // It dies, with or without having renewed.
            0..6 => {
                late.extend(granted);
                return false;
            }
            6..12 => self.release(&granted).await,
            _ => {
                let report = report_of(stage, honest, dice);
                self.report(stage, &granted, &report).await;
                if !honest && dice.random_bool(0.1) {
                    self.report(stage, &granted, &report).await;
                }
            }
        }
        if !honest && !late.is_empty() && dice.random_bool(0.2) {
            let old = std::mem::take(late);
            let report = report_of(stage, true, dice);
            self.report(stage, &old, &report).await;
        }
        true
    }

    async fn lease(&self, stage: Stage, held: &[(FileRef, Token)]) -> Vec<(FileRef, Token)> {
        let request = LeaseRequest {
            stage: stage.name().into(),
            process: "storm".into(),
            stage_version: Some(version()),
            files: Some(file_tokens_to_proto(held.iter().copied())),
        };
        let answer = insist(|| {
            let (mut mesh, request) = (self.ledger.mesh_of(stage), request.clone());
            async move { mesh.lease(request).await }
        })
        .await
        .unwrap();
        held.iter()
            .zip(answer.verdicts())
            .filter(|(_, verdict)| *verdict == LeaseVerdict::Granted)
            .map(|(pair, _)| *pair)
            .collect()
    }

    async fn renew(&self, held: &[(FileRef, Token)]) {
        let request = RenewRequest {
            process: "storm".into(),
            files: Some(file_tokens_to_proto(held.iter().copied())),
            wait: None,
            begun: None,
        };
        insist(|| {
            let (mut mesh, request) = (self.ledger.mesh_of(Stage::Upload), request.clone());
            async move { mesh.renew(request).await }
        })
        .await
        .unwrap();
    }

    async fn release(&self, held: &[(FileRef, Token)]) {
        let request = ReleaseRequest {
            process: "storm".into(),
            files: Some(file_tokens_to_proto(held.iter().copied())),
        };
        insist(|| {
            let (mut mesh, request) = (self.ledger.mesh_of(Stage::Upload), request.clone());
            async move { mesh.release(request).await }
        })
        .await
        .unwrap();
    }

    async fn report(&self, stage: Stage, held: &[(FileRef, Token)], report: &Report) {
        let good = matches!(report.outcome, Some(report::Outcome::Done(_)));
        let request = ReportRequest {
            slots: 0,
            stage: stage.name().into(),
            process: "storm".into(),
            stage_version: Some(version()),
            files: Some(file_tokens_to_proto(held.iter().copied())),
            reports: vec![report.clone(); held.len()],
        };
        let answer = insist(|| {
            let (mut mesh, request) = (self.ledger.mesh_of(stage), request.clone());
            async move { mesh.report(request).await }
        })
        .await
        .unwrap();
        let mut told = lock(&self.told);
        for ((file, token), verdict) in held.iter().zip(answer.verdicts()) {
            told.push(Told {
                stage,
                file: *file,
                token: *token,
                good,
                recorded: verdict == ReportVerdict::Recorded,
            });
        }
    }

    /// Takes Redis and the database's connections away.
    async fn faults(self: Arc<Self>, mut dice: StdRng) {
        let client = redis::Client::open(self.ledger.redis.url()).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut configure = async |value: &str| {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxmemory").arg(value);
            command.exec_async(&mut redis).await.unwrap();
        };
        while !self.is_calm() {
            tokio::time::sleep(Duration::from_millis(dice.random_range(50..400))).await;
            match dice.random_range(0..10) {
                0 => {
                    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
                    let flush = redis::cmd("FLUSHALL");
                    flush.exec_async(&mut connection).await.unwrap();
                }
                1 => {
                    configure("1").await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    configure("0").await;
                }
                2 => {
                    if let Some(proxy) = &self.proxy {
                        proxy.cut();
                    }
                }
                number => {
                    if let Some(proxy) = &self.proxy {
                        let loss = if number % 2 == 0 {
                            Loss::Answer
                        } else {
                            Loss::Command
                        };
                        let lost = proxy.lose_commit(loss, Vec::new(), dice.random_range(0..3));
                        let _ = tokio::time::timeout(Duration::from_secs(1), lost).await;
                    }
                }
            }
        }
    }

    /// Looks at what is out, all the time: never more than the windows.
    async fn windows(self: Arc<Self>, database: DatabaseConnection) {
        let windows = windows();
        while !self.has_ended() {
            let sql = "SELECT stage, tenant_id, count(*) AS n FROM file_work WHERE dispatched_at IS NOT NULL \
                       GROUP BY stage, tenant_id";
            let statement = Statement::from_string(database.get_database_backend(), sql);
            let mut of_stage: HashMap<Stage, u32> = HashMap::new();
            let mut of_tenant: HashMap<Uuid, u32> = HashMap::new();
            for row in database.query_all_raw(statement).await.unwrap() {
                let stage: i32 = row.try_get("", "stage").unwrap();
                let stage = Stage::from_code(u8::try_from(stage).unwrap()).unwrap();
                let tenant: Uuid = row.try_get("", "tenant_id").unwrap();
                let count: i64 = row.try_get("", "n").unwrap();
                let count = u32::try_from(count).unwrap();
                *of_stage.entry(stage).or_default() += count;
                *of_tenant.entry(tenant).or_default() += count;
            }
            for (stage, out) in of_stage {
                assert!(out <= windows[&stage], "{out} are out at {stage}");
            }
            for (tenant, out) in of_tenant {
                assert!(out <= WINDOW_OF_TENANT, "{out} of {tenant} are out");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        database.close().await.unwrap();
    }

    /// Completes every batch and waits until all have ended.
    async fn settle(self: Arc<Self>, patience: Duration) {
        let batches = lock(&self.batches).clone();
        let begun = Instant::now();
        let mut open = batches.clone();
        while !open.is_empty() {
            let mut still = Vec::new();
            for batch in open {
                self.resume(&batch).await;
                // What was completed to be waited for still arrives.
                self.confirm_all(&batch).await;
                self.complete(&batch, true).await;
                let seen = self.look(&batch).await;
                if matches!(seen.state(), BatchState::Open | BatchState::Running) {
                    assert!(
                        begun.elapsed() < patience,
                        "it does not end: {:?}",
                        seen.counts
                    );
                    still.push(batch);
                }
            }
            open = still;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for batch in batches {
            let total = self.look(&batch).await.counts.unwrap().total;
            assert_eq!(total, batch.added);
        }
        self.ended.store(true, Ordering::Relaxed);
    }

    /// What stage processes were told is what the database holds: RECORDED if and only if it was.
    async fn compare_reports(&self, database: &DatabaseConnection) {
        let mut results = HashSet::new();
        let mut attempts = HashSet::new();
        for (found, sql) in [
            (
                &mut results,
                "SELECT tenant_id, batch_id, ordinal, token, stage FROM stage_results WHERE NOT skipped",
            ),
            (
                &mut attempts,
                "SELECT tenant_id, batch_id, ordinal, token, stage FROM attempts",
            ),
        ] {
            let statement = Statement::from_string(database.get_database_backend(), sql);
            for row in database.query_all_raw(statement).await.unwrap() {
                let number = |column: &str| row.try_get::<i32>("", column).unwrap();
                let file = FileRef::new(
                    TenantId::from_uuid(row.try_get("", "tenant_id").unwrap()),
                    BatchId::from_uuid(row.try_get("", "batch_id").unwrap()),
                    u32::try_from(number("ordinal")).unwrap(),
                );
                let token: i64 = row.try_get("", "token").unwrap();
                let stage = Stage::from_code(u8::try_from(number("stage")).unwrap()).unwrap();
                found.insert((file, Token::new(u64::try_from(token).unwrap()), stage));
            }
        }
        let told = std::mem::take(&mut *lock(&self.told));
        let (mut recorded, mut superseded) = (0, 0);
        for told in told {
            let key = (told.file, told.token, told.stage);
            let stands = if told.good {
                results.contains(&key)
            } else {
                attempts.contains(&key)
            };
            if told.recorded {
                recorded += 1;
                assert!(stands, "RECORDED, and it is not: {key:?}");
            } else {
                superseded += 1;
                // A kill leaves an attempt too: then a bad report may be late though one stands there.
                assert!(!(stands && told.good), "SUPERSEDED, and it stands: {key:?}");
            }
        }
        println!("{recorded} reports recorded, {superseded} superseded");
    }
}

fn report_of(stage: Stage, honest: bool, dice: &mut StdRng) -> Report {
    if !honest {
        match dice.random_range(0..100) {
            0..4 => return failed("STORE_UNAVAILABLE"),
            4..7 => return failed("CORRUPT_DOCUMENT"),
            7..9 => return failed("CHECKSUM_MISMATCH"),
            _ => {}
        }
    }
    match stage {
        Stage::Upload => {
            let types = ["text/plain", "image/png", "application/x-unknown"];
            let mut report = uploaded(types[dice.random_range(0..types.len())]);
            // Some content is held already, and its results are taken over.
            if let Some(report::Outcome::Done(done)) = &mut report.outcome
                && dice.random_bool(0.8)
            {
                done.content_sha256 = dice.random::<[u8; 32]>().to_vec().into();
            }
            report
        }
        Stage::ExtractText | Stage::ImageProcessing => done(dice.random()),
        Stage::Metadata => {
            let outcomes = [Outcome::Complete, Outcome::Partial, Outcome::StoredOnly];
            finished(outcomes[dice.random_range(0..outcomes.len())])
        }
        _ => done(false),
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn no_counter_drifts_in_a_storm_of_every_operation(database: Database) {
    let seed = variable("CAUDAL_SOAK_SEED").unwrap_or_else(|| rand::rng().random());
    println!("CAUDAL_SOAK_SEED={seed}");
    let length = Duration::from_secs(variable("CAUDAL_SOAK_SECONDS").unwrap_or(5));
    let storm = Arc::new(Storm::start(database).await);
    let dice = |number: u64| StdRng::seed_from_u64(seed.wrapping_add(number));
    let mut members = JoinSet::new();
    for number in 0..MEMBERS {
        members.spawn(storm.clone().member(dice(number)));
    }
    members.spawn(storm.clone().faults(dice(1_000)));
    let mut tasks = JoinSet::new();
    for (place, stage) in Stage::ALL.into_iter().enumerate() {
        for number in 0..WORKERS {
            let number = 100 + WORKERS * u64::try_from(place).unwrap() + number;
            tasks.spawn(storm.clone().worker(stage, dice(number)));
        }
    }
    let database = storm.ledger.database().await;
    tasks.spawn(storm.clone().windows(database));
    tokio::time::sleep(length).await;
    storm.calm.store(true, Ordering::Relaxed);
    while let Some(ended) = members.join_next().await {
        ended.unwrap();
    }
    tasks.spawn(storm.clone().settle(PATIENCE + 2 * length));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let Ok(storm) = Arc::try_unwrap(storm) else {
        panic!("somebody still works")
    };
    let database = storm.ledger.database().await;
    storm.compare_reports(&database).await;
    database.close().await.unwrap();
    storm.ledger.verify().await;
}

mod sqlite {
    use super::Database;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_counter_drifts_in_a_storm_of_every_operation() {
        super::no_counter_drifts_in_a_storm_of_every_operation(Database::Sqlite).await;
    }
}

mod postgres {
    use super::Database;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_counter_drifts_in_a_storm_of_every_operation() {
        super::no_counter_drifts_in_a_storm_of_every_operation(Database::Postgres).await;
    }
}
