//! The state of a batch and of a folder: functions of their counters, written by nobody.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::file_state::FileState;
use crate::outcome::Outcome;

/// Where a batch is. Codes equal the numbers of the proto enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum BatchState {
    /// Its manifest still grows.
    Open = 1,
    /// Completed by the client (or being cancelled), with work left.
    Running = 2,
    /// All files are final and none is FAILED.
    Succeeded = 3,
    /// All files are final and at least one is FAILED.
    Failed = 4,
    /// Cancelled, and all files are final. Never left again.
    Cancelled = 5,
}

impl BatchState {
    /// Every state, in the order of the codes.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The stable number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The name on the wire and in the table, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more happens to the batch by itself.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Computes the state from the batch's row; called in the update that moves the counters, with the row locked.
    #[must_use]
    pub const fn derive(facts: &BatchFacts) -> Self {
        let something_left = facts.counts.open() > 0;
        if facts.cancel_requested {
            return if something_left {
                Self::Running
            } else {
                Self::Cancelled
            };
        }
        if !facts.manifest_complete {
            return Self::Open;
        }
        if something_left {
            return Self::Running;
        }
        if facts.counts.failed > 0 {
            return Self::Failed;
        }
        Self::Succeeded
    }
}

impl fmt::Display for BatchState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The number of the run after the state went from `previous` to `next`: one more when an ended batch runs again.
#[must_use]
pub const fn run_after(previous: BatchState, next: BatchState, run: u32) -> u32 {
    if previous.is_ended() && matches!(next, BatchState::Running) {
        return run.saturating_add(1);
    }
    run
}

/// All that the state of a batch depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFacts {
    /// The client, or the system for it, said that no entry follows.
    pub manifest_complete: bool,
    /// Someone cancelled the batch.
    pub cancel_requested: bool,
    /// How many files are in each state.
    pub counts: FileCounts,
}

/// How many files of a batch are in each state, and how many of the processed ones have each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileCounts {
    /// Files that are PENDING.
    pub pending: u32,
    /// Files that are UPLOADING.
    pub uploading: u32,
    /// Files that are UPLOADED.
    pub uploaded: u32,
    /// Files that are QUEUED.
    pub queued: u32,
    /// Files that are PROCESSING.
    pub processing: u32,
    /// Files that are PROCESSED.
    pub processed: u32,
    /// Files that are RETRYING.
    pub retrying: u32,
    /// Files that are FAILED.
    pub failed: u32,
    /// Files that are CANCELLED.
    pub cancelled: u32,
    /// PROCESSED files whose outcome is COMPLETE.
    pub complete: u32,
    /// PROCESSED files whose outcome is PARTIAL.
    pub partial: u32,
    /// PROCESSED files whose outcome is `STORED_ONLY`.
    pub stored_only: u32,
}

/// A counter would have fallen below zero or risen above its range: the counts and the files disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counter {counter} cannot move by {by}")]
pub struct CountUnderflow {
    /// Which counter, by the name of its state or outcome.
    pub counter: &'static str,
    /// By how much it should have moved.
    pub by: i64,
}

impl FileCounts {
    /// How many files are in `state`.
    #[must_use]
    pub const fn get(&self, state: FileState) -> u32 {
        match state {
            FileState::Pending => self.pending,
            FileState::Uploading => self.uploading,
            FileState::Uploaded => self.uploaded,
            FileState::Queued => self.queued,
            FileState::Processing => self.processing,
            FileState::Processed => self.processed,
            FileState::Retrying => self.retrying,
            FileState::Failed => self.failed,
            FileState::Cancelled => self.cancelled,
        }
    }

