//! An upload that broke off is gone on with by the command: only the rest is sent, and nothing is lost.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use caudal_harness::until;
use caudal_sdk::{Client, v1};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::{Database, Ground, QUICK, json};

const FILES: u32 = 600;
const PATIENCE: Duration = Duration::from_secs(60);

async fn client(ground: &Ground) -> Client {
    let (gateway, key) = (
        ground.system.ready("gateway"),
        ground.system.ready("api_key"),
    );
    Client::connect(&gateway, &key).await.unwrap()
}

async fn batches(client: &Client) -> Vec<v1::Batch> {
    let all = v1::ListBatchesRequest::default();
    client.list_batches(all).await.unwrap().batches
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file as the command announces it.
fn entry(path: &str, content: &str) -> v1::Entry {
    v1::Entry {
        path: path.to_owned(),
        kind: Some(v1::entry::Kind::File(v1::FileEntry {
            size: i64::try_from(content.len()).unwrap(),
            sha256: Sha256::digest(content).to_vec(),
            ..v1::FileEntry::default()
        })),
    }
}

/// The number before these words.
fn number(text: &str, before: &str) -> u32 {
    let ahead = text.split(before).next().unwrap();
    let number = ahead
        .split(|letter: char| !letter.is_ascii_digit())
        .next_back();
    number.unwrap().parse().unwrap()
}

#[test]
fn an_ingest_that_was_killed_is_gone_on_with_and_only_the_rest_is_sent() {
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.texts(FILES as usize);
    let folder = folder.to_str().unwrap();
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    // The batch names more than was asked for: what always runs.
    let ingest = ["ingest", folder, "--stages", "upload", "--parallel", "1"];
    let mut first = ground
        .system
        .command(&ingest)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let some_arrived = until("some files to arrive", PATIENCE, async || {
        let batches = batches(&client).await;
        let counts = batches.first()?.counts?;
        let arrived = counts.total - counts.pending - counts.uploading;
        (arrived > 0).then_some(())
    });
    runtime.block_on(some_arrived).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let broken_off = runtime.block_on(batches(&client));
    assert_eq!(broken_off.len(), 1);
    let counts = broken_off[0].counts.unwrap();
    assert!(
        counts.pending > 0,
        "it was over before it was killed: {counts:?}"
    );

    let mut again = ingest.to_vec();
    again.extend(["--output", "json"]);
    let again = ground.system.caudal(&again).unwrap();
    let said = words(&again);
    assert!(again.status.success(), "{said}");
    assert!(said.contains("going on with batch"), "{said}");
    assert_eq!(json(&again)["files"]["PROCESSED"], FILES, "{said}");
    let (sent, arrived) = (
        number(&said, " files sent"),
        number(&said, " had arrived before"),
    );
    assert!(arrived > 0 && sent > 0 && sent <= FILES - arrived, "{said}");

    // What is finished is not gone on with; and what is held is not sent.
    let mut third = ingest.to_vec();
    third.extend(["--output", "json"]);
    let third = ground.system.caudal(&third).unwrap();
    let said = words(&third);
    assert!(
        said.contains(&format!("0 files sent, {FILES} unchanged")),
        "{said}"
    );
    assert_ne!(json(&third)["batch_id"], json(&again)["batch_id"]);
    ground.system.verify().unwrap();
}

#[test]
fn files_that_never_arrived_are_sent_into_their_batch_and_what_is_not_there_is_named() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    let folder = ground.folder.path().join("levels");
    std::fs::create_dir_all(folder.join("upper")).unwrap();
    for (path, text) in [("a.txt", "one"), ("upper/b.txt", "two"), ("new.txt", "new")] {
        std::fs::write(folder.join(path), text).unwrap();
    }
    let announced = [
        ("a.txt", "one"),
        ("upper/b.txt", "two"),
        ("gone.txt", "six"),
    ];
    let announced = announced.map(|(path, content)| entry(path, content));
    let name = runtime.block_on(async {
        let batch = client.create_batch(v1::Batch::default()).await.unwrap();
        let name = batch.name;
        client.add_entries(&name, announced.to_vec()).await.unwrap();
        let missing = v1::MissingFiles::Fail;
        client.complete_batch(&name, missing, 3).await.unwrap();
        name
    });
    let id = name.strip_prefix("batches/").unwrap();
    let watched = ground.system.caudal(&["watch", id]).unwrap();
    let table = String::from_utf8_lossy(&watched.stdout).into_owned();
    assert!(
        table.contains(&format!("caudal ingest DIR --batch {id}")),
        "{table}"
    );

    let folder = folder.to_str().unwrap();
    let ingest = ["ingest", folder, "--batch", id, "--output", "json"];
    let sent = ground.system.caudal(&ingest).unwrap();
    let said = words(&sent);
    let ended = json(&sent);
    assert_eq!(sent.status.code(), Some(1), "{said}");
    assert_eq!(
        (&ended["files"]["PROCESSED"], &ended["files"]["FAILED"]),
        (&2.into(), &1.into()),
        "{said}"
    );
    assert!(
        said.contains("gone.txt is waited for and not in this folder"),
        "{said}"
    );
    assert!(said.contains("new.txt is not in the batch"), "{said}");

    // Another file of that name and size is not what is waited for.
    std::fs::write(std::path::Path::new(folder).join("gone.txt"), "ten").unwrap();
    let sent = ground.system.caudal(&ingest).unwrap();
    let said = words(&sent);
    assert_eq!(sent.status.code(), Some(1), "{said}");
    assert!(
        said.contains("gone.txt is not what was announced any more"),
        "{said}"
    );
    std::fs::write(std::path::Path::new(folder).join("gone.txt"), "six").unwrap();
    std::fs::remove_file(std::path::Path::new(folder).join("new.txt")).unwrap();
    let sent = ground.system.caudal(&ingest).unwrap();
    let said = words(&sent);
    assert!(sent.status.success(), "{said}");
    assert_eq!(json(&sent)["files"]["PROCESSED"], 3, "{said}");
    assert!(said.contains("1 file sent, 2 had arrived before"), "{said}");

    // What changed since is not said to be there, of the same size or of another.
    std::fs::write(std::path::Path::new(folder).join("a.txt"), "eno").unwrap();
    std::fs::write(std::path::Path::new(folder).join("upper/b.txt"), "longer").unwrap();
    let sent = ground.system.caudal(&ingest).unwrap();
    let said = words(&sent);
    assert_eq!(sent.status.code(), Some(1), "{said}");
    for path in ["a.txt", "upper/b.txt"] {
        let told = format!("{path} has changed since it was sent");
        assert!(said.contains(&told), "{said}");
    }
    assert!(said.contains("1 had arrived before"), "{said}");
    ground.system.verify().unwrap();
}

