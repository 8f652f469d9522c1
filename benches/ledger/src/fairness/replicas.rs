//! A stage that waits for each file, by one, two and four processes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use serde_json::json;

use super::loads::{self, drop_files, ended, go_on, hold, until_waiting};
use super::report::Row;
use crate::database::{Database, Kind};
use crate::measure::hundredths;
use crate::mesh::{Mesh, Setup};
use crate::way;

const STAGE: Stage = Stage::ExtractText;
/// Handlers of each process, and what a file takes.
const SLOTS: usize = 8;
const WAIT: Duration = Duration::from_millis(50);
const REPLICAS: [usize; 3] = [1, 2, 4];
/// So much of twice and four times the throughput of one process there is to be.
const LEAST: f64 = 0.9;

pub(super) async fn run(setup: &Setup, kind: Kind, seconds: u32) -> anyhow::Result<Vec<Row>> {
    let mut rates = Vec::new();
    for replicas in REPLICAS {
        rates.push(rate(setup, kind, replicas, seconds).await?);
    }
    let slots = SLOTS as f64 / WAIT.as_secs_f64();
    let linear: Vec<f64> = REPLICAS
        .iter()
        .zip(&rates)
        .map(|(replicas, rate)| rate / rates[0] / *replicas as f64)
        .collect();
    let told: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    let ratios: Vec<String> = linear
        .iter()
        .map(|one| hundredths(*one).to_string())
        .collect();
    Ok(vec![Row {
        what: format!(
            "files/s of a stage that waits {} ms a file in {SLOTS} slots a process, by 1, 2 and 4 processes; its slots allow {slots:.0} each",
            WAIT.as_millis()
        ),
        target: format!("at least {LEAST} of linear"),
        figure: format!("{} ({} of linear)", told.join(", "), ratios.join(", ")),
        is_met: Some(linear.iter().all(|one| *one >= LEAST)),
        figures: json!({ "files_per_second": rates }),
    }])
}

async fn rate(setup: &Setup, kind: Kind, replicas: usize, seconds: u32) -> anyhow::Result<f64> {
    let plan = loads::documents(&[loads::waits(STAGE, replicas, SLOTS, WAIT)]);
    let mesh = Mesh::start_as(setup, Database::start(kind, false).await?, &plan).await?;
    let at_most = (replicas * SLOTS) as f64 / WAIT.as_secs_f64();
    let files = (at_most * f64::from(seconds)) as u32;
    let measured = async {
        way::warm_up(&mesh).await?;
        let operator = mesh.operator().await?;
        let client = mesh.client().await?;
        hold(&operator, STAGE).await?;
        let batch = drop_files(&client, files, "txt").await?;
        until_waiting(&operator, STAGE, files).await?;
        let begun = Instant::now();
        go_on(&operator, STAGE).await?;
        let counts = ended(&client, &batch).await?.counts.unwrap_or_default();
        ensure!(counts.complete == files, "a file was lost: {counts:?}");
        Ok(f64::from(files) / begun.elapsed().as_secs_f64())
    };
    let rate = measured.await.with_context(|| mesh.tails())?;
    mesh.verify(files + way::WARM_UP).await?;
    Ok(rate)
}
