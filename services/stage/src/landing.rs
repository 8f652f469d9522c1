//! Landing objects of recorded files that are to be freed, and wait until they may be asked about.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caudal_domain::{Generation, landing_prefix};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::book::Key;
use crate::metrics::LandingMetrics;

/// Objects that wait at once: at the usual delay, those of some 5,000 files a second.
const MAX_WAITING: usize = 32_768;
/// Objects asked about and deleted at once at most: what one request of the store deletes.
const PAGE: usize = 1_000;
/// How often an object is asked about before it is left. The delay doubles each time, so that a usual one is asked about for
/// five minutes.
const TRIES: u32 = 6;
/// An object that is due waits for others, so that they go in pages: for this part of the delay, and no longer than that.
const GATHERING_PART: u32 = 5;
const LONGEST_GATHERING: Duration = Duration::from_secs(1);

/// The landing object of an execution that was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landed {
    pub(crate) key: Key,
    pub(crate) generation: Generation,
    /// Its key in the object store.
    pub(crate) object: String,
}

/// One that waits.
pub(crate) struct Waiting {
    pub(crate) landed: Landed,
    /// How often it was asked about in vain.
    tries: u32,
}

/// By the time at which they are due, and a number that keeps those of one time apart.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<(Instant, u64), Waiting>,
    last_number: u64,
}

/// Landing objects that wait until they may be asked about. Its lock is never held across an await.
pub(crate) struct Landings {
    delay: Duration,
    capacity: usize,
    metrics: LandingMetrics,
    queue: Mutex<Queue>,
    added: Notify,
}

