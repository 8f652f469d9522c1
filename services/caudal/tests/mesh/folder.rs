//! A folder's way through processes that are all on their own.

use caudal_harness::Database;
use tempfile::TempDir;

use crate::{QUICK, json, mesh, metrics, texts};

const TEXTS: usize = 20;

fn goes_through(database: Database) {
    let mesh = mesh(database, 1);
    for name in mesh.names() {
        assert_eq!(mesh.is_serving(&name).unwrap(), Some(true), "{name}");
    }
    let folder = TempDir::new().unwrap();
    let root = texts(&folder, TEXTS);
    std::fs::write(root.join("torn.pdf"), b"%PDF-1.7\nnothing follows").unwrap();
    let arguments = ["ingest", root.to_str().unwrap(), "--stages", QUICK];
    let ingested = mesh
        .caudal(&[&arguments[..], &["--output", "json"]].concat())
        .unwrap();
    let ended = json(&ingested);
    assert_eq!(
        (ingested.status.code(), ended["state"].as_str()),
        (Some(1), Some("FAILED")),
        "{ended}"
    );
    assert_eq!(ended["files"]["PROCESSED"], TEXTS, "{ended}");
    assert_eq!(ended["files"]["FAILED"], 1, "{ended}");
    let batch = ended["batch_id"].as_str().unwrap();
    let files = mesh.caudal(&["files", batch, "--output", "json"]).unwrap();
    let files = String::from_utf8_lossy(&files.stdout).into_owned();
    assert!(files.contains("CORRUPT_DOCUMENT"), "{files}");
    // Each ends with status 0 when it is asked to.
    mesh.verify().unwrap();
}

#[test]
fn a_folder_goes_through_separate_processes_on_sqlite() {
    goes_through(Database::Sqlite);
}

#[test]
fn a_folder_goes_through_separate_processes_on_postgres() {
    goes_through(Database::Postgres);
}

#[test]
fn every_service_shows_its_metrics() {
    let mesh = mesh(Database::Sqlite, 1);
    for name in mesh.names() {
        let page = metrics(&mesh, &name);
        assert!(page.contains("caudal_rpc_calls"), "{name}: {page}");
    }
}
