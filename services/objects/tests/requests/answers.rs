//! What is made of answers, good and bad.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use caudal_objects::{ObjectError, StoreTrouble};
use futures::StreamExt;

use crate::scripted::{Scripted, answer, error};

const ETAG: (&str, &str) = ("ETag", "\"e\"");

#[tokio::test]
async fn a_store_that_is_busy_once_is_asked_again_with_the_same_bytes() {
    for busy in [
        error("503 Slow Down", "SlowDown"),
        error("500 Internal Server Error", "InternalError"),
        answer("502 Bad Gateway", &[], "<html>"),
        answer("429 Too Many Requests", &[], ""),
        error("400 Bad Request", "RequestTimeout"),
    ] {
        let scripted = Scripted::answers(vec![busy, answer("200 OK", &[ETAG], "")]).await;
        let bytes = Bytes::from_static(b"the bytes");
        let etag = scripted
            .store
            .put("key", "text/plain", bytes)
            .await
            .unwrap();
        assert_eq!(etag, "e");
        let asked = scripted.asked();
        assert_eq!(asked.len(), 2);
        for asked in asked {
            assert_eq!(asked.line(), "PUT /bucket/key HTTP/1.1");
            assert_eq!(asked.header("content-type"), Some("text/plain"));
            assert_eq!(asked.header("content-length"), Some("9"));
            assert_eq!(asked.body, b"the bytes");
        }
    }
}

#[tokio::test]
async fn a_store_that_stays_busy_is_asked_three_times() {
    let scripted = Scripted::answers(vec![error("503 Slow Down", "SlowDown")]).await;
    let refused = scripted.store.get("key", None).await.unwrap_err();
    assert_eq!(refused.trouble(), Some(StoreTrouble::Busy), "{refused}");
    assert_eq!(refused.key(), "key");
    assert_eq!(scripted.asked().len(), 3);
}

