//! What an upload token shows, and what can be done with it.

use caudal_domain::{BatchId, names};
use caudal_harness::Database;
use caudal_node::scope::Scope;
use caudal_proto::mesh::v1::{CreateTusRequest, GetIssueFactsRequest};
use caudal_proto::status::{RemoteRefusal, from_status};
use caudal_proto::v1::{
    self, AddEntriesRequest, AddEntriesResponse, Batch, DirectoryEntry, Entry, entry,
};
use tonic::Status;
use uuid::Uuid;

use super::support::{TestLedger, file, request_id};

impl TestLedger {
    /// Whoever comes with an upload token for this batch.
    async fn with_token(&self, batch: BatchId, max_files: Option<u64>) -> Scope {
        let request = v1::CreateUploadTokenRequest {
            batch: names::batch_name(batch),
            max_files,
            request_id: request_id(),
            ..v1::CreateUploadTokenRequest::default()
        };
        let made = self.batches().create_upload_token(request).await.unwrap();
        self.shows(&made.into_inner().secret).await.unwrap()
    }

    async fn add_with(
        &self,
        scope: &Scope,
        entries: Vec<Entry>,
    ) -> Result<AddEntriesResponse, RemoteRefusal> {
        let request = AddEntriesRequest {
            batch: names::batch_name(scope.batch.unwrap()),
            entries,
            request_id: request_id(),
        };
        let added = self.batches_of_scope(scope).add_entries(request).await;
        added
            .map(tonic::Response::into_inner)
            .map_err(|status| from_status(&status))
    }

    async fn leave_out_with(
        &self,
        scope: &Scope,
        ordinals: &[u32],
    ) -> Result<Vec<v1::LeaveOut>, Status> {
        let files = ordinals.iter().map(|ordinal| v1::LeftOut {
            ordinal: *ordinal,
            cause: "cannot be read".into(),
        });
        let request = v1::LeaveOutFilesRequest {
            batch: names::batch_name(scope.batch.unwrap()),
            files: files.collect(),
            request_id: request_id(),
        };
        let answer = self.uploads_of_scope(scope).leave_out_files(request).await;
        Ok(answer?.into_inner().files)
    }

    /// The ordinals of what may be sent.
    async fn issued_to(&self, scope: &Scope, ordinals: &[u32]) -> Vec<u32> {
        let request = GetIssueFactsRequest {
            batch: scope.batch.unwrap().as_bytes().to_vec().into(),
            ordinals: ordinals.to_vec(),
            count: 10,
            after_ordinal: -1,
        };
        let facts = self.mesh_of_scope(scope).get_issue_facts(request).await;
        let facts = facts.unwrap().into_inner().files.into_iter();
        let pending = facts.filter(|facts| facts.state() == v1::FileState::Pending);
        pending.map(|facts| facts.ordinal).collect()
    }
}

fn folder(path: &str) -> Entry {
    Entry {
        path: path.to_owned(),
        kind: Some(entry::Kind::Directory(DirectoryEntry {})),
    }
}

async fn what_a_tenant_says_of_a_batch_is_not_for_a_token(database: Database) {
    let ledger = TestLedger::start(database).await;
    let metadata = prost_types::Struct {
        fields: [(
            "left_out".to_owned(),
            prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue(
                    "salaries.xlsx".into(),
                )),
            },
        )]
        .into(),
    };
    let batch = ledger
        .create(Batch {
            display_name: "the merger".into(),
            metadata: Some(metadata),
            ..Batch::default()
        })
        .await;
    let pause = v1::PauseBatchRequest {
        name: names::batch_name(batch),
        note: "ask legal".into(),
        request_id: request_id(),
    };
    ledger.batches().pause_batch(pause).await.unwrap();
    let scope = ledger.with_token(batch, None).await;
    let mut seen = Vec::new();
    for name in [names::batch_name(batch), "batches/-".to_owned()] {
        let request = v1::GetBatchRequest { name };
        let found = ledger.batches_of_scope(&scope).get_batch(request).await;
        seen.push(format!("{:?}", found.unwrap().into_inner()));
    }
    let request = caudal_proto::mesh::v1::GetSnapshotRequest {
        batch: batch.as_bytes().to_vec().into(),
    };
    let snapshot = ledger.mesh_of_scope(&scope).get_snapshot(request).await;
    let first = snapshot.unwrap().into_inner().message().await.unwrap();
    seen.push(format!("{first:?}"));
    let complete = v1::CompleteBatchRequest {
        name: names::batch_name(batch),
        request_id: request_id(),
        ..v1::CompleteBatchRequest::default()
    };
    let mut batches = ledger.batches_of_scope(&scope);
    let completed = batches.complete_batch(complete).await;
    seen.push(format!("{:?}", completed.unwrap().into_inner()));
    for seen in seen {
        assert!(seen.contains(&names::batch_name(batch)), "{seen}");
        for secret in ["merger", "salaries", "legal"] {
            assert!(!seen.contains(secret), "{secret}: {seen}");
        }
    }
    assert_eq!(ledger.batch(batch).await.display_name, "the merger");
}

