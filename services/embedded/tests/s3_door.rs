//! The embedded object store through the door for its own process, and its death in the middle of writes.
#![expect(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use caudal_embedded::{DoorBody, S3Door, S3Server, S3Settings};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const BUCKET: &str = "caudal";
/// Tells the child where its store is.
const FOLDER: &str = "CAUDAL_TEST_FOLDER_OF_THE_STORE";
const WRITERS: usize = 16;
/// Sizes of all kinds: in a record, beside it, and in a file.
const SIZES: [usize; 4] = [0, 250, 20_000, 200_000];

async fn server_in(folder: &Path) -> S3Server {
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = S3Settings::new(folder, "ACCESS", "secret-of-nobody", BUCKET);
    S3Server::start(settings, listen, CancellationToken::new())
        .await
        .unwrap()
}

async fn ask(door: &S3Door, method: Method, path: &str, body: Vec<u8>) -> Response<DoorBody> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/{BUCKET}/{path}"))
        .header(http::header::CONTENT_LENGTH, body.len())
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    door.clone().oneshot(request).await.unwrap()
}

async fn body_of(answer: Response<DoorBody>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

fn content(writer: usize, number: usize) -> Vec<u8> {
    let size = SIZES[(writer + number) % SIZES.len()];
    let word = format!("{writer}/{number};").into_bytes();
    word.iter().copied().cycle().take(size).collect()
}

#[tokio::test]
async fn the_door_needs_no_signature_and_the_network_still_does() {
    let folder = tempfile::tempdir().unwrap();
    let server = server_in(folder.path()).await;
    let door = server.door();
    for size in SIZES {
        let key = format!("a/{size}");
        let bytes = vec![7; size];
        let put = ask(&door, Method::PUT, &key, bytes.clone()).await;
        assert_eq!(put.status(), StatusCode::OK);
        let etag = put.headers()[http::header::ETAG].clone();
        let got = ask(&door, Method::GET, &key, Vec::new()).await;
        assert_eq!(got.status(), StatusCode::OK);
        assert_eq!(got.headers()[http::header::ETAG], etag);
        assert_eq!(
            got.headers()[http::header::CONTENT_LENGTH],
            size.to_string()
        );
        assert_eq!(body_of(got).await, bytes);
    }
    let listed = ask(&door, Method::GET, "?list-type=2&prefix=a/", Vec::new()).await;
    let listed = String::from_utf8(body_of(listed).await.to_vec()).unwrap();
    assert!(listed.contains("<Key>a/20000</Key>"), "{listed}");
    let deleted = ask(&door, Method::DELETE, "a/250", Vec::new()).await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = ask(&door, Method::GET, "a/250", Vec::new()).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = server.endpoint().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = b"GET /caudal/a/20000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403"));
}

#[tokio::test]
async fn a_server_that_has_stopped_has_closed_its_folder_though_a_door_is_still_held() {
    let folder = tempfile::tempdir().unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = CancellationToken::new();
    let settings = S3Settings::new(folder.path(), "ACCESS", "secret-of-nobody", BUCKET);
    let server = S3Server::start(settings, listen, shutdown.clone())
        .await
        .unwrap();
    let door = server.door();
    let put = ask(&door, Method::PUT, "key", b"bytes".to_vec()).await;
    assert_eq!(put.status(), StatusCode::OK);
    shutdown.cancel();
    server.stopped().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let refused = ask(&door, method, "key", Vec::new()).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let again = server_in(folder.path()).await;
    let got = ask(&again.door(), Method::GET, "key", Vec::new()).await;
    assert_eq!(body_of(got).await, b"bytes"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_a_kill_in_the_middle_of_many_writes() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered: Vec<(usize, usize)> = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok).filter_map(|line| {
            let (writer, number) = line.strip_prefix("answered ")?.split_once(' ')?;
            Some((writer.parse().ok()?, number.parse().ok()?))
        });
        let wanted = 150 * (round + 1);
        for one in told {
            answered.push(one);
            if answered.len() == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answered.len() >= wanted, "the child ended by itself");
    }
    let server = server_in(folder.path()).await;
    let door = server.door();
    for (writer, number) in answered {
        let got = ask(
            &door,
            Method::GET,
            &format!("w/{writer}/{number}"),
            Vec::new(),
        )
        .await;
        assert_eq!(got.status(), StatusCode::OK, "{writer}/{number}");
        assert!(
            body_of(got).await == content(writer, number),
            "{writer}/{number}"
        );
    }
}

/// The child of the test above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs until it is killed"]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let server = server_in(Path::new(&folder)).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let door = server.door();
        writers.spawn(async move {
            for number in 0.. {
                let key = format!("w/{writer}/{number}");
                let put = ask(&door, Method::PUT, &key, content(writer, number)).await;
                assert_eq!(put.status(), StatusCode::OK);
                println!("answered {writer} {number}");
            }
        });
    }
    while writers.join_next().await.is_some() {}
}
