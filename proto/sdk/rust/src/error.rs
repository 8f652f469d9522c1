//! What can go wrong with a call, in words a person can act on.

use std::error::Error as _;
use std::time::Duration;

pub use caudal_proto::status::RemoteRefusal;
use caudal_proto::status::from_status;
use tonic::{Code, Status};

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The gateway's address is not one.
    #[error(
        "`{gateway}` is not an address of a gateway: {why}; give one like http://127.0.0.1:7410"
    )]
    BadAddress {
        /// As it may be shown.
        gateway: String,
        /// What is wrong with it.
        why: String,
    },
    /// Connections cannot be secured.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The API key cannot be sent as a header.
    #[error("the API key holds characters that no key has; copy it again from where it was shown")]
    BadKey,
    /// No answer came, however often the call was repeated.
    #[error(
        "cannot reach the gateway at {gateway} ({detail}); is it running, and is the address right?"
    )]
    Unreachable {
        /// Its address.
        gateway: String,
        /// What the transport said.
        detail: String,
    },
    /// The gateway answered with an error; its google.rpc details are unpacked.
    #[error(transparent)]
    Refused(#[from] Box<RemoteRefusal>),
    /// The answer breaks the contract of the API.
    #[error(
        "the gateway's answer to {call} makes no sense: {why}; client and gateway may differ in version"
    )]
    Nonsense {
        /// The call.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl ClientError {
    /// Takes a status apart.
    pub(crate) fn from_status(status: &Status, gateway: &str) -> Self {
        if came_from_the_transport(status) {
            return Self::Unreachable {
                gateway: gateway.to_owned(),
                detail: root_cause(status),
            };
        }
        Self::Refused(Box::new(from_status(status)))
    }

    /// Whether the credential may not do this, as an upload token may do little.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.code() == Some(Code::PermissionDenied)
    }

    /// The gRPC code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refused) => Some(refused.code),
            _ => None,
        }
    }
}

/// Whether repeating the call with the same body can help, and after which wait the gateway asked for.
pub(crate) fn is_worth_repeating(status: &Status) -> Option<Option<Duration>> {
    if came_from_the_transport(status) {
        return Some(None);
    }
    let refusal = from_status(status);
    refusal.is_retryable().then_some(refusal.retry_after)
}

/// A status that tonic made of a broken connection carries its cause; one that a server sent does not.
pub(crate) fn came_from_the_transport(status: &Status) -> bool {
    status.source().is_some()
}

pub(crate) fn root_cause(status: &Status) -> String {
    let mut deepest = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        deepest = error.to_string();
        source = error.source();
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_domain::Refusal;
    use caudal_proto::status::to_status;

    #[test]
    fn only_calls_that_may_go_well_the_next_time_are_repeated() {
        assert_eq!(
            is_worth_repeating(&Status::unavailable("standing by")),
            Some(None)
        );
        assert_eq!(
            is_worth_repeating(&Status::not_found("no such batch")),
            None
        );
        let quota = to_status(&Refusal::quota_exceeded("files", 10, 10, 1));
        assert_eq!(is_worth_repeating(&quota), None);
        let soon = Duration::from_millis(300);
        let limited = to_status(&Refusal::rate_limited("calls", soon));
        assert_eq!(is_worth_repeating(&limited), Some(Some(soon)));
    }
}
