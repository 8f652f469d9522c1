//! Runs handlers, as many at once as there are slots.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::{Generation, Reason};
use caudal_node::TraceContext;
use caudal_proto::mesh::v1::report::Outcome;
use caudal_proto::mesh::v1::{Report, Work};
use caudal_streams::Lane;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::book::{Key, Phase};
use crate::core::Core;
use crate::failure::Failure;
use crate::handler::{Done, Handler};
use crate::landing::Landed;
use crate::lease::Leased;
use crate::report::Ended;
use crate::slot_time::measured;
use crate::solo;
use crate::timeout::end_in_time;
use crate::wire::{JobParts, done_to_proto, failure_to_proto, job_from_work};

/// What is expected to hold a slot for longer is long work.
const LONG: Duration = Duration::from_secs(2);
/// So many slots of a process, and one at least of several, are kept for short work,
const SLOTS_A_KEPT_ONE: usize = 4;
/// while some came within this.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// So many files that came by the express stream are begun before one that did not is.
const EXPRESS_IN_TURN: usize = 8;
/// Of so many slots of a process one at least is kept for what comes by the express stream,
const SLOTS_WITH_A_KEPT_ONE: usize = 4;
/// while some came within this: else they wait until one of the others is done, whatever that takes.
const EXPRESS_KEPT_FOR: Duration = Duration::from_secs(10);

/// Handlers that are at work.
#[derive(Clone, Copy, Default)]
struct Busy {
    running: usize,
    /// Of these on long work,
    long: usize,
    /// and on what came by the express stream.
    express: usize,
}

/// What waits for a slot, in the order of its coming. Long work never has all slots while short work comes: else a minute's
/// documents keep every thumbnail waiting (protocol 5.5).
struct Queue {
    /// What came by the express stream, but for long work.
    express: VecDeque<Leased>,
    /// How many of them were begun since another was.
    express_begun: usize,
    express_came: Option<Instant>,
    short: VecDeque<(u64, Leased)>,
    long: VecDeque<(u64, Leased)>,
    came: u64,
    /// When short work came last; also the beginning, when nothing is known of what will come.
    short_came: Instant,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self {
            express: VecDeque::new(),
            express_begun: 0,
            express_came: None,
            short: VecDeque::new(),
            long: VecDeque::new(),
            came: 0,
            short_came: now,
        }
    }

    fn push(&mut self, leased: Leased, now: Instant) {
        self.came += 1;
        if leased.is_long() {
            self.long.push_back((self.came, leased));
            return;
        }
        self.short_came = now;
        match leased.lane {
            Lane::Express => {
                self.express_came = Some(now);
                self.express.push_back(leased);
            }
            Lane::Regular => self.short.push_back((self.came, leased)),
        }
    }

    /// What is begun next in `slots`.
    fn next(&mut self, slots: usize, busy: Busy, now: Instant) -> Option<Leased> {
        if busy.running >= slots {
            return None;
        }
        if self.express_begun < EXPRESS_IN_TURN
            && let Some(leased) = self.express.pop_front()
        {
            self.express_begun += 1;
            return Some(leased);
        }
        self.express_begun = 0;
        let lately = |came: Instant| now.saturating_duration_since(came) < EXPRESS_KEPT_FOR;
        let keeps = slots >= SLOTS_WITH_A_KEPT_ONE && self.express_came.is_some_and(lately);
        if keeps && busy.running - busy.express + 1 >= slots {
            return self.express.pop_front();
        }
        let other = self.next_of_others(slots, busy.long, now);
        other.or_else(|| self.express.pop_front())
    }

    fn next_of_others(&mut self, slots: usize, long: usize, now: Instant) -> Option<Leased> {
        let keeps = slots > 1 && now.saturating_duration_since(self.short_came) < KEPT_FOR;
        let kept = if keeps {
            (slots / SLOTS_A_KEPT_ONE).max(1)
        } else {
            0
        };
        let long_fits = long < slots - kept;
        let first = |queue: &VecDeque<(u64, Leased)>| queue.front().map(|(came, _)| *came);
        let long_is_next = match (first(&self.short), first(&self.long)) {
            (Some(short), Some(long)) => long_fits && long < short,
            (None, Some(_)) => long_fits,
            (_, None) => false,
        };
        let queue = if long_is_next {
            &mut self.long
        } else {
            &mut self.short
        };
        queue.pop_front().map(|(_, leased)| leased)
    }

    fn drain(&mut self) -> impl Iterator<Item = Leased> + '_ {
        let others = self.short.drain(..).chain(self.long.drain(..));
        let others = others.map(|(_, leased)| leased);
        self.express.drain(..).chain(others)
    }
}

impl Leased {
    fn is_long(&self) -> bool {
        Duration::from_micros(self.work.expected_us) > LONG
    }
}

