//! What can go wrong with an object, told apart by what the caller should do.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use thiserror::Error;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// There is no such object, or no such upload.
    #[error("{key} is not in the store")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The object's ETag is not the one asked for: it was replaced.
    #[error("{key} is no longer the object that was asked for")]
    PreconditionFailed {
        /// The key asked for.
        key: String,
    },
    /// The object is larger than the caller takes.
    #[error("{key} has {size} bytes, more than {limit}")]
    TooLarge {
        /// The key asked for.
        key: String,
        /// Its size in bytes.
        size: u64,
        /// What the caller takes, in bytes.
        limit: u64,
    },
    /// The store could not be reached, was busy, or broke off. Retried here already; worth another try later.
    #[error("the object store is unavailable ({key}): {detail}")]
    Unavailable {
        /// The key asked for, or the bucket.
        key: String,
        /// What happened.
        detail: String,
    },
    /// The store refused, or the request makes no sense: the same again will be refused again.
    #[error("the object store refused ({key}): {code}: {detail}")]
    Refused {
        /// The key asked for, or the bucket.
        key: String,
        /// S3's code, such as `AccessDenied`.
        code: String,
        /// S3's message.
        detail: String,
    },
}

impl ObjectError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ObjectError::Unavailable { .. })
    }

    pub(crate) fn unavailable(key: &str, detail: impl Into<String>) -> ObjectError {
        ObjectError::Unavailable {
            key: key.to_owned(),
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

    /// Sorts the SDK's error by status and code.
    pub(crate) fn from_sdk<E>(key: &str, error: &SdkError<E, HttpResponse>) -> ObjectError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let key = key.to_owned();
        let SdkError::ServiceError(answer) = error else {
            let detail = aws_sdk_s3::error::DisplayErrorContext(error).to_string();
            return match error {
                SdkError::ConstructionFailure(_) => ObjectError::invalid(&key, detail),
                _ => ObjectError::Unavailable { key, detail },
            };
        };
        let status = answer.raw().status().as_u16();
        let code = answer.err().code().unwrap_or_default().to_owned();
        let detail = answer.err().message().unwrap_or_default().to_owned();
        match (status, code.as_str()) {
            // Every object would be missing: that is not the caller's object's fault.
            (_, "NoSuchBucket") => ObjectError::Refused { key, code, detail },
            (404, _) => ObjectError::NotFound { key },
            (412, _) => ObjectError::PreconditionFailed { key },
            // 409 is S3's "another conditional request is under way"; a 200 carries the error of a copy that broke off.
            (200 | 408 | 409 | 429 | 500.., _)
            | (_, "RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed") => {
                let detail = format!("{status} {code} {detail}");
                ObjectError::Unavailable { key, detail }
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
