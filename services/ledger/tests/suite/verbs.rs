//! What people do to files and batches under way (protocol 10, 11), and results that are taken over (protocol 13.3).

use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{BatchId, FileRef, Stage, Target, Token, keys, names};
use caudal_harness::{Database, PATIENCE, S3, until};
use caudal_proto::mesh::v1::{
    Done, GetIssueFactsRequest, LeaseVerdict, Report, ReportVerdict, report,
};
use caudal_proto::v1::{
    AddEntriesRequest, AddEntriesResponse, Batch, BatchState, CancelBatchRequest,
    CancelFilesRequest, ConfirmUploadsRequest, Entry, FileEntry, FileSelector, FileState, Outcome,
    PauseBatchRequest, ReprocessFilesRequest, ResumeBatchRequest, RetryFilesRequest, Uploaded,
    confirmation, entry,
};
use tonic::Code;

use super::support::{
    TestLedger, done, failed, file, finished, reason_of, request_id, store_settings, uploaded,
};

const TEXT: &str = "text/plain";

fn only(batch: BatchId, ordinals: &[u32]) -> Option<FileSelector> {
    Some(FileSelector {
        batch: names::batch_name(batch),
        ordinals: ordinals.to_vec(),
        ..FileSelector::default()
    })
}

/// A completed batch of confirmed files, a dispatch of each taken and leased by the upload stage.
async fn at_work(ledger: &TestLedger, paths: &[&str]) -> (BatchId, Vec<(FileRef, Token)>) {
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, paths).await;
    let count = u32::try_from(paths.len()).unwrap();
    ledger.confirm(batch, 0..count).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, paths.len()).await;
    ledger.lease(Stage::Upload, &held).await;
    (batch, held)
}

/// An upload report of content that no other file has.
fn uploaded_content(content: u8, media_type: &str) -> Report {
    let done = Done {
        content_sha256: Bytes::copy_from_slice(&[content; 32]),
        media_type: media_type.into(),
        nonce: "n".into(),
        ..Done::default()
    };
    Report {
        took_us: 0,
        outcome: Some(report::Outcome::Done(done)),
    }
}

async fn ended(ledger: &TestLedger, name: &str) -> u32 {
    ledger.ended(name).await.1.done
}

async fn cancel(ledger: &TestLedger, batch: BatchId, ordinals: &[u32]) -> u32 {
    let request = CancelFilesRequest {
        selector: only(batch, ordinals),
        request_id: request_id(),
        ..CancelFilesRequest::default()
    };
    let begun = ledger.files().cancel_files(request).await.unwrap();
    ended(ledger, &begun.into_inner().name).await
}

async fn retry(ledger: &TestLedger, batch: BatchId, ordinals: &[u32], skip_backoff: bool) -> u32 {
    let request = RetryFilesRequest {
        selector: only(batch, ordinals),
        skip_backoff,
        request_id: request_id(),
        ..RetryFilesRequest::default()
    };
    let begun = ledger.files().retry_files(request).await.unwrap();
    ended(ledger, &begun.into_inner().name).await
}

async fn reprocess(ledger: &TestLedger, batch: BatchId, from: Stage, force: bool) -> u32 {
    let request = ReprocessFilesRequest {
        selector: only(batch, &[0]),
        from_stage: from.name().into(),
        force,
        request_id: request_id(),
        ..ReprocessFilesRequest::default()
    };
    let begun = ledger.files().reprocess_files(request).await.unwrap();
    ended(ledger, &begun.into_inner().name).await
}

async fn work_on(ledger: &TestLedger, stage: Stage, count: usize, report: &Report) {
    let mut reader = ledger.reader(stage);
    ledger.work(&mut reader, stage, count, report).await;
}

