//! The next piece of a bulk operation: done, and noted in the operation's row, in one transaction; so an operation goes on
//! where it stood whoever leads.

use caudal_domain::{FileRef, FileState, Reason, Target, TenantId};
use uuid::Uuid;

use crate::store::operations::{FileVerb, OperationState};
use crate::store::selection::Position;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Why a file was left as it is; a code for people and programs. `None`: the verb was applied.
pub(super) type FileRefused = Option<&'static str>;

/// Files of an operation.
#[derive(Clone, Debug)]
pub(crate) struct ApplySlice {
    pub(crate) tenant: TenantId,
    pub(crate) operation: Uuid,
    /// In the order of keys.
    pub(crate) files: Vec<FileRef>,
    /// Those of them whose bytes the store was asked for and has.
    pub(crate) arrived: Vec<FoundBytes>,
    /// Where the next slice begins.
    pub(crate) cursor: Option<Position>,
    /// There is no next one.
    pub(crate) ended: bool,
}

/// Bytes that the store was found to hold.
#[derive(Clone, Debug)]
pub(crate) struct FoundBytes {
    pub(crate) file: FileRef,
    pub(crate) target: Target,
    pub(crate) etag: String,
}

impl Verb for ApplySlice {
    type Answer = ();
    const NAME: &'static str = "ApplySlice";

    fn rows(&self) -> usize {
        self.files.len()
    }

    fn needs(&self) -> Needs {
        Needs {
            operation: Some((self.tenant, self.operation)),
            results_of_processed: true,
            ..Needs::of_files(self.files.clone())
        }
    }

    /// Unless the operation has ended meanwhile: then nothing of it is done.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let Some(mut row) = group.operation_in_force(self.tenant, self.operation) else {
            return Ok(Reply::Now(()));
        };
        for file in &self.files {
            let found = self.arrived.iter().find(|found| found.file == *file);
            let refused = match found {
                Some(found) if group.adopts(found) => {
                    group.take_bytes(*file, &found.etag)?;
                    None
                }
                _ => group.apply(row.verb, *file)?,
            };
            match refused {
                None => row.done += 1,
                Some(reason) => *row.refused.entry(reason.to_owned()).or_default() += 1,
            }
        }
        row.cursor = self.cursor;
        row.updated_at = group.now;
        if self.ended {
            row.state = OperationState::Succeeded;
            row.ended_at = Some(group.now);
        }
        group.effects.operations.push(row);
        Ok(Reply::Now(()))
    }
}

impl Group<'_> {
    /// Whether bytes that were found are those of a file that was given up as never arrived (protocol 11.2, 12.3).
    fn adopts(&self, found: &FoundBytes) -> bool {
        let waits_for_it = self.rows.file(found.file).is_some_and(|row| {
            row.state == FileState::Failed
                && row.reason == Some(Reason::NeverArrived)
                && row.target == found.target
        });
        waits_for_it && !self.rows.is_cancelled(found.file.batch_ref())
    }

    /// Applies a verb to a file. One that is refused changes nothing and stops no other.
    fn apply(&mut self, verb: FileVerb, file: FileRef) -> Result<FileRefused, GroupError> {
        let Some(row) = self.rows.file(file) else {
            return Ok(Some("NOT_FOUND"));
        };
        match verb {
            FileVerb::Cancel => self.cancel(file),
            FileVerb::Retry { skip_backoff } => self.retry(file, skip_backoff),
            FileVerb::Reprocess { from, force } => self.reprocess(file, from, force),
            FileVerb::Dismiss if row.state == FileState::Failed => {
                self.effects.dismissed.push(file);
                Ok(None)
            }
            FileVerb::Dismiss => Ok(Some("NOT_FAILED")),
        }
    }
}
