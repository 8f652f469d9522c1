use std::io::ErrorKind;
use std::time::Duration;

use caudal_domain::Reason;
use caudal_objects::{ObjectError, StoreTrouble};
use caudal_providers::{Provider, ProviderError};
use serde::{Deserialize, Serialize};

/// What of the installation a file needs beside its own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    /// The object store.
    Store,
    /// A provider that the handler asks.
    Provider(Provider),
    /// The temp folder of this process.
    TempFolder,
    /// The processes that this one starts to read files in: the parser host and its children, or one for a file alone.
    ParserHost,
}

impl Dependency {
    /// The name in metrics and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "object-store",
            Self::Provider(provider) => provider.name(),
            Self::TempFolder => "temp-folder",
            Self::ParserHost => "parser-host",
        }
    }
}

/// What it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It asks for fewer requests: work goes on when the time that it named is over, or a short one if it named none.
    Busy,
    /// It is away, or refuses this installation: whoever asks is told the same. Work goes on when a probe passes.
    Down,
    /// It has no room, for whoever asks. Work goes on when a probe passes.
    Full,
    /// It failed. Work goes on when a probe passes; a file that fails so while every probe passes is charged in the end.
    Failed,
}

/// A state of the installation, which no file is charged for: the file is given back, and the stage waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For what.
    pub on: Dependency,
    /// What it is in.
    pub trouble: Trouble,
}

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
    /// The installation could not do its part: nothing is said of the file.
    #[serde(default)]
    pub waits: Option<Wait>,
}

