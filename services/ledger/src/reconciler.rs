//! Compares rows with streams, exactly: rows first, streams second, write last (protocol 8). It is also the whole
//! answer to a Redis that lost everything, or its tail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{FileRef, FileState, Stage, Token, limits};
use caudal_node::Rarely;
use caudal_streams::{Standing, StreamView, Streams};
use sea_orm::DbErr;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::LedgerMetrics;
use crate::relay::RelayHandle;
use crate::settings::LedgerSettings;
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
/// Batches whose missing files are failed in one pass.
const FAILING_BATCHES: u32 = 16;
/// Slices of one batch's missing files that one pass fails.
const FAILING_SLICES: u32 = 100;

/// Cancelled batches whose files are cancelled in one pass.
const CANCELLING_BATCHES: u32 = 64;
/// Idle batches that are completed in one pass.
const IDLE_BATCHES: u32 = 64;

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
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                () = self.wanted.notified() => {}
            }
            if let Err(error) = self.pass(pass).await {
                self.metrics.reconcile_failures.inc();
                if let Some(times) = unfinished.next() {
                    tracing::warn!(%error, times, "a reconcile pass was not finished");
                }
            }
            pass += 1;
        }
    }

    async fn pass(&self, pass: u64) -> Result<(), PassError> {
        self.sweep().await?;
        self.repair_dispatches().await?;
        self.fail_missing().await?;
        self.cancel_files().await?;
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
            for page in files.chunks(limits::MAX_FILES_PER_CALL) {
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

    async fn fail_missing(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        for (tenant, batch) in progress::failing_missing(&session, FAILING_BATCHES).await? {
            for _ in 0..FAILING_SLICES {
                self.writer.ask(Act::FailMissing { tenant, batch }).await?;
                let row = crate::store::reads::batch(&session, tenant, batch).await?;
                let missing = row.is_some_and(|(progress, _)| {
                    progress.facts.counts.pending + progress.facts.counts.uploading > 0
                });
                if !missing {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Cancels what is left of cancelled batches, a slice at a time (protocol 10.2).
    async fn cancel_files(&self) -> Result<(), PassError> {
        let session = self.store.reader();
        for (tenant, batch) in progress::cancelling(&session, CANCELLING_BATCHES).await? {
            let mut from = Some(0);
            while let Some(start) = from {
                let slice = Act::CancelFiles {
                    tenant,
                    batch,
                    from: start,
                };
                from = match self.writer.ask(slice).await? {
                    Answer::GoesOnAt(next) => next,
                    _ => None,
                };
            }
        }
        Ok(())
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
