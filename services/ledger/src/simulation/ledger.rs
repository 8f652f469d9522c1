//! A ledger of the simulation: the real core, with its groups driven step by step.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use caudal_domain::{FileRef, Stage, StageVersion, Token};
use caudal_node::Registry;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};

use super::database::{CommitFate, Database, ModelTransaction, Shared};
use super::fairness::{Decision, in_place};
use crate::memory::dispatcher::seen::Seen;
use crate::memory::lease_cache::LeaseCache;
use crate::memory::relay_queue::RelayQueue;
use crate::memory::{Memory, Recovered, Told};
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::progress::ProgressRow;
use crate::store::stages::StageRow;
use crate::store::time::Micros;
use crate::store::work::WaitingBatch;
use crate::writer::core::{
    Answered, Decided, Failure, GroupError, HeldRows, MemoryDelta, Phases, Request, Settled,
    Together, Undecided, Verb, Writing, Written, decide, learn, undecided,
};

/// The versions that stage processes run, the older first.
pub(super) const VERSIONS: [&str; 2] = ["1", "2"];
/// How often a group whose remembered rows were stale is tried.
const STALE_TRIES: u32 = 2;

/// A group that is being written.
struct Flight {
    held: HeldRows,
    delta: MemoryDelta,
    committed: Option<oneshot::Receiver<()>>,
    written: Pin<Box<dyn Future<Output = Written>>>,
    ended: Option<Written>,
}

