//! What callers ask of the writer, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{
    BatchId, FileRef, Outcome, Reason, Stage, StageSet, StageVersion, Target, TenantId, Token,
    Warning,
};
use uuid::Uuid;

use crate::store::changes::AnsweredRequest;
use crate::store::operations::OperationState;
use crate::store::results::{StoredArtifact, Used};
use crate::store::selection::Position;
use crate::store::time::Micros;
use crate::store::work::WorkRow;

/// Names a mutation so that a repeat gets the first answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestKey {
    pub(crate) id: Uuid,
    pub(crate) method: &'static str,
    /// sha256 of the encoded request.
    pub(crate) body_hash: [u8; 32],
}

impl RequestKey {
    /// As it is remembered with its answer.
    pub(crate) fn answered(&self, answer: Vec<u8>) -> AnsweredRequest {
        AnsweredRequest {
            method: self.method.to_owned(),
            body_hash: self.body_hash.to_vec(),
            answer,
        }
    }
}

/// Makes a batch.
#[derive(Clone, Debug)]
pub(crate) struct CreateBatch {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    pub(crate) name: String,
    pub(crate) options: String,
    pub(crate) metadata: Option<String>,
    pub(crate) priority: u32,
    pub(crate) stages: StageSet,
    pub(crate) starts_when_completed: bool,
    pub(crate) created_by: String,
}

/// One valid line of a manifest page.
#[derive(Clone, Debug)]
pub(crate) enum NewEntry {
    File(NewFile),
    Folder { path: String },
}

/// A valid file of a manifest page.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    /// Path of its folder; empty for the root.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) media_type_hint: Option<String>,
    pub(crate) metadata: Option<String>,
    pub(crate) modified_at: Option<Micros>,
}

/// Adds a page of the manifest.
#[derive(Clone, Debug)]
pub(crate) struct AddEntries {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    /// The caller may know this batch only: it learns what the tenant holds where the batch's options say so.
    pub(crate) knows_one_batch: bool,
    pub(crate) entries: Vec<NewEntry>,
    /// How many folders they imply.
    pub(crate) folders: usize,
    /// Bytes of their paths and of those of the folders.
    pub(crate) path_bytes: usize,
}

/// What became of a manifest page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AddedEntries {
    pub(crate) first_ordinal: u32,
    pub(crate) new_count: u32,
    /// One for each file of the page, in order.
    pub(crate) ordinals: Vec<u32>,
    /// (path, number) of the folders of the page.
    pub(crate) folders: Vec<(String, u32)>,
    /// Positions in the page of the files whose content the tenant holds: they need no upload.
    pub(crate) already_held: Vec<u32>,
}

/// Completes a manifest.
#[derive(Clone, Debug)]
pub(crate) struct CompleteBatch {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    pub(crate) missing_fails: bool,
    /// 0: not checked.
    pub(crate) expected_entries: u32,
}

/// Confirms uploads.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmUploads {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    pub(crate) uploads: Vec<ConfirmedUpload>,
}

/// Bytes that landed.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmedUpload {
    pub(crate) ordinal: u32,
    pub(crate) target: Target,
    pub(crate) etag: String,
}

/// Bytes that the store was found to hold.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmedFile {
    pub(crate) file: FileRef,
    pub(crate) target: Target,
    pub(crate) etag: String,
}

/// Pauses a batch, or lets it go on.
#[derive(Clone, Debug)]
pub(crate) struct SetPause {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    /// `None`: go on.
    pub(crate) pause: Option<NewPause>,
}

/// Who pauses a batch, and the words they leave.
#[derive(Clone, Debug)]
pub(crate) struct NewPause {
    pub(crate) who: String,
    pub(crate) note: String,
}

/// Cancels a batch: nothing more is added, confirmed or admitted, and its files follow in slices.
#[derive(Clone, Debug)]
pub(crate) struct CancelBatch {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
}

/// Changes what may be changed of a batch; `None` leaves it.
#[derive(Clone, Debug)]
pub(crate) struct UpdateBatch {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) request: RequestKey,
    pub(crate) name: Option<String>,
    pub(crate) priority: Option<u32>,
    /// JSON, or `Some(None)` to take it away.
    pub(crate) metadata: Option<Option<String>>,
}

/// What is done to chosen files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Whatever is not final becomes CANCELLED.
    Cancel,
    /// FAILED files go on where they failed, or wait for their bytes again where the reason says so.
    Retry {
        /// RETRYING files go out now as well.
        skip_backoff: bool,
    },
    /// PROCESSED files go through the route again from a stage on.
    Reprocess {
        from: Stage,
        /// Later stages work again even where their version is the newest.
        force: bool,
    },
    /// The dead letters of FAILED files leave lists and alarms.
    Dismiss,
}

