//! Why a verb, or its whole group, came to nothing.

use std::any::Any;

use caudal_domain::{CountUnderflow, Refusal};
use sea_orm::DbErr;

use crate::store::trouble::Trouble;

/// Why a group was not committed.
#[derive(Debug)]
pub(crate) enum GroupError {
    /// The database failed before COMMIT, whatever it was asked: nothing happened.
    Database(DbErr),
    /// Something that will fail again: a verb the database refuses, a stored row that cannot be, a bug that panics. Nothing
    /// happened. `verb` is the position of the verb it happened in, where it is known.
    Defect { verb: Option<usize>, words: String },
    /// Another ledger leads: nothing happened, and this one must stop.
    NotLeading,
    /// A remembered row was not what the database holds: nothing happened; read and try again.
    Stale,
    /// The group ahead, on which it stood, was not committed: nothing happened; try again.
    PredecessorAborted,
    /// COMMIT got no answer: it may have happened.
    Unknown(DbErr),
}

impl From<DbErr> for GroupError {
    fn from(error: DbErr) -> Self {
        if Trouble::of(&error) == Trouble::Defect {
            return Self::defect(error.to_string());
        }
        Self::Database(error)
    }
}

impl From<CountUnderflow> for GroupError {
    fn from(error: CountUnderflow) -> Self {
        Self::defect(format!("a counter would fall below zero: {error}"))
    }
}

impl GroupError {
    pub(super) fn defect(words: String) -> Self {
        Self::Defect { verb: None, words }
    }

    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let words = panic
            .downcast_ref::<&str>()
            .map(|words| (*words).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Self::defect(format!("panicked: {}", words.unwrap_or_default()))
    }

    /// The same, of the verb that was being decided.
    pub(super) fn of_verb(self, position: usize) -> Self {
        match self {
            Self::Defect { verb: None, words } => Self::Defect {
                verb: Some(position),
                words,
            },
            other => other,
        }
    }
}

/// Why a verb was not decided.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The caller asks for what is not to be had. Nothing was changed.
    Refused(Refusal),
    /// The whole group came to nothing.
    Group(GroupError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<GroupError> for Stop {
    fn from(error: GroupError) -> Self {
        Self::Group(error)
    }
}
