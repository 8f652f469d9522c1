//! What is left of batches in the object store when they have ended (protocol 13).

use std::time::Duration;

use caudal_domain::{FileRef, Generation, Stage, Target, Token, keys};
use caudal_harness::{Database, PATIENCE, S3, until};
use caudal_objects::ObjectStore;
use caudal_proto::v1::{Batch, BatchState, FileState, Outcome};

use super::support::{TestLedger, failed, finished, store_settings, uploaded};

const BINARY: &str = "application/octet-stream";

// Protocol 13.1, 13.2.
async fn what_no_number_reaches_any_more_is_freed_and_all_else_is_kept(database: Database) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    let objects = ObjectStore::connect(settings.clone()).unwrap();
    let ledger = TestLedger::start_with(database, |ledger| {
        ledger.objects = Some(settings);
        ledger.collect_after = Duration::ZERO;
        ledger.collect_every = Duration::from_millis(200);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["good", "bad", "absent"]).await;
    let [good, bad, absent] = [0, 1, 2].map(|ordinal| FileRef::new(ledger.tenant, batch, ordinal));
    ledger.confirm(batch, 0..2).await;
    ledger.fail_what_is_missing(batch).await;
    ledger.until_state(batch, 2, FileState::Failed).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 2).await;
    ledger.lease(Stage::Upload, &held).await;
    let of = |file: FileRef| {
        let held = held.iter().find(|(known, _)| *known == file);
        *held.unwrap()
    };
    let token = of(good).1;
    let artifact = |stage, token, nonce| {
        keys::artifact_key(good, Generation::FIRST, stage, token, nonce, "facts.json")
    };
    let landing = |file| keys::landing_key(file, Target::FIRST);
    let kept = [
        landing(bad),
        landing(absent),
        keys::final_key(good, &[9; 32]),
        artifact(Stage::Upload, token, "n"),
        artifact(Stage::Metadata, Token::new(99), "n"),
    ];
    let freed = [
        landing(good),
        artifact(Stage::Upload, token, "another"),
        artifact(Stage::ExtractText, Token::FIRST, "n"),
    ];
    for key in kept.iter().chain(&freed) {
        objects.put(key, BINARY, "bytes".into()).await.unwrap();
    }
    let parts = objects
        .create_multipart(&landing(good), None)
        .await
        .unwrap();
    objects
        .upload_part(&landing(good), &parts, 1, "part".into())
        .await
        .unwrap();

    let done = uploaded("application/x-unknown");
    ledger.report(Stage::Upload, &[of(good)], &done).await;
    let wrong = failed("CORRUPT_DOCUMENT");
    ledger.report(Stage::Upload, &[of(bad)], &wrong).await;
    let mut reader = ledger.reader(Stage::Metadata);
    let last = finished(Outcome::Complete);
    ledger.work(&mut reader, Stage::Metadata, 1, &last).await;
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Failed);
    for key in &freed {
        until("what nothing reaches to be freed", PATIENCE, async || {
            objects.head(key).await.unwrap().is_none().then_some(())
        })
        .await
        .unwrap();
    }
    let unfinished = objects.find_multipart(&landing(good)).await.unwrap();
    assert_eq!(unfinished, None);
    for key in &kept {
        assert!(objects.head(key).await.unwrap().is_some(), "{key} is gone");
    }
    // It is looked through once an end.
    let marked = async || {
        let rows = ledger.count("batches WHERE collected_at IS NOT NULL").await;
        (rows == 1).then_some(())
    };
    until("the batch to be marked", PATIENCE, marked)
        .await
        .unwrap();
    ledger.verify().await;
}

on_each_database![what_no_number_reaches_any_more_is_freed_and_all_else_is_kept];