// Protocol 10.1: without the rise of the token, and with no test of the state, a cancelled file would be leased.
async fn a_cancelled_file_is_not_leased_and_who_works_on_it_is_told_to_stop(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["a", "b"]).await;
    assert_eq!(ledger.renew(&held).await, [true, true]);
    assert_eq!(cancel(&ledger, batch, &[0]).await, 1);
    let of_first: Vec<_> = held
        .iter()
        .copied()
        .filter(|(file, _)| file.ordinal == 0)
        .collect();
    assert_eq!(ledger.renew(&of_first).await, [false]);
    let answer = ledger.lease(Stage::Upload, &of_first).await;
    assert_eq!(answer.verdicts, [i32::from(LeaseVerdict::Superseded)]);
    let late = ledger
        .report(Stage::Upload, &of_first, &uploaded(TEXT))
        .await;
    assert_eq!(late, [ReportVerdict::Superseded]);
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Cancelled);
    // A final file is left alone.
    assert_eq!(cancel(&ledger, batch, &[0]).await, 0);
    ledger.verify().await;
}

// Protocol 10.2: nothing enters a cancelled batch any more, and it ends when all its files have.
async fn a_cancelled_batch_takes_nothing_more_and_ends_with_its_files(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["bad", "b", "c"]).await;
    let of = |ordinal: u32| -> Vec<(FileRef, Token)> {
        held.iter()
            .copied()
            .filter(|(file, _)| file.ordinal == ordinal)
            .collect()
    };
    ledger
        .report(Stage::Upload, &of(0), &failed("CORRUPT_DOCUMENT"))
        .await;
    let request = CancelBatchRequest {
        name: names::batch_name(batch),
        request_id: request_id(),
    };
    let answer = ledger
        .batches()
        .cancel_batch(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(answer.cancelling || answer.state() == BatchState::Cancelled);
    until("the batch to be cancelled", PATIENCE, async || {
        (ledger.batch(batch).await.state() == BatchState::Cancelled).then_some(())
    })
    .await
    .unwrap();
    let counts = ledger.batch(batch).await.counts.unwrap();
    assert_eq!((counts.failed, counts.cancelled), (1, 2));
    // The repeated request gets the first answer; whatever else is refused.
    let again = ledger
        .batches()
        .cancel_batch(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, answer);
    let late = ledger.report(Stage::Upload, &of(1), &uploaded(TEXT)).await;
    assert_eq!(late, [ReportVerdict::Superseded]);
    let add = AddEntriesRequest {
        batch: names::batch_name(batch),
        entries: vec![file("late", 1)],
        request_id: request_id(),
    };
    let refused = ledger.batches().add_entries(add).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason_of(&refused)),
        (Code::FailedPrecondition, "BATCH_CANCELLED".into())
    );
    assert!(ledger.try_confirm(batch, 0..1).await.is_err());
    assert_eq!(retry(&ledger, batch, &[0], false).await, 0);
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Cancelled);
    ledger.verify().await;
}

