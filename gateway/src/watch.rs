//! One watcher of a batch: a snapshot, then folded changes. While its reader is slow nothing is read from the ledger, and
//! the next message folds whatever happened meanwhile. So a watcher costs two messages at most: one that is being sent
//! and one that waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::limits::{MAX_WATCH_AGE, MIN_WATCH_INTERVAL};
use caudal_domain::{BatchId, Refusal, TenantId};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::watch_batch_response::Message;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

use crate::auth::{Authenticator, Caller};
use crate::fold::Fold;
use crate::ledger::{Ledger, passed_on};
use crate::wakeups::{Wakeup, Wakeups};

/// Pages of changes folded into one message; what is left comes with the next.
const MAX_PAGES_A_MESSAGE: usize = 32;
/// Snapshots under way at once, fewer than the streams of one connection to the ledger; others wait.
const SNAPSHOTS_AT_ONCE: usize = 48;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a watch tells, as tonic takes it.
pub(crate) type WatchStream =
    Pin<Box<dyn Stream<Item = Result<v1::WatchBatchResponse, Status>> + Send>>;

/// How watchers are served.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// The least time between two messages of changes to one watcher.
    pub min_interval: Duration,
    /// How often the ledger is asked when no hint comes.
    pub poll_interval: Duration,
    /// After this a stream says goodbye.
    pub max_age: Duration,
    /// For how long a silent ledger is borne before the stream ends with UNAVAILABLE.
    pub patience: Duration,
    /// A stream whose reader takes no message for so long ends.
    pub reader_patience: Duration,
    /// Streams at once in this gateway.
    pub max_streams: usize,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            min_interval: MIN_WATCH_INTERVAL,
            poll_interval: Duration::from_secs(1),
            max_age: MAX_WATCH_AGE,
            patience: Duration::from_secs(60),
            reader_patience: Duration::from_secs(60),
            max_streams: 10_000,
        }
    }
}

/// Opens watches.
#[derive(Clone)]
pub(crate) struct Watches {
    ledger: Ledger,
    authenticator: Authenticator,
    wakeups: Wakeups,
    settings: WatchSettings,
    places: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Watches {
    pub(crate) fn new(
        ledger: Ledger,
        authenticator: Authenticator,
        wakeups: Wakeups,
        settings: WatchSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_streams));
        Self {
            ledger,
            authenticator,
            wakeups,
            settings,
            places,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
            tasks: TaskTracker::new(),
            shutdown,
        }
    }

    /// Waits until every watch is over, which the shutdown brings about.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Opens one. What can be refused is refused here, before the stream begins.
    pub(crate) async fn open(
        &self,
        caller: Caller,
        tenant: TenantId,
        batch: BatchId,
        after_revision: i64,
    ) -> Result<WatchStream, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            to_status(&Refusal::rate_limited(
                "open watches",
                self.settings.poll_interval,
            ))
        })?;
        let now = Instant::now();
        let mut watcher = Watcher {
            wakeup: self.wakeups.listen(tenant, batch),
            watches: self.clone(),
            caller,
            batch,
            revision: after_revision,
            phase: Phase::Following,
            look_now: true,
            next_message_at: now,
            closes_at: now + self.settings.max_age,
            silent_since: None,
            _place: place,
        };
        if after_revision == 0 {
            watcher
                .begin_snapshot()
                .await
                .map_err(|status| passed_on(&status))?;
        } else if let Looked::TooOld = watcher.look().await.map_err(|status| passed_on(&status))? {
            watcher
                .begin_snapshot()
                .await
                .map_err(|status| passed_on(&status))?;
        }
        let (messages, reader) = mpsc::channel(1);
        let patience = self.settings.reader_patience;
        self.tasks.spawn(pump(watcher, messages, patience));
        Ok(Box::pin(futures::stream::unfold(
            reader,
            |mut reader| async move {
                let message = reader.recv().await?;
                Some((message, reader))
            },
        )))
    }
}

