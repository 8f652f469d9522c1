//! I4: the counters of batches and folders equal a recount. Every file of the manifest has its row of work and the other
//! way round: no foreign key ties them.

use std::collections::HashMap;

use caudal_domain::{FileCounts, FileState, FolderCounts, Generation, Reason};

use super::report::{Invariant, VerifyReport};
use crate::store::manifest::FolderRow;
use crate::store::progress::ProgressRow;
use crate::store::work::WorkRow;

/// What one batch's rows add up to.
#[derive(Default)]
pub(crate) struct Recount {
    counts: FileCounts,
    bytes: Bytes,
    /// Bytes that may count as uploaded.
    unclear: u64,
    folders: HashMap<u32, FolderCounts>,
}

/// Bytes of a batch's files: of all, of those that have arrived, of those that are processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    declared: u64,
    uploaded: u64,
    processed: u64,
}

/// Whether a file's bytes count as uploaded; `None`: its row does not tell. A reprocess from the upload stage on forgets
/// the ETag and keeps the bytes; a replay that needs them again forgets both.
fn has_bytes(row: &WorkRow) -> Option<bool> {
    let kept = row.generation > Generation::FIRST;
    match row.state {
        FileState::Pending | FileState::Uploading => Some(false),
        FileState::Failed => Some(!row.reason.is_some_and(Reason::never_had_bytes)),
        FileState::Cancelled if row.etag.is_none() && kept => None,
        FileState::Cancelled => Some(row.etag.is_some()),
        _ => Some(true),
    }
}

impl Recount {
    pub(crate) fn add(&mut self, row: &WorkRow) {
        self.bytes.declared += row.size;
        match has_bytes(row) {
            Some(true) => self.bytes.uploaded += row.size,
            Some(false) => {}
            None => self.unclear += row.size,
        }
        if let Ok(counts) = self.counts.moved(None, Some(row.state)) {
            self.counts = counts;
        }
        let folder = self.folders.entry(row.folder).or_default();
        folder.total += 1;
        match row.state {
            FileState::Processed => {
                folder.processed += 1;
                self.bytes.processed += row.size;
                if let Ok(counts) = self.counts.outcome_moved(None, row.outcome) {
                    self.counts = counts;
                }
            }
            FileState::Failed => folder.failed += 1,
            FileState::Cancelled => folder.cancelled += 1,
            _ => {}
        }
    }
}

/// Checks a page of rows of one batch, in order and without a gap between them, against the lines of the manifest between
/// its first and its last: (ordinal, folder, size).
pub(crate) fn check_manifest(
    progress: &ProgressRow,
    rows: &[WorkRow],
    listed: Vec<(u32, u32, u64)>,
    report: &mut VerifyReport,
) {
    let mut listed: HashMap<u32, (u32, u64)> = listed
        .into_iter()
        .map(|(ordinal, folder, size)| (ordinal, (folder, size)))
        .collect();
    for row in rows {
        report.check(Invariant::Counters);
        let entry = listed.remove(&row.file.ordinal);
        if entry != Some((row.folder, row.size)) {
            let words = format!(
                "{}: its work says folder {} and {} bytes, the manifest {entry:?}",
                row.file, row.folder, row.size
            );
            report.breaks(Invariant::Counters, words);
        }
        if row.file.ordinal >= progress.next_ordinal {
            let words = format!(
                "{}: the next ordinal to be given is {}",
                row.file, progress.next_ordinal
            );
            report.breaks(Invariant::Counters, words);
        }
    }
    for ordinal in listed.keys() {
        let words = format!(
            "batch {}: file {ordinal} of the manifest has no row of work",
            progress.batch
        );
        report.breaks(Invariant::Counters, words);
    }
}

/// Checks a batch and all of its folders.
pub(crate) fn check(
    progress: &ProgressRow,
    recount: &Recount,
    folders: &[FolderRow],
    report: &mut VerifyReport,
) {
    report.check(Invariant::Counters);
    let (counts, direct) = (recount.counts, &recount.folders);
    if progress.facts.counts != counts {
        let words = format!(
            "batch {}: {:?} recorded, {counts:?} counted",
            progress.batch, progress.facts.counts
        );
        report.breaks(Invariant::Counters, words);
    }
    let mut recorded = Bytes {
        declared: progress.bytes_declared,
        uploaded: progress.bytes_uploaded,
        processed: progress.bytes_processed,
    };
    let certain = recount.bytes.uploaded;
    if (certain..=certain + recount.unclear).contains(&recorded.uploaded) {
        recorded.uploaded = certain;
    }
    if recorded != recount.bytes {
        let words = format!(
            "batch {}: {recorded:?} recorded, {:?} counted",
            progress.batch, recount.bytes
        );
        report.breaks(Invariant::Counters, words);
    }
    let missing = counts.pending + counts.uploading > 0;
    if progress.uploads_open != missing {
        let words = format!(
            "batch {}: uploads open {}, files without bytes {missing}",
            progress.batch, progress.uploads_open
        );
        report.breaks(Invariant::Counters, words);
    }
    let mut subtrees: HashMap<u32, FolderCounts> = HashMap::new();
    for folder in folders {
        let own = direct.get(&folder.folder).copied().unwrap_or_default();
        for above in folder.ancestors.iter().chain([&folder.folder]) {
            let sum = subtrees.entry(*above).or_default();
            sum.total += own.total;
            sum.processed += own.processed;
            sum.failed += own.failed;
            sum.cancelled += own.cancelled;
        }
    }
    for folder in folders {
        report.check(Invariant::Counters);
        let counted = subtrees.get(&folder.folder).copied().unwrap_or_default();
        if counted != folder.counts {
            let words = format!(
                "batch {} folder `{}`: {:?} recorded, {counted:?} counted",
                progress.batch, folder.path, folder.counts
            );
            report.breaks(Invariant::Counters, words);
        }
    }
}
