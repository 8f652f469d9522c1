//! What becomes of uploaded bytes where they landed.

use std::time::Duration;

use caudal_harness::until;
use caudal_objects::{ObjectStore, Settings};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{Database, Ground, QUICK, json};

const FILES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(60);

/// A system that keeps what landed for so long, and has processed its files.
fn processed(database: Database, landing_delay: &str) -> Ground {
    let variables = [
        ("CAUDAL_LANDING_DELAY", landing_delay),
        ("CAUDAL_ALWAYS_LAND", "true"),
    ];
    let ground = Ground::with(database, &variables);
    ingest(&ground);
    ground
}

fn ingest(ground: &Ground) {
    let texts = ground.texts(FILES);
    let texts = texts.to_str().unwrap();
    let arguments = ["ingest", texts, "--stages", QUICK, "--output", "json"];
    let ended = json(&ground.system.caudal(&arguments).unwrap());
    assert_eq!(ended["files"]["PROCESSED"], FILES, "{ended}");
}

/// The system's own object store.
pub(crate) fn store(ground: &Ground) -> ObjectStore {
    let secrets = std::fs::read(ground.folder.path().join("data/secrets.json")).unwrap();
    let secrets: Value = serde_json::from_slice(&secrets).unwrap();
    let secret = |name: &str| secrets[name].as_str().unwrap().to_owned();
    let (access_key, secret_key) = (secret("s3_access_key"), secret("s3_secret_key"));
    let settings = Settings::new(ground.system.ready("s3"), "caudal", access_key, secret_key);
    ObjectStore::connect(settings).unwrap()
}

/// How many objects are where bytes land, and how many where they stay.
async fn landed_and_kept(store: &ObjectStore) -> (usize, usize) {
    let page = store.list("", None).await.unwrap();
    assert!(page.next.is_none());
    let among = |kind: &str| {
        let objects = page.objects.iter();
        objects.filter(|object| object.key.contains(kind)).count()
    };
    (among("/landing/"), among("/files/"))
}

fn what_landed_is_freed(database: Database) {
    let ground = processed(database, "1s");
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(async { store(&ground) });
    let freed = until("what landed to be freed", PATIENCE, async || {
        let (landed, kept) = landed_and_kept(&store).await;
        assert_eq!(kept, FILES);
        (landed == 0).then_some(())
    });
    runtime.block_on(freed).unwrap();
    let metrics = format!("{}/metrics", ground.system.service("upload"));
    let counted = until("the freed ones to be counted", PATIENCE, async || {
        let page = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        let of_upload = "service=\"upload\",stage=\"upload\"";
        let freed =
            format!("caudal_stage_landing_objects_total{{{of_upload},end=\"freed\"}} {FILES}\n");
        let none_waits = format!("caudal_stage_landing_waiting_objects{{{of_upload}}} 0\n");
        (page.contains(&freed) && page.contains(&none_waits)).then_some(())
    });
    runtime.block_on(counted).unwrap();
    ground.system.verify().unwrap();
}

#[test]
fn what_landed_is_freed_some_time_after_its_copy_was_recorded_on_sqlite() {
    what_landed_is_freed(Database::Sqlite);
}

#[test]
fn what_landed_is_freed_some_time_after_its_copy_was_recorded_on_postgres() {
    what_landed_is_freed(Database::Postgres);
}

#[test]
fn what_landed_stays_until_then_and_holds_up_no_shutdown() {
    let ground = processed(Database::Sqlite, "1h");
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(async { store(&ground) });
    let objects = runtime.block_on(landed_and_kept(&store));
    assert_eq!(objects, (FILES, FILES));
    ground.system.verify().unwrap();
}

async fn metrics(ground: &Ground) -> String {
    let (page, key) = ("gateway", "operator_key");
    let asked = reqwest::Client::new()
        .get(format!("{}/metrics", ground.system.ready(page)))
        .bearer_auth(ground.system.ready(key));
    asked.send().await.unwrap().text().await.unwrap()
}

async fn until_checksums_are_verified(ground: &Ground) {
    let known = until("the store to be asked", PATIENCE, async || {
        let verifies = "caudal_store_verifies_checksums{service=\"gateway\"} 1\n";
        metrics(ground).await.contains(verifies).then_some(())
    });
    known.await.unwrap();
}

/// Requests that the store has taken, by these methods.
async fn store_requests(ground: &Ground, methods: [&str; 3]) -> [usize; 3] {
    let page = metrics(ground).await;
    methods.map(|method| {
        let name = format!("method=\"{method}\"");
        let mut of_store = page
            .lines()
            .filter(|line| line.starts_with("caudal_embedded_store_requests_total"));
        let line = of_store.find(|line| line.contains(&name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    })
}

// The bytes and the text are written, the confirmation is checked, and two stages read.
#[test]
fn a_small_text_makes_five_requests_to_the_store() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(until_checksums_are_verified(&ground));
    let methods = ["PUT", "HEAD", "GET"];
    let before = runtime.block_on(store_requests(&ground, methods));
    ingest(&ground);
    let after = runtime.block_on(store_requests(&ground, methods));
    let made: Vec<usize> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(made, [2 * FILES, FILES, 2 * FILES], "{methods:?}");
}

// Protocol 12.5.
#[test]
fn what_was_declared_goes_straight_to_where_it_stays() {
    let ground = Ground::with(Database::Sqlite, &[("CAUDAL_LANDING_DELAY", "1h")]);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(until_checksums_are_verified(&ground));
    ingest(&ground);
    let store = runtime.block_on(async { store(&ground) });
    let objects = runtime.block_on(landed_and_kept(&store));
    assert_eq!(objects, (0, FILES));
    ground.system.verify().unwrap();
}
