//! Against a server that verifies what is signed: the embedded one, or another.

use bytes::Bytes;
use caudal_harness::S3;
use caudal_objects::{ObjectError, ObjectStore, PartTag, Settings};

const MIB: usize = 1024 * 1024;

/// Names another store to be tested: `ENDPOINT ACCESS_KEY SECRET`.
const OTHER: &str = "CAUDAL_TEST_STORE";

async fn started(change: impl FnOnce(&mut Settings)) -> (Option<S3>, ObjectStore) {
    let other = std::env::var(OTHER).unwrap_or_default();
    let named: Vec<&str> = other.split(' ').collect();
    let (server, mut settings) = match named.as_slice() {
        [endpoint, access_key, secret] => {
            let settings = Settings::new(*endpoint, S3::BUCKET, *access_key, *secret);
            (None, settings)
        }
        _ => {
            let server = S3::start().await.unwrap();
            let endpoint = server.endpoint();
            let settings = Settings::new(endpoint, S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
            (Some(server), settings)
        }
    };
    change(&mut settings);
    let store = ObjectStore::connect(settings).unwrap();
    store.ensure_bucket().await.unwrap();
    (server, store)
}

#[tokio::test]
async fn keys_of_any_characters_are_signed_as_they_are_sent() {
    let (_server, store) = started(|_| {}).await;
    for key in [
        "t/a b",
        "t/a  b",
        "t/a+b",
        "t/a~b",
        "t/a%20b",
        "t/100%",
        "t/ñ/日本語/🦀",
        "t/n\u{303}",
        "t/a?b=c&d#e",
        "t/!$'()*,;:@=[]{}|^`\"<>\\",
        "t/.hidden-_.",
    ] {
        let bytes = Bytes::from(key.to_owned());
        let etag = store.put(key, "text/plain", bytes.clone()).await.unwrap();
        let size = bytes.len() as u64;
        let head = store.head(key).await.unwrap().unwrap();
        assert_eq!(
            (head.size, head.etag.as_str()),
            (size, etag.as_str()),
            "{key}"
        );
        assert_eq!(store.get_bytes(key, size).await.unwrap(), bytes, "{key}");
        let part = store.get_range(key, Some(&etag), 1..3).await.unwrap();
        assert_eq!(part, bytes.slice(1..3), "{key}");
        let beginning = store.get_beginning(key, 2).await.unwrap().unwrap();
        assert_eq!((beginning.size, beginning.bytes), (size, bytes.slice(..2)));
        let copy = format!("copies/{key}");
        store
            .copy_sized_if_match(key, &etag, size, &copy)
            .await
            .unwrap();
        assert_eq!(store.get_bytes(&copy, size).await.unwrap(), bytes, "{key}");
        store.delete(&copy).await.unwrap();
        assert_eq!(store.head(&copy).await.unwrap(), None, "{key}");
        store.delete_many(&[key.to_owned()]).await.unwrap();
        assert_eq!(store.head(key).await.unwrap(), None, "{key}");
    }
}

#[tokio::test]
async fn a_media_type_with_spaces_is_signed_as_it_is_read() {
    let (_server, store) = started(|_| {}).await;
    let media_type = "text/plain;  charset=utf-8";
    store.put("t/key", media_type, Bytes::new()).await.unwrap();
    let head = store.head("t/key").await.unwrap().unwrap();
    assert_eq!(head.media_type.as_deref(), Some(media_type));
    let refused = store
        .put("t/key", "text/plain\r\nx-amz-acl: public", Bytes::new())
        .await;
    assert!(matches!(refused, Err(ObjectError::Refused { .. })));
}

#[tokio::test]
async fn an_empty_object_has_a_beginning_of_nothing() {
    let (_server, store) = started(|_| {}).await;
    let etag = store
        .put("t/empty", "text/plain", Bytes::new())
        .await
        .unwrap();
    let beginning = store.get_beginning("t/empty", 10).await.unwrap().unwrap();
    assert_eq!((beginning.size, beginning.etag), (0, etag));
    assert_eq!(store.get_bytes("t/empty", 0).await.unwrap(), "");
    assert_eq!(store.get_beginning("t/none", 10).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_hashed_is_taken_too() {
    let (server, store) = started(|settings| settings.trusts_network = true).await;
    let bytes = Bytes::from(vec![7; 5 * MIB]);
    store
        .put("t/key", "text/plain", bytes.clone())
        .await
        .unwrap();
    assert_eq!(store.get_bytes("t/key", u64::MAX).await.unwrap(), bytes);
    let upload = store.create_multipart("t/parts", None).await.unwrap();
    let etag = store
        .upload_part("t/parts", &upload, 1, bytes.clone())
        .await
        .unwrap();
    let parts = [PartTag { number: 1, etag }];
    store
        .complete_multipart("t/parts", &upload, &parts)
        .await
        .unwrap();
    assert_eq!(store.get_bytes("t/parts", u64::MAX).await.unwrap(), bytes);
    let gone = store.upload_part("t/parts", &upload, 2, Bytes::new()).await;
    // Others answer in ways of their own.
    if server.is_some() {
        assert!(matches!(gone, Err(ObjectError::NotFound { .. })));
    }
}
