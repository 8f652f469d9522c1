//! What tenants get of a stage that all of them wait for: Jain's index, and the shares of two weights.
//!
//! Looked at are the files of each tenant that are done, every so often, over sliding windows, of those tenants that had files
//! waiting during the whole window. All files take the same time, so files are cost. No scheduler shares whole files evenly
//! where a window has few of them: with 1.3 a tenant some get one and some two, and the index is 0.89 at best. So beside the
//! index of a second that best is told, and the target is held against windows in which each tenant's share is ten files.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Sizes;
use super::loads::{self, Tenant, drop_files, go_on, hold, tenants};
use super::report::Row;
use crate::database::{Database, Kind};
use crate::mesh::{Mesh, Plan, Setup};
use crate::way;

/// The stage that all wait for: its handlers, and what each file takes.
const STAGE: Stage = Stage::Embeddings;
const SLOTS: usize = 256;
const WAIT: Duration = Duration::from_millis(200);
/// How often it is looked at what is done, and a second in such looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOKS_A_SECOND: usize = 4;
/// A tenant's share of a window that is long enough to be judged.
const FILES_OF_A_JUDGED_WINDOW: f64 = 10.0;
const LEAST_INDEX: f64 = 0.95;
/// Tenants whose files take no time: then the ledger bounds, and a turn is as many files as its time allows.
const TENANTS_OF_NULL_WORK: usize = 50;
/// Weights of tenants, how many there are of each, and files of each.
const WEIGHTS: [u32; 2] = [1, 2];
const TENANTS_OF_A_WEIGHT: usize = 20;
const OFF_BY_AT_MOST: f64 = 0.05;
/// Batches that are made at once.
const ADDED_AT_ONCE: usize = 8;
/// What stands still for so long has stopped.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done of each tenant, at a time.
struct Look {
    at: Duration,
    done: Vec<u32>,
}

pub(super) async fn run(setup: &Setup, kind: Kind, sizes: Sizes) -> anyhow::Result<Vec<Row>> {
    let equal = vec![1; sizes.tenants as usize];
    let waits = loads::documents(&[loads::waits(STAGE, 1, SLOTS, WAIT)]);
    let looks = share(setup, kind, &waits, &equal, sizes.files_a_tenant).await?;
    let mut rows = indices(&looks, sizes.files_a_tenant, equal.len())?;
    let weights: Vec<u32> = WEIGHTS
        .iter()
        .flat_map(|weight| std::iter::repeat_n(*weight, TENANTS_OF_A_WEIGHT))
        .collect();
    let all = sizes.tenants * sizes.files_a_tenant;
    let files = all / u32::try_from(weights.len())? / 2;
    let looks = share(setup, kind, &waits, &weights, files).await?;
    rows.push(weighted(&looks, &weights, files)?);
    let files = all / u32::try_from(TENANTS_OF_NULL_WORK)?;
    let null = loads::documents(&[]);
    let looks = share(setup, kind, &null, &[1; TENANTS_OF_NULL_WORK], files).await?;
    rows.push(of_null_work(&looks, files));
    Ok(rows)
}

/// All files of all tenants wait for the stage, and are let go at once; what is done of each, look by look.
async fn share(
    setup: &Setup,
    kind: Kind,
    plan: &Plan,
    weights: &[u32],
    files: u32,
) -> anyhow::Result<Vec<Look>> {
    let mesh = Mesh::start_as(setup, Database::start(kind, false).await?, plan).await?;
    let measured = async {
        way::warm_up(&mesh).await?;
        let tenants = tenants(&mesh, weights).await?;
        let operator = mesh.operator().await?;
        hold(&operator, STAGE).await?;
        drop_all(&mesh, &tenants, files).await?;
        let all = files * u32::try_from(tenants.len())?;
        loads::until_waiting(&operator, STAGE, all).await?;
        let began = Instant::now();
        go_on(&operator, STAGE).await?;
        watch(&mesh, &tenants, all, began).await
    };
    let looks = measured.await.with_context(|| mesh.tails())?;
    let all = files * u32::try_from(weights.len())?;
    mesh.verify(all + way::WARM_UP).await?;
    Ok(looks)
}

