//! Lease, report, retry, kill: the way of a file through the stages.

use std::time::Duration;

use caudal_domain::{BatchId, FileRef, Stage, Token};
use caudal_harness::Database;
use caudal_proto::convert::file_tokens_to_proto;
use caudal_proto::mesh::v1::{CheckRecordedRequest, LeaseVerdict, ReportVerdict};
use caudal_proto::v1::{Batch, BatchOptions, BatchState, FileState, Outcome};
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, Statement, TransactionTrait as _, Value};
use tonic::Code;
use uuid::Uuid;

use super::support::{TestLedger, done, failed, finished, uploaded, wrong_fields};

async fn a_text_goes_the_whole_way_and_its_batch_succeeds(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger
        .create(Batch {
            display_name: "rivers".into(),
            ..Batch::default()
        })
        .await;
    ledger
        .add(batch, &["a.txt", "in/b.txt", "in/deep/c.txt"])
        .await;
    ledger.confirm(batch, 0..3).await;
    let running = ledger.complete(batch).await;
    assert_eq!(running.state(), BatchState::Running);
    ledger.work_through(3).await;
    let ended = ledger.batch(batch).await;
    assert_eq!(ended.state(), BatchState::Succeeded);
    assert_eq!(ended.counts.unwrap().complete, 3);
    assert!(ended.end_time.is_some());
    let file = ledger.file(batch, 2).await;
    assert_eq!(
        (file.path.as_str(), file.state(), file.outcome()),
        ("in/deep/c.txt", FileState::Processed, Outcome::Complete)
    );
    let stages: Vec<&str> = file
        .results
        .iter()
        .map(|result| result.stage.as_str())
        .collect();
    assert_eq!(stages, ["upload", "extract-text", "embeddings", "metadata"]);
    ledger.verify().await;
}

async fn stages_that_were_not_asked_for_are_recorded_as_skipped(database: Database) {
    let ledger = TestLedger::start(database).await;
    let options = BatchOptions {
        stages: vec!["upload".into(), "metadata".into()],
        ..BatchOptions::default()
    };
    let batch = ledger
        .create(Batch {
            options: Some(options),
            ..Batch::default()
        })
        .await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.complete(batch).await;
    ledger
        .work(
            &mut ledger.reader(Stage::Upload),
            Stage::Upload,
            1,
            &uploaded("text/plain"),
        )
        .await;
    ledger
        .work(
            &mut ledger.reader(Stage::Metadata),
            Stage::Metadata,
            1,
            &finished(Outcome::Complete),
        )
        .await;
    let file = ledger.file(batch, 0).await;
    let skipped: Vec<&str> = file
        .results
        .iter()
        .filter(|result| result.skipped)
        .map(|result| result.stage.as_str())
        .collect();
    assert_eq!(skipped, ["extract-text", "embeddings"]);
    ledger.verify().await;
}

// Protocol 6.3: no row updated: RECORDED when the token made a result, SUPERSEDED otherwise.
async fn a_repeated_report_is_recorded_and_a_late_one_from_a_superseded_token_changes_nothing(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    let held = ledger
        .take(&mut ledger.reader(Stage::Upload), Stage::Upload, 1)
        .await;
    ledger.lease(Stage::Upload, &held).await;
    let first = ledger
        .report(Stage::Upload, &held, &uploaded("text/plain"))
        .await;
    let again = ledger
        .report(Stage::Upload, &held, &uploaded("text/plain"))
        .await;
    assert_eq!(
        (first, again),
        (vec![ReportVerdict::Recorded], vec![ReportVerdict::Recorded])
    );
    let never_given = vec![(held[0].0, Token::new(999))];
    let late = ledger
        .report(Stage::Upload, &never_given, &failed("INTERNAL"))
        .await;
    assert_eq!(late, [ReportVerdict::Superseded]);
    assert_eq!(ledger.file(batch, 0).await.attempts, 0);
    ledger.verify().await;
}

