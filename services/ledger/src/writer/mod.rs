//! The one writer. Every change of the database goes through it: acts queue up and are committed in groups, with no
//! timer: while one group commits the next gathers, and a lone act commits at once. After a commit it hands dispatches
//! to the relay and hints to watchers.

pub(crate) mod acts;
pub(crate) mod ancestors;
mod group;
mod manifest;
mod operations;
mod reuse;
mod stages;
pub(crate) mod verbs;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{Refusal, Stage, StageVersion};
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::acts::{Act, Answer};
use self::ancestors::Ancestors;
use self::group::GroupError;
use crate::dispatcher::Dispatcher;
use crate::metrics::LedgerMetrics;
use crate::relay::RelayHandle;
use crate::settings::LedgerSettings;
use crate::store::progress::BatchKey;
use crate::store::time::Micros;
use crate::store::{Store, changes};

/// Callers that were refused because the writer failed may try again after this.
const RETRY_AFTER: Duration = Duration::from_millis(500);
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
        "the ledger is shutting down; repeat the call with the same request_id",
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
}

/// The writer's task.
pub(crate) struct Writer {
    store: Arc<Store>,
    state: WriterState,
    requests: mpsc::Receiver<Request>,
    relay: RelayHandle,
    hints: mpsc::Sender<Vec<(BatchKey, u64)>>,
    outstanding: tokio::sync::watch::Sender<Vec<(caudal_domain::FileRef, caudal_domain::Token)>>,
    waiting: VecDeque<Request>,
    /// Cancelled when another ledger leads.
    lost: CancellationToken,
}

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
    ) -> (
        Self,
        WriterHandle,
        tokio::sync::watch::Receiver<Vec<(caudal_domain::FileRef, caudal_domain::Token)>>,
    ) {
        let (sender, requests) = mpsc::channel(state.settings.writer_queue);
        let (outstanding, old_pairs) = tokio::sync::watch::channel(Vec::new());
        let writer = Self {
            store,
            state,
            requests,
            relay,
            hints,
            outstanding,
            waiting: VecDeque::new(),
            lost: CancellationToken::new(),
        };
        (writer, WriterHandle { requests: sender }, old_pairs)
    }

    /// Commits groups until `shutdown`, then what is queued, then ends. `lost` is cancelled when another ledger leads.
    pub(crate) async fn run(mut self, shutdown: CancellationToken, lost: CancellationToken) {
        self.lost = lost;
        let mut renewal = tokio::time::interval(self.state.settings.term / RENEWALS_A_TERM);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(self.state.settings.reconcile_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.lost.is_cancelled() {
            if is_due(&mut renewal).await {
                self.renew_leadership().await;
            }
            let acts = self.gather();
            if acts.is_empty() && !self.state.dispatcher.can_admit() {
                let promotion = self.state.dispatcher.next_promotion();
                let due = promotion.map(|at| self.state.clock.instant_of(at));
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    request = self.requests.recv() => match request {
                        Some(request) => self.waiting.push_back(request),
                        None => break,
                    },
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
                continue;
            }
            self.commit(acts).await;
            // A busy writer must not starve the reconciler of its list.
            if is_due(&mut tick).await {
                self.offer_old_pairs();
            }
        }
        if self.lost.is_cancelled() {
            // What waits is answered by the closed channel: UNAVAILABLE, ask again.
            return;
        }
        self.requests.close();
        loop {
            let acts = self.gather();
            if acts.is_empty() && !self.relay.has_relayed() {
                return;
            }
            let deleted_what_was_relayed = acts.is_empty();
            self.commit(acts).await;
            if deleted_what_was_relayed {
                return;
            }
        }
    }

    async fn renew_leadership(&self) {
        let session = self.store.writer_session();
        match changes::renew_leadership(&session, self.state.epoch, self.state.settings.term).await
        {
            Ok(true) => {}
            Ok(false) => self.lost.cancel(),
            Err(error) => {
                tracing::warn!(%error, "the leadership was not renewed; it is tried again");
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

    /// Takes what waits, up to the rows of a group.
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
            rows += next.act.rows();
            if !taken.is_empty() && rows > self.state.settings.group_rows {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        taken
    }

    /// Commits a group and answers its callers. When the database refuses a group of several, each act is tried by
    /// itself, so that a bad one fails alone.
    async fn commit(&mut self, requests: Vec<Request>) {
        let (acts, replies): (Vec<Act>, Vec<_>) = requests
            .into_iter()
            .map(|request| (request.act, request.reply))
            .unzip();
        match self.run_group(&acts).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // A caller that is gone asks again with the same request id.
                    let _ = reply.send(answer);
                }
            }
            Err(GroupError::Database(error)) if acts.len() > 1 => {
                tracing::warn!(%error, acts = acts.len(), "a group failed; its acts are tried one by one");
                for (act, reply) in acts.into_iter().zip(replies) {
                    let answer = match self.run_group(std::slice::from_ref(&act)).await {
                        Ok(mut answers) => {
                            answers.pop().unwrap_or_else(|| Err(Refusal::internal()))
                        }
                        Err(error) => Err(refusal_of(&error)),
                    };
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(refusal_of(&error)));
                }
            }
        }
    }

    async fn run_group(
        &mut self,
        acts: &[Act],
    ) -> Result<Vec<Result<Answer, Refusal>>, GroupError> {
        let relayed = self.relay.take_relayed();
        for attempt in 0..=STALE_TRIES {
            let begun = Instant::now();
            match group::run(&self.store, &mut self.state, acts, &relayed, attempt == 0).await {
                Ok(committed) => {
                    self.state.metrics.groups.inc();
                    self.state.metrics.group_acts.inc_by(acts.len() as u64);
                    self.state
                        .metrics
                        .group_seconds
                        .observe(begun.elapsed().as_secs_f64());
                    self.relay.publish(committed.published);
                    if !committed.hints.is_empty() && self.hints.try_send(committed.hints).is_err()
                    {
                        tracing::debug!(
                            "no room for a hint; watchers find the change by themselves"
                        );
                    }
                    return Ok(committed.answers);
                }
                Err(GroupError::Stale) if attempt < STALE_TRIES => {
                    tracing::debug!(
                        acts = acts.len(),
                        "a remembered row was stale; the group is read anew"
                    );
                }
                Err(error) => {
                    if matches!(error, GroupError::NotLeading) {
                        self.lost.cancel();
                    }
                    self.state.metrics.group_failures.inc();
                    self.relay.give_back(relayed);
                    log_failure(&error);
                    if !matches!(error, GroupError::Stale) {
                        // A database that is away is asked again, but not without a breath.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(GroupError::Stale)
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

fn log_failure(error: &GroupError) {
    match error {
        GroupError::Database(error) => tracing::error!(%error, "a group was not committed"),
        GroupError::Unknown(error) => {
            tracing::error!(%error, "COMMIT got no answer; the reconciler looks at the rows");
        }
        GroupError::NotLeading => tracing::error!("another ledger leads; this one writes nothing"),
        GroupError::Stale => {
            tracing::error!("rows changed under the only writer; is another ledger running?");
        }
    }
}

fn refusal_of(error: &GroupError) -> Refusal {
    match error {
        GroupError::Database(_) | GroupError::Unknown(_) => Refusal::unavailable(
            "the database did not take the change; repeat the call with the same request_id",
            RETRY_AFTER,
        ),
        GroupError::NotLeading => Refusal::unavailable(
            "another ledger leads; repeat the call with the same request_id",
            RETRY_AFTER,
        ),
        GroupError::Stale => Refusal::internal(),
    }
}
