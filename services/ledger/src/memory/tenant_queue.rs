//! The batches of one tenant that wait for a stage, by their priority.

use std::collections::{BTreeMap, VecDeque};

use caudal_domain::BatchId;

use super::costs::Cost;

/// How much more a batch of one priority gets than one of the priority below it: low, normal and high share 1 : 4 : 16.
const SHARES_A_STEP: Cost = 4;
/// The most a tenant saves up.
const MAX_SAVED: Cost = 4_000_000;
/// The priority of low batches.
const LOWEST: u32 = 1;

#[derive(Default)]
pub(super) struct TenantQueue {
    /// What the tenant has saved up at this stage, or owes.
    pub(super) deficit: Cost,
    classes: BTreeMap<u32, Class>,
}

/// Batches of one priority, in turns.
struct Class {
    batches: VecDeque<BatchId>,
    /// What they took, by their share: the class that took the least is next.
    taken: Cost,
}

impl TenantQueue {
    /// A round has passed, or some.
    pub(super) fn save(&mut self, quantum: Cost) {
        let saved = self.deficit.saturating_add(quantum);
        self.deficit = saved.min(MAX_SAVED.max(quantum));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// A class that comes to the queue has taken as little as the one that is next, and no less: it makes up for nothing.
    pub(super) fn push(&mut self, priority: u32, batch: BatchId) {
        let least = self.classes.values().map(|class| class.taken).min();
        let class = self.classes.entry(priority).or_insert_with(|| Class {
            batches: VecDeque::new(),
            taken: least.unwrap_or_default(),
        });
        class.batches.push_back(batch);
    }

    pub(super) fn remove(&mut self, batch: BatchId) {
        for class in self.classes.values_mut() {
            class.batches.retain(|queued| *queued != batch);
        }
        self.classes.retain(|_, class| !class.batches.is_empty());
    }

    /// Its batches, about in the order of their turns.
    pub(super) fn batches(&self) -> impl Iterator<Item = BatchId> {
        let classes = self.classes.values().rev();
        classes.flat_map(|class| class.batches.iter().copied())
    }

    /// Whose turn it is, and with which priority.
    pub(super) fn next(&mut self) -> Option<(u32, BatchId)> {
        let classes = self.classes.iter_mut().rev();
        let (priority, class) = classes.min_by_key(|(_, class)| class.taken)?;
        let batch = *class.batches.front()?;
        class.batches.rotate_left(1);
        Some((*priority, batch))
    }

    /// A batch of this priority took so much.
    pub(super) fn charge(&mut self, priority: u32, cost: Cost) {
        if let Some(class) = self.classes.get_mut(&priority) {
            let share = SHARES_A_STEP.saturating_pow(priority.saturating_sub(LOWEST));
            class.taken = class.taken.saturating_add(cost / share.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn batches_share_by_priority_and_none_is_starved() {
        let mut queue = TenantQueue::default();
        for priority in [1, 2, 3] {
            queue.push(
                priority,
                BatchId::from_uuid(Uuid::from_u128(priority.into())),
            );
        }
        let mut taken: HashMap<u32, Cost> = HashMap::new();
        for _ in 0..2_100 {
            let Some((priority, _)) = queue.next() else {
                return;
            };
            queue.charge(priority, 1_600);
            *taken.entry(priority).or_default() += 1;
        }
        assert_eq!((taken[&1], taken[&2], taken[&3]), (100, 400, 1_600));
    }

    #[test]
    fn batches_of_one_priority_take_turns() {
        let mut queue = TenantQueue::default();
        let batches: Vec<BatchId> = (0..3)
            .map(|n| BatchId::from_uuid(Uuid::from_u128(n)))
            .collect();
        for batch in &batches {
            queue.push(2, *batch);
        }
        let turns: Vec<BatchId> = (0..6).filter_map(|_| Some(queue.next()?.1)).collect();
        assert_eq!(turns, [&batches[..], &batches[..]].concat());
        queue.remove(batches[0]);
        assert_eq!(queue.next(), Some((2, batches[1])));
    }
}
