//! Traces reach a collector over OTLP: the caller's span and the server's, in one trace.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use caudal_harness::eventually;
use caudal_node::telemetry::{TelemetrySettings, init};
use caudal_node::{Server, ServerLimits, TraceContext};
use caudal_proto::mesh::v1::GetStageRequest;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::fakes::Running;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_call_is_exported_by_caller_and_server_in_one_trace_and_an_unsampled_one_not_at_all()
 {
    let exported: Arc<Mutex<Vec<u8>>> = Arc::default();
    let sink = Arc::clone(&exported);
    let collect = move |body: Bytes| async move {
        sink.lock().unwrap().extend_from_slice(&body);
        [("content-type", "application/grpc"), ("grpc-status", "0")]
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Server::builder("collector")
        .routes(Routes::from(Router::new().route(EXPORT, post(collect))))
        .listen(listener);
    let collector = tokio::spawn(collector.serve());

    let telemetry = init(&TelemetrySettings {
        service: "caudal-test".to_owned(),
        filter: concat!(
            "caudal_node::server=info,",
            env!("CARGO_CRATE_NAME"),
            "=info"
        )
        .to_owned(),
        otlp_endpoint: Some(endpoint),
        sample_ratio: 0.0,
        ..TelemetrySettings::default()
    })
    .unwrap();
    let running = Running::start(ServerLimits::default()).await;
    let mut stage = running.stage();
    let sampled = TraceContext {
        trace_id: [0xA7; 16],
        span_id: [0xB8; 8],
        sampled: true,
    };
    let unsampled = TraceContext {
        trace_id: [0xC9; 16],
        sampled: false,
        ..sampled
    };
    for trace in [unsampled, sampled] {
        let span = || tracing::info_span!("asking_the_stage");
        let answer = trace
            .run(span, stage.get_stage(GetStageRequest {}))
            .await
            .unwrap();
        let seen = TraceContext::parse(&answer.into_inner().version).unwrap();
        assert_eq!(seen.trace_id, trace.trace_id);
        assert_eq!(
            seen.span_id != trace.span_id,
            trace.sampled,
            "a sampled caller has a span of its own"
        );
    }
    drop(telemetry);
    eventually("the spans are exported", async || {
        let exported = exported.lock().unwrap();
        contains(&exported, b"asking_the_stage")
            && contains(&exported, b"caudal.mesh.v1.StageService/GetStage")
    })
    .await;
    let exported = exported.lock().unwrap();
    assert!(contains(&exported, &[0xA7; 16]));
    assert!(contains(&exported, b"caudal-test"));
    assert!(!contains(&exported, &[0xC9; 16]));
    collector.abort();
}
