//! Committed dispatches on their way to Redis: given by the writer, published by the relay, and deleted by the writer's
//! next group once Redis has accepted them (protocol 3.1).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::store::outbox::OutboxRow;

/// Outbox rows kept in memory; what comes beyond is left to the sweep. The windows bound what can be out at all.
const HELD_ROWS: usize = 8_192;
/// Outbox rows published in one round trip.
const PAGE_ROWS: usize = 64;

/// Outbox rows by how far they are.
#[derive(Default)]
struct Rows {
    pending: VecDeque<OutboxRow>,
    held: HashSet<u64>,
    relayed: Vec<u64>,
}

/// The queue, shared by the writer and the relay.
#[derive(Clone, Default)]
pub(crate) struct RelayQueue {
    rows: Arc<Mutex<Rows>>,
    work: Arc<Notify>,
}

impl RelayQueue {
    fn locked(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes rows that are committed. A row that is held already is not taken twice.
    pub(crate) fn publish(&self, rows: Vec<OutboxRow>) {
        if rows.is_empty() {
            return;
        }
        let mut queue = self.locked();
        for row in rows {
            if queue.held.len() >= HELD_ROWS {
                tracing::warn!("the relay is full; the sweep publishes what it has no room for");
                break;
            }
            if queue.held.insert(row.id) {
                queue.pending.push_back(row);
            }
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Ids that Redis accepted: the next group deletes them.
    pub(crate) fn take_relayed(&self) -> Vec<u64> {
        let mut queue = self.locked();
        let relayed = std::mem::take(&mut queue.relayed);
        for id in &relayed {
            queue.held.remove(id);
        }
        relayed
    }

    /// The group that was to delete them was not committed.
    pub(crate) fn give_back(&self, relayed: Vec<u64>) {
        let mut queue = self.locked();
        queue.held.extend(relayed.iter().copied());
        queue.relayed.extend(relayed);
    }

    /// Whether there are rows to delete.
    pub(crate) fn has_relayed(&self) -> bool {
        !self.locked().relayed.is_empty()
    }

    /// The next rows to publish.
    pub(crate) fn take_page(&self) -> Vec<OutboxRow> {
        let mut queue = self.locked();
        let count = queue.pending.len().min(PAGE_ROWS);
        queue.pending.drain(..count).collect()
    }

    /// What became of a page: ids that Redis accepted, and rows to try again.
    pub(crate) fn settle(&self, accepted: impl IntoIterator<Item = u64>, refused: Vec<OutboxRow>) {
        let mut queue = self.locked();
        queue.relayed.extend(accepted);
        for row in refused.into_iter().rev() {
            queue.pending.push_front(row);
        }
    }

    /// Waits until rows are given.
    pub(crate) async fn given(&self) {
        self.work.notified().await;
    }
}
