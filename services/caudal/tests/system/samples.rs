//! Real files of many kinds through real stages.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::{Database, Ground, QUICK, json};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn every_sample_ends_as_expected_and_says_why() {
    let ground = Ground::new(Database::Sqlite);
    let samples = repository().join("docs/samples");
    let ended = ground
        .system
        .caudal(&["ingest", samples.to_str().unwrap(), "--output", "json"])
        .unwrap();
    let ended_as = json(&ended);
    assert_eq!(
        (ended.status.code(), ended_as["state"].as_str()),
        (Some(1), Some("FAILED")),
        "one sample is damaged"
    );
    let batch = ended_as["batch_id"].as_str().unwrap();
    let files = json(
        &ground
            .system
            .caudal(&["files", batch, "--output", "json"])
            .unwrap(),
    );
    let files: HashMap<&str, &Value> = files
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["path"].as_str().unwrap(), file))
        .collect();
    let expected =
        std::fs::read_to_string(repository().join("docs/samples.expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let has_model = std::env::var_os("CAUDAL_MODEL_DIR").is_some();
    let mut checked = 0;
    for (path, how) in expected.as_object().unwrap() {
        let file = files
            .get(path.as_str())
            .unwrap_or_else(|| panic!("{path} is not listed"));
        assert_eq!(file["state"], how["state"], "{path}");
        // Without the offline model texts end PARTIAL, and say so.
        if has_model || how["outcome"] != "COMPLETE" {
            assert_eq!(
                file["outcome"].as_str().unwrap_or_default(),
                how["outcome"].as_str().unwrap_or_default(),
                "{path}"
            );
        }
        if how["state"] == "FAILED" {
            assert_eq!(file["reason"], how["reason"], "{path}");
            assert!(!file["words"].as_str().unwrap().is_empty(), "{path}");
        }
        checked += 1;
    }
    assert_eq!(checked, files.len());
    ground.system.verify().unwrap();
}

/// Files of which rows are counted: so many that pages that are not full count for little.
const COUNTED: usize = 400;
/// Bytes of a small text in the database, indexes with it.
const BYTES_IN_SQLITE: u64 = 1_500;
/// The same: a row has more beside its columns there.
const BYTES_IN_POSTGRES: u64 = 2_400;

fn take_in(system: &caudal_harness::System, folder: &Path) {
    let folder = folder.to_str().unwrap();
    let ended = system.caudal(&["ingest", folder, "--stages", QUICK, "--new"]);
    assert_eq!(ended.unwrap().status.code(), Some(0));
}

fn check_bytes(before: u64, after: u64, most: u64) {
    let bytes = (after - before) / COUNTED as u64;
    assert!(bytes <= most, "{bytes} bytes a file");
}

#[test]
fn a_small_text_takes_few_bytes_in_sqlite() {
    let mut ground = Ground::new(Database::Sqlite);
    take_in(&ground.system, &ground.texts(1));
    let file = ground.system.data().join("ledger.sqlite");
    let mut bytes = || {
        // All of it is in one file then.
        ground.system.stop().unwrap();
        let bytes = std::fs::metadata(&file).unwrap().len();
        ground.system.restart().unwrap();
        bytes
    };
    let before = bytes();
    let texts = crate::texts_in(ground.folder.path(), COUNTED);
    take_in(&ground.system, &texts);
    ground.system.stop().unwrap();
    check_bytes(
        before,
        std::fs::metadata(&file).unwrap().len(),
        BYTES_IN_SQLITE,
    );
}

#[test]
fn a_small_text_takes_few_bytes_in_postgres() {
    let folder = tempfile::TempDir::new().unwrap();
    let url = caudal_harness::Postgres::new_database().unwrap();
    let data = folder.path().join("data");
    let system = caudal_harness::System::start(crate::binary(), &data, &["--database-url", &url]);
    let system = system.unwrap();
    let bytes = || -> u64 {
        // What updates left behind goes by itself in time; it is not what a file takes.
        caudal_harness::postgres::query(&url, "VACUUM FULL").unwrap();
        let sql = "SELECT sum(pg_total_relation_size(oid))::text FROM pg_class \
                   WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        caudal_harness::postgres::query(&url, sql).unwrap()[0]
            .parse()
            .unwrap()
    };
    take_in(&system, &crate::texts_in(folder.path(), 1));
    let before = bytes();
    take_in(&system, &crate::texts_in(folder.path(), COUNTED));
    check_bytes(before, bytes(), BYTES_IN_POSTGRES);
    system.verify().unwrap();
}

fn texts_succeed(database: Database) {
    let ground = Ground::new(database);
    let texts = ground.texts(60);
    std::fs::create_dir_all(texts.join("empty/within")).unwrap();
    let arguments = [
        "ingest",
        texts.to_str().unwrap(),
        "--stages",
        QUICK,
        "--output",
        "json",
    ];
    let ended = ground.system.caudal(&arguments).unwrap();
    let ended_as = json(&ended);
    assert_eq!(
        (ended.status.code(), ended_as["state"].as_str()),
        (Some(0), Some("SUCCEEDED"))
    );
    assert_eq!(ended_as["files"]["PROCESSED"], 60);
    assert_eq!(ended_as["outcomes"]["COMPLETE"], 60);
    ground.system.verify().unwrap();
}

#[test]
fn a_folder_of_texts_succeeds_on_sqlite() {
    texts_succeed(Database::Sqlite);
}

#[test]
fn a_folder_of_texts_succeeds_on_postgres() {
    texts_succeed(Database::Postgres);
}
