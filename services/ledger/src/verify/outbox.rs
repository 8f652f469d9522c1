//! I5: nothing is left to publish when nothing is in work, and no message names a file or token that never was.

use std::collections::HashMap;

use caudal_domain::{FileRef, Stage, Token};

use super::report::{Invariant, VerifyReport};

/// Checks that no stage has a dispatch left to be published, where nothing is in work.
pub(crate) fn check_published<'a>(
    in_work: bool,
    waiting: impl Iterator<Item = &'a Stage>,
    report: &mut VerifyReport,
) {
    report.check(Invariant::Outbox);
    let stages: Vec<&str> = waiting.map(|stage| stage.name()).collect();
    if !in_work && !stages.is_empty() {
        let words = format!(
            "dispatches are still to be published: {}",
            stages.join(", ")
        );
        report.breaks(Invariant::Outbox, words);
    }
}

/// Checks that a message names files and tokens that are, or have been: a dispatch is committed before it is published.
pub(crate) fn check_message(
    place: &str,
    dispatches: &[(FileRef, Token)],
    current: &HashMap<FileRef, Token>,
    report: &mut VerifyReport,
) {
    for (file, token) in dispatches {
        report.check(Invariant::Outbox);
        if current.get(file).is_none_or(|current| token > current) {
            let words = format!("{place} names {file} token {token}, which never was");
            report.breaks(Invariant::Outbox, words);
        }
    }
}
