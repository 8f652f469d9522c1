//! Bulk operations: in slices, counted first, asked once, and carried on by whoever leads.

use caudal_domain::{BatchId, Stage, names};
use caudal_harness::Database;
use caudal_proto::longrunning::operation::Result as Ended;
use caudal_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    Operation,
};
use caudal_proto::v1::{
    AddEntriesRequest, Batch, BulkKind, BulkMetadata, BulkResult, CancelFilesRequest,
    DismissFailuresRequest, FileSelector, FileState, ListFailuresRequest, ReprocessFilesRequest,
    RetryFilesRequest,
};
use tonic::Code;
use uuid::Uuid;

use super::support::{
    TestLedger, bulk_metadata, failed, file, reason_of, request_id, uploaded, wrong_fields,
};

fn of(batch: BatchId) -> FileSelector {
    FileSelector {
        batch: names::batch_name(batch),
        ..FileSelector::default()
    }
}

fn cancel(selector: FileSelector) -> CancelFilesRequest {
    CancelFilesRequest {
        selector: Some(selector),
        request_id: request_id(),
        ..CancelFilesRequest::default()
    }
}

/// A batch of pending files, `files` in each of two folders.
async fn two_folders(ledger: &TestLedger, files: u32) -> BatchId {
    let batch = ledger.create(Batch::default()).await;
    for folder in ["a", "b"] {
        let paths: Vec<String> = (0..files)
            .map(|number| format!("{folder}/{number}"))
            .collect();
        for page in paths.chunks(1_000) {
            let request = AddEntriesRequest {
                batch: names::batch_name(batch),
                entries: page.iter().map(|path| file(path, 1)).collect(),
                request_id: request_id(),
            };
            ledger.batches().add_entries(request).await.unwrap();
        }
    }
    batch
}

fn result_of(operation: &Operation) -> BulkResult {
    let Some(Ended::Response(any)) = &operation.result else {
        panic!("no response: {operation:?}");
    };
    assert_eq!(any.type_url, "type.googleapis.com/caudal.v1.BulkResult");
    prost::Message::decode(any.value.as_slice()).unwrap()
}

fn refused(metadata: &BulkMetadata) -> Vec<(String, u32)> {
    let refused = metadata.refused.iter();
    refused
        .map(|refused| (refused.reason.clone(), refused.count))
        .collect()
}

async fn a_selection_is_cancelled_in_slices_and_nothing_else_is(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = two_folders(&ledger, 1_300).await;
    let selector = FileSelector {
        folder: names::folder_name(batch, 2),
        ..of(batch)
    };
    let begun = ledger.files().cancel_files(cancel(selector.clone())).await;
    let begun = begun.unwrap().into_inner();
    assert!(!begun.done);
    let (operation, did) = ledger.ended(&begun.name).await;
    assert_eq!(did.kind(), BulkKind::Cancel);
    assert_eq!(did.selector, Some(selector));
    assert_eq!((did.matched, did.done), (1_300, 1_300));
    assert_eq!(result_of(&operation).done, 1_300);
    let counts = ledger.batch(batch).await.counts.unwrap();
    assert_eq!((counts.pending, counts.cancelled), (1_300, 1_300));
    assert_eq!(ledger.file(batch, 1_299).await.state(), FileState::Pending);
    assert_eq!(
        ledger.file(batch, 1_300).await.state(),
        FileState::Cancelled
    );
    ledger.verify().await;
}

async fn a_command_is_counted_first_and_refused_when_it_reaches_too_far(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = two_folders(&ledger, 3).await;
    let counted = CancelFilesRequest {
        validate_only: true,
        request_id: String::new(),
        ..cancel(of(batch))
    };
    let operation = ledger.files().cancel_files(counted).await.unwrap();
    let operation = operation.into_inner();
    assert!(operation.done && operation.name.is_empty());
    let metadata = bulk_metadata(&operation);
    assert_eq!((metadata.matched, metadata.done), (6, 0));

    let bounded = CancelFilesRequest {
        max_count: 5,
        ..cancel(of(batch))
    };
    let refused = ledger.files().cancel_files(bounded).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused), "MAX_COUNT_EXCEEDED");
    assert!(refused.message().contains('6'), "{refused}");
    assert_eq!(ledger.batch(batch).await.counts.unwrap().pending, 6);

    let nameless = CancelFilesRequest {
        request_id: String::new(),
        ..cancel(of(batch))
    };
    let refused = ledger.files().cancel_files(nameless).await.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["request_id"]);
    let list = ledger
        .operations()
        .list_operations(ListOperationsRequest::default())
        .await
        .unwrap();
    assert!(list.into_inner().operations.is_empty());
    ledger.verify().await;
}

