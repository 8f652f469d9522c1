//! The state machine of a file: one exhaustive `match`, with no database near it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a file is; always exactly one of these. The codes are stable and equal the numbers of the proto enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum FileState {
    /// In the manifest; no byte has been seen.
    Pending = 1,
    /// An upload has begun.
    Uploading = 2,
    /// The bytes are in the store and confirmed.
    Uploaded = 3,
    /// Admitted: a dispatch to a stage is out, nobody has leased it.
    Queued = 4,
    /// A stage works on it, or it waits between two stages.
    Processing = 5,
    /// Finished, with an outcome.
    Processed = 6,
    /// Waits for the end of its backoff.
    Retrying = 7,
    /// Given up, with a reason and a dead letter.
    Failed = 8,
    /// Cancelled by someone.
    Cancelled = 9,
}

static ALL_STATES: [FileState; 9] = FileState::ALL;

impl FileState {
    /// Every state, in the order of the codes.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Uploading,
        Self::Uploaded,
        Self::Queued,
        Self::Processing,
        Self::Processed,
        Self::Retrying,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The stable number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state with this number; none for 0 and for unknown numbers.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The name on the wire and in the table, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Uploading => "UPLOADING",
            Self::Uploaded => "UPLOADED",
            Self::Queued => "QUEUED",
            Self::Processing => "PROCESSING",
            Self::Processed => "PROCESSED",
            Self::Retrying => "RETRYING",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The state with this name, exactly as [`FileState::name`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more happens to the file by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Processed | Self::Failed | Self::Cancelled)
    }

    /// The state after `event`. Every pair stands here by name, so that a new state or event does not compile until its
    /// place is decided. A file that is PROCESSING stays so between two stages. What is not allowed changes nothing and
    /// is an [`IllegalTransition`].
    #[expect(
        clippy::match_same_arms,
        reason = "the arms stand in the order of a file's way, as the table does"
    )]
    pub const fn next(self, event: FileEvent) -> Result<Self, IllegalTransition> {
        use FileEvent as E;
        use FileState as S;
        match (self, event) {
            (S::Pending, E::UploadBegun) => Ok(S::Uploading),
            (S::Pending | S::Uploading, E::Arrived) => Ok(S::Uploaded),
            (S::Pending | S::Uploading, E::NeverArrived) => Ok(S::Failed),

            (S::Uploaded | S::Retrying, E::Admitted) => Ok(S::Queued),
            (S::Queued, E::Leased) => Ok(S::Processing),
            (S::Processing, E::Admitted | E::Leased | E::StageRecorded { last: false }) => {
                Ok(S::Processing)
            }
            (S::Processing, E::StageRecorded { last: true }) => Ok(S::Processed),
            (S::Processing, E::Retry) => Ok(S::Retrying),
            (S::Processing, E::Fail) => Ok(S::Failed),

            (S::Failed, E::Replay { needs_bytes: false }) => Ok(S::Retrying),
            (S::Failed, E::Replay { needs_bytes: true } | E::Adopted) => Ok(S::Pending),
            (S::Processed, E::Reprocess) => Ok(S::Uploaded),

            (
                S::Pending | S::Uploading | S::Uploaded | S::Queued | S::Processing | S::Retrying,
                E::Cancel,
            ) => Ok(S::Cancelled),

            (
                S::Pending
                | S::Uploading
                | S::Uploaded
                | S::Queued
                | S::Processing
                | S::Processed
                | S::Retrying
                | S::Failed
                | S::Cancelled,
                E::UploadBegun
                | E::Arrived
                | E::Admitted
                | E::Leased
                | E::StageRecorded { .. }
                | E::Retry
                | E::Fail
                | E::NeverArrived
                | E::Replay { .. }
                | E::Adopted
                | E::Reprocess
                | E::Cancel,
            ) => Err(IllegalTransition { state: self, event }),
        }
    }

    /// The states to record as changes, in order, when `event` happens: none where the file stays, both steps
    /// (UPLOADING, UPLOADED) when bytes arrive for a PENDING file, otherwise the one of [`FileState::next`].
    pub fn steps(self, event: FileEvent) -> Result<&'static [Self], IllegalTransition> {
        let next = self.next(event)?;
        if next == self {
            return Ok(&[]);
        }
        if self == Self::Pending && next == Self::Uploaded {
            return Ok(&[Self::Uploading, Self::Uploaded]);
        }
        let at = usize::from(next.code()) - 1;
        Ok(&ALL_STATES[at..=at])
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What can happen to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileEvent {
    /// A tus or multipart upload was created, or its first part was seen.
    UploadBegun,
    /// Its bytes are there: confirmed, found in the store, or already held.
    Arrived,
    /// Admitted to a stage: a dispatch goes out.
    Admitted,
    /// Leased by the process of a stage.
    Leased,
    /// A stage's result was recorded; `last` is the metadata stage's.
    StageRecorded {
        /// Whether this was the last stage of the route.
        last: bool,
    },
    /// A failure or kill that may be tried again.
    Retry,
    /// A permanent failure, attempts exhausted or too many kills.
    Fail,
    /// The upload deadline is over, or the batch was completed with what is missing failed.
    NeverArrived,
    /// Replayed by someone.
    Replay {
        /// Whether its bytes are missing or wrong, so that it begins with a new upload.
        needs_bytes: bool,
    },
    /// The bytes of a never-arrived file were found after all; [`FileEvent::Arrived`] follows in the same transaction.
    Adopted,
    /// Processed again from a stage on.
    Reprocess,
    /// Cancelled: itself, its folder or its batch.
    Cancel,
}

