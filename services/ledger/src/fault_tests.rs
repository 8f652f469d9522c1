//! The database fails at every point of the writer's transactions in turn, and whatever was answered is in it all the same.
//! A verb that panics harms nobody else.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{FileRef, Stage, Token, names};
use caudal_harness::{Postgres, Redis, until};
use caudal_node::scope::{MeshSecret, Role, Scope, SignedScope};
use caudal_proto::convert::file_tokens_to_proto;
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::mesh::v1::{
    CheckCredentialRequest, Done, LeaseRequest, Report, ReportRequest, ReportVerdict, StageVersion,
    report,
};
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use caudal_proto::v1::{
    AddEntriesRequest, Batch, CompleteBatchRequest, ConfirmUploadsRequest, CreateBatchRequest,
    Entry, FileEntry, Outcome, Uploaded, entry,
};
use caudal_streams::{Names, Reader, Streams};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::store::faults::{Faults, Kind, Point};
use crate::{Bootstrap, KeyRecord, Ledger, LedgerSettings};

const PATIENCE: Duration = Duration::from_secs(20);
/// Files of a batch.
const FILES: u32 = 3;
/// More points than one history has: a history that never ends without a fault is a fault.
const MOST_POINTS: u64 = 2_000;

type Signed = InterceptedService<Channel, SignedScope>;

/// A ledger whose database fails as planned, its callers, and another connection to the same database.
struct Stand {
    faults: Arc<Faults>,
    ledger: crate::RunningLedger,
    url: String,
    redis: Redis,
    channel: Channel,
    secret: MeshSecret,
    batches: BatchServiceClient<Signed>,
    uploads: UploadServiceClient<Signed>,
    other: DatabaseConnection,
    streams: Streams,
    _folder: TempDir,
}

impl Stand {
    async fn start(url: impl FnOnce(&TempDir) -> String) -> Self {
        let folder = TempDir::new().unwrap();
        let url = url(&folder);
        let redis = Redis::start().await.unwrap();
        let faults = Faults::of_next(&url);
        let secret = MeshSecret::generate();
        let mut settings = LedgerSettings::new(&url, redis.url(), secret.clone());
        let key = |id: &str| KeyRecord {
            id: id.to_owned(),
            secret_sha256: [7; 32],
        };
        settings.bootstrap = Some(Bootstrap {
            tenant_name: "default".into(),
            api_key: key("member"),
            operator_key: key("operator"),
        });
        settings.reconcile_every = Duration::from_millis(50);
        settings.reconcile_age = Duration::from_millis(300);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ledger = Ledger::start(settings, listener, CancellationToken::new())
            .await
            .unwrap();
        let address = format!("http://{}", ledger.address());
        let channel = caudal_node::Channels::default().channel(&address).unwrap();
        let signed = |scope| {
            let signer = SignedScope::new(scope, secret.clone());
            InterceptedService::new(channel.clone(), signer)
        };
        let mut gateway = LedgerServiceClient::new(signed(Scope::service("gateway")));
        let request = CheckCredentialRequest {
            key_id: "member".into(),
            secret_sha256: Bytes::from_static(&[7; 32]),
            only_asked: false,
        };
        let answer = gateway
            .check_credential(request)
            .await
            .unwrap()
            .into_inner();
        let tenant = caudal_domain::TenantId::from_slice(&answer.scope.unwrap().tenant).unwrap();
        let member = || {
            signed(Scope {
                tenant: Some(tenant),
                principal: "test".into(),
                role: Role::Member,
                batch: None,
                key_id: String::new(),
            })
        };
        let batches = BatchServiceClient::new(member());
        let uploads = UploadServiceClient::new(member());
        Self {
            faults,
            batches,
            uploads,
            streams: Streams::connect(&redis.url(), Names::new(caudal_streams::DEFAULT_PREFIX))
                .unwrap(),
            other: Database::connect(&url).await.unwrap(),
            ledger,
            url,
            redis,
            channel,
            secret,
            _folder: folder,
        }
    }

    /// The ledger, as a process of this stage calls it.
    fn mesh(&self, stage: Stage) -> LedgerServiceClient<Signed> {
        let signer = SignedScope::new(Scope::service(stage.name()), self.secret.clone());
        LedgerServiceClient::new(InterceptedService::new(self.channel.clone(), signer))
    }

    /// What another connection counts.
    async fn committed(&self, sql: &str) -> i64 {
        let statement = Statement::from_string(self.other.get_database_backend(), sql.to_owned());
        let row = self.other.query_one_raw(statement).await.unwrap().unwrap();
        row.try_get("", "n").unwrap()
    }

