//! A ledger, a client and a stage process, all scripted.

use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{BatchId, FileRef, Stage, TenantId, Token, names};
use caudal_harness::{Database, PATIENCE, Postgres, Redis, S3, until};
use caudal_ledger::{Bootstrap, KeyRecord, Ledger, LedgerSettings, RunningLedger};
use caudal_node::scope::{MeshSecret, Role, Scope, SignedScope};
use caudal_proto::convert::file_tokens_to_proto;
use caudal_proto::longrunning::operations_client::OperationsClient;
use caudal_proto::longrunning::{Operation, WaitOperationRequest};
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::mesh::v1::{
    CheckCredentialRequest, Done, Failed, LeaseRequest, LeaseResponse, RenewRequest, Report,
    ReportRequest, ReportVerdict, StageVersion, report,
};
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::file_service_client::FileServiceClient;
use caudal_proto::v1::operator_service_client::OperatorServiceClient;
use caudal_proto::v1::tenant_service_client::TenantServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use caudal_proto::v1::{
    AddEntriesRequest, Batch, BatchState, BulkMetadata, CompleteBatchRequest,
    ConfirmUploadsRequest, CreateBatchRequest, Entry, File, FileEntry, GetBatchRequest,
    GetFileRequest, MissingFiles, Outcome, Uploaded, entry,
};
use caudal_streams::{Names, Reader, Streams};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use uuid::Uuid;

type Signed = InterceptedService<Channel, SignedScope>;

pub(crate) struct TestLedger {
    pub(crate) on: Database,
    pub(crate) redis: Redis,
    pub(crate) tenant: TenantId,
    secret: MeshSecret,
    _folder: TempDir,
    settings: LedgerSettings,
    /// Of the database itself, whatever stands between it and the ledger.
    pub(crate) database_url: String,
    running: Option<(RunningLedger, CancellationToken)>,
    channel: Channel,
}

/// How a ledger, or a test, reaches a store.
pub(crate) fn store_settings(store: &S3) -> caudal_objects::Settings {
    caudal_objects::Settings::new(store.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET)
}

pub(crate) fn key(text: &str) -> KeyRecord {
    KeyRecord {
        id: text.to_owned(),
        secret_sha256: [7; 32],
    }
}

impl TestLedger {
    pub(crate) async fn start(on: Database) -> Self {
        Self::start_with(on, |_| {}).await
    }

    /// Starts with short times, so that a test of recovery takes no minute.
    pub(crate) async fn start_with(on: Database, change: impl FnOnce(&mut LedgerSettings)) -> Self {
        let redis = Redis::start().await.unwrap();
        let folder = TempDir::new().unwrap();
        let secret = MeshSecret::generate();
        let database = match on {
            Database::Postgres => Postgres::new_database().unwrap(),
            Database::Sqlite => format!("sqlite:{}", folder.path().join("ledger.sqlite").display()),
        };
        let mut settings = LedgerSettings::new(&database, redis.url(), secret.clone());
        settings.bootstrap = Some(Bootstrap {
            tenant_name: "default".into(),
            api_key: key("member"),
            operator_key: key("operator"),
        });
        settings.reconcile_every = Duration::from_millis(50);
        settings.reconcile_age = Duration::from_millis(300);
        change(&mut settings);
        let (running, channel) = launch(&settings).await;
        let nobody = TenantId::from_uuid(Uuid::nil());
        let mut ledger = Self {
            on,
            redis,
            tenant: nobody,
            secret,
            _folder: folder,
            settings,
            database_url: database,
            running: Some(running),
            channel,
        };
        let request = CheckCredentialRequest {
            key_id: "member".into(),
            secret_sha256: Bytes::from_static(&[7; 32]),
            only_asked: false,
        };
        let answer = ledger
            .mesh()
            .check_credential(request)
            .await
            .unwrap()
            .into_inner();
        ledger.tenant = TenantId::from_slice(&answer.scope.unwrap().tenant).unwrap();
        ledger
    }

