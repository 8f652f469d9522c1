//! Cancels a file: whatever is not final becomes CANCELLED.

use caudal_domain::{FileEvent, FileRef};

use super::apply_slice::FileRefused;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

impl Group<'_> {
    /// The token rises, so that no lease, renewal or report finds the file any more (protocol 10.1).
    pub(super) fn cancel(&mut self, file: FileRef) -> Result<FileRefused, GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        if row.state.is_final() {
            return Ok(Some("ALREADY_FINAL"));
        }
        if !planted!(TokenKeptAtCancel) {
            self.raise_token(file)?;
        }
        self.step(file, FileEvent::Cancel)?;
        Ok(None)
    }
}
