//! Cancels a slice of what is left of a cancelled batch (protocol 10.2).

use caudal_domain::BatchRef;

use super::cancel::cancel;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::{Needs, Range};
use crate::writer::verb::{Reply, Verb};

/// The slice from an ordinal on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CancelFiles {
    pub(crate) batch: BatchRef,
    pub(crate) from: u32,
}

impl CancelFiles {
    fn range(&self) -> Range {
        Range::slice(self.batch, self.from)
    }
}

impl Verb for CancelFiles {
    /// Where the next slice begins; `None`: nothing is left.
    type Answer = Option<u32>;
    const NAME: &'static str = "CancelFiles";

    fn rows(&self) -> usize {
        self.range().rows()
    }

    fn needs(&self) -> Needs {
        self.range().needs()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Option<u32>>, Stop> {
        let requested = group.rows.batch(self.batch);
        if !requested.is_some_and(|row| row.facts.cancel_requested) {
            return Ok(Reply::Now(None));
        }
        let range = self.range();
        let loaded = group.loaded.clone();
        let rows = loaded.rows_of(range);
        for row in rows {
            // What this group has moved is newer than what was read.
            if group.rows.file(row.file).is_none() {
                group.rows.take_in(row.clone());
            }
            let _ = cancel(group, row.file)?;
        }
        Ok(Reply::Now(range.next(rows)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchState, FileState};

    use super::*;
    use crate::writer::needs::SLICE;
    use crate::writer::trial::Trial;

    // Protocol 10.2: in slices.
    #[test]
    fn a_slice_ends_where_the_next_begins_and_the_last_ends_the_batch() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, SLICE + 1);
        trial.confirm(&files[..2]);
        trial.cancel(batch);
        let slice = |from| CancelFiles { batch, from };
        assert_eq!(trial.ask(slice(0)).unwrap(), Some(SLICE));
        assert_eq!(trial.row(files[0]).state, FileState::Cancelled);
        assert_eq!(trial.row(files[SLICE as usize]).state, FileState::Pending);
        assert_eq!(trial.progress(batch).state, BatchState::Running);
        assert_eq!(trial.ask(slice(SLICE)).unwrap(), None);
        let row = trial.progress(batch);
        assert_eq!(row.facts.counts.cancelled, SLICE + 1);
        assert_eq!(row.state, BatchState::Cancelled);
    }

    #[test]
    fn nothing_is_cancelled_of_a_batch_that_is_wanted() {
        let mut trial = Trial::new();
        let batch = trial.queued(2)[0].batch_ref();
        let before = trial.everything();
        assert_eq!(trial.ask(CancelFiles { batch, from: 0 }).unwrap(), None);
        assert_eq!(trial.everything(), before);
    }
}
