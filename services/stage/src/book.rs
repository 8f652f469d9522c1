//! What the process holds: each dispatch from its reading to its final answer, and the entries that wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use caudal_domain::{FileRef, Token};
use caudal_streams::{Entry, Lane};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A dispatch: the file, and the token that fences who may act on it.
pub(crate) type Key = (FileRef, Token);

/// How far a held dispatch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Read; the ledger has not granted it yet.
    Leasing,
    /// Granted; waits for a slot.
    Waiting,
    /// A handler works on it.
    Running,
    /// Its outcome is on the way to the ledger, or it is being given back.
    Answering,
}

struct Held {
    phase: Phase,
    since: SystemTime,
    renew_at: Instant,
    entries: Vec<Arc<str>>,
    lane: Lane,
    cancelled: CancellationToken,
    stopped: bool,
}

#[derive(Default)]
struct Inner {
    files: FxHashMap<Key, Held>,
    /// Dispatches without a final answer, of each entry.
    open: HashMap<Arc<str>, usize>,
    /// Entries all of whose dispatches have a final answer, not yet acknowledged.
    closed: Vec<Arc<str>>,
    /// Of `closed`, those that an acknowledgement is on its way for.
    acknowledging: usize,
}

impl Inner {
    fn close(&mut self, entries: Vec<Arc<str>>) -> bool {
        let mut any_closed = false;
        for entry in entries {
            let Some(open) = self.open.get_mut(&entry) else {
                continue;
            };
            *open -= 1;
            if *open == 0 {
                self.open.remove(&entry);
                self.closed.push(entry);
                any_closed = true;
            }
        }
        any_closed
    }
}

/// A held dispatch as others may see it.
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) running: bool,
    pub(crate) since: SystemTime,
}

/// Dispatches whose leases want renewal.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) held: Vec<Key>,
    /// Those of them that a handler works on.
    pub(crate) begun: Vec<Key>,
}

/// The book. Its lock is never held across an await.
pub(crate) struct Book {
    /// As it was started, and at least so many where more handlers are to have work.
    prefetch: usize,
    at_least: AtomicUsize,
    inner: Mutex<Inner>,
    /// Room may have become free.
    pub(crate) room_made: Notify,
    /// Entries may have been closed.
    pub(crate) entries_closed: Notify,
}

