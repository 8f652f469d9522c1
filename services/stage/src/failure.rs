use std::time::Duration;

use caudal_domain::Reason;
use caudal_objects::ObjectError;
use serde::{Deserialize, Serialize};

/// Why a handler could not do its work on a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{}: {detail}", reason.code())]
pub struct Failure {
    /// The catalogue's reason: it decides whether the file is tried again.
    pub reason: Reason,
    /// What was seen, in words for whoever's file it is and for an operator. No object's key is in it.
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

    /// What the store did not do. The log alone tells the object's key and the store's own words.
    pub fn of_store(reason: Reason, error: &ObjectError) -> Self {
        tracing::debug!(key = error.key(), %error, reason = reason.code(), "the object store failed a file");
        Self::new(reason, error.in_brief())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_did_not_do_is_told_without_key_and_without_its_own_words() {
        let key = || "tenant/landing/batch/0/1".to_owned();
        let detail = || format!("{} cannot be read at 10.0.0.7", key());
        let cases = [
            (
                ObjectError::NotFound { key: key() },
                "the object is not in the store",
            ),
            (
                ObjectError::PreconditionFailed { key: key() },
                "the object is no longer the one that was asked for",
            ),
            (
                ObjectError::TooLarge {
                    key: key(),
                    size: 7,
                    limit: 6,
                },
                "the object has 7 bytes, more than 6",
            ),
            (
                ObjectError::Unavailable {
                    key: key(),
                    detail: detail(),
                },
                "the object store is unavailable",
            ),
            (
                ObjectError::Refused {
                    key: key(),
                    code: "AccessDenied".to_owned(),
                    detail: detail(),
                },
                "the object store refused: AccessDenied",
            ),
        ];
        for (error, told) in cases {
            assert_eq!(error.key(), key());
            let failure = Failure::of_store(Reason::StoreUnavailable, &error);
            assert_eq!(failure.detail, told);
        }
    }
}
