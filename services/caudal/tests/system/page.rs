//! The page in a real browser: a real folder is dropped on it, and every file is seen to reach its end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::recovery::{FILES, begin};
use crate::{Database, Ground};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether what npm builds is there; where it must be, it is an error when it is not.
fn is_built(file: &Path) -> bool {
    let built = file.exists();
    assert!(
        built || std::env::var_os("CAUDAL_REQUIRE_PAGE").is_none(),
        "{} is not built: run `make page`",
        file.display()
    );
    if !built {
        println!("not run: {} is not built (`make page`)", file.display());
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
    let ran = Command::new("node")
        .arg(web.join("browser").join(script))
        .env("CAUDAL_GATEWAY", ground.system.ready("gateway"))
        .env("CAUDAL_API_KEY", ground.system.ready("api_key"))
        .env("CAUDAL_OPERATOR_KEY", ground.system.ready("operator_key"))
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    ground.system.verify().unwrap();
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
fn a_grpc_web_client_in_node_watches_across_a_restart_and_ends_as_the_database_says() {
    let client = repository().join("proto/sdk/typescript");
    if !is_built(&client.join("dist/index.js")) || !is_built(&client.join("node_modules")) {
        return;
    }
    let mut ground = Ground::new(Database::Sqlite);
    let batch = begin(&ground);
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