async fn a_large_batch_is_cancelled_in_slices_and_one_that_has_ended_is_not(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    for page in 0..3 {
        let paths: Vec<String> = (0..900).map(|number| format!("{page}/{number}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        ledger.add(batch, &paths).await;
    }
    let cancel = || CancelBatchRequest {
        name: names::batch_name(batch),
        request_id: request_id(),
    };
    ledger.batches().cancel_batch(cancel()).await.unwrap();
    until("the batch to be cancelled", PATIENCE, async || {
        (ledger.batch(batch).await.state() == BatchState::Cancelled).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(ledger.batch(batch).await.counts.unwrap().cancelled, 2_700);
    let empty = ledger.create(Batch::default()).await;
    ledger.complete(empty).await;
    let request = CancelBatchRequest {
        name: names::batch_name(empty),
        request_id: request_id(),
    };
    let refused = ledger.batches().cancel_batch(request).await.unwrap_err();
    assert_eq!(reason_of(&refused), "BATCH_ENDED");
    ledger.verify().await;
}

// Protocol 1.3, 10.3: without the look at the flag a paused batch would go on hop by hop.
async fn a_paused_batch_sends_nothing_on_and_what_is_out_finishes_its_stage(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["a"]).await;
    let pause = PauseBatchRequest {
        name: names::batch_name(batch),
        note: "lunch".into(),
        request_id: request_id(),
    };
    let paused = ledger
        .batches()
        .pause_batch(pause)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(paused.pause.unwrap().note, "lunch");
    let recorded = ledger.report(Stage::Upload, &held, &uploaded(TEXT)).await;
    assert_eq!(recorded, [ReportVerdict::Recorded]);
    let waiting = "file_work WHERE wait_stage = 2 AND dispatched_at IS NULL";
    assert_eq!(ledger.count(waiting).await, 1);
    // A file that arrives in another batch goes out: the pause is this batch's alone.
    let (_, other) = at_work(&ledger, &["x"]).await;
    assert_eq!(other.len(), 1);
    assert_eq!(ledger.count(waiting).await, 1);
    assert_eq!(ledger.streams().depth(Stage::ExtractText).await.unwrap(), 0);
    let resume = ResumeBatchRequest {
        name: names::batch_name(batch),
        request_id: request_id(),
    };
    let resumed = ledger
        .batches()
        .resume_batch(resume)
        .await
        .unwrap()
        .into_inner();
    assert!(resumed.pause.is_none());
    work_on(&ledger, Stage::ExtractText, 1, &done(true)).await;
    ledger.verify().await;
}

// Protocol 11.1: were the token reset, the late report of the attempt before the replay would be taken.
async fn a_replayed_file_refuses_its_old_attempt_and_its_batch_runs_again(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["a"]).await;
    ledger
        .report(Stage::Upload, &held, &failed("CORRUPT_DOCUMENT"))
        .await;
    let failed_batch = ledger.batch(batch).await;
    assert_eq!(
        (failed_batch.state(), failed_batch.run),
        (BatchState::Failed, 1)
    );
    assert_eq!(ledger.count("dead_letters").await, 1);
    assert_eq!(retry(&ledger, batch, &[0], false).await, 1);
    assert_eq!(ledger.count("dead_letters").await, 0);
    assert_eq!(ledger.count("attempts").await, 1);
    let again = ledger.batch(batch).await;
    assert_eq!((again.state(), again.run), (BatchState::Running, 2));
    let late = ledger.report(Stage::Upload, &held, &uploaded(TEXT)).await;
    assert_eq!(late, [ReportVerdict::Superseded]);
    ledger.finish(batch, 1).await;
    let end = ledger.batch(batch).await;
    assert_eq!((end.state(), end.run), (BatchState::Succeeded, 2));
    assert_eq!(ledger.file(batch, 0).await.attempts, 0);
    ledger.verify().await;
}

// Protocol 11.2, 12.1: bytes that come again come under a new landing key and in a new generation.
async fn a_replay_that_needs_the_bytes_asks_for_them_under_a_new_target(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["a"]).await;
    ledger
        .report(Stage::Upload, &held, &failed("CHECKSUM_MISMATCH"))
        .await;
    assert_eq!(ledger.batch(batch).await.bytes.unwrap().uploaded, 10);
    assert_eq!(retry(&ledger, batch, &[0], false).await, 1);
    let waiting = ledger.file(batch, 0).await;
    assert_eq!(
        (waiting.state(), waiting.generation),
        (FileState::Pending, 2)
    );
    assert!(waiting.reason.is_none());
    assert_eq!(ledger.batch(batch).await.bytes.unwrap().uploaded, 0);
    let facts = GetIssueFactsRequest {
        batch: Bytes::copy_from_slice(batch.as_bytes()),
        ordinals: vec![0],
        ..GetIssueFactsRequest::default()
    };
    let facts = ledger
        .mesh_as_member()
        .get_issue_facts(facts)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(facts.files[0].target, 2);
    // The first target is refused, the second is taken.
    let confirm = |target| ConfirmUploadsRequest {
        batch: names::batch_name(batch),
        uploads: vec![Uploaded {
            ordinal: 0,
            target,
            etag: "e".into(),
        }],
        request_id: request_id(),
    };
    let answer = ledger
        .uploads()
        .confirm_uploads(confirm(1))
        .await
        .unwrap()
        .into_inner();
    assert!(matches!(
        answer.confirmations[0].result,
        Some(confirmation::Result::Error(_))
    ));
    ledger.uploads().confirm_uploads(confirm(2)).await.unwrap();
    ledger.finish(batch, 1).await;
    ledger.verify().await;
}

// Protocol 11.2: the store is asked first, and only what it does not have is asked of the client again.
async fn a_retry_adopts_bytes_that_landed_after_they_were_given_up(database: Database) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    let objects = caudal_objects::ObjectStore::connect(settings.clone()).unwrap();
    let ledger = TestLedger::start_with(database, |ledger| ledger.objects = Some(settings)).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["landed", "absent", "cut-short"]).await;
    ledger.fail_what_is_missing(batch).await;
    for ordinal in 0..3 {
        ledger.until_state(batch, ordinal, FileState::Failed).await;
    }
    for (ordinal, bytes) in [(0, "ten bytes!"), (2, "ten")] {
        let file = FileRef::new(ledger.tenant, batch, ordinal);
        let key = keys::landing_key(file, Target::FIRST);
        objects.put(&key, TEXT, bytes.into()).await.unwrap();
    }
    assert_eq!(retry(&ledger, batch, &[0, 1, 2], false).await, 3);
    let adopted = ledger.file(batch, 0).await;
    assert_eq!(
        (adopted.state(), adopted.generation),
        (FileState::Queued, 1)
    );
    let are_asked_for = async || {
        for ordinal in [1, 2] {
            let asked = ledger.file(batch, ordinal).await;
            assert_eq!((asked.state(), asked.generation), (FileState::Pending, 2));
        }
    };
    are_asked_for().await;
    // They have their time, whatever the completion said of what was missing then: this batch is given up by a pass that
    // began after the retry, and the next pass has nothing against them either.
    for _ in 0..2 {
        let given_up = ledger.create(Batch::default()).await;
        ledger.add(given_up, &["absent"]).await;
        ledger.fail_what_is_missing(given_up).await;
        ledger.until_state(given_up, 0, FileState::Failed).await;
        are_asked_for().await;
    }
    // Until somebody gives them up as well.
    ledger.fail_what_is_missing(batch).await;
    for ordinal in [1, 2] {
        ledger.until_state(batch, ordinal, FileState::Failed).await;
    }
    ledger.verify().await;
}

