//! A small batch beside another tenant's backlog, and beside one of its own tenant.

use std::time::Duration;

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use serde_json::json;

use super::loads::{self, Tenant, drop_files, go_on, hold, seconds, take_back, tenants, time_of};
use super::report::Row;
use crate::database::{Database, Kind};
use crate::measure::{hundredths, median};
use crate::mesh::{Mesh, Plan, Setup};
use crate::way;

/// Files of the small batch.
const FEW: u32 = 10;
/// So much longer it may take than alone.
const MOST: f64 = 2.0;
/// Handlers of a stage whose files take a while, and how long.
const SLOTS: usize = 8;
const WAIT: Duration = Duration::from_millis(50);

/// Times of the small batch.
struct Times {
    alone: Vec<Duration>,
    beside_another_tenant: Vec<Duration>,
    beside_its_own_tenant: Vec<Duration>,
}

pub(super) async fn run(
    setup: &Setup,
    kind: Kind,
    files: u32,
    drops: usize,
) -> anyhow::Result<Vec<Row>> {
    let null = loads::documents(&[]);
    let waits = loads::documents(&[loads::waits(Stage::ExtractText, 1, SLOTS, WAIT)]);
    let mut rows = Vec::new();
    let work = format!("{} ms at each of {SLOTS} slots", WAIT.as_millis());
    for (work, plan) in [("null work", null), (work.as_str(), waits)] {
        let times = measure(setup, kind, &plan, files, drops).await?;
        rows.push(row(
            "another tenant's",
            work,
            files,
            &times.alone,
            &times.beside_another_tenant,
        ));
        rows.push(row(
            "its own tenant's",
            work,
            files,
            &times.alone,
            &times.beside_its_own_tenant,
        ));
    }
    Ok(rows)
}

async fn measure(
    setup: &Setup,
    kind: Kind,
    plan: &Plan,
    files: u32,
    drops: usize,
) -> anyhow::Result<Times> {
    let mesh = Mesh::start_as(setup, Database::start(kind, false).await?, plan).await?;
    let measured = async {
        way::warm_up(&mesh).await?;
        let tenants = tenants(&mesh, &[1, 1]).await?;
        drop_beside(&mesh, &tenants, files, drops).await
    };
    let times = measured.await.with_context(|| mesh.tails())?;
    let dropped = u32::try_from(3 * drops)? * FEW;
    mesh.verify(files + dropped + way::WARM_UP).await?;
    Ok(times)
}

async fn drop_beside(
    mesh: &Mesh,
    tenants: &[Tenant],
    files: u32,
    drops: usize,
) -> anyhow::Result<Times> {
    let operator = mesh.operator().await?;
    let large = tenants[0].client(mesh).await?;
    let small = tenants[1].client(mesh).await?;
    let mut times = Times {
        alone: Vec::new(),
        beside_another_tenant: Vec::new(),
        beside_its_own_tenant: Vec::new(),
    };
    for _ in 0..drops {
        times.alone.push(time_of(&small, FEW).await?);
    }
    hold(&operator, Stage::Upload).await?;
    let backlog = drop_files(&large, files, "txt").await?;
    go_on(&operator, Stage::Upload).await?;
    // The stages behind have their backlog too before anything is timed.
    loads::until_processed(&large, &backlog, 1).await?;
    for _ in 0..drops {
        times
            .beside_another_tenant
            .push(time_of(&small, FEW).await?);
        times
            .beside_its_own_tenant
            .push(time_of(&large, FEW).await?);
    }
    let left = large.get_batch(&backlog).await?.counts.unwrap_or_default();
    ensure!(
        left.processed < left.total,
        "the backlog was worked off before the last small batch had ended: {left:?}"
    );
    take_back(&large, &backlog).await?;
    Ok(times)
}

fn row(whose: &str, work: &str, files: u32, alone: &[Duration], beside: &[Duration]) -> Row {
    let of = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64));
    let ratio = of(beside) / of(alone);
    let all = |times: &[Duration]| -> Vec<f64> { times.iter().copied().map(seconds).collect() };
    Row {
        what: format!("{FEW} files beside {files} of {whose} that wait, to alone; {work}"),
        target: format!("at most {MOST}"),
        figure: format!(
            "{} ({:.2} s to {:.2} s)",
            hundredths(ratio),
            of(beside),
            of(alone)
        ),
        is_met: Some(ratio <= MOST),
        figures: json!({ "alone_seconds": all(alone), "beside_seconds": all(beside) }),
    }
}