    /// All files; a sum that would leave the range stays at its end.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.open()
            .saturating_add(self.processed)
            .saturating_add(self.failed)
            .saturating_add(self.cancelled)
    }

    /// Files that are not final.
    #[must_use]
    pub const fn open(&self) -> u32 {
        self.pending
            .saturating_add(self.uploading)
            .saturating_add(self.uploaded)
            .saturating_add(self.queued)
            .saturating_add(self.processing)
            .saturating_add(self.retrying)
    }

    /// The counts after one file went from one state to another; `None` is "not in the batch" (entered, erased).
    pub const fn moved(
        self,
        from: Option<FileState>,
        to: Option<FileState>,
    ) -> Result<Self, CountUnderflow> {
        self.moved_many(from, to, 1)
    }

    /// The counts after `files` files went from one state to another.
    pub const fn moved_many(
        mut self,
        from: Option<FileState>,
        to: Option<FileState>,
        files: u32,
    ) -> Result<Self, CountUnderflow> {
        if let Some(state) = from
            && let Err(error) = shift(self.state_mut(state), -(files as i64), state.name())
        {
            return Err(error);
        }
        if let Some(state) = to
            && let Err(error) = shift(self.state_mut(state), files as i64, state.name())
        {
            return Err(error);
        }
        Ok(self)
    }

    /// The counts after the outcome of one processed file changed; `None` is "has none".
    pub const fn outcome_moved(
        mut self,
        from: Option<Outcome>,
        to: Option<Outcome>,
    ) -> Result<Self, CountUnderflow> {
        if let Some(outcome) = from
            && let Err(error) = shift(self.outcome_mut(outcome), -1, outcome.name())
        {
            return Err(error);
        }
        if let Some(outcome) = to
            && let Err(error) = shift(self.outcome_mut(outcome), 1, outcome.name())
        {
            return Err(error);
        }
        Ok(self)
    }

    const fn state_mut(&mut self, state: FileState) -> &mut u32 {
        match state {
            FileState::Pending => &mut self.pending,
            FileState::Uploading => &mut self.uploading,
            FileState::Uploaded => &mut self.uploaded,
            FileState::Queued => &mut self.queued,
            FileState::Processing => &mut self.processing,
            FileState::Processed => &mut self.processed,
            FileState::Retrying => &mut self.retrying,
            FileState::Failed => &mut self.failed,
            FileState::Cancelled => &mut self.cancelled,
        }
    }

    const fn outcome_mut(&mut self, outcome: Outcome) -> &mut u32 {
        match outcome {
            Outcome::Complete => &mut self.complete,
            Outcome::Partial => &mut self.partial,
            Outcome::StoredOnly => &mut self.stored_only,
        }
    }
}

const fn shift(counter: &mut u32, by: i64, name: &'static str) -> Result<(), CountUnderflow> {
    let moved = *counter as i64 + by;
    if moved < 0 || moved > u32::MAX as i64 {
        return Err(CountUnderflow { counter: name, by });
    }
    *counter = moved as u32;
    Ok(())
}

/// The four counters of a folder, over its whole subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FolderCounts {
    /// All files below.
    pub total: u32,
    /// Those PROCESSED.
    pub processed: u32,
    /// Those FAILED.
    pub failed: u32,
    /// Those CANCELLED.
    pub cancelled: u32,
}

/// Where a folder is, derived from its counters. Codes equal the numbers of the proto enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum FolderState {
    /// Something below is not final.
    Running = 1,
    /// All is final and nothing FAILED; also a folder of no files.
    Succeeded = 2,
    /// All is final and something FAILED.
    Failed = 3,
    /// All files below were cancelled.
    Cancelled = 4,
}

impl FolderState {
    /// Every state, in the order of the codes.
    pub const ALL: [Self; 4] = [
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Computes the state from the counters.
    #[must_use]
    pub const fn derive(counts: &FolderCounts) -> Self {
        let ended = counts
            .processed
            .saturating_add(counts.failed)
            .saturating_add(counts.cancelled);
        if ended < counts.total {
            return Self::Running;
        }
        if counts.failed > 0 {
            return Self::Failed;
        }
        if counts.cancelled > 0 && counts.processed == 0 {
            return Self::Cancelled;
        }
        Self::Succeeded
    }

    /// The stable number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name on the wire, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl fmt::Display for FolderState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn any_counts() -> impl Strategy<Value = FileCounts> {
        // Zero is frequent, so that ended batches are too.
        let count = prop_oneof![3 => Just(0_u32), 1 => 0_u32..1000];
        prop::array::uniform9(count).prop_map(|n| FileCounts {
            pending: n[0],
            uploading: n[1],
            uploaded: n[2],
            queued: n[3],
            processing: n[4],
            processed: n[5],
            retrying: n[6],
            failed: n[7],
            cancelled: n[8],
            complete: n[5],
            partial: 0,
            stored_only: 0,
        })
    }

    fn any_facts() -> impl Strategy<Value = BatchFacts> {
        (any::<bool>(), any::<bool>(), any_counts()).prop_map(
            |(manifest_complete, cancel_requested, counts)| BatchFacts {
                manifest_complete,
                cancel_requested,
                counts,
            },
        )
    }

    fn any_place() -> impl Strategy<Value = Option<FileState>> {
        prop::option::of(prop::sample::select(FileState::ALL.to_vec()))
    }