/// What the runner keeps of a file while a handler has the rest.
struct Running {
    key: Key,
    nonce: String,
    generation: Generation,
    is_long: bool,
    lane: Lane,
}

/// What came of a handler, and how long it worked.
type Execution = (Result<Done, Failure>, Duration);

struct Runner<H> {
    core: Arc<Core>,
    handler: Arc<H>,
    waiting: Queue,
    tasks: JoinSet<Execution>,
    running: HashMap<Id, Running>,
    to_report: mpsc::Sender<Ended>,
    to_release: mpsc::Sender<Key>,
    /// Handlers were cancelled because the drain is over: what they did not finish is given back.
    drain_is_over: bool,
}

/// Runs handlers until `leased` ends and the last of them has.
pub(crate) async fn run<H: Handler>(
    core: Arc<Core>,
    handler: Arc<H>,
    mut leased: mpsc::Receiver<Leased>,
    to_report: mpsc::Sender<Ended>,
    to_release: mpsc::Sender<Key>,
) {
    let mut wanted = core.wanted_slots.subscribe();
    let mut granted = core.granted_slots.subscribe();
    let mut is_shut = core.gate.is_shut.subscribe();
    let mut stage_paused = core.stage_paused.subscribe();
    let shutdown = core.shutdown.clone();
    let drain = core.settings.drain;
    let mut runner = Runner {
        core,
        handler,
        waiting: Queue::new(Instant::now()),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        to_report,
        to_release,
        drain_is_over: false,
    };
    let mut leased_is_open = true;
    while leased_is_open && !shutdown.is_cancelled() {
        if runner.core.is_held_up() {
            runner.give_back_what_waits().await;
        }
        runner.begin_what_fits();
        tokio::select! {
            next = leased.recv() => match next {
                Some(next) => runner.waiting.push(next, Instant::now()),
                None => leased_is_open = false,
            },
            Some(end) = runner.tasks.join_next_with_id() => runner.take_end(end).await,
            _ = wanted.changed() => {}
            _ = granted.changed() => {}
            _ = is_shut.changed() => {}
            _ = stage_paused.changed() => {}
            () = shutdown.cancelled() => {}
        }
    }
    // The drain: nothing is begun any more, what runs may end.
    let drain_is_over = tokio::time::sleep(drain);
    tokio::pin!(drain_is_over);
    while leased_is_open || !runner.tasks.is_empty() {
        runner.give_back_what_waits().await;
        tokio::select! {
            late = leased.recv(), if leased_is_open => match late {
                Some(late) => runner.waiting.push(late, Instant::now()),
                None => leased_is_open = false,
            },
            Some(end) = runner.tasks.join_next_with_id() => runner.take_end(end).await,
            () = &mut drain_is_over, if !runner.drain_is_over => runner.cancel_all(),
        }
    }
    runner.give_back_what_waits().await;
}

impl<H: Handler> Runner<H> {
    fn begin_what_fits(&mut self) {
        let allowed = self.core.allowed_slots();
        self.core
            .metrics
            .slots
            .set(i64::try_from(allowed).unwrap_or(i64::MAX));
        loop {
            let of = |is_so: fn(&Running) -> bool| {
                let at_work = self.running.values();
                at_work.filter(|one| is_so(one)).count()
            };
            let busy = Busy {
                running: self.tasks.len(),
                long: of(|one| one.is_long),
                express: of(|one| one.lane == Lane::Express),
            };
            let Some(leased) = self.waiting.next(allowed, busy, Instant::now()) else {
                break;
            };
            self.begin(leased);
        }
        self.core
            .metrics
            .running
            .set(i64::try_from(self.tasks.len()).unwrap_or(i64::MAX));
    }

    fn begin(&mut self, leased: Leased) {
        let is_long = leased.is_long();
        let Leased { key, work, lane } = leased;
        // A renewal may have found, while it waited, that nobody wants it any more.
        let Some(cancelled) = self.core.book.advance(&key, Phase::Running) else {
            self.core.metrics.stopped.add();
            return;
        };
        let nonce = fresh_nonce();
        let generation = Generation(work.generation);
        let parts = JobParts {
            file: key.0,
            token: key.1,
            nonce: nonce.clone(),
            objects: self.core.objects.clone(),
            cancelled,
        };
        let execution = execute(self.core.clone(), self.handler.clone(), work, parts);
        let task = self.tasks.spawn(execution);
        self.running.insert(
            task.id(),
            Running {
                key,
                nonce,
                generation,
                is_long,
                lane,
            },
        );
    }

