//! What survives: restarts, a Redis that forgets, workers that die.

use std::time::Duration;

use caudal_domain::Stage;
use caudal_harness::{Database, PATIENCE, until};
use caudal_proto::mesh::v1::ReportVerdict;
use caudal_proto::v1::{Batch, BatchState, FileState, Outcome};

use super::support::{TestLedger, finished, flush, uploaded};

// Protocol 8.2, 7.2: a lost dispatch goes out again under a new token and is charged to nobody.
async fn a_redis_that_forgets_everything_loses_no_file_and_charges_none(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin", "b.bin"]).await;
    ledger.confirm(batch, 0..2).await;
    ledger.complete(batch).await;
    until("the dispatches to be published", PATIENCE, async || {
        (ledger.streams().depth(Stage::Upload).await.ok()? > 0).then_some(())
    })
    .await
    .unwrap();
    flush(&ledger).await;
    let mut reader = ledger.reader(Stage::Upload);
    ledger
        .work(
            &mut reader,
            Stage::Upload,
            2,
            &uploaded("application/x-unknown"),
        )
        .await;
    flush(&ledger).await;
    ledger.store(batch, 2).await;
    assert_eq!(ledger.file(batch, 0).await.attempts, 0);
    ledger.verify().await;
}

// Protocol 7.3, 8.3: a lease that runs out is a kill: charged apart from failures, and the file is suspect.
async fn a_worker_that_dies_costs_a_kill_and_the_third_one_ends_the_file(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.lease = Duration::from_millis(600);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    for kill in 1..=3 {
        let held = ledger.take(&mut reader, Stage::Upload, 1).await;
        let granted = ledger.lease(Stage::Upload, &held).await;
        assert_eq!(granted.works[0].suspect, kill > 1);
        assert_eq!(ledger.renew_and_begin(&held, &held).await, [true]);
        let state = if kill < 3 {
            FileState::Retrying
        } else {
            FileState::Failed
        };
        until("the dead lease to be noticed", PATIENCE, async || {
            // A short backoff may be over before it is seen: then the file is out again, under another token.
            let file = ledger.file(batch, 0).await;
            (file.state() == state || kill < 3 && file.state() == FileState::Queued).then_some(())
        })
        .await
        .unwrap();
        assert_eq!(ledger.renew(&held).await, [false]);
        // Protocol 6.3: the kill left an attempt under this token, but no result: the late report was not recorded, and
        // its worker must not free the bytes.
        let late = ledger
            .report(Stage::Upload, &held, &uploaded("application/x-unknown"))
            .await;
        assert_eq!(late, [ReportVerdict::Superseded]);
    }
    let file = ledger.file(batch, 0).await;
    assert_eq!(
        (file.reason.unwrap().code.as_str(), file.attempts),
        ("TOO_MANY_KILLS", 0)
    );
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Failed);
    ledger.verify().await;
}

// Protocol 9.1: a new leader rebuilds its places by one scan and goes on where the old one ended.
async fn a_restart_in_the_middle_loses_nothing(database: Database) {
    let mut ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin", "b.bin", "c.bin"]).await;
    ledger.confirm(batch, 0..3).await;
    ledger.complete(batch).await;
    let held = ledger
        .take(&mut ledger.reader(Stage::Upload), Stage::Upload, 3)
        .await;
    ledger.lease(Stage::Upload, &held).await;
    ledger.restart().await;
    let verdicts = ledger
        .report(Stage::Upload, &held, &uploaded("application/x-unknown"))
        .await;
    assert_eq!(verdicts, [ReportVerdict::Recorded; 3]);
    ledger.restart().await;
    ledger.store(batch, 3).await;
    ledger.verify().await;
}

