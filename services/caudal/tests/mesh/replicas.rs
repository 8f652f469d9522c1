//! Three ledgers on one Postgres, under load: the active one is killed, the next one sleeps through its term, the third
//! is asked to end (protocol 9).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use caudal_harness::{Database, Mesh, MeshOptions, postgres, until_now};
use tempfile::TempDir;

use crate::{QUICK, binary, json};

/// Clients at once, each with a batch of its own.
const BATCHES: usize = 3;
const FILES: usize = 300;
/// Results that each file leaves in the stages of [`QUICK`].
const RESULTS: usize = 3;
/// Small, so that most files wait; as the ledgers are told, and as they are watched.
const WINDOWS: &str = "upload=16,extract-text=8,metadata=16";
const WINDOW_OF: [(&str, u64); 3] = [("1", 16), ("2", 8), ("5", 16)];
/// A ledger's term, and what it takes to see that it is over.
const TAKEOVER: Duration = Duration::from_secs(15);
/// One that ends cleanly is followed sooner than its term would end.
const AT_ONCE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(120);

/// Texts that no other batch has, so that nothing is taken over.
fn texts(folder: &Path, batch: usize) -> PathBuf {
    let root = folder.join(format!("batch-{batch}"));
    for number in 0..FILES {
        let folder = root.join(format!("{}", number % 7));
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("gauge {number} of river {batch}\n");
        std::fs::write(folder.join(format!("{number}.txt")), text).unwrap();
    }
    root
}

fn ingest(mesh: &Mesh, folder: &Path) -> Child {
    let arguments = ["ingest", folder.to_str().unwrap(), "--stages", QUICK];
    mesh.command(&[&arguments[..], &["--output", "json"]].concat())
        .unwrap()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Looks all the time at what is out; the most that was seen, by stage.
fn watch_windows(url: String, over: Arc<AtomicBool>) -> JoinHandle<HashMap<String, u64>> {
    std::thread::spawn(move || {
        let sql =
            "SELECT stage, count(*) FROM file_work WHERE dispatched_at IS NOT NULL GROUP BY stage";
        let mut most: HashMap<String, u64> = HashMap::new();
        while !over.load(Ordering::Relaxed) {
            for row in postgres::query(&url, sql).unwrap() {
                let (stage, count) = row.split_once('|').unwrap();
                let seen = most.entry(stage.to_owned()).or_default();
                *seen = (*seen).max(count.parse().unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        most
    })
}

fn recorded(mesh: &Mesh) -> usize {
    let sql = "SELECT count(*) FROM stage_results WHERE NOT skipped";
    postgres::query(mesh.database_url(), sql).unwrap()[0]
        .parse()
        .unwrap()
}

/// Waits until so many results more are recorded: there is work under way, and it goes on.
fn goes_on(mesh: &Mesh, more: usize) {
    let wanted = recorded(mesh) + more;
    assert!(
        wanted < BATCHES * FILES * RESULTS,
        "the load is over before its time"
    );
    until_now("more results", PATIENCE, || {
        (recorded(mesh) >= wanted).then_some(())
    })
    .unwrap();
}

fn until_it_stands_by(mesh: &Mesh, name: &str) {
    let stands_by = || (mesh.is_serving(name).unwrap() == Some(false)).then_some(());
    until_now("it to stand by", TAKEOVER, stands_by).unwrap();
}

#[test]
fn three_ledgers_lose_nothing_and_double_nothing_under_load() {
    let options = MeshOptions {
        database: Database::Postgres,
        ledgers: 3,
        dispatch_windows: WINDOWS,
    };
    let mut mesh = Mesh::start(binary(), options).unwrap();
    let folder = TempDir::new().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let watched = watch_windows(mesh.database_url().to_owned(), over.clone());
    let clients: Vec<Child> = (0..BATCHES)
        .map(|batch| ingest(&mesh, &texts(folder.path(), batch)))
        .collect();

    let first = mesh.leading(None, TAKEOVER).unwrap();
    goes_on(&mesh, 200);
    mesh.kill(&first).unwrap();
    let begun = Instant::now();
    let second = mesh.leading(None, TAKEOVER).unwrap();
    println!("{second} leads {:?} after a kill", begun.elapsed());
    goes_on(&mesh, 200);

    mesh.pause(&second).unwrap();
    let begun = Instant::now();
    let third = mesh.leading(None, TAKEOVER).unwrap();
    println!("{third} leads {:?} after a pause", begun.elapsed());
    assert_ne!(second, third);
    goes_on(&mesh, 100);
    mesh.resume(&second).unwrap();
    until_it_stands_by(&mesh, &second);
    goes_on(&mesh, 100);

    let begun = Instant::now();
    assert!(mesh.terminate(&third).unwrap().success());
    let ended = begun.elapsed();
    let fourth = mesh.leading(None, AT_ONCE).unwrap();
    println!(
        "{fourth} leads {:?} after an end that took {ended:?}",
        begun.elapsed() - ended
    );
    assert_eq!(fourth, second);
    mesh.restart(&first).unwrap();
    mesh.restart(&third).unwrap();

    for client in clients {
        let output = client.wait_with_output().unwrap();
        let ended = json(&output);
        assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
        assert_eq!(ended["files"]["PROCESSED"], FILES, "{ended}");
    }
    over.store(true, Ordering::Relaxed);
    let most = watched.join().unwrap();
    println!("most out at once: {most:?}");
    for (stage, window) in WINDOW_OF {
        let seen = most.get(stage).copied().unwrap_or_default();
        assert!((1..=window).contains(&seen), "stage {stage}: {seen}");
    }
    // Each stage of each file is recorded once, whoever led.
    assert_eq!(recorded(&mesh), BATCHES * FILES * RESULTS);
    let twice = "SELECT tenant_id, batch_id, ordinal, generation, stage FROM stage_results \
                 GROUP BY 1, 2, 3, 4, 5 HAVING count(*) > 1";
    let twice = postgres::query(mesh.database_url(), twice).unwrap();
    assert!(twice.is_empty(), "{twice:?}");
    mesh.verify().unwrap();
}
