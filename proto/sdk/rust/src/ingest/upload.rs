//! Moves bytes: asks for targets in pages just in time, and PUTs files in parallel on few connections.

use std::fs;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use caudal_domain::Reason;
use caudal_proto::status::from_parts;
use caudal_proto::v1;
use caudal_proto::v1::upload_target::How;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;

use super::attempt::{Attempt, attempt_of};
use super::confirm::{Landed, Sent};
use super::progress::{Board, Silent};
use super::{IngestError, IngestSettings, Waiting};
use crate::bulk::Bulk;
use crate::client::Client;
use crate::http::{Body, Http, streamed, whole};
use crate::retry::Backoff;
use crate::walk::{FoundFile, NotTaken, Problem};

const TARGETS_A_PAGE: usize = 200;
/// Files up to this size are read at once and sent as one body.
const SMALL_FILE: u64 = 128 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// A target is asked for anew when it expires sooner than this.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// Every PUT may take this long, and a second more for each of so many bytes.
const PUT_TIMEOUT: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_A_SECOND: u64 = 32 * 1024;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Parts of one file that are sent at a time.
const PARTS_AT_ONCE: usize = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long one question for the end of a retry may wait for it.
const RETRIED_WITHIN: Duration = Duration::from_secs(20);
/// The gateway's word for a file that has failed and takes no bytes before it is retried.
const FILE_FAILED: &str = "FILE_FAILED";

/// A file and where its bytes go.
#[derive(Debug)]
pub(super) struct Assigned {
    waiting: Waiting,
    target: Target,
}

/// Where bytes go, and since when at the latest that is good: the gateway says for how long, and its clock is not ours.
#[derive(Debug)]
struct Target {
    target: v1::UploadTarget,
    asked_at: Instant,
}

impl Target {
    fn expires_soon(&self, valid_for: Option<prost_types::Duration>) -> bool {
        let valid_for = valid_for.and_then(|time| Duration::try_from(time).ok());
        valid_for.is_some_and(|time| self.asked_at.elapsed() + EXPIRY_MARGIN > time)
    }
}

