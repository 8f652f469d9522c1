//! Every FAILED file has its dead letter, with the reason of its row, and no other file has one (protocol 11.1).

use caudal_domain::{FileRef, FileState};
use sea_orm::DatabaseConnection;

use super::{Invariant, VerifyError, VerifyReport};
use crate::store::work::WorkRow;
use crate::store::{Session, results};

pub(super) async fn verify(
    session: &Session<'_, DatabaseConnection>,
    rows: &[WorkRow],
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let files: Vec<FileRef> = rows.iter().map(|row| row.file).collect();
    let letters = results::dead_letters(session, &files).await?;
    for row in rows {
        report.check(Invariant::Terminal);
        let failed = row.state == FileState::Failed;
        let words = match letters.get(&row.file) {
            None if failed => "without a dead letter".to_owned(),
            Some(_) if !failed => "and has a dead letter".to_owned(),
            Some((_, reason)) if row.reason != Some(*reason) => {
                format!("for {:?}, its dead letter says {reason:?}", row.reason)
            }
            Some((token, _)) if *token >= row.token => {
                format!("and its dead letter has token {token}, which is not past")
            }
            _ => continue,
        };
        let words = format!("{} is {} {words}", row.file, row.state);
        report.breaks(Invariant::Terminal, words);
    }
    Ok(())
}