#[test]
fn what_is_not_what_was_announced_ends_its_batch_and_nothing_waits_for_it() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    let folder = ground.folder.path().join("gauges");
    std::fs::create_dir_all(&folder).unwrap();
    for (path, text) in [
        ("a.txt", "one"),
        ("grown.txt", "three more"),
        ("other.txt", "two"),
    ] {
        std::fs::write(folder.join(path), text).unwrap();
    }
    let announced = ["a.txt", "grown.txt", "other.txt"].map(|path| {
        // What the command announces of each, of which two have changed since.
        let content = if path == "a.txt" { "one" } else { "six" };
        entry(path, content)
    });
    let name = runtime.block_on(async {
        let batch = client.create_batch(v1::Batch::default()).await.unwrap();
        let name = batch.name;
        client.add_entries(&name, announced.to_vec()).await.unwrap();
        name
    });
    let id = name.strip_prefix("batches/").unwrap();
    let folder = folder.to_str().unwrap();
    let sent = ground
        .system
        .caudal(&["ingest", folder, "--batch", id, "--output", "json"])
        .unwrap();
    let said = words(&sent);
    let ended = json(&sent);
    assert_eq!(sent.status.code(), Some(1), "{said}");
    assert_eq!(
        (&ended["files"]["PROCESSED"], &ended["files"]["FAILED"]),
        (&1.into(), &2.into()),
        "{said}"
    );
    for path in ["grown.txt", "other.txt"] {
        let told = format!("{path} is in the batch already with other content");
        assert!(said.contains(&told), "{said}");
    }
    ground.system.verify().unwrap();
}

