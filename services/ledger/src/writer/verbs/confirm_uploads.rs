//! Takes the client's word that bytes have landed (protocol 12.2).

use std::collections::HashSet;

use caudal_domain::{BatchRef, FileEvent, FileRef, FileState, Refusal, Target, names};
use caudal_proto::v1::ConfirmUploadsResponse;
use prost::Message;

use crate::wire::{self, FileAnswer};
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Uploads of one batch.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmUploads {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    pub(crate) uploads: Vec<ConfirmedUpload>,
    /// The files that the caller does not know: it is answered as if there were none.
    pub(crate) foreign: HashSet<u32>,
}

/// Bytes that landed.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmedUpload {
    pub(crate) ordinal: u32,
    pub(crate) target: Target,
    pub(crate) etag: String,
}

impl Verb for ConfirmUploads {
    type Answer = ConfirmUploadsResponse;
    const NAME: &'static str = "ConfirmUploads";

    fn rows(&self) -> usize {
        self.uploads.len()
    }

    fn needs(&self) -> Needs {
        let files = self.uploads.iter();
        Needs {
            files: files
                .map(|upload| self.batch.file(upload.ordinal))
                .collect(),
            ..Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<ConfirmUploadsResponse>, Stop> {
        let tenant = self.batch.tenant;
        if let Some(first) = group.first_answer(tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        group.batch_in_force(self.batch)?;
        let mut answers = Vec::with_capacity(self.uploads.len());
        for upload in &self.uploads {
            let file = self.batch.file(upload.ordinal);
            answers.push(if self.foreign.contains(&upload.ordinal) {
                FileAnswer::unknown(file)
            } else {
                group.confirm(file, upload)?
            });
        }
        group.touch(self.batch)?;
        let ordinals = self.uploads.iter().map(|upload| upload.ordinal);
        let response = wire::confirmations(ordinals, &answers);
        group.remember(tenant, &self.request, response.encode_to_vec());
        Ok(Reply::Now(response))
    }
}

impl Group<'_> {
    /// One that was taken before changes nothing; one for a file that was given up as never arrived brings it back
    /// (protocol 12.3).
    fn confirm(
        &mut self,
        file: FileRef,
        upload: &ConfirmedUpload,
    ) -> Result<FileAnswer, GroupError> {
        let name = || names::file_name(file.batch, file.ordinal);
        let Some(row) = self.rows.file(file) else {
            return Ok(FileAnswer::unknown(file));
        };
        if row.target != upload.target && !planted!(TargetNotCompared) {
            let message = format!(
                "{} is waiting for target {}, not {}: ask for a new target and upload again",
                name(),
                row.target.get(),
                upload.target.get()
            );
            let refusal = Refusal::failed_precondition("TARGET_SUPERSEDED", message);
            return Ok(FileAnswer::Refused(refusal));
        }
        if planted!(ConfirmedTwice) && !row.state.is_final() && row.etag.is_some() {
            self.raise_token(file)?;
            self.make_ready(file, self.now)?;
            return Ok(FileAnswer::Stands(FileState::Uploaded));
        }
        if row.waits_for_bytes() || row.was_given_up() {
            self.take_bytes(file, &upload.etag)?;
        }
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        Ok(FileAnswer::Stands(row.state))
    }

    /// The bytes of a file are there; of one that was given up, after all.
    pub(super) fn take_bytes(&mut self, file: FileRef, etag: &str) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        if row.state == FileState::Failed {
            self.step(file, FileEvent::Adopted)?;
            self.undo_dead_letter(file);
        }
        self.raise_token(file)?;
        let row = self.rows.bytes_mut(file)?;
        row.etag = Some(etag.to_owned());
        row.reason = None;
        self.step(file, FileEvent::Arrived)?;
        self.make_ready(file, self.now)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchState, Token};
    use caudal_proto::v1::{self, confirmation};

    use super::*;
    use crate::writer::trial::{SIZE, Trial};

    fn states(answer: &ConfirmUploadsResponse) -> Vec<Option<i32>> {
        let confirmations = answer.confirmations.iter();
        let state = |confirmation: &v1::Confirmation| match confirmation.result {
            Some(confirmation::Result::State(state)) => Some(state),
            _ => None,
        };
        confirmations.map(state).collect()
    }

    // Protocol 12.2: token + 1, and on to QUEUED in the same write.
    #[test]
    fn a_file_whose_bytes_landed_goes_out_at_once_and_a_repeat_changes_nothing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let confirmation = trial.confirmation(&[file]);
        let first = trial.ask(confirmation.clone()).unwrap();
        let row = trial.row(file);
        assert_eq!((row.state, row.token), (FileState::Queued, Token::new(2)));
        assert_eq!(row.etag.as_deref(), Some("etag"));
        assert_eq!(row.dispatched_at, Some(trial.now()));
        assert_eq!(trial.progress(batch).bytes_uploaded, SIZE);
        let before = trial.everything();
        assert_eq!(trial.ask(confirmation).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 12.2: when the target is the row's.
    #[test]
    fn bytes_under_another_target_are_refused_and_stop_no_other_file() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        let mut confirmation = trial.confirmation(&files);
        confirmation.uploads[0].target = Target::FIRST.next();
        let before = trial.row(files[0]);
        let answer = trial.ask(confirmation).unwrap();
        assert_eq!(states(&answer), [None, Some(v1::FileState::Queued.into())]);
        assert_eq!(trial.row(files[0]), before);
        assert_eq!(trial.row(files[1]).state, FileState::Queued);
    }

    // Protocol 12.2: already further: answered with its state, unchanged.
    #[test]
    fn a_file_that_is_further_already_stays_as_it_is() {
        let mut trial = Trial::new();
        let files = trial.processing(1);
        let before = trial.row(files[0]);
        let mut confirmation = trial.confirmation(&files);
        confirmation.uploads[0].etag = "another".into();
        let answer = trial.ask(confirmation).unwrap();
        assert_eq!(states(&answer), [Some(v1::FileState::Processing.into())]);
        assert_eq!(trial.row(files[0]), before);
    }

    // Protocol 10.2.
    #[test]
    fn a_batch_that_is_being_cancelled_takes_no_bytes() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.cancel(batch);
        let before = trial.everything();
        let confirmation = trial.confirmation(&files);
        let refusal = trial.ask(confirmation).unwrap_err();
        assert_eq!(refusal.reason, "BATCH_CANCELLED");
        assert_eq!(trial.everything(), before);
    }

    // Protocol 12.3: and the batch runs again.
    #[test]
    fn bytes_of_a_file_that_was_given_up_bring_it_back() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        trial.complete(batch, true);
        trial.settle_missing(&[file], true);
        assert_eq!(trial.progress(batch).state, BatchState::Failed);
        trial.confirm(&[file]);
        let row = trial.row(file);
        assert_eq!((row.state, row.reason), (FileState::Queued, None));
        assert_eq!(trial.letter(file), None);
        let progress = trial.progress(batch);
        assert_eq!((progress.state, progress.run), (BatchState::Running, 2));
    }
}
