//! What one request, one answer and one act of the writer hold at most, whatever a client sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use caudal_domain::{BatchId, Stage, TenantId, limits, names};
use caudal_harness::{Database, PATIENCE};
use caudal_proto::longrunning::ListOperationsRequest;
use caudal_proto::mesh::v1::GetIssueFactsRequest;
use caudal_proto::v1::{
    AddEntriesRequest, AddEntriesResponse, Batch, BatchOptions, BatchState, CancelBatchRequest,
    CancelFilesRequest, CompleteBatchRequest, CountFilesRequest, CreateBatchRequest, Entry,
    FileEntry, FileSelector, FileState, GetBatchRequest, ListBatchesRequest, ListFilesRequest,
    ListFoldersRequest, MissingFiles, UpdateBatchRequest, entry,
};
use futures::StreamExt;
use prost::Message;
use sea_orm::{ConnectionTrait, Statement};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::support::{TestLedger, bulk_metadata, file, flush, request_id, wrong_fields};

async fn create(ledger: &TestLedger, tenant: TenantId, batch: Batch) -> BatchId {
    let request = CreateBatchRequest {
        batch: Some(batch),
        request_id: request_id(),
    };
    let made = ledger.batches_of(tenant).create_batch(request).await;
    names::parse_batch_name(&made.unwrap().into_inner().name).unwrap()
}

fn page(batch: BatchId, entries: Vec<Entry>) -> AddEntriesRequest {
    AddEntriesRequest {
        batch: names::batch_name(batch),
        entries,
        request_id: request_id(),
    }
}

async fn add(
    ledger: &TestLedger,
    batch: BatchId,
    entries: Vec<Entry>,
) -> Result<AddEntriesResponse, Status> {
    let added = ledger.batches().add_entries(page(batch, entries)).await;
    added.map(tonic::Response::into_inner)
}

/// An object of about so many bytes of JSON.
fn metadata(bytes: usize) -> prost_types::Struct {
    let value = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue("x".repeat(bytes))),
    };
    prost_types::Struct {
        fields: [("note".to_owned(), value)].into(),
    }
}

async fn sizes_that_no_file_has_are_refused_and_other_tenants_go_on(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.tenant_limits.stored_bytes = 1 << 40;
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    let huge = ["a", "b", "c"].map(|path| file(path, i64::MAX)).to_vec();
    let refused = add(&ledger, batch, huge).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(
        wrong_fields(&refused),
        [
            "entries[0].file.size",
            "entries[1].file.size",
            "entries[2].file.size"
        ]
    );
    // One byte more than a store holds as one object: said here, and not when the file is to be sent.
    let most = i64::try_from(limits::MAX_FILE_BYTES).unwrap();
    let refused = add(&ledger, batch, vec![file("a", most + 1)]).await;
    let refused = refused.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["entries[0].file.size"]);
    let told = refused.get_details_bad_request().unwrap();
    let words = &told.field_violations[0].description;
    assert!(words.starts_with("FILE_TOO_LARGE: "), "{words}");
    // Each is a size that a file may have; together they are more than the tenant may keep.
    let many = (0..1_000).map(|n| file(&n.to_string(), most)).collect();
    let refused = add(&ledger, batch, many).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 0);
    let other = ledger.another_tenant().await;
    create(&ledger, other, Batch::default()).await;
    ledger.add(batch, &["d"]).await;
    ledger.verify().await;
}

async fn a_place_beyond_the_last_ordinal_is_refused_and_does_not_lead_back_to_the_first(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    let ask = |after_ordinal| GetIssueFactsRequest {
        batch: batch.as_bytes().to_vec().into(),
        after_ordinal,
        count: 10,
        ..GetIssueFactsRequest::default()
    };
    for (after, found) in [(-1, 1), (0, 0), (1 << 31, 0)] {
        let facts = ledger.mesh_as_member().get_issue_facts(ask(after)).await;
        assert_eq!(facts.unwrap().into_inner().files.len(), found, "{after}");
    }
    for after in [i64::from(u32::MAX), i64::MAX, -2, i64::MIN] {
        let facts = ledger.mesh_as_member().get_issue_facts(ask(after)).await;
        let refused = facts.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{after}");
        assert_eq!(wrong_fields(&refused), ["after_ordinal"]);
    }
    ledger.verify().await;
}

