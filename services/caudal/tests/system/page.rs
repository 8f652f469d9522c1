//! The page in a real browser: a real folder is dropped on it, and every file is seen to reach its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::recovery::{FILES, begin_held, let_go};
use crate::{Database, Ground};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether what npm builds is there; where it must be, it is an error when it is not.
pub(crate) fn is_built(file: &Path) -> bool {
    let built = file.exists();
    assert!(
        built || std::env::var_os("CAUDAL_REQUIRE_PAGE").is_none(),
        "{} is not built: run `make page client clients`",
        file.display()
    );
    if !built {
        println!(
            "not run: {} is not built (`make page client clients`)",
            file.display()
        );
    }
    built
}

/// Runs a script of `gateway/web/browser` against a system of its own.
fn in_a_browser(script: &str) {
    let web = repository().join("gateway/web");
    if !is_built(&web.join("dist/index.html")) || !is_built(&web.join("node_modules")) {
        return;
    }
    let ground = Ground::with(
        Database::Sqlite,
        &[("CAUDAL_WEB_DIR", web.join("dist").to_str().unwrap())],
    );
    let mut command = Command::new("node");
    command.arg(web.join("browser").join(script));
    run(ground, command).0.system.verify().unwrap();
}

/// Runs a script against a system, which is killed and started again whenever the script says `kill`; it is told when that
/// is done. Comes back with what it said.
pub(crate) fn run(mut ground: Ground, mut command: Command) -> (Ground, Vec<String>) {
    let mut running = command
        .env("CAUDAL_GATEWAY", ground.system.ready("gateway"))
        .env("CAUDAL_API_KEY", ground.system.ready("api_key"))
        .env("CAUDAL_OPERATOR_KEY", ground.system.ready("operator_key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut complaints = running.stderr.take().unwrap();
    let complaints = std::thread::spawn(move || {
        let mut words = String::new();
        complaints.read_to_string(&mut words).map(|_| words)
    });
    let mut answers = running.stdin.take().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(running.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "kill" {
            let address = ground.system.ready("s3");
            ground.system.kill().unwrap();
            ground.system.restart().unwrap();
            assert_eq!(ground.system.ready("s3"), address, "the store moved");
            answers.write_all(b"restarted\n").unwrap();
        }
        said.push(line);
    }
    let complaints = complaints.join().unwrap().unwrap();
    let ended = running.wait().unwrap();
    assert!(ended.success(), "{}\n{complaints}", said.join("\n"));
    (ground, said)
}

#[test]
fn a_folder_dropped_on_the_page_is_seen_to_its_end_and_a_failure_says_why() {
    in_a_browser("drop.mjs");
}

#[test]
fn every_name_of_a_disk_dropped_or_picked_is_in_the_batch_or_named_as_left_out() {
    in_a_browser("names.mjs");
}

#[test]
fn the_page_reckons_nothing_while_paused_and_keeps_what_was_chosen_in_sight() {
    in_a_browser("truth.mjs");
}

#[test]
fn a_page_that_sends_goes_on_by_itself_when_the_system_was_killed_and_started_again() {
    in_a_browser("restart.mjs");
}

#[test]
fn an_upload_that_broke_off_is_gone_on_with_by_the_page_and_only_the_rest_is_sent() {
    in_a_browser("resume.mjs");
}

#[test]
fn of_a_folder_that_is_dropped_again_only_what_has_changed_is_sent() {
    in_a_browser("unchanged.mjs");
}

#[test]
fn a_grpc_web_client_in_node_watches_across_a_restart_and_ends_as_the_database_says() {
    let client = repository().join("proto/sdk/typescript");
    if !is_built(&client.join("dist/index.js")) || !is_built(&client.join("node_modules")) {
        return;
    }
    let mut ground = Ground::new(Database::Sqlite);
    let batch = begin_held(&ground);
    let mut watch = Command::new("node")
        .arg(client.join("examples/watch.mjs"))
        .arg(format!("batches/{batch}"))
        .env("CAUDAL_GATEWAY", ground.system.ready("gateway"))
        .env("CAUDAL_API_KEY", ground.system.ready("api_key"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut steps = BufReader::new(watch.stdout.take().unwrap());
    let mut first = String::new();
    steps.read_line(&mut first).unwrap();
    assert!(ground.system.stop().unwrap().success());
    ground.system.restart().unwrap();
    let_go(&ground);
    let mut rest = String::new();
    steps.read_to_string(&mut rest).unwrap();
    assert!(watch.wait().unwrap().success(), "{first}{rest}");
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["state"].as_str(), last["processed"].as_u64()),
        (Some("SUCCEEDED"), Some(FILES as u64))
    );
    ground.system.verify().unwrap();
}
