//! A small batch beside another tenant's backlog, and beside one of its own tenant.

use std::time::{Duration, Instant};

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
/// A stage whose files take a while: its handlers, and how long.
const STAGE: Stage = Stage::ExtractText;
const SLOTS: usize = 8;
const WAIT: Duration = Duration::from_millis(50);

/// The window of that stage, in files, where an operator sets it: a quarter of a second of its work.
const NARROW: u32 = 40;

/// What the files cost.
struct Load {
    words: String,
    plan: Plan,
    /// What an operator sets for the stage whose files take a while.
    window: Option<u32>,
}

/// Times of the small batch.
struct Times {
    alone: Vec<Duration>,
    beside_another_tenant: Vec<Duration>,
    beside_its_own_tenant: Vec<Duration>,
    /// Files of the backlog a second, meanwhile.
    backlog: f64,
}

pub(super) async fn run(
    setup: &Setup,
    kind: Kind,
    files: u32,
    drops: usize,
) -> anyhow::Result<Vec<Row>> {
    let waits = loads::documents(&[loads::waits(STAGE, 1, SLOTS, WAIT)]);
    let words = format!("{} ms at each of {SLOTS} slots", WAIT.as_millis());
    let loads = [
        Load {
            words: "null work".to_owned(),
            plan: loads::documents(&[]),
            window: None,
        },
        Load {
            words: words.clone(),
            plan: waits.clone(),
            window: None,
        },
        Load {
            words: format!("{words}, {NARROW} files out there at most"),
            plan: waits,
            window: Some(NARROW),
        },
    ];
    let mut rows = Vec::new();
    for load in loads {
        let times = measure(setup, kind, &load, files, drops).await?;
        for (whose, beside) in [
            ("another tenant's", &times.beside_another_tenant),
            ("its own tenant's", &times.beside_its_own_tenant),
        ] {
            rows.push(row(whose, &load.words, files, &times, beside));
        }
    }
    Ok(rows)
}

async fn measure(
    setup: &Setup,
    kind: Kind,
    load: &Load,
    files: u32,
    drops: usize,
) -> anyhow::Result<Times> {
    let mesh = Mesh::start_as(setup, Database::start(kind, false).await?, &load.plan).await?;
    let measured = async {
        way::warm_up(&mesh).await?;
        if let Some(files) = load.window {
            loads::set_window(&mesh.operator().await?, STAGE, files).await?;
        }
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
        backlog: 0.0,
    };
    for _ in 0..drops {
        times.alone.push(time_of(&small, FEW).await?);
    }
    hold(&operator, Stage::Upload).await?;
    let backlog = drop_files(&large, files, "txt").await?;
    go_on(&operator, Stage::Upload).await?;
    // The stages behind have their backlog too before anything is timed.
    loads::until_processed(&large, &backlog, 1).await?;
    let begun = Instant::now();
    for _ in 0..drops {
        times
            .beside_another_tenant
            .push(time_of(&small, FEW).await?);
        times
            .beside_its_own_tenant
            .push(time_of(&large, FEW).await?);
    }
    let now = large.get_batch(&backlog).await?.counts.unwrap_or_default();
    ensure!(
        now.processed < now.total,
        "the backlog was worked off before the last small batch had ended: {now:?}"
    );
    times.backlog = f64::from(now.processed) / begun.elapsed().as_secs_f64();
    take_back(&large, &backlog).await?;
    Ok(times)
}

fn row(whose: &str, work: &str, files: u32, times: &Times, beside: &[Duration]) -> Row {
    let of = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64));
    let ratio = of(beside) / of(&times.alone);
    let all = |times: &[Duration]| -> Vec<f64> { times.iter().copied().map(seconds).collect() };
    Row {
        what: format!("{FEW} files beside {files} of {whose} that wait, to alone; {work}"),
        target: format!("at most {MOST}"),
        figure: format!(
            "{} ({:.2} s to {:.2} s; {:.0} files/s meanwhile)",
            hundredths(ratio),
            of(beside),
            of(&times.alone),
            times.backlog
        ),
        is_met: Some(ratio <= MOST),
        figures: json!({
            "alone_seconds": all(&times.alone), "beside_seconds": all(beside), "files_per_second": times.backlog,
        }),
    }
}
