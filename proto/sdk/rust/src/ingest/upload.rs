//! Moves bytes: asks for targets in pages just in time, and PUTs files in parallel on few connections.

use std::fs;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use caudal_proto::v1;
use caudal_proto::v1::upload_target::How;
use futures::StreamExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;

use super::confirm::Landed;
use super::progress::Board;
use super::{IngestError, IngestSettings, Waiting};
use crate::client::Client;
use crate::retry::Backoff;
use crate::walk::{FoundFile, NotTaken, Problem};

const TARGETS_A_PAGE: usize = 200;
/// Files up to this size are read at once and sent as one body.
const SMALL_FILE: u64 = 128 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// A target is asked for anew when it expires sooner than this.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Every PUT may take this long, and a second more for each of so many bytes.
const PUT_TIMEOUT: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_A_SECOND: u64 = 32 * 1024;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A file and where its bytes go.
#[derive(Debug)]
pub(super) struct Assigned {
    waiting: Waiting,
    target: v1::UploadTarget,
}

/// Asks for targets of the files that wait and hands them to the uploader.
pub(super) async fn issue(
    client: &Client,
    batch: &str,
    mut waiting: mpsc::Receiver<Waiting>,
    targets: mpsc::Sender<Assigned>,
    board: &Board,
) -> Result<(), IngestError> {
    let mut page = Vec::with_capacity(TARGETS_A_PAGE);
    loop {
        if waiting.recv_many(&mut page, TARGETS_A_PAGE).await == 0 {
            return Ok(());
        }
        let ordinals = page.iter().map(|one| one.ordinal).collect();
        let issued = client.issue_uploads(batch, ordinals).await?;
        for (waiting, target) in page.drain(..).zip(issued) {
            match &target.how {
                Some(How::Put(_)) => {
                    if targets.send(Assigned { waiting, target }).await.is_err() {
                        return Ok(());
                    }
                }
                Some(How::Held(_)) => board.update(|progress| {
                    progress.uploaded_files += 1;
                    progress.uploaded_bytes += waiting.file.size;
                    progress.confirmed_files += 1;
                }),
                Some(How::Error(error)) => {
                    give_up(
                        board,
                        &waiting.file,
                        NotTaken::Refused(error.message.clone()),
                    );
                }
                None => {
                    let why = "the gateway offers a way to upload that this client does not know";
                    give_up(board, &waiting.file, NotTaken::UploadFailed(why.to_owned()));
                }
            }
        }
    }
}

/// Sends files to their targets.
pub(super) struct Uploader {
    shared: Arc<Shared>,
    parallel: usize,
}