/// A ledger, which leads or has led.
pub(super) struct SimLedger {
    pub(super) memory: Memory,
    pub(super) relay: RelayQueue,
    pub(super) leases: LeaseCache,
    queue: VecDeque<Request>,
    flight: Option<Flight>,
    hints: mpsc::Sender<Vec<(caudal_domain::BatchRef, u64)>>,
    _hinted: mpsc::Receiver<Vec<(caudal_domain::BatchRef, u64)>>,
    /// It was told that another leads.
    pub(super) lost: bool,
    /// Groups are written one after the other, as on SQLite.
    one_at_a_time: bool,
    /// Groups that can never be decided: a bug.
    pub(super) defects: Vec<String>,
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl SimLedger {
    /// Reads what is committed and leads under `epoch`.
    pub(super) fn lead(
        database: &Database,
        settings: &Arc<LedgerSettings>,
        metrics: &LedgerMetrics,
        leads_until: Instant,
        one_at_a_time: bool,
        seed: u64,
    ) -> Self {
        let tables = &database.committed;
        let mut waiting: Vec<WaitingBatch> = Vec::new();
        for row in tables.files.values() {
            let (Some(stage), Some(at)) = (row.wait_stage, row.ready_at) else {
                continue;
            };
            let batch = row.file.batch_ref();
            let mut known = waiting.iter_mut();
            match known.find(|known| (known.stage, known.batch) == (stage, batch)) {
                Some(known) => known.earliest = known.earliest.min(at),
                None => waiting.push(WaitingBatch {
                    stage,
                    batch,
                    earliest: at,
                }),
            }
        }
        let dispatched = tables.files.values();
        let dispatched = dispatched.filter(|row| row.dispatched_at.is_some());
        let batches = tables.batches.values().map(|row| &row.0);
        let live = batches.filter(|row: &&ProgressRow| !row.state.is_ended());
        let read = Recovered {
            now: database.now,
            dispatched: dispatched.map(|row| (**row).clone()).collect(),
            waiting,
            priorities: live.map(|row| (row.key(), row.priority)).collect(),
            versions: tables.versions.to_vec(),
            newest_versions: tables
                .newest
                .iter()
                .map(|(stage, number)| (*stage, *number))
                .collect(),
            stages: tables.stages.values().cloned().collect(),
            dimensions: tables
                .dimensions
                .iter()
                .map(|(at, of)| (*at, *of))
                .collect(),
        };
        let leases = LeaseCache::default();
        leases.leads_until(leads_until);
        let (hints, hinted) = mpsc::channel(1_024);
        let memory = Memory::recover(
            settings.clone(),
            tables.epoch,
            read,
            Told {
                leases: leases.clone(),
                ..Told::default()
            },
            metrics.clone(),
            seed,
        );
        Self {
            memory,
            relay: RelayQueue::default(),
            leases,
            queue: VecDeque::new(),
            flight: None,
            hints,
            _hinted: hinted,
            lost: false,
            one_at_a_time,
            defects: Vec::new(),
        }
    }

    /// Nobody reads them, so one thread's histories share them.
    pub(super) fn metrics() -> LedgerMetrics {
        thread_local! {
            static METRICS: LedgerMetrics = LedgerMetrics::new(&Registry::new("ledger"));
        }
        METRICS.with(Clone::clone)
    }

    /// Asks; the answer comes when a group is committed.
    pub(super) fn ask<V: Verb>(&mut self, verb: V) -> Answered<V::Answer> {
        let (request, answer) = Request::new(verb);
        if !self.lost {
            self.queue.push_back(request);
        }
        answer
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flight.is_none() && !self.memory.dispatcher.can_admit()
    }

    pub(super) fn has_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Pairs that have been out since before.
    pub(super) fn old_pairs(&self, before: Micros) -> Vec<(FileRef, Token)> {
        let mut old = self.memory.dispatcher.out_since_before(before, 4_096);
        old.sort_unstable();
        old
    }

    /// Whether memory alone would grant a dispatch, to a process of whatever version.
    pub(super) fn would_grant(
        &self,
        stage: Stage,
        pair: (FileRef, Token),
        instant: Instant,
    ) -> bool {
        VERSIONS.iter().any(|version| {
            let version = StageVersion::new(stage, *version);
            self.leases.grant(&version, &[pair], instant)[0].is_some()
        })
    }

    pub(super) fn places(&self, stage: Stage) -> u32 {
        self.memory.dispatcher.used(stage)
    }

    /// Writes the group in flight a few steps on.
    pub(super) fn advance(&mut self, steps: u32) {
        let Some(flight) = &mut self.flight else {
            return;
        };
        for _ in 0..steps {
            if flight.ended.is_some() {
                return;
            }
            if let Poll::Ready(written) = poll(flight.written.as_mut()) {
                flight.ended = Some(written);
            }
        }
    }

    /// Decides one group and begins to write it.
    pub(super) fn group(&mut self, shared: &Shared, most: usize, dice: &mut SmallRng) {
        if self.lost {
            self.queue.clear();
            return;
        }
        let requests = self.gather(most);
        if requests.is_empty() && !self.queue.is_empty() {
            // What waits is held up by the group in flight.
            self.settle_all(shared, dice);
            return;
        }
        // As the writer waits where nothing is asked, admitted or deleted.
        let now = shared.borrow().now;
        let dispatcher = &self.memory.dispatcher;
        let is_due = dispatcher.next_promotion().is_some_and(|at| at <= now);
        if requests.is_empty() && !dispatcher.can_admit() && !is_due && !self.relay.has_relayed() {
            return;
        }
        self.commit(requests, shared, dice);
    }

    fn gather(&mut self, most: usize) -> Vec<Request> {
        let mut taken = Vec::new();
        let mut together = Together::default();
        while let Some(next) = self.queue.front() {
            let held_up = self
                .flight
                .as_ref()
                .is_some_and(|flight| flight.held.hold_up(next.needs(), &self.memory));
            if taken.len() >= most || held_up || !together.takes(next.needs()) {
                break;
            }
            taken.extend(self.queue.pop_front());
        }
        taken
    }

    fn commit(&mut self, mut requests: Vec<Request>, shared: &Shared, dice: &mut SmallRng) {
        if self.one_at_a_time {
            self.settle_all(shared, dice);
        }
        match self.decide(&mut requests, shared, dice) {
            Ok((transaction, decided, delta)) => {
                let next = self.begin_to_write(transaction, decided, delta, requests);
                let ahead = self.settle();
                self.flight = Some(next);
                if let Err(ahead) = ahead {
                    if let Err((_, requests)) = self.settle() {
                        self.wait_first(requests);
                    }
                    self.recover(ahead, shared, dice);
                }
            }
            Err(error) => {
                let ahead = self.settle();
                let Undecided { again, failed } = undecided((error, requests), ahead);
                self.wait_first(again);
                self.recover(failed, shared, dice);
            }
        }
    }

    fn begin_to_write(
        &mut self,
        transaction: ModelTransaction,
        decided: Decided,
        delta: MemoryDelta,
        requests: Vec<Request>,
    ) -> Flight {
        let ahead = self
            .flight
            .as_mut()
            .and_then(|flight| flight.committed.take());
        let (told, committed) = oneshot::channel();
        let writing = Writing {
            relay: self.relay.clone(),
            hints: self.hints.clone(),
            leases: self.leases.clone(),
            stages: self.memory.stages.clone(),
            metrics: self.memory.metrics.clone(),
            begun: Instant::now(),
            ahead,
            committed: told,
        };
        Flight {
            held: HeldRows::of(&delta, &requests),
            delta,
            committed: Some(committed),
            written: Box::pin(writing.write(transaction, decided, requests)),
            ended: None,
        }
    }

    fn decide(
        &mut self,
        requests: &mut [Request],
        shared: &Shared,
        dice: &mut SmallRng,
    ) -> Result<(ModelTransaction, Decided, MemoryDelta), GroupError> {
        self.memory.ancestors.make_room();
        if self.flight.is_none() {
            self.memory.known.make_room();
        }
        for attempt in 0..=STALE_TRIES {
            let transaction = Database::begin(shared);
            let before = self.memory.dispatcher.seen();
            let is_second = self.flight.is_some();
            match self.try_decide(&transaction, requests, attempt == 0, dice) {
                Err(GroupError::Stale) if attempt < STALE_TRIES => {
                    drop(transaction);
                    self.settle_all(shared, dice);
                    self.memory.known.forget();
                }
                Ok((mut decided, delta)) => {
                    self.judge(&before, is_second, shared);
                    decided.relayed = self.relay.take_relayed();
                    return Ok((transaction, decided, delta));
                }
                Err(error) => return Err(error),
            }
        }
        Err(GroupError::Stale)
    }

    /// What was let out, beside what was out before.
    fn judge(&mut self, before: &Seen, is_second: bool, shared: &Shared) {
        let database = shared.borrow();
        let Some(asked) = &database.asked else { return };
        let decision = Decision {
            before,
            after: &self.memory.dispatcher.seen(),
            windows: &database.windows,
            committed: &database.committed,
            is_second,
        };
        let found = decision.check(|pair| in_place(&database.committed, asked, pair));
        self.defects.extend(found);
    }

    /// Where nothing is under way memory goes by what operators set; what it does not.
    pub(super) fn misread_stages(&self, committed: &Database) -> Vec<String> {
        if self.memory.stages_unread {
            return Vec::new();
        }
        let set = Stage::ALL.into_iter().map(|stage| {
            let row = committed.committed.stages.get(&stage).cloned();
            row.unwrap_or_else(|| StageRow::unset(stage))
        });
        let misread = set.filter(|row| {
            let told = self.memory.stages.row(row.stage);
            told != *row || !self.memory.dispatcher.goes_by(row)
        });
        let words = misread.map(|row| format!("memory does not go by what is set: {row:?}"));
        words.collect()
    }

    /// Now and then the group in flight goes on in between, and always where this one waits for its rows.
    fn try_decide(
        &mut self,
        transaction: &ModelTransaction,
        requests: &mut [Request],
        use_remembered_rows: bool,
        dice: &mut SmallRng,
    ) -> Result<(Decided, MemoryDelta), GroupError> {
        let memory = &mut self.memory;
        let mut deciding = std::pin::pin!(decide(
            transaction,
            memory,
            requests,
            use_remembered_rows,
            Phases::begin(),
        ));
        let mut flight = self.flight.as_mut();
        let mut polls = 0_u32;
        loop {
            if let Poll::Ready(decided) = poll(deciding.as_mut()) {
                return decided;
            }
            polls += 1;
            assert!(polls < 100_000, "deciding never ends");
            if let Some(flight) = &mut flight
                && flight.ended.is_none()
                && (polls > 500 || dice.random_ratio(1, 6))
                && let Poll::Ready(written) = poll(flight.written.as_mut())
            {
                flight.ended = Some(written);
            }
        }
    }

    /// Waits until nothing is in flight, whatever became of it.
    pub(super) fn settle_all(&mut self, shared: &Shared, dice: &mut SmallRng) {
        if let Err(failure) = self.settle() {
            self.recover(failure, shared, dice);
        }
    }

    fn settle(&mut self) -> Result<(), Failure> {
        let Some(mut flight) = self.flight.take() else {
            return Ok(());
        };
        let written = loop {
            if let Some(written) = flight.ended.take() {
                break written;
            }
            if let Poll::Ready(written) = poll(flight.written.as_mut()) {
                break written;
            }
        };
        match learn(flight.delta, written, &mut self.memory, &self.relay) {
            Settled::Committed { .. } => Ok(()),
            Settled::Failed { error, requests } => Err((error, requests)),
        }
    }

    fn recover(&mut self, (error, requests): Failure, shared: &Shared, dice: &mut SmallRng) {
        match error {
            GroupError::Defect { words, .. } => {
                self.defects.push(words);
                drop(requests);
            }
            GroupError::NotLeading => self.lost = true,
            GroupError::Stale if requests.len() > 1 => {
                for request in requests {
                    self.commit(vec![request], shared, dice);
                    self.settle_all(shared, dice);
                }
            }
            GroupError::Stale => self
                .defects
                .push("rows changed under the only writer".into()),
            // Callers ask again.
            GroupError::Database(_) | GroupError::Unknown(_) | GroupError::PredecessorAborted => {}
        }
    }

    fn wait_first(&mut self, requests: Vec<Request>) {
        for request in requests.into_iter().rev() {
            self.queue.push_front(request);
        }
    }

    /// Ends in the middle of whatever it does.
    pub(super) fn crash(self, shared: &Shared) {
        drop(self);
        let mut database = shared.borrow_mut();
        database.next_commit = CommitFate::Committed;
        database.fails_after = None;
    }
}