impl Landings {
    pub(crate) fn new(delay: Duration, metrics: LandingMetrics) -> Self {
        Self {
            delay,
            capacity: MAX_WAITING,
            metrics,
            queue: Mutex::default(),
            added: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in an object whose file was answered RECORDED.
    pub(crate) fn add(&self, landed: Landed, now: Instant) {
        // A deletion cannot be taken back: whatever a handler says, it never reaches another file's objects nor a final one.
        if !landed.object.starts_with(&landing_prefix(landed.key.0)) {
            tracing::error!(object = landed.object, file = ?landed.key.0, "no landing object of this file: it stays");
            self.metrics.left.inc();
            return;
        }
        self.wait(Waiting { landed, tries: 0 }, now);
    }

    /// With no room left the newest stays, not the oldest: else, where more come than fit into the delay, each would be
    /// pushed out before it is due, and none freed.
    fn wait(&self, waiting: Waiting, now: Instant) {
        let due = now + self.delay * 2_u32.pow(waiting.tries);
        let mut queue = self.lock();
        if queue.waiting.len() >= self.capacity {
            self.metrics.left.inc();
            return;
        }
        queue.last_number += 1;
        let number = queue.last_number;
        queue.waiting.insert((due, number), waiting);
        self.metrics.waiting.set(count(queue.waiting.len()));
        drop(queue);
        self.added.notify_one();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes out what is due at `now`, the longest due first, at most a page.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Waiting> {
        let mut queue = self.lock();
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some(first) = queue.waiting.first_entry()
            && first.key().0 <= now
        {
            page.push(first.remove());
        }
        self.metrics.waiting.set(count(queue.waiting.len()));
        page
    }

    /// That many are deleted.
    pub(crate) fn freed(&self, objects: usize) {
        self.metrics.freed.inc_by(objects as u64);
    }

    /// Those that could not be freed wait longer, or are left.
    pub(crate) fn put_back(&self, page: Vec<Waiting>, now: Instant) {
        let mut left = 0;
        for mut waiting in page {
            waiting.tries += 1;
            if waiting.tries < TRIES {
                self.wait(waiting, now);
            } else {
                left += 1;
            }
        }
        if left > 0 {
            self.metrics.left.inc_by(left);
            tracing::warn!(objects = left, "landing objects stay for the collector");
        }
    }

    /// Waits until objects are due, and a little longer.
    pub(crate) async fn until_due(&self) {
        let gathering = (self.delay / GATHERING_PART).min(LONGEST_GATHERING);
        loop {
            let added = self.added.notified();
            let first = self.lock().waiting.keys().next().map(|(due, _)| *due);
            if let Some(due) = first {
                // What is added meanwhile is due later.
                return tokio::time::sleep_until(due + gathering).await;
            }
            added.await;
        }
    }
}

fn count(waiting: usize) -> i64 {
    i64::try_from(waiting).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_domain::{BatchId, FileRef, Stage, Target, TenantId, Token, final_key, landing_key};
    use caudal_node::Registry;
    use uuid::Uuid;

    const DELAY: Duration = Duration::from_secs(5);

    fn file(ordinal: u32) -> FileRef {
        FileRef {
            tenant: TenantId::from_uuid(Uuid::from_u128(1)),
            batch: BatchId::from_uuid(Uuid::from_u128(2)),
            ordinal,
        }
    }

    fn landed(ordinal: u32) -> Landed {
        Landed {
            key: (file(ordinal), Token(3)),
            generation: Generation(1),
            object: landing_key(file(ordinal), Target(1)),
        }
    }

    fn landings(capacity: usize) -> Landings {
        let metrics = LandingMetrics::new(&Registry::new("upload"), Stage::Upload.name());
        Landings {
            capacity,
            ..Landings::new(DELAY, metrics)
        }
    }

    fn ordinals(page: &[Waiting]) -> Vec<u32> {
        page.iter()
            .map(|waiting| waiting.landed.key.0.ordinal)
            .collect()
    }

    #[test]
    fn nothing_is_due_before_its_delay_and_then_the_oldest_first_in_pages() {
        let landings = landings(MAX_WAITING);
        let begun = Instant::now();
        for ordinal in 0..1_500 {
            landings.add(
                landed(ordinal),
                begun + Duration::from_millis(ordinal.into()),
            );
        }
        assert!(
            landings
                .take_due(begun + DELAY - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(
            ordinals(&landings.take_due(begun + DELAY + Duration::from_millis(2))),
            [0, 1, 2]
        );
        let later = begun + DELAY * 2;
        let page = ordinals(&landings.take_due(later));
        assert_eq!((page.len(), page[0]), (PAGE, 3));
        assert_eq!(landings.take_due(later).len(), 497);
        assert_eq!(landings.metrics.waiting.get(), 0);
    }

    #[test]
    fn with_no_room_left_the_newest_stays_and_the_oldest_are_freed() {
        let landings = landings(3);
        let begun = Instant::now();
        for ordinal in 0..5 {
            landings.add(landed(ordinal), begun);
        }
        let metrics = &landings.metrics;
        assert_eq!((metrics.waiting.get(), metrics.left.get()), (3, 2));
        assert_eq!(ordinals(&landings.take_due(begun + DELAY)), [0, 1, 2]);
    }

    #[test]
    fn what_is_not_seen_is_asked_about_less_and_less_often_and_then_left() {
        let landings = landings(MAX_WAITING);
        let mut now = Instant::now();
        landings.add(landed(1), now);
        for tries in 0..TRIES {
            assert_eq!(landings.metrics.left.get(), 0);
            let wait = DELAY * 2_u32.pow(tries);
            let moment = Duration::from_millis(1);
            assert!(landings.take_due(now + wait - moment).is_empty());
            now += wait;
            let page = landings.take_due(now);
            assert_eq!(ordinals(&page), [1]);
            landings.put_back(page, now);
        }
        let metrics = &landings.metrics;
        assert_eq!((metrics.waiting.get(), metrics.left.get()), (0, 1));
    }

    #[test]
    fn nothing_but_what_landed_for_the_file_is_ever_freed() {
        let landings = landings(MAX_WAITING);
        let now = Instant::now();
        for object in [
            landing_key(file(2), Target(1)),
            landing_key(file(11), Target(1)),
            final_key(file(1), &[7; 32]),
            String::new(),
        ] {
            landings.add(
                Landed {
                    object,
                    ..landed(1)
                },
                now,
            );
        }
        let metrics = &landings.metrics;
        assert_eq!((metrics.waiting.get(), metrics.left.get()), (0, 4));
    }
}
