//! Why a call is not answered. Handlers go on with `?`; what a caller gets of it is said here alone.

use caudal_domain::Refusal;
use sea_orm::DbErr;
use tonic::Status;

use crate::select::SelectorError;

/// How soon a read that the database did not answer may be tried again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// Why a call is not answered.
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

impl From<SelectorError> for Failure {
    fn from(error: SelectorError) -> Self {
        match error {
            SelectorError::Refused(refusal) => Self::Refused(refusal),
            SelectorError::Database(error) => Self::Unreadable(error),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let refusal = match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Unreadable(error) => {
                tracing::error!(%error, "a read failed");
                let words = "the database did not answer; try again";
                Refusal::unavailable(words, RETRY_AFTER)
            }
        };
        caudal_proto::status::to_status(&refusal)
    }
}

/// What a handler came to, as tonic wants it.
pub(super) async fn answer<T>(
    handled: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Status> {
    handled.await.map_err(Status::from)
}
