//! Fails what has not arrived of a slice of a batch, after a completion that asked for it.

use caudal_domain::{BatchRef, FileEvent, FileRef, FileState, Reason};

use crate::store::attempts::AttemptRow;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::{Needs, Range};
use crate::writer::verb::{Reply, Verb};

/// The slice from an ordinal on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailMissing {
    pub(crate) batch: BatchRef,
    pub(crate) from: u32,
}

impl FailMissing {
    fn range(&self) -> Range {
        Range::slice(self.batch, self.from)
    }
}

impl Verb for FailMissing {
    /// Where the next slice begins; `None`: nothing is left.
    type Answer = Option<u32>;
    const NAME: &'static str = "FailMissing";

    fn rows(&self) -> usize {
        self.range().rows()
    }

    fn needs(&self) -> Needs {
        self.range().needs()
    }

    /// With the last slice it is done: what is asked for again later, by a retry, has its time to arrive.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Option<u32>>, Stop> {
        let asked = group.rows.batch(self.batch);
        if !asked.is_some_and(|row| row.missing_fails) {
            return Ok(Reply::Now(None));
        }
        let range = self.range();
        let loaded = group.loaded.clone();
        let rows = loaded.rows_of(range);
        for read in rows {
            // What this group has moved is newer than what was read.
            let row = group.rows.file(read.file).unwrap_or(read);
            if !matches!(row.state, FileState::Pending | FileState::Uploading) {
                continue;
            }
            if group.rows.file(read.file).is_none() {
                group.rows.take_in(read.clone());
            }
            group.never_arrived(read.file)?;
        }
        let next = range.next(rows);
        if next.is_none() {
            let batch = group.rows.batch_mut(self.batch)?;
            batch.row.missing_fails = false;
            batch.touched = true;
        }
        Ok(Reply::Now(next))
    }
}

impl Group<'_> {
    /// Gives a file up that has not arrived (protocol 12.3).
    fn never_arrived(&mut self, file: FileRef) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let letter = AttemptRow {
            file,
            token: row.token,
            stage: row.stage,
            reason: Reason::NeverArrived,
            detail: String::new(),
            trace_id: String::new(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        self.fail_with_letter(letter, Reason::NeverArrived, FileEvent::NeverArrived)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchState, Token};

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::needs::SLICE;
    use crate::writer::trial::Trial;

    // Protocol 10.2, 12.3: in slices; files are given up when a batch is completed with missing = FAIL.
    #[test]
    fn what_has_not_arrived_is_given_up_slice_by_slice_and_the_rest_goes_on() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, SLICE + 1);
        trial.confirm(&files[..1]);
        trial.complete(batch, true);
        let slice = |from| FailMissing { batch, from };
        assert_eq!(trial.ask(slice(0)).unwrap(), Some(SLICE));
        assert!(trial.progress(batch).missing_fails);
        assert_eq!(trial.row(files[0]).state, FileState::Queued);
        let row = trial.row(files[1]);
        assert_eq!(row.state, FileState::Failed);
        assert_eq!(row.token, Token::FIRST.next());
        assert_eq!(trial.letter(files[1]), Some(Reason::NeverArrived));
        assert_eq!(trial.row(files[SLICE as usize]).state, FileState::Pending);
        assert_eq!(trial.ask(slice(SLICE)).unwrap(), None);
        let row = trial.progress(batch);
        assert_eq!(row.facts.counts.failed, SLICE);
        assert_eq!((row.missing_fails, row.state), (false, BatchState::Running));
    }

    // Protocol 11.2: the client is asked again, while the slices go on or afterwards.
    #[test]
    fn bytes_that_are_asked_for_again_have_their_time() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, SLICE + 1)[0];
        trial.complete(batch, true);
        trial.ask(FailMissing { batch, from: 0 }).unwrap();
        let skip_backoff = false;
        assert_eq!(trial.apply(FileVerb::Retry { skip_backoff }, file), None);
        trial.ask(FailMissing { batch, from: SLICE }).unwrap();
        let before = trial.everything();
        assert_eq!(trial.ask(FailMissing { batch, from: 0 }).unwrap(), None);
        assert_eq!(trial.everything(), before);
        assert_eq!(trial.row(file).state, FileState::Pending);
    }

    #[test]
    fn nothing_is_given_up_of_a_batch_that_waits_for_what_is_missing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.add(batch, 1);
        trial.complete(batch, false);
        let before = trial.everything();
        assert_eq!(trial.ask(FailMissing { batch, from: 0 }).unwrap(), None);
        assert_eq!(trial.everything(), before);
    }
}