#[test]
fn a_file_that_could_not_be_sent_keeps_its_cause_in_the_batch_until_it_comes() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    let folder = ground.folder.path().join("levels");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.txt"), "one").unwrap();
    std::fs::write(folder.join("b.txt"), "two").unwrap();
    let file = v1::FileEntry {
        size: 3,
        ..v1::FileEntry::default()
    };
    let announced = ["a.txt", "b.txt"].map(|path| v1::Entry {
        path: path.to_owned(),
        kind: Some(v1::entry::Kind::File(file.clone())),
    });
    let name = runtime.block_on(async {
        let batch = client.create_batch(v1::Batch::default()).await.unwrap();
        let added = client.add_entries(&batch.name, announced.to_vec()).await;
        assert_eq!(added.unwrap().new_count, 2);
        let left_out = v1::LeftOut {
            ordinal: 1,
            cause: "vanished before it was uploaded".to_owned(),
        };
        let told = client.leave_out_files(&batch.name, vec![left_out]).await;
        assert_eq!(told.unwrap().len(), 1);
        batch.name
    });
    let file = runtime.block_on(client.get_file(&format!("{name}/files/1")));
    let reason = file.unwrap().reason.unwrap();
    assert_eq!(reason.code, "LEFT_OUT_BY_CLIENT");
    assert_eq!(reason.detail, "vanished before it was uploaded");

    let id = name.strip_prefix("batches/").unwrap();
    let folder = folder.to_str().unwrap();
    let ingest = ["ingest", folder, "--batch", id, "--output", "json"];
    let sent = ground.system.caudal(&ingest).unwrap();
    let ended = json(&sent);
    assert_eq!(ended["files"]["PROCESSED"], 2, "{}", words(&sent));
    assert_eq!(ended["not_taken"]["total"], 0);
    ground.system.verify().unwrap();
}

#[test]
fn what_cannot_be_read_is_listed_with_its_cause_for_scripts() {
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.folder.path().join("names");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.txt"), "one").unwrap();
    std::os::unix::fs::symlink("a.txt", folder.join("link")).unwrap();
    let folder = folder.to_str().unwrap();
    let ingest = ["ingest", folder, "--stages", "upload", "--output", "json"];
    let sent = ground.system.caudal(&ingest).unwrap();
    let not_taken = &json(&sent)["not_taken"];
    assert_eq!(not_taken["total"], 1, "{}", words(&sent));
    assert_eq!(not_taken["losses"], 0);
    assert_eq!(not_taken["files"][0]["path"], "link");
    let cause = not_taken["files"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("symbolic link"), "{cause}");
}

#[test]
fn what_the_rules_leave_out_is_named_before_the_start_and_noted_on_the_batch() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    let folder = ground.folder.path().join("mixed");
    std::fs::create_dir_all(folder.join("build")).unwrap();
    for path in ["a.txt", ".DS_Store", "~$a.docx", "build/a.o", "x.tmp"] {
        std::fs::write(folder.join(path), "x").unwrap();
    }
    std::fs::write(folder.join(".caudalignore"), "*.tmp\n").unwrap();
    let folder = folder.to_str().unwrap();
    let ingest = [
        "ingest",
        folder,
        "--stages",
        "upload",
        "--exclude",
        "build/",
    ];
    let taken = ground.system.caudal(&ingest).unwrap();
    let said = words(&taken);
    assert!(taken.status.success(), "{said}");
    let (before, _) = said.split_once("uploaded").unwrap();
    assert!(
        before.contains("left out by rule: 3 files and 1 folder"),
        "{said}"
    );
    for name in [".DS_Store", "~$a.docx", "build/", "x.tmp"] {
        assert!(before.contains(name), "{said}");
    }
    let batch = runtime.block_on(batches(&client)).remove(0);
    assert_eq!(batch.counts.unwrap().total, 2);
    let metadata = caudal_proto::convert::json_from_struct(&batch.metadata.unwrap()).unwrap();
    assert_eq!(metadata["left_out"]["files"], 4);

    let everything = [
        "ingest",
        folder,
        "--stages",
        "upload",
        "--everything",
        "--new",
    ];
    let taken = ground.system.caudal(&everything).unwrap();
    let batch = runtime.block_on(batches(&client)).remove(0);
    assert_eq!(batch.counts.unwrap().total, 5, "{}", words(&taken));
    ground.system.verify().unwrap();
}

