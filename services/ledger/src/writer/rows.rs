//! The rows that a group holds: files, batches and tenants as they are moved in memory, until they are written.

use std::collections::BTreeMap;

use caudal_domain::{
    BatchRef, FileRef, FileState, FolderCounts, Generation, Stage, TenantId, Token,
};
use caudal_proto::mesh::v1::ChangeSet;
use rustc_hash::FxHashMap;

use super::error::GroupError;
use crate::store::progress::{BatchRow, ProgressRow, Renamed};
use crate::store::tenants::TenantRow;
use crate::store::time::Micros;
use crate::store::work::{Moved, WorkRow, detail};

/// A file of the group.
#[derive(Debug)]
pub(super) struct LoadedFile {
    /// The token it came in with.
    pub(super) first: Token,
    /// The token the database holds.
    held: Token,
    pub(super) row: WorkRow,
    touched: bool,
    /// Etag, target or generation moved too.
    bytes_moved: bool,
    /// It came in without bytes, and never had any: nobody takes its results over, so nobody else wants its row.
    new: bool,
}

impl LoadedFile {
    fn is_left_to_the_second_half(&self) -> bool {
        self.bytes_moved && self.new
    }
}

/// A batch of the group.
#[derive(Debug)]
pub(super) struct LoadedBatch {
    pub(super) row: ProgressRow,
    /// The row as it is to be inserted, when the batch is made in this group.
    pub(super) made: Option<BatchRow>,
    pub(super) touched: bool,
    pub(super) completed: bool,
    /// Entries were added.
    pub(super) grown: bool,
    pub(super) pause_moved: bool,
    /// What a caller changed of the cold row.
    pub(super) renamed: Option<Renamed>,
    pub(super) changes: ChangeSet,
    pub(super) folders: FxHashMap<u32, FolderDelta>,
}

impl LoadedBatch {
    fn new(row: ProgressRow, made: Option<BatchRow>) -> Self {
        Self {
            row,
            made,
            touched: false,
            completed: false,
            grown: false,
            pause_moved: false,
            renamed: None,
            changes: ChangeSet::default(),
            folders: FxHashMap::default(),
        }
    }

    /// A folder as it stands now, for watchers.
    pub(super) fn show_folder(&mut self, folder: u32, counts: FolderCounts) {
        let changes = &mut self.changes;
        changes.folder.push(folder);
        changes.folder_total.push(counts.total);
        changes.folder_processed.push(counts.processed);
        changes.folder_failed.push(counts.failed);
        changes.folder_cancelled.push(counts.cancelled);
        self.touched = true;
    }

    fn show_file(&mut self, ordinal: u32, from: u8, to: u8, stage: Stage, detail: u32) {
        let changes = &mut self.changes;
        changes.ordinal.push(ordinal);
        changes.from.push(u32::from(from));
        changes.to.push(u32::from(to));
        changes.stage.push(u32::from(stage.code()));
        changes.detail.push(detail);
        self.touched = true;
    }
}

/// How the counters of a folder move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FolderDelta {
    pub(super) total: i64,
    processed: i64,
    failed: i64,
    cancelled: i64,
}

impl FolderDelta {
    fn of(from: FileState, to: FileState) -> Self {
        let by = |state| i64::from(to == state) - i64::from(from == state);
        Self {
            total: 0,
            processed: by(FileState::Processed),
            failed: by(FileState::Failed),
            cancelled: by(FileState::Cancelled),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.total += other.total;
        self.processed += other.processed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
    }

    pub(super) fn apply(self, counts: FolderCounts) -> Result<FolderCounts, GroupError> {
        let moved = |count: u32, by: i64| {
            u32::try_from(i64::from(count) + by).map_err(|_| {
                GroupError::defect(format!("a folder's counter would go from {count} by {by}"))
            })
        };
        Ok(FolderCounts {
            total: moved(counts.total, self.total)?,
            processed: moved(counts.processed, self.processed)?,
            failed: moved(counts.failed, self.failed)?,
            cancelled: moved(counts.cancelled, self.cancelled)?,
        })
    }
}

/// Pages of rows that are written by one statement each.
pub(super) type Unwritten<'a> = BTreeMap<Moved, Vec<(Token, &'a WorkRow)>>;

/// The rows of a group.
#[derive(Debug, Default)]
pub(super) struct Rows {
    files: FxHashMap<FileRef, LoadedFile>,
    batches: FxHashMap<BatchRef, LoadedBatch>,
    tenants: FxHashMap<TenantId, TenantRow>,
    /// How often anything was changed.
    changes: u64,
}

