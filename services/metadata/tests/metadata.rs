//! The metadata stage needs nothing but a job.
#![expect(clippy::unwrap_used, reason = "tests")]

use caudal_domain::{
    BatchId, FileRef, Generation, Outcome, Reason, Stage, StageSet, TenantId, Token, Warning,
    WarningCode,
};
use caudal_metadata::Metadata;
use caudal_objects::{ObjectStore, Settings};
use caudal_stage::{ArtifactWriter, Handler, Input, InputArtifact, Job, Usage};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn job(media_type: &str, inputs: Vec<Input>) -> Job {
    let file = FileRef {
        tenant: TenantId::from_uuid(Uuid::from_u128(1)),
        batch: BatchId::from_uuid(Uuid::from_u128(2)),
        ordinal: 3,
    };
    let objects = ObjectStore::connect(Settings::new(
        "http://127.0.0.1:9",
        "bucket",
        "key",
        "secret",
    ))
    .unwrap();
    let artifacts = ArtifactWriter::new(
        objects.clone(),
        Stage::Metadata,
        file,
        Generation(1),
        Token(9),
        "00000000",
    );
    Job {
        dimensions: None,
        file,
        token: Token(9),
        generation: Generation(1),
        path: "in/report.pdf".to_owned(),
        media_type: Some(media_type.to_owned()),
        source_key: None,
        final_key: None,
        etag: None,
        declared_size: 7,
        declared_sha256: None,
        content_sha256: Some([0xab; 32]),
        inputs,
        entry_metadata: json!({ "author": "Ana" }),
        stages: StageSet::all(),
        suspect: false,
        idempotency_key: String::new(),
        objects,
        artifacts,
        cancelled: CancellationToken::new(),
    }
}

fn input(stage: Stage, facts: serde_json::Value, warnings: Vec<Warning>) -> Input {
    Input {
        stage,
        facts,
        artifacts: vec![InputArtifact {
            name: "text".to_owned(),
            key: "secret/key".to_owned(),
            size: 5,
            media_type: "text/plain".to_owned(),
        }],
        warnings,
        version: "1".to_owned(),
        skipped: false,
        usage: Usage {
            pages: 2,
            ..Usage::default()
        },
    }
}

#[tokio::test]
async fn what_was_done_whole_is_complete_and_no_fact_is_repeated() {
    let inputs = vec![
        input(Stage::Upload, json!({ "etag": "e" }), Vec::new()),
        input(Stage::ExtractText, json!({ "words": 12 }), Vec::new()),
    ];
    let done = Metadata
        .handle(job("application/pdf", inputs))
        .await
        .unwrap();
    assert_eq!(done.outcome, Some(Outcome::Complete));
    assert_eq!(done.facts, json!({ "outcome": "COMPLETE" }));
    assert!(done.artifacts.is_empty());
}

#[tokio::test]
async fn what_was_not_done_makes_the_outcome_partial() {
    let warning = Warning::plain(WarningCode::NoEmbeddingProvider, Stage::Embeddings);
    let inputs = vec![
        input(Stage::Upload, json!({}), Vec::new()),
        input(Stage::Embeddings, json!({}), vec![warning]),
    ];
    let done = Metadata.handle(job("text/plain", inputs)).await.unwrap();
    assert_eq!(done.outcome, Some(Outcome::Partial));
    assert_eq!(done.facts["outcome"], "PARTIAL");
}

#[tokio::test]
async fn a_type_without_a_route_is_stored_only() {
    let inputs = vec![input(Stage::Upload, json!({}), Vec::new())];
    let done = Metadata
        .handle(job("application/zip", inputs))
        .await
        .unwrap();
    assert_eq!(done.outcome, Some(Outcome::StoredOnly));
}

#[tokio::test]
async fn a_file_that_was_never_verified_is_a_fault() {
    let failure = Metadata
        .handle(job("text/plain", Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(failure.reason, Reason::Internal);
}