async fn a_repeated_command_begins_no_second_operation(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = two_folders(&ledger, 3).await;
    let command = CancelFilesRequest {
        max_count: 6,
        ..cancel(of(batch))
    };
    let first = ledger.files().cancel_files(command.clone()).await.unwrap();
    let first = first.into_inner();
    ledger.ended(&first.name).await;
    // Nothing matches any more; the answer is the first one all the same.
    let again = ledger.files().cancel_files(command.clone()).await.unwrap();
    assert_eq!(again.into_inner(), first);
    let other = CancelFilesRequest {
        max_count: 7,
        ..command
    };
    let reused = ledger.files().cancel_files(other).await.unwrap_err();
    assert_eq!(reason_of(&reused), "REQUEST_ID_REUSED");
    let list = ledger
        .operations()
        .list_operations(ListOperationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.operations.len(), 1);
    assert!(list.operations[0].done);
    ledger.verify().await;
}

async fn an_operation_goes_on_after_the_ledger_was_restarted(database: Database) {
    let mut ledger = TestLedger::start(database).await;
    let batch = two_folders(&ledger, 3_000).await;
    let begun = ledger.files().cancel_files(cancel(of(batch))).await;
    let name = begun.unwrap().into_inner().name;
    ledger.restart().await;
    let (_, did) = ledger.ended(&name).await;
    assert_eq!((did.matched, did.done), (6_000, 6_000));
    assert_eq!(refused(&did), []);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().cancelled, 6_000);
    ledger.verify().await;
}

async fn a_cancelled_operation_stops_and_what_it_did_stays(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = two_folders(&ledger, 3_000).await;
    let begun = ledger.files().cancel_files(cancel(of(batch))).await;
    let name = begun.unwrap().into_inner().name;
    let request = CancelOperationRequest { name: name.clone() };
    ledger
        .operations()
        .cancel_operation(request.clone())
        .await
        .unwrap();
    let (operation, did) = ledger.ended(&name).await;
    let Some(Ended::Error(status)) = &operation.result else {
        panic!("it ended before it could be cancelled: {operation:?}");
    };
    assert_eq!(status.code, Code::Cancelled as i32);
    let counts = ledger.batch(batch).await.counts.unwrap();
    assert_eq!(counts.cancelled, did.done);
    assert!(did.done < 6_000);
    // Once more changes nothing.
    ledger.operations().cancel_operation(request).await.unwrap();
    let delete = DeleteOperationRequest { name };
    let refused = ledger.operations().delete_operation(delete).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let unknown = GetOperationRequest {
        name: names::operation_name(Uuid::now_v7()),
    };
    let refused = ledger.operations().get_operation(unknown).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    ledger.verify().await;
}

async fn operations_take_turns(database: Database) {
    let ledger = TestLedger::start(database).await;
    let mut begun = Vec::new();
    for _ in 0..3 {
        let batch = two_folders(&ledger, 1_000).await;
        let operation = ledger.files().cancel_files(cancel(of(batch))).await;
        begun.push(operation.unwrap().into_inner().name);
    }
    for name in &begun {
        let (_, did) = ledger.ended(name).await;
        assert_eq!(did.done, 2_000);
    }
    let request = ListOperationsRequest {
        page_size: 2,
        ..ListOperationsRequest::default()
    };
    let page = ledger.operations().list_operations(request.clone()).await;
    let page = page.unwrap().into_inner();
    let listed: Vec<&str> = page
        .operations
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(listed, [&begun[2], &begun[1]]);
    let request = ListOperationsRequest {
        page_token: page.next_page_token,
        ..request
    };
    let page = ledger.operations().list_operations(request).await;
    let page = page.unwrap().into_inner();
    assert_eq!(page.operations[0].name, begun[0]);
    assert!(page.next_page_token.is_empty());
    ledger.verify().await;
}

