//! The next piece of a bulk operation: done, and noted in the operation's row, in one transaction; so an operation goes on
//! where it stood whoever leads.

use caudal_domain::{FileRef, FileState, Target, TenantId};
use uuid::Uuid;

use super::FileRefused;
use super::cancel::cancel;
use super::reprocess::reprocess;
use super::retry::retry;
use crate::store::operations::{FileVerb, OperationState};
use crate::store::selection::Position;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

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
        let waits_for_it = self
            .rows
            .file(found.file)
            .is_some_and(|row| row.was_given_up() && row.target == found.target);
        waits_for_it && !self.rows.is_cancelled(found.file.batch_ref())
    }

    /// Applies a verb to a file. One that is refused changes nothing and stops no other.
    fn apply(&mut self, verb: FileVerb, file: FileRef) -> Result<FileRefused, GroupError> {
        let Some(row) = self.rows.file(file) else {
            return Ok(Some("NOT_FOUND"));
        };
        match verb {
            FileVerb::Cancel => cancel(self, file),
            FileVerb::Retry { skip_backoff } => retry(self, file, skip_backoff),
            FileVerb::Reprocess { from, force } => reprocess(self, file, from, force),
            FileVerb::Dismiss if row.state == FileState::Failed => {
                self.effects.dismissed.push(file);
                Ok(None)
            }
            FileVerb::Dismiss => Ok(Some("NOT_FAILED")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::Reason;

    use super::*;
    use crate::writer::trial::Trial;

    // Protocol 10.4: a slice, the counts and the cursor in one transaction.
    #[test]
    fn a_slice_counts_what_it_did_and_says_where_the_next_begins() {
        let mut trial = Trial::new();
        let mut files = trial.queued(2);
        assert_eq!(trial.apply(FileVerb::Cancel, files[0]), None);
        files.push(files[0].batch_ref().file(9));
        let start = trial.operation(FileVerb::Cancel);
        let id = start.id;
        trial.ask(start).unwrap();
        let cursor = Some(Position {
            batch: files[0].batch,
            ordinal: 10,
        });
        let slice = ApplySlice {
            cursor,
            ended: false,
            ..trial.slice(id, &files)
        };
        trial.ask(slice).unwrap();
        let row = trial.operation_row(id);
        assert_eq!((row.state, row.done), (OperationState::Running, 1));
        assert_eq!((row.cursor, row.ended_at), (cursor, None));
        let refused: Vec<(&str, u64)> = row
            .refused
            .iter()
            .map(|(why, count)| (why.as_str(), *count))
            .collect();
        assert_eq!(refused, [("ALREADY_FINAL", 1), ("NOT_FOUND", 1)]);
        let last = trial.slice(id, &[]);
        trial.ask(last).unwrap();
        let row = trial.operation_row(id);
        assert_eq!(row.state, OperationState::Succeeded);
        assert_eq!((row.done, row.ended_at), (1, Some(trial.now())));
    }

    // Protocol 11.2: what the store has under the current target is adopted.
    #[test]
    fn bytes_that_the_store_was_found_to_hold_are_adopted_under_their_target_alone() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.complete(batch, true);
        trial.settle_missing(&files, true);
        let start = trial.operation(FileVerb::Retry {
            skip_backoff: false,
        });
        let id = start.id;
        trial.ask(start).unwrap();
        let found = |file, target| FoundBytes {
            file,
            target,
            etag: "found".into(),
        };
        let arrived = vec![
            found(files[0], Target::FIRST),
            found(files[1], Target::FIRST.next()),
        ];
        let slice = ApplySlice {
            arrived,
            ..trial.slice(id, &files)
        };
        trial.ask(slice).unwrap();
        let adopted = trial.row(files[0]);
        assert_eq!(
            (adopted.state, adopted.target),
            (FileState::Queued, Target::FIRST)
        );
        assert_eq!(adopted.etag.as_deref(), Some("found"));
        let asked_again = trial.row(files[1]);
        assert_eq!(
            (asked_again.state, asked_again.etag),
            (FileState::Pending, None)
        );
        assert_eq!(asked_again.target, Target::FIRST.next());
        assert_eq!(trial.operation_row(id).done, 2);
    }

    #[test]
    fn a_dead_letter_is_dismissed_and_its_file_stays_failed() {
        let mut trial = Trial::new();
        let files = trial.queued(2);
        trial.fail(files[0], Reason::CorruptDocument);
        let before = trial.row(files[0]);
        assert_eq!(trial.apply(FileVerb::Dismiss, files[0]), None);
        assert_eq!(
            trial.apply(FileVerb::Dismiss, files[1]).as_deref(),
            Some("NOT_FAILED")
        );
        assert_eq!(trial.row(files[0]), before);
        assert!(trial.read(|tables| tables.letters[&files[0]].dismissed));
    }
}
