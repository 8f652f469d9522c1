//! Follows a batch: a snapshot, then changes, folded into counts and a map of states. A watch connects again for ever
//! and goes on from the revision it knows, so a restart of the gateway loses nothing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use caudal_domain::limits::WATCH_SIGN_OF_LIFE;
use caudal_proto::status::from_status;
use caudal_proto::v1;
use caudal_proto::v1::watch_batch_response::Message;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::client::Client;
use crate::error::{ClientError, came_from_the_transport, root_cause};
use crate::retry::Backoff;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// A stream that says nothing for so long, not even that it is alive, is cut somewhere.
const SILENT_FOR: Duration = WATCH_SIGN_OF_LIFE.saturating_mul(SIGNS_MISSED);
/// Signs of life that may be lost or late.
const SIGNS_MISSED: u32 = 3;

/// What a step of a watch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// The whole batch is known, as of a revision.
    Snapshot,
    /// Something moved.
    Changes,
    /// The stream broke or ended; the watch waits and connects again. Nothing is lost.
    Reconnecting,
}

/// Counters of a folder's whole subtree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FolderCounts {
    /// All files below.
    pub total: u32,
    /// Of these, PROCESSED.
    pub processed: u32,
    /// Of these, FAILED.
    pub failed: u32,
    /// Of these, CANCELLED.
    pub cancelled: u32,
}

/// What a watch knows of its batch: five bytes a file.
#[derive(Debug, Clone, Default)]
pub struct WatchedBatch {
    revision: i64,
    batch: v1::Batch,
    states: Vec<u8>,
    details: Vec<u32>,
    folders: BTreeMap<u32, FolderCounts>,
    whole: bool,
}

impl WatchedBatch {
    /// Everything up to this revision is known; 0 before the first snapshot.
    #[must_use]
    pub fn revision(&self) -> i64 {
        if self.whole { self.revision } else { 0 }
    }

    /// The batch with its counters.
    #[must_use]
    pub fn batch(&self) -> &v1::Batch {
        &self.batch
    }

    /// Whether a whole snapshot is in.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.whole
    }

    /// Whether the batch has ended. A replay may take it up again later.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.whole
            && matches!(
                self.batch.state(),
                v1::BatchState::Succeeded | v1::BatchState::Failed | v1::BatchState::Cancelled
            )
    }

    /// State and detail of a file (detail as in `FileColumns`); `None` when it is unknown or erased.
    #[must_use]
    pub fn file(&self, ordinal: u32) -> Option<(v1::FileState, u32)> {
        let index = ordinal as usize;
        let state = v1::FileState::try_from(i32::from(*self.states.get(index)?)).ok()?;
        if state == v1::FileState::Unspecified {
            return None;
        }
        Some((state, self.details.get(index).copied().unwrap_or_default()))
    }

    /// How many files are known.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.states.iter().filter(|state| **state != 0).count()
    }

    /// Counters of the folders, by ordinal.
    #[must_use]
    pub fn folders(&self) -> &BTreeMap<u32, FolderCounts> {
        &self.folders
    }

    /// Takes a part of a snapshot; answers whether it is whole now.
    fn apply_snapshot(&mut self, part: v1::Snapshot) -> bool {
        if let Some(batch) = part.batch {
            *self = Self {
                batch,
                ..Self::default()
            };
        }
        self.revision = part.revision;
        if let Some(files) = &part.files {
            self.apply_files(files);
        }
        if let Some(folders) = &part.folders {
            self.apply_folders(folders);
        }
        self.whole = part.last;
        self.whole
    }

    fn apply_changes(&mut self, changes: v1::Changes) {
        self.revision = self.revision.max(changes.revision);
        if let Some(now) = changes.batch {
            self.batch.state = now.state;
            self.batch.run = now.run;
            self.batch.counts = now.counts;
            self.batch.bytes = now.bytes;
            self.batch.pause = now.pause;
            self.batch.revision = now.revision;
        }
        if let Some(files) = &changes.files {
            self.apply_files(files);
        }
        if let Some(folders) = &changes.folders {
            self.apply_folders(folders);
        }
    }

    fn apply_files(&mut self, columns: &v1::FileColumns) {
        // A file that the manifest cannot hold is a fault of the sender; it must not cost this process its memory.
        const MOST_FILES: usize = 50_000_000;
        let mut ordinal = columns.first_ordinal as usize;
        for (row, state) in columns.state.iter().enumerate() {
            if columns.ordinal_delta.is_empty() {
                ordinal += usize::from(row > 0);
            } else {
                ordinal += columns.ordinal_delta.get(row).copied().unwrap_or(1) as usize;
            }
            if ordinal >= MOST_FILES {
                tracing::warn!(ordinal, "ignored a file beyond any manifest");
                return;
            }
            if ordinal >= self.states.len() {
                self.states.resize(ordinal + 1, 0);
                self.details.resize(ordinal + 1, 0);
            }
            self.states[ordinal] = u8::try_from(*state).unwrap_or_default();
            self.details[ordinal] = columns.detail.get(row).copied().unwrap_or_default();
        }
    }

    fn apply_folders(&mut self, columns: &v1::FolderColumns) {
        let at = |column: &[u32], row: usize| column.get(row).copied().unwrap_or_default();
        let mut ordinal: u32 = 0;
        for (row, delta) in columns.ordinal_delta.iter().enumerate() {
            ordinal = ordinal.saturating_add(*delta);
            let counts = FolderCounts {
                total: at(&columns.total, row),
                processed: at(&columns.processed, row),
                failed: at(&columns.failed, row),
                cancelled: at(&columns.cancelled, row),
            };
            self.folders.insert(ordinal, counts);
        }
    }
}

