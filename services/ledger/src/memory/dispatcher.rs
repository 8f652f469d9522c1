//! Who may go out to a stage next. The writer owns it: it is plain memory with no lock and no I/O.
//!
//! **Places** are not a counter but the set of outstanding (file, token): a pair enters before COMMIT is sent and
//! leaves only when an outcome or a look at the row shows that its token moved on (protocol 2.1). It is rebuilt by one
//! scan when a ledger begins and compared with the rows at every reconcile pass, so that neither a crash nor a lost
//! hint can leak a place or hand one out twice.
//!
//! **Fairness** is deficit round robin at each stage, first over tenants, then over a tenant's batches by priority. The
//! quantum is estimated cost in bytes, with a floor: one 2,000-page document is not one thumbnail.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use caudal_domain::{BatchId, BatchRef, FileRef, Stage, TenantId, Token};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Waiting;
use crate::store::time::Micros;
use crate::store::work::WorkRow;

/// What a small file counts at least: below it the work of a file does not depend on its size.
pub(crate) const COST_FLOOR: u64 = 64 << 10;
/// What a turn may cost: 32 small files, so that many small batches still fill pages.
pub(crate) const QUANTUM: i64 = 32 * (COST_FLOOR as i64);
/// The most a tenant saves up or owes, in quanta: a huge file is paid for over this many turns.
const MAX_SAVED_QUANTA: i64 = 64;

/// How many files may be out at once, at each stage and for each tenant.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub(crate) of_stage: HashMap<Stage, u32>,
    pub(crate) of_tenant: u32,
}

struct Outstanding {
    stage: Stage,
    entered: Micros,
}

#[derive(Default)]
struct TenantQueue {
    deficit: i64,
    /// By weight, the heaviest last: batches that have files ready.
    batches: BTreeMap<u32, VecDeque<BatchId>>,
}

#[derive(Default)]
struct StageQueue {
    used: u32,
    ring: VecDeque<TenantId>,
    tenants: FxHashMap<TenantId, TenantQueue>,
    queued: FxHashSet<BatchRef>,
}

/// A turn of one batch at a stage: how many files and how much cost it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) stage: Stage,
    pub(crate) batch: BatchRef,
    /// Files at most.
    pub(crate) files: u32,
    /// Cost at most, but for the first files up to a page's floor.
    pub(crate) cost: i64,
}

/// Places and queues.
pub(crate) struct Dispatcher {
    windows: Windows,
    outstanding: FxHashMap<(FileRef, Token), Outstanding>,
    tenants: FxHashMap<TenantId, u32>,
    /// Rows of files that are out, exactly as committed: an outcome needs no read. Never more than the places.
    rows: FxHashMap<FileRef, WorkRow>,
    stages: FxHashMap<Stage, StageQueue>,
    later: Later,
    /// Shares of tenants that are other than one.
    shares: FxHashMap<TenantId, u32>,
}

/// Batches with files that are not ready yet: of each batch at each stage the earliest time alone, however many files wait.
/// The next time is read when the batch has had its turn and ran dry.
#[derive(Default)]
struct Later {
    times: BTreeSet<(Micros, Stage, BatchRef)>,
    /// When, and with which weight.
    earliest: FxHashMap<(Stage, BatchRef), (Micros, u32)>,
}

impl Later {
    fn add(&mut self, stage: Stage, key: BatchRef, weight: u32, at: Micros) {
        match self.earliest.entry((stage, key)) {
            Entry::Occupied(known) if known.get().0 <= at => return,
            Entry::Occupied(mut known) => {
                let (later, _) = known.insert((at, weight));
                self.times.remove(&(later, stage, key));
            }
            Entry::Vacant(new) => {
                new.insert((at, weight));
            }
        }
        self.times.insert((at, stage, key));
    }

    fn next(&self) -> Option<Micros> {
        self.times.first().map(|(at, ..)| *at)
    }