/// Files and the tokens a stage process holds.
pub(crate) type Held = Vec<(FileRef, Token)>;

/// A good result, as it is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct GoodResult {
    pub(crate) artifacts: Vec<StoredArtifact>,
    pub(crate) nonce: String,
    pub(crate) facts: String,
    pub(crate) content: Option<[u8; 32]>,
    pub(crate) media_type: Option<String>,
    pub(crate) has_text: bool,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) used: Used,
    pub(crate) outcome: Option<Outcome>,
}

/// A failure, as it is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct BadResult {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) trace_id: String,
    pub(crate) retry_after: Option<Duration>,
}

/// Outcome of one file at one stage.
pub(crate) type StageOutcome = Result<GoodResult, BadResult>;

/// Reports of one process.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) stage: Stage,
    pub(crate) version: StageVersion,
    pub(crate) outcomes: Vec<(FileRef, Token, StageOutcome)>,
}

/// Why the reconciler counts a kill (protocol 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// Its renewed lease ran out.
    LeaseExpired,
    /// It was leased, and its message is pending beyond a lease without any renewal.
    NeverRenewed,
}

/// What the reconciler found to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs {
    pub(crate) redispatch: Held,
    pub(crate) kill: Vec<(FileRef, Token, KillCause)>,
}

/// Begins a bulk operation.
#[derive(Clone, Debug)]
pub(crate) struct StartOperation {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) request: RequestKey,
    pub(crate) verb: Verb,
    /// An encoded `FileSelector`.
    pub(crate) selector: Vec<u8>,
    pub(crate) matched: u64,
    /// 0: no bound.
    pub(crate) max_count: u64,
    pub(crate) requested_by: String,
    pub(crate) by_operator: bool,
}

/// The next piece of a bulk operation.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) tenant: TenantId,
    pub(crate) operation: Uuid,
    /// In the order of keys.
    pub(crate) files: Vec<FileRef>,
    /// Those of them whose bytes the store was asked for and has.
    pub(crate) arrived: Vec<ConfirmedFile>,
    /// Where the next slice begins.
    pub(crate) cursor: Option<Position>,
    /// There is no next one.
    pub(crate) ended: bool,
}

/// Ends a bulk operation before its time.
#[derive(Clone, Debug)]
pub(crate) struct EndOperation {
    pub(crate) tenant: TenantId,
    pub(crate) operation: Uuid,
    pub(crate) state: OperationState,
}

/// Files of a batch that one act looks at to end them. Each may stand in sixty folders of its own, whose counters move with
/// it: then a slice is some half a second of work.
pub(crate) const SLICE: u32 = 500;
/// Bytes of paths that weigh as much as a row.
const PATH_BYTES_A_ROW: usize = 1_024;

/// What a caller asks. One bad item never fails its neighbours; a bad act never fails the other acts of its group.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    CreateBatch(Box<CreateBatch>),
    AddEntries(Box<AddEntries>),
    CompleteBatch(Box<CompleteBatch>),
    ConfirmUploads(Box<ConfirmUploads>),
    SetPause(Box<SetPause>),
    CancelBatch(Box<CancelBatch>),
    UpdateBatch(Box<UpdateBatch>),
    Lease {
        version: StageVersion,
        held: Held,
    },
    Renew {
        held: Held,
    },
    Release {
        held: Held,
    },
    Report(Box<Report>),
    /// Looks rows up while no dispatch is in flight, and forgets the places of those that moved on (protocol 2.3).
    LookUp {
        held: Held,
    },
    Repair(Box<Repairs>),
    /// Fails a slice of the files of a batch that never arrived, from an ordinal on.
    FailMissing {
        tenant: TenantId,
        batch: BatchId,
        from: u32,
    },
    /// Cancels a slice of the files of a batch that was cancelled, from an ordinal on.
    CancelFiles {
        tenant: TenantId,
        batch: BatchId,
        from: u32,
    },
    /// Completes an OPEN batch that nobody has touched for long.
    CompleteIdle {
        tenant: TenantId,
        batch: BatchId,
    },
    /// Deletes old changes and request answers, a slice at a time.
    Prune,
    StartOperation(Box<StartOperation>),
    Slice(Box<Slice>),
    EndOperation(Box<EndOperation>),
    /// Deletes operations that ended long ago, a slice at a time.
    PruneOperations,
}