#[tokio::test]
async fn what_another_try_does_not_mend_is_asked_once() {
    for (status, code) in [
        ("403 Forbidden", "AccessDenied"),
        ("412 Precondition Failed", "PreconditionFailed"),
        ("404 Not Found", "NoSuchKey"),
        ("404 Not Found", "NoSuchBucket"),
        ("501 Not Implemented", "NotImplemented"),
        ("301 Moved Permanently", "PermanentRedirect"),
        ("507 Insufficient Storage", "XMinioStorageFull"),
    ] {
        let scripted = Scripted::answers(vec![error(status, code)]).await;
        let refused = scripted.store.get("key", None).await.unwrap_err();
        match (code, &refused) {
            ("NoSuchKey", ObjectError::NotFound { .. })
            | ("PreconditionFailed", ObjectError::PreconditionFailed { .. }) => {}
            ("XMinioStorageFull", error) => assert_eq!(error.trouble(), Some(StoreTrouble::Full)),
            (
                _,
                ObjectError::Refused {
                    code: told, detail, ..
                },
            ) => {
                assert_eq!((told.as_str(), detail.as_str()), (code, "in words"));
            }
            _ => panic!("{code}: {refused}"),
        }
        assert_eq!(scripted.asked().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn an_answer_without_words_is_told_by_its_status() {
    let scripted = Scripted::answers(vec![answer("404 Not Found", &[], "")]).await;
    assert_eq!(scripted.store.head("key").await.unwrap(), None);
    scripted.store.delete("key").await.unwrap();
    let scripted = Scripted::answers(vec![answer("403 Forbidden", &[], "")]).await;
    let refused = scripted.store.head("key").await.unwrap_err();
    assert!(matches!(&refused, ObjectError::Refused { code, .. } if code == "403"));
    assert_eq!(refused.trouble(), Some(StoreTrouble::Failed));
}

#[tokio::test]
async fn a_copy_that_fails_after_its_200_has_failed() {
    let copied =
        "<?xml version=\"1.0\"?>\n<CopyObjectResult><ETag>&quot;c&quot;</ETag></CopyObjectResult>";
    let copied = answer("200 OK", &[], copied);
    let failed = error("200 OK", "InternalError");
    let scripted = Scripted::answers(vec![failed.clone(), copied.clone()]).await;
    let copy = |scripted: &Scripted| {
        let store = scripted.store.clone();
        async move { store.copy_sized_if_match("a b", "e", 1, "to").await }
    };
    assert_eq!(copy(&scripted).await.unwrap(), "c");
    let asked = scripted.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].line(), "PUT /bucket/to HTTP/1.1");
    assert_eq!(asked[1].header("x-amz-copy-source"), Some("bucket/a%20b"));
    assert_eq!(asked[1].header("x-amz-copy-source-if-match"), Some("\"e\""));
    assert_eq!(asked[1].header("content-length"), Some("0"));

    let scripted = Scripted::answers(vec![failed]).await;
    let refused = copy(&scripted).await.unwrap_err();
    assert!(
        refused.is_retryable() && refused.key() == "a b",
        "{refused}"
    );
    assert_eq!(scripted.asked().len(), 3);

    for (body, is_later) in [("", true), ("<Other/>", true), ("words", false)] {
        let scripted = Scripted::answers(vec![answer("200 OK", &[], body)]).await;
        let refused = copy(&scripted).await.unwrap_err();
        assert_eq!(refused.is_retryable(), is_later, "{body}: {refused}");
    }
    let missing = Scripted::answers(vec![error("404 Not Found", "NoSuchKey")]).await;
    let refused = copy(&missing).await.unwrap_err();
    assert!(matches!(&refused, ObjectError::NotFound { key } if key == "a b"));
    let changed = error("412 Precondition Failed", "PreconditionFailed");
    let changed = Scripted::answers(vec![changed]).await;
    let refused = copy(&changed).await.unwrap_err();
    assert!(matches!(refused, ObjectError::PreconditionFailed { .. }));
}

#[tokio::test]
async fn a_body_that_is_cut_or_too_long_is_no_object() {
    let cut = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 9\r\n\r\nshort".to_owned();
    let scripted = Scripted::answers(vec![cut]).await;
    let mut object = scripted.store.get("key", None).await.unwrap();
    assert_eq!(object.stream.next().await.unwrap().unwrap(), "short");
    let broken = object.stream.next().await.unwrap().unwrap_err();
    assert!(broken.is_retryable(), "{broken}");
    assert!(object.stream.next().await.is_none());
    let broken = scripted.store.get_bytes("key", 100).await.unwrap_err();
    assert!(broken.is_retryable(), "{broken}");

    let part = "HTTP/1.1 206 Partial Content\r\nETag: \"e\"\r\nContent-Range: bytes 0-8/20\r\n\
                Content-Length: 9\r\n\r\nshort";
    let scripted = Scripted::answers(vec![part.to_owned()]).await;
    let broken = scripted
        .store
        .get_range("key", None, 0..9)
        .await
        .unwrap_err();
    assert!(broken.is_retryable(), "{broken}");
    let broken = scripted.store.get_beginning("key", 9).await.unwrap_err();
    assert!(broken.is_retryable(), "{broken}");
    // Another part than was asked for.
    let refused = scripted
        .store
        .get_range("key", None, 3..12)
        .await
        .unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
}

#[tokio::test]
async fn the_beginning_of_an_object_is_one_request() {
    let part = [ETAG, ("Content-Range", "bytes 0-3/20")];
    let part = answer("206 Partial Content", &part, "0123");
    let scripted = Scripted::answers(vec![part]).await;
    let beginning = scripted
        .store
        .get_beginning("key", 4)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((beginning.size, beginning.etag.as_str()), (20, "e"));
    assert_eq!(beginning.bytes, "0123");
    let asked = scripted.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line(), "GET /bucket/key HTTP/1.1");
    assert_eq!(asked[0].header("range"), Some("bytes=0-3"));

    let none = Scripted::answers(vec![error("404 Not Found", "NoSuchKey")]).await;
    assert_eq!(none.store.get_beginning("key", 4).await.unwrap(), None);
    assert_eq!(none.asked().len(), 1);
}