    /// One whose time has come.
    fn take(&mut self, now: Micros) -> Option<(Stage, BatchRef, u32)> {
        let (at, stage, key) = *self.times.first()?;
        if at > now {
            return None;
        }
        self.times.pop_first();
        let (_, weight) = self.earliest.remove(&(stage, key))?;
        Some((stage, key, weight))
    }

    fn reweigh(&mut self, key: BatchRef, weight: u32) {
        for stage in Stage::ALL {
            if let Some((_, known)) = self.earliest.get_mut(&(stage, key)) {
                *known = weight;
            }
        }
    }
}

impl Dispatcher {
    pub(crate) fn new(windows: Windows) -> Self {
        let stages = Stage::ALL
            .into_iter()
            .map(|stage| (stage, StageQueue::default()))
            .collect();
        Self {
            windows,
            outstanding: FxHashMap::default(),
            tenants: FxHashMap::default(),
            rows: FxHashMap::default(),
            stages,
            later: Later::default(),
            shares: FxHashMap::default(),
        }
    }

    /// What a tenant's turn is worth beside those of others.
    pub(crate) fn weigh(&mut self, tenant: TenantId, share: u32) {
        if share > 1 {
            self.shares.insert(tenant, share);
        } else {
            self.shares.remove(&tenant);
        }
    }

    fn stage(&mut self, stage: Stage) -> &mut StageQueue {
        self.stages.entry(stage).or_default()
    }

    /// How many more of a tenant's files may go out to a stage.
    pub(crate) fn room(&self, stage: Stage, tenant: TenantId) -> u32 {
        let used = self.stages.get(&stage).map_or(0, |queue| queue.used);
        let of_stage = self
            .windows
            .of_stage
            .get(&stage)
            .copied()
            .unwrap_or(0)
            .saturating_sub(used);
        let of_tenant = self
            .windows
            .of_tenant
            .saturating_sub(self.tenants.get(&tenant).copied().unwrap_or(0));
        if planted!(TenantWindowIgnored) {
            return of_stage;
        }
        of_stage.min(of_tenant)
    }

    /// Whether anyone waits for a stage: then nobody may pass by.
    pub(crate) fn anyone_waits(&self, stage: Stage) -> bool {
        self.stages
            .get(&stage)
            .is_some_and(|queue| !queue.queued.is_empty())
    }

    /// A dispatch is about to be committed.
    pub(crate) fn enter(&mut self, stage: Stage, file: FileRef, token: Token, now: Micros) {
        // A group that was undone may have sent it out under this token to another stage.
        self.leave(file, token);
        let entered = Outstanding {
            stage,
            entered: now,
        };
        self.outstanding.insert((file, token), entered);
        self.stage(stage).used += 1;
        *self.tenants.entry(file.tenant).or_default() += 1;
    }

