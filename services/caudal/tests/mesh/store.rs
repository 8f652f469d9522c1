//! The object store goes away in mid-batch, and no file is charged for it.

use std::time::Duration;

use caudal_harness::Database;
use tempfile::TempDir;

use crate::{begin, end, mesh, metrics, texts};

const FILES: usize = 400;

/// Files whose failure a stage reported.
fn charged(page: &str) -> u64 {
    page.lines()
        .filter(|line| line.starts_with("caudal_stage_files_total"))
        .filter(|line| line.contains("verdict=\"failed\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn the_store_is_away(database: Database, away: Duration) {
    let mut mesh = mesh(database, 1);
    let folder = TempDir::new().unwrap();
    let root = texts(&folder, FILES);
    // What has arrived waits for a stage that is not there yet.
    mesh.kill("extract-text").unwrap();
    let batch = begin(&mesh, &root);
    mesh.stop_store().unwrap();
    mesh.restart("extract-text").unwrap();
    std::thread::sleep(away);
    let page = metrics(&mesh, "extract-text");
    let waits = page
        .lines()
        .find(|line| line.starts_with("caudal_stage_waits{") && line.contains("object-store"));
    assert!(waits.is_some_and(|waits| waits.ends_with(" 1")), "{page}");
    mesh.start_store().unwrap();
    end(&mesh, &batch, FILES);
    for stage in ["upload", "extract-text", "metadata"] {
        assert_eq!(charged(&metrics(&mesh, stage)), 0, "{stage}");
    }
    mesh.verify().unwrap();
}

#[test]
fn a_store_that_is_away_for_eight_seconds_in_mid_batch_fails_no_file_on_sqlite() {
    the_store_is_away(Database::Sqlite, Duration::from_secs(8));
}

#[test]
fn a_store_that_is_away_for_longer_in_mid_batch_fails_no_file_on_postgres() {
    the_store_is_away(Database::Postgres, Duration::from_secs(20));
}
