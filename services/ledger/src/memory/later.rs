//! Batches with files that are not ready yet.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use caudal_domain::{BatchRef, Stage};
use rustc_hash::FxHashMap;

use crate::store::time::Micros;

/// Of each batch at each stage the earliest time alone, however many files wait. The next time is read when the batch has had
/// its turn and ran dry.
#[derive(Default)]
pub(super) struct Later {
    times: BTreeSet<(Micros, Stage, BatchRef)>,
    /// When, and with which weight.
    earliest: FxHashMap<(Stage, BatchRef), (Micros, u32)>,
}

impl Later {
    pub(super) fn add(&mut self, stage: Stage, key: BatchRef, weight: u32, at: Micros) {
        match self.earliest.entry((stage, key)) {
            Entry::Occupied(known) if known.get().0 <= at => return,
            Entry::Occupied(mut known) => {
                let (later, _) = known.insert((at, weight));
                self.times.remove(&(later, stage, key));
            }
            Entry::Vacant(new) => {
                new.insert((at, weight));
            }
        }
        self.times.insert((at, stage, key));
    }

    pub(super) fn next(&self) -> Option<Micros> {
        self.times.first().map(|(at, ..)| *at)
    }

    /// One whose time has come.
    pub(super) fn take(&mut self, now: Micros) -> Option<(Stage, BatchRef, u32)> {
        let (at, stage, key) = *self.times.first()?;
        if at > now {
            return None;
        }
        self.times.pop_first();
        let (_, weight) = self.earliest.remove(&(stage, key))?;
        Some((stage, key, weight))
    }

    pub(super) fn reweigh(&mut self, key: BatchRef, weight: u32) {
        for stage in Stage::ALL {
            if let Some((_, known)) = self.earliest.get_mut(&(stage, key)) {
                *known = weight;
            }
        }
    }

    /// Batches at stages that are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.times.len().max(self.earliest.len())
    }
}
