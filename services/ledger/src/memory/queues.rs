//! Whose turn comes when at each stage, for those who ask how long they wait. The dispatcher draws it up once a second.

use std::time::Duration;

use caudal_domain::{BatchRef, Stage};
use rustc_hash::{FxHashMap, FxHashSet};

use super::costs::Cost;

/// Batches at a stage whose places are told; of those beyond nothing is known.
pub(crate) const MOST_BATCHES: usize = 10_000;

/// What comes before the next file of a batch that has none out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Batches of other tenants that have files out, or whose turn comes first.
    pub(crate) others: u32,
    /// Of its own tenant.
    pub(crate) own: u32,
    /// How long that takes, by what such files lately took; `None` where that is not known.
    pub(crate) about: Option<Duration>,
}

/// What is known of a stage.
#[derive(Debug, Default)]
pub(crate) struct StageQueues {
    /// Batches that have files out.
    pub(crate) out: FxHashSet<BatchRef>,
    /// Batches that wait, those that have files out too.
    pub(crate) waiting: FxHashMap<BatchRef, Place>,
    /// Batches of which some wait and nothing is known.
    pub(crate) untold: bool,
    /// What is out, and may be, by what it is expected to take; `None` while no process has told its slots.
    pub(crate) out_cost: Cost,
    pub(crate) window: Option<Cost>,
    /// Bytes of the largest files of a class, and what such files lately took.
    pub(crate) costs: Vec<(u64, Cost)>,
    /// Those that wait, by the weight of their tenants.
    pub(crate) by_weight: [WaitingBatches; WEIGHTS.len()],
}

/// Batches that wait for a turn at a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitingBatches {
    pub(crate) batches: u32,
    /// For how long the one that has waited longest has had none.
    pub(crate) longest: Duration,
}

/// Classes of tenants: those of the usual weight, those of some more, and the heaviest; the lightest of each.
pub(crate) const WEIGHTS: [u64; 3] = [1, 2, 10];
/// The same as metrics name them.
pub(crate) const WEIGHT_NAMES: [&str; 3] = ["1", "2-9", "10-100"];

/// All stages.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(crate) stages: FxHashMap<Stage, StageQueues>,
}

impl Queues {
    /// Whether a batch has files out at a stage, or waiting for it. Where not all is known it may have.
    pub(crate) fn has_files(&self, stage: Stage, batch: BatchRef) -> bool {
        self.stages.get(&stage).is_some_and(|queues| {
            queues.untold || queues.out.contains(&batch) || queues.waiting.contains_key(&batch)
        })
    }

    /// What may be out at a stage, by the time that it takes of slots.
    pub(crate) fn window(&self, stage: Stage) -> Option<Duration> {
        let window = self.stages.get(&stage)?.window?;
        Some(Duration::from_micros(window.unsigned_abs()))
    }

    /// What is out there.
    pub(crate) fn out_time(&self, stage: Stage) -> Duration {
        let out = self.stages.get(&stage).map_or(0, |queue| queue.out_cost);
        Duration::from_micros(out.max(0).unsigned_abs())
    }

    /// Where a batch waits for its turn, and its place there; `None` while a file of it is out anywhere, or none waits.
    pub(crate) fn place(&self, batch: BatchRef) -> Option<(Stage, Place)> {
        let mut stages = self.stages.values();
        if stages.any(|queues| queues.out.contains(&batch)) {
            return None;
        }
        Stage::ALL.into_iter().find_map(|stage| {
            let place = self.stages.get(&stage)?.waiting.get(&batch)?;
            Some((stage, *place))
        })
    }
}
