//! How the command fails: a plain sentence that says what to do next, and an exit status that scripts can tell apart.

use std::fmt;
use std::process::ExitCode;

use caudal_sdk::ingest::IngestError;
use caudal_sdk::{ClientError, RulesError};
use tonic::Code;

/// Exit status of work that did not end well.
const FAILED: u8 = 1;
/// Exit status of a command line or configuration that is wrong (`EX_USAGE`).
const MISCONFIGURED: u8 = 64;
/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Why the command ends without having done its work.
#[derive(Debug)]
pub(crate) struct Failure {
    words: String,
    status: u8,
}

impl Failure {
    /// The configuration is wrong; nothing was begun.
    pub(crate) fn misconfigured(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            status: MISCONFIGURED,
        }
    }

    /// Something broke.
    pub(crate) fn broken(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            status: FAILED,
        }
    }

    /// Somebody pressed Ctrl-C.
    pub(crate) fn interrupted(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            status: INTERRUPTED,
        }
    }

    /// Says it on standard error.
    pub(crate) fn show(&self) -> ExitCode {
        eprintln!("error: {}", self.words);
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let words = error.to_string();
        match &error {
            ClientError::BadAddress { .. } | ClientError::BadKey | ClientError::Tls(_) => {
                Self::misconfigured(words)
            }
            ClientError::Refused(refused) if refused.code == Code::NotFound => {
                Self::broken(format!(
                    "{words}; check the id, and that the API key is of the tenant that made it"
                ))
            }
            ClientError::Refused(refused)
                if refused
                    .quota
                    .iter()
                    .any(|quota| !quota.subject.starts_with("upload_token")) =>
            {
                Self::broken(format!(
                    "{words}; `caudal usage` shows all limits, and an operator changes them by `caudal tenants update`"
                ))
            }
            _ => Self::broken(words),
        }
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Client(error) => error.into(),
            IngestError::Folder { .. } => Self::misconfigured(error.to_string()),
            other => Self::broken(other.to_string()),
        }
    }
}

impl From<RulesError> for Failure {
    fn from(error: RulesError) -> Self {
        Self::misconfigured(error.to_string())
    }
}

/// Work that was done: success means that all of it went well.
pub(crate) fn status(all_well: bool) -> ExitCode {
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}

/// Help and version go to standard output and are no failure; anything else is a wrong command line.
pub(crate) fn of_the_command_line(error: &clap::Error) -> ExitCode {
    // Nothing is left to be done when even this cannot be written.
    let _unwritable = error.print();
    if error.use_stderr() {
        ExitCode::from(MISCONFIGURED)
    } else {
        ExitCode::SUCCESS
    }
}
