//! A store in the same process, and how long any store may take.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::memory::{Memory, WITHIN};

const KEY: &str = "t/a key";
const BYTES: Bytes = Bytes::from_static(b"the bytes");

#[tokio::test]
async fn a_store_in_this_process_is_called_without_signatures() {
    let memory = Memory::default();
    let store = memory.store();
    let bytes = Bytes::from_static(b"the bytes");
    let etag = store.put(KEY, "text/plain", bytes).await.unwrap();
    assert_eq!(store.get_bytes(KEY, 9).await.unwrap(), "the bytes");
    assert_eq!(store.head(KEY).await.unwrap().unwrap().size, 9);
    let copied = store.copy_sized_if_match(KEY, &etag, 9, "t/copy").await;
    assert_eq!(copied.unwrap(), etag);
    let beginning = store.get_beginning("t/copy", 3).await.unwrap().unwrap();
    assert_eq!((beginning.size, &beginning.bytes[..]), (9, &b"the"[..]));
    store.delete(KEY).await.unwrap();
    assert_eq!(store.head(KEY).await.unwrap(), None);

    let asked = memory.asked();
    let methods: Vec<&str> = asked.iter().map(|(method, ..)| method.as_str()).collect();
    assert_eq!(
        methods,
        ["PUT", "GET", "HEAD", "PUT", "GET", "DELETE", "HEAD"]
    );
    for (_, uri, headers) in &asked {
        // As a server reads it from a connection.
        assert!(uri.starts_with("/bucket/t/"), "{uri}");
        assert_eq!(headers["host"], "127.0.0.1:1");
        for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }
    assert_eq!(asked[0].0, Method::PUT);
    assert_eq!(asked[0].2["content-length"], "9");
    assert_eq!(asked[0].1, "/bucket/t/a%20key");
}

#[tokio::test]
async fn the_bytes_of_an_object_in_this_process_are_not_copied() {
    let memory = Memory::default();
    let store = memory.store();
    let bytes = Bytes::from(vec![7; 1 << 20]);
    store.put(KEY, "text/plain", bytes.clone()).await.unwrap();
    let read = store.get_bytes(KEY, u64::MAX).await.unwrap();
    assert_eq!(read.as_ptr(), bytes.as_ptr());
}

#[tokio::test]
async fn an_answer_may_take_its_time_and_no_longer() {
    let slow = Memory::slow(WITHIN / 20, Duration::ZERO);
    slow.store()
        .put(KEY, "text/plain", Bytes::new())
        .await
        .unwrap();
    assert_eq!(slow.asked().len(), 1);

    let slower = Memory::slow(WITHIN * 2, Duration::ZERO);
    let store = slower.store();
    let put = store.put(KEY, "text/plain", Bytes::new());
    let refused = put.await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    assert_eq!(slower.asked().len(), 3);

    // What takes long to be sent is answered later, and copies are when they are done.
    let large = Bytes::from(vec![0; 2 << 20]);
    store.put(KEY, "text/plain", large).await.unwrap();
    store
        .copy_sized_if_match(KEY, "e", 1, "t/copy")
        .await
        .unwrap();
    assert_eq!(slower.asked().len(), 5);
}

#[tokio::test]
async fn a_body_may_be_slow_and_not_silent() {
    let slow = Memory::slow(Duration::ZERO, WITHIN / 4);
    slow.store().put(KEY, "text/plain", BYTES).await.unwrap();
    assert_eq!(slow.store().get_bytes(KEY, 9).await.unwrap(), BYTES);
    let silent = Memory::slow(Duration::ZERO, WITHIN * 4);
    silent.store().put(KEY, "text/plain", BYTES).await.unwrap();
    let refused = silent.store().get_bytes(KEY, 9).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
}
