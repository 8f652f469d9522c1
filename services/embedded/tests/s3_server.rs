//! The embedded S3 server through the client that Caudal uses against every S3.
#![expect(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, ConfigBag, Intercept, Region, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use caudal_embedded::{Durability, MAX_KEY_BYTES, S3Server, S3Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "caudal";
const ACCESS: &str = "CAUDALTEST";
const SECRET: &str = "secret-of-the-test";
const MIN_PART: usize = 5 * 1024 * 1024;

struct Running {
    server: S3Server,
    shutdown: CancellationToken,
    folder: tempfile::TempDir,
    s3: Client,
}

impl Running {
    async fn start() -> Running {
        Running::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Running {
        Running::start_as(folder, false).await
    }

    async fn strict() -> Running {
        Running::start_as(tempfile::tempdir().unwrap(), true).await
    }

    async fn start_as(folder: tempfile::TempDir, is_strict: bool) -> Running {
        let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let mut settings = S3Settings::new(folder.path(), ACCESS, SECRET, BUCKET);
        settings.durability = Durability::ProcessCrash;
        settings.is_strict = is_strict;
        let server = S3Server::start(settings, listen, shutdown.clone())
            .await
            .unwrap();
        let s3 = client(&server.endpoint(), ACCESS, SECRET);
        Running {
            server,
            shutdown,
            folder,
            s3,
        }
    }

    async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        let put = self.s3.put_object().bucket(BUCKET).key(key);
        let put = put
            .body(ByteStream::from(bytes.into()))
            .send()
            .await
            .unwrap();
        put.e_tag.unwrap()
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let got = self
            .s3
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    async fn presigned_put(&self, key: &str, length: i64) -> String {
        presigned_put(&self.s3, key, length).await
    }

    /// Of an upload's only part.
    async fn presigned_part(&self, s3: &Client, key: &str, upload: &str, length: i64) -> String {
        let part = s3.upload_part().bucket(BUCKET).key(key).upload_id(upload);
        let part = part.part_number(1).content_length(length);
        part.presigned(a_minute()).await.unwrap().uri().to_owned()
    }

    /// A client of the right keys that adds a header to each request, before it is signed or after.
    fn adding(&self, header: (&'static str, &'static str), signed: bool) -> Client {
        let (name, value) = header;
        let adds = AddsHeader {
            name,
            value,
            signed,
        };
        let config = config(&self.server.endpoint(), ACCESS, SECRET);
        Client::from_conf(config.interceptor(adds).build())
    }

    async fn has(&self, key: &str) -> bool {
        let head = self.s3.head_object().bucket(BUCKET).key(key);
        status(head.send().await) == 200
    }

    /// Sends a request as it is written and returns the answer as it came.
    async fn raw(&self, request: &[u8]) -> String {
        let address = self
            .server
            .endpoint()
            .strip_prefix("http://")
            .unwrap()
            .to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses early may reset the connection on the rest of the body.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn put_raw(&self, url: &str, headers: &str, body: &[u8]) -> String {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let head =
            format!("PUT /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
        self.raw(&[head.as_bytes(), body].concat()).await
    }
}

#[derive(Debug)]
struct AddsHeader {
    name: &'static str,
    value: &'static str,
    signed: bool,
}

impl Intercept for AddsHeader {
    fn name(&self) -> &'static str {
        "AddsHeader"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.signed {
            context
                .request_mut()
                .headers_mut()
                .insert(self.name, self.value);
        }
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if !self.signed {
            context
                .request_mut()
                .headers_mut()
                .insert(self.name, self.value);
        }
        Ok(())
    }
}

fn a_minute() -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_secs(60)).unwrap()
}

async fn presigned_put(s3: &Client, key: &str, length: i64) -> String {
    let put = s3.put_object().bucket(BUCKET).key(key);
    let put = put.content_length(length).presigned(a_minute()).await;
    put.unwrap().uri().to_owned()
}

fn client(endpoint: &str, access: &str, secret: &str) -> Client {
    Client::from_conf(config(endpoint, access, secret).build())
}

fn config(endpoint: &str, access: &str, secret: &str) -> aws_sdk_s3::config::Builder {
    let http = aws_smithy_http_client::Builder::new().build_http();
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::from_keys(access, secret, None))
        .retry_config(RetryConfig::disabled())
        .force_path_style(true)
        .http_client(http)
}

fn status<T, E>(result: Result<T, SdkError<E>>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(error) => error.raw_response().unwrap().status().as_u16(),
    }
}

fn code<T, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> String {
    match result {
        Ok(_) => "OK".to_owned(),
        Err(error) => error
            .as_service_error()
            .unwrap()
            .code()
            .unwrap_or_default()
            .to_owned(),
    }
}

