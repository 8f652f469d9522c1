//! Lets a FAILED file go on where it failed, or asks for its bytes again (protocol 11.1, 11.2).

use caudal_domain::{FileEvent, FileRef, FileState, Reason, Stage};

use super::apply_slice::FileRefused;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

impl Group<'_> {
    /// `skip_backoff`: a RETRYING file goes out now as well.
    pub(super) fn retry(
        &mut self,
        file: FileRef,
        skip_backoff: bool,
    ) -> Result<FileRefused, GroupError> {
        if self.rows.is_cancelled(file.batch_ref()) {
            return Ok(Some("BATCH_CANCELLED"));
        }
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        match row.state {
            FileState::Failed => match row.reason {
                Some(reason) if reason.needs_bytes() => self.ask_for_bytes_again(file, reason)?,
                _ => self.replay(file)?,
            },
            FileState::Retrying if skip_backoff => {
                self.raise_token(file)?;
                self.make_ready(file, self.now)?;
            }
            FileState::Retrying => return Ok(Some("ALREADY_RETRYING")),
            _ => return Ok(Some("NOT_FAILED")),
        }
        Ok(None)
    }

    /// Its bytes are good: it goes on at the stage where it failed, with full budgets (protocol 11.1).
    fn replay(&mut self, file: FileRef) -> Result<(), GroupError> {
        self.undo_dead_letter(file);
        self.raise_token(file)?;
        let row = self.rows.file_mut(file)?;
        row.fails = 0;
        row.kills = 0;
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
        if reason != Reason::NeverArrived {
            let batch = self.rows.batch_mut(file.batch_ref())?;
            let uploaded = &mut batch.row.bytes_uploaded;
            *uploaded = uploaded.saturating_sub(size);
        }
        self.step(file, FileEvent::Replay { needs_bytes: true })?;
        // The client needs its full time again.
        self.touch(file.batch_ref())
    }
}