impl Book {
    pub(crate) fn new(prefetch: usize) -> Self {
        Self {
            prefetch,
            at_least: AtomicUsize::new(0),
            inner: Mutex::default(),
            room_made: Notify::new(),
            entries_closed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many dispatches may be held, whatever the process was started for.
    pub(crate) fn hold_at_least(&self, dispatches: usize) {
        self.at_least.store(dispatches, Ordering::Relaxed);
        self.room_made.notify_one();
    }

    /// Dispatches that may still be read. Entries that only wait for their acknowledgement take room too: without Redis
    /// nothing is acknowledged, and nothing piles up either.
    pub(crate) fn room(&self) -> usize {
        let inner = self.lock();
        self.prefetch
            .max(self.at_least.load(Ordering::Relaxed))
            .saturating_sub(inner.files.len() + inner.closed.len() + inner.acknowledging)
    }

    /// How a dispatch came; one that is not held any more has no hurry.
    pub(crate) fn lane(&self, key: &Key) -> Lane {
        self.lock()
            .files
            .get(key)
            .map(|held| held.lane)
            .unwrap_or_default()
    }

    pub(crate) fn held(&self) -> usize {
        self.lock().files.len()
    }

    /// Takes in an entry. Returns the dispatches that are new; those already held wait for the answer they will get.
    pub(crate) fn take(&self, entry: Entry, now: Instant, first_renewal: Duration) -> Vec<Key> {
        let id: Arc<str> = entry.id.into();
        let mut inner = self.lock();
        if inner.open.contains_key(&id) {
            return Vec::new();
        }
        let mut fresh = Vec::with_capacity(entry.files.len());
        let mut open = 0;
        for key in entry.files {
            if let Some(held) = inner.files.get_mut(&key) {
                if !held.entries.contains(&id) {
                    held.entries.push(id.clone());
                    open += 1;
                }
                continue;
            }
            let held = Held {
                phase: Phase::Leasing,
                since: SystemTime::now(),
                renew_at: now + first_renewal,
                entries: vec![id.clone()],
                lane: entry.lane,
                cancelled: CancellationToken::new(),
                stopped: false,
            };
            inner.files.insert(key, held);
            open += 1;
            fresh.push(key);
        }
        if open == 0 {
            inner.closed.push(id);
            drop(inner);
            self.entries_closed.notify_one();
        } else {
            inner.open.insert(id, open);
        }
        fresh
    }

    /// Moves a dispatch on and returns its cancellation; nothing when it is not held any more.
    pub(crate) fn advance(&self, key: &Key, phase: Phase) -> Option<CancellationToken> {
        let mut inner = self.lock();
        let held = inner.files.get_mut(key)?;
        held.phase = phase;
        Some(held.cancelled.clone())
    }

    /// The final answer for a dispatch is known: forgets it, and closes the entries that waited for nothing else.
    pub(crate) fn settle(&self, key: &Key) {
        let mut inner = self.lock();
        let Some(held) = inner.files.remove(key) else {
            return;
        };
        let any_closed = inner.close(held.entries);
        drop(inner);
        self.room_made.notify_one();
        if any_closed {
            self.entries_closed.notify_one();
        }
    }

    /// Forgets a dispatch that will get no final answer here. Its entries stay unacknowledged for ever, so that the ledger
    /// meets them; they take no room.
    pub(crate) fn abandon(&self, key: &Key) {
        self.lock().files.remove(key);
        self.room_made.notify_one();
    }

    /// Dispatches whose lease wants renewal at `now`, granted ones only, at most `count`.
    pub(crate) fn due(&self, now: Instant, count: usize) -> Due {
        let inner = self.lock();
        let mut due = Due::default();
        for (key, held) in &inner.files {
            if held.phase != Phase::Leasing && held.renew_at <= now {
                due.held.push(*key);
                if held.phase == Phase::Running {
                    due.begun.push(*key);
                }
                if due.held.len() == count {
                    break;
                }
            }
        }
        due
    }

    /// A lease was renewed; the next renewal is due at `renew_at`.
    pub(crate) fn renewed(&self, key: &Key, renew_at: Instant) {
        if let Some(held) = self.lock().files.get_mut(key) {
            held.renew_at = renew_at;
        }
    }

    /// The token has moved on. What waits is dropped, a running handler is cancelled; an outcome on its way gets its own
    /// answer, which may well be that it is recorded.
    pub(crate) fn stop(&self, key: &Key) {
        let mut inner = self.lock();
        let Some(held) = inner.files.get_mut(key) else {
            return;
        };
        match held.phase {
            Phase::Answering => {}
            Phase::Running => {
                held.stopped = true;
                held.cancelled.cancel();
            }
            Phase::Leasing | Phase::Waiting => {
                drop(inner);
                self.settle(key);
            }
        }
    }

    /// Whether [`Book::stop`] has ended this running dispatch.
    pub(crate) fn is_stopped(&self, key: &Key) -> bool {
        self.lock().files.get(key).is_some_and(|held| held.stopped)
    }

    /// Entries to acknowledge now, at most `count`; they take room until [`Book::acknowledged`].
    pub(crate) fn closed_entries(&self, count: usize) -> Vec<String> {
        let mut inner = self.lock();
        let count = count.min(inner.closed.len());
        let ids: Vec<String> = inner
            .closed
            .drain(..count)
            .map(|id| id.to_string())
            .collect();
        inner.acknowledging += ids.len();
        ids
    }

    /// That many entries of [`Book::closed_entries`] are gone from the stream.
    pub(crate) fn acknowledged(&self, count: usize) {
        let mut inner = self.lock();
        inner.acknowledging = inner.acknowledging.saturating_sub(count);
        drop(inner);
        self.room_made.notify_one();
    }

    /// What is held, at most `count`.
    pub(crate) fn snapshot(&self, count: usize) -> Vec<Seen> {
        let inner = self.lock();
        let files = inner.files.iter().take(count);
        files
            .map(|(key, held)| Seen {
                key: *key,
                running: held.phase == Phase::Running,
                since: held.since,
            })
            .collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use caudal_domain::{BatchId, TenantId};
    use uuid::Uuid;

    const THIRD: Duration = Duration::from_secs(4);

    fn key(ordinal: u32, token: u64) -> Key {
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let batch = BatchId::from_uuid(Uuid::from_u128(2));
        (
            FileRef {
                tenant,
                batch,
                ordinal,
            },
            Token(token),
        )
    }

    fn entry(id: &str, files: &[Key]) -> Entry {
        Entry {
            lane: Lane::Regular,
            id: id.to_owned(),
            files: files.to_vec(),
            admitted_unix_ms: 0,
        }
    }

    #[test]
    fn an_entry_closes_when_its_last_dispatch_is_settled() {
        // protocol 4.3: acknowledging is per entry, everything else per dispatch.
        let book = Book::new(10);
        let fresh = book.take(entry("1-0", &[key(1, 1), key(2, 1)]), Instant::now(), THIRD);
        assert_eq!(fresh, [key(1, 1), key(2, 1)]);
        assert_eq!(book.room(), 8);
        book.settle(&key(1, 1));
        assert!(book.closed_entries(10).is_empty());
        book.settle(&key(2, 1));
        assert_eq!(book.room(), 9);
        assert_eq!(book.closed_entries(10), ["1-0"]);
        assert_eq!(book.room(), 9);
        book.acknowledged(1);
        assert_eq!(book.room(), 10);
    }

    #[test]
    fn a_doubled_message_waits_for_the_one_execution() {
        let book = Book::new(10);
        book.take(entry("1-0", &[key(1, 1)]), Instant::now(), THIRD);
        assert!(
            book.take(entry("2-0", &[key(1, 1)]), Instant::now(), THIRD)
                .is_empty()
        );
        assert!(
            book.take(entry("2-0", &[key(1, 1)]), Instant::now(), THIRD)
                .is_empty()
        );
        book.settle(&key(1, 1));
        let mut closed = book.closed_entries(10);
        closed.sort();
        assert_eq!(closed, ["1-0", "2-0"]);
    }

    #[test]
    fn an_entry_without_dispatches_is_closed_at_once() {
        let book = Book::new(10);
        assert!(
            book.take(entry("1-0", &[]), Instant::now(), THIRD)
                .is_empty()
        );
        assert_eq!(book.closed_entries(10), ["1-0"]);
    }

    #[test]
    fn an_abandoned_dispatch_keeps_its_entry_from_being_acknowledged() {
        let book = Book::new(10);
        book.take(entry("1-0", &[key(1, 1), key(2, 1)]), Instant::now(), THIRD);
        book.abandon(&key(1, 1));
        book.settle(&key(2, 1));
        assert!(book.closed_entries(10).is_empty());
        assert_eq!(book.room(), 10);
    }

    #[test]
    fn only_what_was_granted_is_renewed_and_not_before_a_third_of_the_lease() {
        // protocol 5.2: what ends within a third of the lease never writes one.
        let book = Book::new(10);
        let read_at = Instant::now();
        book.take(entry("1-0", &[key(1, 1), key(2, 1)]), read_at, THIRD);
        book.advance(&key(1, 1), Phase::Waiting).unwrap();
        assert!(book.due(read_at, 10).held.is_empty());
        let due = book.due(read_at + THIRD, 10);
        assert_eq!((due.held, due.begun), (vec![key(1, 1)], Vec::new()));
        book.advance(&key(1, 1), Phase::Running);
        assert_eq!(book.due(read_at + THIRD, 10).begun, [key(1, 1)]);
        book.renewed(&key(1, 1), read_at + THIRD * 2);
        assert!(book.due(read_at + THIRD, 10).held.is_empty());
    }

    #[test]
    fn a_stop_drops_what_waits_cancels_what_runs_and_leaves_what_is_being_reported() {
        let book = Book::new(10);
        book.take(
            entry("1-0", &[key(1, 1), key(2, 1), key(3, 1)]),
            Instant::now(),
            THIRD,
        );
        book.advance(&key(1, 1), Phase::Waiting).unwrap();
        let running = book.advance(&key(2, 1), Phase::Running).unwrap();
        let answering = book.advance(&key(3, 1), Phase::Answering).unwrap();
        for ordinal in 1..=3 {
            book.stop(&key(ordinal, 1));
        }
        assert!(book.advance(&key(1, 1), Phase::Running).is_none());
        assert!(running.is_cancelled() && book.is_stopped(&key(2, 1)));
        assert!(!answering.is_cancelled() && !book.is_stopped(&key(3, 1)));
        assert_eq!(book.held(), 2);
    }
}