impl Rows {
    pub(super) fn reserve(&mut self, files: usize) {
        self.files.reserve(files);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn take_in(&mut self, row: WorkRow) {
        let loaded = LoadedFile {
            first: row.token,
            held: row.token,
            touched: false,
            bytes_moved: false,
            new: row.waits_for_bytes() && row.generation == Generation::FIRST,
            row,
        };
        self.files.insert(loaded.row.file, loaded);
    }

    pub(super) fn take_in_batch(&mut self, row: ProgressRow, made: Option<BatchRow>) {
        self.batches.insert(row.key(), LoadedBatch::new(row, made));
    }

    pub(super) fn take_in_tenant(&mut self, row: TenantRow) {
        self.tenants.insert(row.tenant, row);
    }

    pub(super) fn files(&self) -> impl Iterator<Item = FileRef> {
        self.files.keys().copied()
    }

    pub(super) fn loaded_files(&self) -> impl Iterator<Item = &LoadedFile> {
        self.files.values()
    }

    pub(super) fn into_rows(self) -> (Vec<WorkRow>, Vec<LoadedBatch>) {
        let rows = self.files.into_values().map(|loaded| loaded.row);
        (rows.collect(), self.batches.into_values().collect())
    }

    /// The row of a file of the group.
    pub(super) fn file(&self, file: FileRef) -> Option<&WorkRow> {
        self.files.get(&file).map(|loaded| &loaded.row)
    }

    /// The row of a file, if it is in the group and `token` is its current one.
    pub(super) fn current(&self, file: FileRef, token: Token) -> Option<&WorkRow> {
        self.file(file).filter(|row| row.token == token)
    }

    /// The row of a file of the group, to be changed.
    pub(super) fn file_mut(&mut self, file: FileRef) -> Result<&mut WorkRow, GroupError> {
        let loaded = self.files.get_mut(&file).ok_or(GroupError::Stale)?;
        self.changes += 1;
        loaded.touched = true;
        Ok(&mut loaded.row)
    }

    /// The etag, target or generation of a file is about to be moved.
    pub(super) fn bytes_mut(&mut self, file: FileRef) -> Result<&mut WorkRow, GroupError> {
        let loaded = self.files.get_mut(&file).ok_or(GroupError::Stale)?;
        self.changes += 1;
        loaded.touched = true;
        loaded.bytes_moved = true;
        Ok(&mut loaded.row)
    }

    /// The row of a batch of the group.
    pub(super) fn batch(&self, batch: BatchRef) -> Option<&ProgressRow> {
        self.batches.get(&batch).map(|loaded| &loaded.row)
    }

    pub(super) fn batches(&self) -> impl Iterator<Item = (&BatchRef, &LoadedBatch)> {
        self.batches.iter()
    }

    /// A batch of the group, to be changed.
    pub(super) fn batch_mut(&mut self, batch: BatchRef) -> Result<&mut LoadedBatch, GroupError> {
        self.changes += 1;
        self.batches.get_mut(&batch).ok_or(GroupError::Stale)
    }

    /// Whether entries were added to a batch in this group.
    pub(super) fn is_grown(&self, batch: BatchRef) -> bool {
        self.batches.get(&batch).is_some_and(|loaded| loaded.grown)
    }

    /// Whether a batch is being cancelled, or gone.
    pub(super) fn is_cancelled(&self, batch: BatchRef) -> bool {
        self.batch(batch)
            .is_none_or(|row| row.facts.cancel_requested)
    }

    pub(super) fn tenant(&self, tenant: TenantId) -> Option<&TenantRow> {
        self.tenants.get(&tenant)
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = &TenantRow> {
        self.tenants.values()
    }

    pub(super) fn tenant_mut(&mut self, tenant: TenantId) -> Result<&mut TenantRow, GroupError> {
        self.changes += 1;
        self.tenants.get_mut(&tenant).ok_or(GroupError::Stale)
    }

    /// Whether anything of this batch may go out now (protocol 1.1).
    pub(super) fn may_go_out(&self, batch: BatchRef) -> bool {
        let tenant_paused = self
            .tenant(batch.tenant)
            .is_some_and(|tenant| tenant.paused);
        self.batch(batch).is_some_and(|row| {
            let started = !row.starts_when_completed || row.facts.manifest_complete;
            let paused = (tenant_paused || row.pause.is_some()) && !planted!(PauseIgnored);
            !paused && !row.facts.cancel_requested && (started || planted!(StartIgnored))
        })
    }

    /// Moves a file to another state, and everything that counts it.
    pub(super) fn move_file(
        &mut self,
        file: FileRef,
        to: FileState,
        now: Micros,
    ) -> Result<(), GroupError> {
        let row = self.file_mut(file)?;
        let from = row.state;
        row.state = to;
        row.changed_at = now;
        let (stage, outcome, folder, size) = (row.stage, row.outcome, row.folder, row.size);
        // PENDING -> UPLOADING on the way to UPLOADED shows no detail of its own.
        let shown = if to == FileState::Uploading {
            detail(to, stage, None, None)
        } else {
            row.detail()
        };
        let batch = self.batch_mut(file.batch_ref())?;
        let facts = &mut batch.row.facts;
        facts.counts = facts.counts.moved(Some(from), Some(to))?;
        if to == FileState::Processed && planted!(CounterMovedTwice) {
            facts.counts = facts.counts.moved(None, Some(to))?;
        }
        if to == FileState::Processed {
            facts.counts = facts.counts.outcome_moved(None, outcome)?;
            batch.row.bytes_processed = batch.row.bytes_processed.saturating_add(size);
        }
        if to == FileState::Uploaded && !from.is_final() {
            batch.row.bytes_uploaded = batch.row.bytes_uploaded.saturating_add(size);
        }
        if from.is_final() || to.is_final() {
            let delta = FolderDelta::of(from, to);
            batch.folders.entry(folder).or_default().add(delta);
        }
        batch.show_file(file.ordinal, from.code(), to.code(), stage, shown);
        Ok(())
    }

    /// A file went on to another stage and stays PROCESSING.
    pub(super) fn show_hop(&mut self, file: FileRef, now: Micros) -> Result<(), GroupError> {
        let row = self.file_mut(file)?;
        row.changed_at = now;
        let (state, stage, shown) = (row.state.code(), row.stage, row.detail());
        let batch = self.batch_mut(file.batch_ref())?;
        batch.show_file(file.ordinal, state, state, stage, shown);
        Ok(())
    }

    /// Counts a file that enters the manifest.
    pub(super) fn count_new_file(&mut self, file: FileRef, folder: u32) -> Result<(), GroupError> {
        let batch = self.batch_mut(file.batch_ref())?;
        let counts = &mut batch.row.facts.counts;
        *counts = counts.moved(None, Some(FileState::Pending))?;
        batch.folders.entry(folder).or_default().total += 1;
        let pending = FileState::Pending.code();
        batch.show_file(file.ordinal, 0, pending, Stage::Upload, 0);
        Ok(())
    }

    fn is_due(loaded: &LoadedFile, all: bool) -> bool {
        loaded.touched && (all || !loaded.is_left_to_the_second_half())
    }

    /// Rows that changed since they were written. New files that have arrived are left to the second half, unless `all` are
    /// wanted because they are going to be read.
    pub(super) fn unwritten(&self, all: bool) -> Unwritten<'_> {
        let mut pages = Unwritten::new();
        for loaded in self
            .files
            .values()
            .filter(|loaded| Self::is_due(loaded, all))
        {
            pages
                .entry(Moved::of(&loaded.row, loaded.bytes_moved))
                .or_default()
                .push((loaded.held, &loaded.row));
        }
        for rows in pages.values_mut() {
            rows.sort_unstable_by_key(|(_, row)| row.file);
        }
        pages
    }

    /// Those rows were written.
    pub(super) fn written(&mut self, all: bool) {
        let due = self.files.values_mut();
        for loaded in due.filter(|loaded| Self::is_due(loaded, all)) {
            loaded.touched = false;
            loaded.bytes_moved = false;
            loaded.held = loaded.row.token;
        }
    }

    /// Rows that are left to the second half, in the order of their keys.
    pub(super) fn arrived(&self) -> Vec<(Token, WorkRow)> {
        let unwritten = self.files.values().filter(|loaded| loaded.touched);
        let mut arrived: Vec<(Token, WorkRow)> = unwritten
            .map(|loaded| (loaded.held, loaded.row.clone()))
            .collect();
        arrived.sort_unstable_by_key(|(_, row)| row.file);
        arrived
    }

    /// How the counters of folders move that files of this group stand in; given once.
    pub(super) fn take_folder_deltas(&mut self) -> BTreeMap<(BatchRef, u32), FolderDelta> {
        let mut deltas = BTreeMap::new();
        for (key, batch) in &mut self.batches {
            for (folder, delta) in std::mem::take(&mut batch.folders) {
                deltas.insert((*key, folder), delta);
            }
        }
        deltas
    }

    /// Batches that were changed, in the order of their keys.
    pub(super) fn touched_batches(&self) -> Vec<BatchRef> {
        let touched = self.batches.iter().filter(|(_, batch)| batch.touched);
        let mut touched: Vec<BatchRef> = touched.map(|(key, _)| *key).collect();
        touched.sort_unstable();
        touched
    }
}
