//! What a group will write beside the rows it holds, and what it sends out.

use std::collections::BTreeMap;

use caudal_domain::{BatchRef, FileRef, Stage, StageVersion, TenantId, Token};
use caudal_streams::Lane;
use rustc_hash::FxHashMap;
use sea_orm::DbErr;
use uuid::Uuid;

use crate::memory::Waiting;
use crate::memory::known::Pending;
use crate::store::attempts::AttemptRow;
use crate::store::manifest::{FileRow, FolderRow};
use crate::store::operations::OperationRow;
use crate::store::requests::{AnsweredRequest, RequestName};
use crate::store::results::ResultRow;
use crate::store::stages::StageRow;
use crate::store::tenancy::TenancyWrites;
use crate::store::time::Micros;
use crate::store::tus::TusRow;
use crate::store::work::WorkRow;
use crate::store::write_transaction::WriteTransaction;

/// What manifest pages add.
#[derive(Debug, Default)]
pub(super) struct NewEntries {
    pub(super) folders: Vec<(BatchRef, FolderRow)>,
    pub(super) files: Vec<FileRow>,
    pub(super) rows: Vec<WorkRow>,
}

/// Rows that are inserted, deleted or changed beside those of files, batches and tenants.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Entries that are not inserted yet.
    pub(super) new: NewEntries,
    /// New files that have not arrived.
    pub(super) added: Vec<Pending>,
    pub(super) results: Vec<ResultRow>,
    pub(super) attempts: Vec<AttemptRow>,
    pub(super) dead_letters: Vec<AttemptRow>,
    /// Files that left FAILED: their dead letters go.
    pub(super) left_failed: Vec<FileRef>,
    /// Files whose dead letters leave lists and alarms.
    pub(super) dismissed: Vec<FileRef>,
    pub(super) new_versions: Vec<(u32, StageVersion)>,
    /// Versions that the database knew and memory did not.
    pub(super) seen_versions: Vec<(u32, StageVersion)>,
    /// Stages of which this group saw a newer version than any before.
    pub(super) newest_versions: BTreeMap<Stage, u32>,
    /// The length of the vectors of stage versions that had none before, by their numbers.
    pub(super) dimensions: Vec<(u32, u32)>,
    /// What operators set for stages, the last of each last.
    pub(super) stages: Vec<StageRow>,
    pub(super) new_operations: Vec<OperationRow>,
    pub(super) operations: Vec<OperationRow>,
    /// Uploads through gateways as this group leaves them; those that are gone are none.
    pub(super) tus: BTreeMap<(TenantId, Uuid), Option<TusRow>>,
    /// Changes and answers older than these go, so many of each at most.
    pub(super) prune: Option<(Micros, Micros, u32)>,
    /// Batches that were looked through for objects that nothing reaches, and the ends after which they were.
    pub(super) collected: Vec<(BatchRef, Micros)>,
    /// Operations that ended before go, so many at most.
    pub(super) prune_operations: Option<(Micros, u32)>,
    /// What becomes of tenants and keys, and who did what.
    pub(super) tenancy: TenancyWrites,
    /// What requests were answered in this group.
    pub(super) answered: Vec<(RequestName, AnsweredRequest)>,
}

impl NewEntries {
    /// Inserts them.
    pub(super) async fn insert<T: WriteTransaction>(&self, transaction: &T) -> Result<(), DbErr> {
        transaction
            .insert_manifest(&self.folders, &self.files, &self.rows)
            .await
    }
}

impl Effects {
    /// What is still to be written; what memory must hear of stays as well.
    pub(super) fn take_written(&mut self) -> Self {
        let mut written = std::mem::take(self);
        self.added = std::mem::take(&mut written.added);
        self.seen_versions = std::mem::take(&mut written.seen_versions);
        self.new_versions.clone_from(&written.new_versions);
        self.newest_versions.clone_from(&written.newest_versions);
        self.stages.clone_from(&written.stages);
        self.dimensions.clone_from(&written.dimensions);
        written
    }

    /// What a request was answered in this group.
    pub(super) fn answer_of(&self, name: &RequestName) -> Option<&AnsweredRequest> {
        let mut answered = self.answered.iter();
        answered.find_map(|(known, answer)| (known == name).then_some(answer))
    }
}

/// What goes out of a group, and what the dispatcher must hear of it when the group has ended.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Files of these batches wait from a time on.
    pub(super) waits: Vec<(Stage, BatchRef, Micros)>,
    /// What is to be queued again when the group has ended: a group that decides meanwhile does not see these rows.
    pub(super) requeue: Vec<Waiting>,
    /// Who took turns: if the group is undone they wait as before.
    pub(super) turns: Vec<Waiting>,
    pub(super) dispatches: BTreeMap<(Stage, Lane), Vec<(FileRef, Token)>>,
    pub(super) entered: Vec<(FileRef, Token)>,
    pub(super) left: Vec<(FileRef, Token)>,
    /// The earliest of `waits`.
    earliest: FxHashMap<(Stage, BatchRef), Micros>,
}

impl Outgoing {
    /// What waits, given once.
    pub(super) fn take_waits(&mut self) -> Vec<(Stage, BatchRef, Micros)> {
        self.earliest.clear();
        std::mem::take(&mut self.waits)
    }

    /// Files of a batch wait for a stage; of many with one time in one group one is enough.
    pub(super) fn wait(&mut self, stage: Stage, batch: BatchRef, at: Micros) {
        match self.earliest.get(&(stage, batch)) {
            Some(earliest) if *earliest <= at => {}
            _ => {
                self.earliest.insert((stage, batch), at);
                self.waits.push((stage, batch, at));
            }
        }
    }
}
