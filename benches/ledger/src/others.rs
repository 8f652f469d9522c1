//! What else is measured: manifests, lone requests, memory while files wait, snapshots.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::{Stage, parse_batch_name};
use caudal_node::scope::SignedScope;
use caudal_proto::mesh::v1::GetSnapshotRequest;
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::operator_service_client::OperatorServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use caudal_proto::v1::watch_batch_response::Message;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::database::{Database, Kind};
use crate::mesh::{Mesh, Setup};
use crate::raw::Loop;
use crate::way;

/// The limit of a page of entries.
const LARGEST_PAGE: u32 = 1_000;
/// Lone requests of each kind; below what a tenant may call at once.
const LONE_REQUESTS: u32 = 300;
const LONE_FILES: u32 = 200;
/// How long a ledger may take to start on a large database.
const SETTLE: Duration = Duration::from_secs(3);
/// How long so many files may take to fail once.
const RETRYING_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// A message of the ledger: what the mesh's own channels take.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
const MIB: f64 = 1_048_576.0;

/// Manifest rows a second, and what memory that takes.
pub(crate) async fn manifest(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Value> {
    let mesh = Mesh::start(setup, Database::start(kind, false).await?, false).await?;
    let client = mesh.client().await?;
    // A first page, so that what every process keeps for its work is there before it is weighed.
    let warm = client.create_batch(v1::Batch::default()).await?;
    way::add(&client, &warm.name, LARGEST_PAGE, LARGEST_PAGE, false).await?;
    let before = mesh.memories()?;
    let spent = mesh.spent()?;
    let counters = mesh.counters().await?;
    let batch = client.create_batch(v1::Batch::default()).await?;
    let begun = Instant::now();
    way::add(&client, &batch.name, files, LARGEST_PAGE, false).await?;
    let took = begun.elapsed();
    let spent = mesh.spent()?.since(&spent);
    let counters = way::difference(&mesh.counters().await?, &counters);
    let mut memory = serde_json::Map::new();
    for ((name, before), (_, after)) in before.into_iter().zip(mesh.memories()?) {
        let figures = json!({"mib_before": mib(before.now), "mib_peak": mib(after.peak)});
        memory.insert(name.to_owned(), figures);
    }
    let figures = json!({
        "entries": files,
        "page": LARGEST_PAGE,
        "entries_per_second": (f64::from(files) / took.as_secs_f64()).round(),
        "cpu_micros_an_entry": spent.a_file(files),
        "groups": counters["writer_groups_total"],
        "group_ms_by_phase": way::by_phase(&counters),
        "memory": memory,
    });
    mesh.verify(files + LARGEST_PAGE).await?;
    Ok(figures)
}

type Signed = InterceptedService<Channel, SignedScope>;

/// The ledger, called with the tenant's scope and with no gateway between.
struct Direct {
    channel: Signed,
}

impl Direct {
    async fn new(mesh: &Mesh) -> anyhow::Result<Self> {
        let channel = caudal_node::Channels::default().channel(&mesh.address("ledger"))?;
        Ok(Self {
            channel: InterceptedService::new(channel, mesh.scope().await?),
        })
    }

    fn batches(&self) -> BatchServiceClient<Signed> {
        BatchServiceClient::new(self.channel.clone())
    }

    fn uploads(&self) -> UploadServiceClient<Signed> {
        UploadServiceClient::new(self.channel.clone())
    }

    async fn create(&self) -> anyhow::Result<v1::Batch> {
        let request = v1::CreateBatchRequest {
            batch: Some(v1::Batch::default()),
            request_id: Uuid::new_v4().to_string(),
        };
        let answer = self.batches().create_batch(request).await?;
        Ok(answer.into_inner())
    }

    async fn confirm(&self, batch: &str, ordinal: u32) -> anyhow::Result<()> {
        let request = v1::ConfirmUploadsRequest {
            batch: batch.to_owned(),
            uploads: way::confirmations(ordinal..ordinal + 1),
            request_id: Uuid::new_v4().to_string(),
        };
        let answer = self.uploads().confirm_uploads(request).await?;
        let first = answer.into_inner().confirmations.pop();
        let taken = first.and_then(|one| one.result);
        ensure!(
            matches!(taken, Some(v1::confirmation::Result::State(_))),
            "{taken:?}"
        );
        Ok(())
    }

    async fn processed(&self, batch: &str) -> anyhow::Result<u32> {
        let request = v1::GetBatchRequest {
            name: batch.to_owned(),
        };
        let answer = self.batches().get_batch(request).await?;
        Ok(answer.into_inner().counts.unwrap_or_default().processed)
    }
}

/// Times in order, and what is said of them.
struct Times(Vec<Duration>);

impl Times {
    /// Waits for `work`, and notes how long it took.
    async fn time<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let done = work.await?;
        self.0.push(begun.elapsed());
        Ok(done)
    }

    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    fn figures(&self) -> Value {
        json!({
            "p50_ms": milliseconds(self.at(0.5)),
            "p99_ms": milliseconds(self.at(0.99)),
            "requests": self.0.len(),
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

fn mib(bytes: u64) -> f64 {
    let bytes = bytes as f64;
    (bytes / MIB * 10.0).round() / 10.0
}

/// What the mesh adds to the transaction of a lone request, and how long a lone file takes.
pub(crate) async fn lone(setup: &Setup, kind: Kind) -> anyhow::Result<Value> {
    let database = Database::start(kind, false).await?;
    let mut raw = Loop::prepare(&database, LARGEST_PAGE).await?;
    raw.manifest(&(0..LARGEST_PAGE)).await?;
    // No stage takes up what is confirmed here, so that nothing else commits meanwhile.
    let mesh = Mesh::start(setup, Database::start(kind, false).await?, false).await?;
    let client = mesh.client().await?;
    let direct = Direct::new(&mesh).await?;
    let batch = direct.create().await?.name;
    way::add(&client, &batch, LARGEST_PAGE, LARGEST_PAGE, false).await?;
    // In turns, because what a commit waits for the disk differs from one second to the next.
    let (mut confirm, mut raw_confirm) = (Times(Vec::new()), Times(Vec::new()));
    for ordinal in 0..LONE_REQUESTS {
        confirm.time(direct.confirm(&batch, ordinal)).await?;
        raw_confirm
            .time(raw.confirm(&(ordinal..ordinal + 1)))
            .await?;
    }
    let (mut create, mut raw_create) = (Times(Vec::new()), Times(Vec::new()));
    for _ in 0..LONE_REQUESTS {
        create.time(direct.create()).await?;
        raw_create.time(raw.create_batch()).await?;
    }
    let mut through_gateway = Times(Vec::new());
    for ordinal in LONE_REQUESTS..2 * LONE_REQUESTS {
        let confirmations = way::confirmations(ordinal..ordinal + 1);
        let taken = through_gateway
            .time(client.confirm_uploads(&batch, confirmations))
            .await?;
        ensure!(taken.len() == 1);
    }
    mesh.verify(LARGEST_PAGE).await?;

    let file = lone_file(setup, kind).await?;
    let added = |mesh: &Times, raw: &Times, share: f64| {
        ((milliseconds(mesh.at(share)) - milliseconds(raw.at(share))) * 1e2).round() / 1e2
    };
    Ok(json!({
        "confirm_uploads": confirm.figures(),
        "confirm_uploads_raw": raw_confirm.figures(),
        "confirm_uploads_through_gateway": through_gateway.figures(),
        "create_batch": create.figures(),
        "create_batch_raw": raw_create.figures(),
        "added_ms": {
            "confirm_uploads_p50": added(&confirm, &raw_confirm, 0.5),
            "confirm_uploads_p99": added(&confirm, &raw_confirm, 0.99),
            "create_batch_p50": added(&create, &raw_create, 0.5),
            "create_batch_p99": added(&create, &raw_create, 0.99),
        },
        "confirm_to_processed": file.figures(),
    }))
}

/// One file after the other through all four stages, nothing else in the mesh.
async fn lone_file(setup: &Setup, kind: Kind) -> anyhow::Result<Times> {
    let mesh = Mesh::start(setup, Database::start(kind, false).await?, true).await?;
    let client = mesh.client().await?;
    let direct = Direct::new(&mesh).await?;
    let batch = direct.create().await?.name;
    way::add(&client, &batch, LONE_FILES, LARGEST_PAGE, false).await?;
    let mut times = Times(Vec::new());
    for ordinal in 0..LONE_FILES {
        let begun = Instant::now();
        direct.confirm(&batch, ordinal).await?;
        while direct.processed(&batch).await? <= ordinal {
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "{}",
                mesh.tails()
            );
        }
        times.0.push(begun.elapsed());
    }
    mesh.verify(LONE_FILES).await?;
    Ok(times)
}

/// Memory of the ledger while files wait for a stage that no process serves.
pub(crate) async fn waiting(setup: &Setup, kind: Kind, sizes: &[u32]) -> anyhow::Result<Value> {
    let mut figures = Vec::new();
    for files in sizes {
        let by_api = *files <= 100_000;
        let (mesh, took) = if by_api {
            waiting_by_api(setup, kind, *files).await
        } else {
            waiting_by_sql(setup, kind, *files).await
        }
        .with_context(|| format!("{files} files that wait"))?;
        tokio::time::sleep(SETTLE).await;
        let ledger = mesh.memory("ledger")?;
        let uploaded: i32 = mesh
            .database
            .value("SELECT max(n_uploaded) AS v FROM batch_progress")
            .await?;
        figures.push(json!({
            "files": files,
            "how": if by_api { "confirmed through the gateway" } else { "rows inserted by SQL, then the ledger started" },
            "seconds": took.as_secs_f64(),
            "still_uploaded": uploaded,
            "count_aged": count_aged(&mesh, *files, setup.window.unwrap_or(*files)).await?.figures(),
            "ledger_mib": mib(ledger.now),
            "ledger_peak_mib": mib(ledger.peak),
            "database_mib": mib(mesh.database.bytes().await?),
        }));
        mesh.verify(*files).await?;
    }
    Ok(Value::Array(figures))
}

/// Memory of the ledger while each of so many files has failed once, and waits for its next attempt.
pub(crate) async fn retrying(setup: &Setup, kind: Kind, sizes: &[u32]) -> anyhow::Result<Value> {
    let mut figures = Vec::new();
    for files in sizes {
        let mut mesh = Mesh::start(setup, Database::start(kind, false).await?, false).await?;
        let before = mesh.memory("ledger")?;
        mesh.failing_stage(Stage::Upload)?;
        let client = mesh.client().await?;
        let batch = client.create_batch(v1::Batch::default()).await?;
        let begun = Instant::now();
        way::add(&client, &batch.name, *files, LARGEST_PAGE, true).await?;
        let wanted = i32::try_from(*files)?;
        loop {
            let sql = "SELECT max(n_retrying) AS v FROM batch_progress";
            let retrying: i32 = mesh.database.value(sql).await?;
            if retrying == wanted {
                break;
            }
            ensure!(begun.elapsed() < RETRYING_PATIENCE, "{}", mesh.tails());
            tokio::time::sleep(SETTLE).await;
        }
        let took = begun.elapsed();
        tokio::time::sleep(SETTLE).await;
        let ledger = mesh.memory("ledger")?;
        figures.push(json!({
            "files": files,
            "seconds": took.as_secs_f64(),
            "ledger_mib_before": mib(before.now),
            "ledger_mib": mib(ledger.now),
            "ledger_peak_mib": mib(ledger.peak),
        }));
        mesh.verify(*files).await?;
    }
    Ok(Value::Array(figures))
}

/// How long the ledger takes to say how many files have waited for a second, by tenant and by stage.
async fn count_aged(mesh: &Mesh, files: u32, window: u32) -> anyhow::Result<Times> {
    const LOOKS: usize = 10;
    let channel = caudal_node::Channels::default().channel(&mesh.address("ledger"))?;
    let channel = InterceptedService::new(channel, mesh.operator_scope()?);
    let mut took = Times(Vec::new());
    for _ in 0..LOOKS {
        for group_by in [v1::AgedGrouping::Tenant, v1::AgedGrouping::Stage] {
            let request = Request::new(v1::CountAgedRequest {
                state: v1::FileState::Uploaded.into(),
                min_age: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                tenant: String::new(),
                group_by: group_by.into(),
            });
            let begun = Instant::now();
            let counted = OperatorServiceClient::new(channel.clone())
                .count_aged(request)
                .await?
                .into_inner();
            took.0.push(begun.elapsed());
            // The others are out, or going out.
            let waiting = files.saturating_sub(window)..=files;
            ensure!(waiting.contains(&counted.total), "{counted:?}");
        }
    }
    Ok(took)
}

async fn waiting_by_api(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<(Mesh, Duration)> {
    let mesh = Mesh::start(setup, Database::start(kind, false).await?, false).await?;
    let client = mesh.client().await?;
    let batch = client.create_batch(v1::Batch::default()).await?;
    let begun = Instant::now();
    way::add(&client, &batch.name, files, LARGEST_PAGE, true).await?;
    Ok((mesh, begun.elapsed()))
}

/// A million confirmations take minutes; what a ledger makes of a million waiting rows shows as well when it starts on them.
async fn waiting_by_sql(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<(Mesh, Duration)> {
    let database = Database::start(kind, false).await?;
    let mut raw = Loop::prepare(&database, files).await?;
    raw.insert_waiting().await?;
    drop(raw);
    let begun = Instant::now();
    let mesh = Mesh::start(setup, database, false).await?;
    Ok((mesh, begun.elapsed()))
}

/// How long a snapshot takes and how large it is, straight from the ledger and as a watcher sees it.
pub(crate) async fn snapshot(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Value> {
    const LOOKS: usize = 5;
    let mesh = Mesh::start(setup, Database::start(kind, false).await?, false).await?;
    let client = mesh.client().await?;
    let batch = client.create_batch(v1::Batch::default()).await?;
    way::add(&client, &batch.name, files, LARGEST_PAGE, false).await?;
    let id = parse_batch_name(&batch.name).map_err(|error| anyhow::anyhow!("{error}"))?;
    let direct = Direct::new(&mesh).await?;
    let (mut of_ledger, mut of_watch) = (Times(Vec::new()), Times(Vec::new()));
    let (mut ledger_bytes, mut watch_bytes, mut parts) = (0, 0, 0);
    for _ in 0..LOOKS {
        let begun = Instant::now();
        let request = GetSnapshotRequest {
            batch: id.as_bytes().to_vec().into(),
        };
        let mut stream = LedgerServiceClient::new(direct.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .get_snapshot(request)
            .await?
            .into_inner();
        let (mut rows, mut bytes, mut count) = (0, 0, 0);
        while let Some(part) = stream.message().await? {
            let part = part.snapshot.context("an empty part")?;
            bytes += part.encoded_len();
            count += 1;
            rows += part.files.map_or(0, |columns| columns.state.len());
        }
        of_ledger.0.push(begun.elapsed());
        ensure!(rows == files as usize, "{rows} rows");
        (ledger_bytes, parts) = (bytes, count);
    }
    for _ in 0..LOOKS {
        let begun = Instant::now();
        let mut stream = client.open_watch(&batch.name, 0).await?;
        let (mut rows, mut bytes) = (0, 0);
        while let Some(message) = stream.message().await? {
            bytes += message.encoded_len();
            let Some(Message::Snapshot(part)) = message.message else {
                continue;
            };
            rows += part.files.map_or(0, |columns| columns.state.len());
            if part.last {
                break;
            }
        }
        of_watch.0.push(begun.elapsed());
        ensure!(rows == files as usize, "{rows} rows");
        watch_bytes = bytes;
    }
    let figures = json!({
        "files": files,
        "get_snapshot": of_ledger.figures(),
        "get_snapshot_bytes": ledger_bytes,
        "parts": parts,
        "watch_batch": of_watch.figures(),
        "watch_batch_bytes": watch_bytes,
    });
    mesh.verify(files).await?;
    Ok(figures)
}