// Protocol 12.4: what a reader of the database sees and nothing else, whatever writers have open. A result is named by its
// stage, generation and token.
async fn what_is_recorded_is_what_a_reader_sees(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt", "b.txt"]).await;
    ledger.confirm(batch, 0..2).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 2).await;
    ledger.lease(Stage::Upload, &held).await;
    assert_eq!(seen(&ledger, Stage::Upload, &held, 1).await, [false; 2]);

    // A transaction that may still be lost, and that keeps the writer from committing anything.
    let database = ledger.database().await;
    let open = database.begin().await.unwrap();
    open.execute_unprepared("UPDATE leadership SET holder = holder WHERE id = 1")
        .await
        .unwrap();
    insert_upload(&open, held[0]).await;
    let answer = seen(&ledger, Stage::Upload, &held, 1);
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    assert_eq!(answer.unwrap(), [false; 2], "and it waits for no writer");
    open.rollback().await.unwrap();
    let result = uploaded("text/plain");
    let verdicts = ledger.report(Stage::Upload, &held, &result).await;
    assert_eq!(verdicts, [ReportVerdict::Recorded; 2]);

    assert_eq!(seen(&ledger, Stage::Upload, &held, 1).await, [true; 2]);
    let later = [(held[0].0, Token::new(held[0].1.get() + 1)), held[1]];
    assert_eq!(
        seen(&ledger, Stage::Upload, &later, 1).await,
        [false, true],
        "another token"
    );
    assert_eq!(seen(&ledger, Stage::Upload, &held, 2).await, [false; 2]);
    assert_eq!(seen(&ledger, Stage::Metadata, &held, 1).await, [false; 2]);
    ledger.verify().await;
}

async fn only_services_ask_what_is_recorded_and_in_columns_of_one_length(database: Database) {
    let ledger = TestLedger::start(database).await;
    let file = FileRef::new(ledger.tenant, BatchId::from_uuid(Uuid::nil()), 0);
    let request = |generation: Vec<u32>| CheckRecordedRequest {
        stage: Stage::Upload.name().into(),
        files: Some(file_tokens_to_proto([(file, Token::new(1))])),
        generation,
    };
    let answer = ledger
        .mesh_of(Stage::Upload)
        .check_recorded(request(vec![1]))
        .await;
    assert_eq!(answer.unwrap().into_inner().recorded, [false]);
    let refused = ledger
        .mesh_of(Stage::Upload)
        .check_recorded(request(vec![1, 1]))
        .await;
    assert_eq!(wrong_fields(&refused.unwrap_err()), ["generation"]);
    let refused = ledger
        .mesh_as_member()
        .check_recorded(request(vec![1]))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

/// For each file, whether a reader sees its result.
async fn seen(
    ledger: &TestLedger,
    stage: Stage,
    held: &[(FileRef, Token)],
    generation: u32,
) -> Vec<bool> {
    let request = CheckRecordedRequest {
        stage: stage.name().into(),
        files: Some(file_tokens_to_proto(held.iter().copied())),
        generation: vec![generation; held.len()],
    };
    let answer = ledger.mesh_of(stage).check_recorded(request).await.unwrap();
    answer.into_inner().recorded
}

/// A result of the upload stage, as the ledger would write it.
async fn insert_upload(session: &DatabaseTransaction, (file, token): (FileRef, Token)) {
    let sql = "INSERT INTO stage_results (tenant_id, batch_id, ordinal, generation, stage, token, nonce, artifacts, facts, \
               warnings, used_bytes, used_pages, used_tokens, used_calls, skipped, has_text, at) \
               VALUES ($1, $2, $3, 1, 1, $4, 'n', '[]', '{}', '[]', 0, 0, 0, 0, false, false, 0)";
    let values = [
        Value::from(file.tenant.as_uuid()),
        Value::from(file.batch.as_uuid()),
        Value::from(i32::try_from(file.ordinal).unwrap()),
        Value::from(i64::try_from(token.get()).unwrap()),
    ];
    let statement = Statement::from_sql_and_values(session.get_database_backend(), sql, values);
    session.execute_raw(statement).await.unwrap();
}

// Protocol 5.1: granted only under the current token.
async fn a_lease_under_an_old_token_is_not_granted(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    let held = ledger
        .take(&mut ledger.reader(Stage::Upload), Stage::Upload, 1)
        .await;
    let old = vec![(held[0].0, Token::new(held[0].1.get() - 1))];
    assert_eq!(
        ledger.lease(Stage::Upload, &old).await.verdicts,
        [i32::from(LeaseVerdict::Superseded)]
    );
    let granted = ledger.lease(Stage::Upload, &held).await;
    assert_eq!(granted.verdicts, [i32::from(LeaseVerdict::Granted)]);
    assert_eq!(granted.works[0].etag, "e");
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Processing);
    ledger.verify().await;
}

