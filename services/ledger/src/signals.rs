//! What the API and the leader's tasks tell each other, beside what stands in the database.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// What the API and the runner of operations tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// There is an operation to carry on.
    pub(crate) started: Arc<Notify>,
    /// Some operation went on.
    pub(crate) progressed: watch::Sender<()>,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            started: Arc::default(),
            progressed: watch::Sender::new(()),
        }
    }
}