async fn configure(ledger: &TestLedger, setting: &str, value: &str) {
    let client = redis::Client::open(ledger.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG")
        .arg("SET")
        .arg(setting)
        .arg(value)
        .exec_async(&mut connection)
        .await
        .unwrap();
}

/// A ledger with dispatches that it will not delete by itself, for it has no time of idleness.
async fn busy(database: Database) -> TestLedger {
    TestLedger::start_with(database, |settings| {
        settings.term = Duration::from_millis(900);
        settings.reconcile_every = Duration::from_secs(3_600);
    })
    .await
}

/// Crashes, and comes back with a ledger that calls no dispatch of its own old.
async fn crash(ledger: &mut TestLedger) {
    ledger
        .crash(|settings| {
            settings.reconcile_every = Duration::from_millis(50);
            settings.reconcile_age = Duration::from_secs(3_600);
        })
        .await;
}

async fn until_the_outbox_is_empty(ledger: &TestLedger) {
    until("the outbox to be empty", PATIENCE, async || {
        (ledger.count("outbox").await == 0).then_some(())
    })
    .await
    .unwrap();
}

async fn store(ledger: &TestLedger, files: u32) {
    for (stage, report) in [
        (Stage::Upload, uploaded("application/x-unknown")),
        (Stage::Metadata, finished(Outcome::StoredOnly)),
    ] {
        ledger
            .work(&mut ledger.reader(stage), stage, files as usize, &report)
            .await;
    }
}

// Protocol 3.2: rows of an earlier epoch are a dead ledger's, whatever their age.
async fn what_a_dead_ledger_had_published_and_not_deleted_is_gone_at_once(database: Database) {
    let mut ledger = busy(database).await;
    let batch = ledger.create(Batch::default()).await;
    let mut files = 0;
    // Whatever a ledger does when it begins deletes what was published before.
    while ledger.count("outbox").await == 0 {
        ledger.add(batch, &[&format!("{files}.bin")]).await;
        ledger.confirm(batch, files..files + 1).await;
        files += 1;
        until("the dispatches to be published", PATIENCE, async || {
            (ledger.streams().depth(Stage::Upload).await.ok()? >= u64::from(files)).then_some(())
        })
        .await
        .unwrap();
    }
    crash(&mut ledger).await;
    until_the_outbox_is_empty(&ledger).await;
    ledger.complete(batch).await;
    // The doubled message carries the same tokens: what it brings is recorded once.
    store(&ledger, files).await;
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Succeeded);
    ledger.verify().await;
}

async fn what_a_dead_ledger_had_not_published_goes_out_at_once(database: Database) {
    let mut ledger = busy(database).await;
    configure(&ledger, "maxmemory", "1").await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin", "b.bin"]).await;
    ledger.complete(batch).await;
    ledger.confirm(batch, 0..2).await;
    crash(&mut ledger).await;
    assert_eq!(ledger.count("outbox").await, 1);
    configure(&ledger, "maxmemory", "0").await;
    store(&ledger, 2).await;
    until_the_outbox_is_empty(&ledger).await;
    assert_eq!(ledger.file(batch, 0).await.attempts, 0);
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Succeeded);
    ledger.verify().await;
}

// Protocol 3.1: the ledger's last group deletes what Redis has accepted.
async fn a_ledger_that_ends_cleanly_leaves_nothing_that_it_has_published(database: Database) {
    let mut ledger = busy(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin"]).await;
    ledger.confirm(batch, 0..1).await;
    until("the dispatch to be published", PATIENCE, async || {
        (ledger.streams().depth(Stage::Upload).await.ok()? > 0).then_some(())
    })
    .await
    .unwrap();
    ledger.stop().await;
    assert_eq!(ledger.count("outbox").await, 0);
    ledger.verify().await;
}

on_each_database![
    a_redis_that_forgets_everything_loses_no_file_and_charges_none,
    a_worker_that_dies_costs_a_kill_and_the_third_one_ends_the_file,
    a_restart_in_the_middle_loses_nothing,
    what_a_dead_ledger_had_published_and_not_deleted_is_gone_at_once,
    what_a_dead_ledger_had_not_published_goes_out_at_once,
    a_ledger_that_ends_cleanly_leaves_nothing_that_it_has_published,
];
