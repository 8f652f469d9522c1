//! One reader for all watchers of a batch. A feed reads the batch's changes once, folds them once, and hands each
//! message to everybody who subscribed; the last few are kept for those who are a little behind.
//!
//! Why a subscriber misses nothing: subscribing and publishing exclude each other, so the first message a subscriber
//! gets begins where the feed stood when it subscribed (`start`), and each further one where the one before ended. Whoever
//! knows the batch up to `start` or beyond therefore knows it up to the end of each message it applies. Messages carry
//! absolute values, so one that reaches back before what a watcher knows does no harm. Whoever falls behind by more than
//! is kept is told so, and begins with a snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caudal_domain::{BatchId, Refusal, TenantId};
use caudal_node::scope::{Role, Scope};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::fold::Fold;
use crate::ledger::{Ledger, passed_on};
use crate::live::{Live, RetryWindow};
use crate::wakeups::Wakeups;

/// Pages of changes folded into one message; what is left comes with the next.
const MAX_PAGES_A_MESSAGE: usize = 32;
/// Snapshots under way at once, fewer than the streams of one connection to the ledger; others wait.
const SNAPSHOTS_AT_ONCE: usize = 48;
/// Whoever asks within this time of another gets the same snapshot, and catches up.
const SNAPSHOT_SHARED_FOR: Duration = Duration::from_secs(1);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

type Key = (TenantId, BatchId);

/// A whole snapshot, in parts.
pub(crate) type Snapshot = Arc<[v1::Snapshot]>;

/// The feeds of this gateway.
#[derive(Clone)]
pub(crate) struct Feeds {
    pub(crate) ledger: Ledger,
    wakeups: Wakeups,
    live: Live,
    open: Arc<Mutex<HashMap<Key, Arc<Feed>>>>,
    snapshots: Arc<Semaphore>,
}

/// One batch's feed.
pub(crate) struct Feed {
    key: Key,
    /// In whose name the ledger is read; whether a watcher may read the batch is asked in its own.
    scope: Scope,
    told: Mutex<Told>,
    /// Held while a snapshot is read: those who come meanwhile wait for the same one.
    snapshot: tokio::sync::Mutex<Option<(Instant, Snapshot)>>,
}

struct Told {
    /// Everything up to here was published.
    revision: i64,
    /// None when the feed is over.
    messages: Option<broadcast::Sender<Arc<v1::Changes>>>,
    /// Why it is over, when the ledger was silent for too long.
    failure: Option<Status>,
}

/// A watcher's end of a feed.
pub(crate) struct Subscription {
    /// The messages begin here.
    pub(crate) start: i64,
    pub(crate) messages: broadcast::Receiver<Arc<v1::Changes>>,
    feed: Arc<Feed>,
}

impl Subscription {
    /// Why the feed is over, when there is more to it than that one should subscribe again.
    pub(crate) fn failure(&self) -> Option<Status> {
        self.feed.told().failure.clone()
    }
}

impl Feed {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when it is over.
    fn subscribe(self: &Arc<Self>) -> Option<Subscription> {
        let told = self.told();
        Some(Subscription {
            start: told.revision,
            messages: told.messages.as_ref()?.subscribe(),
            feed: Arc::clone(self),
        })
    }

    fn publish(&self, changes: v1::Changes) {
        let mut told = self.told();
        told.revision = changes.revision;
        if let Some(messages) = &told.messages {
            // Nobody listens: the feed ends soon.
            let _listeners = messages.send(Arc::new(changes));
        }
    }

    fn drop_old_snapshot(&self) {
        if let Ok(mut kept) = self.snapshot.try_lock()
            && kept
                .as_ref()
                .is_some_and(|(at, _)| at.elapsed() >= SNAPSHOT_SHARED_FOR)
        {
            *kept = None;
        }
    }
}

/// What the ledger has after a revision.
pub(crate) enum Read {
    /// Changes, folded.
    Changes {
        fold: Box<Fold>,
        /// There are more.
        more: bool,
    },
    Nothing,
    /// A snapshot is needed.
    TooOld,
}

impl Feeds {
    pub(crate) fn new(ledger: Ledger, wakeups: Wakeups, live: Live) -> Self {
        Self {
            ledger,
            wakeups,
            live,
            open: Arc::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
        }
    }

