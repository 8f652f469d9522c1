//! I3: one result for each file, generation and stage; a PROCESSED file has its record.

use std::collections::HashMap;

use caudal_domain::{FileState, Stage};

use super::report::{Invariant, VerifyReport};
use crate::store::results::ResultRow;
use crate::store::work::WorkRow;

/// Checks a file's row against the results of its generation.
pub(crate) fn check(row: &WorkRow, results: &[ResultRow], report: &mut VerifyReport) {
    report.check(Invariant::Once);
    let recorded = results.iter().filter(|result| !result.skipped);
    let mut makers: HashMap<u64, Stage> = HashMap::new();
    for result in recorded {
        let own = result.taken_from.is_none();
        if own && let Some(other) = makers.insert(result.token.get(), result.stage) {
            let words = format!(
                "{}: token {} recorded {other} and {}",
                row.file, result.token, result.stage
            );
            report.breaks(Invariant::Once, words);
        }
        if result.token >= row.token {
            let words = format!(
                "{}: {} was recorded under a token that is not past",
                row.file, result.stage
            );
            report.breaks(Invariant::Once, words);
        }
    }
    let is_there = |stage: Stage| results.iter().any(|result| result.stage == stage);
    if !row.state.is_final() && is_there(row.stage) {
        let words = format!(
            "{} is {} at {}, which has been recorded already",
            row.file, row.state, row.stage
        );
        report.breaks(Invariant::Once, words);
    }
    if row.state == FileState::Processing && row.stage != Stage::Upload && !is_there(Stage::Upload)
    {
        let words = format!("{} is at {} without an upload result", row.file, row.stage);
        report.breaks(Invariant::Once, words);
    }
    let has_record = results
        .iter()
        .any(|result| result.stage == Stage::Metadata && !result.skipped);
    if has_record != (row.state == FileState::Processed) {
        let words = format!(
            "{} is {}; final record there: {has_record}",
            row.file, row.state
        );
        report.breaks(Invariant::Once, words);
    }
}
