//! What people type when something is wrong: count, look, retry, cancel, dismiss, pause.

use std::path::PathBuf;

use caudal_harness::{PATIENCE, until_now};
use caudal_proto::v1::{AddEntriesRequest, Batch, CreateBatchRequest};
use serde_json::{Value, json};

use crate::door::watch_until;
use crate::refusals::{batches, channel, file, request_id};
use crate::{Database, Ground, QUICK, json as answer};

/// Texts, and two PDFs that are none.
fn with_broken(ground: &Ground, texts: usize) -> PathBuf {
    let folder = ground.texts(texts);
    std::fs::create_dir_all(folder.join("scans")).unwrap();
    for name in ["one.pdf", "two.pdf"] {
        std::fs::write(
            folder.join("scans").join(name),
            b"%PDF-1.7\nnothing of it\n",
        )
        .unwrap();
    }
    folder
}

fn run(ground: &Ground, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = arguments.to_vec();
    command.extend(["--output", "json"]);
    let output = ground.system.caudal(&command).unwrap();
    (output.status.code(), answer(&output))
}

fn words(ground: &Ground, arguments: &[&str]) -> (Option<i32>, String) {
    let output = ground.system.caudal(arguments).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), words)
}

fn ingest(ground: &Ground, folder: &std::path::Path, more: &[&str]) -> String {
    let mut arguments = vec!["ingest", folder.to_str().unwrap(), "--stages", QUICK];
    arguments.extend(more);
    let (_, ended) = run(ground, &arguments);
    ended["batch_id"].as_str().unwrap().to_owned()
}