async fn what_repeats_is_folded_and_more_than_can_differ_is_refused_by_field(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a"]).await;
    let of = |stages: usize| FileSelector {
        batch: names::batch_name(batch),
        stages: vec!["upload".into(); stages],
        states: vec![FileState::Pending.into(); 9],
        ordinals: vec![0; 1_000],
        ..FileSelector::default()
    };
    let cancel = |selector| CancelFilesRequest {
        selector: Some(selector),
        request_id: request_id(),
        ..CancelFilesRequest::default()
    };
    let refused = ledger.files().cancel_files(cancel(of(180_000))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(wrong_fields(&refused), ["selector.stages"]);
    assert!(refused.message().contains("at most 5"), "{refused:?}");

    let begun = ledger.files().cancel_files(cancel(of(5))).await.unwrap();
    let kept = bulk_metadata(begun.get_ref()).selector.unwrap();
    assert_eq!(
        (kept.stages, kept.states, kept.ordinals),
        (
            vec!["upload".to_owned()],
            vec![i32::from(FileState::Pending)],
            vec![0]
        )
    );
    ledger.ended(&begun.get_ref().name).await;

    let list = |states| ListBatchesRequest {
        states: vec![BatchState::Open.into(); states],
        ..ListBatchesRequest::default()
    };
    let found = ledger.batches().list_batches(list(5)).await.unwrap();
    assert_eq!(found.into_inner().batches.len(), 1);
    let refused = ledger.batches().list_batches(list(1_000_000)).await;
    assert_eq!(wrong_fields(&refused.unwrap_err()), ["states"]);

    let update = UpdateBatchRequest {
        batch: Some(Batch {
            name: names::batch_name(batch),
            ..Batch::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["priority".into(); 400_000],
        }),
        request_id: request_id(),
    };
    let refused = ledger.batches().update_batch(update).await.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["update_mask.paths"]);

    let options = BatchOptions {
        stages: vec!["upload".into(); 400_000],
        ..BatchOptions::default()
    };
    let made = CreateBatchRequest {
        batch: Some(Batch {
            options: Some(options),
            ..Batch::default()
        }),
        request_id: request_id(),
    };
    let refused = ledger.batches().create_batch(made).await.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["batch.options.stages"]);
    ledger.verify().await;
}

