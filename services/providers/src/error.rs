//! What can go wrong between a text or picture and what is asked of it, by what the caller should do next.

use std::time::Duration;

/// Why a provider did not do its work. The words say what it did: who tells them names the provider first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// There is no provider to ask, or the local model is not installed: not a failure, but the file's outcome says so.
    #[error("{why}")]
    NotConfigured {
        /// What is missing and how to get it, in words for the person who runs the system.
        why: String,
    },
    /// The provider could not be reached, failed, or does not know the address or model; the same request may succeed later.
    #[error("unavailable: {detail}")]
    Unavailable {
        /// What was seen.
        detail: String,
        /// When asking again makes sense, where that is known.
        retry_after: Option<Duration>,
    },
    /// The provider does not accept the key: nothing succeeds until an operator renews it.
    #[error("refused the API key: {detail}")]
    Unauthorized {
        /// The status and the provider's own words, shortened.
        detail: String,
    },
    /// The provider answers, but not as its API promises, whatever it is asked.
    #[error("does not keep to its API: {detail}")]
    Misbehaves {
        /// What it does instead.
        detail: String,
    },
    /// The provider answered, and the answer is not what was asked for.
    #[error("gave an unusable answer: {detail}")]
    InvalidAnswer {
        /// What is wrong with it.
        detail: String,
    },
    /// The provider, or the queue in front of the local model, asks to slow down.
    #[error("throttled, again in {} ms", retry_after.as_millis())]
    Throttled {
        /// How long to wait before asking again.
        retry_after: Duration,
    },
    /// The budget of this provider, which all processes share, is used up for now.
    #[error("has no permit left, again in {} ms", retry_after.as_millis())]
    NoPermit {
        /// How long to wait before asking again.
        retry_after: Duration,
    },
    /// The provider refused this very request; repeating it unchanged cannot succeed.
    #[error("rejected the request with status {status}: {detail}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The provider's own words, shortened.
        detail: String,
    },
}

impl ProviderError {
    /// An unavailable provider with no known time of recovery.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::Unavailable {
            detail: detail.into(),
            retry_after: None,
        }
    }

    pub(crate) fn misbehaves(detail: impl Into<String>) -> Self {
        Self::Misbehaves {
            detail: detail.into(),
        }
    }

    pub(crate) fn invalid_answer(detail: impl Into<String>) -> Self {
        Self::InvalidAnswer {
            detail: detail.into(),
        }
    }

    /// How long the caller should wait, where the error knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::NoPermit { retry_after } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::NotConfigured { .. }
            | Self::Unauthorized { .. }
            | Self::Misbehaves { .. }
            | Self::InvalidAnswer { .. }
            | Self::Rejected { .. } => None,
        }
    }

    /// Whether it tells something of what was asked. All else is a state of the provider, which says nothing of them.
    pub fn is_of_the_request(&self) -> bool {
        matches!(self, Self::InvalidAnswer { .. } | Self::Rejected { .. })
    }
}