    /// Subscribes to the feed of a batch that is known to be at `revision` at least; the first one opens it there.
    pub(crate) fn subscribe(
        &self,
        tenant: TenantId,
        batch: BatchId,
        revision: i64,
    ) -> Subscription {
        let key = (tenant, batch);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscription) = open.get(&key).and_then(Feed::subscribe) {
            return subscription;
        }
        let (messages, first) = broadcast::channel(self.live.settings.backlog.max(1));
        let feed = Arc::new(Feed {
            key,
            scope: Scope {
                tenant: Some(tenant),
                principal: "service:gateway".to_owned(),
                role: Role::Member,
                batch: Some(batch),
                key_id: String::new(),
            },
            told: Mutex::new(Told {
                revision,
                messages: Some(messages),
                failure: None,
            }),
            snapshot: tokio::sync::Mutex::default(),
        });
        open.insert(key, Arc::clone(&feed));
        self.live
            .tasks
            .spawn(self.clone().run(Arc::clone(&feed), revision));
        Subscription {
            start: revision,
            messages: first,
            feed,
        }
    }

    /// Ends a feed that stands beyond what the ledger has: the database has gone back, and changes to come have revisions
    /// that the feed told already. Whoever subscribes now opens another.
    pub(crate) fn end(&self, of: &Subscription) {
        tracing::warn!(batch = %of.feed.key.1, "the ledger has gone back behind what was told of the batch");
        of.feed.told().messages = None;
    }

    async fn run(self, feed: Arc<Feed>, revision: i64) {
        let followed = tokio::select! {
            biased;
            () = self.live.shutdown.cancelled() => Ok(()),
            followed = self.follow(&feed, revision) => followed,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = feed.told();
        told.failure = followed.err();
        told.messages = None;
        remove(&mut open, &feed);
    }

    /// Publishes what happens until nobody listens, or what happened cannot be told in changes: then everybody
    /// subscribes again.
    ///
    /// # Errors
    /// The ledger was silent for longer than is borne.
    async fn follow(&self, feed: &Arc<Feed>, mut revision: i64) -> Result<(), Status> {
        let settings = &self.live.settings;
        let (tenant, batch) = feed.key;
        let mut wakeup = self.wakeups.listen(tenant, Some(batch));
        let mut window = RetryWindow::default();
        let mut look_now = true;
        loop {
            if self.ended_unheard(feed) {
                return Ok(());
            }
            feed.drop_old_snapshot();
            if !look_now {
                // Nobody hinted: that is no proof that nothing happened.
                let hint = wakeup.beyond(revision);
                let _no_hint = tokio::time::timeout(settings.poll_interval, hint).await;
            }
            let read = self.changes_after(&feed.scope, batch, revision).await;
            if read.is_ok() {
                window.close();
            }
            match read {
                Ok(Read::Changes { fold, more }) => {
                    revision = fold.revision();
                    look_now = more;
                    feed.publish(fold.into_changes());
                    tokio::time::sleep(settings.min_interval).await;
                }
                Ok(Read::Nothing) => look_now = false,
                Ok(Read::TooOld) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => return Ok(()),
                Err(status) => {
                    look_now = true;
                    window.wait_after(status, settings.patience).await?;
                }
            }
        }
    }

    /// Ends the feed if nobody listens. Nobody can subscribe meanwhile.
    fn ended_unheard(&self, feed: &Arc<Feed>) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = feed.told();
        let is_heard = told
            .messages
            .as_ref()
            .is_some_and(|messages| messages.receiver_count() > 0);
        if !is_heard {
            told.messages = None;
            remove(&mut open, feed);
        }
        !is_heard
    }

    /// Reads what happened after a revision and folds it.
    pub(crate) async fn changes_after(
        &self,
        scope: &Scope,
        batch: BatchId,
        revision: i64,
    ) -> Result<Read, Status> {
        let mut fold = Fold::default();
        let mut more = true;
        for _ in 0..MAX_PAGES_A_MESSAGE {
            let request = mesh::ListChangesRequest {
                batch: batch.as_bytes().to_vec().into(),
                after_revision: revision.max(fold.revision()),
            };
            let page = self.ledger.call(scope, request, |ledger, request| {
                let mut mesh = ledger.mesh();
                async move { mesh.list_changes(request).await }
            });
            let page = page.await?;
            if page.too_old {
                return Ok(Read::TooOld);
            }
            more = page.more && !page.changes.is_empty();
            for change in &page.changes {
                if let Err(error) = fold.add(change) {
                    // A snapshot says the same in another way.
                    tracing::error!(%error, %batch, "took a snapshot instead of changes");
                    return Ok(Read::TooOld);
                }
            }
            if !more || fold.is_full() {
                break;
            }
        }
        if fold.is_empty() {
            return Ok(Read::Nothing);
        }
        let fold = Box::new(fold);
        Ok(Read::Changes { fold, more })
    }

    /// The batch as of now, or as of a moment ago when that reached `revision` already.
    pub(crate) async fn snapshot(
        &self,
        of: &Subscription,
        revision: i64,
    ) -> Result<Snapshot, Status> {
        let feed = &of.feed;
        let mut kept = feed.snapshot.lock().await;
        if let Some((at, snapshot)) = &*kept
            && at.elapsed() < SNAPSHOT_SHARED_FOR
            && revision_of(snapshot) >= revision
        {
            return Ok(Arc::clone(snapshot));
        }
        // The semaphore is never closed.
        let _place = self.snapshots.acquire().await.ok();
        let begun = Instant::now();
        let (_, batch) = feed.key;
        let request = mesh::GetSnapshotRequest {
            batch: batch.as_bytes().to_vec().into(),
        };
        let parts = self.ledger.stream(&feed.scope, request, |ledger, request| {
            let mut mesh = ledger.mesh();
            async move { mesh.get_snapshot(request).await }
        });
        let mut parts = parts.await?;
        let mut snapshot = Vec::new();
        loop {
            let part = parts.message().await.map_err(|status| passed_on(&status))?;
            let part = part.and_then(|part| part.snapshot).ok_or_else(|| {
                let words = "the snapshot broke off: watch again";
                to_status(&Refusal::unavailable(words, TRY_AGAIN_AFTER))
            })?;
            let is_last = part.last;
            snapshot.push(part);
            if is_last {
                break;
            }
        }
        let snapshot: Snapshot = snapshot.into();
        *kept = Some((begun, Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}

/// Another may be open already in place of one that was ended.
fn remove(open: &mut HashMap<Key, Arc<Feed>>, feed: &Arc<Feed>) {
    if open
        .get(&feed.key)
        .is_some_and(|known| Arc::ptr_eq(known, feed))
    {
        open.remove(&feed.key);
    }
}

/// What is known once a snapshot was read.
pub(crate) fn revision_of(snapshot: &[v1::Snapshot]) -> i64 {
    snapshot.last().map_or(0, |part| part.revision)
}
