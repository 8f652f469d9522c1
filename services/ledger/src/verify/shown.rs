//! I8: what watchers were shown last is what the rows say, and revisions have no gap: the newest change of every file and folder carries absolute values, and so must equal
//! its row.

use std::collections::HashMap;

use caudal_domain::{FileRef, FileState, FolderCounts};
use caudal_proto::mesh::v1::ChangeSet;

use super::report::{Invariant, VerifyReport};
use crate::store::changes::KeptRevisions;
use crate::store::manifest::FolderRow;
use crate::store::progress::ProgressRow;
use crate::wire;

/// What is shown of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) state: FileState,
    pub(crate) detail: u32,
}

/// The newest change of everything in a batch.
#[derive(Default)]
pub(crate) struct Last {
    revision: u64,
    batch: Option<caudal_proto::v1::Batch>,
    files: HashMap<u32, (u32, u32)>,
    folders: HashMap<u32, FolderCounts>,
}

impl Last {
    /// Takes the next change of the batch.
    pub(crate) fn take(&mut self, revision: u64, changes: ChangeSet) {
        self.revision = revision;
        let files = changes.ordinal.iter().zip(&changes.to).zip(&changes.detail);
        for ((ordinal, to), detail) in files {
            self.files.insert(*ordinal, (*to, *detail));
        }
        for (at, folder) in changes.folder.iter().enumerate() {
            let count = |column: &[u32]| column.get(at).copied().unwrap_or_default();
            let counts = FolderCounts {
                total: count(&changes.folder_total),
                processed: count(&changes.folder_processed),
                failed: count(&changes.folder_failed),
                cancelled: count(&changes.folder_cancelled),
            };
            self.folders.insert(*folder, counts);
        }
        self.batch = changes.batch;
    }

    pub(crate) fn check_file(&self, file: FileRef, shown: Shown, report: &mut VerifyReport) {
        report.check(Invariant::Shown);
        let Some(&(to, detail)) = self.files.get(&file.ordinal) else {
            return;
        };
        let state = u8::try_from(to).ok().and_then(FileState::from_code);
        if state == Some(shown.state) && detail != shown.detail {
            let words = format!(
                "{file} is {} with detail {}, shown was {detail}",
                shown.state, shown.detail
            );
            report.breaks(Invariant::Shown, words);
        }
    }

    pub(crate) fn check_folder(
        &self,
        progress: &ProgressRow,
        folder: &FolderRow,
        report: &mut VerifyReport,
    ) {
        report.check(Invariant::Shown);
        if let Some(shown) = self.folders.get(&folder.folder)
            && *shown != folder.counts
        {
            let words = format!(
                "batch {} folder `{}`: {:?} recorded, {shown:?} shown",
                progress.batch, folder.path, folder.counts
            );
            report.breaks(Invariant::Shown, words);
        }
    }
}

/// The newest change of a batch is the one that its row names, and shows what the row says.
pub(crate) fn check_batch(progress: &ProgressRow, last: &Last, report: &mut VerifyReport) {
    report.check(Invariant::Shown);
    // None is kept any more: nothing to compare.
    let Some(batch) = &last.batch else { return };
    if last.revision != progress.revision {
        let words = format!(
            "batch {} has revision {}, its newest change {}",
            progress.batch, progress.revision, last.revision
        );
        report.breaks(Invariant::Shown, words);
    } else if *batch != wire::progress(progress) {
        let words = format!(
            "batch {}: its newest change shows {batch:?}",
            progress.batch
        );
        report.breaks(Invariant::Shown, words);
    }
}

/// A tenant's revisions have no gap, and end with the one that its row names.
pub(crate) fn check_tenant(kept: &KeptRevisions, report: &mut VerifyReport) {
    report.check(Invariant::Shown);
    let without_gap = kept.oldest + kept.count == kept.newest + 1;
    if !without_gap || kept.newest != kept.recorded {
        let words = format!(
            "tenant {}: {} changes from {} to {}, its row says {}",
            kept.tenant, kept.count, kept.oldest, kept.newest, kept.recorded
        );
        report.breaks(Invariant::Shown, words);
    }
}
