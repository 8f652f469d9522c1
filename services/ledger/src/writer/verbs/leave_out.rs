//! Takes the client's word that the bytes of files will not come, and why.

use std::collections::HashSet;

use caudal_domain::{BatchRef, FileRef, FileState, Reason};
use caudal_proto::v1::LeaveOutFilesResponse;
use prost::Message;

use crate::wire::{self, FileAnswer};
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Files of one batch.
#[derive(Clone, Debug)]
pub(crate) struct LeaveOut {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    pub(crate) files: Vec<LeftOut>,
    /// Those of them that the caller does not know: it is answered as if there were none.
    pub(crate) foreign: HashSet<u32>,
}

/// A file whose bytes will not come.
#[derive(Clone, Debug)]
pub(crate) struct LeftOut {
    pub(crate) ordinal: u32,
    pub(crate) cause: String,
}

impl Verb for LeaveOut {
    type Answer = LeaveOutFilesResponse;
    const NAME: &'static str = "LeaveOutFiles";

    fn rows(&self) -> usize {
        self.files.len()
    }

    fn needs(&self) -> Needs {
        let files = self.files.iter();
        Needs {
            files: files.map(|one| self.batch.file(one.ordinal)).collect(),
            ..Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<LeaveOutFilesResponse>, Stop> {
        let tenant = self.batch.tenant;
        if let Some(first) = group.first_answer(tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        group.batch_in_force(self.batch)?;
        let mut answers = Vec::with_capacity(self.files.len());
        for one in &self.files {
            let file = self.batch.file(one.ordinal);
            answers.push(if self.foreign.contains(&one.ordinal) {
                FileAnswer::unknown(file)
            } else {
                group.leave_out(file, &one.cause)?
            });
        }
        group.touch(self.batch)?;
        let ordinals = self.files.iter().map(|one| one.ordinal);
        let response = wire::left_out(ordinals, &answers);
        group.remember(tenant, &self.request, response.encode_to_vec());
        Ok(Reply::Now(response))
    }
}

impl Group<'_> {
    /// Only who waits for bytes is left out: what has arrived is worked on, whatever became of its source.
    fn leave_out(&mut self, file: FileRef, cause: &str) -> Result<FileAnswer, GroupError> {
        let Some(row) = self.rows.file(file) else {
            return Ok(FileAnswer::unknown(file));
        };
        if !row.waits_for_bytes() {
            return Ok(FileAnswer::Stands(row.state));
        }
        self.give_up(file, Reason::LeftOutByClient, cause)?;
        Ok(FileAnswer::Stands(FileState::Failed))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchState, Token};
    use caudal_proto::v1::{self, leave_out};

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::trial::Trial;

    const CAUSE: &str = "Permission denied (os error 13)";

    fn leaving_out(trial: &mut Trial, files: &[FileRef]) -> LeaveOut {
        let left_out = files.iter().map(|file| LeftOut {
            ordinal: file.ordinal,
            cause: CAUSE.to_owned(),
        });
        LeaveOut {
            batch: files[0].batch_ref(),
            request: trial.request(),
            files: left_out.collect(),
            foreign: HashSet::new(),
        }
    }

    fn states(answer: &LeaveOutFilesResponse) -> Vec<Option<v1::FileState>> {
        let state = |file: &v1::LeaveOut| match file.result {
            Some(leave_out::Result::State(state)) => v1::FileState::try_from(state).ok(),
            _ => None,
        };
        answer.files.iter().map(state).collect()
    }

    // Protocol 12.3: token + 1, FAILED, a dead letter with the cause; a repeat changes nothing.
    #[test]
    fn a_file_that_the_client_cannot_send_fails_with_its_cause() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let leave_out = leaving_out(&mut trial, &[file]);
        let first = trial.ask(leave_out.clone()).unwrap();
        assert_eq!(states(&first), [Some(v1::FileState::Failed)]);
        let row = trial.row(file);
        assert_eq!(row.state, FileState::Failed);
        assert_eq!(row.reason, Some(Reason::LeftOutByClient));
        assert_eq!(row.token, Token::FIRST.next());
        assert_eq!(trial.letter(file), Some(Reason::LeftOutByClient));
        assert!(trial.everything().contains(CAUSE));
        assert!(trial.attempts(file).is_empty(), "no stage tried anything");
        let before = trial.everything();
        assert_eq!(trial.ask(leave_out).unwrap(), first);
        assert_eq!(trial.everything(), before);
        trial.complete(batch, false);
        assert_eq!(trial.progress(batch).state, BatchState::Failed);
    }

    #[test]
    fn what_has_arrived_and_what_is_unknown_stay_as_they_are() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        let before = trial.row(file);
        let unknown = file.batch_ref().file(9);
        let leave_out = leaving_out(&mut trial, &[file, unknown]);
        let answer = trial.ask(leave_out).unwrap();
        assert_eq!(states(&answer), [Some(v1::FileState::Queued), None]);
        assert_eq!(trial.row(file), before);
    }

    #[test]
    fn a_file_that_the_caller_does_not_know_is_answered_as_one_that_is_not_there() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let before = trial.row(file);
        let unknown = batch.file(9);
        let leave_out = LeaveOut {
            foreign: HashSet::from([file.ordinal]),
            ..leaving_out(&mut trial, &[file, unknown])
        };
        let answer = trial.ask(leave_out).unwrap();
        let told = |at: usize, ordinal: u32| {
            let Some(leave_out::Result::Error(error)) = &answer.files[at].result else {
                panic!("{:?} was left out", answer.files[at]);
            };
            let words = error
                .message
                .replace(&format!("/files/{ordinal}"), "/files/N");
            (error.code, words)
        };
        assert_eq!(told(0, file.ordinal), told(1, unknown.ordinal));
        assert_eq!(trial.row(file), before);
    }

    // Protocol 12.3, 11.2.
    #[test]
    fn bytes_that_come_after_all_are_taken_and_a_retry_asks_for_them() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        let leave_out = leaving_out(&mut trial, &files);
        trial.ask(leave_out).unwrap();
        trial.confirm(&files[..1]);
        assert_eq!(trial.row(files[0]).state, FileState::Queued);
        assert_eq!(trial.letter(files[0]), None);
        let skip_backoff = false;
        assert_eq!(
            trial.apply(FileVerb::Retry { skip_backoff }, files[1]),
            None
        );
        assert_eq!(trial.row(files[1]).state, FileState::Pending);
    }

    // Protocol 10.2.
    #[test]
    fn a_batch_that_is_being_cancelled_takes_no_word() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.cancel(batch);
        let before = trial.everything();
        let leave_out = leaving_out(&mut trial, &files);
        let refusal = trial.ask(leave_out).unwrap_err();
        assert_eq!(refusal.reason, "BATCH_CANCELLED");
        assert_eq!(trial.everything(), before);
    }
}
