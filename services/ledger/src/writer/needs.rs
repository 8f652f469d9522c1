//! Which rows verbs need: said before they are decided, and loaded for all verbs of a group at once.

use std::sync::Arc;

use caudal_domain::{BatchRef, FileRef, Stage, StageVersion, TenantId, Token};
use uuid::Uuid;

use super::manifest_page::ManifestPage;
use crate::store::requests::RequestName;
use crate::store::results::{TenantContent, Trace};
use crate::store::tenancy::{Open, TenancyNeeds};
use crate::store::work::WorkRow;

/// What one verb needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// What it was answered before.
    pub(crate) request: Option<RequestName>,
    /// Rows of files, locked.
    pub(crate) files: Vec<FileRef>,
    /// A batch, beside those of its files.
    pub(crate) batch: Option<BatchRef>,
    /// A tenant, beside those of its batches.
    pub(crate) tenant: Option<TenantId>,
    /// What the batch has of the entries of a manifest page.
    pub(crate) page: Option<Arc<ManifestPage>>,
    /// Results of files that hold these contents (protocol 13.3).
    pub(crate) contents: Vec<TenantContent>,
    /// What was recorded of those of these pairs that are not current any more, and the results of the generation of those
    /// that are.
    pub(crate) reported: Vec<(FileRef, Token, Trace)>,
    /// The results of those of its files that are PROCESSED.
    pub(crate) results_of_processed: bool,
    /// A piece of a batch.
    pub(crate) range: Option<Range>,
    /// The number of a stage version.
    pub(crate) version: Option<StageVersion>,
    /// What operators set for a stage, as it is while no group is in flight.
    pub(crate) stage: Option<Stage>,
    /// An operation, locked.
    pub(crate) operation: Option<(TenantId, Uuid)>,
    /// An upload through gateways, locked.
    pub(crate) tus: Option<(TenantId, Uuid)>,
    /// What is known of tenants and keys. Beside a page of a manifest: the upload token it came with.
    pub(crate) tenancy: Option<TenancyNeeds>,
    /// How many batches the tenant has open, or operations under way.
    pub(crate) open_of: Option<(TenantId, Open)>,
    /// Rows as they are while no dispatch is in flight (protocol 2.3), and the oldest rows of the outbox.
    pub(crate) looked_up: Option<Vec<FileRef>>,
}

/// Rows of a batch from an ordinal on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) batch: BatchRef,
    pub(crate) from: u32,
    pub(crate) limit: u32,
}

/// Files of a batch that one verb looks at to end them. Each may stand in sixty folders of its own, whose counters move with
/// it: then a slice is some half a second of work.
pub(super) const SLICE: u32 = 500;

impl Range {
    /// The slice of a batch from an ordinal on.
    pub(crate) fn slice(batch: BatchRef, from: u32) -> Self {
        Self {
            batch,
            from,
            limit: SLICE,
        }
    }

    /// How many rows it has at most.
    pub(super) fn rows(&self) -> usize {
        self.limit as usize
    }

    /// What a verb over it needs.
    pub(super) fn needs(self) -> Needs {
        Needs {
            batch: Some(self.batch),
            range: Some(self),
            ..Needs::default()
        }
    }

    /// Where the next one begins, after these rows of this one; `None`: there are no more.
    pub(crate) fn next(&self, rows: &[WorkRow]) -> Option<u32> {
        let last = rows.last()?;
        let full = rows.len() >= self.rows();
        full.then(|| last.file.ordinal.saturating_add(1))
    }
}

impl Needs {
    /// Those of a verb that answers a request about a batch.
    pub(crate) fn of_batch(batch: BatchRef, request: RequestName) -> Self {
        Self {
            request: Some(request),
            batch: Some(batch),
            ..Self::default()
        }
    }

    /// Those of a verb about files.
    pub(crate) fn of_files(files: Vec<FileRef>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// Whether it looks for rows of files that it does not name.
    pub(crate) fn looks_for_rows(&self) -> bool {
        self.range.is_some() || self.looked_up.is_some() || self.changes_tenancy()
    }

    /// Whether it changes tenants or keys: such verbs are decided one after the other, each on what is committed.
    pub(crate) fn changes_tenancy(&self) -> bool {
        self.tenancy.is_some() && self.page.is_none()
    }

    /// The batch whose manifest it may grow.
    pub(crate) fn grows(&self) -> Option<BatchRef> {
        self.batch.filter(|_| self.page.is_some())
    }
}
