//! What can go wrong with an object, told apart by what the caller should do.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use thiserror::Error;

use crate::transport::SendError;

/// Why the store did not do what was asked. Its words are for whoever runs the store; [`in_brief`](ObjectError::in_brief)
/// says it to whoever's file it is. Neither names the key, which is half of what it takes to get at an object: it is told by
/// [`key`](ObjectError::key) alone.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// There is no such object, or no such upload.
    #[error("the object is not in the store")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The object's ETag is not the one asked for: it was replaced.
    #[error("the object is no longer the one that was asked for")]
    PreconditionFailed {
        /// The key asked for.
        key: String,
    },
    /// The object is larger than the caller takes.
    #[error("the object has {size} bytes, more than {limit}")]
    TooLarge {
        /// The key asked for.
        key: String,
        /// Its size in bytes.
        size: u64,
        /// What the caller takes, in bytes.
        limit: u64,
    },
    /// The store could not be reached, was busy, or broke off. Retried here already; worth another try later.
    #[error("the object store is unavailable: {detail}")]
    Unavailable {
        /// The key asked for, or the bucket.
        key: String,
        /// Who else would be told the same.
        trouble: StoreTrouble,
        /// What happened.
        detail: String,
    },
    /// The store refused, or the request makes no sense: the same again will be refused again.
    #[error("the object store refused: {code}: {detail}")]
    Refused {
        /// The key asked for, or the bucket.
        key: String,
        /// S3's code, such as `AccessDenied`.
        code: String,
        /// S3's message.
        detail: String,
    },
}

/// What the store itself is in, when it does not do what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreTrouble {
    /// It asks for fewer requests.
    Busy,
    /// It is away, or does not take this installation's bucket or keys: whoever asks is told the same.
    Down,
    /// It has no room.
    Full,
    /// It failed: it may do so for everyone, or for this object alone.
    Failed,
}

/// S3's codes, and those of other stores, for no room.
const FULL: [&str; 3] = ["QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"];

/// S3's codes for what no request of this installation gets past: the bucket and the keys.
const REFUSES_EVERYONE: [&str; 9] = [
    "NoSuchBucket",
    "InvalidBucketName",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "AccountProblem",
    "AllAccessDisabled",
    "InvalidSecurity",
];

/// S3's code for an operation that a store does not have.
const NOT_IMPLEMENTED: &str = "NotImplemented";
/// Ours for a good answer that cannot be read.
const NOT_UNDERSTOOD: &str = "NotUnderstood";

impl ObjectError {
    /// The store's own trouble, where the fault is not the object's nor the request's.
    pub fn trouble(&self) -> Option<StoreTrouble> {
        match self {
            ObjectError::Unavailable { trouble, .. } => Some(*trouble),
            ObjectError::Refused { code, .. } if FULL.contains(&code.as_str()) => {
                Some(StoreTrouble::Full)
            }
            ObjectError::Refused { code, .. } if REFUSES_EVERYONE.contains(&code.as_str()) => {
                Some(StoreTrouble::Down)
            }
            // S3 also denies access to what is not there, where the keys may not list.
            ObjectError::Refused { code, .. } if code == "AccessDenied" || code == "403" => {
                Some(StoreTrouble::Failed)
            }
            ObjectError::Refused { .. }
            | ObjectError::NotFound { .. }
            | ObjectError::PreconditionFailed { .. }
            | ObjectError::TooLarge { .. } => None,
        }
    }

