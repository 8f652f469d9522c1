//! The way to the writer.

use std::time::Duration;

use caudal_domain::Refusal;
use tokio::sync::mpsc;

use super::verb::{Request, Verb};

/// Callers that were refused because the writer failed may try again after this.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Asks the writer.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    requests: mpsc::Sender<Request>,
}

impl WriterHandle {
    pub(super) fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests }
    }

    /// Asks, and waits until the answer is committed.
    ///
    /// # Errors
    /// What the verb itself is refused with; UNAVAILABLE when the database failed or the writer has ended.
    pub(crate) async fn ask<V: Verb>(&self, verb: V) -> Result<V::Answer, Refusal> {
        let (request, answer) = Request::new(verb);
        self.requests.send(request).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Refusal {
    Refusal::unavailable(
        "the ledger is ending or starts anew; repeat the call with the same request_id",
        RETRY_AFTER,
    )
}