// Protocol 5.1: a lease of a later hop writes nothing, so it does not wait for who writes; only what memory does not know
// is looked at in the database.
async fn a_later_hop_is_leased_while_the_writer_waits(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt", "b.txt"]).await;
    ledger.confirm(batch, 0..2).await;
    let mut reader = ledger.reader(Stage::Upload);
    ledger
        .work(&mut reader, Stage::Upload, 2, &uploaded("text/plain"))
        .await;
    let held = ledger
        .take(
            &mut ledger.reader(Stage::ExtractText),
            Stage::ExtractText,
            2,
        )
        .await;
    // The first lease of a version is the writer's.
    ledger.lease(Stage::ExtractText, &held[..1]).await;

    let database = ledger.database().await;
    let lock = database.begin().await.unwrap();
    lock.execute_unprepared("UPDATE leadership SET holder = holder WHERE id = 1")
        .await
        .unwrap();
    let granted = ledger.lease(Stage::ExtractText, &held[1..]).await;
    assert_eq!(granted.verdicts, [i32::from(LeaseVerdict::Granted)]);
    assert_eq!(granted.works[0].path, path_of(held[1].0.ordinal));
    assert_eq!(granted.works[0].inputs.len(), 1);
    let old = [(held[1].0, Token::new(held[1].1.get() - 1))];
    let asked = ledger.lease(Stage::ExtractText, &old);
    let waits = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(waits.is_err(), "{waits:?}");
    lock.rollback().await.unwrap();

    let verdicts = ledger.report(Stage::ExtractText, &held, &done(true)).await;
    assert_eq!(verdicts, [ReportVerdict::Recorded; 2]);
    ledger.verify().await;
}

fn path_of(ordinal: u32) -> &'static str {
    ["a.txt", "b.txt"][ordinal as usize]
}

// Protocol 7.1: a failure is charged; a permanent one is final with a dead letter.
async fn a_retryable_failure_is_tried_again_and_a_permanent_one_is_final(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.pdf"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    ledger
        .work(&mut reader, Stage::Upload, 1, &failed("STORE_UNAVAILABLE"))
        .await;
    let retrying = ledger.file(batch, 0).await;
    assert_eq!(
        (retrying.state(), retrying.attempts),
        (FileState::Retrying, 1)
    );
    ledger
        .work(&mut reader, Stage::Upload, 1, &uploaded("application/pdf"))
        .await;
    ledger
        .work(
            &mut ledger.reader(Stage::ExtractText),
            Stage::ExtractText,
            1,
            &failed("CORRUPT_DOCUMENT"),
        )
        .await;
    let file = ledger.file(batch, 0).await;
    let reason = file.reason.clone().unwrap();
    assert_eq!(
        (file.state(), reason.code.as_str()),
        (FileState::Failed, "CORRUPT_DOCUMENT")
    );
    assert!(!reason.words.is_empty() && !reason.remedy.is_empty());
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Failed);
    ledger.verify().await;
}

// Protocol 7.4: a clean drain charges nothing; the file goes out again under a new token.
async fn a_released_file_goes_out_again_uncharged(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 1).await;
    ledger.lease(Stage::Upload, &held).await;
    let request = caudal_proto::mesh::v1::ReleaseRequest {
        process: "test".into(),
        files: Some(caudal_proto::convert::file_tokens_to_proto(
            held.iter().copied(),
        )),
    };
    ledger
        .mesh_of(Stage::Upload)
        .release(request)
        .await
        .unwrap();
    let again = ledger.take(&mut reader, Stage::Upload, 1).await;
    assert!(again[0].1 > held[0].1);
    assert_eq!(
        ledger
            .report(Stage::Upload, &held, &uploaded("text/plain"))
            .await,
        [ReportVerdict::Superseded]
    );
    let file = ledger.file(batch, 0).await;
    assert_eq!((file.attempts, file.state()), (0, FileState::Processing));
    ledger.verify().await;
}

// Protocol 2: what is out never exceeds the window, and the backlog waits in the database.
async fn a_stage_never_has_more_out_than_its_window(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.windows.of_stage.insert(Stage::Upload, 5);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    let paths: Vec<String> = (0..40).map(|number| format!("f{number}.bin")).collect();
    ledger
        .add(batch, &paths.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    ledger.confirm(batch, 0..40).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    let mut recorded = 0;
    while recorded < 40 {
        let counts = ledger.batch(batch).await.counts.unwrap();
        assert!(counts.queued <= 5, "{counts:?}");
        ledger
            .work(
                &mut reader,
                Stage::Upload,
                5,
                &uploaded("application/x-unknown"),
            )
            .await;
        recorded += 5;
    }
    ledger.store(batch, 40).await;
    assert_eq!(ledger.batch(batch).await.counts.unwrap().stored_only, 40);
    ledger.verify().await;
}

on_each_database![
    a_text_goes_the_whole_way_and_its_batch_succeeds,
    stages_that_were_not_asked_for_are_recorded_as_skipped,
    a_repeated_report_is_recorded_and_a_late_one_from_a_superseded_token_changes_nothing,
    what_is_recorded_is_what_a_reader_sees,
    only_services_ask_what_is_recorded_and_in_columns_of_one_length,
    a_lease_under_an_old_token_is_not_granted,
    a_later_hop_is_leased_while_the_writer_waits,
    a_retryable_failure_is_tried_again_and_a_permanent_one_is_final,
    a_released_file_goes_out_again_uncharged,
    a_stage_never_has_more_out_than_its_window,
];
