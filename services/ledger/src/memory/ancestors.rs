//! Which folders stand above a folder. It never changes, so it is read once; the memory for it is bounded.

use caudal_domain::BatchRef;
use rustc_hash::FxHashMap;

/// Folders remembered between groups; beyond it the memory is emptied and learnt anew.
const REMEMBERED: usize = 200_000;

/// Ancestors by batch and folder, root first.
#[derive(Default)]
pub(crate) struct Ancestors {
    of: FxHashMap<(BatchRef, u32), Vec<u32>>,
}

impl Ancestors {
    pub(crate) fn knows(&self, place: (BatchRef, u32)) -> bool {
        self.of.contains_key(&place)
    }

    /// The folders above, root first; empty for the root and for what is not known.
    pub(crate) fn of(&self, place: (BatchRef, u32)) -> &[u32] {
        self.of.get(&place).map_or(&[], Vec::as_slice)
    }

    /// What was learnt of folders that may not exist.
    pub(crate) fn forget(&mut self) {
        self.of.clear();
    }

    /// What is learnt stays until the next [`Ancestors::make_room`], so that a group finds all that it needs.
    pub(crate) fn learn(&mut self, place: (BatchRef, u32), ancestors: Vec<u32>) {
        self.of.insert(place, ancestors);
    }

    /// Forgets everything if it is too much. To be called before a group learns what it needs.
    pub(crate) fn make_room(&mut self) {
        if self.of.len() >= REMEMBERED {
            self.of.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use caudal_domain::{BatchId, TenantId};
    use uuid::Uuid;

    use super::*;

    // A folder that is forgotten between the look and the use would be counted without those above it.
    #[test]
    fn what_a_group_has_learnt_is_not_forgotten_before_it_is_used() {
        let nil = Uuid::nil();
        let key = BatchRef::new(TenantId::from_uuid(nil), BatchId::from_uuid(nil));
        let mut ancestors = Ancestors::default();
        for folder in 0..=200_000 {
            ancestors.learn((key, folder), vec![0]);
        }
        assert_eq!(ancestors.of((key, 1)), [0]);
        ancestors.make_room();
        assert!(!ancestors.knows((key, 1)));
    }
}
