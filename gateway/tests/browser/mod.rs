//! What a browser meets: gRPC-web by hand over HTTP/1.1, preflights and the page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caudal_proto::v1;
use caudal_proto::v1::watch_batch_response::Message;
use prost::Message as _;
use reqwest::{Client, Method, Response, StatusCode};
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1 as reflection;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::batch_name;
use crate::fake::World;

const TRAILERS: u8 = 0x80;

pub(crate) fn http() -> Client {
    Client::builder().no_proxy().http1_only().build().unwrap()
}

async fn call(world: &World, method: &str, message: &impl prost::Message) -> Response {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    http()
        .post(format!("{}/caudal.v1.{method}", world.gateway))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("origin", "https://elsewhere.example")
        .header("authorization", world.bearer())
        .body(body)
        .send()
        .await
        .unwrap()
}

/// Reads frames off a body as it comes.
struct Frames {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = Vec<u8>> + Send>>,
    read: Vec<u8>,
}

impl Frames {
    fn of(response: Response) -> Self {
        let body = response.bytes_stream().map(|bytes| bytes.unwrap().to_vec());
        Self {
            body: Box::pin(body),
            read: Vec::new(),
        }
    }

    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if self.read.len() >= 5 {
                let length = u32::from_be_bytes(self.read[1..5].try_into().unwrap()) as usize;
                if self.read.len() >= 5 + length {
                    let rest = self.read.split_off(5 + length);
                    let frame = std::mem::replace(&mut self.read, rest);
                    return Some((frame[0], frame[5..].to_vec()));
                }
            }
            self.read.extend(self.body.next().await?);
        }
    }

    async fn message<M: prost::Message + Default>(&mut self) -> M {
        let (flag, message) = self.next().await.unwrap();
        assert_eq!(flag, 0);
        M::decode(&message[..]).unwrap()
    }

    async fn trailers(&mut self) -> String {
        let (flag, trailers) = self.next().await.unwrap();
        assert_eq!(flag, TRAILERS);
        assert!(self.next().await.is_none(), "trailers come last");
        String::from_utf8(trailers).unwrap()
    }
}

#[tokio::test]
async fn a_browser_calls_by_grpc_web_over_http_1_1() {
    let world = World::start().await;
    let ask = v1::GetBatchRequest { name: batch_name() };
    let answer = call(&world, "BatchService/GetBatch", &ask).await;
    assert_eq!(
        (answer.status(), answer.version()),
        (StatusCode::OK, reqwest::Version::HTTP_11)
    );
    let headers = answer.headers();
    assert_eq!(headers["content-type"], "application/grpc-web+proto");
    assert_eq!(headers["access-control-allow-origin"], "*");
    let exposed = headers["access-control-expose-headers"].to_str().unwrap();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    assert!(!headers.contains_key("access-control-allow-credentials"));
    let mut frames = Frames::of(answer);
    assert_eq!(frames.message::<v1::Batch>().await.name, batch_name());
    assert!(frames.trailers().await.contains("grpc-status:0"));
    world.stop().await;
}