#[test]
fn an_ingest_bears_the_end_of_the_system_and_says_so_once() {
    let mut ground = Ground::new(Database::Sqlite);
    let folder = ground.texts(FILES as usize);
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(client(&ground));
    let folder = folder.to_str().unwrap();
    let ingest = [
        "ingest",
        folder,
        "--stages",
        QUICK,
        "--parallel",
        "2",
        "--output",
        "json",
    ];
    let running = ground
        .system
        .command(&ingest)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let some_arrived = until("some files to arrive", PATIENCE, async || {
        let batches = batches(&client).await;
        let counts = batches.first()?.counts?;
        (counts.total > counts.pending).then_some(())
    });
    runtime.block_on(some_arrived).unwrap();
    ground.system.kill().unwrap();
    // So long is it away; a file whose attempts were counted would be lost by then.
    std::thread::sleep(Duration::from_secs(15));
    ground.system.restart().unwrap();
    let ended = running.wait_with_output().unwrap();
    let said = words(&ended);
    assert!(ended.status.success(), "{said}");
    assert_eq!(json(&ended)["files"]["PROCESSED"], FILES);
    assert_eq!(said.matches("waiting: ").count(), 1, "{said}");
    ground.system.verify().unwrap();
}

#[test]
fn a_large_file_goes_in_parts_and_is_kept_as_it_is() {
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.folder.path().join("large");
    std::fs::create_dir(&folder).unwrap();
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(folder.join("large.bin"), &bytes).unwrap();
    let ingest = ["ingest", folder.to_str().unwrap(), "--output", "json"];
    let taken = ground.system.caudal(&ingest).unwrap();
    let said = words(&taken);
    assert!(taken.status.success(), "{said}");
    assert_eq!(json(&taken)["outcomes"]["STORED_ONLY"], 1, "{said}");
    let batch = json(&taken)["batch_id"].as_str().unwrap().to_owned();
    let runtime = Runtime::new().unwrap();
    let kept = runtime.block_on(async {
        let client = client(&ground).await;
        let file = client.get_file(&format!("batches/{batch}/files/0")).await;
        file.unwrap().sha256
    });
    let sum = std::process::Command::new("sha256sum")
        .arg(folder.join("large.bin"))
        .output()
        .unwrap();
    let hex: String = kept.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(&hex));
    // What is read of the store has this content too.
    ground.system.verify().unwrap();
}

/// Larger than one PUT carries and one request copies. It is hollow, here and in the store, so it takes time and no room:
/// `make test-large`.
#[test]
#[ignore = "takes minutes: `make test-large`"]
fn a_file_of_six_gib_goes_in_parts_is_verified_and_takes_no_more_room_than_it_has_bytes() {
    const SIZE: u64 = 6 << 30;
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.folder.path().join("images");
    std::fs::create_dir(&folder).unwrap();
    let disk = std::fs::File::create(folder.join("disk.img")).unwrap();
    // Bytes at the beginning, across the end of a part, and at the end.
    for (at, bytes) in [
        (0, "first"),
        ((16 << 20) - 3, "between"),
        (SIZE - 4, "last"),
    ] {
        std::os::unix::fs::FileExt::write_all_at(&disk, bytes.as_bytes(), at).unwrap();
    }
    let folder = folder.to_str().unwrap();
    let arguments = ["ingest", folder, "--stages", QUICK, "--output", "json"];
    let ended = ground.system.caudal(&arguments).unwrap();
    let said = words(&ended);
    assert!(ended.status.success(), "{said}");
    assert_eq!(json(&ended)["files"]["PROCESSED"], 1, "{said}");
    let mut room = Command::new("du");
    room.args(["-s", "-B1"]).arg(ground.folder.path());
    let room = String::from_utf8(room.output().unwrap().stdout).unwrap();
    let room: u64 = room.split_whitespace().next().unwrap().parse().unwrap();
    assert!(room < 200 << 20, "{room} bytes on the disk");
    // Reads all of it again.
    ground.system.verify().unwrap();
}