// Protocol 12.3: the store is asked before a file is given up, at a completion and at the deadline, and once more later.
async fn bytes_that_landed_without_a_word_are_taken_whenever_they_came(database: Database) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    let objects = caudal_objects::ObjectStore::connect(settings.clone()).unwrap();
    let ledger = TestLedger::start_with(database, |ledger| {
        ledger.objects = Some(settings);
        ledger.upload_deadline = Duration::from_millis(1_500);
        ledger.look_again_after = Duration::from_secs(1);
    })
    .await;
    let land = async |batch, ordinal, bytes: &'static str| {
        let file = FileRef::new(ledger.tenant, batch, ordinal);
        let key = keys::landing_key(file, Target::FIRST);
        objects.put(&key, TEXT, bytes.into()).await.unwrap();
    };
    let names = ["landed", "absent", "cut-short"];
    let completed = ledger.create(Batch::default()).await;
    ledger.add(completed, &names).await;
    land(completed, 0, "ten bytes!").await;
    land(completed, 2, "ten").await;
    ledger.fail_what_is_missing(completed).await;
    // The transfer of the absent one was under way when it was given up.
    let ends_late = async |batch| {
        ledger.until_state(batch, 0, FileState::Queued).await;
        let file = ledger.until_state(batch, 1, FileState::Failed).await;
        assert_eq!(file.reason.unwrap().code, "NEVER_ARRIVED");
        land(batch, 1, "ten bytes!").await;
        ledger.until_state(batch, 1, FileState::Queued).await;
        ledger.until_state(batch, 2, FileState::Failed).await;
    };
    ends_late(completed).await;
    // One that nobody completes, and whose client does not come back.
    let left = ledger.create(Batch::default()).await;
    ledger.add(left, &names).await;
    land(left, 0, "ten bytes!").await;
    ends_late(left).await;
    ledger.verify().await;
}