async fn a_token_acts_on_the_files_that_were_added_with_it_and_on_no_others(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["members.txt"]).await;
    let (one, another) = (
        ledger.with_token(batch, None).await,
        ledger.with_token(batch, None).await,
    );
    ledger
        .add_with(&one, vec![file("one.txt", 10)])
        .await
        .unwrap();
    ledger
        .add_with(&another, vec![file("another.txt", 10)])
        .await
        .unwrap();
    let (members, own, others, none) = (0, 1, 2, 9);

    assert_eq!(
        ledger.issued_to(&one, &[members, own, others, none]).await,
        [own]
    );
    assert_eq!(ledger.issued_to(&one, &[]).await, [own]);
    let tus = |ordinal| CreateTusRequest {
        upload: Uuid::new_v4().as_bytes().to_vec().into(),
        batch: batch.as_bytes().to_vec().into(),
        ordinal: Some(ordinal),
        length: Some(10),
        lifetime_ms: 60_000,
        ..CreateTusRequest::default()
    };
    let refused = ledger.mesh_of_scope(&one).create_tus(tus(members)).await;
    let refused = refused.unwrap_err();
    let unknown = ledger.mesh_of_scope(&one).create_tus(tus(none)).await;
    let words = unknown
        .unwrap_err()
        .message()
        .replace("/files/9", "/files/0");
    assert_eq!(refused.message(), words);
    ledger
        .mesh_of_scope(&one)
        .create_tus(tus(own))
        .await
        .unwrap();

    // A foreign file and none are answered alike.
    let left_out = ledger.leave_out_with(&one, &[members, others, none]).await;
    for answer in left_out.unwrap() {
        let Some(v1::leave_out::Result::Error(error)) = answer.result else {
            panic!("{answer:?}");
        };
        let known = names::file_name(batch, answer.ordinal);
        assert!(error.message.contains(&known), "{error:?}");
        assert_eq!(error.code, tonic::Code::NotFound as i32);
    }
    let confirm = v1::ConfirmUploadsRequest {
        batch: names::batch_name(batch),
        uploads: vec![v1::Uploaded {
            ordinal: members,
            etag: "etag".into(),
            ..v1::Uploaded::default()
        }],
        request_id: request_id(),
    };
    let confirmed = ledger.uploads_of_scope(&one).confirm_uploads(confirm).await;
    let confirmed = confirmed.unwrap().into_inner().confirmations;
    assert!(matches!(
        confirmed[0].result,
        Some(v1::confirmation::Result::Error(_))
    ));
    for ordinal in [members, others] {
        assert_eq!(
            ledger.file(batch, ordinal).await.state(),
            v1::FileState::Pending
        );
    }
    let left_out = ledger.leave_out_with(&one, &[own]).await.unwrap();
    assert!(matches!(
        left_out[0].result,
        Some(v1::leave_out::Result::State(_))
    ));
    assert_eq!(ledger.file(batch, own).await.state(), v1::FileState::Failed);

    // Nobody learns of a file what was not added with its token: neither by the right size nor by a wrong one.
    for size in [10, 11] {
        let refused = ledger.add_with(&one, vec![file("members.txt", size)]).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, "PATH_TAKEN");
        let words = &refused.violations[0].description;
        assert!(
            !words.contains("10") && !words.contains("files/"),
            "{words}"
        );
    }
    let again = ledger.add_with(&one, vec![file("one.txt", 10)]).await;
    assert_eq!(again.unwrap().ordinals, [own]);
}

async fn folders_count_as_files_of_a_token(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let scope = ledger.with_token(batch, Some(3)).await;
    let many = (0..10)
        .map(|number| folder(&format!("f{number}")))
        .collect();
    let full = ledger.add_with(&scope, many).await.unwrap_err();
    assert_eq!(full.quota[0].subject, "upload_token_files");
    // Those that a path implies too, each once.
    ledger
        .add_with(&scope, vec![file("a/b/one.txt", 1)])
        .await
        .unwrap();
    ledger.add_with(&scope, vec![folder("a/b")]).await.unwrap();
    let full = ledger
        .add_with(&scope, vec![folder("c")])
        .await
        .unwrap_err();
    assert_eq!(
        full.quota[0].description,
        "the limit is 3, 3 are used, 1 more were asked"
    );
}

on_each_database![
    what_a_tenant_says_of_a_batch_is_not_for_a_token,
    a_token_acts_on_the_files_that_were_added_with_it_and_on_no_others,
    folders_count_as_files_of_a_token,
];
