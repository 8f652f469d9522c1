//! What a server serves, what it bears, and how it ends.

use std::time::{Duration, Instant};

use caudal_harness::PATIENCE;
use caudal_node::{Channels, ServerLimits, TraceContext, with_deadline};
use caudal_proto::mesh::v1::stage_service_client::StageServiceClient;
use caudal_proto::mesh::v1::{
    AcquireRequest, GetStageRequest, GetStatusRequest, PauseRequest, ResumeRequest,
    SetConcurrencyRequest,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fakes::Running;

async fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: caudal\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn open_stream<T: Send + 'static>(
    first: T,
) -> (
    tokio::sync::mpsc::Sender<T>,
    tokio_stream::wrappers::ReceiverStream<T>,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.try_send(first).ok();
    (
        sender,
        tokio_stream::wrappers::ReceiverStream::new(receiver),
    )
}

fn list_services() -> tonic_reflection::pb::v1::ServerReflectionRequest {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    }
}

#[tokio::test]
async fn reflection_lists_exactly_what_is_served_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let running = Running::start(ServerLimits::default()).await;
    let channel = Channels::default().channel(&running.address).unwrap();
    let expected = [
        "caudal.mesh.v1.LimiterService",
        "caudal.mesh.v1.StageService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];

    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let ask_file = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1::server_reflection_request::MessageRequest::FileByFilename(
                "google/protobuf/duration.proto".to_owned(),
            ),
        ),
    };
    let requests = tokio_stream::iter([list_services(), ask_file]);
    let mut answers = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}");
    };
    let mut names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    assert_eq!(names, expected);
    let file = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    assert!(
        matches!(
            &file,
            v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
        ),
        "imports can be fetched: {file:?}"
    );

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(list.service.len(), expected.len());
}

