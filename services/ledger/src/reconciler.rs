//! Compares rows with streams, exactly: rows first, streams second, write last (protocol 8). It is also the whole
//! answer to a Redis that lost everything, or its tail.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{FileRef, FileState, Refusal, Stage, TenantId, Token};
use caudal_node::Rarely;
use caudal_streams::{Standing, StreamView, Streams};
use sea_orm::DbErr;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::LedgerMetrics;
use crate::relay::RelayHandle;
use crate::settings::LedgerSettings;
use crate::store::progress::BatchKey;
use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::store::{Store, changes, progress, work};
use crate::writer::WriterHandle;
use crate::writer::acts::{Act, Answer, KillCause, LookedUp, Repairs};

/// Outbox rows left behind that are given to the relay in one pass.
const SWEEP_ROWS: u32 = 512;
/// Superseded messages are looked for every so many passes, and at the start.
const CLEAN_EVERY: u64 = 10;
/// Old changes and answers are pruned every so many passes.
const PRUNE_EVERY: u64 = 60;
/// Slices of cancelled batches, and of those whose missing files fail, that one pass asks the writer for: after so many
/// it looks again for what was lost.
const SLICES_A_PASS: usize = 4;
/// Batches that such slices are left of that one pass knows.
const ENDING_BATCHES: u32 = 1_000;
/// Rows read at once to see which messages of a stream are superseded.
const READ_AT_ONCE: usize = 1_000;
/// Idle batches that are completed in one pass.
const IDLE_BATCHES: u32 = 64;

/// How the files of a batch end that are left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    Cancelled,
    NeverArrived,
}

/// A batch whose files end slice by slice.
type Job = (BatchKey, End);

/// How far batches are whose files end slice by slice. Forgotten with the process, for to look at a file again does nothing.
#[derive(Debug, Default)]
struct Slices {
    /// Where the next slice begins of those that have begun.
    from: HashMap<Job, u32>,
    /// Who had the last turn.
    last: Option<TenantId>,
    /// Slices that fail: while the database takes nothing each pass meets them again.
    not_ended: Rarely,
}

/// A slice was not ended.
#[derive(Clone, Copy, Debug)]
struct Failed;

impl Slices {
    /// The turns of one pass.
    fn turns(&mut self, mut jobs: Vec<Job>) -> Turns<'_> {
        jobs.sort_unstable();
        self.from.retain(|job, _| jobs.binary_search(job).is_ok());
        let mut tenants: VecDeque<VecDeque<Job>> = jobs
            .chunk_by(|(one, _), (next, _)| one.0 == next.0)
            .map(|jobs| jobs.iter().copied().collect())
            .collect();
        let had_turns = |jobs: &&VecDeque<Job>| {
            jobs.front()
                .is_some_and(|((tenant, _), _)| Some(*tenant) <= self.last)
        };
        let had_turns = tenants.iter().take_while(had_turns).count();
        tenants.rotate_left(had_turns);
        Turns {
            slices: self,
            tenants,
            left: SLICES_A_PASS,
        }
    }
}

/// A few slices: tenants in turn, the batches of one after each other. One that fails is left until the next pass and
/// stops no other.
struct Turns<'a> {
    slices: &'a mut Slices,
    /// Those whose turn is next first, and of each what is left of it.
    tenants: VecDeque<VecDeque<Job>>,
    left: usize,
}

impl Turns<'_> {
    /// Whose turn it is, and where its slice begins.
    fn next(&self) -> Option<(Job, u32)> {
        let job = *self.tenants.front()?.front()?;
        let from = self.slices.from.get(&job).copied().unwrap_or(0);
        (self.left > 0).then_some((job, from))
    }

    /// That turn was taken: where the next slice of it begins.
    fn took(&mut self, ended: Result<Option<u32>, Failed>) {
        self.left = self.left.saturating_sub(1);
        let Some(mut jobs) = self.tenants.pop_front() else {
            return;
        };
        let Some(job) = jobs.front().copied() else {
            return;
        };
        self.slices.last = Some(job.0.0);
        match ended {
            Ok(Some(next)) => {
                self.slices.from.insert(job, next);
            }
            Ok(None) => {
                self.slices.from.remove(&job);
                jobs.pop_front();
            }
            Err(Failed) => {
                jobs.pop_front();
            }
        }
        if !jobs.is_empty() {
            self.tenants.push_back(jobs);
        }
    }

    /// Whether slices are left that may be asked for at once.
    fn more(&self) -> bool {
        !self.tenants.is_empty()
    }
}