    /// A batch from its beginning to its end. After each answer another connection must see what was answered.
    async fn history(&self, number: u64) {
        let name = format!("batch {number}");
        let of_batch = format!(
            "FROM batches AS b JOIN {{}} AS x ON x.batch_id = b.batch_id WHERE b.name = '{name}'"
        );
        let of = |table: &str, and: &str| {
            format!(
                "SELECT count(*) AS n {} {and}",
                of_batch.replace("{}", table)
            )
        };

        let request = CreateBatchRequest {
            batch: Some(Batch {
                name: String::new(),
                display_name: name.clone(),
                ..Batch::default()
            }),
            request_id: Uuid::new_v4().to_string(),
        };
        let made = answered(|| {
            let (mut client, request) = (self.batches.clone(), request.clone());
            async move { client.create_batch(request).await }
        })
        .await;
        assert_eq!(self.committed(&of("batch_progress", "")).await, 1);

        let entry = |ordinal: u32| Entry {
            path: format!("in/{number}/{ordinal}.bin"),
            kind: Some(entry::Kind::File(FileEntry {
                size: 10,
                ..FileEntry::default()
            })),
        };
        let request = AddEntriesRequest {
            batch: made.name.clone(),
            entries: (0..FILES).map(entry).collect(),
            request_id: Uuid::new_v4().to_string(),
        };
        answered(|| {
            let (mut client, request) = (self.batches.clone(), request.clone());
            async move { client.add_entries(request).await }
        })
        .await;
        let files = i64::from(FILES);
        assert_eq!(self.committed(&of("file_work", "")).await, files);

        let uploaded = |ordinal| Uploaded {
            ordinal,
            target: 1,
            etag: "e".into(),
        };
        let request = ConfirmUploadsRequest {
            batch: made.name.clone(),
            uploads: (0..FILES).map(uploaded).collect(),
            request_id: Uuid::new_v4().to_string(),
        };
        answered(|| {
            let (mut client, request) = (self.uploads.clone(), request.clone());
            async move { client.confirm_uploads(request).await }
        })
        .await;
        let arrived = of("file_work", "AND x.etag IS NOT NULL AND x.state >= 3");
        assert_eq!(self.committed(&arrived).await, files);

        let request = CompleteBatchRequest {
            name: made.name.clone(),
            request_id: Uuid::new_v4().to_string(),
            ..CompleteBatchRequest::default()
        };
        answered(|| {
            let (mut client, request) = (self.batches.clone(), request.clone());
            async move { client.complete_batch(request).await }
        })
        .await;
        let complete = of("batch_progress", "AND x.manifest_complete");
        assert_eq!(self.committed(&complete).await, 1);

        let batch = names::parse_batch_name(&made.name).unwrap();
        for (stage, done) in [
            (
                Stage::Upload,
                Done {
                    content_sha256: Bytes::from_static(&[9; 32]),
                    media_type: "application/x-unknown".into(),
                    nonce: "n".into(),
                    ..Done::default()
                },
            ),
            (
                Stage::Metadata,
                Done {
                    outcome: Outcome::StoredOnly.into(),
                    facts: Bytes::from_static(b"{\"path\":\"x\"}"),
                    ..Done::default()
                },
            ),
        ] {
            let mut reader = self.streams.reader(stage, &Uuid::new_v4().to_string());
            let mut recorded = BTreeMap::new();
            let begun = std::time::Instant::now();
            while recorded.len() < FILES as usize {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{stage} of batch {number}: {recorded:?}"
                );
                let held = read(&mut reader, batch).await;
                self.work(stage, &done, &held, &mut recorded).await;
                let results = of("stage_results", &format!("AND x.stage = {}", stage.code()));
                let found = self.committed(&results).await;
                assert!(
                    found >= i64::try_from(recorded.len()).unwrap(),
                    "{} were answered RECORDED, another connection sees {found}",
                    recorded.len()
                );
            }
        }
        let ended = of("batch_progress", "AND x.ended_at IS NOT NULL");
        assert_eq!(
            self.committed(&ended.replace("x.ended_at", "b.ended_at"))
                .await,
            1
        );
    }

    /// Leases and reports what is held.
    async fn work(
        &self,
        stage: Stage,
        done: &Done,
        held: &[(FileRef, Token)],
        recorded: &mut BTreeMap<FileRef, Token>,
    ) {
        if held.is_empty() {
            return;
        }
        let files = || Some(file_tokens_to_proto(held.iter().copied()));
        let stage_version = || {
            Some(StageVersion {
                code: "test-1".into(),
                ..StageVersion::default()
            })
        };
        let request = LeaseRequest {
            stage: stage.name().into(),
            process: "test".into(),
            stage_version: stage_version(),
            files: files(),
        };
        answered(|| {
            let (mut client, request) = (self.mesh(stage), request.clone());
            async move { client.lease(request).await }
        })
        .await;
        let good = Report {
            took_us: 0,
            outcome: Some(report::Outcome::Done(done.clone())),
        };
        let request = ReportRequest {
            slots: 0,
            stage: stage.name().into(),
            process: "test".into(),
            stage_version: stage_version(),
            files: files(),
            reports: vec![good; held.len()],
        };
        let answer = answered(|| {
            let (mut client, request) = (self.mesh(stage), request.clone());
            async move { client.report(request).await }
        })
        .await;
        for (verdict, (file, token)) in answer.verdicts().zip(held) {
            if verdict == ReportVerdict::Recorded {
                recorded.insert(*file, *token);
            }
        }
    }

    /// Ends the ledger as a crash does, and checks every invariant.
    async fn crash_and_verify(self) {
        self.ledger.abort();
        self.other.close().await.unwrap();
        let report = crate::verify(&self.url, Some(&self.redis.url()), None)
            .await
            .unwrap();
        assert!(report.holds(), "{:#?}", report.violations);
    }
}

