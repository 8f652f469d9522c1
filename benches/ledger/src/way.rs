//! The way of a file over four hops, from CreateBatch to the end of the batch, through gateway, ledger, Redis and four
//! stages, every one its own process.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_proto::v1;
use caudal_sdk::Client;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::database::{Database, Kind};
use crate::mesh::{Mesh, Setup};

/// Folders of a batch.
pub(crate) const FOLDERS: u32 = 100;
/// Bytes of every file: what the manifest says, for nobody looks.
pub(crate) const FILE_BYTES: i64 = 1_000;
/// Files that go the way before a run is measured.
pub(crate) const WARM_UP: u32 = 100;
/// Pages of confirmations on their way at once.
const CONFIRMING: usize = 4;
/// How often the batch is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A batch that gets on so slowly has stopped.
const PATIENCE_A_FILE: Duration = Duration::from_millis(20);

/// A run of the way.
pub(crate) struct Way {
    pub(crate) files_per_second: f64,
    /// Microseconds of the database a file: Postgres's processes, or the ledger around SQLite.
    pub(crate) database_micros: f64,
    pub(crate) figures: Value,
}

/// Path of a file: folder after folder, as a tree is walked.
pub(crate) fn path(number: u32, files: u32) -> String {
    let folder = u64::from(number) * u64::from(FOLDERS) / u64::from(files);
    format!("folder-{folder:03}/file-{number:07}.txt")
}

/// A page of the manifest.
pub(crate) fn entries(from: u32, to: u32, files: u32) -> Vec<v1::Entry> {
    let entry = |number| v1::Entry {
        path: path(number, files),
        kind: Some(v1::entry::Kind::File(v1::FileEntry {
            size: FILE_BYTES,
            ..v1::FileEntry::default()
        })),
    };
    (from..to).map(entry).collect()
}

/// Confirmations of a page, with ETags that no store has given.
pub(crate) fn confirmations(ordinals: std::ops::Range<u32>) -> Vec<v1::Uploaded> {
    let uploaded = |ordinal| v1::Uploaded {
        ordinal,
        target: 1,
        etag: format!("\"{ordinal:032x}\""),
    };
    ordinals.map(uploaded).collect()
}

/// Adds a whole manifest, and confirms each page as soon as it is in if `confirmed`.
pub(crate) async fn add(
    client: &Client,
    batch: &str,
    files: u32,
    page: u32,
    confirmed: bool,
) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(CONFIRMING));
    let mut confirming = JoinSet::new();
    for from in (0..files).step_by(page as usize) {
        let to = files.min(from + page);
        let added = client
            .add_entries(batch, entries(from, to, files))
            .await
            .context("AddEntries")?;
        ensure!(added.new_count == to - from, "{added:?}");
        if !confirmed {
            continue;
        }
        let ordinals = added.first_ordinal..added.first_ordinal + added.new_count;
        let permit = room.clone().acquire_owned().await?;
        let (client, batch) = (client.clone(), batch.to_owned());
        confirming.spawn(async move {
            let taken = client
                .confirm_uploads(&batch, confirmations(ordinals))
                .await
                .context("ConfirmUploads")?;
            drop(permit);
            let refused = taken
                .into_iter()
                .find(|one| !matches!(one.result, Some(v1::confirmation::Result::State(_))));
            ensure!(refused.is_none(), "{refused:?}");
            anyhow::Ok(())
        });
    }
    while let Some(confirmed) = confirming.join_next().await {
        confirmed??;
    }
    Ok(())
}

/// Runs the way once on a new database.
pub(crate) async fn run(
    setup: &Setup,
    kind: Kind,
    files: u32,
    page: u32,
    profile: Option<&Path>,
) -> anyhow::Result<Way> {
    let database = Database::start(kind, profile.is_some() && kind == Kind::Postgres).await?;
    let mesh = Mesh::start(setup, database, true).await?;
    let measured = async {
        warm_up(&mesh).await?;
        measure(&mesh, files, page, profile).await
    };
    let measured = measured.await.with_context(|| mesh.tails())?;
    mesh.verify(files + WARM_UP).await?;
    Ok(measured)
}

/// A small batch: when it has ended the limiter, which only confirms at first what others hold already, has given slots to
/// every stage, and all connections are made.
pub(crate) async fn warm_up(mesh: &Mesh) -> anyhow::Result<()> {
    let client = mesh.client().await?;
    let batch = client.create_batch(v1::Batch::default()).await?;
    add(&client, &batch.name, WARM_UP, WARM_UP, true).await?;
    let wait = v1::MissingFiles::Wait;
    client.complete_batch(&batch.name, wait, WARM_UP).await?;
    ended(&client, &batch.name, WARM_UP).await?;
    Ok(())
}