// Protocol 12.3: a large file may take more than the deadline to be sent, and its client asks for URLs all the while.
async fn a_batch_is_not_given_up_while_its_client_asks_where_its_bytes_go(database: Database) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    let ledger = TestLedger::start_with(database, |ledger| {
        ledger.objects = Some(settings);
        ledger.upload_deadline = Duration::from_secs(2);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["large"]).await;
    let deadline = async || {
        ledger
            .batch(batch)
            .await
            .upload_expire_time
            .unwrap()
            .seconds
    };
    let first = deadline().await;
    let asked = until("the deadline to move", PATIENCE, async || {
        let facts = GetIssueFactsRequest {
            batch: batch.as_bytes().to_vec().into(),
            ordinals: vec![0],
            ..Default::default()
        };
        ledger
            .mesh_as_member()
            .get_issue_facts(facts)
            .await
            .unwrap();
        (deadline().await >= first + 4).then_some(())
    });
    asked.await.unwrap();
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Pending);
    // It does not ask any more.
    ledger.until_state(batch, 0, FileState::Failed).await;
    ledger.verify().await;
}

// Protocol 12.5: so are those that went straight to where they stay.
async fn bytes_that_stand_under_their_declared_checksum_are_taken_without_a_word(
    database: Database,
) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    let objects = caudal_objects::ObjectStore::connect(settings.clone()).unwrap();
    let ledger = TestLedger::start_with(database, |ledger| {
        ledger.objects = Some(settings);
        ledger.look_again_after = Duration::from_secs(1);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    let entries = vec![with_sha256("there", 10, 1), with_sha256("late", 10, 2)];
    add_entries(&ledger, batch, entries).await;
    let land = async |ordinal, sha256: u8| {
        let file = FileRef::new(ledger.tenant, batch, ordinal);
        let key = keys::final_key(file, &[sha256; 32]);
        objects.put(&key, TEXT, "ten bytes!".into()).await.unwrap();
    };
    land(0, 1).await;
    // Another content than was declared is another's.
    land(1, 1).await;
    ledger.fail_what_is_missing(batch).await;
    ledger.until_state(batch, 0, FileState::Queued).await;
    ledger.until_state(batch, 1, FileState::Failed).await;
    land(1, 2).await;
    ledger.until_state(batch, 1, FileState::Queued).await;
    ledger.verify().await;
}

// Protocol 12.3: nothing is given up while the store is silent.
async fn nothing_is_given_up_while_the_store_does_not_answer(database: Database) {
    let store = S3::start().await.unwrap();
    let settings = store_settings(&store);
    drop(store);
    let ledger = TestLedger::start_with(database, |ledger| ledger.objects = Some(settings)).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    ledger.fail_what_is_missing(batch).await;
    // A pass has met it: that of a batch which is cancelled comes to its end.
    let other = ledger.create(Batch::default()).await;
    ledger.add(other, &["b"]).await;
    let cancel = CancelBatchRequest {
        name: names::batch_name(other),
        request_id: request_id(),
    };
    ledger.batches().cancel_batch(cancel).await.unwrap();
    ledger.until_state(other, 0, FileState::Cancelled).await;
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Pending);
}

