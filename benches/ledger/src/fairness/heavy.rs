//! Small texts of one tenant beside heavy documents of another: real files in a real store, read by the product's own stages.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use caudal_proto::v1;
use caudal_sdk::{Client, Ingest, IngestSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::loads::{ended, seconds, take_back, tenants};
use super::report::Row;
use super::{Sizes, texts};
use crate::database::{Database, Kind};
use crate::measure::{hundredths, median};
use crate::mesh::{Crew, Mesh, Plan, Setup, Work};

/// Small texts, and their words.
const FEW: u32 = 10;
const FEW_WORDS: usize = 60;
/// Pages of a heavy PDF.
const PDF_PAGES: u32 = 2_000;
/// So much longer they may take than alone.
const MOST: f64 = 3.0;
/// The folder of the local model; `make` names it.
const MODEL: &str = "CAUDAL_MODEL_DIR";

/// Times of the small texts, and what the stages learned.
struct Times {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    /// How many of them there were.
    small_texts: u32,
    costs: Value,
}

pub(super) async fn run(setup: &Setup, kind: Kind, sizes: Sizes) -> anyhow::Result<Vec<Row>> {
    let folder = TempDir::with_prefix("caudal-bench-heavy-")?;
    let documents = folder.path().join("documents");
    texts::heavy(&documents, sizes.pages, sizes.pdfs, PDF_PAGES)?;
    let mut rows = vec![beside(setup, kind, sizes, &folder, "none").await?];
    if std::env::var_os(MODEL).is_some_and(|model| Path::new(&model).is_dir()) {
        rows.push(beside(setup, kind, sizes, &folder, "local").await?);
    } else {
        eprintln!(
            "{MODEL} names no folder: small texts beside what the local model works on are left out"
        );
    }
    Ok(rows)
}

/// The whole route by the product's own stages, each one process.
pub(super) fn product(embeddings: usize, variables: &[(&'static str, String)]) -> Plan {
    let route = caudal_domain::route(caudal_domain::MediaKind::Document);
    let crew = |stage: &Stage| Crew {
        stage: *stage,
        replicas: if *stage == Stage::Embeddings {
            embeddings
        } else {
            1
        },
        work: Work::Product(variables.to_vec()),
    };
    Plan {
        crews: route.iter().map(crew).collect(),
        has_store: true,
    }
}

/// Sends a folder as a batch; its name, once all bytes are there.
pub(super) async fn send(client: &Client, folder: &Path) -> anyhow::Result<String> {
    let batch = client.create_batch(v1::Batch::default()).await?.name;
    let sent = Ingest::new(client, &batch, folder, IngestSettings::default())?;
    sent.run().await?;
    Ok(batch)
}

async fn beside(
    setup: &Setup,
    kind: Kind,
    sizes: Sizes,
    folder: &TempDir,
    provider: &str,
) -> anyhow::Result<Row> {
    let variables = [("CAUDAL_EMBEDDING_PROVIDER", provider.to_owned())];
    let database = Database::start(kind, false).await?;
    let mesh = Mesh::start_as(setup, database, &product(1, &variables)).await?;
    let measured = measure(&mesh, sizes, folder, provider).await;
    let Times {
        alone,
        beside,
        small_texts,
        costs,
    } = measured.with_context(|| mesh.tails())?;
    mesh.verify(small_texts + sizes.pages + sizes.pdfs).await?;
    let of = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64));
    let ratio = of(&beside) / of(&alone);
    let worst = beside.iter().max().copied().unwrap_or_default();
    let all = |times: &[Duration]| -> Vec<f64> { times.iter().copied().map(seconds).collect() };
    let reads = match provider {
        "none" => "read and recorded",
        _ => "the local model's vectors with them",
    };
    Ok(Row {
        what: format!(
            "{FEW} small texts beside another tenant's {} pages of 150 KB and {} PDFs of {PDF_PAGES} pages, to alone; {reads}",
            sizes.pages, sizes.pdfs
        ),
        target: format!("at most {MOST}"),
        figure: format!(
            "{} ({:.2} s, worst {:.2} s, to {:.2} s)",
            hundredths(ratio),
            of(&beside),
            worst.as_secs_f64(),
            of(&alone)
        ),
        is_met: Some(ratio <= MOST),
        figures: json!({ "alone_seconds": all(&alone), "beside_seconds": all(&beside), "costs": costs }),
    })
}

async fn measure(
    mesh: &Mesh,
    sizes: Sizes,
    folder: &TempDir,
    provider: &str,
) -> anyhow::Result<Times> {
    let tenants = tenants(mesh, &[1, 1]).await?;
    let heavy = tenants[0].client(mesh).await?;
    let small = tenants[1].client(mesh).await?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // The first brings up what every process keeps for its work, and the slots of a limiter that has just begun.
    dropped(&small, folder, &format!("{provider} first")).await?;
    for number in 0..sizes.drops {
        alone.push(dropped(&small, folder, &format!("{provider} alone {number}")).await?);
    }
    let mut small_texts = u32::try_from(1 + alone.len())? * FEW;
    let documents = send(&heavy, &folder.path().join("documents")).await?;
    for number in 0..sizes.drops {
        let took = dropped(&small, folder, &format!("{provider} beside {number}")).await?;
        small_texts += FEW;
        let now = heavy
            .get_batch(&documents)
            .await?
            .counts
            .unwrap_or_default();
        if now.processed + now.failed >= now.total {
            break;
        }
        beside.push(took);
    }
    ensure!(
        !beside.is_empty(),
        "the heavy documents were done before one small batch"
    );
    // A batch that has ended by itself meanwhile is not there to be taken back.
    if heavy.get_batch(&documents).await?.end_time.is_none() {
        take_back(&heavy, &documents).await?;
    }
    let costs = costs(mesh).await?;
    Ok(Times {
        alone,
        beside,
        small_texts,
        costs,
    })
}

/// What files of each size lately took at each stage.
async fn costs(mesh: &Mesh) -> anyhow::Result<Value> {
    let mut told = serde_json::Map::new();
    for stage in mesh.operator().await?.list_stages().await?.stages {
        let costs = stage.costs.iter().map(|cost| {
            let time = cost.usual.unwrap_or_default();
            let seconds = time.seconds as f64 + f64::from(time.nanos) / 1e9;
            json!({ "bytes_at_most": cost.max_size, "seconds": seconds })
        });
        told.insert(stage.name, costs.collect());
    }
    Ok(told.into())
}

/// How long a few texts that nobody has seen take.
async fn dropped(client: &Client, folder: &TempDir, name: &str) -> anyhow::Result<Duration> {
    let texts = folder.path().join(name);
    std::fs::create_dir_all(&texts)?;
    for number in 0..FEW {
        let seed = name.bytes().fold(u64::from(number), |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(byte.into())
        });
        let text = format!("{name} {number}. {}", texts::words(seed, FEW_WORDS));
        std::fs::write(texts.join(format!("note-{number}.txt")), text)?;
    }
    let begun = Instant::now();
    let batch = send(client, &texts).await?;
    let end = ended(client, &batch).await?;
    let counts = end.counts.unwrap_or_default();
    ensure!(counts.processed == FEW, "a small text was lost: {counts:?}");
    Ok(begun.elapsed())
}
