//! Fails what has not arrived of a slice of a batch, after a completion that asked for it.

use caudal_domain::{BatchRef, FileEvent, FileRef, FileState, Reason};

use super::SLICE;
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
        Range {
            batch: self.batch,
            from: self.from,
            limit: SLICE,
        }
    }
}

impl Verb for FailMissing {
    /// Where the next slice begins; `None`: nothing is left.
    type Answer = Option<u32>;
    const NAME: &'static str = "FailMissing";

    fn rows(&self) -> usize {
        SLICE as usize
    }

    fn needs(&self) -> Needs {
        Needs {
            batch: Some(self.batch),
            range: Some(self.range()),
            ..Needs::default()
        }
    }

    /// With the last slice it is done: what is asked for again later, by a retry, has its time to arrive.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Option<u32>>, Stop> {
        let asked = group.rows.batch(self.batch);
        if !asked.is_some_and(|row| row.missing_fails) {
            return Ok(Reply::Now(None));
        }
        let range = self.range();
        let loaded = group.loaded.clone();
        let rows = loaded.ranges.get(&range).map_or(&[][..], Vec::as_slice);
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
