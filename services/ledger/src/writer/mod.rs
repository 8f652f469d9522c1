//! The one writer. Every change of the database goes through it: verbs queue up and are committed in groups, with no
//! timer: while one group commits the next gathers, and a lone verb commits at once. On Postgres two groups are in flight:
//! while one is written the next is decided, on files that the first does not touch. After a commit it hands dispatches
//! to the relay and hints to watchers.

mod admission;
pub(crate) mod audited;
mod conclude;
mod decide;
mod delta;
mod effects;
mod error;
mod folders;
mod group;
mod handle;
mod in_flight;
mod load;
mod loaded;
pub(crate) mod manifest_page;
pub(crate) mod needs;
mod outage;
mod quotas;
pub(crate) mod request_key;
mod reuse;
mod rows;
#[cfg(debug_assertions)]
mod test_panics;
#[cfg(test)]
mod trial;
pub(crate) mod verb;
pub(crate) mod verbs;
mod versions;
mod write;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{BatchRef, FileRef, Refusal, Stage, Token};
use sea_orm::DbErr;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::conclude::Decided;
use self::delta::MemoryDelta;
use self::error::GroupError;
use self::handle::RETRY_AFTER;
pub(crate) use self::handle::WriterHandle;
use self::in_flight::{Failure, HeldRows, InFlight, Settled, Undecided, Writing, undecided};
use self::outage::Outage;
use self::verb::Request;
use crate::memory::Memory;
use crate::memory::costs::Cost;
use crate::memory::queues::{Queues, WEIGHT_NAMES};
use crate::memory::relay_queue::RelayQueue;
use crate::phases::Phases;
use crate::store::requests::RequestName;
use crate::store::trouble::Trouble;
use crate::store::{Store, Transaction, leadership};

/// The parts of which a writer is made, for the simulation, which drives them itself.
#[cfg(test)]
pub(crate) mod core {
    pub(crate) use super::Together;
    pub(crate) use super::conclude::Decided;
    pub(crate) use super::decide::decide;
    pub(crate) use super::delta::MemoryDelta;
    pub(crate) use super::error::GroupError;
    pub(crate) use super::in_flight::{
        Failure, HeldRows, Settled, Undecided, Writing, Written, learn, undecided,
    };
    pub(crate) use super::verb::{Answered, Request, Verb};
    pub(crate) use crate::phases::Phases;
}

/// How long the writer waits after a failure of the database.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);
/// How often a group whose remembered rows were stale is tried before it is given up.
const STALE_TRIES: u32 = 2;
/// Batches whose hints wait to be published; a hint that finds no room is dropped, for it is only a hint.
pub(crate) const HINT_QUEUE: usize = 256;

/// The writer's task.
pub(crate) struct Writer {
    store: Arc<Store>,
    memory: Memory,
    requests: mpsc::Receiver<Request>,
    relay: RelayQueue,
    hints: mpsc::Sender<Vec<(BatchRef, u64)>>,
    outstanding: watch::Sender<Vec<(FileRef, Token)>>,
    outage: Outage,
    waiting: VecDeque<Request>,
    in_flight: Option<InFlight>,
    /// Cancelled when another ledger leads.
    lost: CancellationToken,
    has_failed: bool,
}

/// Deciding fails although nothing was asked: what this process remembers cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[error("the writer ended: deciding fails although nothing is asked")]
pub(crate) struct WriterFailed;

/// How long the writer goes on after it was told to end, for those who wait.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How often the leadership is renewed in its term.
const RENEWALS_A_TERM: u32 = 3;
/// Pairs that the reconciler looks after in one pass.
const RECONCILE_PAGE: usize = 4_096;