/// Where the stream of a watch stands. Each can be waited for, dropped, and waited for again.
enum Line {
    Waiting(Instant),
    Connecting(BoxFuture<'static, Result<Streaming<v1::WatchBatchResponse>, Status>>),
    Open(Box<Streaming<v1::WatchBatchResponse>>),
}

/// A watch of one batch.
pub struct Watch {
    client: Client,
    name: String,
    known: WatchedBatch,
    line: Line,
    backoff: Backoff,
    last_trouble: Option<String>,
    /// When it began to connect, or the last message came.
    heard_at: Instant,
    silent_for: Duration,
}

impl Watch {
    /// Prepares a watch; the first [`Watch::next`] connects.
    #[must_use]
    pub fn new(client: Client, batch: &str) -> Self {
        Self {
            client,
            name: batch.to_owned(),
            known: WatchedBatch::default(),
            line: Line::Waiting(Instant::now()),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            last_trouble: None,
            heard_at: Instant::now(),
            silent_for: SILENT_FOR,
        }
    }

    /// What is known now.
    #[must_use]
    pub fn known(&self) -> &WatchedBatch {
        &self.known
    }

    /// Why it had to connect again the last time, in words.
    #[must_use]
    pub fn last_trouble(&self) -> Option<&str> {
        self.last_trouble.as_deref()
    }

    /// Waits for the next thing to happen. It may be dropped and called again.
    ///
    /// # Errors
    /// Trouble that connecting again cannot mend: an unknown batch, a revoked key, an erased batch.
    pub async fn next(&mut self) -> Result<Update, ClientError> {
        loop {
            let message = match &mut self.line {
                Line::Waiting(until) => {
                    tokio::time::sleep_until(*until).await;
                    let client = self.client.clone();
                    let name = self.name.clone();
                    let known = self.known.revision();
                    self.heard_at = Instant::now();
                    self.line =
                        Line::Connecting(Box::pin(
                            async move { client.open_watch(&name, known).await },
                        ));
                    continue;
                }
                Line::Connecting(connecting) => {
                    let silent_at = self.heard_at + self.silent_for;
                    match tokio::time::timeout_at(silent_at, connecting).await {
                        Ok(Ok(stream)) => self.line = Line::Open(Box::new(stream)),
                        Ok(Err(status)) => return self.broke(&status),
                        Err(_) => return Ok(self.cut("the gateway does not answer")),
                    }
                    continue;
                }
                Line::Open(stream) => {
                    tokio::time::timeout_at(self.heard_at + self.silent_for, stream.message()).await
                }
            };
            let message = match message {
                Ok(Ok(Some(response))) => response.message,
                Ok(Ok(None)) => return Ok(self.cut("the stream was cut on its way")),
                // What the gateway says of itself ends it; what only the connection says does not.
                Ok(Err(status)) if came_from_the_transport(&status) => {
                    let cause = root_cause(&status);
                    return Ok(self.cut(&format!("the stream was cut on its way ({cause})")));
                }
                Ok(Err(status)) => return self.broke(&status),
                Err(_) => {
                    let seconds = self.silent_for.as_secs_f32();
                    let words =
                        format!("nothing came for {seconds} s, so the stream is cut somewhere");
                    return Ok(self.cut(&words));
                }
            };
            self.heard_at = Instant::now();
            self.backoff.reset();
            match message {
                Some(Message::Snapshot(part)) => {
                    let is_whole = self.known.apply_snapshot(part);
                    if is_whole {
                        return Ok(Update::Snapshot);
                    }
                }
                Some(Message::Changes(changes)) => {
                    self.known.apply_changes(changes);
                    return Ok(Update::Changes);
                }
                Some(Message::Closing(closing)) => return self.closed(&closing),
                Some(Message::Alive(v1::SignOfLife {})) | None => {}
            }
        }
    }