async fn a_file_that_waits_for_its_backoff_goes_out_at_once_when_asked(database: Database) {
    let ledger = TestLedger::start(database).await;
    let (batch, held) = at_work(&ledger, &["a"]).await;
    let mut later = failed("STORE_UNAVAILABLE");
    if let Some(report::Outcome::Failed(failed)) = &mut later.outcome {
        failed.retry_after_ms = 3_600_000;
    }
    ledger.report(Stage::Upload, &held, &later).await;
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Retrying);
    assert_eq!(retry(&ledger, batch, &[0], false).await, 0);
    assert_eq!(retry(&ledger, batch, &[0], true).await, 1);
    work_on(
        &ledger,
        Stage::Upload,
        1,
        &uploaded("application/x-unknown"),
    )
    .await;
    ledger.verify().await;
}

// Protocol 11.3: the old final record stays until the new one is written.
async fn a_reprocess_serves_the_old_record_until_the_new_one_is_written(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    ledger.work_through(1).await;
    let before = ledger.file(batch, 0).await;
    assert!(before.record.is_some());
    assert_eq!(reprocess(&ledger, batch, Stage::ExtractText, true).await, 1);
    let under_way = ledger.file(batch, 0).await;
    assert_eq!(
        (under_way.state(), under_way.generation),
        (FileState::Queued, 2)
    );
    assert_eq!(
        (under_way.record, under_way.results.len()),
        (before.record, 4)
    );
    let counts = ledger.batch(batch).await;
    assert_eq!(
        (counts.state(), counts.counts.unwrap().complete),
        (BatchState::Running, 0)
    );
    work_on(&ledger, Stage::ExtractText, 1, &done(true)).await;
    work_on(&ledger, Stage::Embeddings, 1, &done(false)).await;
    work_on(&ledger, Stage::Metadata, 1, &finished(Outcome::Partial)).await;
    let after = ledger.file(batch, 0).await;
    assert_eq!(
        (after.state(), after.outcome()),
        (FileState::Processed, Outcome::Partial)
    );
    let counts = ledger.batch(batch).await.counts.unwrap();
    assert_eq!(
        (counts.complete, counts.partial, counts.processed),
        (0, 1, 1)
    );
    ledger.verify().await;
}

// Protocol 11.3: results of later stages whose version is the newest are taken along, unless it is forced.
async fn a_reprocess_takes_later_results_of_the_newest_version_along(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    ledger.work_through(1).await;
    assert_eq!(
        reprocess(&ledger, batch, Stage::ExtractText, false).await,
        1
    );
    work_on(&ledger, Stage::ExtractText, 1, &done(true)).await;
    // Straight on to the final record.
    work_on(&ledger, Stage::Metadata, 1, &finished(Outcome::Complete)).await;
    let after = ledger.file(batch, 0).await;
    assert_eq!((after.generation, after.results.len()), (2, 4));
    // A stage that the file never went through is no place to begin.
    assert_eq!(
        reprocess(&ledger, batch, Stage::ImageProcessing, false).await,
        0
    );
    ledger.verify().await;
}

// Protocol 11.3: the landing object is gone, so the upload stage of a reprocess reads the final one.
async fn a_reprocess_from_the_upload_on_reads_the_final_object(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    work_on(
        &ledger,
        Stage::Upload,
        1,
        &uploaded_content(5, "application/x-unknown"),
    )
    .await;
    ledger.store(batch, 1).await;
    assert_eq!(reprocess(&ledger, batch, Stage::Upload, false).await, 1);
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 1).await;
    let work = ledger.lease(Stage::Upload, &held).await.works.remove(0);
    let kept = keys::final_key(held[0].0, &[5; 32]);
    assert_eq!((work.source_key, work.final_key), (kept.clone(), kept));
    ledger
        .report(
            Stage::Upload,
            &held,
            &uploaded_content(5, "application/x-unknown"),
        )
        .await;
    ledger.store(batch, 1).await;
    ledger.verify().await;
}