impl Failure {
    /// A failure without a time to come back.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry_after: None,
            waits: None,
        }
    }

    /// The same, where a state of the installation is the cause.
    #[must_use]
    pub fn waiting(mut self, on: Dependency, trouble: Trouble) -> Self {
        self.waits = Some(Wait { on, trouble });
        self
    }

    /// What the store did not do. The log alone tells the object's key and the store's own words.
    pub fn of_store(reason: Reason, error: &ObjectError) -> Self {
        tracing::debug!(key = error.key(), %error, reason = reason.code(), "the object store failed a file");
        let failure = Self::new(reason, error.in_brief());
        let trouble = match error.trouble() {
            None => return failure,
            Some(StoreTrouble::Busy) => Trouble::Busy,
            Some(StoreTrouble::Down) => Trouble::Down,
            Some(StoreTrouble::Full) => Trouble::Full,
            Some(StoreTrouble::Failed) => Trouble::Failed,
        };
        failure.waiting(Dependency::Store, trouble)
    }

    /// The temp folder did not take what was to be written, or lost it: it is full, missing, read-only or another's.
    pub fn of_temp_folder(error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Reason::DiskFull,
            _ => Reason::Internal,
        };
        Self::new(reason, format!("the temp folder: {error}"))
            .waiting(Dependency::TempFolder, Trouble::Failed)
    }

    /// No process could be started to read a file in, or it could not begin: nothing was read of the file.
    pub fn of_parser_host(detail: impl Into<String>) -> Self {
        Self::new(Reason::Internal, detail).waiting(Dependency::ParserHost, Trouble::Failed)
    }

    /// What a provider did not do. Only the refusal of what this file asked, or a bad answer to it, is a failure of the file;
    /// all else is a state of the provider, which it is waited for in.
    pub fn of_provider(provider: Provider, error: &ProviderError) -> Self {
        let (reason, trouble) = match error {
            ProviderError::Rejected { .. } => (Reason::ProviderRejected, None),
            ProviderError::InvalidAnswer { .. } => (Reason::ProviderAnswerInvalid, None),
            ProviderError::Throttled { .. } | ProviderError::NoPermit { .. } => {
                (Reason::ProviderThrottled, Some(Trouble::Busy))
            }
            ProviderError::NotConfigured { .. } => {
                (Reason::ProviderUnavailable, Some(Trouble::Down))
            }
            ProviderError::Unauthorized { .. } => {
                (Reason::ProviderUnauthorized, Some(Trouble::Down))
            }
            ProviderError::Unavailable { .. } => {
                (Reason::ProviderUnavailable, Some(Trouble::Failed))
            }
            ProviderError::Misbehaves { .. } => {
                (Reason::ProviderAnswerInvalid, Some(Trouble::Failed))
            }
        };
        let failure = Self {
            retry_after: error.retry_after(),
            ..Self::new(reason, format!("{}: {error}", provider.words()))
        };
        match trouble {
            Some(trouble) => failure.waiting(Dependency::Provider(provider), trouble),
            None => failure,
        }
    }

    /// What the stage waits for, in words for whoever's file it is.
    #[must_use]
    pub fn words_of_wait(&self) -> Option<String> {
        let wait = self.waits?;
        let who = match wait.on {
            Dependency::Store => "object store",
            Dependency::TempFolder if self.reason == Reason::DiskFull => {
                return Some("a process has no room left on its disk".to_owned());
            }
            Dependency::TempFolder => {
                return Some("a process cannot write to its temp folder".to_owned());
            }
            Dependency::ParserHost => {
                return Some("a process cannot start those that read files".to_owned());
            }
            Dependency::Provider(provider) => provider.words(),
        };
        let does = match (self.reason, wait.trouble) {
            (Reason::ProviderUnauthorized, _) => "refuses the installation's key",
            (Reason::ProviderAnswerInvalid, _) => "gives answers that cannot be used",
            (_, Trouble::Busy) => "asks for fewer requests",
            (_, Trouble::Full) => "is full",
            _ => "does not answer",
        };
        Some(format!("the {who} {does}"))
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
                    trouble: StoreTrouble::Busy,
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

    #[test]
    fn whatever_the_temp_folder_does_not_take_is_waited_for() {
        let full = "a process has no room left on its disk";
        let other = "a process cannot write to its temp folder";
        for (kind, words) in [
            (ErrorKind::StorageFull, full),
            (ErrorKind::QuotaExceeded, full),
            (ErrorKind::NotFound, other),
            (ErrorKind::NotADirectory, other),
            (ErrorKind::ReadOnlyFilesystem, other),
            (ErrorKind::PermissionDenied, other),
            (ErrorKind::Other, other),
        ] {
            let failure = Failure::of_temp_folder(&kind.into());
            let waits = failure.waits.map(|wait| wait.on);
            assert_eq!(waits, Some(Dependency::TempFolder), "{kind}");
            assert_eq!(failure.words_of_wait().as_deref(), Some(words), "{kind}");
        }
    }

    #[test]
    fn what_is_waited_for_names_the_provider() {
        for (provider, error, told) in [
            (
                Provider::Caption,
                ProviderError::Unauthorized {
                    detail: "status 401".to_owned(),
                },
                "the caption provider refuses the installation's key",
            ),
            (
                Provider::ImageEmbedding,
                ProviderError::unavailable("away"),
                "the image embedding provider does not answer",
            ),
            (
                Provider::Embedding,
                ProviderError::Throttled {
                    retry_after: Duration::from_secs(7),
                },
                "the embedding provider asks for fewer requests",
            ),
        ] {
            let failure = Failure::of_provider(provider, &error);
            assert_eq!(failure.words_of_wait().as_deref(), Some(told));
            assert!(failure.detail.starts_with(provider.words()), "{failure}");
        }
    }

    #[test]
    fn a_file_waits_for_the_store_and_not_for_what_its_own_object_lacks() {
        let key = || "tenant/landing/batch/0/1".to_owned();
        let refused = |code: &str| ObjectError::Refused {
            key: key(),
            code: code.to_owned(),
            detail: String::new(),
        };
        let unavailable = |trouble| ObjectError::Unavailable {
            key: key(),
            trouble,
            detail: String::new(),
        };
        for (error, trouble) in [
            (ObjectError::NotFound { key: key() }, None),
            (ObjectError::PreconditionFailed { key: key() }, None),
            (refused("InvalidArgument"), None),
            (refused("NoSuchBucket"), Some(Trouble::Down)),
            (refused("SignatureDoesNotMatch"), Some(Trouble::Down)),
            (refused("AccessDenied"), Some(Trouble::Failed)),
            (refused("XMinioStorageFull"), Some(Trouble::Full)),
            (unavailable(StoreTrouble::Full), Some(Trouble::Full)),
            (unavailable(StoreTrouble::Busy), Some(Trouble::Busy)),
            (unavailable(StoreTrouble::Failed), Some(Trouble::Failed)),
        ] {
            let failure = Failure::of_store(Reason::StoreUnavailable, &error);
            let on = Dependency::Store;
            assert_eq!(failure.waits, trouble.map(|trouble| Wait { on, trouble }));
            assert_eq!(failure.words_of_wait().is_some(), trouble.is_some());
        }
    }
}
