//! Create, add entries, confirm, complete: what is taken, and what is refused with everything left as it was.

use caudal_domain::{BatchId, Stage, TenantId, names};
use caudal_harness::Database;
use caudal_proto::mesh::v1::ListEventsRequest;
use caudal_proto::v1::{
    AddEntriesRequest, AddEntriesResponse, Batch, BatchOptions, BatchState, CompleteBatchRequest,
    ConfirmUploadsRequest, CreateBatchRequest, DirectoryEntry, Entry, FileSelector, FileState,
    GetBatchRequest, ListFoldersRequest, RetryFilesRequest, Start, Uploaded, confirmation, entry,
    event,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::support::{TestLedger, failed, file, request_id};

async fn add(
    ledger: &TestLedger,
    batch: BatchId,
    entries: Vec<Entry>,
) -> Result<AddEntriesResponse, Status> {
    let request = AddEntriesRequest {
        batch: names::batch_name(batch),
        entries,
        request_id: request_id(),
    };
    ledger
        .batches()
        .add_entries(request)
        .await
        .map(tonic::Response::into_inner)
}

fn fields(status: &Status) -> Vec<String> {
    let violations = status
        .get_details_bad_request()
        .map(|details| details.field_violations);
    violations
        .unwrap_or_default()
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

async fn an_empty_batch_succeeds_when_it_is_completed(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    assert_eq!(ledger.complete(batch).await.state(), BatchState::Succeeded);
    ledger.verify().await;
}

async fn a_repeated_request_gets_the_first_answer_and_another_body_is_refused(database: Database) {
    let ledger = TestLedger::start(database).await;
    let id = request_id();
    let request = CreateBatchRequest {
        batch: Some(Batch {
            display_name: "one".into(),
            ..Batch::default()
        }),
        request_id: id.clone(),
    };
    let first = ledger
        .batches()
        .create_batch(request.clone())
        .await
        .unwrap()
        .into_inner();
    let again = ledger
        .batches()
        .create_batch(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);
    let other = CreateBatchRequest {
        batch: Some(Batch::default()),
        request_id: id,
    };
    let refused = ledger.batches().create_batch(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.get_details_error_info().unwrap().reason,
        "REQUEST_ID_REUSED"
    );

    let batch = names::parse_batch_name(&first.name).unwrap();
    let page = AddEntriesRequest {
        batch: first.name.clone(),
        entries: vec![file("a/b.txt", 1), file("c.txt", 2)],
        request_id: request_id(),
    };
    let first = ledger
        .batches()
        .add_entries(page.clone())
        .await
        .unwrap()
        .into_inner();
    let again = ledger
        .batches()
        .add_entries(page)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 2);
    ledger.verify().await;
}

async fn requests_that_come_at_once_are_answered_as_if_each_had_come_alone(database: Database) {
    let ledger = TestLedger::start(database).await;
    let tenants: Vec<TenantId> = (0..8)
        .map(|_| TenantId::from_uuid(Uuid::new_v4()))
        .collect();
    for tenant in &tenants {
        ledger.add_tenant(*tenant).await;
    }
    let create = tenants.iter().map(|tenant| {
        let request = CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        };
        let ledger = &ledger;
        async move {
            let (mut one, mut other) = (ledger.batches_of(*tenant), ledger.batches_of(*tenant));
            let (first, again) = tokio::join!(
                one.create_batch(request.clone()),
                other.create_batch(request.clone())
            );
            let first = first.unwrap().into_inner();
            assert_eq!(first, again.unwrap().into_inner());
            first.name
        }
    });
    let batches = futures::future::join_all(create).await;

    let pages = [["a/1", "b/1"], ["b/1", "a/1"], ["a/1", "a/2"]];
    let add = tenants.iter().zip(&batches).flat_map(|(tenant, batch)| {
        let ledger = &ledger;
        pages.map(|paths| async move {
            let request = AddEntriesRequest {
                batch: batch.clone(),
                entries: paths.map(|path| file(path, 1)).to_vec(),
                request_id: request_id(),
            };
            let (mut one, mut other) = (ledger.batches_of(*tenant), ledger.batches_of(*tenant));
            let (first, again) = tokio::join!(
                one.add_entries(request.clone()),
                other.add_entries(request.clone())
            );
            let first = first.unwrap().into_inner();
            assert_eq!(first, again.unwrap().into_inner());
            let ordinals = if first.ordinals.is_empty() {
                (first.first_ordinal..).take(paths.len()).collect()
            } else {
                first.ordinals
            };
            paths.into_iter().zip(ordinals).collect::<Vec<_>>()
        })
    });
    let added = futures::future::join_all(add).await;
    for ((tenant, batch), added) in tenants.iter().zip(&batches).zip(added.chunks(pages.len())) {
        let places: std::collections::BTreeSet<_> = added.iter().flatten().collect();
        assert_eq!(places.len(), 3, "one ordinal for each path: {places:?}");
        let request = GetBatchRequest {
            name: batch.clone(),
        };
        let told = ledger.batches_of(*tenant).get_batch(request).await.unwrap();
        assert_eq!(told.into_inner().counts.unwrap().total, 3);
    }
    ledger.verify().await;
}

