//! Who may go out to a stage next. The writer owns it: it is plain memory with no lock and no I/O.
//!
//! **Places** are not a counter but the set of outstanding (file, token): a pair enters before COMMIT is sent and
//! leaves only when an outcome or a look at the row shows that its token moved on (protocol 2.1). It is rebuilt by one
//! scan when a ledger begins and compared with the rows at every reconcile pass, so that neither a crash nor a lost
//! hint can leak a place or hand one out twice.
//!
//! **Fairness** is deficit round robin at each stage, first over tenants, then over a tenant's batches by priority. What is
//! shared is slot time: a file counts what it is expected to take at the stage, and what it really took is settled when it is
//! reported. So one 2,000-page document is not one thumbnail.
//!
//! **Windows** are times too: what is out at a stage is some two seconds of work for all its slots. While others wait a tenant
//! has its share of that and one file more; alone it may fill the stage.

#[cfg(test)]
pub(crate) mod seen;

use std::collections::VecDeque;
use std::time::Duration;

use caudal_domain::{BatchRef, FileRef, Stage, TenantId, Token};
use caudal_streams::Lane;
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use super::Waiting;
use super::costs::{CEILING, Cost, Costs};
use super::crew::Crew;
use super::later::Later;
use super::queues::{MOST_BATCHES, Place, Queues, StageQueues, WEIGHTS};
use super::tenant_queue::TenantQueue;
use crate::likeness::Likeness;
use crate::settings::DispatchWindows;
use crate::store::stages::StageRow;
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::store::work::WorkRow;

/// What a turn may cost: some dozens of small files, so that many small batches still fill pages.
const QUANTUM: Cost = 64_000;
/// The most a tenant owes: what the longest handler takes.
const MAX_OWED: Cost = CEILING;
/// How much work waits for each slot of a stage, or is in it, so that none is idle while the next comes.
const SLOT_WINDOW: Cost = 2_000_000;
/// What is expected to take longer than a slot's window is long work: of it no more is out at a stage than one file for each
/// slot, so that it fills neither streams nor what processes hold.
const LONG: Cost = SLOT_WINDOW;
/// A batch that has no more than so many files out at a stage,
const EXPRESS_FILES: u32 = 32;
/// no more work than is in one slot's window, and no more than others have, has them stand before what else waits there: they
/// wait for a slot, not for a window of work.
/// Admission is what shares a stage; this only keeps who wants little of it from waiting behind who wants much.
const EXPRESS_COST: Cost = SLOT_WINDOW;

struct Outstanding {
    stage: Stage,
    entered: Micros,
    cost: Cost,
    /// A process said that its handler begins.
    begun: bool,
}

/// What a tenant has out at a stage.
#[derive(Clone, Copy, Default)]
struct Out {
    files: u32,
    cost: Cost,
    /// Files of long work.
    long: u32,
}

#[derive(Default)]
struct StageQueue {
    out: Out,
    out_of: FxHashMap<TenantId, Out>,
    out_of_batch: FxHashMap<BatchRef, Out>,
    /// Tenants that wait.
    ring: VecDeque<TenantId>,
    /// The sum of their shares.
    ring_shares: u64,
    tenants: FxHashMap<TenantId, TenantQueue>,
    queued: FxHashSet<BatchRef>,
    /// When those that wait began to, or had their last turn.
    since: FxHashMap<BatchRef, Micros>,
    /// Batches that had long work alone when they were looked at and the stage had no slot for it, in turns.
    parked: VecDeque<Parked>,
    is_parked: FxHashSet<BatchRef>,
    /// What tenants have saved up, or owe, all of whose batches are parked.
    parked_deficits: FxHashMap<TenantId, Cost>,
}

/// A batch that waits until long work has left its stage.
#[derive(Clone, Copy)]
struct Parked {
    batch: BatchRef,
    priority: u32,
}

/// What of a tenant's may go out to a stage now: so many files, or so many that they cost as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) files: u32,
    pub(crate) cost: Cost,
}

impl Room {
    const NONE: Self = Self { files: 0, cost: 0 };

    pub(crate) fn is_none(self) -> bool {
        self.files == 0
    }
}

/// A turn of one batch at a stage: how many files and how much cost it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) stage: Stage,
    pub(crate) batch: BatchRef,
    priority: u32,
    /// Files at most.
    pub(crate) files: u32,
    /// Cost after which no further file is taken.
    pub(crate) cost: Cost,
    /// Rounds that passed at once for it, and what its tenant had saved up, or owed, before.
    rounds: Cost,
    before: Cost,
}

/// Places and queues.
pub(crate) struct Dispatcher {
    windows: DispatchWindows,
    outstanding: FxHashMap<(FileRef, Token), Outstanding>,
    tenants: FxHashMap<TenantId, u32>,
    /// Rows of files that are out, exactly as committed: an outcome needs no read. Never more than the places.
    rows: FxHashMap<FileRef, WorkRow>,
    stages: FxHashMap<Stage, StageQueue>,
    later: Later,
    /// Shares of tenants that are other than one.
    shares: FxHashMap<TenantId, u32>,
    /// Files that tenants may have out at once, where they have a limit of their own.
    bounds: FxHashMap<TenantId, u32>,
    costs: Costs,
    crew: Crew,
    /// What operators set for stages.
    set: FxHashMap<Stage, Set>,
    /// As of the last look at whose time has come.
    now: Micros,
}

/// What operators set for a stage.
#[derive(Clone, Copy, Default)]
struct Set {
    paused: bool,
    max_slots: Option<u32>,
    max_files: Option<u32>,
}

