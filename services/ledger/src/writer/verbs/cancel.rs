//! Cancels a file: whatever is not final becomes CANCELLED.

use caudal_domain::{FileEvent, FileRef};

use super::FileRefused;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

/// The token rises, so that no lease, renewal or report finds the file any more (protocol 10.1).
pub(super) fn cancel(group: &mut Group<'_>, file: FileRef) -> Result<FileRefused, GroupError> {
    let row = group.rows.file(file).ok_or(GroupError::Stale)?;
    if row.state.is_final() {
        return Ok(Some("ALREADY_FINAL"));
    }
    if !planted!(TokenKeptAtCancel) {
        group.raise_token(file)?;
    }
    group.step(file, FileEvent::Cancel)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{FileState, Stage};

    use crate::store::operations::FileVerb;
    use crate::writer::trial::{Trial, content_of, good};

    // Protocol 10.1: token + 1, no longer out; renewal and report then find no row.
    #[test]
    fn a_cancelled_file_is_out_of_reach_of_whoever_holds_it() {
        let mut trial = Trial::new();
        let file = trial.processing(1)[0];
        let before = trial.row(file);
        let report = trial.reporting(file, Ok(good(Stage::Upload, content_of(file))));
        assert_eq!(trial.apply(FileVerb::Cancel, file), None);
        let row = trial.row(file);
        assert_eq!(
            (row.state, row.token),
            (FileState::Cancelled, before.token.next())
        );
        assert_eq!((row.dispatched_at, trial.places(Stage::Upload)), (None, 0));
        assert_eq!(trial.ask(report).unwrap(), [false]);
        assert_eq!(trial.row(file), row);
    }

    // Protocol 10.1: unless it is final.
    #[test]
    fn a_final_file_is_not_cancelled() {
        let mut trial = Trial::new();
        let file = trial.processed();
        let before = trial.row(file);
        assert_eq!(
            trial.apply(FileVerb::Cancel, file).as_deref(),
            Some("ALREADY_FINAL")
        );
        assert_eq!(trial.row(file), before);
    }
}