/// Sends until the watch is over, its reader is gone, or it takes nothing for too long: a place is not kept for
/// somebody who does not read.
async fn pump(
    mut watcher: Watcher,
    messages: mpsc::Sender<Result<v1::WatchBatchResponse, Status>>,
    patience: Duration,
) {
    loop {
        let next = tokio::select! {
            next = watcher.next() => next,
            () = messages.closed() => return,
        };
        let Some(message) = next else { return };
        let message = message.map(|message| v1::WatchBatchResponse {
            message: Some(message),
        });
        if messages.send_timeout(message, patience).await.is_err() {
            return;
        }
    }
}

enum Phase {
    /// Passing a snapshot on.
    Snapshot(Box<SnapshotParts>),
    /// Changes that were read and not told yet.
    Ready(Box<Fold>),
    /// Waiting for changes.
    Following,
    /// Over.
    Ended,
}

struct SnapshotParts {
    parts: Streaming<mesh::GetSnapshotResponse>,
    _place: Option<OwnedSemaphorePermit>,
}

enum Looked {
    Folded,
    Nothing,
    TooOld,
}

struct Watcher {
    watches: Watches,
    caller: Caller,
    batch: BatchId,
    wakeup: Wakeup,
    /// The reader knows everything up to here.
    revision: i64,
    phase: Phase,
    /// Ask the ledger without waiting for a hint.
    look_now: bool,
    next_message_at: Instant,
    closes_at: Instant,
    silent_since: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Message, Status>> {
        if matches!(self.phase, Phase::Ended) {
            return None;
        }
        let shutdown = self.watches.shutdown.clone();
        let closes_at = self.closes_at;
        let message = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(self.closing(v1::ClosingReason::Draining)),
            () = tokio::time::sleep_until(closes_at) => Ok(self.closing(v1::ClosingReason::MaxAge)),
            message = self.next_news() => message,
        };
        if message.is_err() {
            self.phase = Phase::Ended;
        }
        Some(message)
    }

    async fn next_news(&mut self) -> Result<Message, Status> {
        loop {
            match &mut self.phase {
                Phase::Snapshot(snapshot) => {
                    // A snapshot that breaks ends the stream: its reader has half of it and begins again.
                    let part = snapshot
                        .parts
                        .message()
                        .await
                        .map_err(|status| passed_on(&status))?;
                    let snapshot = part.and_then(|part| part.snapshot).ok_or_else(|| {
                        to_status(&Refusal::unavailable(
                            "the snapshot broke off: watch again",
                            TRY_AGAIN_AFTER,
                        ))
                    })?;
                    if snapshot.last {
                        self.revision = snapshot.revision;
                        self.look_now = true;
                        self.phase = Phase::Following;
                    }
                    return Ok(Message::Snapshot(snapshot));
                }
                Phase::Ready(_) => {
                    if let Phase::Ready(fold) = std::mem::replace(&mut self.phase, Phase::Following)
                    {
                        self.revision = fold.revision();
                        self.next_message_at = Instant::now() + self.watches.settings.min_interval;
                        return Ok(Message::Changes(fold.into_changes()));
                    }
                }
                Phase::Following => {
                    self.wait().await;
                    if let Some(message) = self.follow().await? {
                        return Ok(message);
                    }
                }
                Phase::Ended => return Err(Status::cancelled("the watch is over")),
            }
        }
    }

    /// Until a message may be sent and there is reason to ask.
    async fn wait(&mut self) {
        tokio::time::sleep_until(self.next_message_at).await;
        if self.look_now {
            self.look_now = false;
            return;
        }
        let poll_interval = self.watches.settings.poll_interval;
        let known = self.revision;
        // Nobody hinted: that is no proof that nothing happened.
        let _no_hint = tokio::time::timeout(poll_interval, self.wakeup.beyond(known)).await;
    }

    /// Asks once; trouble that may pass is waited out.
    async fn follow(&mut self) -> Result<Option<Message>, Status> {
        let asked = match self
            .watches
            .authenticator
            .scope(&self.caller.credential)
            .await
        {
            Ok(scope) => {
                self.caller.scope = scope;
                self.look().await
            }
            Err(status) => Err(status),
        };
        let status = match asked {
            Ok(looked) => {
                self.silent_since = None;
                if let Looked::TooOld = looked {
                    self.begin_snapshot()
                        .await
                        .map_err(|status| passed_on(&status))?;
                }
                return Ok(None);
            }
            Err(status) => status,
        };
        match status.code() {
            Code::NotFound => return Ok(Some(self.closing(v1::ClosingReason::Deleted))),
            Code::Unauthenticated | Code::PermissionDenied => {
                return Ok(Some(self.closing(v1::ClosingReason::Revoked)));
            }
            _ => {}
        }
        let now = Instant::now();
        let silent_since = *self.silent_since.get_or_insert(now);
        if now.duration_since(silent_since) > self.watches.settings.patience {
            return Err(passed_on(&status));
        }
        tracing::debug!(code = ?status.code(), message = status.message(), "changes could not be read");
        self.next_message_at = now + TRY_AGAIN_AFTER;
        self.look_now = true;
        Ok(None)
    }

    /// Reads what happened after the known revision and folds it.
    async fn look(&mut self) -> Result<Looked, Status> {
        let mut fold = Fold::default();
        for _ in 0..MAX_PAGES_A_MESSAGE {
            let request = mesh::ListChangesRequest {
                batch: self.batch.as_bytes().to_vec().into(),
                after_revision: self.revision.max(fold.revision()),
            };
            let request = self.watches.ledger.call(&self.caller.scope, request);
            let page = self
                .watches
                .ledger
                .mesh()
                .list_changes(request)
                .await?
                .into_inner();
            if page.too_old {
                return Ok(Looked::TooOld);
            }
            let is_last = !page.more || page.changes.is_empty();
            for change in &page.changes {
                if let Err(error) = fold.add(change) {
                    // A snapshot says the same in another way.
                    tracing::error!(%error, batch = %self.batch, "took a snapshot instead of changes");
                    return Ok(Looked::TooOld);
                }
            }
            self.look_now = !is_last;
            if is_last || fold.is_full() {
                break;
            }
        }
        if fold.is_empty() {
            return Ok(Looked::Nothing);
        }
        self.phase = Phase::Ready(Box::new(fold));
        Ok(Looked::Folded)
    }

    async fn begin_snapshot(&mut self) -> Result<(), Status> {
        // The semaphore is never closed.
        let place = Arc::clone(&self.watches.snapshots)
            .acquire_owned()
            .await
            .ok();
        let request = mesh::GetSnapshotRequest {
            batch: self.batch.as_bytes().to_vec().into(),
        };
        let request = self.watches.ledger.stream(&self.caller.scope, request);
        let parts = self
            .watches
            .ledger
            .mesh()
            .get_snapshot(request)
            .await?
            .into_inner();
        self.phase = Phase::Snapshot(Box::new(SnapshotParts {
            parts,
            _place: place,
        }));
        Ok(())
    }

    fn closing(&mut self, reason: v1::ClosingReason) -> Message {
        // In the middle of a snapshot the reader knows nothing it could go on from.
        let after_revision = if matches!(self.phase, Phase::Snapshot(_)) {
            0
        } else {
            self.revision
        };
        self.phase = Phase::Ended;
        let retry_after = match reason {
            v1::ClosingReason::Draining => Some(prost_types::Duration {
                seconds: 0,
                nanos: 200_000_000,
            }),
            _ => None,
        };
        Message::Closing(v1::Closing {
            reason: reason.into(),
            after_revision,
            retry_after,
        })
    }
}