async fn a_bad_page_names_every_bad_line_and_stores_nothing(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["known.txt", "folder/x"]).await;
    let refused = add(
        &ledger,
        batch,
        vec![
            file("ok", 1),
            file("../up", 1),
            file("same", 1),
            file("same", 1),
        ],
    )
    .await
    .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(fields(&refused), ["entries[1].path", "entries[3].path"]);
    let refused = add(&ledger, batch, vec![file("new", 1), file("known.txt", 11)])
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), fields(&refused)),
        (Code::AlreadyExists, vec!["entries[1].path".to_owned()])
    );
    let refused = add(
        &ledger,
        batch,
        vec![file("folder", 1), file("known.txt/below", 1)],
    )
    .await
    .unwrap_err();
    assert_eq!(fields(&refused), ["entries[0].path", "entries[1].path"]);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 2);
    ledger.verify().await;
}

async fn an_entry_that_is_known_gets_its_ordinal_again(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b"]).await;
    let page = add(&ledger, batch, vec![file("b", 10), file("c", 10)])
        .await
        .unwrap();
    assert_eq!(
        (page.first_ordinal, page.new_count, page.ordinals),
        (2, 1, vec![1, 2])
    );
    ledger.verify().await;
}

// A folder from a disk that tells cases apart keeps both files, and one that was written with other code points for the
// same letters is the same file.
async fn paths_differ_by_case_and_not_by_how_a_letter_is_composed(database: Database) {
    const COMPOSED: &str = "caf\u{e9}/menu.txt";
    const DECOMPOSED: &str = "cafe\u{301}/menu.txt";
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let cases = add(
        &ledger,
        batch,
        vec![file("Reports/a.txt", 1), file("reports/A.txt", 1)],
    )
    .await
    .unwrap();
    assert_eq!((cases.new_count, cases.folders.len()), (2, 3));

    let twice = vec![file(COMPOSED, 1), file(DECOMPOSED, 1)];
    let refused = add(&ledger, batch, twice).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(fields(&refused), ["entries[1].path"]);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 2);

    let first = add(&ledger, batch, vec![file(DECOMPOSED, 1)])
        .await
        .unwrap();
    assert_eq!(ledger.file(batch, first.first_ordinal).await.path, COMPOSED);
    let again = add(&ledger, batch, vec![file(COMPOSED, 1)]).await.unwrap();
    assert_eq!((again.new_count, again.ordinals), (0, vec![2]));
    ledger.verify().await;
}

async fn empty_folders_are_kept_and_counted_in_no_state(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let folder = Entry {
        path: "a/empty".into(),
        kind: Some(entry::Kind::Directory(DirectoryEntry {})),
    };
    let page = add(&ledger, batch, vec![folder]).await.unwrap();
    let paths: Vec<&str> = page
        .folders
        .iter()
        .map(|folder| folder.path.as_str())
        .collect();
    assert_eq!(paths, ["", "a", "a/empty"]);
    assert_eq!(page.new_count, 0);
    assert_eq!(ledger.complete(batch).await.state(), BatchState::Succeeded);
    ledger.verify().await;
}