fn with_sha256(path: &str, size: i64, sha256: u8) -> Entry {
    let file = FileEntry {
        size,
        sha256: vec![sha256; 32],
        ..FileEntry::default()
    };
    Entry {
        path: path.to_owned(),
        kind: Some(entry::Kind::File(file)),
    }
}

async fn add_entries(
    ledger: &TestLedger,
    batch: BatchId,
    entries: Vec<Entry>,
) -> AddEntriesResponse {
    let request = AddEntriesRequest {
        batch: names::batch_name(batch),
        entries,
        request_id: request_id(),
    };
    let first = ledger
        .batches()
        .add_entries(request.clone())
        .await
        .unwrap()
        .into_inner();
    let again = ledger
        .batches()
        .add_entries(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);
    first
}

/// A processed text of 10 bytes whose content is `[7; 32]`, with the size that the upload stage found.
async fn held_text(ledger: &TestLedger) -> BatchId {
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    let mut report = uploaded_content(7, TEXT);
    if let Some(report::Outcome::Done(done)) = &mut report.outcome {
        done.artifacts
            .push(caudal_proto::mesh::v1::WrittenArtifact {
                name: "original".into(),
                size: 10,
                media_type: TEXT.into(),
            });
    }
    work_on(ledger, Stage::Upload, 1, &report).await;
    work_on(ledger, Stage::ExtractText, 1, &done(true)).await;
    work_on(ledger, Stage::Embeddings, 1, &done(false)).await;
    work_on(ledger, Stage::Metadata, 1, &finished(Outcome::Complete)).await;
    batch
}

// Protocol 13.3: held content needs no upload, and its file goes straight to its own final record.
async fn content_that_the_tenant_holds_needs_no_upload(database: Database) {
    let ledger = TestLedger::start(database).await;
    let first = held_text(&ledger).await;
    let batch = ledger.create(Batch::default()).await;
    let entries = vec![
        file("new.txt", 10),
        with_sha256("again.txt", 10, 7),
        with_sha256("unknown.txt", 10, 8),
        with_sha256("of-another-size.txt", 11, 7),
    ];
    let added = add_entries(&ledger, batch, entries).await;
    assert_eq!(added.already_held, [1]);
    let held = ledger.file(batch, 1).await;
    assert_eq!(held.state(), FileState::Queued);
    assert_eq!(held.results.len(), 3);
    assert_eq!(ledger.batch(batch).await.bytes.unwrap().uploaded, 10);
    work_on(&ledger, Stage::Metadata, 1, &finished(Outcome::Complete)).await;
    let held = ledger.file(batch, 1).await;
    assert_eq!(held.state(), FileState::Processed);
    // The references spell the first maker's keys.
    let name = "upload/original".to_owned();
    let request = caudal_proto::mesh::v1::GetArtifactFactsRequest {
        batch: Bytes::copy_from_slice(batch.as_bytes()),
        ordinal: 1,
        artifact: name,
    };
    let facts = ledger
        .mesh_as_member()
        .get_artifact_facts(request)
        .await
        .unwrap()
        .into_inner();
    let maker = FileRef::new(ledger.tenant, first, 0);
    assert_eq!(facts.key, keys::final_key(maker, &[7; 32]));
    ledger.verify().await;
}

// Never across tenants: what another one holds is not even hinted at.
async fn what_another_tenant_holds_is_not_told(database: Database) {
    let ledger = TestLedger::start(database).await;
    held_text(&ledger).await;
    let stranger = caudal_domain::TenantId::from_uuid(uuid::Uuid::new_v4());
    ledger.add_tenant(stranger).await;
    let made = ledger
        .batches_of(stranger)
        .create_batch(caudal_proto::v1::CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        })
        .await
        .unwrap()
        .into_inner();
    let request = AddEntriesRequest {
        batch: made.name,
        entries: vec![with_sha256("again.txt", 10, 7)],
        request_id: request_id(),
    };
    let added = ledger
        .batches_of(stranger)
        .add_entries(request)
        .await
        .unwrap()
        .into_inner();
    assert!(added.already_held.is_empty());
    ledger.verify().await;
}