async fn drop_all(mesh: &Mesh, tenants: &[Tenant], files: u32) -> anyhow::Result<()> {
    let mut dropping = JoinSet::new();
    for tenant in tenants {
        if dropping.len() >= ADDED_AT_ONCE
            && let Some(dropped) = dropping.join_next().await
        {
            dropped??;
        }
        let client = tenant.client(mesh).await?;
        dropping.spawn(async move { drop_files(&client, files, "txt").await });
    }
    while let Some(dropped) = dropping.join_next().await {
        dropped??;
    }
    Ok(())
}

/// Looks until all is done.
async fn watch(
    mesh: &Mesh,
    tenants: &[Tenant],
    all: u32,
    began: Instant,
) -> anyhow::Result<Vec<Look>> {
    let place: HashMap<Uuid, usize> = tenants
        .iter()
        .enumerate()
        .map(|(place, tenant)| (tenant.id, place))
        .collect();
    let mut looks: Vec<Look> = Vec::new();
    let mut moved = began;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let sql = "SELECT tenant_id AS k, CAST(n_processed AS bigint) AS v FROM batch_progress";
        let mut done = vec![0; tenants.len()];
        for (tenant, processed) in mesh.database.numbers(sql).await? {
            if let Some(place) = place.get(&tenant) {
                done[*place] += u32::try_from(processed)?;
            }
        }
        let sum: u32 = done.iter().sum();
        let before = looks.last().map_or(0, |look| look.done.iter().sum());
        if sum > before {
            moved = Instant::now();
        }
        ensure!(
            moved.elapsed() < PATIENCE,
            "it stands still at {sum} of {all}"
        );
        looks.push(Look {
            at: began.elapsed(),
            done,
        });
        if sum == all {
            return Ok(looks);
        }
    }
}

/// What each tenant got in a window, of those that had files waiting to its end.
fn got(from: &Look, to: &Look, files: u32) -> Vec<f64> {
    let pairs = from.done.iter().zip(&to.done);
    pairs
        .filter(|(_, after)| **after < files)
        .map(|(before, after)| f64::from(after - before))
        .collect()
}

fn jain(got: &[f64]) -> f64 {
    let sum: f64 = got.iter().sum();
    let squares: f64 = got.iter().map(|one| one * one).sum();
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (got.len() as f64 * squares)
}

/// The best index of so many whole files among so many.
fn best(sum: f64, tenants: usize) -> f64 {
    let tenants = tenants as f64;
    let each = (sum / tenants).floor();
    let more = sum - each * tenants;
    let squares = more * (each + 1.0).powi(2) + (tenants - more) * each * each;
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (tenants * squares)
}

/// The windows of so many looks, while at least nine tenths of the tenants have files waiting; the first second, in which the
/// stage fills, is none.
fn windows(looks: &[Look], length: usize, files: u32) -> Vec<Vec<f64>> {
    let tenants = looks.first().map_or(0, |look| look.done.len());
    let pairs = looks.iter().zip(looks.iter().skip(length));
    pairs
        .skip(LOOKS_A_SECOND)
        .map(|(from, to)| got(from, to, files))
        .filter(|got| got.len() * 10 >= tenants * 9)
        .collect()
}

