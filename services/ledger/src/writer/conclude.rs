//! The end of deciding: states of batches are derived, changes are numbered, and what memory knows stands where the group
//! will leave the database.

use std::collections::BTreeSet;
use std::sync::Arc;

use caudal_domain::{BatchRef, BatchState, FileRef, FolderCounts, TenantId, Token, run_after};
use prost::Message;
use rustc_hash::FxHashMap;

use super::effects::Effects;
use super::error::GroupError;
use super::group::Group;
use super::rows::LoadedBatch;
use crate::memory::lease_cache::FileMoved;
use crate::phases::{Phase, Phases};
use crate::store::changes::ChangeRow;
use crate::store::outbox::OutboxRow;
use crate::store::progress::{BatchRow, ProgressRow, Renamed, Times};
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::store::write_transaction::WriteTransaction;
use crate::wire;

/// All that a decided group still writes.
pub(crate) struct Decided {
    pub(super) now: Micros,
    pub(super) effects: Effects,
    /// Rows of new files that have arrived, with the token that the database holds.
    pub(super) arrived: Vec<(Token, WorkRow)>,
    pub(super) folders: Vec<(BatchRef, u32, FolderCounts)>,
    pub(super) batches: DecidedBatches,
    /// With the revision that the database holds.
    pub(super) tenants: Vec<(u64, TenantRow)>,
    pub(super) outbox: Vec<OutboxRow>,
    pub(crate) relayed: Vec<u64>,
    pub(super) moved: Vec<FileMoved>,
    pub(super) phases: Phases,
}

/// What is written of batches.
#[derive(Default)]
pub(super) struct DecidedBatches {
    pub(super) made: Vec<(ProgressRow, BatchRow)>,
    pub(super) changed: Vec<ProgressRow>,
    pub(super) paused: Vec<ProgressRow>,
    pub(super) renamed: Vec<(BatchRef, Renamed)>,
    pub(super) times: Vec<Times>,
    pub(super) changes: Vec<ChangeRow>,
    pub(super) hints: Vec<(BatchRef, u64)>,
}

impl Group<'_> {
    pub(super) async fn conclude<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        folders: Vec<(BatchRef, u32, FolderCounts)>,
    ) -> Result<Decided, GroupError> {
        let touched = self.rows.touched_batches();
        let tenants: BTreeSet<TenantId> = touched.iter().map(|batch| batch.tenant).collect();
        self.load_tenants(transaction, tenants.clone()).await?;
        let mut held = FxHashMap::default();
        for tenant in &tenants {
            let row = self.rows.tenant(*tenant).ok_or(GroupError::Stale)?;
            held.insert(*tenant, row.revision);
        }
        let mut batches = DecidedBatches::default();
        for key in touched {
            let tenant = self.rows.tenant_mut(key.tenant)?;
            tenant.revision += 1;
            let revision = tenant.revision;
            batches.take(self.rows.batch_mut(key)?, revision, self.now);
        }
        let tenants = tenants.into_iter().filter_map(|tenant| {
            let row = self.rows.tenant(tenant)?;
            Some((*held.get(&tenant)?, row.clone()))
        });
        let tenants = tenants.collect();
        let known = &mut self.memory.known;
        for (key, batch) in self.rows.batches() {
            known.batches.insert(*key, batch.row.clone());
        }
        for row in self.rows.tenants() {
            known.tenants.insert(row.tenant, row.clone());
            self.memory.dispatcher.set_tenant(row);
        }
        for (batch, folder, counts) in &folders {
            known.folders.insert((*batch, *folder), *counts);
        }
        let mut decided = Decided {
            now: self.now,
            arrived: self.rows.arrived(),
            folders,
            batches,
            tenants,
            outbox: self.outbox_rows(),
            relayed: Vec::new(),
            moved: self.moved_files(),
            effects: self.effects.take_written(),
            phases: std::mem::replace(&mut self.phases, Phases::begin()),
        };
        decided.phases.ended(Phase::Conclude);
        Ok(decided)
    }

    /// What became of each file of the group, for the leases that are granted from memory.
    fn moved_files(&self) -> Vec<FileMoved> {
        let mut moved = Vec::new();
        for loaded in self.rows.loaded_files() {
            let (first, row) = (loaded.first, &loaded.row);
            let is_out = row.dispatched_at.is_some();
            if is_out && first == row.token {
                continue;
            }
            let begun = self.memory.known.pending.get(&row.file);
            moved.push(FileMoved {
                file: row.file,
                from: first,
                to: row.token,
                out: is_out.then(|| self.granted(row)),
                begun: begun
                    .filter(|pending| is_out && pending.row.token == first)
                    .map(|pending| Arc::clone(&pending.declared)),
            });
        }
        moved
    }

    fn outbox_rows(&mut self) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        for ((stage, lane), files) in std::mem::take(&mut self.outgoing.dispatches) {
            // A file sent twice in one group (released, then admitted) goes out under its last token alone.
            let is_current = |(file, token): &(FileRef, Token)| {
                let row = self.rows.file(*file);
                row.is_none_or(|row| row.token == *token && row.dispatched_at.is_some())
            };
            let current: Vec<(FileRef, Token)> = files.into_iter().filter(is_current).collect();
            if current.is_empty() {
                continue;
            }
            let body = wire::dispatches(&current, lane, self.now);
            let id = self.memory.next_outbox_id();
            rows.push(OutboxRow { id, stage, body });
        }
        rows
    }
}

impl DecidedBatches {
    /// A batch as its group leaves it (protocol 14.1: the state is a function of the row, computed here and nowhere else).
    fn take(&mut self, batch: &mut LoadedBatch, tenant_revision: u64, now: Micros) {
        let row = &mut batch.row;
        let key = row.key();
        let before = row.state;
        if !planted!(StateNotDerived) {
            row.state = BatchState::derive(&row.facts);
        }
        if !planted!(RunNotCounted) {
            row.run = run_after(before, row.state, row.run);
        }
        row.uploads_open = row.facts.counts.pending + row.facts.counts.uploading > 0;
        // Nothing is missing: what is asked for later has its time.
        row.missing_fails &= row.uploads_open || planted!(MissingFailsKept);
        row.changed_at = now;
        row.revision += 1;
        if batch.completed || before.is_ended() != row.state.is_ended() {
            self.times.push(Times {
                batch: key,
                completed_at: batch.completed.then_some(now),
                ended_at: row.state.is_ended().then_some(now),
            });
        }
        let mut body = std::mem::take(&mut batch.changes);
        body.batch = Some(wire::progress(row));
        self.changes.push(ChangeRow {
            key,
            revision: tenant_revision,
            batch_revision: row.revision,
            count: u32::try_from(body.ordinal.len()).unwrap_or(u32::MAX),
            body: body.encode_to_vec(),
        });
        self.hints.push((key, row.revision));
        if batch.pause_moved {
            self.paused.push(row.clone());
        }
        if let Some(renamed) = &batch.renamed {
            self.renamed.push((key, renamed.clone()));
        }
        match batch.made.take() {
            Some(made) => self.made.push((row.clone(), made)),
            None => self.changed.push(row.clone()),
        }
    }
}
