//! I11: what is ready waits or is out, never both and never neither: whether a file stands where somebody finds it: among the waiting, or out under a token.

use caudal_domain::FileState;

use super::report::{Invariant, VerifyReport};
use crate::store::work::WorkRow;

pub(crate) fn check(row: &WorkRow, report: &mut VerifyReport) {
    report.check(Invariant::Live);
    let (waits, out) = (row.wait_stage.is_some(), row.dispatched_at.is_some());
    let right = match row.state {
        FileState::Uploaded | FileState::Retrying => waits && !out,
        FileState::Queued => out && !waits,
        FileState::Processing => waits != out,
        FileState::Pending
        | FileState::Uploading
        | FileState::Processed
        | FileState::Failed
        | FileState::Cancelled => !waits && !out,
    };
    if !right {
        let words = format!("{} is {}; waits: {waits}, out: {out}", row.file, row.state);
        report.breaks(Invariant::Live, words);
    }
    let waits_elsewhere = row.wait_stage.is_some_and(|stage| stage != row.stage);
    if waits_elsewhere || waits != row.ready_at.is_some() {
        let words = format!(
            "{} is at {}, waits for {:?} from {:?} on",
            row.file, row.stage, row.wait_stage, row.ready_at
        );
        report.breaks(Invariant::Live, words);
    }
    if row.lease_until.is_some() && !out {
        let words = format!("{} is leased and not out", row.file);
        report.breaks(Invariant::Live, words);
    }
}