// The same content is worked on once, whichever file brings it: the upload stage's report takes the rest over.
async fn content_that_was_processed_is_not_processed_again(database: Database) {
    let ledger = TestLedger::start(database).await;
    held_text(&ledger).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["copy.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    work_on(&ledger, Stage::Upload, 1, &uploaded_content(7, TEXT)).await;
    work_on(&ledger, Stage::Metadata, 1, &finished(Outcome::Complete)).await;
    let copy = ledger.file(batch, 0).await;
    assert_eq!(
        (copy.state(), copy.results.len()),
        (FileState::Processed, 4)
    );
    ledger.verify().await;
}

async fn results_of_an_older_stage_version_are_not_taken_over(database: Database) {
    let ledger = TestLedger::start(database).await;
    held_text(&ledger).await;
    // A newer extract-text has been seen since.
    let lease = caudal_proto::mesh::v1::LeaseRequest {
        stage: Stage::ExtractText.name().into(),
        process: "newer".into(),
        stage_version: Some(caudal_proto::mesh::v1::StageVersion {
            code: "test-2".into(),
            ..caudal_proto::mesh::v1::StageVersion::default()
        }),
        files: Some(caudal_proto::convert::file_tokens_to_proto([(
            FileRef::new(ledger.tenant, BatchId::from_uuid(uuid::Uuid::nil()), 0),
            Token::FIRST,
        )])),
    };
    ledger
        .mesh_of(Stage::ExtractText)
        .lease(lease)
        .await
        .unwrap();
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["copy.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    ledger.complete(batch).await;
    work_on(&ledger, Stage::Upload, 1, &uploaded_content(7, TEXT)).await;
    work_on(&ledger, Stage::ExtractText, 1, &done(true)).await;
    work_on(&ledger, Stage::Embeddings, 1, &done(false)).await;
    work_on(&ledger, Stage::Metadata, 1, &finished(Outcome::Complete)).await;
    ledger.verify().await;
}

async fn an_open_batch_that_nobody_touches_is_completed_by_the_system(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.batch_idle = Duration::from_millis(300);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    let completed = until("the batch to be completed", PATIENCE, async || {
        let batch = ledger.batch(batch).await;
        (batch.state() == BatchState::Running).then_some(batch)
    })
    .await
    .unwrap();
    assert!(completed.completed_by_system);
    ledger.verify().await;
}

on_each_database![
    a_cancelled_file_is_not_leased_and_who_works_on_it_is_told_to_stop,
    a_cancelled_batch_takes_nothing_more_and_ends_with_its_files,
    a_large_batch_is_cancelled_in_slices_and_one_that_has_ended_is_not,
    a_paused_batch_sends_nothing_on_and_what_is_out_finishes_its_stage,
    a_replayed_file_refuses_its_old_attempt_and_its_batch_runs_again,
    a_replay_that_needs_the_bytes_asks_for_them_under_a_new_target,
    a_retry_adopts_bytes_that_landed_after_they_were_given_up,
    bytes_that_landed_without_a_word_are_taken_whenever_they_came,
    a_batch_is_not_given_up_while_its_client_asks_where_its_bytes_go,
    bytes_that_stand_under_their_declared_checksum_are_taken_without_a_word,
    nothing_is_given_up_while_the_store_does_not_answer,
    a_file_that_waits_for_its_backoff_goes_out_at_once_when_asked,
    a_reprocess_serves_the_old_record_until_the_new_one_is_written,
    a_reprocess_takes_later_results_of_the_newest_version_along,
    a_reprocess_from_the_upload_on_reads_the_final_object,
    content_that_the_tenant_holds_needs_no_upload,
    what_another_tenant_holds_is_not_told,
    content_that_was_processed_is_not_processed_again,
    results_of_an_older_stage_version_are_not_taken_over,
    an_open_batch_that_nobody_touches_is_completed_by_the_system,
];
