//! Carries bulk operations on, beside the reconciler: candidates are read outside the writer by ranges of the key, and
//! handed to it in slices, one at a time, so that an operation over a million files delays nobody by more than a slice.
//! Several operations take turns. How far each is stands in its row, so whoever leads next goes on from there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::TenantId;
use caudal_node::Rarely;
use caudal_proto::v1::FileSelector;
use prost::Message;
use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::landed::{Landed, LookError};
use crate::failure::Failure;
use crate::select::{Purpose, resolve};
use crate::signals::Signals;
use crate::store::operations::{FileVerb, OperationRow, OperationState};
use crate::store::selection::{Position, Selection};
use crate::store::work::WorkRow;
use crate::store::{Store, operations, selection};
use crate::writer::WriterHandle;
use crate::writer::verbs::apply_slice::{ApplySlice, FoundBytes};
use crate::writer::verbs::end_operation::EndOperation;
use crate::writer::verbs::prune_operations::PruneOperations;

/// Rows read for one slice.
const ROWS_A_SLICE: u32 = 1_000;
/// Files handed to the writer in one slice.
const FILES_A_SLICE: u32 = 500;
/// Slices that found nothing after which the place reached is written all the same.
const EMPTY_SLICES: u32 = 50;
/// Operations that take turns; the others wait until one of these has ended or had its turn.
const OPERATIONS_AT_ONCE: u32 = 64;
/// How often operations are looked for when nobody says that there is one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long every turn of an operation may fail before it is given up: longer than a database is away.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10 * 60);
/// Before the next turn after one that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Ended operations are pruned so often.
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);

/// Carries operations on while this ledger leads.
pub(crate) struct SliceRunner {
    pub(crate) store: Arc<Store>,
    pub(crate) writer: WriterHandle,
    /// Asked for the bytes of files that never arrived, before they are asked of the client again.
    pub(crate) landed: Landed,
    pub(crate) signals: Signals,
}

/// An operation between two of its turns.
struct Underway {
    selection: Selection,
    position: Option<Position>,
    empty_slices: u32,
}