struct Shared {
    client: Client,
    batch: String,
    http: reqwest::Client,
    attempts: u32,
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
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(parallel)
            .redirect(reqwest::redirect::Policy::none());
        if is_on_this_machine(client.gateway()) {
            // A proxy of the surroundings cannot reach the store of a system on loopback.
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| IngestError::Uploader(error.to_string()))?;
        let shared = Shared {
            client: client.clone(),
            batch: batch.to_owned(),
            http,
            attempts: settings.upload_attempts.max(1),
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
        landed: mpsc::Sender<Landed>,
    ) -> Result<(), IngestError> {
        let targets = Arc::new(Mutex::new(targets));
        let mut workers = JoinSet::new();
        for _ in 0..self.parallel {
            let shared = Arc::clone(&self.shared);
            let targets = Arc::clone(&targets);
            let landed = landed.clone();
            workers.spawn(async move {
                loop {
                    let next = targets.lock().await.recv().await;
                    let Some(assigned) = next else { return };
                    let Some(one) = shared.upload(assigned).await else {
                        continue;
                    };
                    if landed.send(one).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(landed);
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Why an attempt failed.
enum Attempt {
    /// The same may go well later.
    Again(String),
    /// The target is of no use any more: the next attempt needs another.
    NeedsTarget(String),
    /// It will never go well.
    Never(NotTaken),
}

impl Shared {
    /// Sends one file. `None` when it was given up, which the board then says.
    async fn upload(&self, assigned: Assigned) -> Option<Landed> {
        let Assigned {
            waiting,
            mut target,
        } = assigned;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let trouble = match self.put(&waiting.file, &target).await {
                Ok(etag) => {
                    self.board.update(|progress| progress.uploaded_files += 1);
                    let uploaded = v1::Uploaded {
                        ordinal: waiting.ordinal,
                        target: target.target,
                        etag,
                    };
                    return Some(Landed {
                        uploaded,
                        path: waiting.file.path.as_str().to_owned(),
                    });
                }
                Err(Attempt::Never(why)) => {
                    give_up(&self.board, &waiting.file, why);
                    return None;
                }
                Err(Attempt::Again(trouble)) => trouble,
                Err(Attempt::NeedsTarget(trouble)) => {
                    match self.another_target(waiting.ordinal).await {
                        Ok(another) => {
                            target = another;
                            trouble
                        }
                        Err(why) => {
                            give_up(&self.board, &waiting.file, why);
                            return None;
                        }
                    }
                }
            };
            if backoff.attempts() + 1 >= self.attempts {
                give_up(&self.board, &waiting.file, NotTaken::UploadFailed(trouble));
                return None;
            }
            let wait = backoff.next_wait();
            tracing::debug!(
                path = waiting.file.path.as_str(),
                trouble,
                ?wait,
                "upload will be repeated"
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn another_target(&self, ordinal: u32) -> Result<v1::UploadTarget, NotTaken> {
        let issued = self.client.issue_uploads(&self.batch, vec![ordinal]).await;
        let target = issued
            .map_err(|error| NotTaken::UploadFailed(error.to_string()))?
            .pop()
            .ok_or_else(|| NotTaken::UploadFailed("no target came".to_owned()))?;
        match &target.how {
            Some(How::Error(error)) => Err(NotTaken::Refused(error.message.clone())),
            Some(How::Put(_)) => Ok(target),
            _ => Err(NotTaken::UploadFailed(
                "the bytes are wanted no more".to_owned(),
            )),
        }
    }

    /// One attempt; answers the ETag of the store.
    async fn put(&self, file: &FoundFile, target: &v1::UploadTarget) -> Result<String, Attempt> {
        let Some(How::Put(put)) = &target.how else {
            return Err(Attempt::NeedsTarget(
                "the target is none to PUT to".to_owned(),
            ));
        };
        if expires_soon(put) {
            return Err(Attempt::NeedsTarget("the target expired".to_owned()));
        }
        let sent = Sent {
            board: self.board.clone(),
            bytes: Arc::new(AtomicU64::new(0)),
            kept: false,
        };
        let body = body_of(file, &sent).await?;
        let mut request = self
            .http
            .put(&put.url)
            .header("content-length", file.size)
            .timeout(PUT_TIMEOUT + Duration::from_secs(file.size / SLOWEST_BYTES_A_SECOND))
            .body(body);
        for header in &put.headers {
            if header.name != "host" && header.name != "content-length" {
                request = request.header(&header.name, &header.value);
            }
        }
        let answered = request.send().await;
        // Told first, because a file that changed explains a PUT that failed.
        check_unchanged(file).await?;
        let response = answered.map_err(|error| match error.is_connect() {
            // The store may have come back elsewhere: the gateway knows where.
            true => Attempt::NeedsTarget(without_url(error)),
            false => Attempt::Again(without_url(error)),
        })?;
        let status = response.status();
        let etag = response
            .headers()
            .get("etag")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        // Read to its end, so that the connection can be used again.
        let words = response.bytes().await.unwrap_or_default();
        if status.is_success() {
            sent.keep(file.size);
            return Ok(etag);
        }
        let trouble = store_words(status, &words);
        match status.as_u16() {
            403 => Err(Attempt::NeedsTarget(trouble)),
            408 | 429 | 500.. => Err(Attempt::Again(trouble)),
            _ => Err(Attempt::Never(NotTaken::UploadFailed(trouble))),
        }
    }
}

/// Bytes of one attempt on the board; they are taken off again when it fails.
struct Sent {
    board: Board,
    bytes: Arc<AtomicU64>,
    kept: bool,
}

impl Sent {
    fn keep(mut self, size: u64) {
        let counted = self.bytes.load(Ordering::Relaxed);
        self.board
            .update(|progress| progress.uploaded_bytes += size.saturating_sub(counted));
        self.kept = true;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let counted = self.bytes.load(Ordering::Relaxed);
        if !self.kept && counted > 0 {
            self.board.update(|progress| {
                progress.uploaded_bytes = progress.uploaded_bytes.saturating_sub(counted);
            });
        }
    }
}

async fn body_of(file: &FoundFile, sent: &Sent) -> Result<reqwest::Body, Attempt> {
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
        return Ok(Bytes::from(bytes).into());
    }
    let opened = tokio::fs::File::open(&file.local)
        .await
        .map_err(not_readable)?;
    let board = sent.board.clone();
    let counted = Arc::clone(&sent.bytes);
    let chunks =
        ReaderStream::with_capacity(opened.take(file.size), CHUNK_BYTES).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                let bytes = chunk.len() as u64;
                counted.fetch_add(bytes, Ordering::Relaxed);
                board.update(|progress| progress.uploaded_bytes += bytes);
            }
        });
    Ok(reqwest::Body::wrap_stream(chunks))
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

fn give_up(board: &Board, file: &FoundFile, why: NotTaken) {
    board.give_up(Problem {
        path: file.path.as_str().to_owned(),
        why,
    });
}

fn expires_soon(put: &v1::PutTarget) -> bool {
    let Some(expire_time) = put.expire_time else {
        return false;
    };
    let Ok(expires) = SystemTime::try_from(expire_time) else {
        return false;
    };
    expires < SystemTime::now() + EXPIRY_MARGIN
}

/// A presigned URL is a credential: it must not reach a log.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut deepest = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        deepest = cause.to_string();
        source = cause.source();
    }
    deepest
}

fn store_words(status: reqwest::StatusCode, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code);
    match code {
        Some(code) => format!("the store answered {} ({code})", status.as_u16()),
        None => format!("the store answered {}", status.as_u16()),
    }
}

fn is_on_this_machine(gateway: &str) -> bool {
    let host = gateway.split_once("://").map_or(gateway, |(_, rest)| rest);
    host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_code_is_shown_without_its_xml() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code></Error>";
        assert_eq!(
            store_words(reqwest::StatusCode::SERVICE_UNAVAILABLE, body),
            "the store answered 503 (SlowDown)"
        );
    }

    #[test]
    fn a_target_about_to_expire_is_not_used() {
        let put = |seconds| v1::PutTarget {
            expire_time: Some((SystemTime::now() + Duration::from_secs(seconds)).into()),
            ..Default::default()
        };
        assert!(expires_soon(&put(5)));
        assert!(!expires_soon(&put(600)));
    }
}
