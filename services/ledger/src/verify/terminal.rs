//! I1: each accepted file is in exactly one final state when its batch has ended, and the batch's state follows from its
//! counters. Every FAILED file has its dead letter, with the reason of its row, and no other file has one (protocol 11.1).

use caudal_domain::{BatchState, FileState, Reason, Token};

use super::report::{Invariant, VerifyReport};
use crate::store::progress::ProgressRow;
use crate::store::work::WorkRow;

/// Checks a file's row.
pub(crate) fn check_row(progress: &ProgressRow, row: &WorkRow, report: &mut VerifyReport) {
    report.check(Invariant::Terminal);
    if progress.state.is_ended() && !row.state.is_final() {
        report.breaks(
            Invariant::Terminal,
            format!("{} is {} in a batch that has ended", row.file, row.state),
        );
    }
    if row.state.is_final() && (row.dispatched_at.is_some() || row.wait_stage.is_some()) {
        report.breaks(
            Invariant::Terminal,
            format!("{} is {} and still waits or is out", row.file, row.state),
        );
    }
    if (row.state == FileState::Processed) != row.outcome.is_some() {
        report.breaks(
            Invariant::Terminal,
            format!(
                "{} is {} with outcome {:?}",
                row.file, row.state, row.outcome
            ),
        );
    }
    if row.state == FileState::Failed && row.reason.is_none() {
        report.breaks(
            Invariant::Terminal,
            format!("{} is FAILED without a reason", row.file),
        );
    }
}

/// Checks a batch's state.
pub(crate) fn check_batch(progress: &ProgressRow, report: &mut VerifyReport) {
    report.check(Invariant::Terminal);
    let derived = BatchState::derive(&progress.facts);
    if derived != progress.state {
        let words = format!(
            "batch {} is {}, its counters say {derived}",
            progress.batch, progress.state
        );
        report.breaks(Invariant::Terminal, words);
    }
}

/// Checks a file against its dead letter, if it has one.
pub(crate) fn check_letter(
    row: &WorkRow,
    letter: Option<(Token, Reason)>,
    report: &mut VerifyReport,
) {
    report.check(Invariant::Terminal);
    let failed = row.state == FileState::Failed;
    let words = match letter {
        None if failed => "without a dead letter".to_owned(),
        Some(_) if !failed => "and has a dead letter".to_owned(),
        Some((_, reason)) if row.reason != Some(reason) => {
            format!("for {:?}, its dead letter says {reason:?}", row.reason)
        }
        Some((token, _)) if token >= row.token => {
            format!("and its dead letter has token {token}, which is not past")
        }
        _ => return,
    };
    let words = format!("{} is {} {words}", row.file, row.state);
    report.breaks(Invariant::Terminal, words);
}
