//! Rows of batches, tenants, folders and new files as the last group left them. The writer is the only one who changes
//! them, so it need not read them again; the guard of each update (the revision or the token that was known) says when that
//! is not so. Bounded, and all of it can be read from the database again.

use std::sync::Arc;

use caudal_domain::{BatchRef, FileRef, FolderCounts, TenantId};
use rustc_hash::FxHashMap;

use super::lease_cache::Declared;
use crate::store::progress::ProgressRow;
use crate::store::tenants::TenantRow;
use crate::store::work::WorkRow;

/// Batches and tenants remembered; beyond it the memory is emptied and filled anew.
const BATCHES: usize = 10_000;
/// Folders remembered.
const FOLDERS: usize = 200_000;
/// New files remembered until they arrive: those beyond it are read.
const PENDING: usize = 16_384;
/// Bytes of a caller's metadata up to which a new file is remembered.
const PENDING_METADATA: usize = 1_024;

/// A file that was added and has not arrived.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) row: WorkRow,
    pub(crate) declared: Arc<Declared>,
}

#[derive(Default)]
pub(crate) struct Known {
    pub(crate) batches: FxHashMap<BatchRef, ProgressRow>,
    pub(crate) tenants: FxHashMap<TenantId, TenantRow>,
    pub(crate) folders: FxHashMap<(BatchRef, u32), FolderCounts>,
    pub(crate) pending: FxHashMap<FileRef, Pending>,
}

impl Known {
    /// Makes room. Only while no group is in flight: what that one decided stands nowhere else yet.
    pub(crate) fn make_room(&mut self) {
        if self.batches.len() > BATCHES || self.tenants.len() > BATCHES {
            self.batches.clear();
            self.tenants.clear();
        }
        if self.folders.len() > FOLDERS {
            self.folders.clear();
        }
    }

    /// Remembers files that a committed group has added, as far as there is room.
    pub(crate) fn added(&mut self, files: Vec<Pending>) {
        for file in files {
            let metadata = file.declared.metadata.as_ref().map_or(0, String::len);
            if self.pending.len() < PENDING && metadata <= PENDING_METADATA {
                self.pending.insert(file.row.file, file);
            }
        }
    }

    /// What is remembered may not be what the database holds.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}
