//! Compares rows with streams, exactly: rows first, streams second, write last (protocol 8). It is also the whole
//! answer to a Redis that lost everything, or its tail.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use caudal_domain::{BatchRef, FileRef, Stage, TenantId, Token};
use caudal_node::Rarely;
use caudal_streams::Streams;
use rustc_hash::FxHashMap;
use sea_orm::DbErr;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::landed::{Landed, LookError, LookingAgain};
use super::rules::{self, Messages};
use crate::memory::relay_queue::RelayQueue;
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::{Store, outbox, progress, work};
use crate::writer::WriterHandle;
use crate::writer::needs::Range;
use crate::writer::verbs::cancel_files::CancelFiles;
use crate::writer::verbs::complete_idle::CompleteIdle;
use crate::writer::verbs::look_up::LookUp;
use crate::writer::verbs::prune::Prune;
use crate::writer::verbs::settle_missing::SettleMissing;

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
    /// It was completed without them.
    NeverArrived,
    /// Nobody has sent anything since the upload deadline.
    Overdue,
}

/// A batch whose files end slice by slice.
type Job = (BatchRef, End);

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
            .chunk_by(|(one, _), (next, _)| one.tenant == next.tenant)
            .map(|jobs| jobs.iter().copied().collect())
            .collect();
        let had_turns = |jobs: &&VecDeque<Job>| {
            jobs.front()
                .is_some_and(|(batch, _)| Some(batch.tenant) <= self.last)
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
        self.slices.last = Some(job.0.tenant);
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
    pub(crate) relay: RelayQueue,
    pub(crate) old_pairs: OldPairs,
    pub(crate) metrics: LedgerMetrics,
    /// Asks for a pass at once.
    pub(crate) wanted: Arc<Notify>,
    pub(crate) landed: Landed,
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
    #[error("uploads could not be looked for: {0}")]
    Look(#[from] LookError),
}

impl Reconciler {
    /// Makes a pass every interval, and at once when asked, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.reconcile_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pass: u64 = 0;
        let unfinished = Rarely::default();
        let mut slices = Slices::default();
        let mut again = LookingAgain::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                () = self.wanted.notified() => {}
            }
            if let Err(error) = self.pass(pass, &mut slices, &mut again).await {
                self.metrics.reconcile_failures.inc();
                if let Some(times) = unfinished.next() {
                    tracing::warn!(%error, times, "a reconcile pass was not finished");
                }
            }
            pass += 1;
        }
    }

    async fn pass(
        &self,
        pass: u64,
        slices: &mut Slices,
        again: &mut LookingAgain,
    ) -> Result<(), PassError> {
        self.sweep().await?;
        self.repair_dispatches().await?;
        self.end_batches(slices).await?;
        self.complete_idle().await?;
        self.look_again(again).await?;
        if pass.is_multiple_of(CLEAN_EVERY) {
            self.remove_superseded().await?;
        }
        if pass.is_multiple_of(PRUNE_EVERY) {
            self.writer.ask(Prune).await?;
        }
        Ok(())
    }

    /// Publishes outbox rows that nobody else will: a dead ledger's, at once, for its epoch is over and it commits nothing
    /// more; and old ones, which the relay had no room for. What was published already is only doubled (protocol 3.2).
    async fn sweep(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        let before = session.now().await?.minus(self.settings.reconcile_age);
        let own = outbox::outbox_id(self.epoch, 0);
        self.relay
            .publish(outbox::left(&session, own, before, SWEEP_ROWS).await?);
        Ok(())
    }

    async fn repair_dispatches(&self) -> Result<(), PassError> {
        let old = self.old_pairs.borrow().clone();
        if old.is_empty() {
            return Ok(());
        }
        let looked = self.writer.ask(LookUp { held: old }).await?;
        let candidates = rules::candidates(&looked, self.settings.reconcile_age);
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
        let messages = views
            .iter()
            .map(|(stage, view)| (*stage, Messages::of(view)));
        let messages = messages.collect();
        let repairs = rules::judge(&candidates, &messages, looked.now, self.settings.lease);
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
        self.writer.ask(repairs).await?;
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
            let mut current: FxHashMap<FileRef, Token> = FxHashMap::default();
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
                .filter(|entry| rules::is_superseded(&entry.files, &current))
                .map(|entry| entry.id.clone())
                .collect();
            if !superseded.is_empty() {
                self.streams.remove(stage, &superseded).await?;
            }
        }
        Ok(())
    }

    /// Goes on with batches that were cancelled, completed without all their files (protocol 10.2), or whose uploads have
    /// had their time (protocol 12.3), a few slices in a pass. Where more are left the next pass comes at once.
    async fn end_batches(&self, slices: &mut Slices) -> Result<(), PassError> {
        let session = self.store.reader();
        let cancelled = progress::cancelling(&session, ENDING_BATCHES).await?;
        let incomplete = progress::failing_missing(&session, ENDING_BATCHES).await?;
        let now = session.now().await?;
        let overdue = progress::overdue(&session, now, ENDING_BATCHES).await?;
        let overdue = overdue.into_iter().map(|key| (key, End::Overdue));
        let cancelled = cancelled.into_iter().map(|key| (key, End::Cancelled));
        let incomplete = incomplete.into_iter().map(|key| (key, End::NeverArrived));
        let jobs = cancelled.chain(incomplete).chain(overdue).collect();
        let mut turns = slices.turns(jobs);
        while let Some((job, from)) = turns.next() {
            let ended = self.end_slice(job, from).await;
            if let Err(error) = &ended {
                let (BatchRef { tenant, batch }, end) = job;
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
    async fn end_slice(&self, (batch, end): Job, from: u32) -> Result<Option<u32>, PassError> {
        match end {
            End::Cancelled => Ok(self.writer.ask(CancelFiles { batch, from }).await?),
            End::NeverArrived | End::Overdue => self.settle_slice(batch, from).await,
        }
    }

    /// Asks the store for what a slice of a batch waits for: nothing is given up that landed, and nothing while the store
    /// is silent.
    async fn settle_slice(&self, batch: BatchRef, from: u32) -> Result<Option<u32>, PassError> {
        let range = Range::slice(batch, from);
        let rows = work::range(&self.store.reader(), batch, from, range.limit).await?;
        let next = range.next(&rows);
        let waiting = rows.iter().filter(|row| row.waits_for_bytes());
        let asked = self.landed.ask(&self.store, waiting).await?;
        if asked.is_empty() && next.is_some() {
            return Ok(next);
        }
        let last = next.is_none();
        let settle = SettleMissing { batch, asked, last };
        self.writer.ask(settle).await?;
        Ok(next)
    }

    /// Takes what landed of files that were given up, once their last URL has expired.
    async fn look_again(&self, again: &mut LookingAgain) -> Result<(), PassError> {
        let late = again
            .look(&self.store, &self.landed, self.settings.look_again_after)
            .await?;
        for (batch, asked) in &late.found {
            tracing::info!(%batch.batch, files = asked.len(), "bytes of files that were given up are there");
            let settle = SettleMissing {
                batch: *batch,
                asked: asked.clone(),
                last: false,
            };
            self.writer.ask(settle).await?;
        }
        again.took(&late);
        if late.more {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// Completes OPEN batches that nobody touched for long.
    async fn complete_idle(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        let before = session.now().await?.minus(self.settings.batch_idle);
        for batch in progress::idle(&session, before, IDLE_BATCHES).await? {
            self.writer.ask(CompleteIdle { batch }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caudal_domain::BatchId;
    use uuid::Uuid;

    use super::*;

    fn job(tenant: u128, batch: u128, end: End) -> Job {
        let tenant = TenantId::from_uuid(Uuid::from_u128(tenant));
        (
            BatchRef::new(tenant, BatchId::from_uuid(Uuid::from_u128(batch))),
            end,
        )
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
            last: Some(huge.0.0.tenant),
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
