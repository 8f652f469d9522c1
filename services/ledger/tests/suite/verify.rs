//! A check that finds nothing proves something only if it finds what is broken.

use std::collections::HashMap;

use caudal_domain::Stage;
use caudal_harness::{Database, PATIENCE, until};
use caudal_ledger::Invariant;
use caudal_proto::v1::{Batch, Outcome};
use sea_orm::ConnectionTrait;

use super::support::{TestLedger, failed, finished, uploaded};

/// What is done to the database, how it is taken back, and who has to notice.
type Damage = (&'static str, &'static str, Invariant);

const DAMAGES: [Damage; 16] = [
    (
        "UPDATE folders SET processed = processed + 1 WHERE folder = 0",
        "UPDATE folders SET processed = processed - 1 WHERE folder = 0",
        Invariant::Counters,
    ),
    (
        "UPDATE folders SET total = total + 1 WHERE folder = 1",
        "UPDATE folders SET total = total - 1 WHERE folder = 1",
        Invariant::Shown,
    ),
    (
        "UPDATE batch_progress SET n_pending = n_pending + 1",
        "UPDATE batch_progress SET n_pending = n_pending - 1",
        Invariant::Counters,
    ),
    (
        "UPDATE batch_progress SET bytes_uploaded = bytes_uploaded + 1",
        "UPDATE batch_progress SET bytes_uploaded = bytes_uploaded - 1",
        Invariant::Counters,
    ),
    (
        "UPDATE batch_progress SET revision = revision + 1",
        "UPDATE batch_progress SET revision = revision - 1",
        Invariant::Shown,
    ),
    (
        "UPDATE batch_progress SET state = 3",
        "UPDATE batch_progress SET state = 2",
        Invariant::Terminal,
    ),
    (
        "UPDATE dead_letters SET ordinal = ordinal + 100",
        "UPDATE dead_letters SET ordinal = ordinal - 100",
        Invariant::Terminal,
    ),
    (
        "UPDATE dead_letters SET reason = reason + 1",
        "UPDATE dead_letters SET reason = reason - 1",
        Invariant::Terminal,
    ),
    // The file that waits for the stage's only place.
    (
        "UPDATE file_work SET wait_stage = NULL, ready_at = NULL WHERE state = 3",
        "UPDATE file_work SET wait_stage = 1, ready_at = 1 WHERE state = 3",
        Invariant::Live,
    ),
    (
        "UPDATE file_work SET wait_stage = 1, ready_at = 1 WHERE state = 4",
        "UPDATE file_work SET wait_stage = NULL, ready_at = NULL WHERE state = 4",
        Invariant::Live,
    ),
    (
        "UPDATE file_work SET state = 2 WHERE state = 1",
        "UPDATE file_work SET state = 1 WHERE state = 2",
        Invariant::Chain,
    ),
    (
        "UPDATE file_work SET token = token - 1 WHERE state = 6",
        "UPDATE file_work SET token = token + 1 WHERE state = 6",
        Invariant::Once,
    ),
    (
        "UPDATE stage_results SET stage = 4 WHERE stage = 5",
        "UPDATE stage_results SET stage = 5 WHERE stage = 4",
        Invariant::Once,
    ),
    (
        "UPDATE tenants SET revision = revision + 1",
        "UPDATE tenants SET revision = revision - 1",
        Invariant::Shown,
    ),
    (
        "UPDATE changes SET batch_revision = batch_revision + 1000 WHERE batch_revision = 2",
        "UPDATE changes SET batch_revision = batch_revision - 1000 WHERE batch_revision > 1000",
        Invariant::Chain,
    ),
    (
        "UPDATE files SET size = size + 1 WHERE ordinal = 0",
        "UPDATE files SET size = size - 1 WHERE ordinal = 0",
        Invariant::Counters,
    ),
];

async fn verify_notices_what_is_broken(database: Database) {
    let mut ledger = TestLedger::start_with(database, |settings| {
        settings.windows.of_stage = HashMap::from([(Stage::Upload, 1), (Stage::Metadata, 9)]);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger
        .add(batch, &["in/a", "in/b", "in/c", "in/d", "in/e"])
        .await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    ledger.confirm(batch, [0]).await;
    let report = uploaded("application/x-unknown");
    ledger.work(&mut reader, Stage::Upload, 1, &report).await;
    let mut metadata = ledger.reader(Stage::Metadata);
    let report = finished(Outcome::StoredOnly);
    ledger
        .work(&mut metadata, Stage::Metadata, 1, &report)
        .await;
    ledger.confirm(batch, [1]).await;
    let report = failed("CORRUPT_DOCUMENT");
    ledger.work(&mut reader, Stage::Upload, 1, &report).await;
    // One has the place, one waits for it, one has not arrived.
    ledger.confirm(batch, [2, 3]).await;
    until("the place to be taken", PATIENCE, async || {
        (ledger.count("file_work WHERE state = 4").await == 1).then_some(())
    })
    .await
    .unwrap();
    ledger.stop().await;

    let database = ledger.database().await;
    let verify = async || {
        let report = caudal_ledger::verify(&ledger.database_url, None, None).await;
        report.unwrap()
    };
    let sound = verify().await;
    assert!(sound.holds(), "{:#?}", sound.violations);
    let body = match ledger.on {
        Database::Postgres => "'\\xff'",
        Database::Sqlite => "x'ff'",
    };
    let unreadable = format!("INSERT INTO outbox (id, stage, at, body) VALUES (7, 1, 0, {body})");
    let outbox = (
        unreadable.as_str(),
        "DELETE FROM outbox WHERE id = 7",
        Invariant::Outbox,
    );
    for (damage, repair, invariant) in DAMAGES.into_iter().chain([outbox]) {
        let done = database.execute_unprepared(damage).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        let report = verify().await;
        assert!(
            report.broken.contains_key(&invariant),
            "{damage}: {:#?}",
            report.violations
        );
        database.execute_unprepared(repair).await.unwrap();
        let report = verify().await;
        assert!(report.holds(), "{repair}: {:#?}", report.violations);
    }
    database.close().await.unwrap();
}

on_each_database![verify_notices_what_is_broken,];
