//! What `bench-fairness` measures: who waits for whom, and whether limits hold, through the real mesh.

mod backlog;
mod heavy;
mod loads;
mod providers;
mod replicas;
mod report;
mod shares;
mod slow_stage;
mod texts;
mod waiting;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::database::Kind;
use crate::measure;
use crate::mesh::Setup;
use report::{Report, Row};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A small batch beside a backlog
    A,
    /// Small texts beside heavy documents
    Heavy,
    /// A thousand tenants, and tenants of two weights
    B,
    /// Throughput beside a stage that does one file a second
    C,
    /// Redis while files wait
    D,
    /// A provider's limit, kept by four processes
    E,
    /// What the limiter costs a file
    F,
    /// A stage that waits, by one, two and four processes
    G,
    /// Requests that a batch makes to a provider
    H,
}

/// Measures who waits for whom and what limits hold; prints a table, and writes all figures as JSON
#[derive(Debug, Parser)]
#[command(name = "bench-fairness")]
struct Options {
    /// Parts, separated by commas; all when left out
    #[arg(value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Which database; both when left out
    #[arg(long, value_enum)]
    database: Vec<Kind>,
    /// Small sizes, to try it out
    #[arg(long)]
    short: bool,
    /// The product's binary; the one beside this program when left out
    #[arg(long)]
    caudal: Option<PathBuf>,
    /// Where all figures go
    #[arg(long, default_value = "target/fairness.json")]
    json: PathBuf,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Files that wait while a small batch comes.
    backlog: u32,
    /// How often a small batch is dropped.
    drops: usize,
    /// Heavy documents: pages, and PDFs.
    pages: u32,
    pdfs: u32,
    /// Tenants that share a stage, and files of each.
    tenants: u32,
    files_a_tenant: u32,
    /// Files of a run whose throughput is told.
    run: u32,
    /// Files that wait while Redis is looked at.
    waiting: [u32; 2],
    /// Files whose texts are asked for one by one, and by the hundred.
    asked_singly: u32,
    asked_together: u32,
    /// Files of a run whose processor time is told.
    counted: u32,
    /// For how long a stage that waits has work.
    seconds: u32,
}

const FULL: Sizes = Sizes {
    backlog: 100_000,
    drops: 7,
    pages: 24,
    pdfs: 6,
    tenants: 1_000,
    files_a_tenant: 40,
    run: 10_000,
    waiting: [100_000, 1_000_000],
    asked_singly: 1_500,
    asked_together: 10_000,
    counted: 30_000,
    seconds: 8,
};

const SHORT: Sizes = Sizes {
    backlog: 10_000,
    drops: 3,
    pages: 4,
    pdfs: 1,
    tenants: 100,
    files_a_tenant: 40,
    run: 2_000,
    waiting: [10_000, 100_000],
    asked_singly: 300,
    asked_together: 1_000,
    counted: 5_000,
    seconds: 3,
};

/// Measures what was asked for on the command line.
pub(crate) async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let setup = Setup {
        caudal: Some(measure::product(options.caudal.as_deref())?),
        threads: None,
        slots: loads::SLOTS,
        prefetch: loads::PREFETCH,
        window: None,
    };
    let sizes = if options.short { SHORT } else { FULL };
    let parts = or_all(&options.parts, Part::value_variants());
    let databases = or_all(&options.database, &[Kind::Postgres, Kind::Sqlite]);
    let mut report = Report::new(measure::machine(), databases);
    for kind in databases {
        for part in parts {
            let name = part
                .to_possible_value()
                .map(|value| value.get_name().to_owned());
            let name = name.unwrap_or_default();
            let begun = Instant::now();
            let rows = measured(*part, &setup, *kind, sizes).await;
            let rows = rows.with_context(|| format!("{name} on {}", kind.name()))?;
            let took = begun.elapsed().as_secs();
            eprintln!("{name} on {}: {took} s", kind.name());
            for row in &rows {
                eprintln!("  {}: {}", row.what, row.figure);
            }
            report.add(&name, *kind, rows);
            // What was measured is there even if a later part breaks off.
            report.write(&options.json)?;
        }
    }
    println!("{}", report.table());
    eprintln!("all figures: {}", options.json.display());
    Ok(())
}

fn or_all<'a, T>(named: &'a [T], all: &'a [T]) -> &'a [T] {
    if named.is_empty() { all } else { named }
}

async fn measured(part: Part, setup: &Setup, kind: Kind, sizes: Sizes) -> anyhow::Result<Vec<Row>> {
    match part {
        Part::A => backlog::run(setup, kind, sizes.backlog, sizes.drops).await,
        Part::Heavy => heavy::run(setup, kind, sizes).await,
        Part::B => shares::run(setup, kind, sizes).await,
        Part::C => slow_stage::run(setup, kind, sizes.run).await,
        Part::D => waiting::run(setup, kind, sizes.waiting).await,
        Part::E => providers::limit(setup, kind, sizes.asked_singly).await,
        Part::F => limiter(setup, kind, sizes.counted).await,
        Part::G => replicas::run(setup, kind, sizes.seconds).await,
        Part::H => providers::requests(setup, kind, sizes.asked_together).await,
    }
}

/// Processor time of the limiter while files go through four stages that do nothing.
async fn limiter(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Vec<Row>> {
    const MOST_MICROS: f64 = 3.0;
    const PAGE: u32 = 500;
    let way = crate::way::run(setup, kind, files, PAGE, None).await?;
    let micros = way.figures["cpu_micros_a_file"]["limiter"]
        .as_f64()
        .context("no limiter")?;
    Ok(vec![Row {
        what: format!("the limiter's CPU a file, over {files} files of null work"),
        target: format!("at most {MOST_MICROS} µs"),
        figure: format!("{micros:.1} µs"),
        is_met: Some(micros <= MOST_MICROS),
        figures: json!({ "files_per_second": way.files_per_second, "way": way.figures }),
    }])
}