impl FileEvent {
    /// The name for messages and metrics, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UploadBegun => "UPLOAD_BEGUN",
            Self::Arrived => "ARRIVED",
            Self::Admitted => "ADMITTED",
            Self::Leased => "LEASED",
            Self::StageRecorded { last: false } => "STAGE_RECORDED",
            Self::StageRecorded { last: true } => "LAST_STAGE_RECORDED",
            Self::Retry => "RETRY",
            Self::Fail => "FAIL",
            Self::NeverArrived => "NEVER_ARRIVED",
            Self::Replay { needs_bytes: false } => "REPLAY",
            Self::Replay { needs_bytes: true } => "REPLAY_WITH_NEW_BYTES",
            Self::Adopted => "ADOPTED",
            Self::Reprocess => "REPROCESS",
            Self::Cancel => "CANCEL",
        }
    }
}

impl fmt::Display for FileEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// An event that cannot happen to a file in this state. Counted in a metric; changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file that is {state} has no transition by {event}")]
pub struct IllegalTransition {
    /// The state the file is in and stays in.
    pub state: FileState,
    /// What was to happen.
    pub event: FileEvent,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use FileEvent as E;
    use FileState as S;

    const EVENTS: [FileEvent; 14] = [
        E::UploadBegun,
        E::Arrived,
        E::Admitted,
        E::Leased,
        E::StageRecorded { last: false },
        E::StageRecorded { last: true },
        E::Retry,
        E::Fail,
        E::NeverArrived,
        E::Replay { needs_bytes: false },
        E::Replay { needs_bytes: true },
        E::Adopted,
        E::Reprocess,
        E::Cancel,
    ];

    /// The table as people read it, written out line by line: from, what does it, to.
    const TABLE: [(FileState, FileEvent, FileState); 24] = [
        (S::Pending, E::UploadBegun, S::Uploading),
        (S::Pending, E::Arrived, S::Uploaded),
        (S::Uploading, E::Arrived, S::Uploaded),
        (S::Uploaded, E::Admitted, S::Queued),
        (S::Queued, E::Leased, S::Processing),
        (S::Processing, E::StageRecorded { last: true }, S::Processed),
        (S::Processing, E::Retry, S::Retrying),
        (S::Retrying, E::Admitted, S::Queued),
        (S::Processing, E::Fail, S::Failed),
        (S::Pending, E::NeverArrived, S::Failed),
        (S::Uploading, E::NeverArrived, S::Failed),
        (S::Failed, E::Replay { needs_bytes: false }, S::Retrying),
        (S::Failed, E::Replay { needs_bytes: true }, S::Pending),
        (S::Failed, E::Adopted, S::Pending),
        (S::Processed, E::Reprocess, S::Uploaded),
        (S::Pending, E::Cancel, S::Cancelled),
        (S::Uploading, E::Cancel, S::Cancelled),
        (S::Uploaded, E::Cancel, S::Cancelled),
        (S::Queued, E::Cancel, S::Cancelled),
        (S::Processing, E::Cancel, S::Cancelled),
        (S::Retrying, E::Cancel, S::Cancelled),
        // Between two stages a file stays PROCESSING: the hop is recorded, admitted and leased (protocol 1.1, 5.1).
        (
            S::Processing,
            E::StageRecorded { last: false },
            S::Processing,
        ),
        (S::Processing, E::Admitted, S::Processing),
        (S::Processing, E::Leased, S::Processing),
    ];

