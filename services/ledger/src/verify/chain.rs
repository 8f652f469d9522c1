//! I2: the recorded changes of a file form a path of the state table, and the last equals its row.

use std::collections::HashMap;

use caudal_domain::{FileEvent, FileRef, FileState};
use caudal_proto::mesh::v1::ChangeSet;

use super::report::{Invariant, VerifyReport};
use crate::store::progress::ProgressRow;

/// The files of a batch, followed through its changes as far as they are kept.
#[derive(Default)]
pub(crate) struct Chain {
    followed: HashMap<u32, FileState>,
    after: u64,
    /// Changes before the first were pruned.
    pruned: bool,
}

impl Chain {
    /// The next change of the batch, in the order of its revisions; `None`: its body cannot be read.
    pub(crate) fn take(
        &mut self,
        progress: &ProgressRow,
        revision: u64,
        changes: Option<&ChangeSet>,
        report: &mut VerifyReport,
    ) {
        if revision != self.after + 1 {
            // Pruned before this one; what follows must still be without a gap.
            self.pruned = true;
            if self.after != 0 {
                let words = format!(
                    "batch {}: revision {revision} follows {}",
                    progress.batch, self.after
                );
                report.breaks(Invariant::Chain, words);
            }
        }
        self.after = revision;
        match changes {
            Some(changes) => follow(progress, changes, !self.pruned, &mut self.followed, report),
            None => {
                let words = format!("batch {}: change {revision} cannot be read", progress.batch);
                report.breaks(Invariant::Chain, words);
            }
        }
    }

    /// All changes were taken: they ended where the row stands.
    pub(crate) fn check(&self, file: FileRef, state: FileState, report: &mut VerifyReport) {
        report.check(Invariant::Chain);
        match self.followed.get(&file.ordinal) {
            Some(last) if *last == state => {}
            None if self.pruned => {}
            last => {
                let words = format!("{file} is {state}, its changes end with {last:?}");
                report.breaks(Invariant::Chain, words);
            }
        }
    }
}

fn follow(
    progress: &ProgressRow,
    changes: &ChangeSet,
    whole: bool,
    followed: &mut HashMap<u32, FileState>,
    report: &mut VerifyReport,
) {
    for ((ordinal, from), to) in changes.ordinal.iter().zip(&changes.from).zip(&changes.to) {
        let file = FileRef::new(progress.tenant, progress.batch, *ordinal);
        let from = u8::try_from(*from).ok().and_then(FileState::from_code);
        let Some(to) = u8::try_from(*to).ok().and_then(FileState::from_code) else {
            report.breaks(
                Invariant::Chain,
                format!("{file}: a change leads to no state"),
            );
            continue;
        };
        let before = followed.insert(*ordinal, to);
        if before != from && (whole || before.is_some()) {
            let words = format!("{file}: a change from {from:?} to {to} follows {before:?}");
            report.breaks(Invariant::Chain, words);
        }
        let legal = match from {
            None => to == FileState::Pending,
            Some(from) => from == to && to == FileState::Processing || leads(from, to),
        };
        if !legal {
            report.breaks(
                Invariant::Chain,
                format!("{file}: {from:?} -> {to} is not in the state table"),
            );
        }
    }
}

/// Whether some event leads from one state to the next.
fn leads(from: FileState, to: FileState) -> bool {
    const EVENTS: [FileEvent; 14] = [
        FileEvent::UploadBegun,
        FileEvent::Arrived,
        FileEvent::Admitted,
        FileEvent::Leased,
        FileEvent::StageRecorded { last: false },
        FileEvent::StageRecorded { last: true },
        FileEvent::Retry,
        FileEvent::Fail,
        FileEvent::NeverArrived,
        FileEvent::Replay { needs_bytes: false },
        FileEvent::Replay { needs_bytes: true },
        FileEvent::Adopted,
        FileEvent::Reprocess,
        FileEvent::Cancel,
    ];
    // An upload seen only when it is whole is recorded in both steps, the first of which is UploadBegun's.
    EVENTS.iter().any(|event| from.next(*event) == Ok(to))
}