    /// The token of this pair has moved on, for certain.
    pub(crate) fn leave(&mut self, file: FileRef, token: Token) {
        let Some(left) = self.outstanding.remove(&(file, token)) else {
            return;
        };
        let queue = self.stage(left.stage);
        queue.used = queue.used.saturating_sub(1);
        if let Some(used) = self.tenants.get_mut(&file.tenant) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.tenants.remove(&file.tenant);
            }
        }
    }

    /// Whether this pair holds a place.
    pub(crate) fn holds(&self, file: FileRef, token: Token) -> bool {
        self.outstanding.contains_key(&(file, token))
    }

    /// Pairs that have been out since before `before`, at most `limit`.
    pub(crate) fn out_since_before(&self, before: Micros, limit: usize) -> Vec<(FileRef, Token)> {
        let old = self
            .outstanding
            .iter()
            .filter(|(_, outstanding)| outstanding.entered < before);
        old.map(|(pair, _)| *pair).take(limit).collect()
    }

    /// The row of a file that is out, as committed.
    pub(crate) fn row(&self, file: FileRef) -> Option<&WorkRow> {
        self.rows.get(&file)
    }

    /// Remembers a committed row while it is out, and forgets it otherwise.
    pub(crate) fn remember(&mut self, row: WorkRow) {
        if row.dispatched_at.is_some() && self.holds(row.file, row.token) {
            self.rows.insert(row.file, row);
        } else {
            self.rows.remove(&row.file);
        }
    }

    /// The row may no longer be what is remembered.
    pub(crate) fn forget(&mut self, file: FileRef) {
        self.rows.remove(&file);
    }

    /// Files of a batch wait for a stage, the earliest from a time on.
    pub(crate) fn enqueue(&mut self, waiting: Waiting, now: Micros) {
        let Waiting {
            stage,
            batch: key,
            weight,
            at,
        } = waiting;
        if at > now {
            self.later.add(stage, key, weight, at);
            return;
        }
        let BatchRef { tenant, batch } = key;
        let queue = self.stage(stage);
        if !queue.queued.insert(key) {
            return;
        }
        let tenant_queue = queue.tenants.entry(tenant).or_default();
        if tenant_queue.batches.is_empty() {
            queue.ring.push_back(tenant);
        }
        tenant_queue
            .batches
            .entry(weight)
            .or_default()
            .push_back(batch);
    }

    /// The weight of a batch among its tenant's changed.
    pub(crate) fn reweigh(&mut self, key: BatchRef, weight: u32) {
        let BatchRef { tenant, batch } = key;
        for queue in self.stages.values_mut() {
            if !queue.queued.contains(&key) {
                continue;
            }
            let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
                continue;
            };
            for batches in tenant_queue.batches.values_mut() {
                batches.retain(|queued| *queued != batch);
            }
            tenant_queue
                .batches
                .retain(|_, batches| !batches.is_empty());
            tenant_queue
                .batches
                .entry(weight)
                .or_default()
                .push_back(batch);
        }
        self.later.reweigh(key, weight);
    }

    /// Batches whose time has come join their queues.
    pub(crate) fn promote(&mut self, now: Micros) {
        while let Some((stage, key, weight)) = self.later.take(now) {
            let waiting = Waiting {
                stage,
                batch: key,
                weight,
                at: now,
            };
            self.enqueue(waiting, now);
        }
    }

    /// When the next batch becomes ready.
    pub(crate) fn next_promotion(&self) -> Option<Micros> {
        self.later.next()
    }

    /// Whether a turn could be taken now.
    pub(crate) fn can_admit(&self) -> bool {
        Stage::ALL.into_iter().any(|stage| {
            self.stages.get(&stage).is_some_and(|queue| {
                queue
                    .ring
                    .iter()
                    .any(|tenant| self.room(stage, *tenant) > 0)
            })
        })
    }

    /// The next turn at a stage: the tenant at the head of the ring that has room, and its next batch.
    pub(crate) fn next_turn(&mut self, stage: Stage, largest_page: u32) -> Option<Turn> {
        let tenants_to_ask = self.stage(stage).ring.len();
        for _ in 0..tenants_to_ask {
            let tenant = *self.stage(stage).ring.front()?;
            let room = self.room(stage, tenant);
            let share = self.shares.get(&tenant).copied().unwrap_or(1);
            let quantum = QUANTUM.saturating_mul(share.into());
            let queue = self.stage(stage);
            queue.ring.rotate_left(1);
            if room == 0 {
                continue;
            }
            let alone = queue.ring.len() == 1;
            let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
                continue;
            };
            tenant_queue.deficit = (tenant_queue.deficit + quantum).min(quantum * MAX_SAVED_QUANTA);
            // Alone in the ring a tenant owes nobody anything: it may fill the stage.
            let cost = if alone {
                i64::MAX
            } else {
                tenant_queue.deficit
            };
            if cost <= 0 {
                continue;
            }
            let Some((_, batches)) = tenant_queue.batches.iter_mut().next_back() else {
                continue;
            };
            let Some(batch) = batches.front().copied() else {
                continue;
            };
            batches.rotate_left(1);
            return Some(Turn {
                stage,
                batch: BatchRef { tenant, batch },
                files: room.min(largest_page),
                cost,
            });
        }
        None
    }

    /// A turn was taken: what it cost, and whether the batch has nothing more that is ready.
    pub(crate) fn turn_taken(&mut self, turn: Turn, cost: i64, ran_dry: bool) {
        let BatchRef { tenant, batch } = turn.batch;
        let queue = self.stage(turn.stage);
        let alone = queue.ring.len() == 1;
        let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
            return;
        };
        tenant_queue.deficit = if alone {
            0
        } else {
            (tenant_queue.deficit - cost).max(-QUANTUM * MAX_SAVED_QUANTA)
        };
        if ran_dry {
            for batches in tenant_queue.batches.values_mut() {
                batches.retain(|queued| *queued != batch);
            }
            tenant_queue
                .batches
                .retain(|_, batches| !batches.is_empty());
            queue.queued.remove(&turn.batch);
        }
        if tenant_queue.batches.is_empty() {
            queue.tenants.remove(&tenant);
            queue.ring.retain(|queued| *queued != tenant);
        }
    }

    /// Files out at a stage.
    pub(crate) fn used(&self, stage: Stage) -> u32 {
        self.stages.get(&stage).map_or(0, |queue| queue.used)
    }
}