impl Act {
    /// For logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::CreateBatch(_) => "CreateBatch",
            Self::AddEntries(_) => "AddEntries",
            Self::CompleteBatch(_) => "CompleteBatch",
            Self::ConfirmUploads(_) => "ConfirmUploads",
            Self::SetPause(_) => "SetPause",
            Self::CancelBatch(_) => "CancelBatch",
            Self::UpdateBatch(_) => "UpdateBatch",
            Self::Lease { .. } => "Lease",
            Self::Renew { .. } => "Renew",
            Self::Release { .. } => "Release",
            Self::Report(_) => "Report",
            Self::LookUp { .. } => "LookUp",
            Self::Repair(_) => "Repair",
            Self::FailMissing { .. } => "FailMissing",
            Self::CancelFiles { .. } => "CancelFiles",
            Self::CompleteIdle { .. } => "CompleteIdle",
            Self::Prune => "Prune",
            Self::StartOperation(_) => "StartOperation",
            Self::Slice(_) => "Slice",
            Self::EndOperation(_) => "EndOperation",
            Self::PruneOperations => "PruneOperations",
        }
    }

    /// How many rows it may touch: a group takes acts up to a bound.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::CreateBatch(_)
            | Self::CompleteBatch(_)
            | Self::SetPause(_)
            | Self::CancelBatch(_)
            | Self::UpdateBatch(_)
            | Self::CompleteIdle { .. }
            | Self::StartOperation(_)
            | Self::EndOperation(_) => 1,
            Self::Slice(act) => act.files.len(),
            // A folder is about as much work as a file, and long paths are work of their own.
            Self::AddEntries(act) => act.entries.len().max(
                act.folders
                    .saturating_add(act.path_bytes / PATH_BYTES_A_ROW),
            ),
            Self::ConfirmUploads(act) => act.uploads.len(),
            Self::Lease { held, .. }
            | Self::Renew { held }
            | Self::Release { held }
            | Self::LookUp { held } => held.len(),
            Self::Report(act) => act.outcomes.len(),
            Self::Repair(act) => act.redispatch.len() + act.kill.len(),
            Self::FailMissing { .. } | Self::CancelFiles { .. } => SLICE as usize,
            Self::Prune | Self::PruneOperations => 1_000,
        }
    }

    /// The files whose rows it needs.
    pub(crate) fn files(&self) -> Vec<FileRef> {
        match self {
            Self::ConfirmUploads(act) => {
                let file =
                    |upload: &ConfirmedUpload| FileRef::new(act.tenant, act.batch, upload.ordinal);
                act.uploads.iter().map(file).collect()
            }
            Self::Lease { held, .. } | Self::Renew { held } | Self::Release { held } => {
                held.iter().map(|(file, _)| *file).collect()
            }
            Self::Report(act) => act.outcomes.iter().map(|(file, ..)| *file).collect(),
            Self::Repair(act) => {
                let redispatched = act.redispatch.iter().map(|(file, _)| *file);
                redispatched
                    .chain(act.kill.iter().map(|(file, ..)| *file))
                    .collect()
            }
            Self::Slice(act) => act.files.clone(),
            Self::CreateBatch(_)
            | Self::AddEntries(_)
            | Self::CompleteBatch(_)
            | Self::SetPause(_)
            | Self::CancelBatch(_)
            | Self::UpdateBatch(_)
            | Self::LookUp { .. }
            | Self::FailMissing { .. }
            | Self::CancelFiles { .. }
            | Self::CompleteIdle { .. }
            | Self::Prune
            | Self::StartOperation(_)
            | Self::EndOperation(_)
            | Self::PruneOperations => Vec::new(),
        }
    }

    /// The request that it answers, if a caller can repeat it.
    pub(crate) fn request(&self) -> Option<(TenantId, &RequestKey)> {
        match self {
            Self::CreateBatch(act) => Some((act.tenant, &act.request)),
            Self::AddEntries(act) => Some((act.tenant, &act.request)),
            Self::CompleteBatch(act) => Some((act.tenant, &act.request)),
            Self::ConfirmUploads(act) => Some((act.tenant, &act.request)),
            Self::SetPause(act) => Some((act.tenant, &act.request)),
            Self::CancelBatch(act) => Some((act.tenant, &act.request)),
            Self::UpdateBatch(act) => Some((act.tenant, &act.request)),
            Self::StartOperation(act) => Some((act.tenant, &act.request)),
            Self::Lease { .. }
            | Self::Renew { .. }
            | Self::Release { .. }
            | Self::Report(_)
            | Self::LookUp { .. }
            | Self::Repair(_)
            | Self::FailMissing { .. }
            | Self::CancelFiles { .. }
            | Self::CompleteIdle { .. }
            | Self::Prune
            | Self::Slice(_)
            | Self::EndOperation(_)
            | Self::PruneOperations => None,
        }
    }

    /// Whether it looks for rows of files that it does not name.
    pub(crate) fn looks_for_rows(&self) -> bool {
        matches!(
            self,
            Self::LookUp { .. } | Self::FailMissing { .. } | Self::CancelFiles { .. }
        )
    }

    /// The batch it changes beside those of its files.
    pub(crate) fn batch(&self) -> Option<(TenantId, BatchId)> {
        match self {
            Self::AddEntries(act) => Some((act.tenant, act.batch)),
            Self::CompleteBatch(act) => Some((act.tenant, act.batch)),
            Self::ConfirmUploads(act) => Some((act.tenant, act.batch)),
            Self::SetPause(act) => Some((act.tenant, act.batch)),
            Self::CancelBatch(act) => Some((act.tenant, act.batch)),
            Self::UpdateBatch(act) => Some((act.tenant, act.batch)),
            Self::FailMissing { tenant, batch, .. }
            | Self::CancelFiles { tenant, batch, .. }
            | Self::CompleteIdle { tenant, batch } => Some((*tenant, *batch)),
            Self::CreateBatch(_)
            | Self::Lease { .. }
            | Self::Renew { .. }
            | Self::Release { .. }
            | Self::Report(_)
            | Self::LookUp { .. }
            | Self::Repair(_)
            | Self::Prune
            | Self::StartOperation(_)
            | Self::Slice(_)
            | Self::EndOperation(_)
            | Self::PruneOperations => None,
        }
    }
}