impl Writer {
    pub(crate) fn new(
        store: Arc<Store>,
        memory: Memory,
        relay: RelayQueue,
        hints: mpsc::Sender<Vec<(BatchRef, u64)>>,
        takes_calls: watch::Sender<bool>,
    ) -> (Self, WriterHandle, watch::Receiver<Vec<(FileRef, Token)>>) {
        let (sender, requests) = mpsc::channel(memory.settings.writer_queue);
        let (outstanding, old_pairs) = watch::channel(Vec::new());
        let writer = Self {
            store,
            memory,
            requests,
            relay,
            hints,
            outstanding,
            outage: Outage::none(takes_calls),
            waiting: VecDeque::new(),
            in_flight: None,
            lost: CancellationToken::new(),
            has_failed: false,
        };
        (writer, WriterHandle::new(sender), old_pairs)
    }

    /// Commits groups until `shutdown`, then what is queued, then ends. `lost` is cancelled when another ledger leads.
    ///
    /// # Errors
    /// It ended by itself: whoever asks it gets no answer any more.
    pub(crate) async fn run(
        mut self,
        shutdown: CancellationToken,
        lost: CancellationToken,
    ) -> Result<(), WriterFailed> {
        self.lost = lost;
        let mut renewal = tokio::time::interval(self.memory.settings.term / RENEWALS_A_TERM);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(self.memory.settings.reconcile_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.lost.is_cancelled() {
            if self.has_failed {
                return Err(WriterFailed);
            }
            if is_due(&mut renewal).await {
                self.renew_leadership().await;
            }
            let requests = self.gather();
            if !requests.is_empty() || self.memory.dispatcher.can_admit() {
                self.commit(requests).await;
                // A busy writer must not starve the reconciler of its list.
                if is_due(&mut tick).await {
                    self.offer_old_pairs();
                }
                continue;
            }
            if !self.waiting.is_empty() {
                // What waits is held up by the group in flight.
                self.settle_all().await;
                continue;
            }
            let promotion = self.memory.dispatcher.next_promotion();
            let due = promotion.map(|at| self.memory.clock.instant_of(at));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                request = self.requests.recv() => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => break,
                },
                () = in_flight::ended(&mut self.in_flight) => self.settle_all().await,
                () = sleep_until(due), if due.is_some() => {
                    self.commit(Vec::new()).await;
                }
                _ = renewal.tick() => self.renew_leadership().await,
                _ = tick.tick() => {
                    self.offer_old_pairs();
                    if self.relay.has_relayed() {
                        self.commit(Vec::new()).await;
                    }
                }
            }
        }
        self.settle_all().await;
        if self.lost.is_cancelled() {
            self.memory.leases.forget_all();
            // What waits is answered by the closed channel: UNAVAILABLE, ask again.
            return Ok(());
        }
        self.requests.close();
        if tokio::time::timeout(END_PATIENCE, self.end())
            .await
            .is_err()
        {
            tracing::warn!("the database takes too long; who still waits is told to ask again");
        }
        Ok(())
    }

    /// Commits what is queued, and deletes what was relayed.
    async fn end(&mut self) {
        loop {
            let requests = self.gather();
            if requests.is_empty() && !self.relay.has_relayed() {
                return;
            }
            let deleted_what_was_relayed = requests.is_empty();
            self.commit(requests).await;
            self.settle_all().await;
            if deleted_what_was_relayed {
                return;
            }
        }
    }

    /// With no group in flight, because groups hold the row shared (protocol 9.1).
    async fn renew_leadership(&mut self) {
        self.settle_all().await;
        let term = self.memory.settings.term;
        let asked = Instant::now();
        match self.renew(term).await {
            Ok(true) => {
                self.memory.leases.leads_until(asked + term);
                self.outage.took_little();
            }
            Ok(false) => self.lost.cancel(),
            Err(error) => self.outage.failed(&error),
        }
    }

    async fn renew(&self, term: Duration) -> Result<bool, DbErr> {
        let transaction = self.store.begin().await?;
        let leads = leadership::renew(&transaction.session(), self.memory.epoch, term).await;
        match leads {
            Ok(leads) => transaction.commit().await.map(|()| leads),
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    /// Tells the reconciler which pairs have been out for long.
    fn offer_old_pairs(&mut self) {
        let Some(now) = self.memory.clock.now() else {
            return;
        };
        let before = now.minus(self.memory.settings.reconcile_age);
        let old = self
            .memory
            .dispatcher
            .out_since_before(before, RECONCILE_PAGE);
        self.outstanding.send_replace(old);
        for (stage, process) in self.memory.stages.take_gone(Instant::now()) {
            self.memory.dispatcher.lose(stage, process);
        }
        let queues = self.memory.dispatcher.queues(now);
        self.measure(&queues);
        self.memory.stages.show(queues);
        for stage in Stage::ALL {
            self.memory
                .metrics
                .outstanding
                .with([stage.name()])
                .set(i64::from(self.memory.dispatcher.used(stage)));
        }
    }

    /// Shows what is out, what may be and who waits.
    fn measure(&self, queues: &Queues) {
        let metrics = &self.memory.metrics;
        let shown = |cost: Cost| cost.max(0);
        for (stage, queue) in &queues.stages {
            let name = [stage.name()];
            let window = self.memory.dispatcher.window(*stage);
            metrics.window_files.with(name).set(window.into());
            metrics
                .outstanding_time
                .with(name)
                .set(shown(queue.out_cost));
            let window = queue.window.unwrap_or_default();
            metrics.window_time.with(name).set(shown(window));
            for (weight, waiting) in WEIGHT_NAMES.iter().zip(queue.by_weight) {
                let labels = [stage.name(), *weight];
                let longest = waiting.longest.as_secs();
                metrics
                    .waiting_batches
                    .with(labels)
                    .set(waiting.batches.into());
                let longest = i64::try_from(longest).unwrap_or(i64::MAX);
                metrics.longest_wait.with(labels).set(longest);
            }
        }
    }

    /// Takes what waits, up to the rows of a group, and up to what the group in flight holds up or must not stand in one
    /// group with what was taken.
    fn gather(&mut self) -> Vec<Request> {
        while self.waiting.len() < self.memory.settings.writer_queue {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(_) => break,
            }
        }
        let mut taken = Vec::new();
        let mut rows = 0;
        let mut together = Together::default();
        while let Some(next) = self.waiting.front() {
            #[cfg(debug_assertions)]
            test_panics::end_writer_where_asked(next.verb.makes());
            rows += next.rows;
            if !taken.is_empty() && rows > self.memory.settings.group_rows {
                break;
            }
            if let Some(ahead) = &self.in_flight
                && ahead.holds_up(&next.needs, &self.memory)
            {
                break;
            }
            if !together.takes(&next.needs) {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        taken
    }

    /// Decides a group, and begins to write it. What it decided stands on the group ahead: with that one it is given up.
    async fn commit(&mut self, mut requests: Vec<Request>) {
        if !self.store.dialect().has_two_writers() {
            self.settle_all().await;
        }
        let begun = Instant::now();
        match self.decide(&mut requests).await {
            Ok((transaction, decided, delta)) => {
                let next = self.begin_to_write(transaction, decided, delta, requests, begun);
                let ahead = self.settle().await;
                self.in_flight = Some(next);
                if let Err(ahead) = ahead {
                    self.wait_again().await;
                    self.recover(ahead).await;
                }
            }
            Err(error) => {
                let ahead = self.settle().await;
                let Undecided { again, failed } = undecided((error, requests), ahead);
                self.wait_first(again);
                self.recover(failed).await;
            }
        }
    }

    fn begin_to_write(
        &mut self,
        transaction: Transaction,
        decided: Decided,
        delta: MemoryDelta,
        requests: Vec<Request>,
        begun: Instant,
    ) -> InFlight {
        let ahead = self.in_flight.as_mut();
        let ahead = ahead.and_then(InFlight::when_committed);
        let (told, committed) = oneshot::channel();
        let writing = Writing {
            relay: self.relay.clone(),
            hints: self.hints.clone(),
            leases: self.memory.leases.clone(),
            stages: self.memory.stages.clone(),
            metrics: self.memory.metrics.clone(),
            begun,
            ahead,
            committed: told,
        };
        let held = HeldRows::of(&delta, &requests);
        let written = tokio::spawn(writing.write(transaction, decided, requests));
        InFlight::new(held, delta, committed, written)
    }

    /// Lets what the group in flight was asked wait again: the one ahead of it was not committed, so it was not either.
    async fn wait_again(&mut self) {
        if let Err((_, requests)) = self.settle().await {
            self.wait_first(requests);
        }
    }

    /// The first half of a group. Where memory was not what the database holds, once more without it.
    async fn decide(
        &mut self,
        requests: &mut [Request],
    ) -> Result<(Transaction, Decided, MemoryDelta), GroupError> {
        self.memory.ancestors.make_room();
        if self.in_flight.is_none() {
            self.memory.known.make_room();
        }
        for attempt in 0..=STALE_TRIES {
            match self.try_decide(requests, attempt == 0).await {
                Err(GroupError::Stale) if attempt < STALE_TRIES => {
                    tracing::debug!(
                        verbs = requests.len(),
                        "a remembered row was stale; it is read anew"
                    );
                    // The group ahead may be what made it so.
                    self.settle_all().await;
                    self.memory.known.forget();
                }
                decided => return decided,
            }
        }
        Err(GroupError::Stale)
    }

    async fn try_decide(
        &mut self,
        requests: &mut [Request],
        use_remembered_rows: bool,
    ) -> Result<(Transaction, Decided, MemoryDelta), GroupError> {
        let phases = Phases::begin();
        let transaction = self.store.begin().await?;
        let memory = &mut self.memory;
        match decide::decide(&transaction, memory, requests, use_remembered_rows, phases).await {
            Ok((mut decided, delta)) => {
                decided.relayed = self.relay.take_relayed();
                Ok((transaction, decided, delta))
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    /// Waits until nothing is in flight, whatever became of it.
    async fn settle_all(&mut self) {
        if let Err(failure) = self.settle().await {
            self.recover(failure).await;
        }
    }

    /// Waits until the group in flight has ended, and lets memory learn of it.
    async fn settle(&mut self) -> Result<(), Failure> {
        let Some(ahead) = self.in_flight.take() else {
            return Ok(());
        };
        match ahead.settle(&mut self.memory, &self.relay).await {
            Settled::Committed { verbs: 0 } => self.outage.took_little(),
            Settled::Committed { .. } => self.outage.took(),
            Settled::Failed { error, requests } => return Err((error, requests)),
        }
        Ok(())
    }

    /// Answers the callers of a group that was not committed. One whose verb is at fault is told so, and the others wait again;
    /// where it is not known which, or memory was not what the database holds, each verb is tried by itself.
    async fn recover(&mut self, (error, mut requests): Failure) {
        self.memory.metrics.group_failures.inc();
        self.log_failure(&error, &requests);
        let goes_better_alone = match &error {
            GroupError::Defect {
                verb: Some(position),
                ..
            } if *position < requests.len() => {
                let at_fault = requests.remove(*position);
                self.refuse_defect(at_fault);
                self.wait_first(requests);
                return;
            }
            GroupError::Defect { .. } => {
                // With nothing asked it is this process that cannot go on.
                self.has_failed |= requests.is_empty();
                requests.len() > 1
            }
            GroupError::Database(error) => {
                Trouble::of(error) == Trouble::Busy && requests.len() > 1
            }
            // Memory is forgotten by now.
            GroupError::Stale => !requests.is_empty(),
            GroupError::NotLeading => {
                self.lost.cancel();
                false
            }
            GroupError::PredecessorAborted | GroupError::Unknown(_) => false,
        };
        if goes_better_alone {
            tracing::warn!(
                verbs = requests.len(),
                "the verbs of a group are tried one by one"
            );
            for request in requests {
                if let Err((error, requests)) = self.commit_alone(request).await {
                    self.log_failure(&error, &requests);
                    self.refuse(&error, requests);
                }
            }
            return;
        }
        self.refuse(&error, requests);
        // A database that is away is asked again, but not without a breath.
        tokio::time::sleep(FAILURE_PAUSE).await;
    }

    /// Lets requests wait before all others, in their order.
    fn wait_first(&mut self, requests: Vec<Request>) {
        for request in requests.into_iter().rev() {
            self.waiting.push_front(request);
        }
    }

    fn refuse(&self, error: &GroupError, requests: Vec<Request>) {
        for request in requests {
            match error {
                GroupError::Defect { .. } => self.refuse_defect(request),
                _ => request.verb.refuse(refusal_of(error)),
            }
        }
    }

    /// INTERNAL, so that its caller does not bring it again, here or to the ledger that leads next.
    fn refuse_defect(&self, request: Request) {
        self.memory.metrics.defects.inc();
        tracing::error!(verb = request.verb.name(), "a verb was answered INTERNAL");
        request.verb.refuse(Refusal::internal());
    }

    fn log_failure(&mut self, error: &GroupError, requests: &[Request]) {
        let verbs = requests.len();
        match error {
            GroupError::Database(error) if Trouble::of(error) == Trouble::Busy => {
                tracing::warn!(%error, verbs, "a group was not committed: others were in the way");
            }
            GroupError::Database(error) | GroupError::Unknown(error) => self.outage.failed(error),
            GroupError::Defect { verb, words } => {
                let verb = verb.and_then(|position| requests.get(position));
                let verb = verb.map_or("unknown", |request| request.verb.name());
                tracing::error!(verb, verbs, error = words, "a group cannot be decided");
            }
            GroupError::NotLeading => {
                tracing::error!("another ledger leads; this one writes nothing");
            }
            GroupError::Stale => {
                tracing::error!("rows changed under the only writer; is another ledger running?");
            }
            GroupError::PredecessorAborted => tracing::debug!("the group ahead was not committed"),
        }
    }

    async fn commit_alone(&mut self, request: Request) -> Result<(), Failure> {
        let mut requests = vec![request];
        let begun = Instant::now();
        // Boxed: a group that fails is tried again in parts.
        match Box::pin(self.decide(&mut requests)).await {
            Ok((transaction, decided, delta)) => {
                let alone = self.begin_to_write(transaction, decided, delta, requests, begun);
                self.in_flight = Some(alone);
                self.settle().await
            }
            Err(error) => Err((error, requests)),
        }
    }
}

/// What stands in one group already.
#[derive(Default)]
pub(crate) struct Together {
    requests: HashSet<RequestName>,
    grows: bool,
}

impl Together {
    /// Whether another verb may stand in the same group. The answer to a request is known only when its group is committed,
    /// and new rows are found only then.
    pub(crate) fn takes(&mut self, needs: &needs::Needs) -> bool {
        if needs.looks_for_rows() && self.grows {
            return false;
        }
        self.grows |= needs.grows().is_some() || needs.changes_tenancy();
        needs.request.is_none_or(|name| self.requests.insert(name))
    }
}

/// Whether an interval's next tick has come.
async fn is_due(interval: &mut tokio::time::Interval) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(interval.poll_tick(context).is_ready()))
        .await
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

fn refusal_of(error: &GroupError) -> Refusal {
    let why = match error {
        GroupError::Database(error) | GroupError::Unknown(error) => Trouble::of(error).words(),
        GroupError::PredecessorAborted => Trouble::Busy.words(),
        GroupError::NotLeading => "another ledger leads",
        GroupError::Stale | GroupError::Defect { .. } => return Refusal::internal(),
    };
    Refusal::unavailable(
        format!("{why}; repeat the call with the same request_id"),
        RETRY_AFTER,
    )
}