    /// Follows until the batch has ended; `seen` is called after each step.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn until_ended(
        &mut self,
        mut seen: impl FnMut(&WatchedBatch, Update),
    ) -> Result<(), ClientError> {
        loop {
            let update = self.next().await?;
            seen(&self.known, update);
            if self.known.has_ended() {
                return Ok(());
            }
        }
    }

    /// A stream that was open, or nearly, is no more. The gateway was reached, so its address is right.
    fn cut(&mut self, words: &str) -> Update {
        self.last_trouble = Some(words.to_owned());
        self.line = Line::Waiting(Instant::now() + self.backoff.next_wait());
        tracing::debug!(words, "watch was cut and connects again");
        Update::Reconnecting
    }

    fn broke(&mut self, status: &Status) -> Result<Update, ClientError> {
        let gone_for_good = matches!(
            status.code(),
            Code::NotFound
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::Unimplemented
        );
        if gone_for_good {
            return Err(ClientError::from_status(status, self.client.gateway()));
        }
        self.last_trouble =
            Some(ClientError::from_status(status, self.client.gateway()).to_string());
        let asked = from_status(status).retry_after.unwrap_or_default();
        self.line = Line::Waiting(Instant::now() + self.backoff.next_wait().max(asked));
        tracing::debug!(code = ?status.code(), message = status.message(), "watch broke and connects again");
        Ok(Update::Reconnecting)
    }

    fn closed(&mut self, closing: &v1::Closing) -> Result<Update, ClientError> {
        match closing.reason() {
            v1::ClosingReason::Revoked => Err(ClientError::from_status(
                &Status::unauthenticated("the API key was revoked"),
                self.client.gateway(),
            )),
            v1::ClosingReason::Deleted => Err(ClientError::from_status(
                &Status::not_found("the batch was erased"),
                self.client.gateway(),
            )),
            reason => {
                let words = match reason {
                    v1::ClosingReason::MaxAge => "the gateway ended the stream because of its age",
                    _ => "the gateway ended the stream to be restarted",
                };
                let asked = closing
                    .retry_after
                    .and_then(|wait| Duration::try_from(wait).ok())
                    .unwrap_or_default();
                self.last_trouble = Some(words.to_owned());
                self.line = Line::Waiting(Instant::now() + self.backoff.next_wait().max(asked));
                Ok(Update::Reconnecting)
            }
        }
    }
}