impl Dispatcher {
    pub(crate) fn new(windows: DispatchWindows) -> Self {
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
            bounds: FxHashMap::default(),
            costs: Costs::default(),
            crew: Crew::default(),
            set: FxHashMap::default(),
            now: Micros::default(),
        }
    }

    /// What operators set for a stage is in force.
    pub(crate) fn set_stage(&mut self, row: &StageRow) {
        let set = Set {
            paused: row.pause.is_some(),
            max_slots: row.max_slots,
            max_files: row.max_files,
        };
        self.set.insert(row.stage, set);
    }

    fn set_for(&self, stage: Stage) -> Set {
        self.set.get(&stage).copied().unwrap_or_default()
    }

    /// Files that may be out at a stage at once.
    pub(crate) fn window(&self, stage: Stage) -> u32 {
        let set = self.set_for(stage).max_files;
        let set = set.filter(|_| !planted!(StageSizeIgnored));
        set.unwrap_or_else(|| self.windows.of(stage))
    }

    /// Files that a tenant may have out at once: its own limit or, where operators widened a stage, so many more than all have.
    fn window_of_tenant(&self, tenant: TenantId) -> u32 {
        if let Some(own) = self
            .bounds
            .get(&tenant)
            .filter(|_| !planted!(TenantBoundIgnored))
        {
            return *own;
        }
        let wider = self.set.keys().map(|stage| {
            let usual = self.windows.of(*stage);
            self.window(*stage).saturating_sub(usual)
        });
        wider.fold(self.windows.of_tenant, u32::saturating_add)
    }

    /// The slots of a stage, as far as its processes told of them.
    pub(crate) fn slots(&self, stage: Stage) -> Option<u32> {
        let most = self.set_for(stage).max_slots.unwrap_or(u32::MAX);
        self.crew.slots(stage).map(|slots| slots.min(most))
    }

    /// What is set for a tenant is in force.
    pub(crate) fn set_tenant(&mut self, row: &TenantRow) {
        self.weigh(row.tenant, row.weight);
        self.bound(row.tenant, row.dispatched_files());
    }

    /// How many files a tenant may have out at once; `None`: as many as any.
    fn bound(&mut self, tenant: TenantId, files: Option<u32>) {
        match files {
            Some(files) => self.bounds.insert(tenant, files),
            None => self.bounds.remove(&tenant),
        };
    }

    /// What a tenant's turn is worth beside those of others.
    pub(crate) fn weigh(&mut self, tenant: TenantId, share: u32) {
        let before = self.share_of(tenant);
        if share > 1 {
            self.shares.insert(tenant, share);
        } else {
            self.shares.remove(&tenant);
        }
        let after = self.share_of(tenant);
        if after == before {
            return;
        }
        for queue in self.stages.values_mut() {
            if queue.tenants.contains_key(&tenant) {
                queue.ring_shares = queue.ring_shares.saturating_sub(before) + after;
            }
        }
    }

    fn share_of(&self, tenant: TenantId) -> u64 {
        if planted!(WeightIgnored) {
            return 1;
        }
        self.shares.get(&tenant).copied().unwrap_or(1).into()
    }

    fn stage(&mut self, stage: Stage) -> &mut StageQueue {
        self.stages.entry(stage).or_default()
    }

    /// A process of a stage has reported, and works with so many slots.
    pub(crate) fn hear(&mut self, stage: Stage, process: Uuid, slots: u32, now: Micros) {
        self.crew.hear(stage, process, slots, now);
    }

    /// A process of a stage is gone, and its slots with it.
    pub(crate) fn lose(&mut self, stage: Stage, process: Uuid) {
        self.crew.lose(stage, process);
    }

    /// A file that is out took so much of a slot's time, which is settled with its tenant, and learned. What it had been
    /// expected to take.
    pub(crate) fn took(
        &mut self,
        file: FileRef,
        token: Token,
        like: Likeness,
        took: Cost,
    ) -> Option<Cost> {
        let out = self.outstanding.get(&(file, token))?;
        if planted!(CostNotSettled) {
            return Some(out.cost);
        }
        let (stage, expected) = (out.stage, out.cost);
        self.costs.learn(stage, file.batch_ref(), like, took);
        if let Some(queue) = self.stage(stage).tenants.get_mut(&file.tenant) {
            let more = took.clamp(0, CEILING).saturating_sub(expected);
            queue.deficit = queue.deficit.saturating_sub(more).max(-MAX_OWED);
        }
        Some(expected)
    }

    /// A file that is out comes back as it went: what it was expected to take is given back to its tenant, which is charged for it
    /// when it goes out again.
    pub(crate) fn refund(&mut self, file: FileRef, token: Token) {
        let Some(out) = self.outstanding.get(&(file, token)) else {
            return;
        };
        let (stage, cost) = (out.stage, out.cost);
        if let Some(queue) = self.stage(stage).tenants.get_mut(&file.tenant) {
            queue.save(cost);
        }
    }

    /// What a file is expected to take at a stage.
    pub(crate) fn cost_of(&self, stage: Stage, file: FileRef, like: Likeness) -> Cost {
        self.costs.estimate(stage, file.batch_ref(), like)
    }

    /// What more of a tenant's files may go out to a stage.
    pub(crate) fn room(&self, stage: Stage, tenant: TenantId) -> Room {
        let Some(queue) = self.stages.get(&stage) else {
            return Room::NONE;
        };
        if self.set_for(stage).paused && !planted!(StagePauseIgnored) {
            return Room::NONE;
        }
        let of_stage = self.window(stage).saturating_sub(queue.out.files);
        let out = self.tenants.get(&tenant).copied().unwrap_or(0);
        let of_tenant = self.window_of_tenant(tenant).saturating_sub(out);
        let files = if planted!(TenantWindowIgnored) {
            of_stage
        } else {
            of_stage.min(of_tenant)
        };
        let cost = self.cost_left(stage, queue, tenant);
        if files == 0 || cost > 0 {
            return Room { files, cost };
        }
        // Whatever its files cost, each tenant has one out, and as many as its share of the slots.
        let out = queue.out_of.get(&tenant).map_or(0, |out| out.files);
        let slots = self.share_of_slots(stage, queue, tenant);
        if out < slots.max(1) {
            Room { files: 1, cost: 1 }
        } else {
            Room::NONE
        }
    }

    /// The slots that a tenant may fill with long work: all, or its share while others wait.
    fn share_of_slots(&self, stage: Stage, queue: &StageQueue, tenant: TenantId) -> u32 {
        let slots = u64::from(self.slots(stage).unwrap_or(0));
        let (share, others) = self.shares(queue, tenant);
        count_of(slots.saturating_mul(share) / (share + others).max(1))
    }

    /// Whether a stage takes this file now: short work always, long work while a slot has none.
    pub(crate) fn takes(&self, stage: Stage, file: FileRef, like: Likeness) -> bool {
        if self.cost_of(stage, file, like) <= LONG {
            return true;
        }
        self.has_slot_for_long_work(stage)
    }

    /// The same of a file that has not waited: long work that waits for a slot is before it.
    pub(crate) fn takes_before_others(&self, stage: Stage, file: FileRef, like: Likeness) -> bool {
        let queue = self.stages.get(&stage);
        self.takes(stage, file, like)
            && (queue.is_none_or(|queue| queue.parked.is_empty())
                || self.cost_of(stage, file, like) <= LONG)
    }

    fn has_slot_for_long_work(&self, stage: Stage) -> bool {
        let out = self.stages.get(&stage).map_or(0, |queue| queue.out.long);
        let slots = self.slots(stage);
        slots.is_none_or(|slots| out < slots || planted!(LongWorkUnbounded))
    }

    /// The share of a tenant, and those of the others that wait.
    fn shares(&self, queue: &StageQueue, tenant: TenantId) -> (u64, u64) {
        let share = self.share_of(tenant);
        let waits = queue.tenants.contains_key(&tenant);
        let others = queue
            .ring_shares
            .saturating_sub(if waits { share } else { 0 });
        (share, others)
    }

    /// What the window leaves the tenant: all that is free of it, or its share while others wait.
    fn cost_left(&self, stage: Stage, queue: &StageQueue, tenant: TenantId) -> Cost {
        let slots = self.slots(stage);
        let Some(slots) = slots.filter(|_| !planted!(TimeWindowIgnored)) else {
            return Cost::MAX;
        };
        let window = window_of(slots);
        let (share, others) = self.shares(queue, tenant);
        if others == 0 {
            return window.saturating_sub(queue.out.cost);
        }
        let of_tenant = u128::from(window.unsigned_abs()) * u128::from(share)
            / (u128::from(others) + u128::from(share));
        let out = queue.out_of.get(&tenant).copied().unwrap_or_default();
        Cost::try_from(of_tenant)
            .unwrap_or(window)
            .saturating_sub(out.cost)
    }

    /// Whether anyone waits for a stage: then nobody may pass by.
    pub(crate) fn anyone_waits(&self, stage: Stage) -> bool {
        self.stages
            .get(&stage)
            .is_some_and(|queue| !queue.queued.is_empty())
    }

    /// A dispatch is about to be committed.
    pub(crate) fn enter(
        &mut self,
        stage: Stage,
        file: FileRef,
        token: Token,
        like: Likeness,
        now: Micros,
    ) {
        // A group that was undone may have sent it out under this token to another stage.
        self.leave(file, token);
        let cost = self.cost_of(stage, file, like);
        let entered = Outstanding {
            stage,
            entered: now,
            cost,
            begun: false,
        };
        self.outstanding.insert((file, token), entered);
        let queue = self.stage(stage);
        queue.out.enter(cost);
        queue.out_of.entry(file.tenant).or_default().enter(cost);
        let of_batch = queue.out_of_batch.entry(file.batch_ref()).or_default();
        of_batch.enter(cost);
        *self.tenants.entry(file.tenant).or_default() += 1;
    }

    /// Which of a stage's streams what is sent out of a batch goes to, by what is out of it there.
    pub(crate) fn lane(&self, stage: Stage, batch: BatchRef) -> Lane {
        let Some(queue) = self.stages.get(&stage) else {
            return Lane::Regular;
        };
        let out = queue.out_of_batch.get(&batch).copied().unwrap_or_default();
        let of_others = queue.out.cost.saturating_sub(out.cost);
        let is_little = out.files <= EXPRESS_FILES && out.cost <= EXPRESS_COST;
        if is_little && out.cost <= of_others {
            Lane::Express
        } else {
            Lane::Regular
        }
    }

    /// The token of this pair has moved on, for certain.
    pub(crate) fn leave(&mut self, file: FileRef, token: Token) {
        let Some(left) = self.outstanding.remove(&(file, token)) else {
            return;
        };
        let queue = self.stage(left.stage);
        queue.out.leave(left.cost);
        if let Some(out) = queue.out_of.get_mut(&file.tenant) {
            out.leave(left.cost);
            if out.files == 0 {
                queue.out_of.remove(&file.tenant);
            }
        }
        if let Some(out) = queue.out_of_batch.get_mut(&file.batch_ref()) {
            out.leave(left.cost);
            if out.files == 0 {
                queue.out_of_batch.remove(&file.batch_ref());
            }
        }
        if let Some(used) = self.tenants.get_mut(&file.tenant) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.tenants.remove(&file.tenant);
            }
        }
    }

    /// A turn brought nothing but long work, for which the stage has no slot: its batch waits until some has left, and its
    /// tenant owes what it owed before.
    pub(crate) fn park(&mut self, turn: Turn) {
        let queue = self.stage(turn.stage);
        let tenant = turn.batch.tenant;
        if queue.is_parked.insert(turn.batch) {
            queue.parked.push_back(Parked {
                batch: turn.batch,
                priority: turn.priority,
            });
        }
        if let Some(tenant_queue) = queue.tenants.get_mut(&tenant) {
            tenant_queue.deficit = turn.before;
        }
        let nothing = Turn { rounds: 0, ..turn };
        let since = queue.since.get(&turn.batch).copied();
        self.turn_taken(nothing, 0, true);
        let queue = self.stage(turn.stage);
        queue.since.extend(since.map(|since| (turn.batch, since)));
        if !queue.tenants.contains_key(&tenant) {
            queue.parked_deficits.insert(tenant, turn.before);
        }
    }

    /// Where a slot has no long work any more, a batch that waits for that joins the queue: that of the tenant which owes
    /// the fewest rounds.
    fn unpark(&mut self, stage: Stage) {
        if !self.has_slot_for_long_work(stage) {
            return;
        }
        let Some(queue) = self.stages.get(&stage) else {
            return;
        };
        let rounds_owed = |parked: &Parked| {
            let tenant = parked.batch.tenant;
            let waiting = queue.tenants.get(&tenant).map(|queue| queue.deficit);
            let deficit = waiting.or_else(|| queue.parked_deficits.get(&tenant).copied());
            (-deficit.unwrap_or(0)).max(0) / self.quantum_of(tenant)
        };
        let owed = queue.parked.iter().map(rounds_owed).enumerate();
        let Some((next, _)) = owed.min_by_key(|(_, owed)| *owed) else {
            return;
        };
        let queue = self.stage(stage);
        let Some(Parked { batch, priority }) = queue.parked.remove(next) else {
            return;
        };
        queue.is_parked.remove(&batch);
        let now = self.now;
        let waiting = Waiting {
            stage,
            batch,
            weight: priority,
            at: now,
        };
        self.enqueue(waiting, now);
    }

    /// The handler of a file has begun or begins. Only this ledger knows it: the next one charges one kill less.
    pub(crate) fn begin(&mut self, file: FileRef, token: Token) {
        if let Some(out) = self.outstanding.get_mut(&(file, token)) {
            out.begun = true;
        }
    }

    /// Whether the handler of this file has begun, as far as is known.
    pub(crate) fn has_begun(&self, file: FileRef, token: Token) -> bool {
        let out = self.outstanding.get(&(file, token));
        out.is_some_and(|out| out.begun)
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
        let share = self.share_of(tenant);
        let queue = self.stage(stage);
        if !queue.queued.insert(key) {
            return;
        }
        queue.since.entry(key).or_insert(now);
        let tenant_queue = queue.tenants.entry(tenant).or_default();
        if tenant_queue.is_empty() {
            queue.ring.push_back(tenant);
            queue.ring_shares += share;
            if let Some(deficit) = queue.parked_deficits.remove(&tenant) {
                tenant_queue.deficit = deficit;
            }
        }
        tenant_queue.push(weight, batch);
    }

    /// The weight of a batch among its tenant's changed.
    pub(crate) fn reweigh(&mut self, key: BatchRef, weight: u32) {
        let BatchRef { tenant, batch } = key;
        for queue in self.stages.values_mut() {
            let parked = queue.parked.iter_mut();
            for parked in parked.filter(|parked| parked.batch == key) {
                parked.priority = weight;
            }
            if !queue.queued.contains(&key) {
                continue;
            }
            let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
                continue;
            };
            tenant_queue.remove(batch);
            tenant_queue.push(weight, batch);
        }
        self.later.reweigh(key, weight);
    }

    /// Batches whose time has come join their queues.
    pub(crate) fn promote(&mut self, now: Micros) {
        self.now = now;
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
                let mut ring = queue.ring.iter();
                ring.any(|tenant| !self.room(stage, *tenant).is_none())
                    || (!queue.parked.is_empty()
                        && !self.set_for(stage).paused
                        && self.has_slot_for_long_work(stage))
            })
        })
    }

    /// The next turn at a stage: the tenant at the head of the ring that has room and owes nothing, and its next batch.
    pub(crate) fn next_turn(&mut self, stage: Stage, largest_page: u32) -> Option<Turn> {
        self.unpark(stage);
        match self.look_for_turn(stage, largest_page) {
            Ok(turn) => Some(turn),
            // All that have room owe something: the rounds until the first has paid pass at once, so that no slot is idle.
            Err(rounds) => {
                let rounds = rounds?;
                self.pass_rounds(stage, rounds);
                let turn = self.look_for_turn(stage, largest_page).ok()?;
                let passed = self.quantum_of(turn.batch.tenant).saturating_mul(rounds);
                Some(Turn {
                    rounds,
                    before: turn.before.saturating_sub(passed),
                    ..turn
                })
            }
        }
    }

    /// A turn, or after how many rounds there is one.
    fn look_for_turn(&mut self, stage: Stage, largest_page: u32) -> Result<Turn, Option<Cost>> {
        let mut rounds: Option<Cost> = None;
        for _ in 0..self.stage(stage).ring.len() {
            let tenant = *self.stage(stage).ring.front().ok_or(None)?;
            let room = self.room(stage, tenant);
            let quantum = self.quantum_of(tenant);
            let queue = self.stage(stage);
            queue.ring.rotate_left(1);
            if room.is_none() {
                continue;
            }
            // Alone in the ring a tenant owes nobody anything: it may fill the stage.
            let is_alone = queue.ring.len() == 1 && queue.parked.is_empty();
            let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
                continue;
            };
            let before = tenant_queue.deficit;
            tenant_queue.save(quantum);
            let deficit = tenant_queue.deficit;
            if !is_alone && deficit <= 0 {
                let until_paid = (-deficit) / quantum + 1;
                rounds = Some(rounds.map_or(until_paid, |least| least.min(until_paid)));
                continue;
            }
            let Some((priority, batch)) = tenant_queue.next() else {
                continue;
            };
            return Ok(Turn {
                stage,
                batch: BatchRef { tenant, batch },
                priority,
                files: room.files.min(largest_page),
                cost: room.cost.min(if is_alone { Cost::MAX } else { deficit }),
                rounds: 0,
                before,
            });
        }
        Err(rounds)
    }

    fn pass_rounds(&mut self, stage: Stage, rounds: Cost) {
        let ring = self.stage(stage).ring.clone();
        for tenant in ring {
            if self.room(stage, tenant).is_none() {
                continue;
            }
            let saved = self.quantum_of(tenant).saturating_mul(rounds);
            if let Some(queue) = self.stage(stage).tenants.get_mut(&tenant) {
                queue.save(saved);
            }
        }
    }

    /// Rounds that passed for a turn which was taken pass for those who wait for a slot too.
    fn pass_rounds_of_parked(&mut self, stage: Stage, rounds: Cost) {
        if rounds == 0 {
            return;
        }
        let shares = std::mem::take(&mut self.shares);
        for (tenant, deficit) in &mut self.stage(stage).parked_deficits {
            let share = shares.get(tenant).copied().unwrap_or(1);
            let saved = QUANTUM.saturating_mul(share.into()).saturating_mul(rounds);
            *deficit = deficit.saturating_add(saved).min(QUANTUM);
        }
        self.shares = shares;
    }

    fn quantum_of(&self, tenant: TenantId) -> Cost {
        QUANTUM.saturating_mul(Cost::try_from(self.share_of(tenant)).unwrap_or(Cost::MAX))
    }

    /// A turn was taken: what it cost, and whether the batch has nothing more that is ready.
    pub(crate) fn turn_taken(&mut self, turn: Turn, cost: Cost, ran_dry: bool) {
        let BatchRef { tenant, batch } = turn.batch;
        let (share, now) = (self.share_of(tenant), self.now);
        self.pass_rounds_of_parked(turn.stage, turn.rounds);
        let queue = self.stage(turn.stage);
        let is_alone = queue.ring.len() == 1 && queue.parked.is_empty();
        let Some(tenant_queue) = queue.tenants.get_mut(&tenant) else {
            return;
        };
        tenant_queue.charge(turn.priority, cost);
        tenant_queue.deficit = if is_alone {
            0
        } else {
            tenant_queue.deficit.saturating_sub(cost).max(-MAX_OWED)
        };
        if ran_dry {
            tenant_queue.remove(batch);
            queue.queued.remove(&turn.batch);
            queue.since.remove(&turn.batch);
        } else {
            queue.since.insert(turn.batch, now);
        }
        if tenant_queue.is_empty() {
            queue.tenants.remove(&tenant);
            queue.ring.retain(|queued| *queued != tenant);
            queue.ring_shares = queue.ring_shares.saturating_sub(share);
        }
    }

    /// Whose turn comes when, at every stage.
    pub(crate) fn queues(&self, now: Micros) -> Queues {
        let mut queues = Queues::default();
        for ((file, _), out) in &self.outstanding {
            let of_stage: &mut StageQueues = queues.stages.entry(out.stage).or_default();
            of_stage.out.insert(file.batch_ref());
        }
        for (stage, queue) in &self.stages {
            let told = queues.stages.entry(*stage).or_default();
            told.out_cost = queue.out.cost;
            told.window = self.slots(*stage).map(window_of);
            told.costs = self.costs.learned(*stage);
            for (batch, since) in &queue.since {
                let share = self.share_of(batch.tenant);
                let class = WEIGHTS.iter().rposition(|lightest| *lightest <= share);
                if let Some(waiting) = told.by_weight.get_mut(class.unwrap_or_default()) {
                    waiting.batches = waiting.batches.saturating_add(1);
                    waiting.longest = waiting.longest.max(now.since(*since));
                }
            }
            self.place_batches(*stage, queue, queues.stages.entry(*stage).or_default());
        }
        queues
    }

    /// Before a batch that has nothing out come what is out, and in each round one turn of every tenant that is before its
    /// own in the ring; of its own tenant's batches each before it takes a round.
    fn place_batches(&self, stage: Stage, queue: &StageQueue, told: &mut StageQueues) {
        let mut out_of: FxHashMap<TenantId, u32> = FxHashMap::default();
        for batch in &told.out {
            *out_of.entry(batch.tenant).or_default() += 1;
        }
        let all_out = count(told.out.len());
        let round: Cost = queue
            .ring
            .iter()
            .map(|tenant| self.quantum_of(*tenant))
            .sum();
        // One batch a tenant has its turn in a round; those that have files out count already.
        let is_fresh = |tenant: &TenantId| {
            let waiting = queue.tenants.get(tenant);
            let mut waiting = waiting.into_iter().flat_map(TenantQueue::batches);
            let fresh = waiting.any(|batch| {
                let tenant = *tenant;
                !told.out.contains(&BatchRef { tenant, batch })
            });
            u32::from(fresh)
        };
        let fresh: Vec<u32> = queue.ring.iter().map(is_fresh).collect();
        let all_fresh: u32 = fresh.iter().sum();
        let slots = self.slots(stage).filter(|_| self.costs.knows(stage));
        let (mut fresh_ahead, mut cost_ahead) = (0, 0);
        for (tenant, fresh) in queue.ring.iter().zip(fresh) {
            let own_out = out_of.get(tenant).copied().unwrap_or(0);
            let batches = queue.tenants.get(tenant).into_iter();
            for (before, batch) in batches.flat_map(TenantQueue::batches).enumerate() {
                if told.waiting.len() >= MOST_BATCHES {
                    told.untold = true;
                    return;
                }
                let turns = if before == 0 {
                    fresh_ahead
                } else {
                    all_fresh - fresh
                };
                let rounds = round.saturating_mul(Cost::from(count(before)));
                let cost = queue
                    .out
                    .cost
                    .saturating_add(cost_ahead)
                    .saturating_add(rounds);
                let about = slots.map(|slots| time_of(cost / Cost::from(slots)));
                let place = Place {
                    others: (all_out - own_out).saturating_add(turns),
                    own: own_out.saturating_add(count(before)),
                    about,
                };
                let tenant = *tenant;
                told.waiting.insert(BatchRef { tenant, batch }, place);
            }
            fresh_ahead += fresh;
            cost_ahead = cost_ahead.saturating_add(self.quantum_of(*tenant));
        }
        for (before, parked) in queue.parked.iter().enumerate() {
            if told.waiting.len() >= MOST_BATCHES {
                told.untold = true;
                return;
            }
            let own_out = out_of.get(&parked.batch.tenant).copied().unwrap_or(0);
            let earlier = queue.parked.iter().take(before);
            let others = earlier.filter(|one| {
                one.batch.tenant != parked.batch.tenant && !told.out.contains(&one.batch)
            });
            let place = Place {
                others: (all_out - own_out).saturating_add(count(others.count())),
                own: own_out,
                about: slots.map(|slots| time_of(queue.out.cost / Cost::from(slots))),
            };
            told.waiting.entry(parked.batch).or_insert(place);
        }
    }

    /// Files out at a stage.
    pub(crate) fn used(&self, stage: Stage) -> u32 {
        self.stages.get(&stage).map_or(0, |queue| queue.out.files)
    }
}

