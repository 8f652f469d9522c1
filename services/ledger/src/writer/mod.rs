//! The one writer. Every change of the database goes through it: acts queue up and are committed in groups, with no
//! timer: while one group commits the next gathers, and a lone act commits at once. On Postgres two groups are in flight:
//! while one is written the next is decided, on files that the first does not touch. After a commit it hands dispatches
//! to the relay and hints to watchers.

pub(crate) mod acts;
pub(crate) mod ancestors;
mod group;
mod known;
mod manifest;
mod operations;
mod outage;
#[cfg(debug_assertions)]
mod planted;
mod reuse;
mod stages;
pub(crate) mod verbs;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{FileRef, Refusal, Stage, StageVersion, Token};
use rand::RngExt;
use rustc_hash::FxHashSet;
use sea_orm::DbErr;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use self::acts::{Act, Answer};
use self::ancestors::Ancestors;
use self::group::{Aftermath, Committed, Decided, GroupError};
use self::known::Known;
use self::outage::Outage;
use crate::briefs::Briefs;
use crate::dispatcher::Dispatcher;
use crate::metrics::LedgerMetrics;
use crate::relay::RelayHandle;
use crate::settings::LedgerSettings;
use crate::store::progress::BatchKey;
use crate::store::time::Micros;
use crate::store::trouble::Trouble;
use crate::store::{Store, Transaction, changes};

/// Callers that were refused because the writer failed may try again after this.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long the writer waits after a failure of the database.
const BREATH: Duration = Duration::from_millis(50);
/// How often a group whose remembered rows were stale is tried before it is given up.
const STALE_TRIES: u32 = 2;
/// Batches whose hints wait to be published; a hint that finds no room is dropped, for it is only a hint.
pub(crate) const HINT_QUEUE: usize = 256;

/// An act and who waits for its answer.
struct Request {
    act: Act,
    reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Asks the writer.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    requests: mpsc::Sender<Request>,
}

impl WriterHandle {
    /// Asks, and waits until the answer is committed.
    ///
    /// # Errors
    /// What the act itself is refused with; UNAVAILABLE when the database failed or the writer has ended.
    pub(crate) async fn ask(&self, act: Act) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request { act, reply })
            .await
            .map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Refusal {
    Refusal::unavailable(
        "the ledger is ending or starts anew; repeat the call with the same request_id",
        RETRY_AFTER,
    )
}

/// Relates the database's clock to this process's, for timers only: what is decided is decided by the database's.
#[derive(Default)]
pub(crate) struct DatabaseClock {
    seen: Option<(Micros, Instant)>,
}

impl DatabaseClock {
    pub(crate) fn set(&mut self, now: Micros) {
        self.seen = Some((now, Instant::now()));
    }

    /// When the database's clock will show `at`.
    fn instant_of(&self, at: Micros) -> Instant {
        match self.seen {
            Some((now, instant)) => instant + at.since(now),
            None => Instant::now(),
        }
    }
}

/// What the writer keeps in memory. All of it can be read from the database again.
pub(crate) struct WriterState {
    pub(crate) settings: Arc<LedgerSettings>,
    pub(crate) epoch: u64,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) metrics: LedgerMetrics,
    pub(crate) versions: HashMap<StageVersion, u32>,
    /// The newest version that processes of each stage were seen to run.
    pub(crate) newest_versions: HashMap<Stage, u32>,
    pub(crate) clock: DatabaseClock,
    pub(crate) briefs: Briefs,
    known: Known,
    ancestors: Ancestors,
    outbox_counter: u64,
}

impl WriterState {
    pub(crate) fn new(
        settings: Arc<LedgerSettings>,
        epoch: u64,
        dispatcher: Dispatcher,
        versions: HashMap<StageVersion, u32>,
        newest_versions: HashMap<Stage, u32>,
        briefs: Briefs,
        metrics: LedgerMetrics,
    ) -> Self {
        Self {
            settings,
            epoch,
            dispatcher,
            metrics,
            versions,
            newest_versions,
            clock: DatabaseClock::default(),
            briefs,
            known: Known::default(),
            ancestors: Ancestors::default(),
            outbox_counter: 0,
        }
    }

    fn next_outbox_id(&mut self) -> u64 {
        self.outbox_counter += 1;
        changes::outbox_id(self.epoch, self.outbox_counter)
    }

    fn jitter(&self) -> f64 {
        rand::rng().random_range(0.0..1.0)
    }

    fn say(&mut self, waiting: Waiting, now: Micros) {
        let Waiting {
            stage,
            key,
            weight,
            at,
        } = waiting;
        self.dispatcher.wait(stage, key, weight, at, now);
    }
}