fn failures_are_counted_retried_and_dismissed(database: Database) {
    let ground = Ground::new(database);
    let folder = with_broken(&ground, 10);
    let batch = ingest(&ground, &folder, &[]);

    let (_, counted) = run(&ground, &["count", &batch, "--by", "state"]);
    assert_eq!(
        counted,
        json!({"total": 12, "counts": {"PROCESSED": 10, "FAILED": 2}})
    );
    let (_, counted) = run(&ground, &["count", "--state", "failed", "--by", "reason"]);
    assert_eq!(counted["counts"], json!({"CORRUPT_DOCUMENT": 2}));
    let (_, counted) = run(&ground, &["count", &batch, "--folder", "scans"]);
    assert_eq!(counted["total"], 2);
    let (_, counted) = run(&ground, &["count", &batch, "--path", "**/*.txt"]);
    assert_eq!(counted["total"], 10);

    let (code, looked) = run(&ground, &["retry", &batch, "--dry-run"]);
    assert_eq!((code, &looked["matched"]), (Some(0), &json!(2)));
    assert_eq!(looked["operation"], Value::Null);
    let (code, refused) = words(&ground, &["retry", &batch, "--max-count", "1"]);
    assert_eq!(code, Some(1));
    assert!(refused.contains("2 files are chosen"), "{refused}");
    let (code, empty) = words(&ground, &["retry"]);
    assert_eq!(code, Some(1));
    assert!(empty.contains("selector"), "{empty}");

    let (code, retried) = run(&ground, &["retry", &batch, "--reason", "CORRUPT_DOCUMENT"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        (&retried["matched"], &retried["done"]),
        (&json!(2), &json!(2))
    );
    // They fail again, for they are broken.
    let (code, ended) = run(&ground, &["watch", &batch]);
    assert_eq!(code, Some(1));
    assert_eq!(ended["files"]["FAILED"], 2);

    let (code, dismissed) = run(&ground, &["dismiss", &batch]);
    assert_eq!((code, &dismissed["done"]), (Some(0), &json!(2)));
    let (_, again) = run(&ground, &["dismiss", &batch, "--dry-run"]);
    assert_eq!(again["matched"], 0);
    let (code, reprocessed) = run(
        &ground,
        &[
            "reprocess",
            &batch,
            "--path",
            "0/**",
            "--from",
            "extract-text",
            "--force",
        ],
    );
    assert_eq!(code, Some(0));
    assert!(reprocessed["done"].as_u64().unwrap() > 0, "{reprocessed}");
    let (_, ended) = run(&ground, &["watch", &batch]);
    assert_eq!(ended["files"]["PROCESSED"], 10, "{ended}");

    let operator = ground.system.ready("operator_key");
    let stuck = ["stuck", "--state", "failed", "--for", "0s"];
    let (code, found) = run(&ground, &[&stuck[..], &["--api-key", &operator]].concat());
    assert_eq!((code, &found["total"]), (Some(0), &json!(2)));
    let tenant = found["rows"][0]["tenant"].as_str().unwrap().to_owned();
    assert_eq!(found["rows"][0]["name"], "default");
    let for_tenant = ["--tenant", &tenant, "--api-key", &operator];
    let command = ["retry", "--state", "failed", "--for", "0s"];
    let (code, acted) = run(&ground, &[&command[..], &for_tenant].concat());
    assert_eq!((code, &acted["done"]), (Some(0), &json!(2)));
    let (code, member) = words(&ground, &stuck);
    assert_eq!(code, Some(1));
    assert!(member.contains("operator"), "{member}");
    run(&ground, &["watch", &batch]);
    ground.system.verify().unwrap();
}

#[test]
fn failures_are_counted_retried_and_dismissed_from_the_command_line() {
    failures_are_counted_retried_and_dismissed(Database::Sqlite);
}

#[test]
fn failures_are_counted_retried_and_dismissed_on_postgres() {
    failures_are_counted_retried_and_dismissed(Database::Postgres);
}

fn a_stage_is_paused_says_so_to_whose_files_wait_and_stays_so_over_a_restart(database: Database) {
    let mut ground = Ground::new(database);
    let operator = ground.system.ready("operator_key");
    let of_stage = |ground: &Ground, arguments: &[&str]| {
        let more = ["--api-key", &operator];
        let (code, told) = run(ground, &[&["stages"], arguments, &more].concat());
        assert_eq!(code, Some(0), "{told}");
        let stages = told["stages"].as_array().unwrap().iter();
        let mut stages = stages.filter(|one| one["stage"] == "extract-text");
        stages.next().unwrap().clone()
    };
    let note = ["pause", "extract-text", "--note", "the fonts are changed"];
    let paused = of_stage(&ground, &note);
    assert_eq!(paused["paused"]["note"], "the fonts are changed");
    let size = of_stage(&ground, &["size", "extract-text", "--slots", "2"]);
    assert_eq!(size["max_slots"], 2);
    let folder = ground.texts(20);
    let batch = ingest(&ground, &folder, &["--no-wait"]);
    let words = "extract-text waits: the stage is paused: the fonts are changed (STAGE_PAUSED)";
    let member = ground.system.ready("api_key");
    let mut watch = watch_until(&ground, &member, &batch, words);
    watch.kill().unwrap();
    watch.wait().unwrap();
    let done = |ground: &Ground| run(ground, &["count", &batch, "--state", "processed"]).1;
    assert_eq!(done(&ground)["total"], 0);

    assert!(ground.system.stop().unwrap().success());
    ground.system.restart().unwrap();
    let told = of_stage(&ground, &[]);
    assert_eq!(told["paused"]["note"], "the fonts are changed");
    assert_eq!(told["waits"][0]["reason"], "STAGE_PAUSED");
    assert_eq!(done(&ground)["total"], 0);
    let (code, refused) = self::words(&ground, &["stages"]);
    assert_eq!(code, Some(1));
    assert!(refused.contains("operator"), "{refused}");

    let resumed = of_stage(&ground, &["resume", "extract-text"]);
    assert_eq!(resumed["paused"], Value::Null);
    let (_, ended) = run(&ground, &["watch", &batch]);
    assert_eq!(ended["files"]["PROCESSED"], 20, "{ended}");
    assert_eq!(of_stage(&ground, &["list"])["slots"], 2);
    // What such files took is learned from them, and shown as of the last second.
    until_now("what was learned", PATIENCE, || {
        let told = of_stage(&ground, &["list"]);
        let window = told["window_seconds"]
            .as_f64()
            .filter(|window| *window > 0.0);
        window.and(told["costs"][0]["seconds"].as_f64())
    })
    .unwrap();
    let size = ["size", "extract-text", "--slots", "default"];
    assert_eq!(of_stage(&ground, &size)["max_slots"], 0);
    ground.system.verify().unwrap();
}

#[test]
fn a_stage_is_paused_says_so_to_whose_files_wait_and_stays_so_over_a_restart_on_sqlite() {
    a_stage_is_paused_says_so_to_whose_files_wait_and_stays_so_over_a_restart(Database::Sqlite);
}

#[test]
fn a_stage_is_paused_says_so_to_whose_files_wait_and_stays_so_over_a_restart_on_postgres() {
    a_stage_is_paused_says_so_to_whose_files_wait_and_stays_so_over_a_restart(Database::Postgres);
}

#[test]
fn a_batch_is_paused_resumed_and_cancelled_from_the_command_line() {
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.texts(200);
    let batch = ingest(&ground, &folder, &["--no-wait"]);
    let (code, paused) = run(&ground, &["pause", &batch, "--note", "wait for the gauge"]);
    assert_eq!((code, &paused["paused"]), (Some(0), &json!(true)));
    let (code, resumed) = run(&ground, &["resume", &batch]);
    assert_eq!((code, &resumed["paused"]), (Some(0), &json!(false)));
    let (_, ended) = run(&ground, &["watch", &batch]);
    assert_eq!(ended["files"]["PROCESSED"], 200);

    // Nothing of it arrives, so that there is something to cancel.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let second = runtime.block_on(async {
        let channel = channel(&ground).await;
        let mut member = batches(&channel, &ground.system.ready("api_key"));
        let request = CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        };
        let made = member.create_batch(request).await.unwrap().into_inner();
        let request = AddEntriesRequest {
            batch: made.name.clone(),
            entries: vec![file("a.txt", 3), file("b.txt", 3)],
            request_id: request_id(),
        };
        member.add_entries(request).await.unwrap();
        made.name
    });
    let (_, counted) = run(&ground, &["cancel", &second, "--dry-run"]);
    assert_eq!(counted["matched"], 2);
    let (code, one) = run(&ground, &["cancel", &second, "--ordinal", "1"]);
    assert_eq!((code, &one["done"]), (Some(0), &json!(1)));
    let (code, cancelled) = run(&ground, &["cancel", &second]);
    assert_eq!(code, Some(0), "{cancelled}");
    let (_, ended) = run(&ground, &["watch", &second]);
    assert_eq!(ended["state"], "CANCELLED");
    assert_eq!(ended["files"]["CANCELLED"], 2);
    ground.system.verify().unwrap();
}