/// The next dispatches of files of a batch; those of others are left pending.
async fn read(reader: &mut Reader, batch: caudal_domain::BatchId) -> Vec<(FileRef, Token)> {
    let Ok(read) = reader.read(16, Duration::from_millis(50)).await else {
        return Vec::new();
    };
    let files = read.entries.iter().flat_map(|entry| &entry.files).copied();
    files.filter(|(file, _)| file.batch == batch).collect()
}

/// Makes a call until it is answered; whatever refuses it is UNAVAILABLE, in words that say why.
async fn answered<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    until("an answer", PATIENCE, || {
        let call = call();
        async {
            match call.await {
                Ok(answer) => Some(answer.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    None
                }
            }
        }
    })
    .await
    .unwrap()
}

/// One history after another, each with a fault one point later than the one before, until one ends without.
async fn ok_means_committed(kind: Kind, url: impl FnOnce(&TempDir) -> String) {
    let stand = Stand::start(url).await;
    let mut hit: BTreeMap<Point, usize> = BTreeMap::new();
    let mut histories = 0;
    // Every point in turn, sometimes with those after it: the ROLLBACK, or the BEGIN of the next try. Then every COMMIT in
    // turn with the next one, for what one leaves behind the next may build on.
    for only in [None, Some(Point::Commit)] {
        for pass in 0.. {
            assert!(pass < MOST_POINTS, "no history without a fault");
            let fail = if only.is_some() { 2 } else { 1 + pass % 3 };
            stand.faults.arm(kind, pass, fail, only);
            stand.history(histories).await;
            histories += 1;
            let points = stand.faults.disarm();
            if points.is_empty() {
                break;
            }
            for point in points {
                *hit.entry(point).or_default() += 1;
            }
        }
    }
    println!("{histories} histories, faults: {hit:?}");
    assert_eq!(hit.len(), 4, "not every sort of point was hit: {hit:?}");
    stand.crash_and_verify().await;
}

fn sqlite(folder: &TempDir) -> String {
    format!("sqlite:{}", folder.path().join("ledger.sqlite").display())
}

fn postgres(_: &TempDir) -> String {
    Postgres::new_database().unwrap()
}

// Protocol 12.4: RECORDED means committed as another connection sees it, and so does every other answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_sqlite_is_full_at_any_point() {
    ok_means_committed(Kind::Full, sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_sqlites_disk_fails_at_any_point() {
    ok_means_committed(Kind::Io, sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_sqlite_has_no_memory_at_any_point() {
    ok_means_committed(Kind::Memory, sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_postgres_is_full_at_any_point() {
    ok_means_committed(Kind::Full, postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_postgres_disk_fails_at_any_point() {
    ok_means_committed(Kind::Io, postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_means_committed_when_postgres_has_no_memory_at_any_point() {
    ok_means_committed(Kind::Memory, postgres).await;
}

async fn create(stand: &Stand, name: &str) -> Result<(), Status> {
    let request = CreateBatchRequest {
        batch: Some(Batch {
            display_name: name.to_owned(),
            ..Batch::default()
        }),
        request_id: Uuid::new_v4().to_string(),
    };
    stand.batches.clone().create_batch(request).await.map(drop)
}

// A caller repeats what is UNAVAILABLE at the ledger that leads next; what panics is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_panics_is_answered_so_that_nobody_brings_it_to_the_next_ledger() {
    let stand = Stand::start(postgres).await;
    let epoch = "SELECT epoch AS n FROM leadership WHERE id = 1";
    let before = stand.committed(epoch).await;
    for _ in 0..20 {
        let (poison, one, other) = tokio::join!(
            create(&stand, "poison"),
            create(&stand, "one"),
            create(&stand, "other")
        );
        assert_eq!(poison.unwrap_err().code(), Code::Internal);
        one.unwrap();
        other.unwrap();
    }
    assert_eq!(stand.committed(epoch).await, before, "the leadership moved");
    let made = "SELECT count(*) AS n FROM batches";
    assert_eq!(stand.committed(made).await, 40);
    stand.crash_and_verify().await;
}
