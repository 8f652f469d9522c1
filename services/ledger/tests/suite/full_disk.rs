//! Postgres without room for its log of changes: it stops itself, and everybody waits until it is started again.

use std::collections::BTreeSet;
use std::time::Duration;

use caudal_harness::{Database, PostgresOnDisk, SmallDisk, until};
use caudal_proto::v1::{Batch, CreateBatchRequest, ListBatchesRequest};
use tonic::Code;
use uuid::Uuid;

use super::support::TestLedger;

/// Room for some pieces of the log.
const DISK_BYTES: u64 = 32 << 20;
/// How often the disk is filled.
const ROUNDS: usize = 2;
/// Batches made after which a full disk must have shown.
const MOST: usize = 2_000;

// Protocol 12.4, on Postgres: whatever was answered is committed.
async fn postgres_without_room_for_its_log_loses_nothing_that_was_answered(database: Database) {
    let Some(disk) = SmallDisk::new(DISK_BYTES).unwrap() else {
        return;
    };
    let mut server = PostgresOnDisk::start(disk).unwrap();
    let url = server.url();
    let ledger = TestLedger::start_with(database, |settings| settings.database_url = url).await;
    let mut answered = BTreeSet::new();
    for _ in 0..ROUNDS {
        answered.insert(make(&ledger).await.unwrap());
        server.disk().fill().unwrap();
        // It may start itself again once or twice, with what little room it finds then.
        let mut refused = 0;
        for _ in 0..MOST {
            match make(&ledger).await {
                Ok(name) => {
                    answered.insert(name);
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    refused += 1;
                }
            }
            if refused > 0 && !server.runs().unwrap() {
                break;
            }
        }
        assert!(!server.runs().unwrap(), "it found room for {MOST} batches");
        server.disk().free().unwrap();
        server.restart().unwrap();
        // It goes on by itself.
        let made = until("a batch to be made", Duration::from_secs(60), async || {
            make(&ledger).await.ok()
        });
        answered.insert(made.await.unwrap());
    }
    assert!(answered.is_subset(&listed(&ledger).await));
}

async fn make(ledger: &TestLedger) -> Result<String, tonic::Status> {
    // Postgres would compress what is alike.
    let padding: String = (0..256).map(|_| Uuid::new_v4().to_string()).collect();
    let text = prost_types::value::Kind::StringValue(padding);
    let padding = prost_types::Value { kind: Some(text) };
    let request = CreateBatchRequest {
        batch: Some(Batch {
            metadata: Some(prost_types::Struct {
                fields: [("padding".to_owned(), padding)].into(),
            }),
            ..Batch::default()
        }),
        request_id: Uuid::new_v4().to_string(),
    };
    let made = ledger.batches().create_batch(request).await?;
    Ok(made.into_inner().name)
}

async fn listed(ledger: &TestLedger) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListBatchesRequest {
            page_size: 100,
            page_token,
            ..ListBatchesRequest::default()
        };
        let page = ledger.batches().list_batches(request).await.unwrap();
        let page = page.into_inner();
        names.extend(page.batches.into_iter().map(|batch| batch.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

mod postgres {
    use super::Database;

    #[tokio::test(flavor = "multi_thread")]
    async fn postgres_without_room_for_its_log_loses_nothing_that_was_answered() {
        super::postgres_without_room_for_its_log_loses_nothing_that_was_answered(
            Database::Postgres,
        )
        .await;
    }
}
