//! The upload stage against the embedded S3 server.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use caudal_domain::keys::{final_key, landing_key};
use caudal_domain::{
    BatchId, FileRef, Generation, Reason, Stage, StageSet, Target, TenantId, Token, WarningCode,
};
use caudal_harness::{S3, StoreProxy};
use caudal_objects::{ObjectStore, Settings};
use caudal_stage::{ArtifactWriter, Handler, Job};
use caudal_upload::Upload;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// sha256 of "hello\n".
const HELLO_SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

/// More than the stage keeps of a beginning and an end.
const LARGE: &[u8] = &[7; 3 << 20];

struct Stand {
    store: ObjectStore,
    server: S3,
}

impl Stand {
    async fn new() -> Self {
        let server = S3::start().await.unwrap();
        let settings = Settings::new(server.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
        let store = ObjectStore::connect(settings).unwrap();
        store.ensure_bucket().await.unwrap();
        Self { store, server }
    }

    /// A job for bytes that have landed and been confirmed.
    async fn landed(&self, bytes: &'static [u8], path: &str) -> Job {
        let source = landing_key(file(), Target(1));
        let etag = self
            .store
            .put(
                &source,
                "application/octet-stream",
                Bytes::from_static(bytes),
            )
            .await
            .unwrap();
        let mut job = self.job(path, bytes.len() as u64);
        job.source_key = Some(source);
        job.etag = Some(etag);
        job
    }

    fn job(&self, path: &str, declared_size: u64) -> Job {
        let artifacts = ArtifactWriter::new(
            self.store.clone(),
            Stage::Upload,
            file(),
            Generation(1),
            Token(2),
            "00000000",
        );
        Job {
            dimensions: None,
            file: file(),
            token: Token(2),
            generation: Generation(1),
            path: path.to_owned(),
            media_type: None,
            source_key: None,
            final_key: None,
            etag: None,
            declared_size,
            declared_sha256: None,
            content_sha256: None,
            inputs: Vec::new(),
            entry_metadata: serde_json::Value::Null,
            stages: StageSet::all(),
            suspect: false,
            idempotency_key: String::new(),
            objects: self.store.clone(),
            artifacts,
            cancelled: CancellationToken::new(),
        }
    }
}

fn file() -> FileRef {
    FileRef {
        tenant: TenantId::from_uuid(Uuid::from_u128(1)),
        batch: BatchId::from_uuid(Uuid::from_u128(2)),
        ordinal: 3,
    }
}

fn hello_sha256() -> [u8; 32] {
    hex::decode(HELLO_SHA256).unwrap().try_into().unwrap()
}

/// What a client of the store is asked for by one call of the stage.
async fn asked_of(stand: &Stand, mut job: Job) -> Vec<String> {
    let proxy = StoreProxy::start(&stand.server.endpoint(), 1)
        .await
        .unwrap();
    let settings = Settings::new(proxy.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
    job.objects = ObjectStore::connect(settings).unwrap();
    Upload.handle(job).await.unwrap();
    proxy.take_asked()
}

#[tokio::test]
async fn what_is_verified_already_is_one_request() {
    let stand = Stand::new().await;
    let kept = final_key(file(), &hello_sha256());
    let get = [format!("GET /{}/{kept}", S3::BUCKET)];
    let hello = Bytes::from_static(b"hello\n");
    stand.store.put(&kept, "text/plain", hello).await.unwrap();
    let mut job = stand.job("hello.txt", 6);
    job.source_key = Some(landing_key(file(), Target(1)));
    job.declared_sha256 = Some(hello_sha256());
    assert_eq!(asked_of(&stand, job).await, get);
}

#[tokio::test]
async fn what_nobody_knows_is_read_once_and_copied_once() {
    let stand = Stand::new().await;
    for (bytes, path) in [(&b"hello\n"[..], "hello.txt"), (LARGE, "large.bin")] {
        let job = stand.landed(bytes, path).await;
        let landed = job.source_key.clone().unwrap();
        let kept = final_key(file(), &Sha256::digest(bytes).into());
        let bucket = S3::BUCKET;
        assert_eq!(
            asked_of(&stand, job).await,
            [
                format!("GET /{bucket}/{landed}"),
                format!("PUT /{bucket}/{kept}")
            ]
        );
    }
}

#[tokio::test]
async fn what_landed_is_verified_and_copied_to_its_final_key() {
    let stand = Stand::new().await;
    let mut job = stand.landed(b"hello\n", "in/hello.txt").await;
    job.declared_sha256 = Some(hello_sha256());
    let done = Upload.handle(job).await.unwrap();

    let kept = stand
        .store
        .get_bytes(&final_key(file(), &hello_sha256()), 100)
        .await
        .unwrap();
    assert_eq!(kept.as_ref(), b"hello\n");
    assert_eq!(done.content_sha256, Some(hello_sha256()));
    assert_eq!(done.media_type.as_deref(), Some("text/plain"));
    assert_eq!(
        (done.artifacts[0].name.as_str(), done.artifacts[0].size),
        ("original", 6)
    );
    assert!(
        done.facts["etag"]
            .as_str()
            .is_some_and(|etag| !etag.is_empty())
    );
    assert!(done.warnings.is_empty());
    assert_eq!(done.usage.bytes, 6);
}

#[tokio::test]
async fn what_landed_is_named_to_be_freed_and_not_deleted() {
    // protocol 12.4: deleting before the report, a crash in between, and the retry finds nothing.
    let stand = Stand::new().await;
    let job = stand.landed(b"hello\n", "hello.txt").await;
    let landing = job.source_key.clone().unwrap();
    let done = Upload.handle(job).await.unwrap();
    assert!(stand.store.head(&landing).await.unwrap().is_some());
    assert_eq!(done.landing_key, Some(landing));
}

#[tokio::test]
async fn other_bytes_than_those_confirmed_need_the_bytes_again() {
    // protocol 12.4: without the condition unverified bytes become final.
    let stand = Stand::new().await;
    let job = stand.landed(b"hello\n", "hello.txt").await;
    let landing = job.source_key.clone().unwrap();
    stand
        .store
        .put(&landing, "text/plain", Bytes::from_static(b"other\n"))
        .await
        .unwrap();
    let failure = Upload.handle(job).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ObjectChanged);
    assert!(failure.reason.needs_bytes() && !failure.reason.retryable());
}

#[tokio::test]
async fn what_stands_under_its_declared_checksum_is_read_no_further_than_its_type_asks() {
    // protocol 12.5: the store verified it, so nothing has landed and nothing is copied.
    let stand = Stand::new().await;
    let mut bytes = b"%PDF-1.7\n".to_vec();
    bytes.resize(1 << 20, b'x');
    let mut job = stand.job("in/plan.pdf", bytes.len() as u64);
    job.source_key = Some(landing_key(file(), Target(1)));
    // A store may give the same bytes another ETag each time, and a URL that is still valid be used twice.
    job.etag = Some("of-an-earlier-put".to_owned());
    job.declared_sha256 = Some([7; 32]);
    let kept = final_key(file(), &[7; 32]);
    let put = stand
        .store
        .put(&kept, "application/octet-stream", bytes.into());
    let etag = put.await.unwrap();
    let done = Upload.handle(job).await.unwrap();
    assert_eq!(done.content_sha256, Some([7; 32]));
    assert_eq!(done.media_type.as_deref(), Some("application/pdf"));
    assert_eq!(done.facts["etag"], etag);
    assert_eq!(done.landing_key, None);
    assert_eq!(
        (done.usage.bytes, done.artifacts[0].size),
        (64 << 10, 1 << 20)
    );
}

#[tokio::test]
async fn a_missing_object_is_retried_first() {
    let stand = Stand::new().await;
    let job = stand.landed(b"hello\n", "hello.txt").await;
    stand
        .store
        .delete(job.source_key.as_deref().unwrap())
        .await
        .unwrap();
    let failure = Upload.handle(job).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ObjectMissing);
    assert!(failure.reason.retryable());
}

