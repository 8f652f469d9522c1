//! Each service dies in mid-batch, and nothing is lost.

use std::process::Stdio;
use std::time::{Duration, Instant};

use caudal_harness::mesh::Database;
use tempfile::TempDir;

use crate::{QUICK, begin, end, json, mesh, metrics, texts};

const FILES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(20);

fn every_service_is_killed(database: Database) {
    let mut mesh = mesh(database, 1);
    let folder = TempDir::new().unwrap();
    let root = texts(&folder, FILES);
    let mut batches = Vec::new();
    for name in [
        "upload",
        "extract-text",
        "metadata",
        "limiter",
        "ledger-1",
        "gateway",
    ] {
        batches.push(begin(&mesh, &root));
        mesh.kill(name).unwrap();
        mesh.restart(name).unwrap();
        mesh.leading(None, PATIENCE).unwrap();
    }
    for batch in batches {
        end(&mesh, &batch, FILES);
    }
    let page = metrics(&mesh, "ledger-1");
    let deaths = page
        .lines()
        .find(|line| line.starts_with("caudal_kills_total"));
    assert!(
        deaths.is_some_and(|deaths| !deaths.ends_with(" 0")),
        "no file was at work when a service died: {page}"
    );
    mesh.verify().unwrap();
}

#[test]
fn a_kill_of_each_service_in_mid_batch_loses_nothing_on_sqlite() {
    every_service_is_killed(Database::Sqlite);
}

#[test]
fn a_kill_of_each_service_in_mid_batch_loses_nothing_on_postgres() {
    every_service_is_killed(Database::Postgres);
}

#[test]
fn a_client_outlives_the_gateway_that_it_talks_to() {
    let mut mesh = mesh(Database::Sqlite, 1);
    let folder = TempDir::new().unwrap();
    let root = texts(&folder, FILES);
    let arguments = ["ingest", root.to_str().unwrap(), "--stages", QUICK];
    let ingest = mesh
        .command(&[&arguments[..], &["--output", "json"]].concat())
        .unwrap()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !metrics(&mesh, "gateway").contains("BatchService/AddEntries\",code") {
        assert!(begun.elapsed() < PATIENCE, "nothing was added");
    }
    mesh.kill("gateway").unwrap();
    mesh.restart("gateway").unwrap();
    let ended = json(&ingest.wait_with_output().unwrap());
    assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["files"]["PROCESSED"], FILES, "{ended}");
    mesh.verify().unwrap();
}
