//! Why something is not to be had.

use caudal_domain::Refusal;
use sea_orm::DbErr;

/// Why a question is not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The caller asks for what is not to be had, or the writer cannot do it now.
    Refused(Refusal),
    /// The database did not answer a read.
    Unreadable(DbErr),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self::Unreadable(error)
    }
}
