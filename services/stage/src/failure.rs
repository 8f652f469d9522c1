use std::time::Duration;

use caudal_domain::Reason;
use serde::{Deserialize, Serialize};

/// Why a handler could not do its work on a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{}: {detail}", reason.code())]
pub struct Failure {
    /// The catalogue's reason: it decides whether the file is tried again.
    pub reason: Reason,
    /// What was seen, in words for an operator.
    pub detail: String,
    /// When a provider said to come back, if one did.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without a time to come back.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry_after: None,
        }
    }
}
