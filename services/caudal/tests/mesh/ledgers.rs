//! Two ledgers on one Postgres: one leads, the other takes over (protocol 9).

use std::time::{Duration, Instant};

use caudal_harness::Database;
use caudal_harness::Mesh;
use tempfile::TempDir;

use crate::{begin, end, mesh, texts};

const FILES: usize = 400;
/// A ledger's term, and what it takes to see that it is over.
const TAKEOVER: Duration = Duration::from_secs(12);

fn other(mesh: &Mesh, leading: &str) -> String {
    let mut ledgers = mesh
        .names()
        .into_iter()
        .filter(|name| name.starts_with("ledger-"));
    ledgers.find(|name| name != leading).unwrap()
}

#[test]
fn another_ledger_takes_over_from_a_killed_one_within_seconds() {
    let mut mesh = mesh(Database::Postgres, 2);
    let leading = mesh.leading(None, TAKEOVER).unwrap();
    let standby = other(&mesh, &leading);
    assert_eq!(mesh.is_serving(&standby).unwrap(), Some(false));
    let folder = TempDir::new().unwrap();
    let batch = begin(&mesh, &texts(&folder, FILES));
    mesh.kill(&leading).unwrap();
    mesh.leading(Some(&standby), TAKEOVER).unwrap();
    end(&mesh, &batch, FILES);
    // The killed one comes back, and stands by.
    mesh.restart(&leading).unwrap();
    assert_eq!(mesh.is_serving(&leading).unwrap(), Some(false));
    assert_eq!(mesh.is_serving(&standby).unwrap(), Some(true));
    mesh.verify().unwrap();
}

// Protocol 9: every transaction of the writer locks the row of its own epoch, so one that slept through its term writes
// nothing.
#[test]
fn a_ledger_that_slept_through_its_term_writes_nothing_when_it_wakes() {
    let mesh = mesh(Database::Postgres, 2);
    let leading = mesh.leading(None, TAKEOVER).unwrap();
    let standby = other(&mesh, &leading);
    let folder = TempDir::new().unwrap();
    let batch = begin(&mesh, &texts(&folder, FILES));
    mesh.pause(&leading).unwrap();
    mesh.leading(Some(&standby), TAKEOVER).unwrap();
    mesh.resume(&leading).unwrap();
    end(&mesh, &batch, FILES);
    let begun = Instant::now();
    while mesh.is_serving(&leading).unwrap() != Some(false) {
        assert!(
            begun.elapsed() < TAKEOVER,
            "{leading} believes that it leads"
        );
    }
    assert_eq!(mesh.is_serving(&standby).unwrap(), Some(true));
    mesh.verify().unwrap();
}

// Protocol 9: leadership is given back, so that nobody waits for the end of the term.
#[test]
fn a_ledger_that_is_asked_to_end_hands_over_at_once() {
    let mut mesh = mesh(Database::Postgres, 2);
    let leading = mesh.leading(None, TAKEOVER).unwrap();
    let standby = other(&mesh, &leading);
    let folder = TempDir::new().unwrap();
    let batch = begin(&mesh, &texts(&folder, FILES));
    assert!(mesh.terminate(&leading).unwrap().success());
    mesh.leading(Some(&standby), Duration::from_secs(4))
        .unwrap();
    end(&mesh, &batch, FILES);
    mesh.verify().unwrap();
}