    async fn take_end(&mut self, end: Result<(Id, Execution), JoinError>) {
        let (id, (mut result, took)) = match end {
            Ok(ended) => ended,
            Err(error) => (
                error.id(),
                (
                    Err(Failure::new(Reason::Internal, words_of_panic(error))),
                    Duration::ZERO,
                ),
            ),
        };
        let Some(Running {
            key,
            nonce,
            generation,
            ..
        }) = self.running.remove(&id)
        else {
            return;
        };
        if self.core.book.is_stopped(&key) {
            self.core.metrics.stopped.add();
            self.core.book.settle(&key);
            return;
        }
        let landing_key = result
            .as_mut()
            .ok()
            .and_then(|done| done.landing_key.take());
        let outcome = match result.and_then(|done| done_to_proto(done, nonce)) {
            Ok(done) => Outcome::Done(done),
            Err(_) if self.drain_is_over => {
                let _ = self.to_release.send(key).await;
                return;
            }
            Err(failure)
                if self
                    .core
                    .gate
                    .shut_for(key.0, &failure, tokio::time::Instant::now()) =>
            {
                self.core.set_last_error(failure.to_string());
                let _ = self.to_release.send(key).await;
                return;
            }
            Err(failure) => {
                self.core.set_last_error(failure.to_string());
                let trace = TraceContext::of_file(key.0, generation);
                let trace_id = if trace.sampled {
                    hex::encode(trace.trace_id)
                } else {
                    String::new()
                };
                Outcome::Failed(failure_to_proto(&failure, trace_id))
            }
        };
        if matches!(outcome, Outcome::Done(_)) {
            self.core.gate.served(key.0);
        }
        let landed = landing_key
            .filter(|_| matches!(outcome, Outcome::Done(_)))
            .map(|object| Landed {
                key,
                generation,
                object,
            });
        self.core.book.advance(&key, Phase::Answering);
        let ended = Ended {
            key,
            report: Report {
                outcome: Some(outcome),
                took_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            },
            landed,
            refused_once: false,
        };
        let _ = self.to_report.send(ended).await;
    }

    async fn give_back_what_waits(&mut self) {
        for waiting in self.waiting.drain() {
            let _ = self.to_release.send(waiting.key).await;
        }
    }

    fn cancel_all(&mut self) {
        self.drain_is_over = true;
        for running in self.running.values() {
            if let Some(cancelled) = self.core.book.advance(&running.key, Phase::Running) {
                cancelled.cancel();
            }
        }
    }
}

/// Names an execution: new for each, so that two of one token never write to one key.
fn fresh_nonce() -> String {
    format!("{:08x}", rand::random::<u32>())
}

async fn execute<H: Handler>(
    core: Arc<Core>,
    handler: Arc<H>,
    work: Box<Work>,
    parts: JobParts,
) -> Execution {
    let cancelled = parts.cancelled.clone();
    let file = parts.file;
    if work.suspect && !may_begin(&core, &(file, parts.token), &cancelled).await {
        let stopped = Failure::new(Reason::Internal, "stopped before it began");
        return (Err(stopped), Duration::ZERO);
    }
    let trace = TraceContext::of_file(file, Generation(work.generation));
    let execution = async {
        // The whole handler of a suspect runs in a process of its own: its death is then a failure, not a kill of this one.
        if work.suspect
            && let Some(solo) = &core.settings.solo
        {
            // Boxed: it is rare and large, and would be carried about with every execution.
            return Box::pin(solo::run_alone(
                solo,
                &core.version,
                &work,
                &parts,
                core.settings.handler_timeout,
            ))
            .await;
        }
        let job = job_from_work(*work, &core.version, parts)?;
        handler.handle(job).await
    };
    let stage = core.stage;
    let traced = trace.run(
        || tracing::info_span!("handle", stage = stage.name(), %file),
        execution,
    );
    let in_time = end_in_time(traced, &cancelled, core.settings.handler_timeout);
    let (result, took) = measured(in_time).await;
    core.metrics.handler_seconds.observe(took.as_secs_f64());
    (result, took)
}

/// Says that the handler of a suspect begins, until that is answered: a death is charged to what a process has worked on
/// (protocol 7.3). Whether it may.
async fn may_begin(core: &Core, key: &Key, cancelled: &CancellationToken) -> bool {
    let mut backoff = Backoff::new();
    loop {
        let answer = tokio::select! {
            answer = core.ledger.begin(core.process, key) => answer,
            () = cancelled.cancelled() => return false,
        };
        match answer {
            Ok(true) => return true,
            Ok(false) => {
                core.book.stop(key);
                return false;
            }
            Err(error) => core.unanswered("renew", &error),
        }
        if !backoff.wait_unless(cancelled).await {
            return false;
        }
    }
}

