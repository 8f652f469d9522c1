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
        say!("error: {}", self.words);
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
                    "{words}; check the id, and that it is of the key's own tenant, or of the one that is named with --tenant"
                ))
            }
            ClientError::Refused(refused) => {
                let mut remedies = refused.quota.iter().map(|quota| remedy(&quota.subject));
                match remedies.next() {
                    Some(remedy) => Self::broken(format!("{words}; {remedy}")),
                    None => Self::broken(words),
                }
            }
            _ => Self::broken(words),
        }
    }
}

/// What helps where a limit is reached. Not every limit is one of the tenant's, which an operator changes.
fn remedy(subject: &str) -> &'static str {
    match subject {
        "keys" => "end keys that nobody uses: `caudal keys list`, `caudal keys revoke`",
        "upload_tokens" => {
            "upload tokens end by themselves; `caudal keys list` shows them, `caudal keys revoke` ends one"
        }
        "upload_token_files" | "upload_token_bytes" => {
            "whoever gave the upload token can make another for the rest: `caudal token`"
        }
        "upload_token_streams" | "streams_of_a_key" => {
            "watches that are open with the same key count together: end one, or use another key"
        }
        "folders_per_batch" => "begin another batch for the rest",
        _ => {
            "`caudal usage` shows all limits, and an operator changes them by `caudal tenants update`"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_no_operator_changes_is_not_sent_to_one() {
        for subject in [
            "keys",
            "upload_tokens",
            "upload_token_files",
            "upload_token_bytes",
            "upload_token_streams",
            "streams_of_a_key",
            "folders_per_batch",
        ] {
            assert!(!remedy(subject).contains("tenants update"), "{subject}");
        }
        for subject in ["files", "stored_bytes", "streams"] {
            assert!(remedy(subject).contains("tenants update"), "{subject}");
        }
    }
}
