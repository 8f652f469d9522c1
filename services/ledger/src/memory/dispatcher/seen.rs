//! What the simulation sees of a dispatcher: numbers alone, so that what it does is judged by other words than its own.

use std::collections::BTreeMap;

use caudal_domain::{FileRef, Stage, TenantId, Token};
use rustc_hash::FxHashMap;

use super::{Dispatcher, Set};
use crate::memory::costs::Cost;
use crate::store::stages::StageRow;

/// A dispatcher at one moment.
pub(crate) struct Seen {
    /// What is out: where, and what it was expected to take.
    pub(crate) out: FxHashMap<(FileRef, Token), (Stage, Cost)>,
    pub(crate) stages: BTreeMap<Stage, SeenStage>,
    /// Weights of tenants that are other than one.
    pub(crate) weights: FxHashMap<TenantId, u32>,
}

/// One stage of it.
#[derive(Default)]
pub(crate) struct SeenStage {
    /// What it counts as out.
    pub(crate) files: u32,
    pub(crate) cost: Cost,
    pub(crate) long: u32,
    /// Slots that processes told of, of which operators may allow fewer.
    pub(crate) slots: Option<u32>,
    pub(crate) paused: bool,
    pub(crate) max_files: Option<u32>,
    /// Tenants that wait.
    pub(crate) waiting: Vec<TenantId>,
    /// Batches wait for a slot that has no long work.
    pub(crate) is_long_waited_for: bool,
}

impl Dispatcher {
    pub(crate) fn seen(&self) -> Seen {
        let out = self.outstanding.iter();
        let stages = self.stages.iter().map(|(stage, queue)| {
            let set = self.set.get(stage).copied().unwrap_or_default();
            let told = self.crew.slots(*stage);
            let seen = SeenStage {
                files: queue.out.files,
                cost: queue.out.cost,
                long: queue.out.long,
                slots: told.map(|told| told.min(set.max_slots.unwrap_or(told))),
                paused: set.paused,
                max_files: set.max_files,
                waiting: queue.ring.iter().copied().collect(),
                is_long_waited_for: !queue.parked.is_empty(),
            };
            (*stage, seen)
        });
        Seen {
            out: out
                .map(|(pair, out)| (*pair, (out.stage, out.cost)))
                .collect(),
            stages: stages.collect(),
            weights: self.shares.clone(),
        }
    }

    /// Whether it goes by what operators set.
    pub(crate) fn goes_by(&self, row: &StageRow) -> bool {
        let Set {
            paused,
            max_slots,
            max_files,
        } = self.set.get(&row.stage).copied().unwrap_or_default();
        let set = (paused, max_slots, max_files);
        set == (row.pause.is_some(), row.max_slots, row.max_files)
    }
}
