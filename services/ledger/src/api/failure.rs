//! Why a call is not answered. Handlers go on with `?`; what a caller gets of it is said here alone.

use caudal_domain::Refusal;
use tonic::Status;

pub(crate) use crate::failure::Failure;

/// How soon a read that the database did not answer may be tried again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

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
