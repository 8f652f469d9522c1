use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a command of a stream did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamsError {
    /// Redis did not answer, in time or at all. Whether the command took effect is unknown.
    #[error("redis gave no answer: {0}")]
    NoAnswer(#[source] RedisError),
    /// A blocking read outlived its time on a connection that has gone silent.
    #[error("redis has gone silent")]
    Silent,
    /// Redis refuses for now: it is full, loading, read-only or electing.
    #[error("redis refuses for now: {0}")]
    Busy(#[source] RedisError),
    /// Redis refuses, and will refuse again: the URL, the rights or the type of a key are wrong.
    #[error("redis refuses: {0}")]
    Refused(#[source] RedisError),
    /// Redis answered something that no stream command answers.
    #[error("redis answered unexpectedly: {0}")]
    Answer(#[source] RedisError),
}

impl StreamsError {
    /// Whether the same command may succeed later without anybody's help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::Silent | Self::Busy(_) => true,
            Self::Refused(_) | Self::Answer(_) => false,
        }
    }
}

impl From<RedisError> for StreamsError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Io | ErrorKind::Client => Self::NoAnswer(error),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Self::Busy(error),
            ErrorKind::Extension
                if matches!(
                    error.code(),
                    Some("OOM" | "MISCONF" | "NOREPLICAS" | "UNBLOCKED")
                ) =>
            {
                Self::Busy(error)
            }
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Answer(error),
            _ => Self::Refused(error),
        }
    }
}

/// Whether Redis says that the stream or its group is not there.
pub(crate) fn says_no_group(error: &RedisError) -> bool {
    // A reader that was blocked when the stream vanished is told UNBLOCKED or NOGROUP, depending on the server's version.
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
