//! Measures the ways to send files: tus beside the reference server of that protocol, on the same disk and by the same client;
//! presigned URLs, whole and in parts, beside the raw disk; URLs a second; memory while many send by tus; and how long a tree
//! takes of which nothing has changed. Prints one table. Build first: `cargo build --release -p caudal -p caudal-bench-uploads`.

mod server;
mod wire;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_objects::{ObjectStore, Settings};
use caudal_sdk::{Client, v1};
use clap::{Parser, ValueEnum};
use futures::StreamExt as _;
use futures::stream;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::server::{Server, System};
use crate::wire::Request;

const MIB: u64 = 1 << 20;
/// The largest file that goes in one PUT.
const PUT_BYTES: u64 = 16 * MIB;
/// PUTs and parts at once.
const AT_ONCE: usize = 4;
const URLS_A_CALL: u32 = 200;
/// Between two uploads that are begun, so that the tenant's calls a second are not passed.
const BEGUN_EVERY: Duration = Duration::from_millis(20);
/// Of each upload by tus that is open while memory is measured.
const HELD_BYTES: u64 = MIB;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// MB a second and a CPU second by tus, and of @tus/server
    Tus,
    /// MB a second by presigned URLs, whole and in parts, and of the disk
    Presigned,
    /// URLs a second
    Urls,
    /// Memory of the system with many uploads by tus at once
    Memory,
    /// A tree that is taken in a second time
    Unchanged,
}

/// Measures the ways to send files; prints one table
#[derive(Debug, Parser)]
struct Options {
    /// What to measure; all when left out
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// MiB of each transfer
    #[arg(long, default_value_t = 2_048)]
    mib: u64,
    /// Uploads by tus at once
    #[arg(long, default_value_t = 1_000)]
    uploads: usize,
    /// Files of the tree
    #[arg(long, default_value_t = 100_000)]
    files: u32,
    /// Seconds for which URLs are asked for
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Sizes for a look that takes about a minute: 256 MiB, 100 uploads, 1,000 files, 2 s
    #[arg(long)]
    short: bool,
    /// The disk to measure on: a folder of it
    #[arg(long, default_value = ".caudal")]
    dir: PathBuf,
    /// The command
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Lines of the table.
struct Table(Vec<(String, String, String)>);

impl Table {
    fn add(&mut self, what: &str, figure: String, note: String) {
        eprintln!("{what}: {figure} {note}");
        self.0.push((what.to_owned(), figure, note));
    }

    fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        for (what, figure, note) in &self.0 {
            writeln!(out, "{what:<44} {figure:>16}   {note}")?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    if options.short {
        (options.mib, options.uploads) = (256, 100);
        (options.files, options.seconds) = (1_000, 2);
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        // Beside this one.
        None => std::env::current_exe()?.with_file_name("caudal"),
    };
    ensure!(binary.exists(), "{} is not built", binary.display());
    std::fs::create_dir_all(&options.dir)?;
    let scratch = tempfile::tempdir_in(&options.dir)?;
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut table = Table(Vec::new());
    if wants(Part::Tus) {
        tus(&binary, scratch.path(), options.mib, &mut table).await?;
    }
    if wants(Part::Presigned) {
        presigned(&binary, scratch.path(), options.mib, &mut table).await?;
    }
    if wants(Part::Urls) {
        urls(&binary, scratch.path(), options.seconds, &mut table).await?;
    }
    if wants(Part::Memory) {
        memory(&binary, scratch.path(), options.uploads, &mut table).await?;
    }
    if wants(Part::Unchanged) {
        unchanged(&binary, scratch.path(), options.files, &mut table)?;
    }
    table.print()
}

/// Bytes that no disk and no store makes smaller.
fn noise() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(256 << 10);
    while bytes.len() < 256 << 10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn mb_a_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds
}

/// Begins one upload by tus, and the request that sends its bytes.
async fn begin_by_tus(endpoint: &str, key: Option<&str>, bytes: u64) -> anyhow::Result<Request> {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let length = bytes.to_string();
    let mut headers = vec![("Tus-Resumable", "1.0.0")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    let created = [
        &headers[..],
        &[
            ("Upload-Length", length.as_str()),
            ("Upload-Metadata", "filename YmVuY2guYmlu"),
            ("Content-Length", "0"),
        ],
    ];
    let created = Request::begin("POST", endpoint, &created.concat())
        .await?
        .end()
        .await?;
    let place = located(endpoint, created.header("location")?)?;
    let patched = [
        &headers[..],
        &[
            ("Upload-Offset", "0"),
            ("Content-Type", "application/offset+octet-stream"),
            ("Content-Length", length.as_str()),
        ],
    ];
    Request::begin("PATCH", &place, &patched.concat()).await
}

/// Sends one upload by tus; how long that took.
async fn send_by_tus(endpoint: &str, key: Option<&str>, bytes: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut patch = begin_by_tus(endpoint, key, bytes).await?;
    patch.send(&noise(), bytes).await?;
    let answer = patch.end().await?;
    ensure!(
        answer.header("upload-offset")? == bytes.to_string(),
        "not all arrived"
    );
    Ok(begun.elapsed())
}

/// The address that a Location names.
fn located(endpoint: &str, location: &str) -> anyhow::Result<String> {
    if location.starts_with("http://") {
        return Ok(location.to_owned());
    }
    let rest = endpoint.strip_prefix("http://").context("no http URL")?;
    let (host, _) = rest.split_once('/').context("no path in the URL")?;
    match location.strip_prefix("//") {
        Some(without_scheme) => Ok(format!("http://{without_scheme}")),
        None => Ok(format!("http://{host}{location}")),
    }
}

async fn tus(binary: &Path, scratch: &Path, mib: u64, table: &mut Table) -> anyhow::Result<()> {
    let bytes = mib * MIB;
    let system = System::start(binary, &scratch.join("tus"))?;
    let endpoint = format!("{}/files", system.gateway);
    let ours = measured(&system.server, &endpoint, Some(&system.key), bytes).await?;
    drop(system);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers/tus-server.mjs");
    let folder = scratch.join("peer");
    std::fs::create_dir_all(&folder)?;
    let mut node = Command::new("node");
    let peer = Server::start(node.arg(script).arg(&folder), &scratch.join("peer.log"))?;
    let endpoint = format!("http://127.0.0.1:{}/files", peer.said.trim());
    let theirs = measured(&peer, &endpoint, None, bytes).await?;
    for (name, (rate, by_cpu)) in [("tus", ours), ("tus, @tus/server", theirs)] {
        let note = format!("{by_cpu:.0} MB a CPU second");
        table.add(name, format!("{rate:.0} MB/s"), note);
    }
    let ratio = format!("{:.2}", ours.1 / theirs.1);
    table.add(
        "tus beside @tus/server, a CPU second",
        ratio,
        "target 2".to_owned(),
    );
    Ok(())
}

/// MB a second and a CPU second of one upload, after a small one that warms the server up.
async fn measured(
    server: &Server,
    endpoint: &str,
    key: Option<&str>,
    bytes: u64,
) -> anyhow::Result<(f64, f64)> {
    send_by_tus(endpoint, key, 8 * MIB).await?;
    let before = server.cpu()?;
    let took = send_by_tus(endpoint, key, bytes).await?.as_secs_f64();
    // The system looks through the file after its answer; the peer does no such thing.
    let cpu = (server.cpu()? - before).max(0.01);
    Ok((mb_a_second(bytes, took), mb_a_second(bytes, cpu)))
}

async fn batch_of(client: &Client, files: impl Iterator<Item = u64>) -> anyhow::Result<String> {
    let batch = client.create_batch(v1::Batch::default()).await?.name;
    let entries: Vec<v1::Entry> = files
        .enumerate()
        .map(|(number, size)| v1::Entry {
            path: format!("{number}.bin"),
            kind: Some(v1::entry::Kind::File(v1::FileEntry {
                size: i64::try_from(size).unwrap_or(i64::MAX),
                ..v1::FileEntry::default()
            })),
        })
        .collect();
    for page in entries.chunks(1_000) {
        client.add_entries(&batch, page.to_vec()).await?;
    }
    Ok(batch)
}

/// Puts the bytes of a URL.
async fn put(url: &str, size: u64, headers: &[v1::Header]) -> anyhow::Result<()> {
    let length = size.to_string();
    let mut all = vec![("Content-Length", length.as_str())];
    let others = headers
        .iter()
        .filter(|header| header.name != "content-length");
    all.extend(others.map(|header| (header.name.as_str(), header.value.as_str())));
    let mut request = Request::begin("PUT", url, &all).await?;
    request.send(&noise(), size).await?;
    request.end().await?;
    Ok(())
}

async fn presigned(
    binary: &Path,
    scratch: &Path,
    mib: u64,
    table: &mut Table,
) -> anyhow::Result<()> {
    let bytes = mib * MIB;
    let files = u32::try_from(bytes / PUT_BYTES)?.max(1);
    let disk = raw_disk(scratch, files)?;
    table.add(
        "the raw disk, files of 16 MiB, synced",
        format!("{disk:.0} MB/s"),
        String::new(),
    );
    let system = System::start(binary, &scratch.join("presigned"))?;
    let client = Client::connect(&system.gateway, &system.key).await?;

    let batch = batch_of(&client, (0..files).map(|_| PUT_BYTES)).await?;
    let mut targets = Vec::new();
    let ordinals: Vec<u32> = (0..files).collect();
    for page in ordinals.chunks(URLS_A_CALL as usize) {
        targets.extend(client.issue_uploads(&batch, page.to_vec()).await?);
    }
    let begun = Instant::now();
    let puts = targets.iter().map(|target| async move {
        let Some(v1::upload_target::How::Put(target)) = &target.how else {
            anyhow::bail!("no PUT: {target:?}");
        };
        put(&target.url, PUT_BYTES, &target.headers).await
    });
    let puts = stream::iter(puts).buffer_unordered(AT_ONCE);
    all_well(puts.collect().await)?;
    let rate = mb_a_second(u64::from(files) * PUT_BYTES, begun.elapsed().as_secs_f64());
    let note = format!("{:.2} of the disk, target 0.9", rate / disk);
    table.add(
        "presigned PUT, files of 16 MiB",
        format!("{rate:.0} MB/s"),
        note,
    );

    let batch = batch_of(&client, std::iter::once(bytes)).await?;
    let begun = Instant::now();
    loop {
        let target = client.issue_uploads(&batch, vec![0]).await?.remove(0);
        let Some(v1::upload_target::How::Multipart(parts)) = target.how else {
            anyhow::bail!("no parts: {target:?}");
        };
        if parts.first_parts.is_empty() {
            break;
        }
        let puts = parts
            .first_parts
            .iter()
            .map(|part| async move { put(&part.url, u64::try_from(part.size)?, &[]).await });
        let puts = stream::iter(puts).buffer_unordered(AT_ONCE);
        all_well(puts.collect().await)?;
    }
    let rate = mb_a_second(bytes, begun.elapsed().as_secs_f64());
    let note = format!("{:.2} of the disk, target 0.9", rate / disk);
    table.add(
        "presigned parts of one file",
        format!("{rate:.0} MB/s"),
        note,
    );
    Ok(())
}

fn all_well(results: Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    results.into_iter().collect()
}

/// What the disk takes: as many files of 16 MiB at once as are put, each synced as the store syncs it.
fn raw_disk(scratch: &Path, files: u32) -> anyhow::Result<f64> {
    let folder = scratch.join("raw");
    std::fs::create_dir_all(&folder)?;
    let noise = noise();
    let next = std::sync::atomic::AtomicU32::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> std::io::Result<()> {
                    loop {
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if number >= files {
                            return Ok(());
                        }
                        let mut file = std::fs::File::create(folder.join(number.to_string()))?;
                        for _ in 0..PUT_BYTES / noise.len() as u64 {
                            file.write_all(&noise)?;
                        }
                        file.sync_all()?;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let took = begun.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&folder)?;
    Ok(mb_a_second(u64::from(files) * PUT_BYTES, took))
}

async fn urls(
    binary: &Path,
    scratch: &Path,
    seconds: u64,
    table: &mut Table,
) -> anyhow::Result<()> {
    let settings = Settings::new(
        "http://127.0.0.1:1",
        "bucket",
        "access",
        "a secret of nobody",
    );
    let store = ObjectStore::connect(settings)?;
    let time = Duration::from_secs(seconds);
    let (begun, mut signed) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        for number in 0..100 {
            let key = format!("tenant/landing/batch/{signed}/{number}");
            store
                .presign_put(&key, 1_000, None, Duration::from_secs(3_600))
                .await?;
        }
        signed += 100;
    }
    let rate = f64::from(signed) / begun.elapsed().as_secs_f64();
    table.add(
        "URLs signed a second, one core",
        format!("{rate:.0}"),
        "target 100,000".to_owned(),
    );

    let system = System::start(binary, &scratch.join("urls"))?;
    let client = Client::connect(&system.gateway, &system.key).await?;
    let batch = batch_of(&client, (0..URLS_A_CALL).map(|_| 1_000)).await?;
    let before = system.server.cpu()?;
    let begun = Instant::now();
    let ask = || async {
        let mut urls = 0;
        while begun.elapsed() < time {
            let ordinals = (0..URLS_A_CALL).collect();
            urls += client.issue_uploads(&batch, ordinals).await?.len();
        }
        anyhow::Ok(urls)
    };
    let asked = stream::iter((0..AT_ONCE).map(|_| ask())).buffer_unordered(AT_ONCE);
    let asked: Vec<anyhow::Result<usize>> = asked.collect().await;
    let asked: usize = asked.into_iter().sum::<anyhow::Result<usize>>()?;
    let cpu = (system.server.cpu()? - before).max(0.01);
    let note = format!("{:.0} a CPU second of the whole system", asked as f64 / cpu);
    let rate = asked as f64 / begun.elapsed().as_secs_f64();
    table.add(
        "URLs asked for a second, 200 a call",
        format!("{rate:.0}"),
        note,
    );
    Ok(())
}

async fn memory(
    binary: &Path,
    scratch: &Path,
    uploads: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let system = System::start(binary, &scratch.join("memory"))?;
    let endpoint = format!("{}/files", system.gateway);
    send_by_tus(&endpoint, Some(&system.key), 8 * MIB).await?;
    let before = system.server.memory()?;
    let pace = Mutex::new(tokio::time::interval(BEGUN_EVERY));
    let begin = || async {
        pace.lock().await.tick().await;
        let mut patch = begin_by_tus(&endpoint, Some(&system.key), HELD_BYTES * 2).await?;
        patch.send(&noise(), HELD_BYTES).await?;
        anyhow::Ok(patch)
    };
    // Half of each is sent, and the rest is kept back while all are open.
    let begun = stream::iter((0..uploads).map(|_| begin())).buffer_unordered(64);
    let begun: Vec<anyhow::Result<Request>> = begun.collect().await;
    let mut open = begun
        .into_iter()
        .collect::<anyhow::Result<Vec<Request>>>()?;
    let (mut most, until) = (0_f64, Instant::now() + Duration::from_secs(3));
    while Instant::now() < until {
        most = most.max(system.server.memory()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let noise = noise();
    let mut refused = 0;
    for patch in &mut open {
        // One that found no memory was answered already, and closed.
        if patch.send(&noise, HELD_BYTES).await.is_err() {
            refused += 1;
        }
    }
    for patch in open {
        if patch.end().await.is_err() {
            refused += 1;
        }
    }
    most = most.max(system.server.memory()?);
    let what = format!("memory with {uploads} uploads by tus open");
    let note = format!("{before:.0} MiB before; {refused} were told to come again");
    table.add(&what, format!("{most:.0} MiB"), note);
    Ok(())
}

fn unchanged(binary: &Path, scratch: &Path, files: u32, table: &mut Table) -> anyhow::Result<()> {
    let tree = scratch.join("tree");
    for number in 0..files {
        let folder = tree.join(format!("{:03}", number % 100));
        if number < 100 {
            std::fs::create_dir_all(&folder)?;
        }
        let line = format!("gauge {number}: the river is high\n");
        std::fs::write(
            folder.join(format!("{number}.bin")),
            [line.as_bytes(), &[0, 1, 2]].concat(),
        )?;
    }
    let system = System::start(binary, &scratch.join("unchanged"))?;
    for which in ["first", "second"] {
        let begun = Instant::now();
        let mut ingest = Command::new(binary);
        ingest.arg("ingest").arg(&tree);
        ingest.args(["--gateway", &system.gateway, "--api-key", &system.key]);
        let ended = ingest
            .args(["--stages", "upload,metadata", "--output", "json", "--new"])
            .output()?;
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.success(), "{words}");
        let answer: Value = serde_json::from_slice(&ended.stdout)?;
        let processed = answer["files"]["PROCESSED"].as_u64();
        ensure!(processed == Some(u64::from(files)), "{answer} {words}");
        let sent = words.lines().find(|line| line.contains("files sent"));
        let sent = sent.unwrap_or_default().trim().to_owned();
        let what = format!("{which} ingest of {files} files");
        table.add(
            &what,
            format!("{:.1} s", begun.elapsed().as_secs_f64()),
            sent,
        );
    }
    Ok(())
}
