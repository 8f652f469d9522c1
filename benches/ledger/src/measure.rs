//! What `bench-ledger` measures: options, parts, and the figures as one JSON object.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::database::Kind;
use crate::mesh::Setup;
use crate::{others, raw, way};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Files a second over four hops, and the raw-SQL loop beside it
    Way,
    /// Entries of a manifest a second
    Manifest,
    /// What a lone request and a lone file take
    Lone,
    /// Memory of the ledger while files wait
    Waiting,
    /// The same while each of them waits for its next attempt
    Retrying,
    /// Time and size of a snapshot
    Snapshot,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Way,
        Self::Manifest,
        Self::Lone,
        Self::Waiting,
        Self::Retrying,
        Self::Snapshot,
    ];
}

/// Measures the ledger through the real mesh; prints one JSON object
#[derive(Debug, Parser)]
struct Options {
    /// What to measure; all when left out
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Which database; both when left out
    #[arg(long, value_enum)]
    database: Vec<Kind>,
    /// Files of a run of the way
    #[arg(long, default_value_t = 10_000)]
    files: u32,
    /// Runs of the way and of the raw loop each; medians are told
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Entries and confirmations of one call, rows of a transaction of the raw loop
    #[arg(long, default_value_t = 500)]
    page: u32,
    /// Entries of the manifest, files of the snapshot
    #[arg(long, default_value_t = 100_000)]
    entries: u32,
    /// How many files wait; above 100,000 they are inserted by SQL
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    waiting: Vec<u32>,
    /// Leave the raw loop out
    #[arg(long)]
    no_raw: bool,
    /// The product's binary; the one beside this program when left out
    #[arg(long, conflicts_with = "slim")]
    caudal: Option<PathBuf>,
    /// Run ledger, gateway and limiter out of this program, which is built without the libraries of the product's stages
    #[arg(long)]
    slim: bool,
    /// Worker threads of each service's runtime (TOKIO_WORKER_THREADS); left out: as many as there are cores
    #[arg(long)]
    threads: Option<usize>,
    /// Handlers at once in a stage process; the limiter may grant fewer
    #[arg(long, default_value_t = 256)]
    slots: usize,
    /// Dispatches that a stage process reads ahead: the rate times the time to a recorded report
    #[arg(long, default_value_t = 2_048)]
    prefetch: usize,
    /// Files that may be out at each stage at once: some two seconds of its work, as the windows of the product are
    #[arg(long, default_value_t = 8_192)]
    window: u32,
    /// Records the way with perf into this folder, and counts the statements of Postgres
    #[arg(long)]
    profile: Option<PathBuf>,
}

/// Measures what was asked for on the command line.
pub(crate) async fn run() -> anyhow::Result<()> {
    let figures = measure(&Options::parse()).await?;
    println!("{figures:#}");
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Value> {
    let caudal = if options.slim {
        None
    } else {
        Some(product(options.caudal.as_deref())?)
    };
    let setup = Setup {
        caudal,
        threads: options.threads,
        slots: options.slots,
        prefetch: options.prefetch,
        window: Some(options.window),
    };
    let parts = if options.parts.is_empty() {
        Part::ALL.to_vec()
    } else {
        options.parts.clone()
    };
    let databases = if options.database.is_empty() {
        vec![Kind::Postgres, Kind::Sqlite]
    } else {
        options.database.clone()
    };
    let mut figures = Map::new();
    figures.insert("machine".to_owned(), machine());
    for kind in databases {
        let mut of_database = Map::new();
        for part in &parts {
            let name = part
                .to_possible_value()
                .map(|value| value.get_name().to_owned());
            let name = name.unwrap_or_default();
            eprintln!("{}: {name}", kind.name());
            let measured = match part {
                Part::Way => way_and_raw(options, &setup, kind).await,
                Part::Manifest => others::manifest(&setup, kind, options.entries).await,
                Part::Lone => others::lone(&setup, kind).await,
                Part::Waiting => others::waiting(&setup, kind, &options.waiting).await,
                Part::Retrying => others::retrying(&setup, kind, &options.waiting).await,
                Part::Snapshot => others::snapshot(&setup, kind, options.entries).await,
            };
            let measured = measured.with_context(|| format!("{} on {}", name, kind.name()))?;
            of_database.insert(name, measured);
        }
        figures.insert(kind.name().to_owned(), Value::Object(of_database));
    }
    Ok(Value::Object(figures))
}

/// The product's binary: the one that was named, or the one beside this program.
pub(crate) fn product(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let caudal = match named {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe()?.with_file_name("caudal"),
    };
    ensure!(
        caudal.is_file(),
        "{} is missing: cargo build --release -p caudal -p caudal-bench-ledger --bins",
        caudal.display()
    );
    Ok(caudal)
}

/// What the figures were measured on.
pub(crate) fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cores": cores,
        // Above zero others were at work, and the figures are worse for it.
        "load_before": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

/// Mesh and raw loop in turns, so that what the machine does meanwhile falls on both.
async fn way_and_raw(options: &Options, setup: &Setup, kind: Kind) -> anyhow::Result<Value> {
    let (mut ways, mut raws) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        if !options.no_raw {
            raws.push(raw::run(setup.caudal.as_deref(), kind, options.files, options.page).await?);
        }
        let profile = options.profile.as_deref();
        ways.push(way::run(setup, kind, options.files, options.page, profile).await?);
    }
    let rate = median(ways.iter().map(|run| run.files_per_second));
    let database = median(ways.iter().map(|run| run.database_micros));
    let mut figures = json!({
        "files": options.files,
        "page": options.page,
        "median_files_per_second": rate.round(),
        "median_database_cpu_micros_a_file": database.round(),
        "runs": ways.into_iter().map(|run| run.figures).collect::<Vec<_>>(),
    });
    if !raws.is_empty() {
        let raw_rate = median(raws.iter().map(|run| run.files_per_second));
        let raw_database = median(raws.iter().map(|run| run.database_micros));
        figures["raw"] = json!({
            "median_files_per_second": raw_rate.round(),
            "median_database_cpu_micros_a_file": raw_database.round(),
            "runs": raws.into_iter().map(|run| run.figures).collect::<Vec<_>>(),
        });
        figures["files_per_second_to_raw"] = hundredths(rate / raw_rate);
        figures["database_cpu_to_raw"] = hundredths(database / raw_database);
    }
    Ok(figures)
}

/// To two places.
pub(crate) fn hundredths(ratio: f64) -> Value {
    json!((ratio * 100.0).round() / 100.0)
}

/// The middle one; of an even number the mean of the two.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        length if length % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}
