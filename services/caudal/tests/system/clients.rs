//! Clients of others, unmodified, as `infra/clients` pins them: what they send arrives as it was sent.

use std::process::Command;

use serde_json::Value;

use crate::page::{is_built, repository, run};
use crate::tus_wire::Sender;
use crate::{Database, Ground};

/// Runs a script of `infra/clients` against a system of its own. It sends into a batch and prints, for each file, a line
/// with its path and checksum.
fn with(program: &str, script: &str) {
    let clients = repository().join("infra/clients");
    if !is_built(&clients.join("node_modules")) || !is_built(&clients.join("python")) {
        return;
    }
    let ground = Ground::new(Database::Sqlite);
    let sender = |ground: &Ground| {
        let system = &ground.system;
        Sender::new(&system.ready("gateway"), &system.ready("api_key"))
    };
    let batch = sender(&ground).batch();
    let mut command = Command::new(program);
    command
        .arg(clients.join(script))
        .env("CAUDAL_BATCH", &batch)
        .env("PYTHONPATH", clients.join("python"));
    let (ground, said) = run(ground, command);
    let sent: Vec<Value> = said
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert!(!sent.is_empty(), "{said:?}");
    let sender = sender(&ground);
    sender.complete(&batch, u32::try_from(sent.len()).unwrap());
    for file in &sent {
        let path = file["path"].as_str().unwrap();
        let arrived = hex(&sender.processed(&batch, path).sha256);
        assert_eq!(file["sha256"], arrived.as_str(), "{path}");
    }
    ground.system.verify().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_tus_js_client_sends_arrives_through_a_kill_of_the_system() {
    with("node", "tus-js-client.mjs");
}

#[test]
fn what_uppy_sends_from_a_page_of_another_origin_arrives_by_tus_and_by_presigned_urls() {
    if is_built(&repository().join("gateway/web/node_modules")) {
        with("node", "uppy.mjs");
    }
}

#[test]
fn what_tuspy_sends_arrives() {
    with("python3", "send_by_tuspy.py");
}
