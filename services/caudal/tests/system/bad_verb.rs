//! A verb that cannot be decided harms nobody else.

use std::time::Duration;

use caudal_sdk::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use uuid::Uuid;

use crate::{Database, Ground, raw};

const PATIENCE: Duration = Duration::from_secs(30);
const OTHERS: usize = 40;

fn named(name: &str) -> v1::CreateBatchRequest {
    v1::CreateBatchRequest {
        batch: Some(v1::Batch {
            display_name: name.to_owned(),
            ..v1::Batch::default()
        }),
        request_id: Uuid::new_v4().to_string(),
    }
}

async fn a_panic_fails_alone(database: Database) {
    let ground = Ground::with(database, &[("CAUDAL_TEST_PANIC_ON_BATCH", "poison")]);
    let system = &ground.system;
    for _ in 0..3 {
        let others = (0..OTHERS).map(|number| {
            let mut batches = raw::batches(system);
            async move {
                batches
                    .create_batch(named(&format!("batch {number}")))
                    .await
            }
        });
        let mut batches = raw::batches(system);
        let (poisonous, others) = tokio::join!(
            batches.create_batch(named("poison")),
            futures::future::join_all(others)
        );
        assert_eq!(poisonous.unwrap_err().code(), Code::Internal);
        for other in others {
            other.unwrap();
        }
    }
    let mut health = raw::health(system);
    let status = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(status.into_inner().status(), ServingStatus::Serving);
    let logged = system.logged();
    assert!(logged.contains("planted by a test") && logged.contains("CreateBatch"));
    assert!(!logged.contains("the writer ended"), "{logged}");
    let batch = crate::recovery::begin(&ground);
    crate::recovery::end(&ground, &batch);
    ground.system.verify().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_panics_is_answered_internal_and_the_others_as_ever() {
    a_panic_fails_alone(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_panics_is_answered_internal_and_the_others_as_ever_on_postgres() {
    a_panic_fails_alone(Database::Postgres).await;
}

// Protocol 9: a ledger without a writer leads nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_ends_is_a_loss_of_leadership_and_the_process_takes_over_again() {
    let mut ground = Ground::with(
        Database::Sqlite,
        &[("CAUDAL_TEST_END_WRITER_ON_BATCH", "deadly")],
    );
    let system = &ground.system;
    let mut health = raw::health(system);
    let watching = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watching = watching.into_inner();
    // The same may be said twice.
    let mut until_status = async |status: ServingStatus| {
        let told = async { while watching.message().await.unwrap().unwrap().status() != status {} };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.unwrap_or_else(|_| panic!("the health never was {status:?}"));
    };
    until_status(ServingStatus::Serving).await;
    let mut batches = raw::batches(system);
    for _ in 1..5 {
        let refused = batches.create_batch(named("deadly")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        until_status(ServingStatus::NotServing).await;
        until_status(ServingStatus::Serving).await;
        batches.create_batch(named("harmless")).await.unwrap();
    }
    // It does not go on for ever: whoever started the process is told.
    let refused = batches.create_batch(named("deadly")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let status = ground.system.ended().unwrap();
    assert_eq!(status.code(), Some(1), "{}", ground.system.logged());
    ground.system.restart().unwrap();
    let batch = crate::recovery::begin(&ground);
    crate::recovery::end(&ground, &batch);
    ground.system.verify().unwrap();
}