/// What a file of this size counts in a turn.
pub(crate) fn cost_of(size: u64) -> i64 {
    i64::try_from(size.max(COST_FLOOR)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: Micros = Micros(1);
    const NORMAL: u32 = 2;

    fn dispatcher(of_stage: u32, of_tenant: u32) -> Dispatcher {
        let of_stage = HashMap::from([(Stage::Upload, of_stage)]);
        Dispatcher::new(Windows {
            of_stage,
            of_tenant,
        })
    }

    fn batch(tenant: u128, batch: u128) -> BatchRef {
        BatchRef::new(
            TenantId::from_uuid(Uuid::from_u128(tenant)),
            BatchId::from_uuid(Uuid::from_u128(batch)),
        )
    }

    fn waiting(batch: BatchRef, weight: u32, at: Micros) -> Waiting {
        Waiting {
            stage: Stage::Upload,
            batch,
            weight,
            at,
        }
    }

    fn file(key: BatchRef, ordinal: u32) -> FileRef {
        key.file(ordinal)
    }

    /// Takes turns of small files until `count` have gone out; how many of each batch.
    fn admit(dispatcher: &mut Dispatcher, count: u32) -> HashMap<BatchRef, u32> {
        let mut admitted: HashMap<BatchRef, u32> = HashMap::new();
        let mut out = 0;
        while out < count {
            let Some(turn) = dispatcher.next_turn(Stage::Upload, count - out) else {
                continue;
            };
            let small_files = u32::try_from(turn.cost / cost_of(1)).unwrap_or(u32::MAX);
            let taken = turn.files.min(small_files.max(1));
            dispatcher.turn_taken(turn, i64::from(taken) * cost_of(1), false);
            *admitted.entry(turn.batch).or_default() += taken;
            out += taken;
        }
        admitted
    }

    #[test]
    fn a_tenant_with_few_files_waits_behind_its_turn_and_not_behind_anothers_backlog() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        let (large, small) = (batch(1, 1), batch(2, 1));
        dispatcher.enqueue(waiting(large, NORMAL, NOW), NOW);
        dispatcher.enqueue(waiting(small, NORMAL, NOW), NOW);
        let admitted = admit(&mut dispatcher, 640);
        assert_eq!(admitted[&large], admitted[&small], "{admitted:?}");
    }

    #[test]
    fn a_tenants_many_batches_give_it_no_more_than_its_share() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        for number in 0..9 {
            dispatcher.enqueue(waiting(batch(1, number), NORMAL, NOW), NOW);
        }
        let other = batch(2, 1);
        dispatcher.enqueue(waiting(other, NORMAL, NOW), NOW);
        let admitted = admit(&mut dispatcher, 640);
        assert_eq!(admitted[&other], 320, "{admitted:?}");
    }

    #[test]
    fn a_tenant_of_three_times_the_weight_gets_three_times_as_much() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        let (heavy, other) = (batch(1, 1), batch(2, 1));
        dispatcher.weigh(heavy.tenant, 3);
        for key in [heavy, other] {
            dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        }
        let admitted = admit(&mut dispatcher, 640);
        assert_eq!((admitted[&heavy], admitted[&other]), (480, 160));
        dispatcher.weigh(heavy.tenant, 1);
        let admitted = admit(&mut dispatcher, 640);
        assert_eq!((admitted[&heavy], admitted[&other]), (320, 320));
    }

    #[test]
    fn a_huge_file_is_paid_for_over_many_turns() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        let (huge, small) = (batch(1, 1), batch(2, 1));
        dispatcher.enqueue(waiting(huge, NORMAL, NOW), NOW);
        dispatcher.enqueue(waiting(small, NORMAL, NOW), NOW);
        let turn = dispatcher.next_turn(Stage::Upload, 1).unwrap();
        assert_eq!(turn.batch, huge);
        dispatcher.turn_taken(turn, QUANTUM * 10, false);
        let admitted = admit(&mut dispatcher, 32 * 5);
        assert_eq!(admitted.get(&huge), None, "{admitted:?}");
    }

    #[test]
    fn the_heavier_batch_of_a_tenant_goes_first() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        let (low, high) = (batch(1, 1), batch(1, 2));
        dispatcher.enqueue(waiting(low, 1, NOW), NOW);
        dispatcher.enqueue(waiting(high, 3, NOW), NOW);
        let turn = dispatcher.next_turn(Stage::Upload, 10).unwrap();
        assert_eq!(turn.batch, high);
    }

    #[test]
    fn a_batch_that_is_not_ready_yet_waits_for_its_time() {
        let mut dispatcher = dispatcher(10, 10);
        let key = batch(1, 1);
        dispatcher.enqueue(waiting(key, NORMAL, Micros(50)), NOW);
        assert!(!dispatcher.can_admit());
        assert_eq!(dispatcher.next_promotion(), Some(Micros(50)));
        dispatcher.promote(Micros(50));
        assert!(dispatcher.can_admit());
    }

    #[test]
    fn a_million_files_that_wait_for_later_cost_no_more_than_their_batch() {
        let mut dispatcher = dispatcher(10, 10);
        let key = batch(1, 1);
        for at in 0..1_000_000 {
            // The earliest comes last.
            let at = Micros(2_000_000 - at);
            dispatcher.enqueue(waiting(key, NORMAL, at), NOW);
        }
        assert_eq!(dispatcher.later.times.len(), 1);
        assert_eq!(dispatcher.later.earliest.len(), 1);
        assert_eq!(dispatcher.next_promotion(), Some(Micros(1_000_001)));
        dispatcher.promote(Micros(1_000_001));
        assert!(dispatcher.can_admit());
        assert_eq!(dispatcher.next_promotion(), None);
    }

    proptest! {
        // Protocol 2.1: places are the set of outstanding pairs, so what enters twice holds one place, and what leaves
        // twice gives one back.
        #[test]
        fn places_are_the_set_of_outstanding_pairs(
            steps in proptest::collection::vec((0_usize..4, 0_u32..6, 1_u64..4), 0..200)
        ) {
            let mut dispatcher = dispatcher(100, 100);
            let key = batch(1, 1);
            let mut model = HashMap::new();
            let stages = [Stage::Upload, Stage::ExtractText];
            for (step, ordinal, token) in steps {
                let pair = (file(key, ordinal), Token::new(token));
                if let Some(stage) = stages.get(step) {
                    dispatcher.enter(*stage, pair.0, pair.1, NOW);
                    model.insert(pair, *stage);
                } else {
                    dispatcher.leave(pair.0, pair.1);
                    model.remove(&pair);
                }
                for stage in stages {
                    let out = model.values().filter(|known| **known == stage).count();
                    prop_assert_eq!(dispatcher.used(stage) as usize, out);
                }
                let out = dispatcher.used(Stage::Upload);
                let of_tenant = u32::try_from(model.len()).unwrap();
                prop_assert_eq!(dispatcher.room(Stage::Upload, key.tenant), 100 - out.max(of_tenant));
            }
        }
    }
}