#[tokio::test]
async fn a_wrong_size_or_checksum_is_told_with_both_values() {
    let stand = Stand::new().await;
    let mut job = stand.landed(b"hello\n", "hello.txt").await;
    job.declared_size = 7;
    let failure = Upload.handle(job).await.unwrap_err();
    assert_eq!(
        (failure.reason, failure.detail.as_str()),
        (Reason::SizeMismatch, "declared 7 bytes, found 6")
    );

    let mut job = stand.landed(b"hello\n", "hello.txt").await;
    job.declared_sha256 = Some([0xab; 32]);
    let failure = Upload.handle(job).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ChecksumMismatch);
    assert_eq!(
        failure.detail,
        format!("sha256 declared {}, found {HELLO_SHA256}", "ab".repeat(32))
    );
    assert!(
        stand
            .store
            .head(&final_key(file(), &hello_sha256()))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_reprocess_reads_the_final_object_and_copies_nothing() {
    let stand = Stand::new().await;
    let kept = final_key(file(), &hello_sha256());
    stand
        .store
        .put(&kept, "text/plain", Bytes::from_static(b"hello\n"))
        .await
        .unwrap();
    let mut job = stand.job("hello.txt", 6);
    job.source_key = Some(kept.clone());
    job.final_key = Some(kept);
    job.etag = Some("of the landing object, long gone".to_owned());
    job.content_sha256 = Some(hello_sha256());
    let done = Upload.handle(job).await.unwrap();
    assert_eq!(done.content_sha256, Some(hello_sha256()));
    assert_eq!(done.landing_key, None);
}

#[tokio::test]
async fn a_reprocess_of_content_that_another_file_lent_leaves_it_there() {
    let stand = Stand::new().await;
    let holder = FileRef {
        ordinal: 9,
        ..file()
    };
    let held = final_key(holder, &hello_sha256());
    let bytes = Bytes::from_static(b"hello\n");
    stand.store.put(&held, "text/plain", bytes).await.unwrap();
    let mut job = stand.job("hello.txt", 6);
    job.source_key = Some(held.clone());
    job.content_sha256 = Some(hello_sha256());
    let done = Upload.handle(job).await.unwrap();
    assert_eq!(done.landing_key, None);
    let kept = final_key(file(), &hello_sha256());
    assert!(stand.store.head(&kept).await.unwrap().is_some());
}

#[tokio::test]
async fn a_name_that_promises_something_else_is_a_warning() {
    let stand = Stand::new().await;
    let job = stand.landed(b"hello\n", "scans/hello.pdf").await;
    let done = Upload.handle(job).await.unwrap();
    assert_eq!(done.media_type.as_deref(), Some("text/plain"));
    assert_eq!(done.warnings[0].code, WarningCode::MediaTypeDiffers);
    assert!(done.warnings[0].words.contains("hello.pdf"));
}

#[tokio::test]
async fn an_empty_file_is_kept() {
    let stand = Stand::new().await;
    let job = stand.landed(b"", "empty.txt").await;
    let done = Upload.handle(job).await.unwrap();
    assert_eq!(done.media_type.as_deref(), Some("application/x-empty"));
    let kept = final_key(file(), &done.content_sha256.unwrap());
    assert_eq!(stand.store.head(&kept).await.unwrap().unwrap().size, 0);
}

#[tokio::test]
async fn an_absent_store_is_worth_a_retry() {
    let stand = Stand::new().await;
    let away = ObjectStore::connect(Settings::new(
        "http://127.0.0.1:9",
        "bucket",
        "key",
        "secret",
    ))
    .unwrap();
    let mut job = stand.landed(b"hello\n", "hello.txt").await;
    job.objects = away;
    let failure = Upload.handle(job).await.unwrap_err();
    assert_eq!(failure.reason, Reason::StoreUnavailable);
    assert!(failure.reason.retryable());
}

/// A key is half of what it takes to get at an object, and failures are shown to whoever may read the file's record.
#[tokio::test]
async fn a_failure_of_the_store_tells_no_key() {
    let stand = Stand::new().await;
    let nowhere = Settings::new("http://127.0.0.1:9", "bucket", "key", "secret");
    let away = ObjectStore::connect(nowhere).unwrap();
    let stranger = Settings::new(stand.server.endpoint(), S3::BUCKET, S3::ACCESS_KEY, "wrong");
    let stranger = ObjectStore::connect(stranger).unwrap();
    let mut failures = Vec::new();

    let missing = stand.landed(b"hello\n", "hello.txt").await;
    let landing = missing.source_key.clone().unwrap();
    stand.store.delete(&landing).await.unwrap();
    failures.push(Upload.handle(missing).await.unwrap_err());

    let replaced = stand.landed(b"hello\n", "hello.txt").await;
    let other = Bytes::from_static(b"other\n");
    stand
        .store
        .put(&landing, "text/plain", other)
        .await
        .unwrap();
    failures.push(Upload.handle(replaced).await.unwrap_err());

    let mut unreachable = stand.landed(b"hello\n", "hello.txt").await;
    unreachable.objects = away;
    failures.push(Upload.handle(unreachable).await.unwrap_err());

    let mut refused = stand.landed(b"hello\n", "hello.txt").await;
    refused.objects = stranger.clone();
    refused.final_key = Some(final_key(file(), &hello_sha256()));
    let fetched = caudal_stage::sandbox::fetch_input(&refused, 100, Reason::Internal).await;
    failures.push(fetched.unwrap_err());
    failures.push(Upload.handle(refused).await.unwrap_err());
    let (stage, generation) = (Stage::Upload, Generation(1));
    let mut artifacts = ArtifactWriter::new(stranger, stage, file(), generation, Token(2), "0");
    let put = artifacts.put("text.txt", "text/plain", Bytes::new()).await;
    failures.push(put.unwrap_err());

    assert_eq!(failures.len(), 6);
    let tenant = file().tenant.to_string();
    for failure in failures {
        let detail = failure.detail;
        assert!(
            !detail.contains('/') && !detail.contains(&tenant),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn what_tells_the_type_is_read_wherever_it_is_in_the_object() {
    let stand = Stand::new().await;
    for (bytes, path, expected) in [
        (
            package_with_a_long_directory(),
            "many entries.bin",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (
            container_with_a_far_directory(),
            "far.bin",
            "application/vnd.ms-powerpoint",
        ),
    ] {
        let size = bytes.len();
        assert!(size > 600 << 10, "{size}");
        let bytes: &'static [u8] = Vec::leak(bytes);
        let job = stand.landed(bytes, path).await;
        let done = Upload.handle(job).await.unwrap();
        assert_eq!(done.media_type.as_deref(), Some(expected), "{path}");
        // Where not all of it is read, too.
        let mut job = stand.job(path, size as u64);
        job.source_key = Some(landing_key(file(), Target(2)));
        job.declared_sha256 = done.content_sha256;
        let again = Upload.handle(job).await.unwrap();
        assert_eq!(again.media_type.as_deref(), Some(expected), "{path}");
        assert!(again.usage.bytes < size as u64);
    }
}

/// Its list of types is the first of many thousand entries: neither that nor its line of the directory is near an end.
fn package_with_a_long_directory() -> Vec<u8> {
    let types = "<Types><Override PartName=\"/x\" ContentType=\"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml\"/></Types>";
    let options = zip::write::SimpleFileOptions::default();
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .start_file(
            "padding.bin",
            options.compression_method(zip::CompressionMethod::Stored),
        )
        .unwrap();
    std::io::Write::write_all(&mut writer, &[0; 128 << 10]).unwrap();
    writer.start_file("[Content_Types].xml", options).unwrap();
    std::io::Write::write_all(&mut writer, types.as_bytes()).unwrap();
    for number in 0..6_000 {
        writer
            .start_file(
                format!("media/a-picture-with-quite-a-long-name-{number:040}"),
                options,
            )
            .unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn container_with_a_far_directory() -> Vec<u8> {
    let mut file = cfb::CompoundFile::create(std::io::Cursor::new(Vec::new())).unwrap();
    for number in 0..6 {
        let mut padding = file.create_stream(format!("padding {number}")).unwrap();
        std::io::Write::write_all(&mut padding, &vec![7; 200 << 10]).unwrap();
    }
    let mut slides = file.create_stream("PowerPoint Document").unwrap();
    std::io::Write::write_all(&mut slides, &vec![7; 400 << 10]).unwrap();
    drop(slides);
    file.flush().unwrap();
    file.into_inner().into_inner()
}