/// Asks for targets of the files that wait and hands them to the uploader. Files that failed for want of their bytes are
/// retried first, so that they wait for them again.
pub(super) async fn issue(
    client: &Client,
    batch: &str,
    mut waiting: mpsc::Receiver<Waiting>,
    targets: mpsc::Sender<Assigned>,
    sent: mpsc::Sender<Sent>,
    board: &Board,
) -> Result<(), IngestError> {
    let mut page = Vec::with_capacity(TARGETS_A_PAGE);
    while waiting.recv_many(&mut page, TARGETS_A_PAGE).await > 0 {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut retried = false;
        while !page.is_empty() {
            let ordinals = page.iter().map(|one| one.ordinal).collect();
            let asked_at = Instant::now();
            let issued = client.issue_uploads(batch, ordinals).await?;
            let mut again = Vec::new();
            let mut failed = Vec::new();
            let mut left_out = Vec::new();
            for (waiting, target) in page.drain(..).zip(issued) {
                match &target.how {
                    Some(How::Put(_) | How::Multipart(_)) => {
                        let target = Target { target, asked_at };
                        if targets.send(Assigned { waiting, target }).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(How::Held(_)) => arrived_before(board, &waiting.file),
                    Some(How::Error(error)) => {
                        let refusal = from_parts(error);
                        if refusal.is_retryable() {
                            again.push(waiting);
                        } else if refusal.reason == FILE_FAILED && !retried {
                            failed.push(waiting);
                        } else if refusal.reason == FILE_FAILED {
                            // Its bytes came, and something else is wrong with it.
                            arrived_before(board, &waiting.file);
                        } else {
                            let why = NotTaken::Refused(refusal.message);
                            left_out.push(give_up(board, &waiting, why));
                        }
                    }
                    None => {
                        let why =
                            "the gateway offers a way to upload that this client does not know";
                        let why = NotTaken::UploadFailed(why.to_owned());
                        left_out.push(give_up(board, &waiting, why));
                    }
                }
            }
            for one in left_out {
                if sent.send(one).await.is_err() {
                    return Ok(());
                }
            }
            if !failed.is_empty() {
                retried = true;
                ask_for_bytes(client, batch, &failed).await?;
            }
            if !again.is_empty() {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            page.extend(failed);
            page.extend(again);
        }
    }
    Ok(())
}

/// Retries those of the files that failed for want of the right bytes.
async fn ask_for_bytes(
    client: &Client,
    batch: &str,
    failed: &[Waiting],
) -> Result<(), IngestError> {
    let selector = v1::FileSelector {
        batch: batch.to_owned(),
        ordinals: failed.iter().map(|one| one.ordinal).collect(),
        reasons: Reason::ALL
            .into_iter()
            .filter(|reason| reason.needs_bytes())
            .map(|reason| reason.code().to_owned())
            .collect(),
        ..v1::FileSelector::default()
    };
    let retry = Bulk::Retry(v1::RetryFilesRequest {
        selector: Some(selector),
        ..v1::RetryFilesRequest::default()
    });
    let mut retrying = client.begin(retry, None).await?;
    while !retrying.ended {
        retrying = client
            .wait_operation(&retrying.name, RETRIED_WITHIN)
            .await?;
    }
    Ok(())
}

fn arrived_before(board: &Board, file: &FoundFile) {
    board.update(|progress| {
        progress.uploaded_files += 1;
        progress.uploaded_bytes += file.size;
        progress.confirmed_files += 1;
        progress.arrived_files += 1;
    });
}

/// Sends files to their targets.
pub(super) struct Uploader {
    shared: Arc<Shared>,
    parallel: usize,
}

struct Shared {
    client: Client,
    batch: String,
    http: Http,
    attempts: u32,
    /// The waits of one file.
    backoff: Backoff,
    board: Board,
}

impl Uploader {
    pub(super) fn new(
        client: &Client,
        batch: &str,
        settings: &IngestSettings,
        board: &Board,
    ) -> Result<Self, IngestError> {
        let parallel = settings.parallel.max(1);
        // A proxy of the surroundings cannot reach the store of a system on loopback.
        let through_proxies = !is_on_this_machine(client.gateway());
        let http = Http::new(client.tls_config()?, parallel, through_proxies);
        let shared = Shared {
            client: client.clone(),
            batch: batch.to_owned(),
            http,
            attempts: settings.upload_attempts.max(1),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            board: board.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            parallel,
        })
    }

    /// Works until no target comes any more and all are sent or given up.
    pub(super) async fn run(
        self,
        targets: mpsc::Receiver<Assigned>,
        sent: mpsc::Sender<Sent>,
    ) -> Result<(), IngestError> {
        let targets = Arc::new(Mutex::new(targets));
        let mut workers = JoinSet::new();
        for _ in 0..self.parallel {
            let shared = Arc::clone(&self.shared);
            let targets = Arc::clone(&targets);
            let sent = sent.clone();
            workers.spawn(async move {
                loop {
                    let next = targets.lock().await.recv().await;
                    let Some(assigned) = next else { return };
                    let Some(one) = shared.upload(assigned).await else {
                        continue;
                    };
                    if sent.send(one).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(sent);
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// What the gateway says of a file that needs another target.
enum Another {
    Target(Target),
    /// The bytes are there, although the answer was lost.
    Arrived,
    NotNow,
}

impl Shared {
    /// Sends one file, or gives it up, which the board says too. `None` when it arrived otherwise.
    ///
    /// What the store is in costs no file an attempt: it is tried again for as long as that lasts, whatever becomes of others
    /// meanwhile. A file whose own request is refused has [`IngestSettings::upload_attempts`].
    async fn upload(&self, assigned: Assigned) -> Option<Sent> {
        let Assigned {
            waiting,
            mut target,
        } = assigned;
        let mut backoff = self.backoff.clone();
        let mut failures = 0;
        if let Some(How::Multipart(parts)) = &target.target.how {
            let there = u64::try_from(parts.bytes_landed).unwrap_or_default();
            self.board
                .update(|progress| progress.uploaded_bytes += there);
        }
        loop {
            let sent = match &target.target.how {
                Some(How::Multipart(parts)) => self.put_parts(&waiting.file, &target, parts).await,
                _ => self.put(&waiting.file, &target).await.map(Some),
            };
            let failed = match sent {
                // These parts are there; the gateway knows whether more are missing.
                Ok(None) => match self.another_target(waiting.ordinal).await {
                    Ok(Another::Target(another)) => {
                        target = another;
                        backoff.reset();
                        continue;
                    }
                    Ok(Another::NotNow) => Attempt::Silent("the store cannot be asked".to_owned()),
                    // Another client was quicker with the last of them.
                    Ok(Another::Arrived) => {
                        self.board.update(|progress| {
                            progress.uploaded_files += 1;
                            progress.confirmed_files += 1;
                        });
                        return None;
                    }
                    Err(why) => Attempt::Never(why),
                },
                Ok(Some(etag)) => {
                    self.board.silence(Silent::Store, None);
                    self.board.update(|progress| progress.uploaded_files += 1);
                    let uploaded = v1::Uploaded {
                        ordinal: waiting.ordinal,
                        target: target.target.target,
                        etag,
                    };
                    return Some(Sent::Landed(Landed {
                        uploaded,
                        path: waiting.file.path.as_str().to_owned(),
                    }));
                }
                Err(failed) => failed,
            };
            let needs_target = matches!(failed, Attempt::NeedsTarget(_) | Attempt::SilentThere(_));
            let (trouble, is_silent) = match failed {
                Attempt::Never(why) => {
                    return Some(give_up(&self.board, &waiting, why));
                }
                Attempt::Silent(trouble) | Attempt::SilentThere(trouble) => (trouble, true),
                Attempt::Again(trouble) | Attempt::NeedsTarget(trouble) => (trouble, false),
            };
            if is_silent {
                self.board.silence(Silent::Store, Some(&trouble));
            } else {
                failures += 1;
            }
            if failures >= self.attempts {
                let why = NotTaken::UploadFailed(trouble);
                return Some(give_up(&self.board, &waiting, why));
            }
            let wait = backoff.next_wait();
            tracing::debug!(
                path = waiting.file.path.as_str(),
                trouble,
                ?wait,
                "upload will be repeated"
            );
            tokio::time::sleep(wait).await;
            if needs_target {
                match self.another_target(waiting.ordinal).await {
                    Ok(Another::Target(another)) => target = another,
                    Ok(Another::NotNow) => {}
                    Ok(Another::Arrived) => {
                        arrived_before(&self.board, &waiting.file);
                        return None;
                    }
                    Err(why) => return Some(give_up(&self.board, &waiting, why)),
                }
            }
        }
    }

    async fn another_target(&self, ordinal: u32) -> Result<Another, NotTaken> {
        let asked_at = Instant::now();
        let issued = self.client.issue_uploads(&self.batch, vec![ordinal]).await;
        let target = issued
            .map_err(|error| NotTaken::UploadFailed(error.to_string()))?
            .pop()
            .ok_or_else(|| NotTaken::UploadFailed("no target came".to_owned()))?;
        match &target.how {
            Some(How::Put(_) | How::Multipart(_)) => {
                Ok(Another::Target(Target { target, asked_at }))
            }
            Some(How::Held(_)) => Ok(Another::Arrived),
            Some(How::Error(error)) => {
                let refusal = from_parts(error);
                match refusal.is_retryable() {
                    true => Ok(Another::NotNow),
                    false => Err(NotTaken::Refused(refusal.message)),
                }
            }
            None => Err(NotTaken::UploadFailed(
                "the gateway offers a way to upload that this client does not know".to_owned(),
            )),
        }
    }

    /// Sends the parts that are offered, some at a time. Answers an empty ETag when none was missing: the gateway makes them
    /// one object when the file is confirmed.
    async fn put_parts(
        &self,
        file: &FoundFile,
        target: &Target,
        parts: &v1::MultipartTarget,
    ) -> Result<Option<String>, Attempt> {
        if parts.first_parts.is_empty() {
            check_unchanged(file).await?;
            return Ok(Some(String::new()));
        }
        let part_size = u64::try_from(parts.part_size).unwrap_or_default();
        let mut sending = Vec::new();
        for part in &parts.first_parts {
            let from = u64::from(part.number.saturating_sub(1)).saturating_mul(part_size);
            sending.push(self.put_part(file, target, part, from));
        }
        let mut sent = futures::stream::iter(sending).buffer_unordered(PARTS_AT_ONCE);
        while let Some(sent) = sent.next().await {
            sent?;
        }
        Ok(None)
    }

    async fn put_part(
        &self,
        file: &FoundFile,
        target: &Target,
        part: &v1::PartTarget,
        from: u64,
    ) -> Result<(), Attempt> {
        if target.expires_soon(part.valid_for) {
            return Err(Attempt::NeedsTarget("the target expired".to_owned()));
        }
        let size = u64::try_from(part.size).unwrap_or_default();
        let sent = SentBytes {
            board: self.board.clone(),
            bytes: Arc::new(AtomicU64::new(0)),
            kept: false,
        };
        let mut opened = tokio::fs::File::open(&file.local)
            .await
            .map_err(not_readable)?;
        opened
            .seek(io::SeekFrom::Start(from))
            .await
            .map_err(not_readable)?;
        let body = counted(opened.take(size), &sent);
        self.send(file, &part.url, &[], size, body).await?;
        self.board.silence(Silent::Store, None);
        sent.keep(size);
        Ok(())
    }

    /// One attempt; answers the ETag of the store.
    async fn put(&self, file: &FoundFile, target: &Target) -> Result<String, Attempt> {
        let Some(How::Put(put)) = &target.target.how else {
            return Err(Attempt::NeedsTarget(
                "the target is none to PUT to".to_owned(),
            ));
        };
        if target.expires_soon(put.valid_for) {
            return Err(Attempt::NeedsTarget("the target expired".to_owned()));
        }
        if is_other_than_announced(file, &put.headers) {
            return Err(Attempt::Never(NotTaken::ChangedBefore));
        }
        let sent = SentBytes {
            board: self.board.clone(),
            bytes: Arc::new(AtomicU64::new(0)),
            kept: false,
        };
        let body = body_of(file, &sent).await?;
        let etag = self
            .send(file, &put.url, &put.headers, file.size, body)
            .await?;
        sent.keep(file.size);
        Ok(etag)
    }

    async fn send(
        &self,
        file: &FoundFile,
        url: &str,
        headers: &[v1::Header],
        size: u64,
        body: Body,
    ) -> Result<String, Attempt> {
        let mut request = Request::put(url).header("content-length", size);
        for header in headers {
            if header.name != "host" && header.name != "content-length" {
                request = request.header(&header.name, &header.value);
            }
        }
        let request = request
            .body(body)
            .map_err(|_| Attempt::NeedsTarget("the target is no address".to_owned()))?;
        let deadline = PUT_TIMEOUT + Duration::from_secs(size / SLOWEST_BYTES_A_SECOND);
        let answered = self.http.send(request, deadline).await;
        // Told first, because a file that changed explains a PUT that failed.
        check_unchanged(file).await?;
        let answer = answered.map_err(|error| match error.unreachable {
            // The store may have come back elsewhere: the gateway knows where.
            true => Attempt::SilentThere(error.words),
            false => Attempt::Silent(error.words),
        })?;
        let status = answer.status;
        if status.is_success() {
            let etag = answer.headers.get("etag");
            let etag = etag.and_then(|value| value.to_str().ok());
            return Ok(etag.unwrap_or_default().to_owned());
        }
        Err(attempt_of(status, &answer.words))
    }
}

/// Bytes of one attempt on the board; they are taken off again when it fails.
struct SentBytes {
    board: Board,
    bytes: Arc<AtomicU64>,
    kept: bool,
}

impl SentBytes {
    fn keep(mut self, size: u64) {
        let counted = self.bytes.load(Ordering::Relaxed);
        self.board
            .update(|progress| progress.uploaded_bytes += size.saturating_sub(counted));
        self.kept = true;
    }
}

impl Drop for SentBytes {
    fn drop(&mut self) {
        let counted = self.bytes.load(Ordering::Relaxed);
        if !self.kept && counted > 0 {
            self.board.update(|progress| {
                progress.uploaded_bytes = progress.uploaded_bytes.saturating_sub(counted);
            });
        }
    }
}

async fn body_of(file: &FoundFile, sent: &SentBytes) -> Result<Body, Attempt> {
    if file.size <= SMALL_FILE {
        let local = file.local.clone();
        let size = file.size;
        let read = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
            fs::File::open(local)?
                .take(size + 1)
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes = read
            .await
            .map_err(|error| Attempt::Again(error.to_string()))?
            .map_err(not_readable)?;
        if bytes.len() as u64 != size {
            return Err(Attempt::Never(NotTaken::Changed));
        }
        return Ok(whole(Bytes::from(bytes)));
    }
    let opened = tokio::fs::File::open(&file.local)
        .await
        .map_err(not_readable)?;
    Ok(counted(opened.take(file.size), sent))
}

/// A body whose bytes are on the board as they are read.
fn counted(source: impl AsyncRead + Send + 'static, sent: &SentBytes) -> Body {
    let board = sent.board.clone();
    let counted = Arc::clone(&sent.bytes);
    let chunks = ReaderStream::with_capacity(source, CHUNK_BYTES).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            let bytes = chunk.len() as u64;
            counted.fetch_add(bytes, Ordering::Relaxed);
            board.update(|progress| progress.uploaded_bytes += bytes);
        }
    });
    streamed(chunks)
}

/// Whether the target is for other content: the file changed after it was announced, and no attempt can bring what it was.
fn is_other_than_announced(file: &FoundFile, headers: &[v1::Header]) -> bool {
    let announced = headers.iter().find(|header| header.name == SHA256_HEADER);
    file.sha256
        .zip(announced)
        .is_some_and(|(sha256, announced)| BASE64.encode(sha256) != announced.value)
}

async fn check_unchanged(file: &FoundFile) -> Result<(), Attempt> {
    let metadata = tokio::fs::metadata(&file.local)
        .await
        .map_err(not_readable)?;
    let same_time = match (file.modified, metadata.modified().ok()) {
        (Some(then), Some(now)) => then == now,
        _ => true,
    };
    if metadata.len() != file.size || !same_time {
        return Err(Attempt::Never(NotTaken::Changed));
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn not_readable(error: io::Error) -> Attempt {
    Attempt::Never(match error.kind() {
        io::ErrorKind::NotFound => NotTaken::Vanished,
        _ => NotTaken::Unreadable(error.to_string()),
    })
}

/// What the board says of it goes into the batch too.
fn give_up(board: &Board, waiting: &Waiting, why: NotTaken) -> Sent {
    let left_out = Sent::left_out(waiting.ordinal, &why);
    board.give_up(Problem {
        path: waiting.file.path.as_str().to_owned(),
        why,
    });
    left_out
}

/// What a store checks content against.
const SHA256_HEADER: &str = "x-amz-checksum-sha256";

fn is_on_this_machine(gateway: &str) -> bool {
    let host = gateway.split_once("://").map_or(gateway, |(_, rest)| rest);
    host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]")
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_domain::RelativePath;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    /// Far more often than one file may fail.
    const REFUSALS: usize = 50;

    /// A store that answers the first requests with these statuses and codes and breaks one off where there is none; then it
    /// takes everything.
    async fn store(mut answers: Vec<Option<(u16, &'static str)>>) -> String {
        answers.reverse();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = [0; 4096];
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let bytes = stream.read(&mut read).await.unwrap();
                    head.extend_from_slice(&read[..bytes]);
                }
                let Some((status, code)) = answers.pop().unwrap_or(Some((200, ""))) else {
                    continue;
                };
                let body = format!("<Error><Code>{code}</Code></Error>");
                let answer = format!(
                    "HTTP/1.1 {status} x\r\netag: \"e\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}/landing")
    }

    fn shared(board: &Board) -> Shared {
        let client = Client::lazy("http://127.0.0.1:1", "caudal_x", Default::default()).unwrap();
        Shared {
            http: Http::new(client.tls_config().unwrap(), 1, false),
            client,
            batch: "batches/x".to_owned(),
            attempts: IngestSettings::default().upload_attempts,
            backoff: Backoff::new(Duration::from_micros(100), Duration::from_millis(1)),
            board: board.clone(),
        }
    }

    fn assigned(folder: &tempfile::TempDir, url: String) -> Assigned {
        let local = folder.path().join("a.txt");
        fs::write(&local, "some text").unwrap();
        let file = FoundFile {
            path: RelativePath::parse("a.txt").unwrap(),
            modified: fs::metadata(&local).unwrap().modified().ok(),
            local,
            size: 9,
            sha256: None,
        };
        let put = v1::PutTarget {
            url,
            ..v1::PutTarget::default()
        };
        Assigned {
            waiting: Waiting { ordinal: 0, file },
            target: Target {
                target: v1::UploadTarget {
                    ordinal: 0,
                    target: 1,
                    how: Some(How::Put(put)),
                },
                asked_at: Instant::now(),
            },
        }
    }

    #[tokio::test]
    async fn nothing_is_given_up_while_the_store_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::new();
        let says = [
            Some((503, "SlowDown")),
            Some((507, "XMinioStorageFull")),
            Some((500, "InternalError")),
            None,
        ];
        let url = store(says.into_iter().cycle().take(REFUSALS).collect()).await;
        let sent = shared(&board).upload(assigned(&folder, url)).await;
        let Some(Sent::Landed(landed)) = sent else {
            panic!("it was given up")
        };
        assert_eq!(landed.uploaded.etag, "\"e\"");
        let progress = board.progress();
        assert_eq!((progress.given_up, progress.silence), (0, None));
        assert_eq!(progress.uploaded_bytes, 9);
    }

    #[tokio::test]
    async fn a_file_that_the_store_refuses_again_and_again_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::new();
        let url = store(vec![Some((400, "BadDigest")); REFUSALS]).await;
        let sent = shared(&board).upload(assigned(&folder, url)).await;
        let Some(Sent::LeftOut(left_out)) = sent else {
            panic!("it was not given up")
        };
        assert!(
            left_out.cause.contains("answered 400 (BadDigest)"),
            "{}",
            left_out.cause
        );
        let problems = board.problems();
        let words = problems.first[0].why.to_string();
        assert!(words.contains("answered 400 (BadDigest)"), "{words}");
        assert_eq!(board.progress().uploaded_bytes, 0);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_any_more_is_given_up_with_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::new();
        let assigned = assigned(&folder, store(Vec::new()).await);
        fs::remove_file(folder.path().join("a.txt")).unwrap();
        let Some(Sent::LeftOut(left_out)) = shared(&board).upload(assigned).await else {
            panic!("it was not given up")
        };
        assert_eq!(left_out.cause, NotTaken::Vanished.to_string());
    }

    // No clock of another machine is asked: a target that expired long ago by its time is good for as long as was said.
    #[test]
    fn a_target_is_good_for_as_long_as_was_said_whatever_the_clocks_say() {
        let lasting = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let asked = |seconds_ago| Target {
            target: v1::UploadTarget::default(),
            asked_at: Instant::now()
                .checked_sub(Duration::from_secs(seconds_ago))
                .unwrap(),
        };
        assert!(asked(0).expires_soon(lasting(5)));
        assert!(!asked(0).expires_soon(lasting(600)));
        assert!(asked(60).expires_soon(lasting(60)));
        assert!(!asked(60).expires_soon(None), "the store will say so");
    }
}
