//! Lets a FAILED file go on where it failed, or asks for its bytes again (protocol 11.1, 11.2).

use caudal_domain::{FileEvent, FileRef, FileState, Reason, Stage};

use super::FileRefused;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

/// `skip_backoff`: a RETRYING file goes out now as well.
pub(super) fn retry(
    group: &mut Group<'_>,
    file: FileRef,
    skip_backoff: bool,
) -> Result<FileRefused, GroupError> {
    if group.rows.is_cancelled(file.batch_ref()) && !planted!(CancelledBeginsAnew) {
        return Ok(Some("BATCH_CANCELLED"));
    }
    let row = group.rows.file(file).ok_or(GroupError::Stale)?;
    match row.state {
        FileState::Failed => match row.reason {
            Some(reason) if reason.needs_bytes() => group.ask_for_bytes_again(file, reason)?,
            _ => group.replay(file)?,
        },
        FileState::Retrying if skip_backoff => {
            group.raise_token(file)?;
            group.make_ready(file, group.now)?;
        }
        FileState::Retrying => return Ok(Some("ALREADY_RETRYING")),
        _ => return Ok(Some("NOT_FAILED")),
    }
    Ok(None)
}

impl Group<'_> {
    /// Its bytes are good: it goes on at the stage where it failed, with full budgets (protocol 11.1).
    fn replay(&mut self, file: FileRef) -> Result<(), GroupError> {
        self.undo_dead_letter(file);
        self.raise_token(file)?;
        let row = self.rows.file_mut(file)?;
        if !planted!(BudgetsKeptAtReplay) {
            row.fails = 0;
            row.kills = 0;
        }
        row.reason = None;
        self.step(file, FileEvent::Replay { needs_bytes: false })?;
        self.make_ready(file, self.now)
    }

    /// Its bytes are missing or wrong: it waits for them under a new landing key, which the delayed delete of the first
    /// upload cannot reach, and in a new generation, which old results never meet (protocol 11.2).
    fn ask_for_bytes_again(&mut self, file: FileRef, reason: Reason) -> Result<(), GroupError> {
        self.undo_dead_letter(file);
        self.raise_token(file)?;
        let row = self.rows.bytes_mut(file)?;
        if !planted!(GenerationKept) {
            row.generation = row.generation.next();
        }
        if !planted!(TargetKept) {
            row.target = row.target.next();
        }
        row.etag = None;
        row.stage = Stage::Upload;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        row.outcome = None;
        let size = row.size;
        if !reason.never_had_bytes() {
            let batch = self.rows.batch_mut(file.batch_ref())?;
            let uploaded = &mut batch.row.bytes_uploaded;
            *uploaded = uploaded.saturating_sub(size);
        }
        self.step(file, FileEvent::Replay { needs_bytes: true })?;
        // The client needs its full time again.
        self.touch(file.batch_ref())
    }
}

#[cfg(test)]
mod tests {
    use caudal_domain::{Generation, Target};

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::trial::Trial;

    const RETRY: FileVerb = FileVerb::Retry {
        skip_backoff: false,
    };

    // Protocol 11.1: token + 1, budgets reset; the dead letter goes and attempts stay.
    #[test]
    fn a_file_whose_bytes_are_good_goes_on_where_it_failed() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        trial.succeed(file);
        trial.fail(file, Reason::CorruptDocument);
        let before = trial.row(file);
        assert_eq!((before.state, before.fails), (FileState::Failed, 1));
        assert_eq!(trial.apply(RETRY, file), None);
        let row = trial.row(file);
        assert_eq!(row.token, before.token.next());
        assert_eq!(
            (row.state, row.stage),
            (FileState::Queued, Stage::ExtractText)
        );
        assert_eq!((row.fails, row.kills, row.reason), (0, 0, None));
        assert_eq!(
            (row.generation, row.target),
            (Generation::FIRST, Target::FIRST)
        );
        assert_eq!(trial.letter(file), None);
        assert_eq!(trial.attempts(file).len(), 1);
    }

    // Protocol 11.2: PENDING, token, generation and target + 1.
    #[test]
    fn a_file_whose_bytes_are_wrong_waits_for_others_under_a_new_key() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        trial.fail(file, Reason::SizeMismatch);
        let before = trial.row(file);
        assert_eq!(trial.apply(RETRY, file), None);
        let row = trial.row(file);
        assert_eq!((row.state, row.etag), (FileState::Pending, None));
        assert_eq!(row.token, before.token.next());
        assert_eq!(row.generation, Generation::FIRST.next());
        assert_eq!(row.target, Target::FIRST.next());
        assert_eq!((row.fails, row.reason), (0, None));
        assert_eq!(trial.letter(file), None);
        assert_eq!(trial.progress(file.batch_ref()).bytes_uploaded, 0);
    }

    // Protocol 11.1: leaving FAILED is what a replay is.
    #[test]
    fn only_a_failed_file_is_retried_and_one_that_backs_off_where_that_is_asked() {
        let mut trial = Trial::new();
        let files = trial.queued(2);
        trial.fail(files[0], Reason::StageTimeout);
        let before = files
            .iter()
            .map(|file| trial.row(*file))
            .collect::<Vec<_>>();
        assert_eq!(
            trial.apply(RETRY, files[0]).as_deref(),
            Some("ALREADY_RETRYING")
        );
        assert_eq!(trial.apply(RETRY, files[1]).as_deref(), Some("NOT_FAILED"));
        let after = files
            .iter()
            .map(|file| trial.row(*file))
            .collect::<Vec<_>>();
        assert_eq!(after, before);
        let now = FileVerb::Retry { skip_backoff: true };
        assert_eq!(trial.apply(now, files[0]), None);
        let row = trial.row(files[0]);
        assert_eq!((row.state, row.fails), (FileState::Queued, 1));
        assert_eq!(row.dispatched_at, Some(trial.now()));
    }

    // Protocol 11.4.
    #[test]
    fn nothing_is_retried_in_a_batch_that_is_being_cancelled() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        trial.fail(file, Reason::CorruptDocument);
        trial.cancel(file.batch_ref());
        let before = trial.row(file);
        assert_eq!(trial.apply(RETRY, file).as_deref(), Some("BATCH_CANCELLED"));
        assert_eq!(trial.row(file), before);
        assert_eq!(trial.letter(file), Some(Reason::CorruptDocument));
    }
}