/// Two files: the first FAILED at the upload stage for good, the second stored.
async fn one_failed(ledger: &TestLedger) -> BatchId {
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["bad.bin", "good.bin"]).await;
    ledger.confirm(batch, 0..2).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 2).await;
    ledger.lease(Stage::Upload, &held).await;
    for pair in held {
        let report = if pair.0.ordinal == 0 {
            failed("CORRUPT_DOCUMENT")
        } else {
            uploaded("application/x-unknown")
        };
        ledger.report(Stage::Upload, &[pair], &report).await;
    }
    ledger.keep(1).await;
    batch
}

async fn failed_files_are_retried_and_others_are_left_alone(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = one_failed(&ledger).await;
    // Named one by one, a file that cannot be retried is told of.
    let retry = RetryFilesRequest {
        selector: Some(FileSelector {
            ordinals: vec![0, 1],
            ..of(batch)
        }),
        request_id: request_id(),
        ..RetryFilesRequest::default()
    };
    let begun = ledger.files().retry_files(retry).await.unwrap();
    let (_, did) = ledger.ended(&begun.into_inner().name).await;
    assert_eq!((did.matched, did.done), (2, 1));
    assert_eq!(refused(&did), [("NOT_FAILED".to_owned(), 1)]);
    ledger.finish(batch, 1).await;
    assert_eq!(ledger.batch(batch).await.counts.unwrap().stored_only, 2);
    ledger.verify().await;
}

async fn a_dismissed_failure_is_off_the_list_and_can_be_retried(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = one_failed(&ledger).await;
    let dismiss = || DismissFailuresRequest {
        selector: Some(of(batch)),
        request_id: request_id(),
        ..DismissFailuresRequest::default()
    };
    let begun = ledger.files().dismiss_failures(dismiss()).await.unwrap();
    let (_, did) = ledger.ended(&begun.into_inner().name).await;
    assert_eq!((did.matched, did.done), (1, 1));
    let failures = ledger
        .files()
        .list_failures(ListFailuresRequest::default())
        .await
        .unwrap();
    assert!(failures.into_inner().groups.is_empty());
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Failed);
    // Nothing is left to dismiss, and it can be retried all the same.
    let begun = ledger.files().dismiss_failures(dismiss()).await.unwrap();
    let (_, did) = ledger.ended(&begun.into_inner().name).await;
    assert_eq!((did.matched, did.done), (0, 0));
    let retry = RetryFilesRequest {
        selector: Some(FileSelector {
            reasons: vec!["CORRUPT_DOCUMENT".into()],
            ..FileSelector::default()
        }),
        request_id: request_id(),
        ..RetryFilesRequest::default()
    };
    let begun = ledger.files().retry_files(retry).await.unwrap();
    let (_, did) = ledger.ended(&begun.into_inner().name).await;
    assert_eq!((did.matched, did.done), (1, 1));
    ledger.verify().await;
}

async fn processed_files_are_processed_again_from_a_stage_on(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = one_failed(&ledger).await;
    let reprocess = |from: &str| ReprocessFilesRequest {
        selector: Some(of(batch)),
        from_stage: from.into(),
        request_id: request_id(),
        ..ReprocessFilesRequest::default()
    };
    let refused = ledger.files().reprocess_files(reprocess("ocr")).await;
    assert_eq!(wrong_fields(&refused.unwrap_err()), ["from_stage"]);
    let begun = ledger.files().reprocess_files(reprocess("metadata")).await;
    let (_, did) = ledger.ended(&begun.unwrap().into_inner().name).await;
    assert_eq!((did.matched, did.done), (1, 1));
    ledger.keep(1).await;
    let again = ledger.file(batch, 1).await;
    assert_eq!((again.state(), again.generation), (FileState::Processed, 2));
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Failed);
    ledger.verify().await;
}

on_each_database![
    a_selection_is_cancelled_in_slices_and_nothing_else_is,
    a_command_is_counted_first_and_refused_when_it_reaches_too_far,
    a_repeated_command_begins_no_second_operation,
    an_operation_goes_on_after_the_ledger_was_restarted,
    a_cancelled_operation_stops_and_what_it_did_stays,
    operations_take_turns,
    failed_files_are_retried_and_others_are_left_alone,
    a_dismissed_failure_is_off_the_list_and_can_be_retried,
    processed_files_are_processed_again_from_a_stage_on,
];
