//! One watcher of a batch: a snapshot, then what the batch's feed tells. A watcher keeps one message that is being sent
//! and one that waits for it; whoever reads too slowly for that begins anew with a snapshot.

use std::time::Duration;

use caudal_domain::{BatchId, Refusal, TenantId, batch_name};
use caudal_node::scope::Role;
use caudal_proto::convert::leave_out_words;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::ClosingReason;
use caudal_proto::v1::watch_batch_response::Message;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::auth::Caller;
use crate::feed::{Feeds, Read, Subscription, revision_of};
use crate::fold::Fold;
use crate::ledger::passed_on;
use crate::live::{
    Live, LiveStream, Outlet, ReaderGone, RetryWindow, StreamPlace, is_about_the_caller, revoked,
};

/// How long a client waits before it turns to another gateway.
const AFTER_A_DRAIN: prost_types::Duration = prost_types::Duration {
    seconds: 0,
    nanos: 200_000_000,
};

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a watch tells, as tonic takes it.
pub(crate) type WatchStream = LiveStream<v1::WatchBatchResponse>;

/// Opens watches.
#[derive(Clone)]
pub(crate) struct Watches {
    feeds: Feeds,
    live: Live,
}

impl Watches {
    pub(crate) fn new(feeds: Feeds, live: Live) -> Self {
        Self { feeds, live }
    }

    /// Opens one. What can be refused is refused here, before the stream begins.
    pub(crate) async fn open(
        &self,
        caller: Caller,
        tenant: TenantId,
        batch: BatchId,
        after_revision: i64,
    ) -> Result<WatchStream, Status> {
        let place = self.live.place(tenant, &caller.scope)?;
        let (outlet, stream) = Outlet::new(&self.live.settings);
        let mut watcher = Watcher {
            feeds: self.feeds.clone(),
            live: self.live.clone(),
            caller,
            tenant,
            batch,
            known: after_revision,
            next_message_at: Instant::now(),
            window: RetryWindow::default(),
            outlet,
            _place: place,
        };
        let subscription = watcher
            .subscribe()
            .await
            .map_err(|status| passed_on(&status))?;
        self.live.tasks.spawn(watcher.run(subscription));
        Ok(stream)
    }
}

struct Watcher {
    feeds: Feeds,
    live: Live,
    caller: Caller,
    tenant: TenantId,
    batch: BatchId,
    /// The reader knows everything up to here; 0: it needs a snapshot.
    known: i64,
    next_message_at: Instant,
    window: RetryWindow,
    outlet: Outlet<v1::WatchBatchResponse>,
    _place: StreamPlace,
}

/// Why a watcher does not go on as it did.
enum Stop {
    Subscribe,
    Refused(Status),
    /// Not to be tried again.
    Failed(Status),
    ReaderGone,
}