/// Files of a batch wait for a stage, from a time on.
#[derive(Clone, Copy)]
struct Waiting {
    stage: Stage,
    key: BatchKey,
    weight: u32,
    at: Micros,
}

/// A group that is being written while the next one may be decided.
struct InFlight {
    /// Its files: an act on one of them waits.
    files: FxHashSet<FileRef>,
    /// The batches whose manifests it grows: their next page waits, because it must see the folders of this one.
    manifests: HashSet<BatchKey>,
    aftermath: Aftermath,
    /// Is told as soon as it is committed, and dropped if it is not: the next group waits for it.
    committed: Option<oneshot::Receiver<()>>,
    written: JoinHandle<Written>,
    ended: Option<Result<Written, JoinError>>,
}

impl InFlight {
    /// Whether an act must wait until this group has ended.
    fn holds_up(&self, act: &Act) -> bool {
        // Places are compared with rows while no dispatch is in flight (protocol 2.3), and this group may still have rows to
        // write that others look for.
        if act.looks_for_rows() {
            return true;
        }
        if let Act::AddEntries(act) = act {
            return self.manifests.contains(&(act.tenant, act.batch));
        }
        act.files().iter().any(|file| self.files.contains(file))
    }
}

/// How writing a group ended.
enum Written {
    /// Its callers are answered.
    Committed { acts: usize },
    /// What it took is given back.
    Failed {
        error: GroupError,
        requests: Vec<Request>,
        relayed: Vec<u64>,
    },
}

/// A group that was not committed, and the error that stopped it.
type Failure = (GroupError, Vec<Request>);

