//! Who wants to hear of a batch, or of all batches of a tenant: hints from Redis reach exactly those. What is kept is
//! bounded by the listeners: a hint of a batch that nobody watches is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use caudal_domain::{BatchId, TenantId};
use caudal_node::hints::{Heard, HintError, Subscriber};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A batch, or all of a tenant.
type Key = (TenantId, Option<BatchId>);
type Watched = HashMap<Key, watch::Sender<Hinted>>;

/// What was hinted of a batch or a tenant.
#[derive(Clone, Copy, Default)]
struct Hinted {
    /// The highest revision of the batch.
    revision: i64,
    /// How many hints there were of the batch.
    hints: u64,
    /// How often hints may have been missed; of a tenant: or one of its batches moved.
    gaps: u64,
}

/// What is watched in this gateway.
#[derive(Clone, Default)]
pub(crate) struct Wakeups {
    watched: Arc<Mutex<Watched>>,
}

/// One watcher's ear. Only the highest revision hinted is kept.
pub(crate) struct Wakeup {
    key: Key,
    hinted: watch::Receiver<Hinted>,
    /// What has woken this one already.
    seen: Hinted,
    watched: Arc<Mutex<Watched>>,
}

impl Wakeups {
    pub(crate) fn listen(&self, tenant: TenantId, batch: Option<BatchId>) -> Wakeup {
        let key = (tenant, batch);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let hinted = watched
            .entry(key)
            .or_insert_with(|| watch::Sender::new(Hinted::default()))
            .subscribe();
        let seen = *hinted.borrow();
        Wakeup {
            key,
            hinted,
            seen,
            watched: Arc::clone(&self.watched),
        }
    }

    /// Hints may have been missed: everybody looks for themselves.
    fn gap(&self) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in watched.values() {
            sender.send_modify(|known| known.gaps += 1);
        }
    }

    /// A batch has come to a revision.
    pub(crate) fn hint(&self, tenant: TenantId, batch: BatchId, revision: i64) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&(tenant, None)) {
            sender.send_modify(|known| known.gaps += 1);
        }
        if let Some(sender) = watched.get(&(tenant, Some(batch))) {
            sender.send_modify(|known| {
                known.revision = revision.max(known.revision);
                known.hints += 1;
            });
        }
    }
}

impl Wakeup {
    /// Returns as soon as anything was hinted since the last time, or hints were missed.
    pub(crate) async fn anything(&mut self) {
        if self.hinted.changed().await.is_err() {
            // The sender lives in the map for as long as this listener does.
            std::future::pending::<()>().await;
        }
    }

    /// Returns as soon as a revision of the batch above `known` was hinted, or hints were missed. Each hint wakes once: the
    /// database may have gone back behind it, and would be asked again and again for what it does not have.
    pub(crate) async fn beyond(&mut self, known: i64) {
        let seen = self.seen;
        let is_news = |hinted: &Hinted| {
            let is_beyond = hinted.revision > known && hinted.hints > seen.hints;
            is_beyond || hinted.gaps > seen.gaps
        };
        let news = self.hinted.wait_for(is_news).await.map(|hinted| *hinted);
        match news {
            Ok(hinted) => self.seen = hinted,
            // The sender lives in the map for as long as this listener does.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // This receiver is still counted.
        if watched
            .get(&self.key)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            watched.remove(&self.key);
        }
    }
}

/// Passes the hints of Redis on, until shutdown.
pub(crate) fn receive_hints(
    redis_url: &str,
    wakeups: Wakeups,
    shutdown: CancellationToken,
) -> Result<JoinHandle<()>, HintError> {
    let mut subscriber = Subscriber::start(redis_url, shutdown)?;
    Ok(tokio::spawn(async move {
        while let Some(heard) = subscriber.next().await {
            let hint = match heard {
                Heard::Changed(hint) => hint,
                Heard::MayHaveMissed => {
                    wakeups.gap();
                    continue;
                }
            };
            for changed in &hint.batches {
                let ids = (
                    TenantId::from_slice(&changed.tenant),
                    BatchId::from_slice(&changed.batch),
                );
                if let (Ok(tenant), Ok(batch)) = ids {
                    wakeups.hint(tenant, batch, changed.batch_revision);
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_hint_wakes_its_batch_alone_and_nothing_is_left_behind() {
        let wakeups = Wakeups::default();
        let id = |last: u8| uuid::Uuid::from_bytes([last; 16]);
        let (tenant, batch, other) = (
            TenantId::from_uuid(id(1)),
            BatchId::from_uuid(id(2)),
            BatchId::from_uuid(id(3)),
        );
        let mut first = wakeups.listen(tenant, Some(batch));
        let mut second = wakeups.listen(tenant, Some(batch));
        let mut of_tenant = wakeups.listen(tenant, None);
        wakeups.hint(tenant, other, 50);
        wakeups.hint(tenant, batch, 7);
        wakeups.hint(tenant, batch, 6);
        of_tenant.anything().await;
        first.beyond(6).await;
        second.beyond(0).await;
        let long_enough = std::time::Duration::from_millis(20);
        assert!(
            tokio::time::timeout(long_enough, first.beyond(7))
                .await
                .is_err()
        );
        wakeups.gap();
        first.beyond(7).await;
        assert!(
            tokio::time::timeout(long_enough, first.beyond(7))
                .await
                .is_err()
        );
        drop((first, second, of_tenant));
        assert!(
            wakeups
                .watched
                .lock()
                .is_ok_and(|watched| watched.is_empty())
        );
    }

    #[tokio::test]
    async fn a_hint_beyond_what_can_be_read_wakes_once_and_the_next_one_again() {
        let wakeups = Wakeups::default();
        let tenant = TenantId::from_uuid(uuid::Uuid::from_bytes([1; 16]));
        let batch = BatchId::from_uuid(uuid::Uuid::from_bytes([2; 16]));
        let mut wakeup = wakeups.listen(tenant, Some(batch));
        let mut wakes = |known| wakeup.beyond(known).now_or_never().is_some();
        wakeups.hint(tenant, batch, 9);
        assert!(wakes(4));
        assert!(!wakes(4), "the ledger has no more than 4");
        // What the ledger has now is behind that hint.
        wakeups.hint(tenant, batch, 5);
        assert!(wakes(4));
        assert!(!wakes(5));
        wakeups.hint(tenant, batch, 10);
        assert!(wakes(5));
        assert!(!wakes(10));
    }
}