impl From<ReaderGone> for Stop {
    fn from(_: ReaderGone) -> Self {
        Self::ReaderGone
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

enum End {
    Closing(ClosingReason),
    Failed(Status),
    ReaderGone,
}

impl Watcher {
    async fn run(mut self, subscription: Subscription) {
        let (live, outlet) = (self.live.clone(), self.outlet.clone());
        let credential = self.caller.credential.clone();
        let end = tokio::select! {
            biased;
            reason = live.over(&credential) => End::Closing(reason),
            () = outlet.closed() => End::ReaderGone,
            end = self.follow(subscription) => end,
            // Also while the ledger is silent: it is the stream that is alive.
            ReaderGone = outlet.signs_of_life(live.settings.sign_of_life, sign_of_life) => End::ReaderGone,
        };
        let last = match end {
            End::Closing(ClosingReason::Revoked) => {
                let told = self.outlet.send(Ok(self.closing(ClosingReason::Revoked)));
                if told.await.is_err() {
                    return;
                }
                Err(revoked())
            }
            End::Closing(reason) => Ok(self.closing(reason)),
            End::Failed(status) => Err(passed_on(&status)),
            End::ReaderGone => return,
        };
        // The last message: nobody is left to tell.
        let _gone = self.outlet.send(last).await;
    }

    /// Asks in the caller's own name whether there is such a batch and how far it is, and subscribes to its feed.
    async fn subscribe(&mut self) -> Result<Subscription, Status> {
        let request = v1::GetBatchRequest {
            name: batch_name(self.batch),
        };
        let scope = &self.caller.scope;
        let now = self.feeds.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.get_batch(request).await }
        });
        let revision = now.await?.revision;
        if self.known > revision {
            // No ledger that has this batch can have told that.
            self.known = 0;
        }
        Ok(self.feeds.subscribe(self.tenant, self.batch, revision))
    }

    async fn follow(&mut self, first: Subscription) -> End {
        let mut subscribed = Some(first);
        loop {
            let stopped = match subscribed.take() {
                Some(mut subscription) => self.serve(&mut subscription).await,
                None => match self.subscribe().await {
                    Ok(subscription) => {
                        subscribed = Some(subscription);
                        continue;
                    }
                    Err(status) => Stop::Refused(status),
                },
            };
            match stopped {
                Stop::Subscribe => {}
                Stop::ReaderGone => return End::ReaderGone,
                Stop::Failed(status) => return End::Failed(status),
                Stop::Refused(status) if status.code() == Code::NotFound => {
                    return End::Closing(ClosingReason::Deleted);
                }
                Stop::Refused(status) if is_about_the_caller(&status) => {
                    return End::Closing(ClosingReason::Revoked);
                }
                Stop::Refused(status) => {
                    let patience = self.live.settings.patience;
                    if let Err(status) = self.window.wait_after(status, patience).await {
                        return End::Failed(status);
                    }
                }
            }
        }
    }

    async fn serve(&mut self, subscription: &mut Subscription) -> Stop {
        if let Err(stop) = self.catch_up(subscription).await {
            return stop;
        }
        self.window.close();
        match self.pass_on(subscription).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    /// Brings the reader to where the messages of the feed begin, or beyond.
    async fn catch_up(&mut self, subscription: &Subscription) -> Result<(), Stop> {
        if self.known == 0 {
            self.send_snapshot(subscription, 0).await?;
        }
        while self.known < subscription.start {
            tokio::time::sleep_until(self.next_message_at).await;
            let (scope, batch) = (&self.caller.scope, self.batch);
            match self.feeds.changes_after(scope, batch, self.known).await? {
                Read::Changes { fold, .. } => self.send_changes(fold.into_changes()).await?,
                // The feed stands further on, so there must be something: a snapshot has it.
                Read::Nothing | Read::TooOld => {
                    let start = subscription.start;
                    self.send_snapshot(subscription, start).await?;
                    if self.known < start {
                        self.feeds.end(subscription);
                        let words = "the batch is behind what was told of it: watch again";
                        let refusal = Refusal::unavailable(words, TRY_AGAIN_AFTER);
                        return Err(Stop::Refused(to_status(&refusal)));
                    }
                }
            }
        }
        Ok(())
    }

    async fn send_snapshot(
        &mut self,
        subscription: &Subscription,
        at_least: i64,
    ) -> Result<(), Stop> {
        let snapshot = self.feeds.snapshot(subscription, at_least).await?;
        // In the middle of it the reader knows nothing that it could go on from.
        self.known = 0;
        for part in snapshot.iter() {
            self.send(Message::Snapshot(part.clone())).await?;
        }
        self.known = revision_of(&snapshot);
        self.next_message_at = Instant::now() + self.live.settings.min_interval;
        Ok(())
    }

    /// Passes the feed's messages on, as many at once as have gathered since the last.
    async fn pass_on(
        &mut self,
        subscription: &mut Subscription,
    ) -> Result<std::convert::Infallible, Stop> {
        loop {
            tokio::time::sleep_until(self.next_message_at).await;
            let mut latest = match subscription.messages.recv().await {
                Ok(changes) => changes,
                Err(RecvError::Lagged(_)) => return Err(self.fell_behind()),
                Err(RecvError::Closed) => {
                    return Err(subscription.failure().map_or(Stop::Subscribe, Stop::Failed));
                }
            };
            let mut gathered: Option<Fold> = None;
            while !gathered.as_ref().is_some_and(Fold::is_full) {
                match subscription.messages.try_recv() {
                    Ok(next) => {
                        let gathered = gathered.get_or_insert_with(|| {
                            let mut fold = Fold::default();
                            fold.merge(&latest);
                            fold
                        });
                        gathered.merge(&next);
                        latest = next;
                    }
                    Err(TryRecvError::Lagged(_)) => return Err(self.fell_behind()),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            if latest.revision <= self.known {
                continue;
            }
            let changes = match gathered {
                Some(fold) => fold.into_changes(),
                None => v1::Changes::clone(&latest),
            };
            self.send_changes(changes).await?;
        }
    }

    fn fell_behind(&mut self) -> Stop {
        self.known = 0;
        Stop::Subscribe
    }

    async fn send_changes(&mut self, changes: v1::Changes) -> Result<(), ReaderGone> {
        let revision = changes.revision;
        self.send(Message::Changes(changes)).await?;
        self.known = revision;
        self.next_message_at = Instant::now() + self.live.settings.min_interval;
        Ok(())
    }

    async fn send(&self, mut message: Message) -> Result<(), ReaderGone> {
        // The feed is everybody's who watches this batch.
        if self.caller.scope.role == Role::Uploader {
            let batch = match &mut message {
                Message::Snapshot(snapshot) => snapshot.batch.as_mut(),
                Message::Changes(changes) => changes.batch.as_mut(),
                Message::Closing(_) | Message::Alive(_) => None,
            };
            if let Some(batch) = batch {
                leave_out_words(batch);
            }
        }
        self.outlet.send(Ok(response(message))).await
    }

    fn closing(&self, reason: ClosingReason) -> v1::WatchBatchResponse {
        response(Message::Closing(v1::Closing {
            reason: reason.into(),
            after_revision: self.known,
            retry_after: (reason == ClosingReason::Draining).then_some(AFTER_A_DRAIN),
        }))
    }
}

fn sign_of_life() -> v1::WatchBatchResponse {
    response(Message::Alive(v1::SignOfLife {}))
}

fn response(message: Message) -> v1::WatchBatchResponse {
    v1::WatchBatchResponse {
        message: Some(message),
    }
}