    fn table(state: FileState, event: FileEvent) -> Option<FileState> {
        TABLE
            .into_iter()
            .find(|(from, by, _)| *from == state && *by == event)
            .map(|(_, _, to)| to)
    }

    #[test]
    fn every_pair_of_state_and_event_goes_where_the_table_says_and_every_other_is_illegal() {
        let mut legal = 0;
        for state in FileState::ALL {
            for event in EVENTS {
                let expected = table(state, event).ok_or(IllegalTransition { state, event });
                assert_eq!(state.next(event), expected, "{state} by {event}");
                legal += usize::from(expected.is_ok());
            }
        }
        assert_eq!(legal, TABLE.len());
    }

    #[test]
    fn a_lost_dispatch_is_no_transition() {
        // protocol 8.2: a queued file was never leased, so nothing can send it to RETRYING or FAILED.
        for event in EVENTS {
            let next = S::Queued.next(event);
            assert!(
                !matches!(next, Ok(S::Retrying | S::Failed)),
                "{event}: {next:?}"
            );
        }
    }

    #[test]
    fn only_people_take_a_file_out_of_a_final_state_and_nobody_out_of_cancelled() {
        for event in EVENTS {
            assert!(S::Cancelled.next(event).is_err());
            assert_eq!(S::Processed.next(event).is_ok(), event == E::Reprocess);
            let leaves_failed = matches!(event, E::Replay { .. } | E::Adopted);
            assert_eq!(S::Failed.next(event).is_ok(), leaves_failed);
        }
        let finals: Vec<_> = FileState::ALL
            .into_iter()
            .filter(|s| s.is_final())
            .collect();
        assert_eq!(finals, [S::Processed, S::Failed, S::Cancelled]);
    }

    #[test]
    fn cancel_ends_exactly_what_is_not_final() {
        for state in FileState::ALL {
            assert_eq!(state.next(E::Cancel).is_ok(), !state.is_final());
        }
    }

    #[test]
    fn bytes_that_arrive_for_a_pending_file_are_recorded_as_both_steps_in_order() {
        assert_eq!(
            S::Pending.steps(E::Arrived),
            Ok(&[S::Uploading, S::Uploaded][..])
        );
        assert_eq!(S::Uploading.steps(E::Arrived), Ok(&[S::Uploaded][..]));
        assert_eq!(S::Processing.steps(E::Leased), Ok(&[][..]));
        assert!(S::Uploaded.steps(E::Arrived).is_err());
    }

    #[test]
    fn codes_and_names_are_stable_and_read_back() {
        let codes: Vec<_> = FileState::ALL.iter().map(|state| state.code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for state in FileState::ALL {
            assert_eq!(FileState::from_code(state.code()), Some(state));
            assert_eq!(FileState::from_name(state.name()), Some(state));
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
            assert_eq!(serde_json::from_str::<FileState>(&json).unwrap(), state);
        }
        assert_eq!(FileState::from_code(0), None);
        assert_eq!(FileState::from_code(10), None);
        assert_eq!(FileState::from_name("pending"), None);
    }

    fn any_event() -> impl Strategy<Value = FileEvent> {
        prop::sample::select(EVENTS.to_vec())
    }

    proptest! {
        #[test]
        fn a_random_walk_never_leaves_the_table(
            events in prop::collection::vec(any_event(), 0..200)
        ) {
            let mut state = S::Pending;
            for event in events {
                let steps = state.steps(event);
                match state.next(event) {
                    Ok(next) => {
                        prop_assert_eq!(table(state, event), Some(next));
                        let steps = steps.unwrap();
                        prop_assert_eq!(steps.last().copied().unwrap_or(state), next);
                        prop_assert_eq!(steps.is_empty(), next == state);
                        state = next;
                    }
                    Err(error) => {
                        prop_assert_eq!(table(state, event), None);
                        prop_assert_eq!(error, IllegalTransition { state, event });
                        prop_assert_eq!(steps, Err(error));
                    }
                }
            }
        }
    }
}