#[tokio::test]
async fn a_browser_reads_the_details_of_a_refusal() {
    let world = World::start().await;
    let ask = v1::AddEntriesRequest {
        batch: batch_name(),
        ..Default::default()
    };
    let refused = call(&world, "BatchService/AddEntries", &ask).await;
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    assert_eq!(refused.headers()["grpc-status"], "3");
    let details = refused.headers()["grpc-status-details-bin"].as_bytes();
    let no_padding = STANDARD
        .decode(details)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(details));
    let status = tonic_types::Status::decode(&no_padding.unwrap()[..]).unwrap();
    assert_eq!(
        caudal_proto::status::from_parts(&status).violations[0].field,
        "entries"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_browser_watches_by_grpc_web_and_is_told_of_the_drain() {
    let world = World::start().await;
    let ask = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision: 0,
    };
    let mut frames = Frames::of(call(&world, "BatchService/WatchBatch", &ask).await);
    loop {
        let Some(Message::Snapshot(part)) =
            frames.message::<v1::WatchBatchResponse>().await.message
        else {
            panic!()
        };
        if part.last {
            break;
        }
    }
    world.ledger.commit(2, 7, v1::FileState::Queued);
    let Some(Message::Changes(changes)) = frames.message::<v1::WatchBatchResponse>().await.message
    else {
        panic!()
    };
    assert_eq!(changes.files.unwrap().first_ordinal, 7);
    world.shutdown.cancel();
    let Some(Message::Closing(closing)) = frames.message::<v1::WatchBatchResponse>().await.message
    else {
        panic!()
    };
    assert_eq!(closing.reason(), v1::ClosingReason::Draining);
    assert!(frames.trailers().await.contains("grpc-status:0"));
    world.stop().await;
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_key() {
    let world = World::start().await;
    let asked = "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout,accept-language";
    let answer = http()
        .request(
            Method::OPTIONS,
            format!("{}/caudal.v1.BatchService/GetBatch", world.gateway),
        )
        .header("origin", "https://elsewhere.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", asked)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "*");
    assert_eq!(header("access-control-allow-methods"), "POST");
    assert_eq!(header("access-control-max-age"), "7200");
    let allowed = header("access-control-allow-headers");
    for name in asked.split(',') {
        assert!(allowed.contains(name), "{allowed}");
    }
    world.stop().await;
}

#[tokio::test]
async fn scripts_and_styles_come_compressed_to_whoever_takes_them_so() {
    let world = World::start().await;
    let assets = world.web_dir.join("assets");
    std::fs::create_dir_all(&assets).unwrap();
    for (end, bytes) in [("", "export {}"), (".gz", "as gzip"), (".br", "as brotli")] {
        std::fs::write(assets.join(format!("index-d0g.js{end}")), bytes).unwrap();
    }
    for (accepted, encoding, bytes) in [
        (Some("gzip, deflate, br"), Some("br"), "as brotli"),
        (Some("gzip"), Some("gzip"), "as gzip"),
        (None, None, "export {}"),
    ] {
        let mut asked = http().get(format!("{}/assets/index-d0g.js", world.gateway));
        if let Some(accepted) = accepted {
            asked = asked.header("accept-encoding", accepted);
        }
        let answer = asked.send().await.unwrap();
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        assert_eq!(header("content-encoding"), encoding);
        assert_eq!(header("vary"), Some("accept-encoding"));
        assert!(header("content-type").unwrap().contains("javascript"));
        assert!(header("cache-control").unwrap().contains("immutable"));
        assert_eq!(answer.text().await.unwrap(), bytes);
    }
    world.stop().await;
}

#[tokio::test]
async fn only_named_origins_are_let_in_where_they_are_named() {
    let world = World::tuned(|settings| {
        settings.allowed_origins = "https://intake.example".parse().unwrap();
    })
    .await;
    for (origin, is_allowed) in [
        ("https://intake.example", true),
        ("https://elsewhere.example", false),
    ] {
        let answer = http()
            .request(
                Method::OPTIONS,
                format!("{}/caudal.v1.BatchService/GetBatch", world.gateway),
            )
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .send()
            .await
            .unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        assert_eq!(allowed.is_some_and(|one| one == origin), is_allowed);
    }
    world.stop().await;
}

