//! What was loaded for the verbs of a group.

use std::collections::HashMap;

use caudal_domain::{BatchRef, FileRef, Generation, Stage, StageVersion, TenantId, Token};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use super::needs::Range;
use crate::store::manifest::{FolderRow, KnownFile};
use crate::store::operations::OperationRow;
use crate::store::requests::{AnsweredRequest, RequestName};
use crate::store::results::{ResultRow, TenantContent, Trace};
use crate::store::tenancy::{Open, Tenancy, TenancyNeeds};
use crate::store::time::Micros;
use crate::store::tus::TusRow;
use crate::store::work::WorkRow;

/// Results of a file that holds some content, as they were when the group began. Its row is locked until the group ends.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: FileRef,
    pub(super) generation: Generation,
    pub(super) results: Vec<ResultRow>,
}

/// What a batch has of the entries of pages.
#[derive(Debug, Default)]
pub(super) struct LoadedEntries {
    pub(super) folders: HashMap<String, FolderRow>,
    /// By number of the folder and name.
    pub(super) files: FxHashMap<u32, HashMap<String, KnownFile>>,
}

/// What was loaded beside files, batches and tenants. It does not change while the group is decided.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) answered: FxHashMap<RequestName, AnsweredRequest>,
    pub(super) entries: FxHashMap<BatchRef, LoadedEntries>,
    pub(super) sources: FxHashMap<TenantContent, Source>,
    pub(super) results: FxHashMap<(FileRef, Generation), Vec<ResultRow>>,
    pub(super) recorded: FxHashSet<(Trace, FileRef, Token)>,
    pub(super) ranges: FxHashMap<Range, Vec<WorkRow>>,
    /// All stage versions, where one of them was not known from memory.
    pub(super) versions: Option<Vec<(u32, StageVersion)>>,
    pub(super) operations: FxHashMap<(TenantId, Uuid), OperationRow>,
    pub(super) tus: FxHashMap<(TenantId, Uuid), TusRow>,
    pub(super) tenancy: FxHashMap<TenancyNeeds, Tenancy>,
    pub(super) open: FxHashMap<(TenantId, Open), u64>,
    pub(super) looked_up: FxHashMap<FileRef, WorkRow>,
    pub(super) oldest_outbox: HashMap<Stage, Micros>,
}

impl Loaded {
    /// The rows of a piece of a batch.
    pub(super) fn rows_of(&self, range: Range) -> &[WorkRow] {
        self.ranges.get(&range).map_or(&[], Vec::as_slice)
    }

    /// What is known of what a verb named.
    pub(super) fn tenancy_of(&self, needs: &TenancyNeeds) -> Tenancy {
        self.tenancy.get(needs).cloned().unwrap_or_default()
    }
}