async fn measure(
    mesh: &Mesh,
    files: u32,
    page: u32,
    profile: Option<&Path>,
) -> anyhow::Result<Way> {
    let kind = mesh.database.kind;
    let client = mesh.client().await?;
    let profilers = match profile {
        Some(folder) => start_profilers(mesh, folder)?,
        None => Vec::new(),
    };
    if profile.is_some() && kind == Kind::Postgres {
        mesh.database.forget_statements().await?;
    }
    let log_before = mesh.database.log_bytes().await?;
    let counters_before = mesh.counters().await?;
    let before = mesh.spent()?;
    let begun = Instant::now();

    let batch = client.create_batch(v1::Batch::default()).await?;
    add(&client, &batch.name, files, page, true).await?;
    let added = begun.elapsed();
    let wait = v1::MissingFiles::Wait;
    client.complete_batch(&batch.name, wait, files).await?;
    let batch = ended(&client, &batch.name, files).await?;

    let took = begun.elapsed();
    let spent = mesh.spent()?.since(&before);
    for profiler in profilers {
        profiler.end()?;
    }
    let counters = difference(&mesh.counters().await?, &counters_before);
    let log_bytes = match (mesh.database.log_bytes().await?, log_before) {
        (Some(now), Some(before)) => Some((now - before) / u64::from(files)),
        _ => None,
    };
    let counts = batch.counts.unwrap_or_default();
    ensure!(
        counts.total == files && counts.complete == files && counts.processed == files,
        "a file was lost: {counts:?}"
    );
    let files_per_second = f64::from(files) / took.as_secs_f64();
    let database_time = spent.of(crate::mesh::database_process(kind));
    let statements = if profile.is_some() && kind == Kind::Postgres {
        Some(mesh.database.statements().await?)
    } else {
        None
    };
    let figures = json!({
        "files_per_second": files_per_second.round(),
        "seconds": took.as_secs_f64(),
        "seconds_until_all_confirmed": added.as_secs_f64(),
        "cpu_micros_a_file": spent.a_file(files),
        "group_ms_by_phase": by_phase(&counters),
        "ledger_counters": counters,
        "database_bytes": mesh.database.bytes().await?,
        "wal_bytes_a_file": log_bytes,
        "ledger_peak_bytes": mesh.memory("ledger")?.peak,
        "statements": statements,
    });
    Ok(Way {
        files_per_second,
        database_micros: database_time.as_secs_f64() * 1e6 / f64::from(files),
        figures,
    })
}

/// Waits for the end of a batch.
pub(crate) async fn ended(client: &Client, batch: &str, files: u32) -> anyhow::Result<v1::Batch> {
    let begun = Instant::now();
    let patience = PATIENCE_A_FILE * files + Duration::from_secs(30);
    loop {
        let now = client.get_batch(batch).await?;
        match now.state() {
            v1::BatchState::Succeeded => return Ok(now),
            v1::BatchState::Failed | v1::BatchState::Cancelled => {
                anyhow::bail!("the batch ended otherwise than well: {now:?}")
            }
            _ => {}
        }
        ensure!(
            begun.elapsed() < patience,
            "the batch stands still: {now:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// By how much counters rose.
pub(crate) fn difference(now: &Value, before: &Value) -> Value {
    let mut risen = serde_json::Map::new();
    if let Some(now) = now.as_object() {
        for (name, value) in now {
            let earlier = before.get(name).and_then(Value::as_f64).unwrap_or_default();
            let value = value.as_f64().unwrap_or_default() - earlier;
            risen.insert(name.clone(), json!((value * 1e3).round() / 1e3));
        }
    }
    Value::Object(risen)
}

/// How long a group spent in each phase, in milliseconds, in the mean.
pub(crate) fn by_phase(counters: &Value) -> Value {
    let mut phases = serde_json::Map::new();
    let counters = counters.as_object().into_iter().flatten();
    let counters: HashMap<&str, f64> = counters
        .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
        .collect();
    for (name, seconds) in &counters {
        let Some(phase) = name.strip_prefix("writer_phase_seconds_sum.") else {
            continue;
        };
        let groups = counters.get(format!("writer_phase_seconds_count.{phase}").as_str());
        if let Some(groups) = groups.filter(|groups| **groups > 0.0) {
            let milliseconds = (seconds / groups * 1e5).round() / 1e2;
            phases.insert(phase.to_owned(), json!(milliseconds));
        }
    }
    Value::Object(phases)
}

/// A `perf record` of one process or family.
struct Profiler {
    child: Child,
    data: std::path::PathBuf,
}

fn start_profilers(mesh: &Mesh, folder: &Path) -> anyhow::Result<Vec<Profiler>> {
    std::fs::create_dir_all(folder)?;
    let mut wanted = vec![("ledger", vec![mesh.pid("ledger")?])];
    wanted.push(("upload", vec![mesh.pid("upload")?]));
    wanted.push(("gateway", vec![mesh.pid("gateway")?]));
    if let Some(postmaster) = mesh.database.postmaster() {
        wanted.push(("postgres", crate::cost::children(postmaster)?));
    }
    let mut profilers = Vec::new();
    for (name, pids) in wanted {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let file = format!("{}-{name}.data", mesh.database.kind.name());
        let data = folder.join(file);
        let child = Command::new("perf")
            .args(["record", "-q", "-F", "499", "-g", "-o"])
            .arg(&data)
            .args(["-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("perf does not run")?;
        profilers.push(Profiler { child, data });
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok(profilers)
}

impl Profiler {
    /// Ends it, and writes what it saw beside its data: by symbol, and by the callers of each.
    fn end(mut self) -> anyhow::Result<()> {
        Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()?;
        self.child.wait()?;
        for (ending, arguments) in [
            ("symbols.txt", ["-g", "none", "--no-children"].as_slice()),
            ("callers.txt", ["-g", "none", "--children"].as_slice()),
        ] {
            let report = Command::new("perf")
                .args(["report", "--stdio", "--percent-limit", "0.4", "-i"])
                .arg(&self.data)
                .args(arguments)
                .stderr(Stdio::null())
                .output()?;
            std::fs::write(self.data.with_extension(ending), report.stdout)?;
        }
        Ok(())
    }
}