/// Seconds between a batch's creation and its end, by the server's clock; up to its last change while it runs.
#[must_use]
pub fn seconds_taken(batch: &v1::Batch) -> f64 {
    let time = |stamp: Option<prost_types::Timestamp>| {
        stamp.and_then(|stamp| SystemTime::try_from(stamp).ok())
    };
    let Some(begun) = time(batch.create_time) else {
        return 0.0;
    };
    let ended = time(batch.end_time).or(time(batch.update_time));
    let ended = ended.unwrap_or(begun);
    ended
        .duration_since(begun)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use bytes::{BufMut as _, Bytes, BytesMut};
    use futures::StreamExt as _;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost::Message as _;
    use tonic::body::Body;
    use tonic::server::NamedService;

    use super::*;

    /// A gateway whose streams tell so many signs of life at once, and then nothing any more.
    #[derive(Clone)]
    struct Silent {
        signs: usize,
        streams: Arc<AtomicUsize>,
    }

    impl NamedService for Silent {
        const NAME: &'static str = "caudal.v1.BatchService";
    }

    impl tower::Service<http::Request<Body>> for Silent {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            self.streams.fetch_add(1, Ordering::Relaxed);
            let sign = v1::WatchBatchResponse {
                message: Some(Message::Alive(v1::SignOfLife {})),
            };
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(sign.encoded_len()).unwrap());
            framed.put(Bytes::from(sign.encode_to_vec()));
            let framed = framed.freeze();
            let signs = (0..self.signs).map(move |_| Ok::<_, Status>(Frame::data(framed.clone())));
            let stream = futures::stream::iter(signs).chain(futures::stream::pending());
            let answer = http::Response::builder()
                .header("content-type", "application/grpc")
                .body(Body::new(StreamBody::new(stream)));
            ready(Ok(answer.unwrap()))
        }
    }

    #[tokio::test]
    async fn a_stream_without_a_sign_of_life_is_left_for_another() {
        let streams = Arc::new(AtomicUsize::new(0));
        let silent = Silent {
            signs: 2,
            streams: Arc::clone(&streams),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder()
            .add_service(silent)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let client = Client::connect(&gateway, "caudal_x").await.unwrap();
        let mut watch = Watch::new(client, "batches/x");
        watch.silent_for = Duration::from_millis(200);
        for stream in 1..=2 {
            assert_eq!(watch.next().await.unwrap(), Update::Reconnecting);
            let words = watch.last_trouble().unwrap();
            assert!(words.contains("nothing came for 0.2 s"), "{words}");
            assert_eq!(streams.load(Ordering::Relaxed), stream);
        }
        server.abort();
    }

    fn columns(
        first_ordinal: u32,
        ordinal_delta: &[u32],
        states: &[v1::FileState],
    ) -> v1::FileColumns {
        v1::FileColumns {
            first_ordinal,
            ordinal_delta: ordinal_delta.to_vec(),
            state: states.iter().map(|state| *state as i32).collect(),
            detail: vec![1; states.len()],
        }
    }

    fn batch(state: v1::BatchState) -> v1::Batch {
        v1::Batch {
            state: state.into(),
            display_name: "photos".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_snapshot_in_parts_is_known_when_its_last_part_is_in() {
        use v1::FileState::{Pending, Processed};
        let mut known = WatchedBatch::default();
        let first = v1::Snapshot {
            revision: 9,
            batch: Some(batch(v1::BatchState::Running)),
            files: Some(columns(0, &[], &[Pending, Processed])),
            ..Default::default()
        };
        assert!(!known.apply_snapshot(first));
        assert_eq!(
            known.revision(),
            0,
            "a watch that breaks here begins with a snapshot again"
        );
        let second = v1::Snapshot {
            revision: 9,
            files: Some(columns(2, &[], &[Pending])),
            last: true,
            ..Default::default()
        };
        assert!(known.apply_snapshot(second));
        assert_eq!((known.revision(), known.file_count()), (9, 3));
        assert_eq!(known.file(1), Some((Processed, 1)));
    }

    #[test]
    fn changes_move_only_the_rows_they_name() {
        use v1::FileState::{Failed, Pending, Unspecified};
        let mut known = WatchedBatch::default();
        known.apply_snapshot(v1::Snapshot {
            revision: 3,
            batch: Some(batch(v1::BatchState::Running)),
            files: Some(columns(0, &[], &[Pending, Pending, Pending, Pending])),
            last: true,
            ..Default::default()
        });
        known.apply_changes(v1::Changes {
            revision: 5,
            batch: Some(batch(v1::BatchState::Failed)),
            files: Some(columns(1, &[0, 2], &[Failed, Unspecified])),
            folders: Some(v1::FolderColumns {
                ordinal_delta: vec![0, 4],
                total: vec![4, 1],
                processed: vec![0, 0],
                failed: vec![1, 0],
                cancelled: vec![0, 0],
            }),
        });
        let states: Vec<_> = (0..4)
            .map(|ordinal| known.file(ordinal).map(|(state, _)| state))
            .collect();
        assert_eq!(states, [Some(Pending), Some(Failed), Some(Pending), None]);
        assert_eq!(known.folders().keys().copied().collect::<Vec<_>>(), [0, 4]);
        assert!(known.has_ended());
        assert_eq!(
            known.batch().display_name,
            "photos",
            "what a change does not carry stays"
        );
    }

    #[test]
    fn a_row_beyond_any_manifest_is_ignored() {
        let mut known = WatchedBatch::default();
        known.apply_files(&columns(u32::MAX, &[], &[v1::FileState::Pending]));
        assert_eq!(known.file_count(), 0);
    }
}