#[tokio::test]
async fn the_beginning_is_told_from_the_whole_and_from_nothing() {
    let whole = answer("200 OK", &[ETAG], "0123456789");
    let scripted = Scripted::answers(vec![whole]).await;
    let beginning = scripted
        .store
        .get_beginning("key", 4)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((beginning.size, &beginning.bytes[..]), (10, &b"0123"[..]));
    let beginning = scripted
        .store
        .get_beginning("key", 40)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(beginning.size, 10);
    assert_eq!(beginning.bytes, "0123456789");
    assert_eq!(scripted.asked().len(), 2);

    let nothing = answer("200 OK", &[ETAG], "");
    for refused in [
        error("416 Range Not Satisfiable", "InvalidRange"),
        answer("416 Range Not Satisfiable", &[], ""),
    ] {
        let scripted = Scripted::answers(vec![refused, nothing.clone()]).await;
        let beginning = scripted
            .store
            .get_beginning("key", 4)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((beginning.size, beginning.etag.as_str()), (0, "e"));
        assert_eq!(beginning.bytes, "");
        assert_eq!(scripted.asked().len(), 2);
        assert!(scripted.asked()[1].line().starts_with("HEAD "));
    }
    // Of nothing some say that it is a part of as much as was asked for.
    let part = [ETAG, ("Content-Range", "bytes 0-3/0")];
    let part = answer("206 Partial Content", &part, "");
    let part = part.replace("Content-Length: 0", "Content-Length: 4");
    let scripted = Scripted::answers(vec![part, nothing]).await;
    let beginning = scripted.store.get_beginning("key", 4).await.unwrap();
    assert_eq!(beginning.unwrap().size, 0);
    assert_eq!(scripted.asked().len(), 1);
    // A part that does not say of what.
    let part = [ETAG, ("Content-Range", "bytes 0-3/*")];
    let part = answer("206 Partial Content", &part, "0123");
    let head = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 20\r\n\r\n".to_owned();
    let scripted = Scripted::answers(vec![part.clone(), head, part]).await;
    let beginning = scripted
        .store
        .get_beginning("key", 4)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((beginning.size, &beginning.bytes[..]), (20, &b"0123"[..]));
}

#[tokio::test]
async fn another_object_than_the_one_asked_for_is_refused_although_the_store_gives_it() {
    let other = [("ETag", "\"other\""), ("Content-Range", "bytes 0-3/20")];
    let scripted = Scripted::answers(vec![answer("206 Partial Content", &other, "0123")]).await;
    let refused = scripted.store.get_range("key", Some("e"), 0..4).await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    let refused = scripted.store.get("key", Some("\"e\"")).await;
    assert!(matches!(
        refused,
        Err(ObjectError::PreconditionFailed { .. })
    ));
    assert_eq!(scripted.asked()[0].header("if-match"), Some("\"e\""));
    assert_eq!(scripted.asked()[1].header("if-match"), Some("\"e\""));
}

#[tokio::test]
async fn a_page_of_deletions_has_failed_where_one_of_it_has() {
    let failed = |code: &str| {
        let body = format!(
            "<DeleteResult><Error><Key>gone</Key><Code>NoSuchKey</Code></Error>\
             <Error><Key>k&amp;1</Key><Code>{code}</Code><Message>in words</Message></Error></DeleteResult>"
        );
        answer("200 OK", &[], &body)
    };
    let keys = ["k&1".to_owned(), "gone".to_owned()];
    let scripted = Scripted::answers(vec![failed("AccessDenied")]).await;
    let refused = scripted.store.delete_many(&keys).await.unwrap_err();
    assert!(matches!(&refused, ObjectError::Refused { key, code, .. }
        if key == "k&1" && code == "AccessDenied"));
    let asked = &scripted.asked()[0];
    assert_eq!(asked.line(), "POST /bucket/?delete= HTTP/1.1");
    assert!(asked.header("content-md5").is_some());
    assert!(String::from_utf8_lossy(&asked.body).contains("<Key>k&amp;1</Key>"));

    let scripted = Scripted::answers(vec![failed("SlowDown")]).await;
    let refused = scripted.store.delete_many(&keys).await.unwrap_err();
    assert!(refused.is_retryable() && refused.key() == "k&1");
    for well in ["<DeleteResult/>", ""] {
        let scripted = Scripted::answers(vec![answer("200 OK", &[], well)]).await;
        scripted.store.delete_many(&keys).await.unwrap();
    }
    let scripted = Scripted::answers(vec![failed("NoSuchKey")]).await;
    scripted.store.delete_many(&keys).await.unwrap();
}