    /// Ends the ledger cleanly and starts another on the same database.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let (running, channel) = launch(&self.settings).await;
        self.running = Some(running);
        self.channel = channel;
    }

    /// Another ledger on the same database: it stands by while this one leads.
    pub(crate) async fn second(
        &self,
    ) -> (
        RunningLedger,
        CancellationToken,
        LedgerServiceClient<Signed>,
    ) {
        let ((running, shutdown), channel) = launch(&self.settings).await;
        let scope = SignedScope::new(Scope::service("upload"), self.secret.clone());
        let mesh = LedgerServiceClient::new(InterceptedService::new(channel, scope));
        (running, shutdown, mesh)
    }

    /// Ends this ledger as a crash would, and goes on with another.
    pub(crate) async fn crash_over_to(&mut self, second: (RunningLedger, CancellationToken)) {
        if let Some((running, _)) = self.running.take() {
            running.abort();
        }
        let address = format!("http://{}", second.0.address());
        self.channel = caudal_node::Channels::default().channel(&address).unwrap();
        self.running = Some(second);
    }

    /// Ends the ledger as a crash would and starts another on the same database, with other settings: on Postgres it
    /// leads when the dead one's term ends.
    pub(crate) async fn crash(&mut self, change: impl FnOnce(&mut LedgerSettings)) {
        if let Some((running, _)) = self.running.take() {
            running.abort();
        }
        change(&mut self.settings);
        let (running, channel) = launch(&self.settings).await;
        self.running = Some(running);
        self.channel = channel;
    }

    /// A connection of the test's own to the ledger's database.
    pub(crate) async fn database(&self) -> DatabaseConnection {
        sea_orm::Database::connect(&self.database_url)
            .await
            .unwrap()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let database = self.database().await;
        let sql = format!("SELECT count(*) AS n FROM {table}");
        let row =
            database.query_one_raw(Statement::from_string(database.get_database_backend(), sql));
        let count = row.await.unwrap().unwrap().try_get("", "n").unwrap();
        database.close().await.unwrap();
        count
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((running, shutdown)) = self.running.take() {
            shutdown.cancel();
            running.join().await.unwrap();
        }
    }

    fn signed(&self, scope: Scope) -> Signed {
        InterceptedService::new(
            self.channel.clone(),
            SignedScope::new(scope, self.secret.clone()),
        )
    }

    fn member(&self, tenant: TenantId) -> Signed {
        self.signed(Scope {
            tenant: Some(tenant),
            principal: "test".into(),
            role: Role::Member,
            batch: None,
            key_id: String::new(),
        })
    }

    /// As the gateway calls it.
    pub(crate) fn mesh(&self) -> LedgerServiceClient<Signed> {
        LedgerServiceClient::new(self.signed(Scope::service("gateway")))
    }

    /// As a stage calls it.
    pub(crate) fn mesh_of(&self, stage: Stage) -> LedgerServiceClient<Signed> {
        LedgerServiceClient::new(self.signed(Scope::service(stage.name())))
    }

    pub(crate) fn mesh_as_member(&self) -> LedgerServiceClient<Signed> {
        LedgerServiceClient::new(self.member(self.tenant))
    }

    pub(crate) fn batches(&self) -> BatchServiceClient<Signed> {
        self.batches_of(self.tenant)
    }

    pub(crate) fn batches_of(&self, tenant: TenantId) -> BatchServiceClient<Signed> {
        BatchServiceClient::new(self.member(tenant))
    }

    pub(crate) fn files(&self) -> FileServiceClient<Signed> {
        FileServiceClient::new(self.member(self.tenant))
    }

    pub(crate) fn uploads(&self) -> UploadServiceClient<Signed> {
        self.uploads_of(self.tenant)
    }

    pub(crate) fn uploads_of(&self, tenant: TenantId) -> UploadServiceClient<Signed> {
        UploadServiceClient::new(self.member(tenant))
    }

    pub(crate) fn files_of(&self, tenant: TenantId) -> FileServiceClient<Signed> {
        FileServiceClient::new(self.member(tenant))
    }

    /// Files, as a credential for one batch sees them.
    pub(crate) fn files_of_token(&self, batch: BatchId) -> FileServiceClient<Signed> {
        FileServiceClient::new(self.signed(Scope {
            tenant: Some(self.tenant),
            principal: "token".into(),
            role: Role::Member,
            batch: Some(batch),
            key_id: String::new(),
        }))
    }

    pub(crate) fn operations(&self) -> OperationsClient<Signed> {
        OperationsClient::new(self.member(self.tenant))
    }

    fn as_operator(&self) -> Signed {
        self.signed(Scope {
            tenant: None,
            principal: "operator".into(),
            role: Role::Operator,
            batch: None,
            key_id: String::new(),
        })
    }

    /// What a tenant asks about itself, with a key of this role.
    pub(crate) fn tenancy(&self, tenant: TenantId, role: Role) -> TenantServiceClient<Signed> {
        TenantServiceClient::new(self.signed(Scope {
            tenant: Some(tenant),
            principal: "somebody".into(),
            role,
            batch: None,
            key_id: "k1".into(),
        }))
    }

    /// Batches, as a credential sees them.
    pub(crate) fn batches_of_scope(&self, scope: &Scope) -> BatchServiceClient<Signed> {
        BatchServiceClient::new(self.signed(scope.clone()))
    }

    /// Uploads, as a credential sees them.
    pub(crate) fn uploads_of_scope(&self, scope: &Scope) -> UploadServiceClient<Signed> {
        UploadServiceClient::new(self.signed(scope.clone()))
    }

    /// What a gateway asks in the name of a credential.
    pub(crate) fn mesh_of_scope(&self, scope: &Scope) -> LedgerServiceClient<Signed> {
        LedgerServiceClient::new(self.signed(scope.clone()))
    }

    /// Batches, with a key of this role.
    pub(crate) fn batches_as(&self, role: Role) -> BatchServiceClient<Signed> {
        BatchServiceClient::new(self.signed(Scope {
            tenant: Some(self.tenant),
            principal: "somebody".into(),
            role,
            batch: None,
            key_id: "k1".into(),
        }))
    }

    pub(crate) fn operator(&self) -> OperatorServiceClient<Signed> {
        OperatorServiceClient::new(self.as_operator())
    }

    pub(crate) fn operator_as_member(&self) -> OperatorServiceClient<Signed> {
        OperatorServiceClient::new(self.member(self.tenant))
    }

    pub(crate) fn operations_of_operator(&self) -> OperationsClient<Signed> {
        OperationsClient::new(self.as_operator())
    }

    /// Waits until a bulk operation has ended, and what it did.
    pub(crate) async fn ended(&self, name: &str) -> (Operation, BulkMetadata) {
        let begun = std::time::Instant::now();
        loop {
            let request = WaitOperationRequest {
                name: name.to_owned(),
                timeout: None,
            };
            let mut operations = self.operations_of_operator();
            let operation = operations
                .wait_operation(request)
                .await
                .unwrap()
                .into_inner();
            if operation.done {
                let metadata = bulk_metadata(&operation);
                return (operation, metadata);
            }
            assert!(begun.elapsed() < PATIENCE, "{operation:?}");
        }
    }

    /// Changes the database behind the ledger's back.
    pub(crate) async fn sql(&self, statement: &str) {
        let database = self.database().await;
        database.execute_unprepared(statement).await.unwrap();
        database.close().await.unwrap();
    }

    /// Makes a tenant, as an operator would.
    pub(crate) async fn add_tenant(&self, tenant: TenantId) {
        let id = match self.on {
            Database::Postgres => format!("'{tenant}'"),
            Database::Sqlite => format!("X'{}'", tenant.as_uuid().simple()),
        };
        self.sql(&format!(
            "INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, created_at) \
             VALUES ({id}, '{tenant}', '{{}}', 0, 0, 0, 0)"
        ))
        .await;
    }

    /// A tenant beside the first one.
    pub(crate) async fn another_tenant(&self) -> TenantId {
        let tenant = TenantId::from_uuid(Uuid::new_v4());
        self.add_tenant(tenant).await;
        tenant
    }

    pub(crate) async fn create(&self, batch: Batch) -> BatchId {
        let request = CreateBatchRequest {
            batch: Some(batch),
            request_id: request_id(),
        };
        let made = self
            .batches()
            .create_batch(request)
            .await
            .unwrap()
            .into_inner();
        names::parse_batch_name(&made.name).unwrap()
    }

    pub(crate) async fn add(&self, batch: BatchId, paths: &[&str]) {
        let entries = paths.iter().map(|path| file(path, 10)).collect();
        let request = AddEntriesRequest {
            batch: names::batch_name(batch),
            entries,
            request_id: request_id(),
        };
        self.batches().add_entries(request).await.unwrap();
    }

    pub(crate) async fn confirm(&self, batch: BatchId, ordinals: impl IntoIterator<Item = u32>) {
        self.try_confirm(batch, ordinals).await.unwrap();
    }

    pub(crate) async fn try_confirm(
        &self,
        batch: BatchId,
        ordinals: impl IntoIterator<Item = u32>,
    ) -> Result<(), Status> {
        let uploads = ordinals
            .into_iter()
            .map(|ordinal| Uploaded {
                ordinal,
                target: 1,
                etag: "e".into(),
            })
            .collect();
        let request = ConfirmUploadsRequest {
            batch: names::batch_name(batch),
            uploads,
            request_id: request_id(),
        };
        self.uploads().confirm_uploads(request).await.map(|_| ())
    }

    /// Takes the leadership for a moment, as another ledger does after a pause of this one.
    pub(crate) async fn depose(&self) {
        let database = self.database().await;
        let usurp = "UPDATE leadership SET epoch = epoch + 1, address = 'http://usurper', \
                     until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 1500000";
        database.execute_unprepared(usurp).await.unwrap();
    }

    pub(crate) fn address(&self) -> String {
        self.running
            .as_ref()
            .map(|(running, _)| format!("http://{}", running.address()))
            .unwrap_or_default()
    }

    pub(crate) async fn complete(&self, batch: BatchId) -> Batch {
        let request = CompleteBatchRequest {
            name: names::batch_name(batch),
            request_id: request_id(),
            ..CompleteBatchRequest::default()
        };
        self.batches()
            .complete_batch(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn batch(&self, batch: BatchId) -> Batch {
        let request = GetBatchRequest {
            name: names::batch_name(batch),
        };
        self.batches()
            .get_batch(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn file(&self, batch: BatchId, ordinal: u32) -> File {
        let request = GetFileRequest {
            name: names::file_name(batch, ordinal),
        };
        self.files().get_file(request).await.unwrap().into_inner()
    }

    pub(crate) fn streams(&self) -> Streams {
        Streams::connect(
            &self.redis.url(),
            Names::new(caudal_streams::DEFAULT_PREFIX),
        )
        .unwrap()
    }

    pub(crate) fn reader(&self, stage: Stage) -> Reader {
        self.streams().reader(stage, &Uuid::new_v4().to_string())
    }

    /// The next `count` dispatches of a stage. They stay pending, as with a worker that has not reported yet.
    pub(crate) async fn take(
        &self,
        reader: &mut Reader,
        stage: Stage,
        count: usize,
    ) -> Vec<(FileRef, Token)> {
        let mut taken = Vec::new();
        let begun = std::time::Instant::now();
        while taken.len() < count {
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain for {count} dispatches of {stage}, got {taken:?}"
            );
            let Ok(read) = reader.read(count, Duration::from_millis(100)).await else {
                continue;
            };
            for entry in read.entries {
                taken.extend(entry.files.iter().copied());
            }
        }
        taken
    }

    pub(crate) async fn lease(&self, stage: Stage, held: &[(FileRef, Token)]) -> LeaseResponse {
        let request = LeaseRequest {
            stage: stage.name().into(),
            process: "test".into(),
            stage_version: Some(version()),
            files: Some(file_tokens_to_proto(held.iter().copied())),
        };
        self.mesh_of(stage)
            .lease(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Renews; for each file whether it is to be kept.
    pub(crate) async fn renew(&self, held: &[(FileRef, Token)]) -> Vec<bool> {
        self.renew_and_begin(held, &[]).await
    }

    /// As [`Self::renew`], and says that the handlers of those suspects begin.
    pub(crate) async fn renew_and_begin(
        &self,
        held: &[(FileRef, Token)],
        begun: &[(FileRef, Token)],
    ) -> Vec<bool> {
        let request = RenewRequest {
            process: "test".into(),
            files: Some(file_tokens_to_proto(held.iter().copied())),
            wait: None,
            begun: Some(file_tokens_to_proto(begun.iter().copied())),
        };
        let mut mesh = self.mesh_of(Stage::Upload);
        let answer = mesh.renew(request).await.unwrap().into_inner();
        answer
            .verdicts
            .into_iter()
            .map(|verdict| verdict == 1)
            .collect()
    }

    pub(crate) async fn report(
        &self,
        stage: Stage,
        held: &[(FileRef, Token)],
        report: &Report,
    ) -> Vec<ReportVerdict> {
        self.try_report(stage, held, report).await.unwrap()
    }

    pub(crate) async fn try_report(
        &self,
        stage: Stage,
        held: &[(FileRef, Token)],
        report: &Report,
    ) -> Result<Vec<ReportVerdict>, Status> {
        let request = ReportRequest {
            slots: 0,
            stage: stage.name().into(),
            process: "test".into(),
            stage_version: Some(version()),
            files: Some(file_tokens_to_proto(held.iter().copied())),
            reports: vec![report.clone(); held.len()],
        };
        let answer = self.mesh_of(stage).report(request).await?.into_inner();
        Ok(answer.verdicts().collect())
    }

    /// Takes, leases and reports `count` files of a stage.
    pub(crate) async fn work(
        &self,
        reader: &mut Reader,
        stage: Stage,
        count: usize,
        report: &Report,
    ) {
        let held = self.take(reader, stage, count).await;
        self.lease(stage, &held).await;
        let verdicts = self.report(stage, &held, report).await;
        assert!(
            verdicts
                .iter()
                .all(|verdict| *verdict == ReportVerdict::Recorded),
            "{stage}: {verdicts:?}"
        );
    }

    /// Takes `count` files of a type that no stage knows through their whole route; with them the batch has succeeded.
    pub(crate) async fn finish(&self, batch: BatchId, count: usize) {
        let report = uploaded("application/x-unknown");
        let mut reader = self.reader(Stage::Upload);
        self.work(&mut reader, Stage::Upload, count, &report).await;
        self.store(batch, count).await;
    }

    /// The end of that route, for files that are uploaded.
    pub(crate) async fn store(&self, batch: BatchId, count: usize) {
        self.keep(count).await;
        assert_eq!(self.batch(batch).await.state(), BatchState::Succeeded);
    }

    /// The last stage keeps files as they are, whatever becomes of their batches.
    pub(crate) async fn keep(&self, count: usize) {
        let report = finished(Outcome::StoredOnly);
        let mut reader = self.reader(Stage::Metadata);
        self.work(&mut reader, Stage::Metadata, count, &report)
            .await;
    }

    /// Takes all files of a batch of plain texts through the whole route.
    pub(crate) async fn work_through(&self, count: usize) {
        for (stage, report) in [
            (Stage::Upload, uploaded("text/plain")),
            (Stage::ExtractText, done(true)),
            (Stage::Embeddings, done(false)),
            (Stage::Metadata, finished(Outcome::Complete)),
        ] {
            let mut reader = self.reader(stage);
            self.work(&mut reader, stage, count, &report).await;
        }
    }

    /// Completes a batch; what has not arrived fails.
    pub(crate) async fn fail_what_is_missing(&self, batch: BatchId) {
        let request = CompleteBatchRequest {
            name: names::batch_name(batch),
            missing: MissingFiles::Fail.into(),
            request_id: request_id(),
            ..CompleteBatchRequest::default()
        };
        self.batches().complete_batch(request).await.unwrap();
    }

    pub(crate) async fn until_state(
        &self,
        batch: BatchId,
        ordinal: u32,
        state: caudal_proto::v1::FileState,
    ) -> File {
        let what = format!("file {ordinal} to be {}", state.as_str_name());
        until(&what, PATIENCE, async || {
            let file = self.file(batch, ordinal).await;
            (file.state() == state).then_some(file)
        })
        .await
        .unwrap()
    }

    /// Ends the ledger and checks every invariant.
    pub(crate) async fn verify(mut self) {
        self.stop().await;
        let report = caudal_ledger::verify(&self.database_url, Some(&self.redis.url()), None)
            .await
            .unwrap();
        assert!(report.holds(), "{:#?}", report.violations);
        assert!(report.files > 0 || report.batches > 0);
    }
}

async fn launch(settings: &LedgerSettings) -> ((RunningLedger, CancellationToken), Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = CancellationToken::new();
    let running = Ledger::start(settings.clone(), listener, shutdown.clone())
        .await
        .unwrap();
    let address = format!("http://{}", running.address());
    let channel = caudal_node::Channels::default().channel(&address).unwrap();
    ((running, shutdown), channel)
}

/// Redis forgets everything.
pub(crate) async fn flush(ledger: &TestLedger) {
    ledger.redis.flush().await.unwrap();
}

/// What an operation says of itself.
pub(crate) fn bulk_metadata(operation: &Operation) -> BulkMetadata {
    let any = operation.metadata.clone().unwrap();
    assert_eq!(any.type_url, "type.googleapis.com/caudal.v1.BulkMetadata");
    prost::Message::decode(any.value.as_slice()).unwrap()
}

/// The fields that a refusal names.
pub(crate) fn wrong_fields(status: &Status) -> Vec<String> {
    use tonic_types::StatusExt;
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

/// The machine-readable reason of a refusal.
pub(crate) fn reason_of(status: &Status) -> String {
    caudal_proto::status::from_status(status).reason
}

pub(crate) fn request_id() -> String {
    Uuid::new_v4().to_string()
}

pub(crate) fn file(path: &str, size: i64) -> Entry {
    let file = FileEntry {
        size,
        ..FileEntry::default()
    };
    Entry {
        path: path.to_owned(),
        kind: Some(entry::Kind::File(file)),
    }
}

pub(crate) fn version() -> StageVersion {
    StageVersion {
        code: "test-1".into(),
        model: String::new(),
        options: String::new(),
    }
}

pub(crate) fn good(done: Done) -> Report {
    Report {
        took_us: 0,
        outcome: Some(report::Outcome::Done(done)),
    }
}

pub(crate) fn uploaded(media_type: &str) -> Report {
    good(Done {
        content_sha256: Bytes::from_static(&[9; 32]),
        media_type: media_type.into(),
        nonce: "n".into(),
        ..Done::default()
    })
}

pub(crate) fn done(has_text: bool) -> Report {
    good(Done {
        has_text,
        nonce: "n".into(),
        facts: Bytes::from_static(b"{\"words\":3}"),
        ..Done::default()
    })
}

pub(crate) fn finished(outcome: Outcome) -> Report {
    good(Done {
        outcome: outcome.into(),
        facts: Bytes::from_static(b"{\"path\":\"x\"}"),
        ..Done::default()
    })
}

pub(crate) fn failed(reason: &str) -> Report {
    let failed = Failed {
        reason: reason.into(),
        detail: "because".into(),
        ..Failed::default()
    };
    Report {
        took_us: 0,
        outcome: Some(report::Outcome::Failed(failed)),
    }
}