#[tokio::test]
async fn one_port_serves_grpc_metrics_and_pages() {
    let running = Running::start(ServerLimits::default()).await;
    running
        .limiter()
        .get_status(GetStatusRequest {})
        .await
        .unwrap();
    assert!(
        http_get(&running.address, "/hello")
            .await
            .ends_with("hello")
    );
    assert!(
        http_get(&running.address, "/nowhere")
            .await
            .ends_with("no such page")
    );
    let page = http_get(&running.address, "/metrics").await;
    let counted = "caudal_rpc_calls_total{service=\"fake\",method=\"caudal.mesh.v1.LimiterService/GetStatus\",code=\"Ok\"} 1";
    assert!(page.contains(counted), "{page}");
    assert!(page.contains("openmetrics-text"), "{page}");

    // A path that nobody serves is answered in the caller's own protocol.
    let channel = Channels::default().channel(&running.address).unwrap();
    let mut unknown = caudal_proto::v1::batch_service_client::BatchServiceClient::new(channel);
    let status = unknown
        .get_batch(caudal_proto::v1::GetBatchRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(
        status.message().contains("caudal.v1.BatchService/GetBatch"),
        "{status}"
    );
}

#[tokio::test]
async fn an_oversized_message_is_refused_with_its_size_and_the_limit() {
    let running = Running::start(ServerLimits::default()).await;
    let mut limiter = running.limiter();
    let request = AcquireRequest {
        key: "x".repeat(5 * 1024 * 1024),
        ..AcquireRequest::default()
    };
    let status = limiter.acquire(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{status}"
    );
    assert!(status.message().contains("4194304"), "{status}");
    limiter.get_status(GetStatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn oversized_headers_are_refused_and_the_server_lives() {
    let running = Running::start(ServerLimits::default()).await;
    let mut limiter = running.limiter();
    let mut request = Request::new(GetStatusRequest {});
    request
        .metadata_mut()
        .insert("x-much", "y".repeat(20 * 1024).parse().unwrap());
    limiter.get_status(request).await.unwrap_err();
    limiter.get_status(GetStatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_connection_has_no_more_streams_than_allowed() {
    let limits = ServerLimits {
        streams_per_connection: 2,
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    let channel = Channels::default().channel(&running.address).unwrap();
    let client = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
        channel.clone(),
    );
    let mut open = Vec::new();
    for _ in 0..2 {
        let (sender, requests) = open_stream(list_services());
        let mut answers = client
            .clone()
            .server_reflection_info(requests)
            .await
            .unwrap()
            .into_inner();
        answers.message().await.unwrap().unwrap();
        open.push((sender, answers));
    }
    let mut health = HealthClient::new(channel);
    let third = health.check(HealthCheckRequest::default());
    assert!(
        tokio::time::timeout(Duration::from_millis(300), third)
            .await
            .is_err(),
        "a third stream was opened"
    );
    open.clear();
    let third = health.check(HealthCheckRequest::default());
    tokio::time::timeout(PATIENCE, third)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_panic_in_a_handler_is_internal_and_the_server_lives() {
    let running = Running::start(ServerLimits::default()).await;
    let mut stage = running.stage();
    let status = stage.pause(PauseRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(
        caudal_proto::status::from_status(&status).reason,
        "INTERNAL"
    );
    assert!(!status.message().contains("always panics"), "{status}");
    stage.get_stage(GetStageRequest {}).await.unwrap();
    assert!(
        http_get(&running.address, "/metrics")
            .await
            .contains("caudal_rpc_panics_total{service=\"fake\"} 1")
    );
}

#[tokio::test]
async fn a_call_ends_at_the_servers_limit_and_at_the_callers_deadline() {
    let limits = ServerLimits {
        call_timeout: Duration::from_millis(150),
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    let status = running.stage().resume(ResumeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "no answer within 150 ms");

    let running = Running::start(ServerLimits::default()).await;
    let began = Instant::now();
    let status = running
        .stage()
        .resume(with_deadline(ResumeRequest {}, Duration::from_millis(100)))
        .await
        .unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn only_services_of_the_mesh_get_past_the_guard() {
    let running = Running::start(ServerLimits::default()).await;
    let answer = running
        .stage()
        .get_stage(GetStageRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.process, "service:operator");
    let channel = Channels::default().channel(&running.address).unwrap();
    let status = StageServiceClient::new(channel)
        .get_stage(GetStageRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(
        caudal_proto::status::from_status(&status).reason,
        "SCOPE_NOT_VALID"
    );
}

#[tokio::test]
async fn the_trace_of_a_caller_goes_with_the_call() {
    let running = Running::start(ServerLimits::default()).await;
    let trace =
        TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
    let mut stage = running.stage();
    let call = stage.get_stage(GetStageRequest {});
    let seen = trace
        .run(tracing::Span::none, call)
        .await
        .unwrap()
        .into_inner()
        .version;
    assert_eq!(seen, trace.header());
}

#[tokio::test]
async fn health_tells_each_service_and_follows_the_switch() {
    let running = Running::start(ServerLimits::default()).await;
    let channel = Channels::default().channel(&running.address).unwrap();
    let mut health = HealthClient::new(channel);
    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in [
        "",
        "caudal.mesh.v1.StageService",
        "caudal.mesh.v1.LimiterService",
    ] {
        let answer = health.check(check(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let status = health
        .check(check("caudal.v1.BatchService"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    running.health.set_serving(false).await;
    let answer = health
        .check(check("caudal.mesh.v1.StageService"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_drain_finishes_calls_in_flight_and_tells_who_watches_the_health() {
    let mut running = Running::start(ServerLimits::default()).await;
    let channel = Channels::default().channel(&running.address).unwrap();
    let mut watched = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watched.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut stage = running.stage();
    stage.get_stage(GetStageRequest {}).await.unwrap();
    // Silent, and an idle one that spoke before: neither may hold the drain up.
    let _silent = TcpStream::connect(&running.address).await.unwrap();
    let slow = stage.set_concurrency(SetConcurrencyRequest { slots: 300 });
    let (slow, ()) = tokio::join!(slow, async {
        running.slow_call().await;
        running.shutdown.cancel();
    });
    assert_eq!(slow.unwrap().into_inner().slots, 300);
    assert_eq!(
        watched.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(!matches!(watched.message().await, Ok(Some(_))));
    // Well below the drain deadline of 25 s.
    tokio::time::timeout(Duration::from_secs(10), &mut running.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(&running.address).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_with_a_stream_and_a_call_still_open() {
    let limits = ServerLimits {
        drain_deadline: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    let mut running = Running::start(limits).await;
    let channel = Channels::default().channel(&running.address).unwrap();
    let mut client =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let (_sender, requests) = open_stream(list_services());
    let mut answers = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap();
    let mut stage = running.stage();
    let stuck = tokio::spawn(async move { stage.resume(ResumeRequest {}).await });
    running.slow_call().await;
    let began = Instant::now();
    running.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), &mut running.task)
        .await
        .unwrap()
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(answers.message().await.is_err());
    assert!(stuck.await.unwrap().is_err());
}

/// How HTTP/2 begins, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect_and_send(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Waits until the server ends the connection.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, end)
        .await
        .expect("the connection is still open");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_ends_however_far_it_got() {
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    for begun in [&b""[..], b"P", &PREFACE[..16], &PREFACE[..24], PREFACE] {
        let mut stream = connect_and_send(&running.address, begun).await;
        ended(&mut stream).await;
    }
    let page = http_get(&running.address, "/metrics").await;
    let counted = "caudal_connections_ended_total{service=\"fake\",why=\"silent\"} 5";
    assert!(page.contains(counted), "{page}");
}

#[tokio::test]
async fn a_connection_ends_on_which_nobody_shows_a_credential() {
    let limits = ServerLimits {
        header_timeout: Duration::from_secs(3600),
        credential_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    let request = b"GET /hello HTTP/1.1\r\nhost: caudal\r\n\r\n";
    let mut stream = connect_and_send(&running.address, request).await;
    ended(&mut stream).await;
    let page = http_get(&running.address, "/metrics").await;
    assert!(page.contains("why=\"no-credential\"} 1"), "{page}");
}

#[tokio::test]
async fn a_connection_with_a_credential_keeps_its_place_when_others_need_one() {
    let limits = ServerLimits {
        connections: 2,
        header_timeout: Duration::from_secs(3600),
        credential_timeout: Duration::from_secs(3600),
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    let mut known = running.stage();
    known.get_stage(GetStageRequest {}).await.unwrap();
    let mut silent = connect_and_send(&running.address, PREFACE).await;
    let mut other = running.stage();
    other.get_stage(GetStageRequest {}).await.unwrap();
    ended(&mut silent).await;
    known.get_stage(GetStageRequest {}).await.unwrap();
    drop(other);
    let page = http_get(&running.address, "/metrics").await;
    assert!(page.contains("why=\"made-room\"} 1"), "{page}");
}

/// As many as it has places for, and some: nobody waits until they are late.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_that_say_nothing_keep_nobody_out() {
    const SPARE: u64 = 1_000;
    let open = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: open.maximum,
            maximum: open.maximum,
        },
    )
    .unwrap();
    let most = ServerLimits::default().connections as u64;
    // Both ends of each are in this process.
    let connections = open.maximum.map_or(most, |all| most.min(all / 2 - SPARE));
    let limits = ServerLimits {
        connections: usize::try_from(connections).unwrap(),
        header_timeout: Duration::from_secs(3600),
        credential_timeout: Duration::from_secs(3600),
        ..ServerLimits::default()
    };
    let running = Running::start(limits).await;
    let mut silent = Vec::new();
    for _ in 0..connections + 100 {
        silent.push(connect_and_send(&running.address, &PREFACE[..16]).await);
    }
    let asked = Instant::now();
    let mut new = running.limiter();
    new.get_status(GetStatusRequest {}).await.unwrap();
    // It takes milliseconds; the rest is for a machine that has other things to do.
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    println!(
        "{} silent connections: answered in {:?}",
        silent.len(),
        asked.elapsed()
    );
}

#[tokio::test]
async fn metrics_may_have_an_address_of_their_own_where_nothing_else_is() {
    let port = caudal_harness::Port::reserve().unwrap();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port.number()));
    let running = Running::start_where(|parts| parts.metrics_listen = Some(at)).await;
    running.stage().get_stage(GetStageRequest {}).await.unwrap();
    let page = http_get(&at.to_string(), "/metrics").await;
    assert!(page.contains("caudal_rpc_calls_total"), "{page}");
    let nothing = http_get(&at.to_string(), "/hello").await;
    assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
    let beside = http_get(&running.address, "/metrics").await;
    assert!(!beside.contains("caudal_rpc_calls_total"), "{beside}");
}