fn words_of_panic(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "the handler was aborted".to_owned();
    };
    let words = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => (*words).to_owned(),
        (None, Some(words)) => words.clone(),
        (None, None) => "without words".to_owned(),
    };
    format!("the handler panicked: {words}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use caudal_domain::{BatchId, FileRef, TenantId, Token};
    use uuid::Uuid;

    use super::*;

    const SLOTS: usize = 4;

    fn leased(ordinal: u32, expected: Duration) -> Leased {
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let batch = BatchId::from_uuid(Uuid::from_u128(2));
        let work = Work {
            expected_us: u64::try_from(expected.as_micros()).unwrap(),
            ..Work::default()
        };
        Leased {
            key: (FileRef::new(tenant, batch, ordinal), Token::FIRST),
            work: Box::new(work),
            lane: Lane::Regular,
        }
    }

    fn express(leased: Leased) -> Leased {
        Leased {
            lane: Lane::Express,
            ..leased
        }
    }

    fn busy(running: usize, long: usize) -> Busy {
        Busy {
            running,
            long,
            express: 0,
        }
    }

    /// What begins in free slots, of those in which nothing runs yet.
    fn begun(queue: &mut Queue, now: Instant) -> Vec<u32> {
        let (mut begun, mut long) = (Vec::new(), 0);
        while let Some(next) = queue.next(SLOTS, busy(begun.len(), long), now) {
            long += usize::from(next.is_long());
            begun.push(next.key.0.ordinal);
        }
        begun
    }

    // Protocol 5.5.
    #[test]
    fn long_work_leaves_a_slot_for_short_work_and_has_all_where_none_came_for_long() {
        let minute = Duration::from_secs(60);
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for ordinal in 0..10 {
            queue.push(leased(ordinal, minute), now);
        }
        assert_eq!(begun(&mut queue, now), [0, 1, 2]);
        // What comes short begins at once, before what waits.
        queue.push(leased(10, Duration::from_millis(20)), now);
        let next = queue.next(SLOTS, busy(3, 3), now).unwrap();
        assert_eq!(next.key.0.ordinal, 10);
        assert!(queue.next(SLOTS, busy(3, 3), now).is_none());
        let later = now + KEPT_FOR;
        let next = queue.next(SLOTS, busy(3, 3), later).unwrap();
        assert_eq!(next.key.0.ordinal, 3);
        // A single slot keeps nothing.
        assert!(queue.next(1, busy(0, 0), now).is_some());
    }

    #[test]
    fn what_came_by_the_express_stream_begins_first_and_keeps_nothing_waiting_for_long() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let short = Duration::from_millis(1);
        for ordinal in 0..3 {
            queue.push(leased(ordinal, short), now);
        }
        let coming = u32::try_from(EXPRESS_IN_TURN).unwrap() + 2;
        for ordinal in 10..10 + coming {
            queue.push(express(leased(ordinal, short)), now);
        }
        let mut begun = Vec::new();
        while let Some(next) = queue.next(SLOTS, busy(0, 0), now) {
            begun.push(next.key.0.ordinal);
        }
        let last_in_turn = 10 + u32::try_from(EXPRESS_IN_TURN).unwrap();
        let mut expected: Vec<u32> = (10..last_in_turn).collect();
        expected.push(0);
        expected.extend(last_in_turn..10 + coming);
        expected.extend([1, 2]);
        assert_eq!(begun, expected);
        // Long work gains nothing by the express stream, and no slot that is kept from it.
        queue.push(express(leased(50, Duration::from_secs(60))), now);
        assert!(queue.next(SLOTS, busy(3, 3), now).is_none());
    }

    #[test]
    fn a_slot_is_kept_for_what_comes_by_the_express_stream_while_some_does() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let short = Duration::from_millis(1);
        queue.push(leased(1, short), now);
        queue.push(leased(2, short), now);
        assert!(queue.next(SLOTS, busy(SLOTS - 1, 0), now).is_some());
        queue.push(express(leased(3, short)), now);
        let next = queue.next(SLOTS, busy(SLOTS - 1, 0), now).unwrap();
        assert_eq!(next.key.0.ordinal, 3);
        assert!(queue.next(SLOTS, busy(SLOTS - 1, 0), now).is_none());
        // One of those at work came so: the others leave room.
        let one_of_them = Busy {
            express: 1,
            ..busy(SLOTS - 1, 0)
        };
        assert!(queue.next(SLOTS, one_of_them, now).is_some());
        queue.push(leased(4, short), now);
        let later = now + EXPRESS_KEPT_FOR;
        assert!(queue.next(SLOTS, busy(SLOTS - 1, 0), later).is_some());
    }

    #[test]
    fn what_came_first_begins_first_where_a_slot_may_take_either() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        queue.push(leased(0, Duration::from_secs(9)), now);
        for ordinal in 1..9 {
            queue.push(leased(ordinal, Duration::from_millis(1)), now);
        }
        assert_eq!(begun(&mut queue, now), [0, 1, 2, 3]);
    }
}
