//! Throughput of files that do not need a stage, beside files that wait for that stage because it does one a second.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use caudal_sdk::Client;
use serde_json::json;

use super::loads::{self, drop_files, take_back, tenants};
use super::report::Row;
use crate::database::{Database, Kind};
use crate::measure::{hundredths, median};
use crate::mesh::{Mesh, Setup};
use crate::null::IMAGES_END;
use crate::way;

/// Files that wait for the slow stage.
const WAITING: u32 = 5_000;
/// What each of them takes of its one slot.
const WAIT: Duration = Duration::from_secs(1);
const RUNS: usize = 3;
const LEAST: f64 = 0.9;

pub(super) async fn run(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Vec<Row>> {
    let slow = loads::waits(Stage::ImageProcessing, 1, 1, WAIT);
    let plan = loads::documents(&[slow]);
    let mesh = Mesh::start_as(setup, Database::start(kind, false).await?, &plan).await?;
    let measured = async {
        way::warm_up(&mesh).await?;
        measure(&mesh, files).await
    };
    let rows = measured.await.with_context(|| mesh.tails())?;
    let runs = u32::try_from(4 * RUNS)?;
    mesh.verify(runs * files + 2 * RUNS as u32 * WAITING + way::WARM_UP)
        .await?;
    Ok(rows)
}

async fn measure(mesh: &Mesh, files: u32) -> anyhow::Result<Vec<Row>> {
    let tenants = tenants(mesh, &[1, 1]).await?;
    let one = tenants[0].client(mesh).await?;
    let other = tenants[1].client(mesh).await?;
    let mut rows = Vec::new();
    for (whose, slowed) in [("another tenant's", &one), ("its own tenant's", &other)] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        // In turns, because what a machine gives differs from one second to the next.
        for _ in 0..RUNS {
            without.push(rate(&other, files).await?);
            let images = images_that_wait(mesh, slowed).await?;
            with.push(rate(&other, files).await?);
            take_back(slowed, &images).await?;
        }
        let ratio = median(with.iter().copied()) / median(without.iter().copied());
        rows.push(Row {
            what: format!(
                "files/s beside {WAITING} of {whose} images at a stage that does one a second, to without"
            ),
            target: format!("at least {LEAST}"),
            figure: format!(
                "{} ({:.0} to {:.0} files/s)",
                hundredths(ratio),
                median(with.iter().copied()),
                median(without.iter().copied())
            ),
            is_met: Some(ratio >= LEAST),
            figures: json!({ "without": without, "with": with }),
        });
    }
    Ok(rows)
}

/// Images that have come to the slow stage, all but those that it has done.
async fn images_that_wait(mesh: &Mesh, client: &Client) -> anyhow::Result<String> {
    let batch = drop_files(client, WAITING, IMAGES_END).await?;
    let operator = mesh.operator().await?;
    loads::until_waiting(&operator, Stage::ImageProcessing, WAITING - WAITING / 10).await?;
    // Every one of them has left the stage that all files need.
    loads::until_none_waits(&operator, Stage::Upload).await?;
    Ok(batch)
}

async fn rate(client: &Client, files: u32) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let batch = drop_files(client, files, "txt").await?;
    let end = loads::ended(client, &batch).await?;
    let counts = end.counts.unwrap_or_default();
    ensure!(counts.complete == files, "a file was lost: {counts:?}");
    Ok(f64::from(files) / begun.elapsed().as_secs_f64())
}
