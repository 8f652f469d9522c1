//! Settles files that wait for their bytes, once the store was asked for them (protocol 12.3): what landed is taken, and the
//! rest is given up where the batch was completed so or its uploads have had their time.

use caudal_domain::{BatchRef, FileEvent, FileRef, Reason, Target};

use crate::store::attempts::AttemptRow;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Files of one batch, and what the store has of each.
#[derive(Clone, Debug)]
pub(crate) struct SettleMissing {
    pub(crate) batch: BatchRef,
    pub(crate) asked: Vec<AskedUpload>,
    /// Nothing of the batch is left to be asked about.
    pub(crate) last: bool,
}

/// A file without bytes, and what the store has of it.
#[derive(Clone, Debug)]
pub(crate) struct AskedUpload {
    pub(crate) file: FileRef,
    /// The one that the store was asked for.
    pub(crate) target: Target,
    /// Of an object that is as large as was declared.
    pub(crate) etag: Option<String>,
}

impl Verb for SettleMissing {
    type Answer = ();
    const NAME: &'static str = "SettleMissing";

    fn rows(&self) -> usize {
        self.asked.len()
    }

    fn needs(&self) -> Needs {
        Needs {
            batch: Some(self.batch),
            ..Needs::of_files(self.asked.iter().map(|asked| asked.file).collect())
        }
    }

    /// With the last of them a completion that asked for it is done: what is asked for again later has its time to arrive.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let row = group.rows.batch(self.batch);
        let Some(row) = row.filter(|row| !row.facts.cancel_requested) else {
            return Ok(Reply::Now(()));
        };
        // A client that came back meanwhile has moved the deadline.
        let gives_up = row.missing_fails || row.upload_deadline <= group.now;
        let ends_completion = row.missing_fails && self.last;
        for asked in &self.asked {
            group.settle(asked, gives_up)?;
        }
        if ends_completion {
            let batch = group.rows.batch_mut(self.batch)?;
            batch.row.missing_fails = false;
            batch.touched = true;
        }
        Ok(Reply::Now(()))
    }
}

impl Group<'_> {
    fn settle(&mut self, asked: &AskedUpload, gives_up: bool) -> Result<(), GroupError> {
        let Some(row) = self.rows.file(asked.file) else {
            return Ok(());
        };
        if row.target != asked.target && !planted!(OldTargetTaken) {
            return Ok(());
        }
        let waits = row.waits_for_bytes();
        match &asked.etag {
            Some(etag) if (waits || row.was_given_up()) && !planted!(LandedGivenUp) => {
                self.take_bytes(asked.file, etag)
            }
            _ if waits && gives_up => self.give_up(asked.file, Reason::NeverArrived, ""),
            _ => Ok(()),
        }
    }

    /// Fails a file whose bytes will not come, with the words of whoever says so.
    pub(super) fn give_up(
        &mut self,
        file: FileRef,
        reason: Reason,
        detail: &str,
    ) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let letter = AttemptRow {
            file,
            token: row.token,
            stage: row.stage,
            reason,
            detail: detail.to_owned(),
            trace_id: String::new(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        self.fail_with_letter(letter, reason, FileEvent::NeverArrived)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::{BatchState, FileState, Token, limits};

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::trial::Trial;

    // Protocol 12.3: files are given up when a batch is completed with missing = FAIL.
    #[test]
    fn what_has_not_arrived_is_given_up_in_parts_and_the_rest_goes_on() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 3);
        trial.confirm(&files[..1]);
        trial.complete(batch, true);
        trial.settle_missing(&files[..2], false);
        assert!(trial.progress(batch).missing_fails);
        assert_eq!(trial.row(files[0]).state, FileState::Queued);
        let row = trial.row(files[1]);
        assert_eq!(row.state, FileState::Failed);
        assert_eq!(row.token, Token::FIRST.next());
        assert_eq!(trial.letter(files[1]), Some(Reason::NeverArrived));
        assert_eq!(trial.row(files[2]).state, FileState::Pending);
        trial.settle_missing(&files[2..], true);
        let row = trial.progress(batch);
        assert_eq!(row.facts.counts.failed, 2);
        assert_eq!((row.missing_fails, row.state), (false, BatchState::Running));
    }

    // Protocol 11.2: the client is asked again, while the parts go on or afterwards.
    #[test]
    fn bytes_that_are_asked_for_again_have_their_time() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.complete(batch, true);
        trial.settle_missing(&files[..1], false);
        let skip_backoff = false;
        assert_eq!(
            trial.apply(FileVerb::Retry { skip_backoff }, files[0]),
            None
        );
        trial.settle_missing(&files[1..], true);
        let before = trial.everything();
        trial.settle_missing(&files[..1], true);
        assert_eq!(trial.everything(), before);
        assert_eq!(trial.row(files[0]).state, FileState::Pending);
    }

    #[test]
    fn nothing_is_given_up_of_a_batch_that_waits_for_what_is_missing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.complete(batch, false);
        let before = trial.everything();
        trial.settle_missing(&files, true);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 12.3: at the upload deadline; and a client that came back has moved it.
    #[test]
    fn uploads_that_have_had_their_time_are_given_up_unless_their_client_came_back() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.pass(limits::UPLOAD_DEADLINE - Duration::from_secs(1));
        trial.settle_missing(&files, true);
        assert_eq!(trial.row(files[0]).state, FileState::Pending);
        trial.confirm(&files[..1]);
        trial.pass(Duration::from_secs(2));
        trial.settle_missing(&files, true);
        assert_eq!(trial.row(files[1]).state, FileState::Pending);
        trial.pass(limits::UPLOAD_DEADLINE);
        trial.settle_missing(&files, true);
        assert_eq!(trial.letter(files[1]), Some(Reason::NeverArrived));
        assert_eq!(trial.letter(files[0]), None);
    }

    // Protocol 12.3: an object that is found is taken, before its file is given up and afterwards.
    #[test]
    fn bytes_that_the_store_has_are_taken_whether_their_file_was_given_up_or_not() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.complete(batch, true);
        trial.settle_missing(&files[1..], false);
        let found = |file| AskedUpload {
            file,
            target: Target::FIRST,
            etag: Some("found".into()),
        };
        let settle = SettleMissing {
            batch,
            asked: files.iter().copied().map(found).collect(),
            last: true,
        };
        trial.ask(settle).unwrap();
        for file in &files {
            let row = trial.row(*file);
            assert_eq!(row.etag.as_deref(), Some("found"));
            assert_eq!(row.state, FileState::Queued);
            assert_eq!(trial.letter(*file), None);
        }
        assert_eq!(trial.progress(batch).state, BatchState::Running);
    }

    #[test]
    fn an_answer_about_another_target_or_a_cancelled_batch_changes_nothing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.complete(batch, true);
        let other = AskedUpload {
            file: files[0],
            target: Target::FIRST.next(),
            etag: None,
        };
        let before = trial.everything();
        let settle = SettleMissing {
            batch,
            asked: vec![other],
            last: false,
        };
        trial.ask(settle).unwrap();
        assert_eq!(trial.everything(), before);
        trial.cancel(batch);
        let before = trial.everything();
        trial.settle_missing(&files, true);
        assert_eq!(trial.everything(), before);
    }
}
