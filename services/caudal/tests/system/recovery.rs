//! What survives when the machine does not.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use caudal_harness::until_now;
use serde_json::Value;

use crate::{Database, Ground, QUICK, json};

pub(crate) const FILES: usize = 400;
const PATIENCE: Duration = Duration::from_secs(60);

/// Uploads a folder and comes back while it is processed.
pub(crate) fn begin(ground: &Ground) -> String {
    let batch = begin_held(ground);
    let_go(ground);
    batch
}

/// Uploads a folder of which nothing is processed before [`let_go`], however fast the system is.
pub(crate) fn begin_held(ground: &Ground) -> String {
    tenants(ground, &["pause", &tenant(ground)]);
    let texts = ground.texts(FILES);
    let arguments = [
        "ingest",
        texts.to_str().unwrap(),
        "--stages",
        QUICK,
        "--no-wait",
        "--output",
        "json",
    ];
    let begun = ground.system.caudal(&arguments).unwrap();
    assert!(
        begun.status.success(),
        "{}",
        String::from_utf8_lossy(&begun.stderr)
    );
    json(&begun)["batch_id"].as_str().unwrap().to_owned()
}

pub(crate) fn let_go(ground: &Ground) {
    tenants(ground, &["resume", &tenant(ground)]);
}

/// The one tenant of a new system.
fn tenant(ground: &Ground) -> String {
    let listed = json(&tenants(ground, &["list"]));
    let tenant = &listed["tenants"][0]["tenant"];
    tenant.as_str().unwrap().to_owned()
}

fn tenants(ground: &Ground, arguments: &[&str]) -> Output {
    let arguments = [&["tenants"], arguments, &["--output", "json"]].concat();
    let ran = ground
        .system
        .command(&arguments)
        .env("CAUDAL_API_KEY", ground.system.ready("operator_key"))
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    ran
}

pub(crate) fn end(ground: &Ground, batch: &str) {
    let watched = ground
        .system
        .caudal(&["watch", batch, "--output", "json"])
        .unwrap();
    let ended = json(&watched);
    assert_eq!(
        (watched.status.code(), ended["state"].as_str()),
        (Some(0), Some("SUCCEEDED")),
        "{ended}"
    );
    assert_eq!(ended["files"]["PROCESSED"], FILES);
}

fn redis_port(ground: &Ground) -> u16 {
    let url = ground.system.ready("redis");
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    port.parse().unwrap()
}

fn kill_in_mid_batch(database: Database) {
    let mut ground = Ground::new(database);
    let batch = begin(&ground);
    let port = redis_port(&ground);
    ground.system.kill().unwrap();
    until_now("the redis-server to follow its parent", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    })
    .unwrap();
    ground.system.restart().unwrap();
    end(&ground, &batch);
    ground.system.verify().unwrap();
}

#[test]
fn a_kill_in_mid_batch_loses_nothing_and_leaves_no_redis_behind() {
    kill_in_mid_batch(Database::Sqlite);
}

#[test]
fn a_kill_in_mid_batch_loses_nothing_on_postgres() {
    kill_in_mid_batch(Database::Postgres);
}

// Protocol 8.5: the reconciler is the whole answer to a Redis that lost everything.
#[test]
fn a_redis_that_forgets_everything_in_mid_batch_loses_nothing() {
    let ground = Ground::new(Database::Sqlite);
    let batch = begin(&ground);
    // The password stands in no ready line.
    let url = std::fs::read_to_string(ground.system.data().join("redis/url")).unwrap();
    assert!(
        !ground
            .system
            .ready("redis")
            .contains(url.split([':', '@']).nth(2).unwrap())
    );
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
    end(&ground, &batch);
    ground.system.verify().unwrap();
}

#[test]
fn a_watch_survives_a_restart_and_ends_as_the_database_says() {
    let mut ground = Ground::new(Database::Sqlite);
    let batch = begin(&ground);
    let mut watch = ground
        .system
        .command(&["watch", &batch, "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first words say that it watches; the rest is read so that it never waits for us.
    let mut words = BufReader::new(watch.stderr.take().unwrap());
    words.read_line(&mut String::new()).unwrap();
    let rest = std::thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
    assert!(ground.system.stop().unwrap().success());
    ground.system.restart().unwrap();
    let watched = watch.wait_with_output().unwrap();
    rest.join().unwrap().unwrap();
    let ended: Value = json(&watched);
    assert_eq!(
        (watched.status.code(), ended["state"].as_str()),
        (Some(0), Some("SUCCEEDED")),
        "{ended}"
    );
    ground.system.verify().unwrap();
}
