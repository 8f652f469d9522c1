//! Takes the client's word that bytes have landed (protocol 12.2).

use caudal_domain::{BatchRef, FileEvent, FileRef, FileState, Reason, Refusal, Target, names};
use caudal_proto::v1::ConfirmUploadsResponse;
use prost::Message;

use crate::wire;
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
            return Ok(Reply::Now(wire::decode(first)?));
        }
        group.batch_in_force(self.batch)?;
        let mut confirmed = Vec::with_capacity(self.uploads.len());
        for upload in &self.uploads {
            confirmed.push(group.confirm(self.batch.file(upload.ordinal), upload)?);
        }
        group.touch(self.batch)?;
        let ordinals = self.uploads.iter().map(|upload| upload.ordinal);
        let response = wire::confirmations(ordinals, &confirmed);
        group.remember(tenant, &self.request, response.encode_to_vec());
        Ok(Reply::Now(response))
    }
}

/// The state of a file, or why its confirmation was not taken: one that is refused stops no other.
type Confirmed = Result<FileState, Refusal>;

impl Group<'_> {
    /// One that was taken before changes nothing; one for a file that was given up as never arrived brings it back
    /// (protocol 12.3).
    fn confirm(
        &mut self,
        file: FileRef,
        upload: &ConfirmedUpload,
    ) -> Result<Confirmed, GroupError> {
        let name = || names::file_name(file.batch, file.ordinal);
        let Some(row) = self.rows.file(file) else {
            return Ok(Err(Refusal::not_found(&name())));
        };
        if row.target != upload.target && !planted!(TargetNotCompared) {
            let message = format!(
                "{} is waiting for target {}, not {}: ask for a new target and upload again",
                name(),
                row.target.get(),
                upload.target.get()
            );
            let refusal = Refusal::failed_precondition("TARGET_SUPERSEDED", message);
            return Ok(Err(refusal));
        }
        if planted!(ConfirmedTwice) && !row.state.is_final() && row.etag.is_some() {
            self.raise_token(file)?;
            self.make_ready(file, self.now)?;
            return Ok(Ok(FileState::Uploaded));
        }
        let given_up = row.state == FileState::Failed && row.reason == Some(Reason::NeverArrived);
        if matches!(row.state, FileState::Pending | FileState::Uploading) || given_up {
            self.take_bytes(file, &upload.etag)?;
        }
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        Ok(Ok(row.state))
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