/// Why a turn came to nothing; the operation is tried again.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("the writer refused: {0}")]
    Writer(#[from] caudal_domain::Refusal),
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    #[error("what landed could not be looked for: {0}")]
    Landed(#[from] LookError),
    #[error("the selector cannot be read: {0}")]
    Selector(#[from] prost::DecodeError),
}

type Key = (TenantId, Uuid);

impl SliceRunner {
    /// Carries operations on until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let mut underway = HashMap::new();
        let mut failing_since = HashMap::new();
        let unlooked = Rarely::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = look.tick() => {}
                () = self.signals.started.notified() => {}
                _ = prune.tick() => {
                    if let Err(error) = self.writer.ask(PruneOperations).await {
                        tracing::debug!(%error, "ended operations were not pruned; they are next time");
                    }
                }
            }
            while !shutdown.is_cancelled() {
                match self.round(&mut underway, &mut failing_since).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        if let Some(times) = unlooked.next() {
                            tracing::warn!(%error, times, "operations cannot be looked for; they are again in a moment");
                        }
                        break;
                    }
                }
            }
        }
    }

    /// Gives each operation one turn; whether there was any.
    async fn round(
        &self,
        underway: &mut HashMap<Key, Underway>,
        failing_since: &mut HashMap<Key, Instant>,
    ) -> Result<bool, DbErr> {
        let due = operations::due(&self.store.reader(), OPERATIONS_AT_ONCE).await?;
        let keys: Vec<Key> = due.iter().map(|row| (row.tenant, row.id)).collect();
        underway.retain(|key, _| keys.contains(key));
        failing_since.retain(|key, _| keys.contains(key));
        for row in &due {
            let key = (row.tenant, row.id);
            match self.turn(row, underway).await {
                Ok(()) => {
                    failing_since.remove(&key);
                    self.signals.progressed.send_replace(());
                }
                Err(error) => {
                    underway.remove(&key);
                    let since = *failing_since.entry(key).or_insert_with(|| {
                        tracing::warn!(%error, operation = %row.id, "a slice was not done; it is tried again and again");
                        Instant::now()
                    });
                    if since.elapsed() >= GIVE_UP_AFTER {
                        tracing::error!(operation = %row.id, "an operation is given up: its slices fail again and again");
                        self.give_up(row).await;
                    }
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
        Ok(!due.is_empty())
    }

    async fn give_up(&self, row: &OperationRow) {
        let end = EndOperation {
            tenant: row.tenant,
            operation: row.id,
            state: OperationState::Failed,
        };
        if let Err(error) = self.writer.ask(end).await {
            tracing::warn!(%error, operation = %row.id, "it could not even be given up");
        }
        self.signals.progressed.send_replace(());
    }

    /// Reads the next candidates of an operation and has the writer do them.
    async fn turn(
        &self,
        row: &OperationRow,
        underway: &mut HashMap<Key, Underway>,
    ) -> Result<(), TurnError> {
        let key = (row.tenant, row.id);
        let operation = match underway.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Some(selection) = self.selection_of(row).await? else {
                    // What it chose from is gone.
                    return self.apply(row, &[], row.cursor, true).await;
                };
                new.insert(Underway {
                    selection,
                    position: row.cursor,
                    empty_slices: 0,
                })
            }
        };
        let may_touch = match row.max_count {
            0 => u64::MAX,
            max_count => max_count.saturating_sub(row.looked_at()),
        };
        if may_touch == 0 {
            return self.apply(row, &[], operation.position, true).await;
        }
        let step = selection::next(
            &self.store.reader(),
            &operation.selection,
            operation.position,
            ROWS_A_SLICE,
            u32::try_from(may_touch).map_or(FILES_A_SLICE, |most| most.min(FILES_A_SLICE)),
        )
        .await?;
        let ended = step.next.is_none();
        operation.position = step.next;
        if step.rows.is_empty() && !ended && operation.empty_slices < EMPTY_SLICES {
            operation.empty_slices += 1;
            return Ok(());
        }
        operation.empty_slices = 0;
        self.apply(row, &step.rows, step.next, ended).await
    }

    /// Those whose bytes landed although they were given up as never arrived: a retry adopts them (protocol 11.2).
    async fn arrived(
        &self,
        verb: &FileVerb,
        rows: &[WorkRow],
    ) -> Result<Vec<FoundBytes>, LookError> {
        if !matches!(verb, FileVerb::Retry { .. }) {
            return Ok(Vec::new());
        }
        let given_up = rows.iter().filter(|row| row.was_given_up());
        let asked = self.landed.ask(&self.store, given_up).await?.into_iter();
        let found = asked.filter_map(|asked| {
            Some(FoundBytes {
                file: asked.file,
                target: asked.target,
                etag: asked.etag?,
            })
        });
        Ok(found.collect())
    }

    async fn apply(
        &self,
        row: &OperationRow,
        rows: &[WorkRow],
        cursor: Option<Position>,
        ended: bool,
    ) -> Result<(), TurnError> {
        let slice = ApplySlice {
            tenant: row.tenant,
            operation: row.id,
            files: rows.iter().map(|row| row.file).collect(),
            arrived: self.arrived(&row.verb, rows).await?,
            cursor,
            ended,
        };
        self.writer.ask(slice).await?;
        Ok(())
    }

    /// What an operation chooses from, ages as of its beginning; `None` when its batch or folder is gone.
    async fn selection_of(&self, row: &OperationRow) -> Result<Option<Selection>, TurnError> {
        let selector = FileSelector::decode(row.selector.as_slice())?;
        let session = self.store.reader();
        let resolved = resolve(
            &session,
            row.tenant,
            "selector",
            &selector,
            Purpose::Act(&row.verb),
            row.created_at,
        );
        match resolved.await {
            Ok(selection) => Ok(Some(selection)),
            Err(Failure::Refused(_)) => Ok(None),
            Err(Failure::Unreadable(error)) => Err(error.into()),
        }
    }
}