fn window_of(slots: u32) -> Cost {
    SLOT_WINDOW.saturating_mul(slots.into())
}

fn time_of(cost: Cost) -> Duration {
    Duration::from_micros(cost.unsigned_abs())
}

fn count_of(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Out {
    fn enter(&mut self, cost: Cost) {
        self.files += 1;
        self.cost = self.cost.saturating_add(cost);
        self.long += u32::from(cost > LONG);
    }

    fn leave(&mut self, cost: Cost) {
        self.files = self.files.saturating_sub(1);
        if !planted!(CostKept) {
            self.cost = self.cost.saturating_sub(cost);
        }
        self.long = self.long.saturating_sub(u32::from(cost > LONG));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::HashMap;

    use caudal_domain::BatchId;
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros(1);
    const NORMAL: u32 = 2;
    /// What a small file costs here: there are 32 in a quantum.
    const SMALL: Cost = QUANTUM / 32;

    fn dispatcher(of_stage: u32, of_tenant: u32) -> Dispatcher {
        let of_stage = HashMap::from([(Stage::Upload, of_stage)]);
        Dispatcher::new(DispatchWindows {
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
            let small_files = u32::try_from(turn.cost / SMALL).unwrap_or(u32::MAX);
            let taken = turn.files.min(small_files.max(1));
            dispatcher.turn_taken(turn, Cost::from(taken) * SMALL, false);
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
    fn what_comes_back_as_it_went_is_charged_once() {
        let mut dispatcher = dispatcher(10_000, 10_000);
        let keys = [batch(1, 1), batch(2, 1)];
        for key in keys {
            dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        }
        let mut admitted = [0, 0];
        for ordinal in 0..400 {
            let turn = dispatcher.next_turn(Stage::Upload, 1).unwrap();
            let pair = (file(turn.batch, ordinal), Token::FIRST);
            let like = Likeness::sized(1 << 20);
            let cost = dispatcher.cost_of(Stage::Upload, pair.0, like);
            dispatcher.enter(Stage::Upload, pair.0, pair.1, like, NOW);
            dispatcher.turn_taken(turn, cost, false);
            // All of the first tenant's come back again and again, and go out again at once.
            if turn.batch == keys[0] && ordinal % 2 == 0 {
                dispatcher.refund(pair.0, pair.1);
            } else {
                admitted[usize::from(turn.batch == keys[1])] += 1;
            }
            dispatcher.leave(pair.0, pair.1);
        }
        assert!(i32::abs_diff(admitted[0], admitted[1]) <= 4, "{admitted:?}");
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
        assert_eq!(dispatcher.later.len(), 1);
        assert_eq!(dispatcher.next_promotion(), Some(Micros(1_000_001)));
        dispatcher.promote(Micros(1_000_001));
        assert!(dispatcher.can_admit());
        assert_eq!(dispatcher.next_promotion(), None);
    }

    fn with_slots(slots: u32) -> Dispatcher {
        let mut dispatcher = dispatcher(100_000, 100_000);
        dispatcher.hear(Stage::Upload, Uuid::from_u128(1), slots, NOW);
        dispatcher
    }

    /// Sends out all that has room now, of batches that hold more than that; what went out, in order.
    fn fill(dispatcher: &mut Dispatcher, last: &mut u32, size: u64) -> Vec<(FileRef, Token)> {
        let mut out = Vec::new();
        while let Some(turn) = dispatcher.next_turn(Stage::Upload, 1_000) {
            let (mut cost, mut files) = (0, 0);
            if !dispatcher.takes(Stage::Upload, file(turn.batch, 0), Likeness::sized(size)) {
                dispatcher.park(turn);
                continue;
            }
            while files < turn.files && cost < turn.cost {
                let next = file(turn.batch, *last + 1);
                if !dispatcher.takes(Stage::Upload, next, Likeness::sized(size)) {
                    break;
                }
                *last += 1;
                let pair = (next, Token::FIRST);
                cost += dispatcher.cost_of(Stage::Upload, pair.0, Likeness::sized(size));
                dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(size), NOW);
                files += 1;
                out.push(pair);
            }
            dispatcher.turn_taken(turn, cost, false);
        }
        out
    }

    // Protocol 2.5: who wants little of a stage does not wait behind a window of work.
    #[test]
    fn a_batch_of_which_little_is_out_goes_by_the_express_stream() {
        let mut dispatcher = with_slots(4);
        let (large, small) = (batch(1, 1), batch(1, 2));
        let stage = Stage::Upload;
        for ordinal in 1..=EXPRESS_FILES {
            dispatcher.enter(
                stage,
                file(large, ordinal),
                Token::FIRST,
                Likeness::sized(1),
                NOW,
            );
            assert_eq!(dispatcher.lane(stage, large), Lane::Regular, "it is alone");
        }
        let other = batch(2, 9);
        for ordinal in 1..=2 * EXPRESS_FILES {
            dispatcher.enter(
                stage,
                file(other, ordinal),
                Token::FIRST,
                Likeness::sized(1),
                NOW,
            );
        }
        assert_eq!(dispatcher.lane(stage, large), Lane::Express);
        dispatcher.enter(
            stage,
            file(large, EXPRESS_FILES + 1),
            Token::FIRST,
            Likeness::sized(1),
            NOW,
        );
        assert_eq!(dispatcher.lane(stage, large), Lane::Regular);
        dispatcher.enter(stage, file(small, 1), Token::FIRST, Likeness::sized(1), NOW);
        assert_eq!(dispatcher.lane(stage, small), Lane::Express);
        dispatcher.leave(file(large, 1), Token::FIRST);
        assert_eq!(dispatcher.lane(stage, large), Lane::Express);
        // A few files of much work are not little.
        let (heavy, size) = (batch(1, 3), 1 << 20);
        for key in [heavy, other] {
            for _ in 0..50 {
                dispatcher.enter(
                    stage,
                    file(key, 0),
                    Token::FIRST,
                    Likeness::sized(size),
                    NOW,
                );
                dispatcher.took(file(key, 0), Token::FIRST, Likeness::sized(size), 1_500_000);
                dispatcher.leave(file(key, 0), Token::FIRST);
            }
        }
        for ordinal in 1_000..1_010 {
            dispatcher.enter(
                stage,
                file(other, ordinal),
                Token::FIRST,
                Likeness::sized(size),
                NOW,
            );
        }
        dispatcher.enter(
            stage,
            file(heavy, 1),
            Token::FIRST,
            Likeness::sized(size),
            NOW,
        );
        assert_eq!(dispatcher.lane(stage, heavy), Lane::Express);
        dispatcher.enter(
            stage,
            file(heavy, 2),
            Token::FIRST,
            Likeness::sized(size),
            NOW,
        );
        assert_eq!(dispatcher.lane(stage, heavy), Lane::Regular);
    }

    // Protocol 2.5: the window is a time.
    #[test]
    fn what_is_out_is_two_seconds_of_work_for_each_slot_and_long_files_do_not_fill_it_by_their_number()
     {
        let mut dispatcher = with_slots(4);
        let key = batch(1, 1);
        for _ in 0..200 {
            let pair = (file(key, 0), Token::FIRST);
            dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(1), NOW);
            dispatcher.took(pair.0, pair.1, Likeness::sized(1), 100_000);
            dispatcher.leave(pair.0, pair.1);
        }
        dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        let out = fill(&mut dispatcher, &mut 1, 1).len();
        assert!(
            (78..=83).contains(&out),
            "{out} files of 100 ms for 4 slots"
        );
    }

    // Protocol 2.5: a file of half a minute, and one of another tenant beside it.
    #[test]
    fn a_tenant_that_comes_finds_room_beside_one_whose_work_is_long() {
        let mut dispatcher = with_slots(2);
        let (long, short) = (batch(1, 1), batch(2, 1));
        for _ in 0..200 {
            let pair = (file(long, 0), Token::FIRST);
            dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(1 << 20), NOW);
            dispatcher.took(pair.0, pair.1, Likeness::sized(1 << 20), 30_000_000);
            dispatcher.leave(pair.0, pair.1);
        }
        dispatcher.enqueue(waiting(long, NORMAL, NOW), NOW);
        // Alone it has all slots.
        assert_eq!(fill(&mut dispatcher, &mut 1, 1 << 20).len(), 2);
        assert!(dispatcher.room(Stage::Upload, long.tenant).is_none());
        let room = dispatcher.room(Stage::Upload, short.tenant);
        assert!(!room.is_none(), "{room:?}");
        dispatcher.enqueue(waiting(short, NORMAL, NOW), NOW);
        let out = fill(&mut dispatcher, &mut 1_000, 1);
        assert!(out.iter().all(|(file, _)| file.tenant == short.tenant));
        assert!(out.len() >= 100, "{}", out.len());
    }

    // Protocol 2.5: of long work one file for each slot, whoever's it is; tenants in turn, and short work passes by.
    #[test]
    fn of_long_work_no_more_is_out_than_there_are_slots_and_short_work_does_not_wait_for_it() {
        const MINUTE: Cost = 60_000_000;
        let mut dispatcher = with_slots(4);
        let long = |tenant: u128| batch(tenant, 1);
        for tenant in 1..=10 {
            let pair = (file(long(tenant), 0), Token::FIRST);
            dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(1 << 20), NOW);
            dispatcher.took(pair.0, pair.1, Likeness::sized(1 << 20), MINUTE);
            dispatcher.leave(pair.0, pair.1);
            dispatcher.enqueue(waiting(long(tenant), NORMAL, NOW), NOW);
        }
        let mut last = 1;
        let mut out = fill(&mut dispatcher, &mut last, 1 << 20);
        assert_eq!(out.len(), 4);
        assert!(!dispatcher.can_admit(), "it would look again and again");
        let short = batch(11, 1);
        dispatcher.enqueue(waiting(short, NORMAL, NOW), NOW);
        let turn = dispatcher.next_turn(Stage::Upload, 10).unwrap();
        assert_eq!(turn.batch, short);
        assert!(dispatcher.takes(Stage::Upload, file(short, 1), Likeness::sized(1)));
        dispatcher.turn_taken(turn, 1, true);
        let mut turns: HashMap<TenantId, u32> = HashMap::new();
        for _ in 0..100 {
            let (done, token) = out.remove(0);
            *turns.entry(done.tenant).or_default() += 1;
            dispatcher.took(done, token, Likeness::sized(1 << 20), MINUTE);
            dispatcher.leave(done, token);
            out.extend(fill(&mut dispatcher, &mut last, 1 << 20));
            assert_eq!(out.len(), 4);
        }
        let all = turns.values();
        assert!(
            turns.len() == 10 && all.clone().all(|turns| (6..=15).contains(turns)),
            "{turns:?}"
        );
    }

    // Protocol 2.5 and 5.5: else they are begun in every slot before the first report tells what they take.
    #[test]
    fn a_page_of_150_kb_is_long_work_for_a_model_before_anything_is_known_of_it() {
        let dispatcher = with_slots(4);
        let key = batch(1, 1);
        let cost = |stage, size| dispatcher.cost_of(stage, file(key, 0), Likeness::sized(size));
        assert!(cost(Stage::Embeddings, 150_000) > LONG);
        assert!(cost(Stage::Embeddings, 2_000) < LONG / 10);
        assert!(cost(Stage::ExtractText, 150_000) < LONG / 10);
    }

    #[test]
    fn a_stage_that_is_paused_has_no_room_and_one_that_was_widened_has_more_for_one_tenant_too() {
        let mut dispatcher = dispatcher(5, 5);
        let key = batch(1, 1);
        dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        let pause = crate::store::stages::StagePaused {
            who: String::new(),
            note: String::new(),
            at: NOW,
        };
        let mut row = StageRow {
            pause: Some(pause),
            ..StageRow::unset(Stage::Upload)
        };
        dispatcher.set_stage(&row);
        assert!(!dispatcher.can_admit());
        assert_eq!(dispatcher.next_turn(Stage::Upload, 10), None);
        row.pause = None;
        row.max_files = Some(9);
        dispatcher.set_stage(&row);
        assert!(dispatcher.can_admit());
        assert_eq!(dispatcher.room(Stage::Upload, key.tenant).files, 9);
        row.max_files = Some(2);
        dispatcher.set_stage(&row);
        assert_eq!(dispatcher.room(Stage::Upload, key.tenant).files, 2);
    }

    // What comes before a batch: what is out, a turn of each tenant before its own, and a round for each of its own batches.
    #[test]
    fn a_batch_that_has_nothing_out_has_a_place_behind_those_that_have_and_those_whose_turn_is_first()
     {
        let mut dispatcher = with_slots(2);
        let (out, ahead, own, behind) = (batch(1, 1), batch(2, 1), batch(3, 1), batch(4, 1));
        let enter = |dispatcher: &mut Dispatcher, key: BatchRef, ordinal| {
            dispatcher.enter(
                Stage::Upload,
                file(key, ordinal),
                Token::FIRST,
                Likeness::sized(1),
                NOW,
            );
        };
        enter(&mut dispatcher, out, 0);
        for key in [ahead, own, behind, batch(3, 2), out] {
            dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        }
        let place = |dispatcher: &Dispatcher, key| dispatcher.queues(NOW).place(key);
        let (stage, first) = place(&dispatcher, own).unwrap();
        assert_eq!((stage, first.others, first.own), (Stage::Upload, 2, 0));
        // Nothing was learned of this stage yet.
        assert_eq!(first.about, None);
        dispatcher.took(file(out, 0), Token::FIRST, Likeness::sized(1), 60_000_000);
        dispatcher.leave(file(out, 0), Token::FIRST);
        enter(&mut dispatcher, out, 1);
        // What is out takes a minute on two slots.
        let about = place(&dispatcher, ahead).unwrap().1.about.unwrap();
        assert!((29..32).contains(&about.as_secs()), "{about:?}");
        let second = place(&dispatcher, batch(3, 2)).unwrap().1;
        assert_eq!((second.others, second.own), (3, 1));
        assert!(second.about > Some(about));
        assert_eq!(place(&dispatcher, out), None);
        assert_eq!(place(&dispatcher, batch(9, 1)), None);
    }

    #[test]
    fn no_more_places_are_told_than_the_bound_and_of_the_others_it_is_not_known_whether_they_wait()
    {
        let mut dispatcher = dispatcher(10, 10);
        for number in 0..=MOST_BATCHES as u128 {
            let key = batch(number % 7, number);
            dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        }
        let queues = dispatcher.queues(NOW);
        let told = &queues.stages[&Stage::Upload];
        assert_eq!((told.waiting.len(), told.untold), (MOST_BATCHES, true));
        assert!(queues.has_files(Stage::Upload, batch(9, 9)));
    }

    /// Tenants with endless work, each of whose files take so long, on some slots: what each got of them.
    fn shared(slots: u32, tenants: &[(u32, Cost)], seconds: Cost) -> Vec<Cost> {
        let mut dispatcher = with_slots(slots);
        let mut last = 0;
        let mut got = vec![0; tenants.len()];
        for (number, (share, _)) in tenants.iter().enumerate() {
            let key = batch(number as u128, 1);
            dispatcher.weigh(key.tenant, *share);
            for _ in 0..20 {
                let pair = (file(key, 0), Token::FIRST);
                dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(1_000), NOW);
                dispatcher.took(pair.0, pair.1, Likeness::sized(1_000), tenants[number].1);
                dispatcher.leave(pair.0, pair.1);
            }
            dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
        }
        let number_of = |file: FileRef| {
            (0..tenants.len()).find(|number| batch(*number as u128, 1).tenant == file.tenant)
        };
        let mut queue: VecDeque<(FileRef, Token)> = VecDeque::new();
        let mut busy_until = vec![0; slots as usize];
        loop {
            queue.extend(fill(&mut dispatcher, &mut last, 1_000));
            // The stage is first come first served.
            let slot = (0..busy_until.len())
                .min_by_key(|slot| busy_until[*slot])
                .unwrap();
            if busy_until[slot] > seconds * 1_000_000 {
                return got;
            }
            let (file, token) = queue.pop_front().unwrap();
            let number = number_of(file).unwrap();
            let took = tenants[number].1;
            busy_until[slot] += took;
            got[number] += took;
            dispatcher.took(file, token, Likeness::sized(1_000), took);
            dispatcher.leave(file, token);
        }
    }

    #[test]
    fn tenants_share_slot_time_by_weight_whatever_their_files_take() {
        for tenants in [
            &[(1, 2_000), (1, 2_000)][..],
            &[(1, 2_000), (1, 400_000)],
            &[(1, 3_000), (2, 3_000)],
            &[(2, 50_000), (1, 1_000), (1, 700_000)],
        ] {
            let got = shared(4, tenants, 120);
            let (all, shares): (Cost, u32) = (got.iter().sum(), tenants.iter().map(|t| t.0).sum());
            for ((share, took), got) in tenants.iter().zip(&got) {
                let wanted = all * Cost::from(*share) / Cost::from(shares);
                let off = (got - wanted).abs() * 100 / wanted;
                assert!(
                    off <= 10,
                    "{share} of {shares}, {took} µs a file: {got} of {wanted}"
                );
            }
        }
    }

    proptest! {
        // Protocol 2.5: while others wait a tenant has its share and one file more, and each that waits has one out.
        #[test]
        fn while_others_wait_a_tenant_has_its_share_and_one_file_more(
            slots in 1_u32..8,
            tenants in proptest::collection::vec((1_u32..5, 0_u32..24), 2..7),
        ) {
            let mut dispatcher = with_slots(slots);
            for (number, (share, size)) in tenants.iter().enumerate() {
                let key = batch(number as u128, 1);
                dispatcher.weigh(key.tenant, *share);
                let pair = (file(key, 0), Token::FIRST);
                dispatcher.enter(Stage::Upload, pair.0, pair.1, Likeness::sized(1 << size), NOW);
                dispatcher.took(pair.0, pair.1, Likeness::sized(1 << size), 1 << size);
                dispatcher.leave(pair.0, pair.1);
                dispatcher.enqueue(waiting(key, NORMAL, NOW), NOW);
            }
            fill(&mut dispatcher, &mut 1, 1 << 12);
            let shares: u32 = tenants.iter().map(|(share, _)| share).sum();
            let window = SLOT_WINDOW * Cost::from(slots);
            for (number, (share, _)) in tenants.iter().enumerate() {
                let key = batch(number as u128, 1);
                let out = dispatcher.stages[&Stage::Upload].out_of.get(&key.tenant).copied();
                let out = out.unwrap_or_default();
                prop_assert!(out.files >= 1);
                let of_tenant = window * Cost::from(*share) / Cost::from(shares);
                let one = dispatcher.cost_of(Stage::Upload, file(key, 1), Likeness::sized(1 << 12));
                prop_assert!(out.cost <= of_tenant + one, "{} of {of_tenant} and {one}", out.cost);
            }
        }

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
                    dispatcher.enter(*stage, pair.0, pair.1, Likeness::sized(1), NOW);
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
                prop_assert_eq!(dispatcher.room(Stage::Upload, key.tenant).files, 100 - out.max(of_tenant));
            }
        }
    }
}