/// The writer's task.
pub(crate) struct Writer {
    store: Arc<Store>,
    state: WriterState,
    requests: mpsc::Receiver<Request>,
    relay: RelayHandle,
    hints: mpsc::Sender<Vec<(BatchKey, u64)>>,
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
        state: WriterState,
        relay: RelayHandle,
        hints: mpsc::Sender<Vec<(BatchKey, u64)>>,
        takes_calls: watch::Sender<bool>,
    ) -> (Self, WriterHandle, watch::Receiver<Vec<(FileRef, Token)>>) {
        let (sender, requests) = mpsc::channel(state.settings.writer_queue);
        let (outstanding, old_pairs) = watch::channel(Vec::new());
        let writer = Self {
            store,
            state,
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
        (writer, WriterHandle { requests: sender }, old_pairs)
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
        let mut renewal = tokio::time::interval(self.state.settings.term / RENEWALS_A_TERM);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(self.state.settings.reconcile_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.lost.is_cancelled() {
            if self.has_failed {
                return Err(WriterFailed);
            }
            if is_due(&mut renewal).await {
                self.renew_leadership().await;
            }
            let requests = self.gather();
            if !requests.is_empty() || self.state.dispatcher.can_admit() {
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
            let promotion = self.state.dispatcher.next_promotion();
            let due = promotion.map(|at| self.state.clock.instant_of(at));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                request = self.requests.recv() => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => break,
                },
                () = ended_in_flight(&mut self.in_flight) => self.settle_all().await,
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
            self.state.briefs.forget_all();
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
        let term = self.state.settings.term;
        let asked = Instant::now();
        match self.renew(term).await {
            Ok(true) => {
                self.state.briefs.leads_until(asked + term);
                self.outage.took_little();
            }
            Ok(false) => self.lost.cancel(),
            Err(error) => self.outage.failed(&error),
        }
    }

    async fn renew(&self, term: Duration) -> Result<bool, DbErr> {
        let transaction = self.store.begin().await?;
        let leads = changes::renew_leadership(&transaction.session(), self.state.epoch, term).await;
        match leads {
            Ok(leads) => transaction.commit().await.map(|()| leads),
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    /// Tells the reconciler which pairs have been out for long.
    fn offer_old_pairs(&self) {
        let Some(before) = Instant::now().checked_sub(self.state.settings.reconcile_age) else {
            return;
        };
        let old = self
            .state
            .dispatcher
            .out_since_before(before, RECONCILE_PAGE);
        self.outstanding.send_replace(old);
        for stage in Stage::ALL {
            self.state
                .metrics
                .outstanding
                .with([stage.name()])
                .set(i64::from(self.state.dispatcher.used(stage)));
        }
    }

    /// Takes what waits, up to the rows of a group, and up to what the group in flight holds up.
    fn gather(&mut self) -> Vec<Request> {
        while self.waiting.len() < self.state.settings.writer_queue {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(_) => break,
            }
        }
        let mut taken = Vec::new();
        let mut rows = 0;
        while let Some(next) = self.waiting.front() {
            #[cfg(debug_assertions)]
            planted::end_writer_where_asked(&next.act);
            rows += next.act.rows();
            if !taken.is_empty() && rows > self.state.settings.group_rows {
                break;
            }
            if let Some(ahead) = &self.in_flight
                && ahead.holds_up(&next.act)
            {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        taken
    }

    /// Decides a group, and begins to write it. What it decided stands on the group ahead: with that one it is given up.
    async fn commit(&mut self, requests: Vec<Request>) {
        if !self.store.dialect().has_two_writers() {
            self.settle_all().await;
        }
        let begun = Instant::now();
        match self.decide(&requests).await {
            Ok((transaction, decided, aftermath)) => {
                let next = self.begin_to_write(transaction, decided, aftermath, requests, begun);
                let ahead = self.settle().await;
                self.in_flight = Some(next);
                if let Err(ahead) = ahead {
                    self.wait_again().await;
                    self.recover(ahead).await;
                }
            }
            Err(error) => {
                self.settle_all().await;
                self.recover((error, requests)).await;
            }
        }
    }

    fn begin_to_write(
        &mut self,
        transaction: Transaction,
        decided: Decided,
        aftermath: Aftermath,
        requests: Vec<Request>,
        begun: Instant,
    ) -> InFlight {
        let ahead = self
            .in_flight
            .as_mut()
            .and_then(|ahead| ahead.committed.take());
        let (told, committed) = oneshot::channel();
        let writing = Writing {
            relay: self.relay.clone(),
            hints: self.hints.clone(),
            briefs: self.state.briefs.clone(),
            metrics: self.state.metrics.clone(),
            begun,
            ahead,
            committed: told,
        };
        InFlight {
            files: aftermath.files(),
            manifests: aftermath.manifests(),
            aftermath,
            committed: Some(committed),
            written: tokio::spawn(writing.write(transaction, decided, requests)),
            ended: None,
        }
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
        requests: &[Request],
    ) -> Result<(Transaction, Decided, Aftermath), GroupError> {
        let acts: Vec<&Act> = requests.iter().map(|request| &request.act).collect();
        let mut relayed = self.relay.take_relayed();
        self.state.ancestors.make_room();
        if self.in_flight.is_none() {
            self.state.known.make_room();
        }
        for attempt in 0..=STALE_TRIES {
            let remembered = attempt == 0;
            let decided =
                group::decide(&self.store, &mut self.state, &acts, relayed, remembered).await;
            match decided {
                Ok(decided) => return Ok(decided),
                Err((GroupError::Stale, taken)) if attempt < STALE_TRIES => {
                    tracing::debug!(
                        acts = acts.len(),
                        "a remembered row was stale; it is read anew"
                    );
                    relayed = taken;
                    // The group ahead may be what made it so.
                    if let Err(ahead) = self.settle().await {
                        self.relay.give_back(relayed);
                        self.recover(ahead).await;
                        relayed = self.relay.take_relayed();
                    }
                    self.state.known.forget();
                }
                Err((error, taken)) => {
                    self.relay.give_back(taken);
                    return Err(error);
                }
            }
        }
        Err(GroupError::Stale)
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
        let ended = match ahead.ended {
            Some(ended) => ended,
            None => ahead.written.await,
        };
        match ended {
            Ok(Written::Committed { acts }) => {
                ahead.aftermath.committed(&mut self.state);
                if acts > 0 {
                    self.outage.took();
                } else {
                    self.outage.took_little();
                }
                Ok(())
            }
            Ok(Written::Failed {
                error,
                requests,
                relayed,
            }) => {
                self.relay.give_back(relayed);
                if matches!(error, GroupError::Unknown(_)) {
                    ahead.aftermath.unknown(&mut self.state);
                } else {
                    ahead.aftermath.undone(&mut self.state);
                }
                Err((error, requests))
            }
            Err(panicked) => {
                ahead.aftermath.unknown(&mut self.state);
                // After COMMIT: a repeat of what was asked gets its answer.
                let words = format!("writing a group ended early: {panicked}");
                Err((GroupError::defect(words), Vec::new()))
            }
        }
    }

    /// Answers the callers of a group that was not committed. One whose act is at fault is told so, and the others wait again;
    /// where it is not known which, or memory was not what the database holds, each act is tried by itself.
    async fn recover(&mut self, (error, mut requests): Failure) {
        self.state.metrics.group_failures.inc();
        self.log_failure(&error, &requests);
        let goes_better_alone = match &error {
            GroupError::Defect {
                act: Some(position),
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
            GroupError::Adrift | GroupError::Unknown(_) => false,
        };
        if goes_better_alone {
            tracing::warn!(
                acts = requests.len(),
                "the acts of a group are tried one by one"
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
        tokio::time::sleep(BREATH).await;
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
                _ => {
                    let _ = request.reply.send(Err(refusal_of(error)));
                }
            }
        }
    }

    /// INTERNAL, so that its caller does not bring it again, here or to the ledger that leads next.
    fn refuse_defect(&self, request: Request) {
        self.state.metrics.defects.inc();
        tracing::error!(act = request.act.name(), "an act was answered INTERNAL");
        let _ = request.reply.send(Err(Refusal::internal()));
    }

    fn log_failure(&mut self, error: &GroupError, requests: &[Request]) {
        let acts = requests.len();
        match error {
            GroupError::Database(error) if Trouble::of(error) == Trouble::Busy => {
                tracing::warn!(%error, acts, "a group was not committed: others were in the way");
            }
            GroupError::Database(error) | GroupError::Unknown(error) => self.outage.failed(error),
            GroupError::Defect { act, words } => {
                let act = act.and_then(|position| requests.get(position));
                let act = act.map_or("unknown", |request| request.act.name());
                tracing::error!(act, acts, error = words, "a group cannot be decided");
            }
            GroupError::NotLeading => {
                tracing::error!("another ledger leads; this one writes nothing");
            }
            GroupError::Stale => {
                tracing::error!("rows changed under the only writer; is another ledger running?");
            }
            GroupError::Adrift => tracing::debug!("the group ahead was not committed"),
        }
    }

    async fn commit_alone(&mut self, request: Request) -> Result<(), Failure> {
        let requests = vec![request];
        let begun = Instant::now();
        // Boxed: a group that fails is tried again in parts.
        match Box::pin(self.decide(&requests)).await {
            Ok((transaction, decided, aftermath)) => {
                let alone = self.begin_to_write(transaction, decided, aftermath, requests, begun);
                self.in_flight = Some(alone);
                self.settle().await
            }
            Err(error) => Err((error, requests)),
        }
    }
}

/// What writing a group needs of the writer.
struct Writing {
    relay: RelayHandle,
    hints: mpsc::Sender<Vec<(BatchKey, u64)>>,
    briefs: Briefs,
    metrics: LedgerMetrics,
    begun: Instant,
    /// Tells when the group ahead is committed.
    ahead: Option<oneshot::Receiver<()>>,
    committed: oneshot::Sender<()>,
}

impl Writing {
    /// The second half of a group; its callers are answered as soon as it is committed.
    async fn write(
        self,
        transaction: Transaction,
        decided: Decided,
        requests: Vec<Request>,
    ) -> Written {
        let relayed = decided.relayed.clone();
        match group::write(transaction, decided, self.ahead).await {
            Ok(Committed {
                answers,
                published,
                hints,
                results,
                carried,
            }) => {
                // The next group goes on; none may be there.
                let _ = self.committed.send(());
                self.briefs.carry(carried, results);
                self.metrics.groups.inc();
                self.metrics.group_acts.inc_by(requests.len() as u64);
                self.metrics
                    .group_seconds
                    .observe(self.begun.elapsed().as_secs_f64());
                self.relay.publish(published);
                if !hints.is_empty() && self.hints.try_send(hints).is_err() {
                    tracing::debug!("no room for a hint; watchers find the change by themselves");
                }
                let acts = requests.len();
                for (request, answer) in requests.into_iter().zip(answers) {
                    // A caller that is gone asks again with the same request id.
                    let _ = request.reply.send(answer);
                }
                Written::Committed { acts }
            }
            Err(error) => Written::Failed {
                error,
                requests,
                relayed,
            },
        }
    }
}

/// Completes when the group in flight has been written; never where there is none. Whoever settles takes the outcome.
async fn ended_in_flight(in_flight: &mut Option<InFlight>) {
    match in_flight {
        Some(ahead) => {
            if ahead.ended.is_none() {
                ahead.ended = Some((&mut ahead.written).await);
            }
        }
        None => std::future::pending().await,
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
        GroupError::Adrift => Trouble::Busy.words(),
        GroupError::NotLeading => "another ledger leads",
        GroupError::Stale | GroupError::Defect { .. } => return Refusal::internal(),
    };
    Refusal::unavailable(
        format!("{why}; repeat the call with the same request_id"),
        RETRY_AFTER,
    )
}