type OldPairs = watch::Receiver<Vec<(FileRef, Token)>>;

/// What a pass needs.
pub(crate) struct Reconciler {
    pub(crate) settings: Arc<LedgerSettings>,
    /// That this ledger leads in.
    pub(crate) epoch: u64,
    pub(crate) store: Arc<Store>,
    pub(crate) streams: Streams,
    pub(crate) writer: WriterHandle,
    pub(crate) relay: RelayHandle,
    pub(crate) old_pairs: OldPairs,
    pub(crate) metrics: LedgerMetrics,
    /// Asks for a pass at once.
    pub(crate) wanted: Arc<Notify>,
}

/// Why a pass was not finished; the next one begins anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    #[error("the writer refused: {0}")]
    Writer(#[from] caudal_domain::Refusal),
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    #[error("Redis failed: {0}")]
    Streams(#[from] caudal_streams::StreamsError),
}

impl Reconciler {
    /// Makes a pass every interval, and at once when asked, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.reconcile_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pass: u64 = 0;
        let unfinished = Rarely::default();
        let mut slices = Slices::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                () = self.wanted.notified() => {}
            }
            if let Err(error) = self.pass(pass, &mut slices).await {
                self.metrics.reconcile_failures.inc();
                if let Some(times) = unfinished.next() {
                    tracing::warn!(%error, times, "a reconcile pass was not finished");
                }
            }
            pass += 1;
        }
    }

    async fn pass(&self, pass: u64, slices: &mut Slices) -> Result<(), PassError> {
        self.sweep().await?;
        self.repair_dispatches().await?;
        self.end_batches(slices).await?;
        self.complete_idle().await?;
        if pass.is_multiple_of(CLEAN_EVERY) {
            self.remove_superseded().await?;
        }
        if pass.is_multiple_of(PRUNE_EVERY) {
            self.writer.ask(Act::Prune).await?;
        }
        Ok(())
    }

    /// Publishes outbox rows that nobody else will: a dead ledger's, at once, for its epoch is over and it commits nothing
    /// more; and old ones, which the relay had no room for. What was published already is only doubled (protocol 3.2).
    async fn sweep(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        let before = session.now().await?.minus(self.settings.reconcile_age);
        let own = changes::outbox_id(self.epoch, 0);
        self.relay
            .publish(changes::left_outbox(&session, own, before, SWEEP_ROWS).await?);
        Ok(())
    }

    async fn repair_dispatches(&self) -> Result<(), PassError> {
        let old = self.old_pairs.borrow().clone();
        if old.is_empty() {
            return Ok(());
        }
        let Answer::Looked(looked) = self.writer.ask(Act::LookUp { held: old }).await? else {
            return Ok(());
        };
        let candidates = candidates(&looked, self.settings.reconcile_age);
        if candidates.is_empty() {
            return Ok(());
        }
        let stages: BTreeSet<Stage> = candidates
            .iter()
            .filter(|row| row.lease_until.is_none())
            .map(|row| row.stage)
            .collect();
        let mut views = BTreeMap::new();
        for stage in stages {
            views.insert(stage, self.streams.inspect(stage).await?);
        }
        let repairs = judge(&candidates, &views, looked.now, self.settings.lease);
        for (stage, view) in &views {
            if !view.pending_without_entry.is_empty() {
                self.streams
                    .remove(*stage, &view.pending_without_entry)
                    .await?;
            }
        }
        if repairs.redispatch.is_empty() && repairs.kill.is_empty() {
            return Ok(());
        }
        tracing::info!(
            lost = repairs.redispatch.len(),
            killed = repairs.kill.len(),
            "repairing dispatches"
        );
        self.writer.ask(Act::Repair(Box::new(repairs))).await?;
        Ok(())
    }

    /// Removes entries none of whose tokens is current, whoever owns them (protocol 8.4). Safe at any time: a superseded
    /// token never becomes current again.
    async fn remove_superseded(&self) -> Result<(), PassError> {
        for stage in Stage::ALL {
            let view = self.streams.inspect(stage).await?;
            let mut files: Vec<FileRef> = view
                .entries
                .iter()
                .flat_map(|entry| entry.files.iter().map(|(file, _)| *file))
                .collect();
            files.sort_unstable();
            files.dedup();
            let mut current: HashMap<FileRef, Token> = HashMap::new();
            for page in files.chunks(READ_AT_ONCE) {
                for row in work::read(&self.store.reader(), page).await? {
                    if row.dispatched_at.is_some() {
                        current.insert(row.file, row.token);
                    }
                }
            }
            // Read after the stream: a dispatch that is in the stream has been committed before.
            let superseded: Vec<String> = view
                .entries
                .iter()
                .filter(|entry| {
                    entry
                        .files
                        .iter()
                        .all(|(file, token)| current.get(file) != Some(token))
                })
                .map(|entry| entry.id.clone())
                .collect();
            if !superseded.is_empty() {
                self.streams.remove(stage, &superseded).await?;
            }
        }
        Ok(())
    }

    /// Goes on with batches that were cancelled, or completed without all their files (protocol 10.2), a few slices in a
    /// pass. Where more are left the next pass comes at once.
    async fn end_batches(&self, slices: &mut Slices) -> Result<(), PassError> {
        let session = self.store.reader();
        let cancelled = progress::cancelling(&session, ENDING_BATCHES).await?;
        let incomplete = progress::failing_missing(&session, ENDING_BATCHES).await?;
        let cancelled = cancelled.into_iter().map(|key| (key, End::Cancelled));
        let incomplete = incomplete.into_iter().map(|key| (key, End::NeverArrived));
        let jobs = cancelled.chain(incomplete).collect();
        let mut turns = slices.turns(jobs);
        while let Some((job, from)) = turns.next() {
            let ended = self.end_slice(job, from).await;
            if let Err(error) = &ended {
                let ((tenant, batch), end) = job;
                if let Some(times) = turns.slices.not_ended.next() {
                    tracing::warn!(%error, %tenant, %batch, ?end, times, "a slice of a batch was not ended");
                }
                self.metrics.reconcile_failures.inc();
            }
            turns.took(ended.map_err(|_| Failed));
        }
        if turns.more() {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// Where the next slice begins.
    async fn end_slice(
        &self,
        ((tenant, batch), end): Job,
        from: u32,
    ) -> Result<Option<u32>, Refusal> {
        let slice = match end {
            End::Cancelled => Act::CancelFiles {
                tenant,
                batch,
                from,
            },
            End::NeverArrived => Act::FailMissing {
                tenant,
                batch,
                from,
            },
        };
        match self.writer.ask(slice).await? {
            Answer::GoesOnAt(next) => Ok(next),
            _ => Ok(None),
        }
    }

    /// Completes OPEN batches that nobody touched for long.
    async fn complete_idle(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        let before = session.now().await?.minus(self.settings.batch_idle);
        for (tenant, batch) in progress::idle(&session, before, IDLE_BATCHES).await? {
            self.writer.ask(Act::CompleteIdle { tenant, batch }).await?;
        }
        Ok(())
    }
}

/// Dispatched rows that are old enough, and whose dispatch stands in no outbox row (protocol 8.1): with Redis full,
/// each pass would otherwise send everything out again and the outbox would grow without bound.
fn candidates(looked: &LookedUp, age: Duration) -> Vec<WorkRow> {
    let old = looked.now.minus(age);
    let is_candidate = |row: &&WorkRow| {
        row.dispatched_at.is_some_and(|at| {
            let published = looked
                .oldest_outbox
                .get(&row.stage)
                .is_none_or(|oldest| at < *oldest);
            at < old && published
        })
    };
    looked.rows.iter().filter(is_candidate).cloned().collect()
}

/// What is to be done with each candidate (protocol 8.2, 8.3).
fn judge(
    candidates: &[WorkRow],
    views: &BTreeMap<Stage, StreamView>,
    now: Micros,
    lease: Duration,
) -> Repairs {
    let mut standing: HashMap<(FileRef, Token), Option<Duration>> = HashMap::new();
    for view in views.values() {
        for entry in &view.entries {
            let idle = match view.standing(&entry.id) {
                Standing::Undelivered => None,
                Standing::Pending(pending) => Some(pending.idle),
                Standing::Spent => continue,
            };
            for pair in &entry.files {
                // Of two messages with one token the livelier decides.
                let known = standing.entry(*pair).or_insert(idle);
                *known = match (*known, idle) {
                    (Some(known), Some(idle)) => Some(known.min(idle)),
                    _ => None,
                };
            }
        }
    }
    let mut repairs = Repairs::default();
    for row in candidates {
        if let Some(until) = row.lease_until {
            if until < now {
                repairs
                    .kill
                    .push((row.file, row.token, KillCause::LeaseExpired));
            }
            continue;
        }
        match standing.get(&(row.file, row.token)) {
            None if views.get(&row.stage).is_some_and(|view| view.truncated) => {}
            None => repairs.redispatch.push((row.file, row.token)),
            Some(Some(idle)) if *idle >= lease => {
                if row.state == FileState::Queued {
                    repairs.redispatch.push((row.file, row.token));
                } else {
                    repairs
                        .kill
                        .push((row.file, row.token, KillCause::NeverRenewed));
                }
            }
            Some(_) => {}
        }
    }
    repairs
}

#[cfg(test)]
mod tests {
    use caudal_domain::BatchId;
    use uuid::Uuid;

    use super::*;

    fn job(tenant: u128, batch: u128, end: End) -> Job {
        let tenant = TenantId::from_uuid(Uuid::from_u128(tenant));
        ((tenant, BatchId::from_uuid(Uuid::from_u128(batch))), end)
    }

    /// The turns of one pass, and whether more are left. A job has so many slices of a thousand files; of none each fails.
    fn pass(slices: &mut Slices, jobs: &[(Job, u32)]) -> (Vec<(Job, u32)>, bool) {
        let mut turns = slices.turns(jobs.iter().map(|(job, _)| *job).collect());
        let mut taken = Vec::new();
        while let Some((job, from)) = turns.next() {
            taken.push((job, from));
            let of_job = jobs.iter().find(|(known, _)| *known == job);
            turns.took(match of_job {
                Some((_, slices)) if *slices > 0 => {
                    Ok(Some(from + 1_000).filter(|next| *next < slices * 1_000))
                }
                _ => Err(Failed),
            });
        }
        (taken, turns.more())
    }

    #[test]
    fn a_pass_ends_so_many_slices_and_the_next_goes_on_where_it_stood() {
        let huge = job(1, 1, End::Cancelled);
        let mut slices = Slices::default();
        let mut asked = Vec::new();
        let mut passes = 0;
        loop {
            let (of_pass, more) = pass(&mut slices, &[(huge, 10)]);
            passes += 1;
            assert!(of_pass.len() <= SLICES_A_PASS);
            asked.extend(of_pass);
            if !more {
                break;
            }
        }
        assert_eq!(passes, 3);
        let expected: Vec<(Job, u32)> = (0..10).map(|slice| (huge, slice * 1_000)).collect();
        assert_eq!(asked, expected);
        // One that is cancelled later begins at its first file.
        let (again, _) = pass(&mut slices, &[(huge, 1)]);
        assert_eq!(again, [(huge, 0)]);
    }

    #[test]
    fn tenants_take_turns_whatever_each_has_left() {
        let mut slices = Slices::default();
        let huge = (job(1, 1, End::Cancelled), 1_000);
        let other = (job(1, 2, End::NeverArrived), 1_000);
        let small = (job(2, 3, End::NeverArrived), 3);
        let jobs = [huge, other, small];
        let (asked, more) = pass(&mut slices, &jobs);
        let turns: Vec<Job> = asked.iter().map(|(job, _)| *job).collect();
        assert_eq!(turns, [huge.0, small.0, huge.0, small.0]);
        assert!(more);
        // Who had the last turn of a pass is not the first of the next.
        let mut slices = Slices {
            last: Some(huge.0.0.0),
            ..Slices::default()
        };
        let (asked, _) = pass(&mut slices, &jobs);
        assert_eq!(asked[0].0, small.0);
    }

    #[test]
    fn a_slice_that_fails_stops_no_other_and_brings_no_pass_at_once() {
        let mut slices = Slices::default();
        let bad = (job(1, 1, End::Cancelled), 0);
        let good = (job(2, 2, End::Cancelled), 2);
        let (asked, more) = pass(&mut slices, &[bad, good]);
        assert_eq!(asked, [(bad.0, 0), (good.0, 0), (good.0, 1_000)]);
        assert!(!more);
    }
}