/// protocol 12.4: what was confirmed by its ETag is what is read.
#[tokio::test]
async fn a_get_with_if_match_reads_the_object_of_that_etag_or_nothing() {
    let running = Running::start().await;
    let first = running.put("key", "first").await;
    let get = |etag: &str| {
        running
            .s3
            .get_object()
            .bucket(BUCKET)
            .key("key")
            .if_match(etag)
            .send()
    };
    assert_eq!(get(&first).await.unwrap().e_tag.unwrap(), first);
    let second = running.put("key", "second").await;
    assert_ne!(first, second);
    assert_eq!(status(get(&first).await), 412);
    assert_eq!(status(get(&second).await), 200);
    let head = running
        .s3
        .head_object()
        .bucket(BUCKET)
        .key("key")
        .if_match(&first);
    assert_eq!(status(head.send().await), 412);
    let held = running
        .s3
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .if_none_match(&second);
    assert_eq!(status(held.send().await), 304);
}

#[tokio::test]
async fn a_copy_and_a_part_copy_take_the_source_of_that_etag_or_nothing() {
    let running = Running::start().await;
    let stale = running.put("source", "first").await;
    let current = running.put("source", "second").await;
    let copy = |etag: &str| {
        let copy = running.s3.copy_object().bucket(BUCKET).key("copy");
        copy.copy_source("caudal/source")
            .copy_source_if_match(etag)
            .send()
    };
    assert_eq!(status(copy(&stale).await), 412);
    assert_eq!(status(copy(&current).await), 200);
    // A repetition copies onto a record of the same bytes.
    assert_eq!(status(copy(&current).await), 200);
    assert_eq!(running.get("copy").await, b"second");
    running.put("source", "third").await;
    assert_eq!(running.get("copy").await, b"second");

    let upload = running
        .s3
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("parts");
    let id = upload.send().await.unwrap().upload_id.unwrap();
    let part = |etag: &str| {
        let part = running
            .s3
            .upload_part_copy()
            .bucket(BUCKET)
            .key("parts")
            .upload_id(&id);
        let part = part
            .part_number(1)
            .copy_source("caudal/source")
            .copy_source_range("bytes=1-3");
        part.copy_source_if_match(etag).send()
    };
    assert_eq!(status(part(&current).await), 412);
    let third = running
        .s3
        .head_object()
        .bucket(BUCKET)
        .key("source")
        .send()
        .await
        .unwrap();
    let copied = part(&third.e_tag.unwrap())
        .await
        .unwrap()
        .copy_part_result
        .unwrap();
    let completed = CompletedPart::builder()
        .part_number(1)
        .e_tag(copied.e_tag.unwrap())
        .build();
    let completed = CompletedMultipartUpload::builder().parts(completed).build();
    let complete = running
        .s3
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("parts");
    complete
        .upload_id(&id)
        .multipart_upload(completed)
        .send()
        .await
        .unwrap();
    assert_eq!(running.get("parts").await, b"hir");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_puts_and_copies_to_one_key_never_give_a_mixed_object() {
    const SIZE: usize = 700 * 1024;
    let running = Running::start().await;
    let mut etags = std::collections::HashMap::new();
    for letter in b'a'..b'e' {
        let source = format!("source-{letter}");
        let etag = running
            .put(&source, vec![letter; SIZE + usize::from(letter)])
            .await;
        etags.insert(etag, letter);
    }
    running
        .put("key", vec![b'a'; SIZE + usize::from(b'a')])
        .await;
    let mut tasks = JoinSet::new();
    for letter in b'a'..b'e' {
        let s3 = running.s3.clone();
        tasks.spawn(async move {
            for round in 0..8 {
                if round % 2 == 0 {
                    let body = ByteStream::from(vec![letter; SIZE + usize::from(letter)]);
                    s3.put_object()
                        .bucket(BUCKET)
                        .key("key")
                        .body(body)
                        .send()
                        .await
                        .unwrap();
                } else {
                    let copy = s3.copy_object().bucket(BUCKET).key("key");
                    copy.copy_source(format!("caudal/source-{letter}"))
                        .send()
                        .await
                        .unwrap();
                }
            }
        });
        let (s3, etags) = (running.s3.clone(), etags.clone());
        tasks.spawn(async move {
            for _ in 0..16 {
                let got = s3
                    .get_object()
                    .bucket(BUCKET)
                    .key("key")
                    .send()
                    .await
                    .unwrap();
                let letter = etags[&got.e_tag.unwrap()];
                let bytes = got.body.collect().await.unwrap().to_vec();
                assert_eq!(bytes.len(), SIZE + usize::from(letter));
                assert!(bytes.iter().all(|byte| *byte == letter));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_reader_gets_the_object_it_opened_to_its_end_though_it_is_replaced_and_deleted() {
    let running = Running::start().await;
    let old = vec![b'o'; 32 * 1024 * 1024];
    running.put("key", old.clone()).await;
    let mut got = running
        .s3
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    let mut read = got.body.next().await.unwrap().unwrap().to_vec();
    running.put("key", "new").await;
    running
        .s3
        .delete_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    while let Some(bytes) = got.body.next().await {
        read.extend_from_slice(&bytes.unwrap());
    }
    assert!(read == old);
    assert_eq!(
        status(
            running
                .s3
                .get_object()
                .bucket(BUCKET)
                .key("key")
                .send()
                .await
        ),
        404
    );
}

#[tokio::test]
async fn only_the_configured_credentials_are_accepted() {
    let running = Running::start().await;
    running.put("key", "bytes").await;
    for (access, secret) in [("OTHER", SECRET), (ACCESS, "another-secret")] {
        let stranger = client(&running.server.endpoint(), access, secret);
        assert_eq!(
            status(stranger.get_object().bucket(BUCKET).key("key").send().await),
            403
        );
        let put = stranger.put_object().bucket(BUCKET).key("key");
        assert_eq!(
            status(put.body(ByteStream::from_static(b"theirs")).send().await),
            403
        );
    }
    let answer = running
        .raw(b"GET /caudal/key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let form = "--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nkey\r\n\
         --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\ntheirs\r\n--b--\r\n";
    let head = format!(
        "POST /caudal HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: multipart/form-data; boundary=b\r\n\r\n",
        form.len()
    );
    let answer = running.raw(format!("{head}{form}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(running.get("key").await, b"bytes");
    let other = running
        .s3
        .get_object()
        .bucket("another")
        .key("key")
        .send()
        .await;
    assert_eq!(code(other), "NoSuchBucket");
}

/// protocol 12.2, 12.4: a URL that is still valid cannot bring anything but what it was signed for.
#[tokio::test]
async fn a_presigned_put_of_another_length_is_refused() {
    let running = Running::start().await;
    let url = running.presigned_put("key", 5).await;
    let shorter = running
        .put_raw(&url, "Content-Length: 4\r\n", b"four")
        .await;
    assert!(shorter.starts_with("HTTP/1.1 403"), "{shorter}");
    // The most common mistake is said, and so is how many bytes came.
    for words in ["SignatureDoesNotMatch", "exactly the size", "has 4 bytes"] {
        assert!(shorter.contains(words), "{shorter}");
    }
    let longer = running
        .put_raw(&url, "Content-Length: 6\r\n", b"sixsix")
        .await;
    assert!(longer.starts_with("HTTP/1.1 403"), "{longer}");
    let unsaid = running
        .put_raw(
            &url,
            "Transfer-Encoding: chunked\r\n",
            b"5\r\nfiver\r\n0\r\n\r\n",
        )
        .await;
    assert!(unsaid.starts_with("HTTP/1.1 403"), "{unsaid}");
    let said_twice = running
        .put_raw(
            &url,
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"6\r\nsixsix\r\n0\r\n\r\n",
        )
        .await;
    assert!(said_twice.starts_with("HTTP/1.1 4"), "{said_twice}");
    let decoded = running
        .put_raw(
            &url,
            "Content-Length: 5\r\nContent-Encoding: aws-chunked\r\n\
             X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n\
             X-Amz-Trailer: x-amz-checksum-crc32\r\nX-Amz-Decoded-Content-Length: 0\r\n",
            b"0\r\n\r\n",
        )
        .await;
    assert!(decoded.starts_with("HTTP/1.1 403"), "{decoded}");
    let elsewhere = running
        .put_raw(
            &url.replace("/key", "/kez"),
            "Content-Length: 5\r\n",
            b"fiver",
        )
        .await;
    assert!(elsewhere.starts_with("HTTP/1.1 403"), "{elsewhere}");
    assert_eq!(
        status(
            running
                .s3
                .head_object()
                .bucket(BUCKET)
                .key("key")
                .send()
                .await
        ),
        404
    );
    let right = running
        .put_raw(&url, "Content-Length: 5\r\n", b"fiver")
        .await;
    assert!(right.starts_with("HTTP/1.1 200"), "{right}");
    assert_eq!(running.get("key").await, b"fiver");
}

fn is_refused_as_unsigned(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 403")
        && answer.contains("<Code>AccessDenied</Code>")
        && answer.contains("There were headers present in the request which were not signed")
}

/// Objects of all tenants are in one bucket, and the server would copy any of them.
/// More than it has places for.
#[tokio::test]
async fn connections_that_sign_nothing_keep_nobody_out() {
    let running = Running::start().await;
    running.put("key", "bytes").await;
    let address = running.server.endpoint().replace("http://", "");
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            let head = b"GET /caudal/key HTTP/1.1\r\nHost: store\r\n";
            stream.write_all(head).await.unwrap();
        }
        silent.push(stream);
    }
    let asked = Instant::now();
    let others = client(&running.server.endpoint(), ACCESS, SECRET);
    let got = others.get_object().bucket(BUCKET).key("key").send().await;
    assert_eq!(
        got.unwrap().body.collect().await.unwrap().to_vec(),
        b"bytes"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it waited until the silent ones were late"
    );
    // The oldest made room.
    let mut none = Vec::new();
    silent[0].read_to_end(&mut none).await.ok();
    drop(silent);
}

/// Also when the first thing it does takes longer than a connection without a signature may last.
#[tokio::test]
async fn a_slow_upload_keeps_its_place_from_its_head_on() {
    let running = Running::start().await;
    let address = running.server.endpoint().replace("http://", "");
    let url = running.presigned_put("slow", 5).await;
    let path = url.split_once(&address).unwrap().1;
    let mut slow = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // It is asked for when its signature was found good.
    let mut goes_on = [0; 25];
    slow.read_exact(&mut goes_on).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // All that was connected was accepted, and the oldest of it made room.
    let mut none = Vec::new();
    silent[0].read_to_end(&mut none).await.ok();
    slow.write_all(b"bytes").await.unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(silent);
    assert_eq!(running.get("slow").await, b"bytes");
}

#[tokio::test]
async fn a_presigned_put_copies_no_object_whether_the_copy_is_signed_or_not() {
    let running = Running::start().await;
    running.put("theirs/secret", "of another tenant").await;
    let url = running.presigned_put("mine", 5).await;
    for copy in [
        "x-amz-copy-source: /caudal/theirs/secret\r\n",
        "X-AMZ-Copy-Source: caudal/theirs%2Fsecret\r\n",
        "x-amz-copy-source: caudal/theirs/secret\r\nx-amz-metadata-directive: COPY\r\n",
    ] {
        let headers = format!("Content-Length: 5\r\n{copy}");
        let answer = running.put_raw(&url, &headers, b"fiver").await;
        assert!(is_refused_as_unsigned(&answer), "{copy}: {answer}");
        assert!(!running.has("mine").await, "{copy}");
    }
    let copy = "Content-Length: 5\r\nx-amz-copy-source: caudal/theirs/secret\r\n";
    for more in [
        "&X-Amz-SignedHeaders=x-amz-copy-source",
        "&x-amz-copy-source=caudal/theirs/secret",
    ] {
        for headers in [copy, "Content-Length: 5\r\n"] {
            let answer = running
                .put_raw(&format!("{url}{more}"), headers, b"fiver")
                .await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{more}: {answer}");
            assert!(!running.has("mine").await, "{more}");
        }
    }

    let signs_a_copy = running.adding(("x-amz-copy-source", "caudal/theirs/secret"), true);
    let url = presigned_put(&signs_a_copy, "mine", 5).await;
    assert!(url.contains("x-amz-copy-source"), "{url}");
    let answer = running.put_raw(&url, copy, b"fiver").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(!running.has("mine").await);
}

#[tokio::test]
async fn a_presigned_part_copies_no_object_whether_the_copy_is_signed_or_not() {
    let running = Running::start().await;
    running.put("theirs/secret", "of another tenant").await;
    let upload = running.s3.create_multipart_upload().bucket(BUCKET);
    let id = upload.key("mine").send().await.unwrap().upload_id.unwrap();
    let signs_a_copy = running.adding(("x-amz-copy-source", "caudal/theirs/secret"), true);
    for s3 in [&running.s3, &signs_a_copy] {
        let url = running.presigned_part(s3, "mine", &id, 5).await;
        let copy = "Content-Length: 5\r\nx-amz-copy-source: caudal/theirs/secret\r\n";
        let answer = running.put_raw(&url, copy, b"fiver").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let ranged = format!("{copy}x-amz-copy-source-range: bytes=0-4\r\n");
        let answer = running.put_raw(&url, &ranged, b"fiver").await;
        assert!(is_refused_as_unsigned(&answer), "{answer}");
        let parts = running.s3.list_parts().bucket(BUCKET).key("mine");
        let parts = parts.upload_id(&id).send().await.unwrap();
        assert!(parts.parts().is_empty());
    }
    let url = running.presigned_part(&running.s3, "mine", &id, 5).await;
    let answer = running
        .put_raw(&url, "Content-Length: 5\r\n", b"fiver")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_instruction_to_the_store_that_is_not_signed_is_refused() {
    let running = Running::start().await;
    let url = running.presigned_put("key", 5).await;
    for header in [
        "x-amz-meta-mine: 1",
        "X-Amz-Meta-Mine: 1",
        "x-amz-acl: public-read",
        "x-amz-tagging: a=b",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
        "x-amz-checksum-crc32: AAAAAA==",
        "x-amz-unheard-of: 1",
    ] {
        let headers = format!("Content-Length: 5\r\n{header}\r\n");
        let answer = running.put_raw(&url, &headers, b"fiver").await;
        assert!(is_refused_as_unsigned(&answer), "{header}: {answer}");
        assert!(!running.has("key").await, "{header}");
    }
    let signs = running.adding(("x-amz-meta-mine", "1"), true);
    let url = presigned_put(&signs, "key", 5).await;
    let headers = "Content-Length: 5\r\nx-amz-meta-mine: 1\r\n";
    let answer = running.put_raw(&url, headers, b"fiver").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // The same of requests that are signed in a header, as the services' own are.
    running.put("source", "source").await;
    let copy = ("x-amz-copy-source", "caudal/source");
    for (signed, answered) in [(false, 403), (true, 200)] {
        let put = running.adding(copy, signed).put_object();
        let put = put.bucket(BUCKET).key("copy").send().await;
        assert_eq!(status(put), answered);
        assert_eq!(running.has("copy").await, signed);
    }
    assert_eq!(running.get("copy").await, b"source");
}

/// What no client takes for an MD5, and so compares with none, unless it sent one.
#[tokio::test]
async fn an_etag_is_an_md5_only_where_the_client_sent_one() {
    let running = Running::start().await;
    let put = || {
        let put = running.s3.put_object().bucket(BUCKET).key("key");
        put.body(ByteStream::from_static(b"content"))
    };
    let md5 = put().content_md5("mgNkuem7SA3SXh8ChMhVVQ==").send().await;
    let sha256 = put().checksum_algorithm(ChecksumAlgorithm::Sha256);
    let sha256 = sha256.send().await.unwrap().e_tag.unwrap();
    let first = running.put("key", "content").await;
    assert_eq!(
        md5.map_err(SdkError::into_service_error)
            .unwrap_err()
            .code(),
        Some("BadDigest")
    );
    let md5 = put().content_md5("mgNkuembtIDdJeHwKEyFVQ==").send().await;
    let md5 = md5.unwrap().e_tag.unwrap();
    assert_eq!(md5, "\"9a0364b9e99bb480dd25e1f0284c8555\"");
    for etag in [&first, &sha256] {
        assert_eq!(etag.len(), 36, "{etag}");
        assert!(etag.ends_with("-1\""), "{etag}");
    }
    // The same bytes sent again, as after an answer that was lost, have the same.
    assert_eq!(running.put("other", "content").await, first);
    assert_ne!(running.put("other", "contenT").await, first);
}

#[tokio::test]
async fn a_body_that_breaks_off_or_has_another_checksum_leaves_what_was_there() {
    let running = Running::start().await;
    let etag = running.put("key", "what was there").await;
    let url = running.presigned_put("key", 1_000_000).await;
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head = format!("PUT /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 600_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));

    for put in [
        running
            .s3
            .put_object()
            .content_md5("AAAAAAAAAAAAAAAAAAAAAA=="),
        running
            .s3
            .put_object()
            .checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let put = put
            .bucket(BUCKET)
            .key("key")
            .body(ByteStream::from_static(b"harmed"));
        assert_eq!(code(put.send().await), "BadDigest");
    }
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Sha256,
    ] {
        let put = running
            .s3
            .put_object()
            .bucket(BUCKET)
            .key("other")
            .checksum_algorithm(algorithm);
        put.body(ByteStream::from_static(b"unharmed"))
            .send()
            .await
            .unwrap();
    }
    let head = running
        .s3
        .head_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(head.e_tag.unwrap(), etag);
    assert_eq!(running.get("key").await, b"what was there");
}

#[tokio::test]
async fn a_conditional_put_replaces_only_what_it_names() {
    let running = Running::start().await;
    let put = || {
        let put = running.s3.put_object().bucket(BUCKET).key("key");
        put.body(ByteStream::from_static(b"bytes"))
    };
    assert_eq!(status(put().if_none_match("*").send().await), 200);
    assert_eq!(status(put().if_none_match("*").send().await), 412);
    assert_eq!(status(put().if_match("\"0123\"").send().await), 412);
    let etag = running.put("key", "bytes").await;
    assert_eq!(status(put().if_match(etag).send().await), 200);
}

#[tokio::test]
async fn keys_of_any_form_and_of_the_longest_length_work_and_a_longer_one_is_refused() {
    let running = Running::start().await;
    let of_160 = format!("{}/{}", "t".repeat(36), "k".repeat(123));
    let longest = "k".repeat(MAX_KEY_BYTES);
    assert_eq!(of_160.len(), 160);
    let keys = [
        &of_160,
        &longest,
        "näme with spaces+&%=#?.txt",
        "a//b",
        "folder/",
        "folder/object",
        "folder",
    ];
    for key in keys {
        let etag = running.put(key, "bytes").await;
        let get = running
            .s3
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .if_match(etag)
            .send()
            .await;
        assert_eq!(
            get.unwrap().body.collect().await.unwrap().to_vec(),
            b"bytes"
        );
    }
    let too_long = "k".repeat(MAX_KEY_BYTES + 1);
    let put = running.s3.put_object().bucket(BUCKET).key(too_long);
    let put = put.body(ByteStream::from_static(b"x"));
    assert_eq!(status(put.send().await), 400);
    // One that is the folder of others goes alone.
    let delete = running.s3.delete_object().bucket(BUCKET).key("folder");
    delete.send().await.unwrap();
    assert!(!running.has("folder").await);
    assert!(running.has("folder/").await && running.has("folder/object").await);
}

#[tokio::test]
async fn a_browser_of_any_origin_may_put_and_read_the_etag() {
    let running = Running::start().await;
    let preflight = "OPTIONS /caudal/key HTTP/1.1\r\nHost: x\r\nOrigin: https://page.example\r\nConnection: close\r\n\
         Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: content-type\r\n\r\n";
    let answer = running.raw(preflight.as_bytes()).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: *"),
        "{answer}"
    );
    for method in ["put", "post", "delete"] {
        assert!(answer.contains(method), "{answer}");
    }
    let url = running.presigned_put("key", 5).await;
    let headers = "Content-Length: 5\r\nOrigin: https://page.example\r\n";
    let answer = running
        .put_raw(&url, headers, b"fiver")
        .await
        .to_lowercase();
    assert!(
        answer.contains("access-control-expose-headers: etag"),
        "{answer}"
    );
    assert!(answer.contains("\r\netag: \""), "{answer}");
}

#[tokio::test]
async fn a_multipart_upload_is_joined_from_the_parts_named_and_may_be_completed_again() {
    let running = Running::start().await;
    let create = running
        .s3
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("big")
        .content_type("text/plain");
    let id = create.send().await.unwrap().upload_id.unwrap();
    let upload = |number: i32, bytes: Vec<u8>| {
        let part = running
            .s3
            .upload_part()
            .bucket(BUCKET)
            .key("big")
            .upload_id(&id)
            .part_number(number);
        part.body(ByteStream::from(bytes)).send()
    };
    upload(1, vec![b'x'; MIN_PART]).await.unwrap();
    let first = upload(1, vec![b'a'; MIN_PART])
        .await
        .unwrap()
        .e_tag
        .unwrap();
    let second = upload(2, vec![b'b'; 3]).await.unwrap().e_tag.unwrap();
    let list = running
        .s3
        .list_parts()
        .bucket(BUCKET)
        .key("big")
        .upload_id(&id)
        .max_parts(1);
    let listed = list.send().await.unwrap();
    assert_eq!(listed.is_truncated, Some(true));
    assert_eq!(listed.parts()[0].e_tag.as_ref(), Some(&first));
    assert_eq!(listed.parts()[0].size, Some(5 * 1024 * 1024));

    let complete = |parts: &[(i32, &str)]| {
        let mut completed = CompletedMultipartUpload::builder();
        for (number, etag) in parts {
            completed = completed.parts(
                CompletedPart::builder()
                    .part_number(*number)
                    .e_tag(*etag)
                    .build(),
            );
        }
        let complete = running
            .s3
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("big")
            .upload_id(&id);
        complete.multipart_upload(completed.build()).send()
    };
    assert_eq!(
        code(complete(&[(1, &second), (2, &second)]).await),
        "InvalidPart"
    );
    assert_eq!(
        code(complete(&[(2, &second), (1, &first)]).await),
        "InvalidPartOrder"
    );
    let done = complete(&[(1, &first), (2, &second)]).await.unwrap();
    let location = done.location.unwrap();
    assert!(location.starts_with("http://"), "{location}");
    assert!(location.ends_with("/caudal/big"), "{location}");
    let done = done.e_tag.unwrap();
    assert!(done.ends_with("-2\""), "{done}");
    assert_eq!(
        complete(&[(1, &first), (2, &second)])
            .await
            .unwrap()
            .e_tag
            .unwrap(),
        done
    );
    let got = running
        .s3
        .get_object()
        .bucket(BUCKET)
        .key("big")
        .if_match(&done)
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    let bytes = got.body.collect().await.unwrap().to_vec();
    assert!(bytes[..MIN_PART].iter().all(|byte| *byte == b'a') && bytes[MIN_PART..] == *b"bbb");
    assert_eq!(code(upload(3, vec![b'c'; 3]).await), "NoSuchUpload");

    let create = running
        .s3
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("other");
    let id = create.send().await.unwrap().upload_id.unwrap();
    let abort = || {
        running
            .s3
            .abort_multipart_upload()
            .bucket(BUCKET)
            .key("other")
            .upload_id(&id)
            .send()
    };
    assert_eq!(code(abort().await), "OK");
    assert_eq!(code(abort().await), "NoSuchUpload");
}

#[tokio::test]
async fn ranges_overrides_listings_and_deletes_are_as_s3_has_them() {
    let running = Running::start().await;
    for key in ["t/1/a", "t/1/b", "t/2"] {
        running.put(key, key.as_bytes()).await;
    }
    let get = running
        .s3
        .get_object()
        .bucket(BUCKET)
        .key("t/1/a")
        .range("bytes=2-3");
    let got = get
        .response_content_disposition("attachment")
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_range.as_deref(), Some("bytes 2-3/5"));
    assert_eq!(got.content_disposition.as_deref(), Some("attachment"));
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"1/");
    running.put("empty", "").await;
    assert_eq!(running.get("empty").await, b"");

    let listed = running
        .s3
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("t/1")
        .max_keys(1)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.contents()[0].key.as_deref(), Some("t/1/a"));
    let token = listed.next_continuation_token.unwrap();
    let list = running
        .s3
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("t/1")
        .continuation_token(token);
    let listed = list.send().await.unwrap();
    assert_eq!(listed.contents()[0].key.as_deref(), Some("t/1/b"));
    assert_eq!(listed.is_truncated, Some(false));

    for _ in 0..2 {
        running
            .s3
            .delete_object()
            .bucket(BUCKET)
            .key("t/1/a")
            .send()
            .await
            .unwrap();
    }
    running
        .s3
        .delete_object()
        .bucket(BUCKET)
        .key("t/1/b")
        .send()
        .await
        .unwrap();
    assert!(!running.has("t/1/a").await);
    assert_eq!(running.get("t/2").await, b"t/2");
}

#[tokio::test]
async fn objects_survive_a_restart_and_unfinished_writes_are_cleared_away() {
    let running = Running::start().await;
    let etag = running.put("key", "bytes").await;
    running.shutdown.cancel();
    let Running { server, folder, .. } = running;
    server.stopped().await;
    let left = folder.path().join("files/00/00000000000000ff");
    std::fs::write(&left, "over").unwrap();
    let running = Running::start_in(folder).await;
    assert!(!left.exists());
    let head = running
        .s3
        .head_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(head.e_tag.unwrap(), etag);
}

#[tokio::test]
async fn the_token_ends_the_server_though_clients_keep_connections_open() {
    let running = Running::start().await;
    running.put("key", "bytes").await;
    running.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.server.stopped())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_bucket_name_s3_does_not_allow_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = S3Settings::new(folder.path(), ACCESS, SECRET, "no");
    let error = S3Server::start(settings, listen, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("3 to 63"), "{error}");
}

#[tokio::test]
async fn both_listings_give_names_as_they_are_asked_for() {
    let running = Running::start().await;
    let odd = "t/h+1 %41 \u{e1}.txt";
    let encoded = "t/h%2B1+%2541+%C3%A1.txt";
    running.put(odd, "x").await;
    running.put("t/sub/b", "x").await;
    let (s3, url) = (&running.s3, aws_sdk_s3::types::EncodingType::Url);

    let plain = s3.list_objects().bucket(BUCKET).delimiter("/").prefix("t/");
    let plain = plain.send().await.unwrap();
    assert_eq!(plain.contents()[0].key(), Some(odd));
    assert_eq!(plain.common_prefixes()[0].prefix(), Some("t/sub/"));
    // As clients send it that want none.
    let unfolded = s3.list_objects().bucket(BUCKET).delimiter("");
    assert_eq!(unfolded.send().await.unwrap().contents().len(), 2);
    let old = s3.list_objects().bucket(BUCKET).encoding_type(url.clone());
    let first = old.clone().max_keys(1).send().await.unwrap();
    assert_eq!(first.contents()[0].key(), Some(encoded));
    assert_eq!(first.encoding_type(), Some(&url));
    assert_eq!(
        (first.is_truncated(), first.next_marker()),
        (Some(true), Some(encoded))
    );
    let second = old.marker(odd).send().await.unwrap();
    assert_eq!(second.contents()[0].key(), Some("t/sub/b"));
    assert_eq!(second.is_truncated(), Some(false));

    let new = s3.list_objects_v2().bucket(BUCKET).encoding_type(url);
    let new = new.delimiter("").send().await.unwrap();
    assert_eq!(new.contents()[0].key(), Some(encoded));
    assert_eq!(new.key_count(), Some(2));
}

#[tokio::test]
async fn long_runs_of_zeros_are_read_as_they_were_sent_and_take_no_room() {
    let running = Running::start().await;
    let mut hollow = vec![0; MIN_PART + 7];
    for (at, byte) in [(0, 1), (70_000, 2), (3_000_001, 3)] {
        hollow[at] = byte;
    }
    running.put("hollow", hollow.clone()).await;
    running.put("nothing", vec![0; 1 << 20]).await;
    let multipart = || {
        running
            .s3
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("joined")
    };
    let id = multipart().send().await.unwrap().upload_id.unwrap();
    let mut completed = CompletedMultipartUpload::builder();
    for number in 1..=2 {
        let part = running.s3.upload_part().bucket(BUCKET).key("joined");
        let part = part.upload_id(&id).part_number(number);
        let sent = part.body(ByteStream::from(hollow.clone())).send().await;
        let tag = sent.unwrap().e_tag.unwrap();
        let part = CompletedPart::builder().part_number(number).e_tag(tag);
        completed = completed.parts(part.build());
    }
    let complete = running.s3.complete_multipart_upload().bucket(BUCKET);
    let complete = complete.key("joined").upload_id(&id);
    let joined = complete.multipart_upload(completed.build()).send().await;
    joined.unwrap();

    assert_eq!(running.get("hollow").await, hollow);
    assert_eq!(running.get("nothing").await, vec![0; 1 << 20]);
    assert_eq!(running.get("joined").await, [&hollow[..], &hollow].concat());
    let room = room_of(running.folder.path());
    assert!(room < 2 << 20, "{room} bytes on the disk");
}

/// What the files of a folder take on the disk.
fn room_of(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).unwrap();
    let of_each = entries.map(|entry| {
        let entry = entry.unwrap();
        let facts = entry.metadata().unwrap();
        match facts.is_dir() {
            true => room_of(&entry.path()),
            false => facts.blocks() * 512,
        }
    });
    of_each.sum()
}

#[tokio::test]
async fn the_bucket_is_listed_with_the_time_it_was_made() {
    let running = Running::start().await;
    let listed = running.s3.list_buckets().send().await.unwrap();
    let bucket = &listed.buckets()[0];
    assert_eq!(bucket.name(), Some(BUCKET));
    assert!(bucket.creation_date().is_some());
}

#[tokio::test]
async fn a_strict_store_takes_parts_of_one_size_and_checksums_that_all_know() {
    let parts = [MIN_PART, MIN_PART + 1, 1];
    for (running, is_strict) in [
        (Running::start().await, false),
        (Running::strict().await, true),
    ] {
        let upload = async |sizes: &[usize]| {
            let created = running.s3.create_multipart_upload().bucket(BUCKET).key("k");
            let id = created.send().await.unwrap().upload_id.unwrap();
            let mut done = CompletedMultipartUpload::builder();
            for (number, size) in (1..).zip(sizes) {
                let part = running.s3.upload_part().bucket(BUCKET).key("k");
                let part = part.upload_id(&id).part_number(number);
                let sent = part.body(vec![0; *size].into()).send().await.unwrap();
                let etag = sent.e_tag.unwrap();
                done = done.parts(
                    CompletedPart::builder()
                        .part_number(number)
                        .e_tag(etag)
                        .build(),
                );
            }
            let complete = running
                .s3
                .complete_multipart_upload()
                .bucket(BUCKET)
                .key("k");
            status(
                complete
                    .upload_id(&id)
                    .multipart_upload(done.build())
                    .send()
                    .await,
            )
        };
        assert_eq!(upload(&parts).await == 200, !is_strict);
        assert_eq!(upload(&[MIN_PART, MIN_PART, 1]).await, 200);
        let sum = |algorithm| {
            let put = running.s3.put_object().bucket(BUCKET).key("k");
            put.checksum_algorithm(algorithm)
                .body(b"x".to_vec().into())
                .send()
        };
        assert_eq!(status(sum(ChecksumAlgorithm::Sha256).await), 200);
        let newer = status(sum(ChecksumAlgorithm::Crc64Nvme).await);
        assert_eq!(newer == 200, !is_strict, "{newer}");
    }
}
