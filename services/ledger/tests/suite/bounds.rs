//! What one request, one answer and one act of the writer hold at most, whatever a client sends.

use caudal_domain::{BatchId, TenantId, limits, names};
use caudal_proto::mesh::v1::GetIssueFactsRequest;
use caudal_proto::v1::{
    AddEntriesRequest, AddEntriesResponse, Batch, BatchOptions, BatchState, CancelFilesRequest,
    CreateBatchRequest, Entry, FileSelector, FileState, ListBatchesRequest, UpdateBatchRequest,
};
use tonic::{Code, Status};
use uuid::Uuid;

use super::support::{TestLedger, bulk_metadata, file, request_id, wrong_fields};

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

async fn another_tenant(ledger: &TestLedger) -> TenantId {
    let tenant = TenantId::from_uuid(Uuid::new_v4());
    ledger.add_tenant(tenant).await;
    tenant
}

#[tokio::test]
async fn sizes_that_no_file_has_are_refused_and_other_tenants_go_on() {
    let ledger = TestLedger::start().await;
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
    // Each is a size that a file may have; together they are more than the tenant may keep.
    let most = i64::try_from(limits::MAX_FILE_BYTES).unwrap();
    let many = (0..1_000).map(|n| file(&n.to_string(), most)).collect();
    let refused = add(&ledger, batch, many).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 0);
    let other = another_tenant(&ledger).await;
    create(&ledger, other, Batch::default()).await;
    ledger.add(batch, &["d"]).await;
    ledger.verify().await;
}

#[tokio::test]
async fn a_place_beyond_the_last_ordinal_is_refused_and_does_not_lead_back_to_the_first() {
    let ledger = TestLedger::start().await;
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

#[tokio::test]
async fn what_repeats_is_folded_and_more_than_can_differ_is_refused_by_field() {
    let ledger = TestLedger::start().await;
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
