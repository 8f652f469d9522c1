//! What the ledger's memory learns when a group ends.

use std::collections::BTreeMap;

use caudal_domain::{BatchRef, FileRef, Stage, StageVersion, Token};
use rustc_hash::FxHashSet;

use super::effects::{Effects, Outgoing};
use super::rows::{LoadedBatch, Rows};
use crate::memory::known::Pending;
use crate::memory::{Memory, Waiting};
use crate::store::stages::StageRow;
use crate::store::time::Micros;
use crate::store::work::WorkRow;

/// The difference that a group makes to memory, and what is taken back of it when the group is not committed.
pub(crate) struct MemoryDelta {
    rows: Vec<WorkRow>,
    added: Vec<Pending>,
    /// Batches whose manifests grew.
    manifests: Vec<BatchRef>,
    entered: Vec<(FileRef, Token)>,
    left: Vec<(FileRef, Token)>,
    requeue: Vec<Waiting>,
    turns: Vec<Waiting>,
    new_versions: Vec<(u32, StageVersion)>,
    seen_versions: Vec<(u32, StageVersion)>,
    newest_versions: BTreeMap<Stage, u32>,
    stages: Vec<StageRow>,
    dimensions: Vec<(u32, u32)>,
    priorities: Vec<(BatchRef, u32)>,
    now: Micros,
}

impl MemoryDelta {
    pub(super) fn of(now: Micros, rows: Rows, effects: Effects, outgoing: Outgoing) -> Self {
        let (rows, batches) = rows.into_rows();
        let grown = batches.iter().filter(|batch| batch.grown);
        let manifests = grown.map(|batch| batch.row.key()).collect();
        let reweighed = batches.iter().filter(|batch| {
            let renamed = batch.renamed.as_ref();
            renamed.is_some_and(|renamed| renamed.priority.is_some())
        });
        let weight = |batch: &LoadedBatch| (batch.row.key(), batch.row.priority);
        Self {
            priorities: reweighed.map(weight).collect(),
            manifests,
            rows,
            added: effects.added,
            entered: outgoing.entered,
            left: outgoing.left,
            requeue: outgoing.requeue,
            turns: outgoing.turns,
            new_versions: effects.new_versions,
            seen_versions: effects.seen_versions,
            newest_versions: effects.newest_versions,
            stages: effects.stages,
            dimensions: effects.dimensions,
            now,
        }
    }

    /// The files that the group holds: the next one must not touch them, until this one has ended.
    pub(super) fn files(&self) -> FxHashSet<FileRef> {
        self.rows.iter().map(|row| row.file).collect()
    }

    /// The batches whose manifests the group grew.
    pub(super) fn manifests(&self) -> &[BatchRef] {
        &self.manifests
    }

    /// Whether the group gave numbers to stage versions.
    pub(super) fn numbers_versions(&self) -> bool {
        !self.new_versions.is_empty()
    }

    /// Whether the group said how long the vectors of a stage version are.
    pub(super) fn sets_dimensions(&self) -> bool {
        !self.dimensions.is_empty()
    }

    /// Whether the group saw a newer version of a stage than any before it.
    pub(super) fn moves_newest(&self) -> bool {
        !self.newest_versions.is_empty()
    }

    /// The group is committed.
    pub(super) fn committed(self, memory: &mut Memory) {
        for (file, token) in self.left {
            memory.dispatcher.leave(file, token);
        }
        for row in self.rows {
            memory.known.pending.remove(&row.file);
            memory.dispatcher.remember(row);
        }
        memory.known.added(self.added);
        for (number, version) in self.new_versions.into_iter().chain(self.seen_versions) {
            memory.versions.insert(version, number);
        }
        if let Some(newest) = &mut memory.newest_versions {
            newest.extend(self.newest_versions);
        }
        for row in self.stages {
            memory.learn_stage(row);
        }
        for (number, dimensions) in self.dimensions {
            memory.learn_dimensions(number, dimensions);
        }
        for (batch, weight) in self.priorities {
            memory.dispatcher.reweigh(batch, weight);
        }
        // A group that decided meanwhile may have taken their batch off the queue.
        for waiting in self.requeue {
            memory.dispatcher.enqueue(waiting, self.now);
        }
    }

    /// COMMIT got no answer. Neither the old pairs nor the new ones leave: the reconciler looks at the rows (protocol 2.1).
    pub(super) fn unknown(self, memory: &mut Memory) {
        if planted!(PlaceFreedAtUnknownCommit) {
            for (file, token) in &self.entered {
                memory.dispatcher.leave(*file, *token);
            }
        }
        if !planted!(StaleMemoryTrusted) {
            memory.forget();
        }
        if !self.newest_versions.is_empty() {
            memory.newest_versions = None;
        }
        let sets_stages = !self.stages.is_empty() && !planted!(StageNotReadAgain);
        memory.stages_unread |= sets_stages || !self.dimensions.is_empty();
        if !planted!(LeasesKeptAtUnknownCommit) {
            memory.leases.forget(self.rows.iter().map(|row| row.file));
        }
        for row in self.rows {
            if planted!(StaleMemoryTrusted) {
                memory.dispatcher.remember(row);
                continue;
            }
            memory.dispatcher.forget(row.file);
        }
        for waiting in self.requeue.into_iter().chain(self.turns) {
            memory.dispatcher.enqueue(waiting, self.now);
        }
    }

    /// Nothing of the group happened.
    pub(super) fn undone(self, memory: &mut Memory) {
        for (file, token) in &self.entered {
            memory.dispatcher.leave(*file, *token);
        }
        self.unknown(memory);
    }
}
