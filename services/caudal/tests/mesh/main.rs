//! The whole system as separate processes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod deaths;
mod folder;
mod ledgers;
mod replicas;
mod settings;
mod store;
mod tls;
mod tus;
#[path = "../tus_wire/mod.rs"]
mod tus_wire;

use std::path::{Path, PathBuf};
use std::process::Output;

use caudal_harness::Database;
use caudal_harness::{Mesh, MeshOptions};
use serde_json::Value;
use tempfile::TempDir;

/// Stages that need no model: quick on any machine.
const QUICK: &str = "upload,extract-text,metadata";

fn mesh(database: Database, ledgers: usize) -> Mesh {
    let options = MeshOptions {
        database,
        ledgers,
        dispatch_windows: "",
    };
    Mesh::start(binary(), options).unwrap()
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_caudal"))
}

/// A folder of small texts, nested, to be taken in.
fn texts(folder: &TempDir, count: usize) -> PathBuf {
    let root = folder.path().join("texts");
    for number in 0..count {
        let folder = root.join(format!("{}/{}", number % 7, number % 3));
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("gauge {number}: the river is high\n");
        std::fs::write(folder.join(format!("{number}.txt")), text).unwrap();
    }
    root
}

/// Uploads a folder of texts and comes back while it is processed; the batch's id.
fn begin(mesh: &Mesh, folder: &Path) -> String {
    begin_with(mesh, folder, QUICK)
}

/// The same through the stages that are named.
fn begin_with(mesh: &Mesh, folder: &Path, stages: &str) -> String {
    let folder = folder.to_str().unwrap();
    let arguments = ["ingest", folder, "--stages", stages, "--no-wait"];
    let begun = mesh
        .caudal(&[&arguments[..], &["--output", "json"]].concat())
        .unwrap();
    assert!(
        begun.status.success(),
        "{}",
        String::from_utf8_lossy(&begun.stderr)
    );
    json(&begun)["batch_id"].as_str().unwrap().to_owned()
}

/// Waits for a batch; all its files must end well.
fn end(mesh: &Mesh, batch: &str, files: usize) {
    let watched = mesh.caudal(&["watch", batch, "--output", "json"]).unwrap();
    let ended = json(&watched);
    let state = ended["state"].as_str();
    assert_eq!(
        (watched.status.code(), state),
        (Some(0), Some("SUCCEEDED")),
        "{ended}"
    );
    assert_eq!(ended["files"]["PROCESSED"], files, "{ended}");
}

/// A service's page of metrics.
fn metrics(mesh: &Mesh, name: &str) -> String {
    let address = format!("{}/metrics", mesh.address(name).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let http = reqwest::Client::new();
        // The gateway's door is open to the world.
        let asked = http.get(address).bearer_auth(mesh.operator_key());
        let answer = asked.send().await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    })
}

/// The one JSON object a command ends with.
fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{words}"))
}
