//! A provider that counts: its limit with four processes that ask it, and how many requests a large batch makes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use caudal_harness::{Asked, Mood, Provider};
use serde_json::json;
use tempfile::TempDir;

use super::heavy::{product, send};
use super::loads::{ended, go_on, hold, until_waiting};
use super::report::Row;
use super::texts;
use crate::database::{Database, Kind};
use crate::mesh::{Mesh, Setup};

/// What the product's limiter lets pass to a provider: requests a second, and at once after a quiet time.
const A_SECOND: f64 = 50.0;
const BURST: f64 = 100.0;
/// Windows that are looked at, in seconds.
const WINDOWS: [f64; 4] = [0.1, 1.0, 5.0, 10.0];
const REPLICAS: usize = 4;
/// Words of a text that is one chunk, and of one that is two of a model that reads so many tokens.
const ONE_CHUNK: usize = 8;
const TWO_CHUNKS: usize = 20;
const MODEL_TOKENS: &str = "32";
/// Inputs of a request, and what a provider takes for one.
const INPUTS: u32 = 100;
const TAKES: Duration = Duration::from_millis(200);
/// So much more than there are full requests may be made: those that begin while little is there.
const MOST_TO_FULL: f64 = 1.25;

/// Requests of a provider's limit, from four processes that ask it text by text as fast as they may.
pub(super) async fn limit(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Vec<Row>> {
    let provider = Provider::start(Mood::Fine)?;
    asked(setup, kind, &provider, REPLICAS, 1, files, ONE_CHUNK).await?;
    let asked = provider.asked();
    let times = since_the_first(&asked);
    ensure!(times.len() >= files as usize, "{} requests", times.len());
    let most: Vec<(f64, usize)> = WINDOWS
        .iter()
        .map(|window| (*window, most_within(&times, *window)))
        .collect();
    let is_met = most
        .iter()
        .all(|(window, calls)| *calls as f64 <= BURST + A_SECOND * window);
    let told: Vec<String> = most
        .iter()
        .map(|(window, calls)| format!("{calls} in {window} s"))
        .collect();
    let whole = times.last().copied().unwrap_or_default();
    Ok(vec![Row {
        what: format!(
            "most calls in any window, {files} texts one by one from {REPLICAS} processes; {A_SECOND} a second and a burst of {BURST} are allowed"
        ),
        target: "at most 105, 150, 350, 600".to_owned(),
        figure: format!("{} ({} in {whole:.1} s)", told.join(", "), times.len()),
        is_met: Some(is_met),
        figures: json!({ "most": most, "refused": asked.refused, "at_seconds": times }),
    }])
}

/// Requests of a batch whose texts are two chunks each.
pub(super) async fn requests(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Vec<Row>> {
    let provider = Provider::start(Mood::Takes(TAKES))?;
    let took = asked(setup, kind, &provider, 1, INPUTS, files, TWO_CHUNKS).await?;
    let asked = provider.asked();
    let inputs: usize = asked.served.iter().sum();
    ensure!(
        inputs >= 2 * files as usize,
        "only {inputs} texts were asked for"
    );
    let full = f64::from(files * 2) / f64::from(INPUTS);
    let requests = asked.served.len();
    Ok(vec![Row {
        what: format!(
            "requests to a provider that takes {INPUTS} inputs, a batch of {files} files of two chunks"
        ),
        target: format!("some {full:.0}"),
        figure: format!("{requests} ({inputs} inputs, {:.0} s)", took.as_secs_f64()),
        is_met: Some(requests as f64 <= full * MOST_TO_FULL),
        figures: json!({ "inputs": asked.served, "refused": asked.refused }),
    }])
}

/// Has the whole product take in small texts, which all wait for their vectors before the first is asked for; how long that
/// took from then on.
async fn asked(
    setup: &Setup,
    kind: Kind,
    provider: &Provider,
    replicas: usize,
    inputs: u32,
    files: u32,
    words: usize,
) -> anyhow::Result<Duration> {
    let variables = [
        ("CAUDAL_EMBEDDING_PROVIDER", "openai".to_owned()),
        ("CAUDAL_EMBEDDING_URL", provider.url().to_owned()),
        ("CAUDAL_EMBEDDING_MODEL", "counted".to_owned()),
        ("CAUDAL_EMBEDDING_BATCH", inputs.to_string()),
        ("CAUDAL_EMBEDDING_MAX_TOKENS", MODEL_TOKENS.to_owned()),
    ];
    let folder = TempDir::with_prefix("caudal-bench-texts-")?;
    texts::small(folder.path(), files, words)?;
    let database = Database::start(kind, false).await?;
    let mesh = Mesh::start_as(setup, database, &product(replicas, &variables)).await?;
    let measured = async {
        let operator = mesh.operator().await?;
        let client = mesh.client().await?;
        hold(&operator, Stage::Embeddings).await?;
        let batch = send(&client, folder.path()).await?;
        until_waiting(&operator, Stage::Embeddings, files).await?;
        let begun = Instant::now();
        go_on(&operator, Stage::Embeddings).await?;
        let counts = ended(&client, &batch).await?.counts.unwrap_or_default();
        ensure!(counts.complete == files, "not all have vectors: {counts:?}");
        Ok(begun.elapsed())
    };
    let took = measured.await.with_context(|| mesh.tails())?;
    mesh.verify(files).await?;
    Ok(took)
}

fn since_the_first(asked: &Asked) -> Vec<f64> {
    let mut times = asked.served_at.clone();
    times.sort_unstable();
    let first = times.first().copied();
    let since = |at: &Instant| first.map_or(0.0, |first| (*at - first).as_secs_f64());
    times.iter().map(since).collect()
}

/// The most of these times within any window.
fn most_within(times: &[f64], window: f64) -> usize {
    let within = |(number, begin): (usize, &f64)| {
        times[number..].partition_point(|time| *time < begin + window)
    };
    times.iter().enumerate().map(within).max().unwrap_or(0)
}
