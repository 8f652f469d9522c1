//! Which folders stand above a folder. It never changes, so it is read once; the memory for it is bounded.

use std::collections::HashMap;

use crate::store::progress::BatchKey;

/// Folders remembered; beyond it the memory is emptied and learnt anew.
const REMEMBERED: usize = 200_000;

/// Ancestors by batch and folder, root first.
#[derive(Default)]
pub(super) struct Ancestors {
    of: HashMap<(BatchKey, u32), Vec<u32>>,
}

impl Ancestors {
    pub(super) fn knows(&self, place: (BatchKey, u32)) -> bool {
        self.of.contains_key(&place)
    }

    /// The folders above, root first; empty for the root and for what is not known.
    pub(super) fn of(&self, place: (BatchKey, u32)) -> &[u32] {
        self.of.get(&place).map_or(&[], Vec::as_slice)
    }

    /// What was learnt of folders that may not exist.
    pub(super) fn forget(&mut self) {
        self.of.clear();
    }

    pub(super) fn learn(&mut self, place: (BatchKey, u32), ancestors: Vec<u32>) {
        if self.of.len() >= REMEMBERED {
            self.of.clear();
        }
        self.of.insert(place, ancestors);
    }
}
