//! The end of a handler that does not end by itself.

use std::time::Duration;

use caudal_domain::Reason;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::handler::Done;

/// How long a cancelled handler may take to end by itself before it is dropped.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The result of a handler, unless it outlives its time or goes on although it was cancelled.
pub(crate) async fn end_in_time(
    work: impl Future<Output = Result<Done, Failure>>,
    cancelled: &CancellationToken,
    handler_timeout: Duration,
) -> Result<Done, Failure> {
    let outlives_its_cancellation = async {
        cancelled.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        biased;
        result = work => result,
        () = outlives_its_cancellation => Err(Failure::new(Reason::Internal, "cancelled")),
        () = tokio::time::sleep(handler_timeout) => {
            Err(Failure::new(Reason::StageTimeout, format!("no result after {} s", handler_timeout.as_secs_f32())))
        }
    }
}
