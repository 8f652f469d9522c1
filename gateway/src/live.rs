//! What all server streams share: places, an outlet that holds one message, and the three ways in which the gateway ends
//! a stream by itself.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::limits::{MAX_WATCH_AGE, MIN_WATCH_INTERVAL, WATCH_SIGN_OF_LIFE};
use caudal_domain::{Refusal, TenantId};
use caudal_node::scope::Scope;
use caudal_proto::status::to_status;
use caudal_proto::v1::ClosingReason;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use crate::auth::{Authenticator, Credential};
use crate::door_limits::{DoorBook, TakenStream};

/// Pause after an error that may pass.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a stream tells, as tonic takes it.
pub(crate) type LiveStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How watchers of batches and of events are served.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// The least time between two messages of changes to one watcher.
    pub min_interval: Duration,
    /// A watch of a batch of which nothing was told for so long says that it is alive.
    pub sign_of_life: Duration,
    /// How often the ledger is asked when no hint comes.
    pub poll_interval: Duration,
    /// After this a stream says goodbye.
    pub max_age: Duration,
    /// For how long a silent ledger is borne before the stream ends with UNAVAILABLE.
    pub patience: Duration,
    /// A stream whose reader takes no message for so long ends.
    pub reader_patience: Duration,
    /// How often it is asked whether a stream's credential is still good.
    pub credential_check_interval: Duration,
    /// Messages kept for all watchers of a batch together; whoever is further behind begins with a snapshot.
    pub backlog: usize,
    /// Streams at once in this gateway.
    pub max_streams: usize,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            min_interval: MIN_WATCH_INTERVAL,
            sign_of_life: WATCH_SIGN_OF_LIFE,
            poll_interval: Duration::from_secs(1),
            max_age: MAX_WATCH_AGE,
            patience: Duration::from_secs(60),
            reader_patience: Duration::from_secs(60),
            credential_check_interval: Duration::from_millis(400),
            backlog: 16,
            max_streams: 10_000,
        }
    }
}

/// The streams of this gateway.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) settings: WatchSettings,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    authenticator: Authenticator,
    book: DoorBook,
    places: Arc<Semaphore>,
}

/// A stream's place in this gateway, and among those of its tenant.
pub(crate) struct StreamPlace {
    _of_gateway: OwnedSemaphorePermit,
    _of_caller: TakenStream,
}

impl Live {
    pub(crate) fn new(
        settings: WatchSettings,
        authenticator: Authenticator,
        book: DoorBook,
        shutdown: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(settings.max_streams));
        Self {
            settings,
            tasks: TaskTracker::new(),
            shutdown,
            authenticator,
            book,
            places,
        }
    }

    /// Waits until every stream is over, which the shutdown brings about.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A place for one more stream of a caller in its tenant.
    pub(crate) fn place(&self, tenant: TenantId, caller: &Scope) -> Result<StreamPlace, Status> {
        let of_caller = self.book.take_stream(tenant, caller)?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let of_gateway = place.map_err(|_| {
            let refusal = Refusal::rate_limited("open watches", self.settings.poll_interval);
            to_status(&refusal)
        })?;
        Ok(StreamPlace {
            _of_gateway: of_gateway,
            _of_caller: of_caller,
        })
    }

    /// Returns when a stream that begins now must end, and why.
    pub(crate) async fn over(&self, credential: &Credential) -> ClosingReason {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => ClosingReason::Draining,
            () = tokio::time::sleep(self.settings.max_age) => ClosingReason::MaxAge,
            () = self.revoked(credential) => ClosingReason::Revoked,
        }
    }

    async fn revoked(&self, credential: &Credential) {
        loop {
            tokio::time::sleep(self.settings.credential_check_interval).await;
            // A ledger that does not answer says nothing about the credential.
            if let Err(status) = self.authenticator.scope(credential).await
                && is_about_the_caller(&status)
            {
                return;
            }
        }
    }
}

/// Whether a refusal means that this caller may not go on.
pub(crate) fn is_about_the_caller(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied
    )
}

/// With what a stream ends whose key is good no more.
pub(crate) fn revoked() -> Status {
    to_status(&Refusal::unauthenticated(
        "the API key was revoked or has expired: use another, or ask your operator for one",
    ))
}

/// The reader left, or took nothing for too long.
pub(crate) struct ReaderGone;

/// Where a stream's messages go: one that waits, and then whoever makes the next waits too.
#[derive(Clone)]
pub(crate) struct Outlet<T> {
    messages: mpsc::Sender<Result<T, Status>>,
    patience: Duration,
    spoke_at: Arc<Mutex<Instant>>,
}

impl<T: Send + 'static> Outlet<T> {
    /// An outlet and the stream that it fills.
    pub(crate) fn new(settings: &WatchSettings) -> (Self, LiveStream<T>) {
        let (messages, reader) = mpsc::channel(1);
        let stream = futures::stream::unfold(reader, |mut reader| async move {
            let message = reader.recv().await?;
            Some((message, reader))
        });
        let patience = settings.reader_patience;
        let spoke_at = Arc::new(Mutex::new(Instant::now()));
        let outlet = Self {
            messages,
            patience,
            spoke_at,
        };
        (outlet, Box::pin(stream))
    }

    /// Returns once the reader is about to take it. A place is not kept for somebody who does not read.
    pub(crate) async fn send(&self, message: Result<T, Status>) -> Result<(), ReaderGone> {
        let sent = self.messages.send_timeout(message, self.patience).await;
        *self.spoke_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        sent.map_err(|_| ReaderGone)
    }

    /// Sends such a message whenever nothing was sent for so long, whatever keeps the others. Returns when the reader is gone.
    pub(crate) async fn signs_of_life(&self, every: Duration, sign: impl Fn() -> T) -> ReaderGone {
        loop {
            let spoke_at = *self.spoke_at.lock().unwrap_or_else(PoisonError::into_inner);
            tokio::time::sleep_until(spoke_at + every).await;
            let is_silent =
                *self.spoke_at.lock().unwrap_or_else(PoisonError::into_inner) == spoke_at;
            if is_silent && self.send(Ok(sign())).await.is_err() {
                return ReaderGone;
            }
        }
    }

    /// Returns when the reader has left.
    pub(crate) async fn closed(&self) {
        self.messages.closed().await;
    }
}

/// How long the ledger has been of no use.
#[derive(Default)]
pub(crate) struct RetryWindow {
    since: Option<Instant>,
}

impl RetryWindow {
    /// It answered.
    pub(crate) fn close(&mut self) {
        self.since = None;
    }

    /// Waits a little after an error that may pass.
    ///
    /// # Errors
    /// There was nothing but errors for `patience`.
    pub(crate) async fn wait_after(
        &mut self,
        status: Status,
        patience: Duration,
    ) -> Result<(), Status> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) > patience {
            return Err(status);
        }
        tracing::debug!(code = ?status.code(), message = status.message(), "the ledger could not be read");
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
        Ok(())
    }
}