    /// Whether the store has no such operation, or answers it in a way of its own: another way may lead there.
    pub fn is_beyond_the_store(&self) -> bool {
        let unusual = [NOT_IMPLEMENTED, NOT_UNDERSTOOD];
        matches!(self, ObjectError::Refused { code, .. } if unusual.contains(&code.as_str()))
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ObjectError::Unavailable { .. })
    }

    /// What was asked for: a key, or the bucket.
    pub fn key(&self) -> &str {
        match self {
            ObjectError::NotFound { key }
            | ObjectError::PreconditionFailed { key }
            | ObjectError::TooLarge { key, .. }
            | ObjectError::Unavailable { key, .. }
            | ObjectError::Refused { key, .. } => key,
        }
    }

    /// Without the store's own words: they may hold keys, and addresses too.
    pub fn in_brief(&self) -> String {
        match self {
            ObjectError::Unavailable {
                trouble: StoreTrouble::Full,
                ..
            } => "the object store is full".to_owned(),
            ObjectError::Unavailable { .. } => "the object store is unavailable".to_owned(),
            ObjectError::Refused { code, .. } => format!("the object store refused: {code}"),
            ObjectError::NotFound { .. }
            | ObjectError::PreconditionFailed { .. }
            | ObjectError::TooLarge { .. } => self.to_string(),
        }
    }

    pub(crate) fn unavailable(key: &str, detail: impl Into<String>) -> ObjectError {
        ObjectError::Unavailable {
            key: key.to_owned(),
            trouble: StoreTrouble::Failed,
            detail: detail.into(),
        }
    }

    pub(crate) fn invalid(key: &str, detail: impl Into<String>) -> ObjectError {
        ObjectError::Refused {
            key: key.to_owned(),
            code: "InvalidArgument".to_owned(),
            detail: detail.into(),
        }
    }

    /// Sorts the SDK's error.
    pub(crate) fn from_sdk<E>(key: &str, error: &SdkError<E, HttpResponse>) -> ObjectError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let key = key.to_owned();
        let SdkError::ServiceError(answer) = error else {
            let detail = aws_sdk_s3::error::DisplayErrorContext(error).to_string();
            return match error {
                SdkError::ConstructionFailure(_) => ObjectError::invalid(&key, detail),
                SdkError::DispatchFailure(failure) if failure.is_io() => ObjectError::Unavailable {
                    key,
                    trouble: StoreTrouble::Down,
                    detail,
                },
                _ => ObjectError::unavailable(&key, detail),
            };
        };
        let status = answer.raw().status().as_u16();
        let code = answer.err().code().unwrap_or_default().to_owned();
        let detail = answer.err().message().unwrap_or_default().to_owned();
        ObjectError::of_answer(&key, status, code, detail)
    }

    /// There was no answer.
    pub(crate) fn of_send(key: &str, error: SendError) -> ObjectError {
        ObjectError::Unavailable {
            key: key.to_owned(),
            trouble: if error.is_away {
                StoreTrouble::Down
            } else {
                StoreTrouble::Failed
            },
            detail: error.detail,
        }
    }

    /// Sorts an answer by its status and S3's code and words in it.
    pub(crate) fn of_answer(key: &str, status: u16, code: String, detail: String) -> ObjectError {
        let key = key.to_owned();
        match (status, code.as_str()) {
            // What it cannot do it will not do later; and not every store words its answers as S3 does.
            (501, _) => ObjectError::Refused {
                key,
                code: NOT_IMPLEMENTED.to_owned(),
                detail,
            },
            (200, "") => ObjectError::Refused {
                key,
                code: NOT_UNDERSTOOD.to_owned(),
                detail: "an answer that is none of S3's".to_owned(),
            },
            // Every object would be missing: that is not the caller's object's fault.
            (_, "NoSuchBucket") => ObjectError::Refused { key, code, detail },
            (404, _) => ObjectError::NotFound { key },
            (412, _) => ObjectError::PreconditionFailed { key },
            // 409 is S3's "another conditional request is under way"; a 200 carries the error of a copy that broke off.
            (200 | 408 | 409 | 429 | 500.., _)
            | (_, "RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed") => {
                let trouble = match (status, code.as_str()) {
                    (_, "SlowDown") | (429, _) => StoreTrouble::Busy,
                    (_, code) if FULL.contains(&code) => StoreTrouble::Full,
                    (507, _) => StoreTrouble::Full,
                    (503, _) => StoreTrouble::Down,
                    (_, code) if REFUSES_EVERYONE.contains(&code) => StoreTrouble::Down,
                    _ => StoreTrouble::Failed,
                };
                let detail = format!("{status} {code} {detail}");
                ObjectError::Unavailable {
                    key,
                    trouble,
                    detail,
                }
            }
            _ => {
                let code = if code.is_empty() {
                    status.to_string()
                } else {
                    code
                };
                ObjectError::Refused { key, code, detail }
            }
        }
    }
}