#[tokio::test]
async fn reflection_needs_no_key_and_lists_what_is_served() {
    let world = World::start().await;
    let client = ServerReflectionClient::new(world.channel());
    let asked = async |what: MessageRequest| {
        let ask = reflection::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(what),
        };
        let mut client = client.clone();
        let answers = client.server_reflection_info(tokio_stream::once(ask)).await;
        let answer = answers.unwrap().into_inner().message().await;
        answer.unwrap().unwrap().message_response.unwrap()
    };
    let answer = asked(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = answer else {
        panic!("{answer:?}")
    };
    // What errors carry is described too.
    for detail in ["QuotaFailure", "RetryInfo", "BadRequest", "ErrorInfo"] {
        let symbol = format!("google.rpc.{detail}");
        let answer = asked(MessageRequest::FileContainingSymbol(symbol)).await;
        let found = matches!(answer, MessageResponse::FileDescriptorResponse(_));
        assert!(found, "{answer:?}");
    }
    let mut listed: Vec<_> = listed.service.into_iter().map(|one| one.name).collect();
    listed.sort();
    assert_eq!(
        listed,
        [
            "caudal.v1.BatchService",
            "caudal.v1.EventService",
            "caudal.v1.FileService",
            "caudal.v1.OperatorService",
            "caudal.v1.TenantService",
            "caudal.v1.UploadService",
            "google.longrunning.Operations",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    world.stop().await;
}

#[tokio::test]
async fn the_page_is_served_with_its_types_and_lifetimes() {
    let world = World::start().await;
    let get = |path: &str| http().get(format!("{}{path}", world.gateway)).send();

    let unbuilt = get("/").await.unwrap();
    assert_eq!(unbuilt.status(), StatusCode::OK);
    assert!(unbuilt.text().await.unwrap().contains("make page"));

    let assets = world.web_dir.join("assets");
    std::fs::create_dir_all(&assets).unwrap();
    std::fs::write(world.web_dir.join("index.html"), "<!doctype html>page").unwrap();
    std::fs::write(world.web_dir.join("caudal.svg"), "<svg/>").unwrap();
    std::fs::write(assets.join("index-d0g.js"), "export {}").unwrap();
    std::fs::write(assets.join("index-d0g.css"), "a{}").unwrap();
    std::fs::write(world.web_dir.with_file_name("secret"), "secret").unwrap();

    for (path, kind, kept) in [
        ("/", "text/html", "no-cache"),
        ("/index.html", "text/html", "no-cache"),
        ("/caudal.svg", "image/svg+xml", "no-cache"),
        (
            "/assets/index-d0g.js",
            "text/javascript",
            "max-age=31536000",
        ),
        ("/assets/index-d0g.css", "text/css", "max-age=31536000"),
    ] {
        let answer = get(path).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind, "{path}");
        assert!(header("cache-control").contains(kept), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(policy.contains("script-src 'self';"), "{policy}");
        let store = format!("connect-src 'self' {};", world.store_endpoint());
        assert!(policy.contains(&store), "{policy}");
    }

    let head = http().head(format!("{}/", world.gateway)).send();
    let head = head.await.unwrap();
    assert_eq!(
        (head.status(), head.headers()["content-length"].as_bytes()),
        (StatusCode::OK, &b"19"[..])
    );
    assert_eq!(head.bytes().await.unwrap(), "");

    let status = async |path: &str| get(path).await.unwrap().status();
    for missing in [
        "/assets/gone.js",
        "/favicon.ico",
        "/assets",
        "/%2e%2e/secret",
        "/nothing",
    ] {
        assert_eq!(status(missing).await, StatusCode::NOT_FOUND, "{missing}");
    }
    let reloaded = http()
        .get(format!("{}/batches/1", world.gateway))
        .header("accept", "text/html,*/*")
        .send()
        .await
        .unwrap();
    assert_eq!(reloaded.text().await.unwrap(), "<!doctype html>page");
    assert_eq!(status("/metrics").await, StatusCode::UNAUTHORIZED);
    let post = http().post(format!("{}/", world.gateway)).send();
    assert_eq!(post.await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    world.stop().await;
}

/// What a URL says is taken apart by the client above; this one sends it as it is.
#[tokio::test]
async fn no_path_leads_out_of_the_folder_of_the_page() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::start().await;
    std::fs::create_dir_all(&world.web_dir).unwrap();
    std::fs::write(world.web_dir.with_file_name("secret"), "secret").unwrap();
    for path in [
        "/../secret",
        "/assets/../../secret",
        "//etc/passwd",
        "/..%2fsecret",
        "/..\\secret",
    ] {
        let address = world.gateway.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    world.stop().await;
}
