//! The store's promises against the embedded S3 server, and against stores that break theirs.
#![expect(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use caudal_harness::S3;
use caudal_objects::{
    MultipartCall, ObjectError, ObjectStore, PartTag, Presigned, Settings, bare_etag,
};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MIB: usize = 1024 * 1024;
const MINUTE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(15);

struct Running {
    server: S3,
    store: ObjectStore,
}

impl Running {
    async fn start() -> Running {
        Running::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Settings)) -> Running {
        let server = S3::start().await.unwrap();
        let mut settings = Settings::new(server.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
        change(&mut settings);
        let store = ObjectStore::connect(settings).unwrap();
        store.ensure_bucket().await.unwrap();
        Running { server, store }
    }

    async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> String {
        self.store
            .put(key, "text/plain", bytes.into())
            .await
            .unwrap()
    }

    async fn read(&self, key: &str) -> Bytes {
        self.store.get_bytes(key, u64::MAX).await.unwrap()
    }

    async fn unfinished_uploads(&self) -> usize {
        self.store.list_multipart("").await.unwrap().len()
    }
}

/// Sends a presigned request with a body, and with the given headers in place of the signed ones of the same name.
async fn send(method: &str, presigned: &Presigned, other: &[(&str, &str)], body: &[u8]) -> String {
    let (host, path) = presigned
        .url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut head = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in &presigned.headers {
        let value = other
            .iter()
            .find(|(n, _)| n == name)
            .map_or(value.as_str(), |(_, value)| value);
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream
        .write_all(&[head.as_bytes(), body].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A store that gives the same answer to everything.
async fn store_that_answers(answer: &'static str) -> ObjectStore {
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listen.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listen.accept().await.unwrap();
            let mut head = [0_u8; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    ObjectStore::connect(Settings::new(
        endpoint,
        S3::BUCKET,
        S3::ACCESS_KEY,
        S3::SECRET,
    ))
    .unwrap()
}

#[tokio::test]
async fn a_url_of_a_checksum_takes_the_bytes_that_have_it_and_no_others() {
    let running = Running::start().await;
    let sha256 = Sha256::digest("right").into();
    let url = running.store.presign_put_of("t/key", 5, &sha256, MINUTE);
    let url = url.await.unwrap();
    let header = "x-amz-checksum-sha256";
    assert_eq!(status(&send("PUT", &url, &[], b"wrong").await), "400");
    let of_wrong = url_header_of("wrong");
    let other = [(header, of_wrong.as_str())];
    assert_eq!(status(&send("PUT", &url, &other, b"wrong").await), "403");
    let mut without = url.clone();
    without.headers.retain(|(name, _)| name != header);
    assert_eq!(status(&send("PUT", &without, &[], b"right").await), "403");
    assert_eq!(running.store.head("t/key").await.unwrap(), None);
    assert_eq!(status(&send("PUT", &url, &[], b"right").await), "200");
    assert_eq!(running.read("t/key").await, "right");
    assert!(running.store.verifies_checksums("probe").await.unwrap());
    assert_eq!(running.store.head("probe").await.unwrap(), None);
}

fn url_header_of(bytes: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(bytes))
}

#[tokio::test]
async fn what_a_store_does_not_do_is_told_apart_from_what_it_does_not_do_now() {
    let none = "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let own = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<Own>no</Own>";
    for answer in [none, own] {
        let store = store_that_answers(answer).await;
        let error = store.list_parts("t/key", "an-upload").await.unwrap_err();
        assert!(
            error.is_beyond_the_store() && !error.is_retryable(),
            "{error}"
        );
    }
    let away = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let store = store_that_answers(away).await;
    let error = store.list_parts("t/key", "an-upload").await.unwrap_err();
    assert!(
        !error.is_beyond_the_store() && error.is_retryable(),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_that_takes_anything_or_nothing_verifies_no_checksums() {
    let takes = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let refuses = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let away = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for answer in [takes, refuses] {
        let store = store_that_answers(answer).await;
        assert!(
            !store.verifies_checksums("probe").await.unwrap(),
            "{answer}"
        );
    }
    let store = store_that_answers(away).await;
    let unknown = store.verifies_checksums("probe").await.unwrap_err();
    assert!(unknown.is_retryable());
}

#[tokio::test]
async fn what_is_put_is_what_is_read_with_its_size_type_and_etag() {
    let running = Running::start().await;
    let body = Bytes::from(vec![7_u8; 3 * MIB]);
    let etag = running.put("t/key", body.clone()).await;
    let mut object = running.store.get("t/key", Some(&etag)).await.unwrap();
    assert_eq!(
        (object.etag.as_str(), object.size),
        (etag.as_str(), 3 * MIB as u64)
    );
    assert_eq!(object.media_type.as_deref(), Some("text/plain"));
    let mut read = Vec::new();
    while let Some(piece) = object.stream.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(read, body);
    let head = running.store.head("t/key").await.unwrap().unwrap();
    assert_eq!((head.etag, head.size), (etag, 3 * MIB as u64));
    assert_eq!(running.store.head("t/none").await.unwrap(), None);
    assert!(matches!(
        running.store.get("t/none", None).await,
        Err(ObjectError::NotFound { .. })
    ));
    let too_large = running.store.get_bytes("t/key", 3 * MIB as u64 - 1).await;
    assert!(matches!(too_large, Err(ObjectError::TooLarge { .. })));
    running.store.delete("t/key").await.unwrap();
    running.store.delete("t/key").await.unwrap();
    assert_eq!(running.store.head("t/key").await.unwrap(), None);
}

#[tokio::test]
async fn a_part_of_an_object_is_that_part_of_the_object_of_that_etag() {
    let running = Running::start().await;
    let etag = running
        .put("t/key", Bytes::from_static(b"0123456789"))
        .await;
    let part = running.store.get_range("t/key", Some(&etag), 3..7).await;
    assert_eq!(part.unwrap(), Bytes::from_static(b"3456"));
    let nothing = running.store.get_range("t/key", None, 4..4).await;
    assert_eq!(nothing.unwrap(), Bytes::new());
    running
        .put("t/key", Bytes::from_static(b"abcdefghij"))
        .await;
    assert!(matches!(
        running.store.get_range("t/key", Some(&etag), 3..7).await,
        Err(ObjectError::PreconditionFailed { .. })
    ));
}

/// protocol 12.4: a GET of the confirmed ETag never gives other bytes.
#[tokio::test]
async fn a_get_of_a_replaced_object_is_refused_even_by_a_store_that_ignores_the_condition() {
    let running = Running::start().await;
    let stale = running.put("key", "first").await;
    let current = running.put("key", "second").await;
    let refused = running.store.get("key", Some(&stale)).await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    running
        .store
        .get("key", Some(&format!("\"{current}\"")))
        .await
        .unwrap();

    let careless =
        store_that_answers("HTTP/1.1 200 OK\r\nETag: \"other\"\r\nContent-Length: 2\r\n\r\nhi")
            .await;
    let refused = careless.get("key", Some("wanted")).await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    assert_eq!(careless.get("key", Some("other")).await.unwrap().size, 2);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_a_short_object() {
    let breaking =
        store_that_answers("HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 9\r\n\r\nshort")
            .await;
    let error = breaking.get_bytes("key", 100).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn failures_say_whether_another_try_can_help() {
    let busy = store_that_answers(
        "HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 41\r\n\r\n<Error><Code>SlowDown</Code></Error>     ",
    )
    .await;
    let error = busy.head("key").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let absent = ObjectStore::connect(Settings::new(
        nobody,
        S3::BUCKET,
        S3::ACCESS_KEY,
        S3::SECRET,
    ))
    .unwrap();
    let error = absent.ensure_bucket().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");

    let running = Running::start().await;
    let mut settings = Settings::new(
        running.server.endpoint(),
        S3::BUCKET,
        S3::ACCESS_KEY,
        "wrong",
    );
    let stranger = ObjectStore::connect(settings.clone()).unwrap();
    let error = stranger
        .put("key", "text/plain", Bytes::new())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ObjectError::Refused { code, .. } if code == "SignatureDoesNotMatch"),
        "{error}"
    );
    assert!(!error.is_retryable());
    settings.secret_key = S3::SECRET.to_owned();
    settings.bucket = "another".to_owned();
    let elsewhere = ObjectStore::connect(settings.clone()).unwrap();
    let error = elsewhere.get("key", None).await.unwrap_err();
    assert!(
        matches!(&error, ObjectError::Refused { code, .. } if code == "NoSuchBucket"),
        "{error}"
    );
    assert!(elsewhere.ensure_bucket().await.is_err());
    assert!(!format!("{settings:?} {elsewhere:?}").contains(S3::SECRET));
    assert!(ObjectStore::connect(Settings::new("store:9000", "caudal", "a", "s")).is_err());
}

/// protocol 12.4: the copy is conditional on the ETag that was read.
#[tokio::test]
async fn a_copy_takes_the_object_of_that_etag_or_nothing() {
    let running = Running::start().await;
    let stale = running.put("landing/a b&c", "first").await;
    let current = running.put("landing/a b&c", "second").await;
    let refused = running
        .store
        .copy_if_match("landing/a b&c", &stale, "final")
        .await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    assert_eq!(running.store.head("final").await.unwrap(), None);
    for _ in 0..2 {
        running
            .store
            .copy_if_match("landing/a b&c", &current, "final")
            .await
            .unwrap();
    }
    assert_eq!(running.read("final").await, "second");
    assert_eq!(
        running
            .store
            .head("final")
            .await
            .unwrap()
            .unwrap()
            .media_type
            .as_deref(),
        Some("text/plain")
    );
    let missing = running
        .store
        .copy_if_match("landing/none", &current, "final")
        .await;
    assert!(matches!(missing, Err(ObjectError::NotFound { .. })));
}

#[tokio::test]
async fn a_large_object_is_copied_in_parts_under_the_same_condition() {
    let running = Running::start_with(|settings| {
        settings.copy_in_parts_above = MIB as u64;
        settings.copy_part_bytes = 5 * MIB as u64;
    })
    .await;
    let body: Bytes = (0..11 * MIB)
        .map(|index| (index / 1000 % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let stale = running.put("landing", "other").await;
    let current = running.put("landing", body.clone()).await;
    let refused = running
        .store
        .copy_if_match("landing", &stale, "final")
        .await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    assert_eq!(running.unfinished_uploads().await, 0);
    let etag = running
        .store
        .copy_if_match("landing", &current, "final")
        .await
        .unwrap();
    assert!(etag.ends_with("-3"), "{etag}");
    assert!(running.read("final").await == body);
    let head = running.store.head("final").await.unwrap().unwrap();
    assert_eq!(
        (head.etag, head.media_type.as_deref()),
        (etag, Some("text/plain"))
    );
    assert_eq!(running.unfinished_uploads().await, 0);
}

#[tokio::test]
async fn a_presigned_put_takes_its_key_its_size_and_its_type_until_it_expires() {
    let running = Running::start().await;
    let key = "tenant/landing/a b+c/ñ/1";
    let put = running
        .store
        .presign_put(key, 5, Some("text/plain"), MINUTE)
        .await
        .unwrap();
    assert_eq!(
        status(&send("PUT", &put, &[("content-length", "4")], b"four").await),
        "403"
    );
    assert_eq!(
        status(&send("PUT", &put, &[("content-type", "text/html")], b"fiver").await),
        "403"
    );
    let elsewhere = Presigned {
        url: put.url.replace("landing", "files"),
        ..put.clone()
    };
    assert_eq!(status(&send("PUT", &elsewhere, &[], b"fiver").await), "403");
    let longer = Presigned {
        url: put.url.replace("Expires=60", "Expires=600"),
        ..put.clone()
    };
    assert_eq!(status(&send("PUT", &longer, &[], b"fiver").await), "403");
    assert_eq!(status(&send("GET", &put, &[], b"").await), "403");
    assert_eq!(running.store.head(key).await.unwrap(), None);

    let answer = send("PUT", &put, &[], b"fiver").await;
    assert_eq!(status(&answer), "200", "{answer}");
    let head = running.store.head(key).await.unwrap().unwrap();
    assert!(answer.contains(&format!("\"{}\"", head.etag)), "{answer}");
    assert_eq!(head.media_type.as_deref(), Some("text/plain"));

    let untyped = running
        .store
        .presign_put(key, 5, None, MINUTE)
        .await
        .unwrap();
    assert_eq!(status(&send("PUT", &untyped, &[], b"other").await), "200");
    let brief = running
        .store
        .presign_put(key, 5, None, Duration::from_secs(1))
        .await
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    while status(&send("PUT", &brief, &[], b"again").await) != "403" {
        assert!(Instant::now() < deadline, "the URL did not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_presigned_get_reads_through_the_public_endpoint_and_names_the_download() {
    let running = Running::start().await;
    running.put("tenant/files/1", "bytes").await;
    let port = running
        .server
        .endpoint()
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    let mut settings = Settings::new(
        running.server.endpoint(),
        S3::BUCKET,
        S3::ACCESS_KEY,
        S3::SECRET,
    );
    settings.public_endpoint = Some(format!("http://localhost:{port}"));
    let store = ObjectStore::connect(settings).unwrap();
    let shown = store
        .presign_get("tenant/files/1", MINUTE, None)
        .await
        .unwrap();
    assert!(
        shown
            .url
            .starts_with(&format!("http://localhost:{port}/caudal/tenant/files/1?"))
    );
    let answer = send("GET", &shown, &[], b"").await;
    assert!(answer.ends_with("\r\n\r\nbytes"), "{answer}");
    assert!(!answer.contains("attachment"));
    let saved = store
        .presign_get("tenant/files/1", MINUTE, Some("Año \"1\".pdf"))
        .await
        .unwrap();
    let answer = send("GET", &saved, &[], b"").await;
    let disposition =
        "attachment; filename=\"A_o _1_.pdf\"; filename*=UTF-8''A%C3%B1o%20%221%22.pdf";
    assert!(answer.contains(disposition), "{answer}");
}

#[tokio::test]
async fn a_presigned_multipart_upload_is_resumed_from_the_parts_the_store_has() {
    let running = Running::start().await;
    let store = &running.store;
    let upload = store
        .create_multipart("big", Some("video/mp4"))
        .await
        .unwrap();
    let first = Bytes::from(vec![b'a'; 5 * MIB]);
    store.upload_part("big", &upload, 1, first).await.unwrap();
    let part = store
        .presign_part("big", &upload, 2, 3, MINUTE)
        .await
        .unwrap();
    assert_eq!(
        status(&send("PUT", &part, &[("content-length", "2")], b"bb").await),
        "403"
    );
    assert_eq!(status(&send("PUT", &part, &[], b"bbb").await), "200");
    let parts = store.list_parts("big", &upload).await.unwrap();
    assert_eq!(
        parts
            .iter()
            .map(|part| (part.number, part.size))
            .collect::<Vec<_>>(),
        [(1, 5 * MIB as u64), (2, 3)]
    );
    let tags: Vec<PartTag> = parts
        .into_iter()
        .map(|part| PartTag {
            number: part.number,
            etag: part.etag,
        })
        .collect();
    let etag = store
        .complete_multipart("big", &upload, &tags)
        .await
        .unwrap();
    let head = store.head("big").await.unwrap().unwrap();
    assert_eq!((head.size, head.etag), (5 * MIB as u64 + 3, etag));
    assert_eq!(head.media_type.as_deref(), Some("video/mp4"));
    assert!(matches!(
        store.list_parts("big", &upload).await,
        Err(ObjectError::NotFound { .. })
    ));
    store.abort_multipart("big", &upload).await.unwrap();
}

#[tokio::test]
async fn a_url_makes_its_own_call_of_a_multipart_upload_and_no_other() {
    let running = Running::start().await;
    let store = &running.store;
    running.put("key", "bytes").await;
    let signed = async |call: MultipartCall<'_>| {
        let signed = store.presign_multipart("key", call, MINUTE).await;
        (call.method(), signed.unwrap())
    };
    let (method, create) = signed(MultipartCall::Create).await;
    for _ in 0..2 {
        let answer = send(method, &create, &[], b"").await;
        assert_eq!(status(&answer), "200", "{answer}");
    }
    assert_eq!(running.unfinished_uploads().await, 2);
    let upload = store.find_multipart("key").await.unwrap().unwrap();
    let (abort_method, abort) = signed(MultipartCall::Abort(&upload)).await;
    let (list_method, list) = signed(MultipartCall::List(&upload)).await;
    assert_eq!(status(&send(abort_method, &list, &[], b"").await), "403");
    assert_eq!(status(&send(list_method, &abort, &[], b"").await), "403");
    assert_eq!(status(&send(list_method, &list, &[], b"").await), "200");
    assert_eq!(status(&send(abort_method, &abort, &[], b"").await), "204");
    assert_eq!(status(&send(list_method, &list, &[], b"").await), "404");
    assert_eq!(running.unfinished_uploads().await, 1);

    // Without an id it would be the object that is deleted.
    let refused = store.presign_multipart("key", MultipartCall::Abort(""), MINUTE);
    assert!(matches!(refused.await, Err(ObjectError::Refused { .. })));
    assert_eq!(running.read("key").await, "bytes");
}

#[tokio::test]
async fn many_are_deleted_in_pages_and_missing_ones_are_no_error() {
    let running = Running::start().await;
    let keys: Vec<String> = (0..2_001)
        .map(|number| format!("t/batch&1/{number}/<x>"))
        .collect();
    for number in [0, 999, 1_000, 2_000] {
        running.put(&keys[number], "x").await;
    }
    running.put("t/kept", "x").await;
    running.store.delete_many(&keys).await.unwrap();
    running.store.delete_many(&[]).await.unwrap();
    let page = running.store.list("t/", None).await.unwrap();
    let left: Vec<&str> = page
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect();
    assert_eq!(left, ["t/kept"]);
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn a_listing_goes_on_where_its_page_ended() {
    let running = Running::start().await;
    for number in 0..1_005 {
        running.put(&format!("t/{number:04}"), "x").await;
    }
    let first = running.store.list("t/", None).await.unwrap();
    assert_eq!(first.objects.len(), 1_000);
    let second = running
        .store
        .list("t/", first.next.as_deref())
        .await
        .unwrap();
    assert_eq!(second.objects.len(), 5);
    assert_eq!(second.next, None);
}

#[test]
fn an_etag_is_the_same_with_and_without_quotes() {
    assert_eq!(bare_etag("\"abc-2\""), "abc-2");
    assert_eq!(bare_etag("abc"), "abc");
    assert_eq!(bare_etag("\""), "\"");
}

/// Prints URLs a second.
#[tokio::test]
#[ignore = "a measurement"]
async fn presigning_speed() {
    let store = ObjectStore::connect(Settings::new(
        "http://127.0.0.1:1",
        "caudal",
        "access",
        "secret",
    ))
    .unwrap();
    let began = Instant::now();
    let count = 10_000;
    for number in 0..count {
        let key = format!(
            "0198c0de-0000-7000-8000-000000000000/landing/0198c0de-0000-7000-8000-000000000001/{number}/1"
        );
        store.presign_put(&key, number, None, MINUTE).await.unwrap();
    }
    println!("{:.0} URLs/s", count as f64 / began.elapsed().as_secs_f64());
}