async fn a_foreign_batch_and_an_unknown_one_answer_alike(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let stranger = TenantId::from_uuid(Uuid::now_v7());
    let name = names::batch_name(batch);
    let foreign = ledger
        .batches_of(stranger)
        .get_batch(GetBatchRequest { name: name.clone() })
        .await
        .unwrap_err();
    let unknown_name = names::batch_name(BatchId::from_uuid(Uuid::now_v7()));
    let unknown = ledger
        .batches()
        .get_batch(GetBatchRequest {
            name: unknown_name.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    assert_eq!(
        foreign.message().replace(&name, "X"),
        unknown.message().replace(&unknown_name, "X")
    );
    let malformed = ledger
        .batches()
        .get_batch(GetBatchRequest {
            name: "batches/7".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (malformed.code(), fields(&malformed)),
        (Code::InvalidArgument, vec!["name".to_owned()])
    );
    ledger.verify().await;
}

async fn confirmations_answer_one_by_one_and_a_repeat_changes_nothing(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    let request = |request_id: String| ConfirmUploadsRequest {
        batch: names::batch_name(batch),
        uploads: vec![
            Uploaded {
                ordinal: 0,
                target: 1,
                etag: "e".into(),
            },
            Uploaded {
                ordinal: 7,
                target: 1,
                etag: "e".into(),
            },
        ],
        request_id,
    };
    let answer = ledger
        .uploads()
        .confirm_uploads(request(request_id()))
        .await
        .unwrap()
        .into_inner();
    let [first, second] = &answer.confirmations[..] else {
        panic!("{answer:?}")
    };
    assert!(
        matches!(first.result, Some(confirmation::Result::State(state)) if state == i32::from(FileState::Queued))
    );
    assert!(
        matches!(&second.result, Some(confirmation::Result::Error(error)) if error.code == Code::NotFound as i32)
    );
    ledger
        .uploads()
        .confirm_uploads(request(request_id()))
        .await
        .unwrap();
    let wrong_target = ConfirmUploadsRequest {
        uploads: vec![Uploaded {
            ordinal: 0,
            target: 2,
            etag: "e".into(),
        }],
        ..request(request_id())
    };
    let answer = ledger
        .uploads()
        .confirm_uploads(wrong_target)
        .await
        .unwrap()
        .into_inner();
    assert!(matches!(
        &answer.confirmations[0].result,
        Some(confirmation::Result::Error(_))
    ));
    ledger.verify().await;
}

// Protocol 14.2: no entry enters a completed manifest.
async fn a_completed_manifest_takes_no_entry_and_a_wrong_count_completes_nothing(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    let mut request = CompleteBatchRequest {
        name: names::batch_name(batch),
        expected_entries: 2,
        request_id: request_id(),
        ..CompleteBatchRequest::default()
    };
    let refused = ledger
        .batches()
        .complete_batch(request.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    request.expected_entries = 1;
    request.request_id = request_id();
    ledger.batches().complete_batch(request).await.unwrap();
    let late = add(&ledger, batch, vec![file("b", 1)]).await.unwrap_err();
    assert_eq!(
        late.get_details_error_info().unwrap().reason,
        "MANIFEST_COMPLETE"
    );
    ledger.verify().await;
}

async fn what_is_missing_fails_when_the_completion_says_so_and_comes_back_when_it_arrives(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b"]).await;
    ledger.fail_what_is_missing(batch).await;
    let file = ledger.until_state(batch, 1, FileState::Failed).await;
    assert_eq!(file.reason.unwrap().code, "NEVER_ARRIVED");
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Failed);
    // Protocol 12.3: bytes that arrive after all are adopted; the batch runs again.
    ledger.confirm(batch, [1]).await;
    let again = ledger.batch(batch).await;
    assert_eq!((again.state(), again.run), (BatchState::Running, 2));
    ledger.verify().await;
}

// A completion gives up what is missing at that time, and nothing that is asked for again later.
async fn bytes_that_are_asked_for_after_everything_had_arrived_have_their_time(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.fail_what_is_missing(batch).await;
    let wrong = failed("CHECKSUM_MISMATCH");
    let mut reader = ledger.reader(Stage::Upload);
    ledger.work(&mut reader, Stage::Upload, 1, &wrong).await;
    let retry = RetryFilesRequest {
        selector: Some(FileSelector {
            batch: names::batch_name(batch),
            ..FileSelector::default()
        }),
        request_id: request_id(),
        ..RetryFilesRequest::default()
    };
    let begun = ledger.files().retry_files(retry).await.unwrap();
    ledger.ended(&begun.into_inner().name).await;
    // Two passes that failed what is missing elsewhere have seen this batch too.
    for _ in 0..2 {
        let other = ledger.create(Batch::default()).await;
        ledger.add(other, &["b"]).await;
        ledger.fail_what_is_missing(other).await;
        ledger.until_state(other, 0, FileState::Failed).await;
    }
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Pending);
    ledger.verify().await;
}

async fn a_batch_that_starts_when_completed_holds_its_files_back_until_then(database: Database) {
    let ledger = TestLedger::start(database).await;
    let options = BatchOptions {
        start: Start::WhenCompleted.into(),
        ..BatchOptions::default()
    };
    let batch = ledger
        .create(Batch {
            options: Some(options),
            ..Batch::default()
        })
        .await;
    ledger.add(batch, &["a"]).await;
    ledger.confirm(batch, [0]).await;
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Uploaded);
    ledger.complete(batch).await;
    ledger.until_state(batch, 0, FileState::Queued).await;
    ledger.verify().await;
}

async fn folders_are_listed_with_their_parents_before_them(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a/b/x", "a/y", "c/z"]).await;
    let mut paths = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListFoldersRequest {
            parent: names::batch_name(batch),
            page_size: 2,
            page_token,
        };
        let page = ledger
            .batches()
            .list_folders(request)
            .await
            .unwrap()
            .into_inner();
        paths.extend(
            page.folders
                .into_iter()
                .map(|folder| (folder.path, folder.total)),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected = [("", 3), ("a", 2), ("a/b", 1), ("c", 1)];
    assert_eq!(
        paths,
        expected.map(|(path, total)| (path.to_owned(), total))
    );
    ledger.verify().await;
}

async fn events_tell_the_whole_way_of_a_file_in_order(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.complete(batch).await;
    ledger.work_through(1).await;
    let mut states = Vec::new();
    let mut after_cursor = 0;
    loop {
        let request = ListEventsRequest {
            after_cursor,
            ..ListEventsRequest::default()
        };
        let page = ledger
            .mesh_as_member()
            .list_events(request)
            .await
            .unwrap()
            .into_inner();
        assert!(!page.too_old && page.cursor >= after_cursor);
        for event in page.events {
            if let Some(event::What::File(change)) = event.what {
                assert_eq!(change.path, "a.txt");
                states.push(change.to());
            }
        }
        after_cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    states.dedup();
    let expected = [
        FileState::Pending,
        FileState::Uploading,
        FileState::Uploaded,
        FileState::Queued,
        FileState::Processing,
        FileState::Processed,
    ];
    assert_eq!(states, expected);
    ledger.verify().await;
}

async fn a_page_over_a_quota_is_refused_with_its_figures_and_takes_nothing(database: Database) {
    let ledger =
        TestLedger::start_with(database, |settings| settings.tenant_limits.files = 3).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b"]).await;
    let refused = add(&ledger, batch, vec![file("c", 1), file("d", 1)])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let quota = refused.get_details_quota_failure().unwrap();
    assert_eq!(quota.violations.len(), 1, "{quota:?}");
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 2);
    ledger.add(batch, &["c"]).await;
    ledger.verify().await;
}

on_each_database![
    an_empty_batch_succeeds_when_it_is_completed,
    a_repeated_request_gets_the_first_answer_and_another_body_is_refused,
    requests_that_come_at_once_are_answered_as_if_each_had_come_alone,
    a_bad_page_names_every_bad_line_and_stores_nothing,
    an_entry_that_is_known_gets_its_ordinal_again,
    paths_differ_by_case_and_not_by_how_a_letter_is_composed,
    empty_folders_are_kept_and_counted_in_no_state,
    a_foreign_batch_and_an_unknown_one_answer_alike,
    confirmations_answer_one_by_one_and_a_repeat_changes_nothing,
    a_completed_manifest_takes_no_entry_and_a_wrong_count_completes_nothing,
    what_is_missing_fails_when_the_completion_says_so_and_comes_back_when_it_arrives,
    bytes_that_are_asked_for_after_everything_had_arrived_have_their_time,
    a_batch_that_starts_when_completed_holds_its_files_back_until_then,
    folders_are_listed_with_their_parents_before_them,
    events_tell_the_whole_way_of_a_file_in_order,
    a_page_over_a_quota_is_refused_with_its_figures_and_takes_nothing,
];