/// Stands in the place of a confirmed ETag where the bytes are at a final key already: they are held, or processed again.
/// No store says it, because an ETag is quoted.
pub(crate) const KEPT: &str = "kept";

/// A file granted to a stage process.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) row: WorkRow,
    pub(crate) stages: StageSet,
}

impl Granted {
    /// Whether the upload stage reads the object that was verified before: a reprocess has no landing object
    /// (protocol 11.3).
    pub(crate) fn reads_final_object(&self) -> bool {
        self.row.stage == Stage::Upload && self.row.etag.as_deref() == Some(KEPT)
    }
}

/// The answer to an act.
#[derive(Debug)]
pub(crate) enum Answer {
    Batch(Box<caudal_proto::v1::Batch>),
    Added(AddedEntries),
    Confirmed(Box<caudal_proto::v1::ConfirmUploadsResponse>),
    Leased(Vec<Option<Arc<Granted>>>),
    Kept(Vec<bool>),
    Recorded(Vec<bool>),
    Looked(LookedUp),
    /// A slice is done; the next one begins at this ordinal. `None`: nothing is left.
    GoesOnAt(Option<u32>),
    Operation(Box<caudal_proto::longrunning::Operation>),
    Nothing,
}

/// Rows as the writer found them, with what the reconciler compares them to.
#[derive(Debug)]
pub(crate) struct LookedUp {
    pub(crate) now: Micros,
    pub(crate) rows: Vec<WorkRow>,
    /// When the oldest unpublished dispatch of each stage was written.
    pub(crate) oldest_outbox: std::collections::HashMap<Stage, Micros>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_domain::limits;

    #[test]
    fn a_page_weighs_as_many_rows_as_it_has_entries_or_folders_or_long_paths() {
        let nobody = TenantId::from_uuid(Uuid::nil());
        let rows = |folders, path_bytes| {
            let entry = NewEntry::Folder {
                path: String::new(),
            };
            let act = AddEntries {
                tenant: nobody,
                batch: BatchId::from_uuid(Uuid::nil()),
                request: RequestKey {
                    id: Uuid::nil(),
                    method: "AddEntries",
                    body_hash: [0; 32],
                },
                knows_one_batch: false,
                entries: vec![entry; 1_000],
                folders,
                path_bytes,
            };
            Act::AddEntries(Box::new(act)).rows()
        };
        // An ordinary page: two of them share a group as before.
        assert_eq!(rows(120, 60_000), 1_000);
        assert!(rows(limits::MAX_FOLDERS_PER_PAGE, 0) >= limits::MAX_FOLDERS_PER_PAGE);
        assert!(rows(1_000, limits::MAX_PATH_BYTES_PER_PAGE) > 2_000);
    }
}
