//! Rows of batches, tenants and folders as the last group left them. The writer is the only one who changes them, so it
//! need not read them again; the guard of each update (the revision that was known) says when that is not so. Bounded, and
//! all of it can be read from the database again.

use std::collections::HashMap;

use caudal_domain::{FolderCounts, TenantId};

use crate::store::progress::{BatchKey, ProgressRow, TenantRow};

/// Batches and tenants remembered; beyond it the memory is emptied and filled anew.
const BATCHES: usize = 10_000;
/// Folders remembered.
const FOLDERS: usize = 200_000;

#[derive(Default)]
pub(crate) struct Known {
    pub(super) batches: HashMap<BatchKey, ProgressRow>,
    pub(super) tenants: HashMap<TenantId, TenantRow>,
    pub(super) folders: HashMap<(BatchKey, u32), FolderCounts>,
}

impl Known {
    /// Makes room. Only while no group is in flight: what that one decided stands nowhere else yet.
    pub(super) fn make_room(&mut self) {
        if self.batches.len() > BATCHES || self.tenants.len() > BATCHES {
            self.batches.clear();
            self.tenants.clear();
        }
        if self.folders.len() > FOLDERS {
            self.folders.clear();
        }
    }

    /// What is remembered may not be what the database holds.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
