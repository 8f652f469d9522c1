//! The local embedding model beside candle's BERT on the same weights: chunks a second, chunks a second of CPU time, memory, and how
//! near the vectors are. Each way is a process of its own, and they take turns, because machines are noisy.

mod candle;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use caudal_providers::{EmbeddingProvider, EmbeddingSettings, LocalSettings, Unlimited};
use serde_json::{Value, json};

use crate::candle::Candle;

const USAGE: &str = "bench-embeddings [--rounds 3] [--seconds 5] [--threads 2] [--tokens 200]";

/// What is measured: candle, the local model in 32-bit floats, and as it is used.
const WAYS: [&str; 3] = ["candle", "floats", "caudal"];

/// Chunks that all ways are given.
const CHUNKS: usize = 64;

struct Options {
    way: Option<String>,
    rounds: usize,
    seconds: u64,
    threads: usize,
    tokens: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = options()?;
    match &options.way {
        Some(way) => {
            println!("{}", measure(way, &options).await?);
            Ok(())
        }
        None => compare(&options),
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        way: None,
        rounds: 3,
        seconds: 5,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        tokens: 200,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        match name.as_str() {
            "--way" => options.way = Some(value),
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--tokens" => options.tokens = value.parse()?,
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

/// Runs all ways in turns and prints the medians.
fn compare(options: &Options) -> Result<()> {
    let mut found: Vec<Vec<Value>> = vec![Vec::new(); WAYS.len()];
    for _ in 0..options.rounds {
        for (way, found) in WAYS.iter().zip(&mut found) {
            let output = Command::new(std::env::current_exe()?)
                .args(["--way", way])
                .args(["--seconds", &options.seconds.to_string()])
                .args(["--threads", &options.threads.to_string()])
                .args(["--tokens", &options.tokens.to_string()])
                .output()?;
            ensure!(
                output.status.success(),
                "{way}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            found.push(serde_json::from_slice(&output.stdout)?);
        }
    }
    let median = |way: usize, name: &str| {
        let mut values: Vec<f64> = found[way]
            .iter()
            .filter_map(|run| run[name].as_f64())
            .collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let vectors = |way: usize| vectors_of(&found[way][0]);
    println!(
        "{CHUNKS} chunks of {} tokens, {} threads, medians of {}",
        options.tokens, options.threads, options.rounds
    );
    println!(
        "{:8} {:>9} {:>8} {:>14} {:>8} {:>9} {:>13}",
        "way", "chunks/s", "to it", "chunks/CPU s", "to it", "peak MiB", "least cosine"
    );
    let reference = vectors(0);
    for (way, name) in WAYS.iter().enumerate() {
        let least = vectors(way)
            .iter()
            .zip(&reference)
            .map(|(one, other)| one.iter().zip(other).map(|(one, other)| one * other).sum())
            .fold(1.0, f64::min);
        println!(
            "{name:8} {:>9.1} {:>8.2} {:>14.1} {:>8.2} {:>9.0} {:>13.5}",
            median(way, "a_second"),
            median(way, "a_second") / median(0, "a_second"),
            median(way, "a_cpu_second"),
            median(way, "a_cpu_second") / median(0, "a_cpu_second"),
            median(way, "peak_mib"),
            least
        );
    }
    Ok(())
}

fn vectors_of(run: &Value) -> Vec<Vec<f64>> {
    let rows = run["vectors"].as_array().into_iter().flatten();
    rows.map(|row| {
        let numbers = row.as_array().into_iter().flatten();
        numbers.filter_map(Value::as_f64).collect()
    })
    .collect()
}

/// One way, for as long as was asked for.
async fn measure(way: &str, options: &Options) -> Result<Value> {
    let folder = model_folder();
    let texts = texts(&folder, options.tokens)?;
    let (vectors, chunks, wall, cpu) = match way {
        "candle" => {
            let candle = Candle::load(&folder, options.threads)?;
            let vectors = candle.embed(&texts)?;
            let (started, before) = (Instant::now(), cpu_time()?);
            let mut chunks = 0;
            while started.elapsed() < Duration::from_secs(options.seconds) {
                candle.embed(&texts)?;
                chunks += texts.len();
            }
            (vectors, chunks, started.elapsed(), cpu_time()? - before)
        }
        "floats" | "caudal" => {
            let settings = EmbeddingSettings::Local(LocalSettings {
                folder,
                threads: options.threads,
                exact: way == "floats",
            });
            let provider = EmbeddingProvider::new(settings, Arc::new(Unlimited))
                .map_err(|error| anyhow!("{error}"))?;
            let vectors = provider.embed(0, &texts).await?.vectors;
            let (started, before) = (Instant::now(), cpu_time()?);
            let mut chunks = 0;
            while started.elapsed() < Duration::from_secs(options.seconds) {
                chunks += provider.embed(0, &texts).await?.vectors.len();
            }
            (vectors, chunks, started.elapsed(), cpu_time()? - before)
        }
        other => bail!("there is no way {other}"),
    };
    #[expect(clippy::cast_precision_loss)]
    let chunks = chunks as f64;
    Ok(json!({
        "a_second": chunks / wall.as_secs_f64(),
        "a_cpu_second": chunks / cpu,
        "peak_mib": peak_mib()?,
        "vectors": vectors,
    }))
}

fn model_folder() -> PathBuf {
    std::env::var_os("CAUDAL_MODEL_DIR").map_or_else(
        || repository().join(caudal_providers::DEFAULT_MODEL_FOLDER),
        PathBuf::from,
    )
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Chunks of this repository's own manual, each of about so many tokens with those that frame it.
fn texts(folder: &Path, tokens: usize) -> Result<Vec<String>> {
    let tokenizer = candle::tokenizer(folder)?;
    let mut texts = Vec::new();
    for page in [
        "architecture",
        "protocol",
        "operations",
        "security",
        "uploads",
    ] {
        let file = repository().join(format!("docs/{page}.md"));
        let page = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let mut text = String::new();
        for word in page.split_whitespace() {
            text.push_str(word);
            text.push(' ');
            if text.len() >= tokens * 2 && candle::tokens(&tokenizer, &text)?.len() >= tokens {
                texts.push(std::mem::take(&mut text));
            }
        }
    }
    ensure!(
        texts.len() >= CHUNKS,
        "the manual has {} chunks",
        texts.len()
    );
    texts.truncate(CHUNKS);
    Ok(texts)
}

/// Of all threads of this process, in seconds.
fn cpu_time() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat")?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / 100.0)
}

fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("VmHWM")?
        .parse()?;
    Ok(kib / 1024.0)
}
