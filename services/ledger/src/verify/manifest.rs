//! Every file of the manifest has its row of work and the other way round: no foreign key ties them.

use std::collections::HashMap;

use sea_orm::DatabaseConnection;

use super::{Invariant, VerifyError, VerifyReport};
use crate::store::progress::ProgressRow;
use crate::store::work::WorkRow;
use crate::store::{Session, manifest};

/// Checks a page of rows of one batch, in order and without a gap between them.
pub(super) async fn verify(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    rows: &[WorkRow],
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(());
    };
    let span = (first.file.ordinal, last.file.ordinal);
    let listed = manifest::file_span(session, progress.key(), span).await?;
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
    Ok(())
}