// A client decodes 4 MiB unless it is told otherwise; each of these lists is larger.
async fn a_list_of_large_things_comes_whole_over_several_pages(database: Database) {
    let ledger = TestLedger::start(database).await;
    let made: Vec<BatchId> = futures::stream::iter(0..300)
        .map(|_| {
            ledger.create(Batch {
                metadata: Some(metadata(16_000)),
                ..Batch::default()
            })
        })
        .buffered(32)
        .collect()
        .await;
    let mut request = ListBatchesRequest {
        page_size: 1_000,
        ..ListBatchesRequest::default()
    };
    let mut pages = 0;
    let mut listed = Vec::new();
    loop {
        let page = ledger.batches().list_batches(request.clone()).await;
        let page = page.unwrap().into_inner();
        pages += 1;
        listed.extend(page.batches.into_iter().map(|batch| batch.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    listed.sort();
    let mut expected: Vec<String> = made.iter().map(|batch| names::batch_name(*batch)).collect();
    expected.sort();
    assert_eq!(listed, expected);
    assert!(pages > 1, "{pages} pages");

    for first in [0, 500, 1_000] {
        let entry = |n: u32| Entry {
            path: n.to_string(),
            kind: Some(entry::Kind::File(FileEntry {
                size: 1,
                metadata: Some(metadata(4_000)),
                ..FileEntry::default()
            })),
        };
        let entries = (first..first + 500).map(entry).collect();
        add(&ledger, made[0], entries).await.unwrap();
    }
    let mut request = ListFilesRequest {
        selector: Some(FileSelector {
            batch: names::batch_name(made[0]),
            ..FileSelector::default()
        }),
        page_size: 1_000,
        ..ListFilesRequest::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = ledger.files().list_files(request.clone()).await;
        let page = page.unwrap().into_inner();
        listed.extend(page.files.into_iter().map(|file| file.ordinal));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, (0..1_500).collect::<Vec<u32>>());
    ledger.verify().await;
}

// Selectors that an earlier version kept as they were sent.
async fn operations_with_huge_selectors_are_listed_a_few_at_a_time(database: Database) {
    let ledger = TestLedger::start(database).await;
    ledger.create(Batch::default()).await;
    let selector = FileSelector {
        stages: vec!["upload".into(); 180_000],
        ..FileSelector::default()
    };
    let database = ledger.database().await;
    for number in 1..=4_u128 {
        let insert = Statement::from_sql_and_values(
            database.get_database_backend(),
            "INSERT INTO operations (tenant_id, operation_id, kind, options, selector, state, matched, max_count, done, \
             refused, requested_by, by_operator, next_at, created_at, updated_at, ended_at) \
             VALUES ($1, $2, 'CANCEL', '{}', $3, 'SUCCEEDED', 0, 0, 0, '{}', '', $4, 1, 1, 1, 1)",
            [
                ledger.tenant.as_uuid().into(),
                Uuid::from_u128(number).into(),
                selector.encode_to_vec().into(),
                false.into(),
            ],
        );
        database.execute_raw(insert).await.unwrap();
    }
    database.close().await.unwrap();
    let mut request = ListOperationsRequest {
        page_size: 1_000,
        ..ListOperationsRequest::default()
    };
    let mut pages = 0;
    let mut listed = 0;
    loop {
        let page = ledger.operations().list_operations(request.clone()).await;
        let page = page.unwrap().into_inner();
        pages += 1;
        listed += page.operations.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, 4);
    assert!(pages > 1, "{pages} pages");
    ledger.verify().await;
}

/// Files that each stand in a folder of their own, so many folders deep.
fn apart(files: usize, depth: usize) -> Vec<Entry> {
    let path = |number: usize| {
        let mut path = format!("f{number}");
        path.push_str(&"/down".repeat(depth - 1));
        path + "/file.txt"
    };
    (0..files).map(|number| file(&path(number), 1)).collect()
}

async fn a_page_implies_so_many_folders_and_no_more(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let too_many = apart(limits::MAX_FOLDERS_PER_PAGE / 10 + 1, 10);
    let refused = add(&ledger, batch, too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(wrong_fields(&refused), ["entries"]);
    assert!(refused.message().contains("fewer entries"), "{refused:?}");

    // Few folders, but long paths.
    let parts = vec!["p".repeat(200); 4].join("/");
    let long = (0..1_000).map(|n| file(&format!("{n}/{parts}/file"), 1));
    let refused = add(&ledger, batch, long.collect()).await.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["entries"]);
    assert!(refused.message().contains("bytes of paths"), "{refused:?}");
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 0);

    // What is taken is answered with all its folders, and a repeat is answered alike.
    let most = page(batch, apart(limits::MAX_FOLDERS_PER_PAGE / 10, 10));
    let first = ledger.batches().add_entries(most.clone()).await.unwrap();
    let again = ledger.batches().add_entries(most).await.unwrap();
    assert_eq!(first.get_ref(), again.get_ref());
    assert_eq!(
        first.into_inner().folders.len(),
        limits::MAX_FOLDERS_PER_PAGE + 1
    );
    let mut listed = 0;
    let mut request = ListFoldersRequest {
        parent: names::batch_name(batch),
        ..ListFoldersRequest::default()
    };
    loop {
        let page = ledger.batches().list_folders(request.clone()).await;
        let page = page.unwrap().into_inner();
        listed += page.folders.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, limits::MAX_FOLDERS_PER_PAGE + 1);
    // An ordinary page of a thousand files in a tree.
    let tree = (0..1_000).map(|n| file(&format!("a/b{}/c{}/d/e/{n}", n % 7, n % 50), 1));
    add(&ledger, batch, tree.collect()).await.unwrap();
    ledger.verify().await;
}

/// A batch of another tenant with 20,000 files that never arrive, and a file of the ledger's tenant that is out.
struct Crowd {
    big: TenantId,
    batch: BatchId,
}

const FILES: u32 = 20_000;

/// How its files end.
#[derive(Clone, Copy)]
enum End {
    Cancelled,
    NeverArrived,
}

impl Crowd {
    async fn gather(ledger: &TestLedger) -> Self {
        let big = ledger.another_tenant().await;
        let batch = create(ledger, big, Batch::default()).await;
        for first in (0..FILES).step_by(1_000) {
            let entries = (first..first + 1_000).map(|n| file(&n.to_string(), 1));
            let page = page(batch, entries.collect());
            ledger.batches_of(big).add_entries(page).await.unwrap();
        }
        Self { big, batch }
    }

    /// How many files of it have ended.
    async fn ended(&self, ledger: &TestLedger) -> u32 {
        let request = GetBatchRequest {
            name: names::batch_name(self.batch),
        };
        let batch = ledger.batches_of(self.big).get_batch(request).await;
        let counts = batch.unwrap().into_inner().counts.unwrap();
        counts.cancelled + counts.failed
    }

    /// While its files end slice by slice: a dispatch that is lost then goes out again, and batches are made.
    async fn ends_while_others_go_on(&self, ledger: &TestLedger, how: End) {
        let small = ledger.create(Batch::default()).await;
        ledger.add(small, &["a"]).await;
        ledger.confirm(small, [0]).await;
        let mut reader = ledger.reader(Stage::Upload);
        let out = ledger.take(&mut reader, Stage::Upload, 1).await;
        self.begin_to_end(ledger, how).await;
        let begun = std::time::Instant::now();
        while self.ended(ledger).await == 0 {
            assert!(begun.elapsed() < PATIENCE, "no file has ended");
        }
        flush(ledger).await;
        let mut made = 0;
        let again = tokio::select! {
            again = ledger.take(&mut reader, Stage::Upload, 1) => again,
            () = async {
                loop {
                    ledger.create(Batch::default()).await;
                    made += 1;
                }
            } => Vec::new(),
        };
        let ended = self.ended(ledger).await;
        assert_eq!(again[0].0, out[0].0);
        assert!(ended < FILES, "it went out only when all had ended");
        assert!(made > 0, "no batch was made meanwhile");
        let begun = std::time::Instant::now();
        while self.ended(ledger).await < FILES {
            assert!(begun.elapsed() < 3 * PATIENCE, "not all have ended");
        }
    }

    async fn begin_to_end(&self, ledger: &TestLedger, how: End) {
        let name = names::batch_name(self.batch);
        let batches = &mut ledger.batches_of(self.big);
        match how {
            End::Cancelled => {
                let request = CancelBatchRequest {
                    name,
                    request_id: request_id(),
                };
                batches.cancel_batch(request).await.unwrap();
            }
            End::NeverArrived => {
                let request = CompleteBatchRequest {
                    name,
                    missing: MissingFiles::Fail.into(),
                    request_id: request_id(),
                    ..CompleteBatchRequest::default()
                };
                batches.complete_batch(request).await.unwrap();
            }
        }
    }
}

// Protocol 10.2.
async fn a_huge_batch_is_cancelled_in_slices_between_which_others_are_served(database: Database) {
    let ledger = TestLedger::start(database).await;
    let crowd = Crowd::gather(&ledger).await;
    crowd.ends_while_others_go_on(&ledger, End::Cancelled).await;
    ledger.verify().await;
}

async fn what_is_missing_of_a_huge_batch_fails_in_slices_between_which_others_are_served(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let crowd = Crowd::gather(&ledger).await;
    crowd
        .ends_while_others_go_on(&ledger, End::NeverArrived)
        .await;
    ledger.verify().await;
}

async fn who_reads_a_lot_leaves_a_turn_to_another(database: Database) {
    const COUNTS: u32 = 16;
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    for first in (0..4_000).step_by(1_000) {
        let entries = (first..first + 1_000).map(|n: u32| file(&format!("f{n}.txt"), 1));
        add(&ledger, batch, entries.collect()).await.unwrap();
    }
    let other = ledger.another_tenant().await;
    create(&ledger, other, Batch::default()).await;
    let counted = Arc::new(AtomicU32::new(0));
    let mut counts = tokio::task::JoinSet::new();
    for _ in 0..COUNTS {
        let (mut files, counted) = (ledger.files(), counted.clone());
        let request = CountFilesRequest {
            selector: Some(FileSelector {
                batch: names::batch_name(batch),
                path_glob: "**/*9.txt".into(),
                ..FileSelector::default()
            }),
            ..CountFilesRequest::default()
        };
        counts.spawn(async move {
            let answer = files.count_files(request).await.unwrap().into_inner();
            counted.fetch_add(1, Ordering::Relaxed);
            answer.total
        });
    }
    // One that waited behind all statements of the counts each time would be answered when they are done.
    for _ in 0..5 {
        let request = ListBatchesRequest::default();
        let listed = ledger.batches_of(other).list_batches(request).await;
        assert_eq!(listed.unwrap().into_inner().batches.len(), 1);
    }
    let meanwhile = counted.load(Ordering::Relaxed);
    assert!(meanwhile < COUNTS, "all counts went before it");
    while let Some(total) = counts.join_next().await {
        assert_eq!(total.unwrap(), 400);
    }
}

on_each_database![
    who_reads_a_lot_leaves_a_turn_to_another,
    sizes_that_no_file_has_are_refused_and_other_tenants_go_on,
    a_place_beyond_the_last_ordinal_is_refused_and_does_not_lead_back_to_the_first,
    what_repeats_is_folded_and_more_than_can_differ_is_refused_by_field,
    a_list_of_large_things_comes_whole_over_several_pages,
    operations_with_huge_selectors_are_listed_a_few_at_a_time,
    a_page_implies_so_many_folders_and_no_more,
    a_huge_batch_is_cancelled_in_slices_between_which_others_are_served,
    what_is_missing_of_a_huge_batch_fails_in_slices_between_which_others_are_served,
];