fn indices(looks: &[Look], files: u32, tenants: usize) -> anyhow::Result<Vec<Row>> {
    let seconds = windows(looks, LOOKS_A_SECOND, files);
    ensure!(!seconds.is_empty(), "there is no second in which all wait");
    let a_second: f64 = seconds
        .iter()
        .map(|got| got.iter().sum::<f64>())
        .sum::<f64>()
        / seconds.len() as f64;
    let share = a_second / tenants as f64;
    let length = (FILES_OF_A_JUDGED_WINDOW / share * LOOKS_A_SECOND as f64).ceil() as usize;
    let judged = windows(looks, length, files);
    let worst = least(&judged);
    ensure!(
        worst.is_finite(),
        "no window is long enough: {share} files a tenant a second"
    );
    let to_best = seconds
        .iter()
        .map(|got| jain(got) / best(got.iter().sum(), got.len()));
    let to_best = to_best.fold(f64::INFINITY, f64::min);
    let figures = json!({
        "files_a_second": a_second,
        "windows": judged.len(),
        "window_seconds": length as f64 / LOOKS_A_SECOND as f64,
        "seconds": seconds.iter().map(|got| jain(got)).collect::<Vec<_>>(),
    });
    Ok(vec![
        Row {
            what: format!(
                "Jain's index of {tenants} tenants, least of sliding windows of ten files a tenant"
            ),
            target: format!("at least {LEAST_INDEX}"),
            figure: format!(
                "{worst:.3} ({:.1} s, {a_second:.0} files/s)",
                length as f64 / LOOKS_A_SECOND as f64
            ),
            is_met: Some(worst >= LEAST_INDEX),
            figures: figures.clone(),
        },
        Row {
            what: "the same of sliding seconds, and to the best that whole files allow".to_owned(),
            target: format!("{LEAST_INDEX} of the best"),
            figure: format!("{:.3}, {to_best:.3}", least(&seconds)),
            is_met: Some(to_best >= LEAST_INDEX),
            figures,
        },
    ])
}

fn least(windows: &[Vec<f64>]) -> f64 {
    let indices = windows.iter().map(|got| jain(got));
    indices.fold(f64::INFINITY, f64::min)
}

/// Of files that take no time: the index of a second, and how long a window must be for a good one.
fn of_null_work(looks: &[Look], files: u32) -> Row {
    let lengths = LOOKS_A_SECOND..looks.len();
    let of_lengths: Vec<f64> = lengths
        .map(|length| least(&windows(looks, length, files)))
        .take_while(|index| index.is_finite())
        .collect();
    let found = of_lengths.iter().position(|index| *index >= LEAST_INDEX);
    let even = found.map(|at| (at + LOOKS_A_SECOND) as f64 / LOOKS_A_SECOND as f64);
    let second = of_lengths.first().copied().unwrap_or_default();
    let even = even.map_or_else(
        || "in no window".to_owned(),
        |even| format!("in windows of {even:.1} s"),
    );
    Row {
        what: format!(
            "Jain's index of {TENANTS_OF_NULL_WORK} tenants, null work, least of sliding seconds, and where it is {LEAST_INDEX}"
        ),
        target: String::new(),
        figure: format!("{second:.3}, {even}"),
        is_met: None,
        figures: json!({ "by_length": of_lengths }),
    }
}

/// While everybody waits the files of a weight are to those of another as the weights are.
fn weighted(looks: &[Look], weights: &[u32], files: u32) -> anyhow::Result<Row> {
    let all_wait = |look: &&Look| look.done.iter().all(|done| *done < files);
    let first = looks.get(LOOKS_A_SECOND).context("too short")?;
    let last = looks
        .iter()
        .filter(all_wait)
        .next_back()
        .context("too short")?;
    let of = |weight: u32| -> f64 {
        let tenants = weights.iter().zip(first.done.iter().zip(&last.done));
        tenants
            .filter(|(of, _)| **of == weight)
            .map(|(_, (before, after))| f64::from(after - before))
            .sum()
    };
    let ratio = of(WEIGHTS[1]) / of(WEIGHTS[0]);
    let wanted = f64::from(WEIGHTS[1]) / f64::from(WEIGHTS[0]);
    let off = (ratio / wanted - 1.0).abs();
    Ok(Row {
        what: format!(
            "tenants of weight 2 to tenants of weight 1, {TENANTS_OF_A_WEIGHT} of each, while all wait"
        ),
        target: format!("2, {} % off at most", OFF_BY_AT_MOST * 100.0),
        figure: format!("{ratio:.3} ({:.1} s)", (last.at - first.at).as_secs_f64()),
        is_met: Some(off <= OFF_BY_AT_MOST),
        figures: json!({ "files": [of(WEIGHTS[0]), of(WEIGHTS[1])] }),
    })
}
