//! Each service dies in mid-batch, and nothing is lost.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use caudal_harness::Database;
use tempfile::TempDir;

use crate::{QUICK, begin, begin_with, end, json, mesh, metrics, texts};

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

/// A folder whose files go through every stage.
fn texts_and_images(folder: &TempDir) -> (PathBuf, usize) {
    const EACH: usize = 8;
    let root = texts(folder, EACH);
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples/photos/drop.png");
    for number in 0..EACH {
        std::fs::copy(&image, root.join(format!("{number}.png"))).unwrap();
    }
    (root, 2 * EACH)
}

fn the_slow_stages_are_killed(database: Database) {
    const ALL: &str = "upload,extract-text,embeddings,image-processing,metadata";
    let mut mesh = mesh(database, 1);
    let folder = TempDir::new().unwrap();
    let (root, files) = texts_and_images(&folder);
    let mut batches = Vec::new();
    for name in ["embeddings", "image-processing"] {
        batches.push(begin_with(&mesh, &root, ALL));
        mesh.kill(name).unwrap();
        mesh.restart(name).unwrap();
    }
    for batch in batches {
        end(&mesh, &batch, files);
    }
    mesh.verify().unwrap();
}

#[test]
fn a_kill_of_embeddings_and_image_processing_loses_nothing_on_sqlite() {
    the_slow_stages_are_killed(Database::Sqlite);
}

#[test]
fn a_kill_of_embeddings_and_image_processing_loses_nothing_on_postgres() {
    the_slow_stages_are_killed(Database::Postgres);
}

// Protocol 8.5: the reconciler is the whole answer to a Redis that lost everything.
fn redis_forgets(database: Database) {
    let mesh = mesh(database, 1);
    let folder = TempDir::new().unwrap();
    let batch = begin(&mesh, &texts(&folder, FILES));
    let client = redis::Client::open(mesh.redis_url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
    end(&mesh, &batch, FILES);
    mesh.verify().unwrap();
}

#[test]
fn a_redis_that_forgets_everything_loses_nothing_on_sqlite() {
    redis_forgets(Database::Sqlite);
}

#[test]
fn a_redis_that_forgets_everything_loses_nothing_on_postgres() {
    redis_forgets(Database::Postgres);
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
