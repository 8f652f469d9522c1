//! Whose turn it is to read. The connections of readers are few: what is read for tenants has a share of them, each tenant at
//! most a part of that share, and tenants that wait go in turn, so that none reads so much that another cannot. A turn is one
//! statement: long walks give theirs back between their slices.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caudal_domain::TenantId;
use tokio::sync::oneshot;

/// The turns of tenants. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    free: usize,
    /// Of one tenant.
    most: usize,
    taken: HashMap<TenantId, usize>,
    waiting: HashMap<TenantId, VecDeque<oneshot::Sender<Turn>>>,
    /// Tenants that wait, the next one first.
    ring: VecDeque<TenantId>,
}

/// A turn that was given; it is over when this is dropped.
pub(crate) struct Turn {
    turns: Turns,
    tenant: TenantId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut queue = self.turns.lock();
            queue.free += 1;
            if let Some(taken) = queue.taken.get_mut(&self.tenant) {
                *taken -= 1;
                if *taken == 0 {
                    queue.taken.remove(&self.tenant);
                }
            }
        }
        self.turns.give();
    }
}

impl Turns {
    /// So many at once, and of one tenant so many.
    pub(crate) fn new(all: usize, most: usize) -> Self {
        Self {
            queue: Arc::new(Mutex::new(Queue {
                free: all,
                most,
                taken: HashMap::new(),
                waiting: HashMap::new(),
                ring: VecDeque::new(),
            })),
        }
    }

    /// Waits for a tenant's turn. Whoever stops waiting gives its place up.
    pub(crate) async fn of(&self, tenant: TenantId) -> Option<Turn> {
        let (give, given) = oneshot::channel();
        {
            let mut queue = self.lock();
            let waiting = queue.waiting.entry(tenant).or_default();
            let is_first = waiting.is_empty();
            waiting.push_back(give);
            if is_first {
                queue.ring.push_back(tenant);
            }
        }
        self.give();
        given.await.ok()
    }

    /// Gives what is free to those that wait, one each before anybody has another.
    fn give(&self) {
        loop {
            let Some((give, tenant)) = self.lock().next() else {
                return;
            };
            let turn = Turn {
                turns: self.clone(),
                tenant,
            };
            // Who stopped waiting drops it, and it goes to the next.
            let _unwanted = give.send(turn);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Who is next, if there is a turn for it; it is taken then.
    fn next(&mut self) -> Option<(oneshot::Sender<Turn>, TenantId)> {
        if self.free == 0 {
            return None;
        }
        for _ in 0..self.ring.len() {
            let tenant = self.ring.pop_front()?;
            if self.taken.get(&tenant).copied().unwrap_or_default() >= self.most {
                self.ring.push_back(tenant);
                continue;
            }
            let waiting = self.waiting.get_mut(&tenant)?;
            let give = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&tenant);
            } else {
                self.ring.push_back(tenant);
            }
            let Some(give) = give else { continue };
            self.free -= 1;
            *self.taken.entry(tenant).or_default() += 1;
            return Some((give, tenant));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use uuid::Uuid;

    use super::*;

    type Wait = Pin<Box<dyn Future<Output = Option<Turn>>>>;

    fn tenant(number: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(number))
    }

    fn asks(turns: &Turns, number: u128) -> Wait {
        let turns = turns.clone();
        let mut wait: Wait = Box::pin(async move { turns.of(tenant(number)).await });
        // It stands in the queue from its first poll on.
        if let Poll::Ready(turn) = wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Box::pin(std::future::ready(turn));
        }
        wait
    }

    fn has(wait: &mut Wait) -> Option<Turn> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_tenant_that_reads_a_lot_leaves_a_turn_to_another() {
        let turns = Turns::new(3, 2);
        let mut many: Vec<Wait> = (0..16).map(|_| asks(&turns, 1)).collect();
        let first: Vec<Turn> = many.iter_mut().take(16).filter_map(has).collect();
        assert_eq!(first.len(), 2);
        assert!(has(&mut asks(&turns, 2)).is_some());
    }

    #[test]
    fn tenants_that_wait_go_in_turn_however_many_reads_each_has() {
        let turns = Turns::new(1, 1);
        let held = has(&mut asks(&turns, 9)).unwrap();
        let mut many: Vec<Wait> = (0..5).map(|_| asks(&turns, 1)).collect();
        let mut one = asks(&turns, 2);
        drop(held);
        let first = has(&mut many[0]).unwrap();
        assert!(has(&mut one).is_none());
        drop(first);
        let second = has(&mut one).unwrap();
        assert!(has(&mut many[1]).is_none());
        drop(second);
        assert!(has(&mut many[1]).is_some());
    }

    #[test]
    fn who_stops_waiting_keeps_nobody_from_the_turn() {
        let turns = Turns::new(1, 1);
        let held = has(&mut asks(&turns, 1)).unwrap();
        let gone = asks(&turns, 2);
        let mut next = asks(&turns, 3);
        drop(gone);
        drop(held);
        let turn = has(&mut next).unwrap();
        // Given, and dropped before it was taken.
        let unread = asks(&turns, 4);
        drop(turn);
        drop(unread);
        assert!(has(&mut asks(&turns, 5)).is_some());
        let queue = turns.lock();
        assert_eq!(
            (queue.free, queue.waiting.len(), queue.ring.len()),
            (1, 0, 0)
        );
    }
}