    proptest! {
        #[test]
        fn a_batch_ends_only_when_all_its_files_have_and_fails_only_for_a_failed_file(
            facts in any_facts()
        ) {
            // protocol 14.1
            let state = BatchState::derive(&facts);
            let counts = facts.counts;
            if state.is_ended() {
                prop_assert_eq!(counts.open(), 0);
                prop_assert!(facts.manifest_complete || facts.cancel_requested);
            }
            prop_assert_eq!(
                state == BatchState::Failed,
                !facts.cancel_requested
                    && facts.manifest_complete
                    && counts.open() == 0
                    && counts.failed > 0
            );
            prop_assert_eq!(
                state == BatchState::Cancelled,
                facts.cancel_requested && counts.open() == 0
            );
            prop_assert_eq!(
                state == BatchState::Open,
                !facts.manifest_complete && !facts.cancel_requested
            );
            if state == BatchState::Running {
                prop_assert!(counts.open() > 0);
            }
            if state == BatchState::Succeeded {
                prop_assert_eq!(counts.failed, 0);
            }
        }

        #[test]
        fn a_complete_batch_with_nothing_left_is_never_running(facts in any_facts()) {
            let done = BatchFacts { manifest_complete: true, counts: FileCounts {
                pending: 0, uploading: 0, uploaded: 0, queued: 0, processing: 0, retrying: 0,
                ..facts.counts
            }, ..facts };
            prop_assert!(BatchState::derive(&done).is_ended());
        }

        #[test]
        fn moves_conserve_the_counts(
            counts in any_counts(), from in any_place(), to in any_place(), files in 0_u32..50
        ) {
            let enough = from.is_none_or(|state| counts.get(state) >= files);
            let moved = counts.moved_many(from, to, files);
            prop_assert_eq!(moved.is_ok(), enough);
            if let Ok(moved) = moved {
                let entered = if from.is_none() && to.is_some() { files } else { 0 };
                let left = if from.is_some() && to.is_none() { files } else { 0 };
                prop_assert_eq!(moved.total() + left, counts.total() + entered);
                for state in FileState::ALL {
                    let came = if to == Some(state) { files } else { 0 };
                    let went = if from == Some(state) { files } else { 0 };
                    prop_assert_eq!(moved.get(state) + went, counts.get(state) + came);
                }
                prop_assert_eq!(moved.moved_many(to, from, files), Ok(counts));
            }
        }

        #[test]
        fn a_walk_of_many_files_keeps_the_counts_equal_to_a_recount(
            moves in prop::collection::vec((0_usize..20, prop::sample::select(FileState::ALL.to_vec())), 0..200)
        ) {
            let mut files = [FileState::Pending; 20];
            let mut counts = FileCounts { pending: 20, ..FileCounts::default() };
            for (which, to) in moves {
                counts = counts.moved(Some(files[which]), Some(to)).unwrap();
                files[which] = to;
            }
            for state in FileState::ALL {
                let recount = files.iter().filter(|file| **file == state).count();
                prop_assert_eq!(counts.get(state) as usize, recount);
            }
            prop_assert_eq!(counts.total(), 20);
        }

        #[test]
        fn a_folder_ends_only_when_all_below_it_has(
            processed in 0_u32..5, failed in 0_u32..5, cancelled in 0_u32..5, open in 0_u32..3
        ) {
            let counts = FolderCounts { total: processed + failed + cancelled + open, processed, failed, cancelled };
            let state = FolderState::derive(&counts);
            prop_assert_eq!(state == FolderState::Running, open > 0);
            if open == 0 {
                prop_assert_eq!(state == FolderState::Failed, failed > 0);
                prop_assert_eq!(
                    state == FolderState::Cancelled,
                    cancelled > 0 && cancelled == counts.total
                );
            }
        }
    }

    #[test]
    fn a_batch_of_no_files_succeeds_at_completion() {
        let mut facts = BatchFacts::default();
        assert_eq!(BatchState::derive(&facts), BatchState::Open);
        facts.manifest_complete = true;
        assert_eq!(BatchState::derive(&facts), BatchState::Succeeded);
        facts.cancel_requested = true;
        assert_eq!(BatchState::derive(&facts), BatchState::Cancelled);
    }

    #[test]
    fn files_cancelled_by_selection_do_not_fail_a_batch() {
        let counts = FileCounts {
            processed: 3,
            cancelled: 2,
            ..FileCounts::default()
        };
        let facts = BatchFacts {
            manifest_complete: true,
            cancel_requested: false,
            counts,
        };
        assert_eq!(BatchState::derive(&facts), BatchState::Succeeded);
    }

    #[test]
    fn only_an_ended_batch_that_runs_again_begins_a_new_run() {
        for previous in BatchState::ALL {
            for next in BatchState::ALL {
                let begins = previous.is_ended() && next == BatchState::Running;
                assert_eq!(run_after(previous, next, 4), 4 + u32::from(begins));
            }
        }
    }

    #[test]
    fn a_counter_never_falls_below_zero() {
        let error = FileCounts::default()
            .moved(Some(FileState::Queued), Some(FileState::Processing))
            .unwrap_err();
        assert_eq!(error.to_string(), "the counter QUEUED cannot move by -1");
        assert!(
            FileCounts::default()
                .outcome_moved(Some(Outcome::Partial), None)
                .is_err()
        );
        let counted = FileCounts::default()
            .outcome_moved(None, Some(Outcome::StoredOnly))
            .unwrap();
        assert_eq!(counted.stored_only, 1);
    }

    #[test]
    fn names_and_codes_read_back() {
        for state in BatchState::ALL {
            assert_eq!(BatchState::from_code(state.code()), Some(state));
            assert_eq!(BatchState::from_name(state.name()), Some(state));
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
        for state in FolderState::ALL {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }
}