#[tokio::test]
async fn a_store_with_another_clock_is_asked_by_its_own() {
    let hour = Duration::from_secs(3600);
    let told = httpdate::fmt_http_date(SystemTime::now() + hour);
    let words = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    // An answer to HEAD has no words.
    for body in [words, ""] {
        let skewed = answer("403 Forbidden", &[("Date", &told)], body);
        let well = answer("200 OK", &[ETAG], "");
        let scripted = Scripted::answers(vec![skewed, well]).await;
        if body.is_empty() {
            scripted.store.head("key").await.unwrap();
        }
        scripted.store.get_bytes("key", 0).await.unwrap();
        scripted.store.head("key").await.unwrap();
        let asked = scripted.asked();
        let times: Vec<i64> = asked
            .iter()
            .map(|asked| seconds(asked.header("x-amz-date")))
            .collect();
        assert!(times.len() > 2);
        for later in &times[1..] {
            let ahead = (later - times[0]).rem_euclid(24 * 3600);
            assert!((3590..3700).contains(&ahead), "{times:?}");
        }
    }
    // One that only refuses is not asked again.
    let now = httpdate::fmt_http_date(SystemTime::now());
    let refused = answer("403 Forbidden", &[("Date", &now)], "");
    let scripted = Scripted::answers(vec![refused]).await;
    assert!(scripted.store.head("key").await.is_err());
    assert_eq!(scripted.asked().len(), 1);
}

/// Of the day, of a compact time.
fn seconds(time: Option<&str>) -> i64 {
    let (_, time) = time.unwrap().split_once('T').unwrap();
    let number = |at: usize| time[at..at + 2].parse::<i64>().unwrap();
    number(0) * 3600 + number(2) * 60 + number(4)
}

#[tokio::test]
async fn one_connection_carries_one_request_after_the_other() {
    let object = answer("200 OK", &[ETAG], "bytes");
    let scripted = Scripted::answers(vec![object]).await;
    for _ in 0..20 {
        assert_eq!(scripted.store.get_bytes("key", 5).await.unwrap(), "bytes");
        let refused = scripted.store.get_bytes("key", 4).await;
        assert!(matches!(refused, Err(ObjectError::TooLarge { .. })));
    }
    // Those that were not read to their end may have ended theirs.
    assert!(scripted.connections() <= 21, "{}", scripted.connections());
    let scripted = Scripted::answers(vec![answer("200 OK", &[ETAG], "bytes")]).await;
    for _ in 0..20 {
        scripted.store.get_bytes("key", 5).await.unwrap();
    }
    assert_eq!(scripted.connections(), 1);
}

#[tokio::test]
async fn bodies_are_hashed_unless_nobody_could_change_them() {
    let put = async |scripted: &Scripted| {
        let bytes = Bytes::from_static(b"bytes");
        scripted
            .store
            .put("key", "text/plain", bytes)
            .await
            .unwrap();
        let asked = scripted.asked().pop().unwrap();
        asked.header("x-amz-content-sha256").unwrap().to_owned()
    };
    let well = || vec![answer("200 OK", &[ETAG], "")];
    let scripted = Scripted::answers(well()).await;
    assert_eq!(
        put(&scripted).await,
        "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    );
    let trusted = Scripted::answers_to(well(), |settings| settings.trusts_network = true).await;
    assert_eq!(put(&trusted).await, "UNSIGNED-PAYLOAD");
}

#[tokio::test]
async fn a_bucket_in_the_host_name_is_asked_for_there() {
    let well = answer("200 OK", &[ETAG], "bytes");
    let scripted = Scripted::answers_to(vec![well], |settings| {
        settings.endpoint = settings.endpoint.replace("127.0.0.1", "localhost");
        settings.force_path_style = false;
    });
    let scripted = scripted.await;
    let host = format!(
        "bucket.{}",
        scripted.address().replace("127.0.0.1", "localhost")
    );
    // Names below localhost are this machine where its resolver knows that; what is signed is the same.
    let signed = scripted
        .store
        .presign_get("a key", Duration::from_secs(60), None);
    let url = signed.await.unwrap().url;
    assert!(url.starts_with(&format!("http://{host}/a%20key?")), "{url}");
    if tokio::net::lookup_host(&host).await.is_err() {
        return;
    }
    assert_eq!(scripted.store.get_bytes("a key", 5).await.unwrap(), "bytes");
    let asked = &scripted.asked()[0];
    assert_eq!(asked.line(), "GET /a%20key HTTP/1.1");
    assert_eq!(asked.header("host"), Some(host.as_str()));
}
