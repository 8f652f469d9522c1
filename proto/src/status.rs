//! The one place where a [`Refusal`] becomes a gRPC status with google.rpc details, and where a client reads them back.

use std::collections::BTreeMap;
use std::time::Duration;

use caudal_domain::{FieldViolation, QuotaViolation, Refusal, RefusalKind, plain};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

/// The domain of every ErrorInfo.
pub const ERROR_DOMAIN: &str = "caudal";

/// Details travel in a header, and some clients take no more than 8 KiB of those in all (base64 makes 4 of 3).
const MAX_VIOLATION_BYTES: usize = 4 * 1024;

/// Bytes of a message; percent-encoding in the header may triple it.
const MAX_STATUS_MESSAGE_BYTES: usize = 512;

/// Bytes of one description.
const MAX_DESCRIPTION_BYTES: usize = 512;

/// The gRPC code of a kind of refusal.
#[must_use]
pub fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::InvalidArgument => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::AlreadyExists => Code::AlreadyExists,
        RefusalKind::FailedPrecondition => Code::FailedPrecondition,
        RefusalKind::ResourceExhausted => Code::ResourceExhausted,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::PermissionDenied => Code::PermissionDenied,
        RefusalKind::Unavailable => Code::Unavailable,
        RefusalKind::Aborted => Code::Aborted,
        RefusalKind::Internal => Code::Internal,
    }
}

/// The status of a call that was refused: ErrorInfo always; BadRequest, QuotaFailure and RetryInfo where there is
/// something to say. Long lists are cut to what fits a header, and say how much was left out.
#[must_use]
pub fn to_status(refusal: &Refusal) -> Status {
    Status::with_error_details(code(refusal.kind), message(refusal), details(refusal))
}

/// The same, as the message that answers one item of a page.
#[must_use]
pub fn status_parts(refusal: &Refusal) -> tonic_types::Status {
    let status = to_status(refusal);
    // The details of a tonic status are an encoded google.rpc.Status, made by this very function's caller.
    prost::Message::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// A code with words alone, as a message: how something ended that nobody refused.
#[must_use]
pub fn status_of(code: Code, message: &str) -> tonic_types::Status {
    tonic_types::Status {
        code: code as i32,
        message: message.to_owned(),
        details: Vec::new(),
    }
}

fn message(refusal: &Refusal) -> String {
    truncated(&refusal.message, MAX_STATUS_MESSAGE_BYTES)
}

fn details(refusal: &Refusal) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    let metadata: Vec<_> = refusal
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), truncated(value, MAX_DESCRIPTION_BYTES)))
        .collect();
    details.set_error_info(
        refusal.reason,
        ERROR_DOMAIN,
        metadata
            .into_iter()
            .collect::<std::collections::HashMap<_, _>>(),
    );
    let mut bytes = 0;
    for (index, violation) in refusal.violations.iter().enumerate() {
        let description = truncated(&violation.description, MAX_DESCRIPTION_BYTES);
        let field = plain(&violation.field).into_owned();
        bytes += field.len() + description.len();
        if bytes > MAX_VIOLATION_BYTES {
            let left_out = refusal.violations.len() - index;
            details.add_bad_request_violation("", format!("and {left_out} more"));
            break;
        }
        details.add_bad_request_violation(field, description);
    }
    for violation in &refusal.quota {
        let description = truncated(&violation.description, MAX_DESCRIPTION_BYTES);
        details.add_quota_failure_violation(violation.subject.clone(), description);
    }
    if let Some(retry_after) = refusal.retry_after {
        details.set_retry_info(Some(retry_after));
    }
    details
}

/// Words that may repeat what a caller sent: plain, and no longer than this.
fn truncated(text: &str, bytes: usize) -> String {
    let text = plain(text);
    if text.len() <= bytes {
        return text.into_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// A refusal as a client reads it. It differs from [`Refusal`] in that its reason may be one this build does not know,
/// and in that the status may not come from Caudal at all (a proxy, a broken connection): then `reason` is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteRefusal {
    /// The gRPC code.
    pub code: Code,
    /// For machines, e.g. `QUOTA_EXCEEDED`; empty when the status did not come from Caudal.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The fields that are wrong.
    pub violations: Vec<FieldViolation>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The quotas that would be passed.
    pub quota: Vec<QuotaViolation>,
    /// Each variable of the message by name.
    pub metadata: BTreeMap<String, String>,
}

impl RemoteRefusal {
    /// Whether the same request (with the same request id) may succeed later: a broken connection, a service that is
    /// not ready, a rate, a conflict. A quota is none of these.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }
}

/// Reads what a call was refused with.
#[must_use]
pub fn from_status(status: &Status) -> RemoteRefusal {
    read(status.code(), status.message(), &status.get_error_details())
}

/// Reads what one item of a page was refused with.
#[must_use]
pub fn from_parts(status: &tonic_types::Status) -> RemoteRefusal {
    read(
        Code::from_i32(status.code),
        &status.message,
        &status.get_error_details(),
    )
}

fn read(code: Code, message: &str, details: &ErrorDetails) -> RemoteRefusal {
    let mut refusal = RemoteRefusal {
        code,
        reason: String::new(),
        message: message.to_owned(),
        violations: Vec::new(),
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
        quota: Vec::new(),
        metadata: BTreeMap::new(),
    };
    if let Some(info) = details
        .error_info()
        .filter(|info| info.domain == ERROR_DOMAIN)
    {
        refusal.reason.clone_from(&info.reason);
        refusal.metadata = info.metadata.clone().into_iter().collect();
    }
    if let Some(bad_request) = details.bad_request() {
        for violation in &bad_request.field_violations {
            refusal.violations.push(FieldViolation::new(
                &violation.field,
                &violation.description,
            ));
        }
    }
    if let Some(quota) = details.quota_failure() {
        for violation in &quota.violations {
            let violation = QuotaViolation {
                subject: violation.subject.clone(),
                description: violation.description.clone(),
            };
            refusal.quota.push(violation);
        }
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_comes_back_from_its_status_with_every_detail() {
        let refusal = Refusal::quota_exceeded("stored_bytes", 10, 8, 3)
            .with_violation("entries[3].size", "is too much")
            .with_retry_after(Duration::from_millis(1500));
        let read = from_status(&to_status(&refusal));
        assert_eq!(read.code, Code::ResourceExhausted);
        assert_eq!(read.reason, "QUOTA_EXCEEDED");
        assert_eq!(read.message, refusal.message);
        assert_eq!(read.violations, refusal.violations);
        assert_eq!(read.quota, refusal.quota);
        assert_eq!(read.retry_after, refusal.retry_after);
        assert_eq!(read.metadata, refusal.metadata);
        assert!(read.is_retryable());
        assert_eq!(from_parts(&status_parts(&refusal)), read);
    }

    #[test]
    fn a_refusal_spells_out_what_would_steer_a_screen() {
        let refusal = Refusal::invalid("files[\u{1b}[2J]", "`a\u{202E}b` is none")
            .with_metadata("name", "a\u{1b}");
        let refusal = Refusal {
            message: "no \u{9b}31m".to_owned(),
            ..refusal
        };
        let status = to_status(&refusal);
        let read = from_status(&status);
        assert_eq!(read.message, "no \\u{9b}31m");
        assert_eq!(read.violations[0].field, "files[\\u{1b}[2J]");
        assert_eq!(read.violations[0].description, "`a\\u{202e}b` is none");
        assert_eq!(read.metadata["name"], "a\\u{1b}");
    }

    #[test]
    fn a_foreign_and_an_unknown_resource_give_the_same_bytes() {
        let name = "batches/0190b5a2-0000-7000-8000-000000000001";
        let unknown = to_status(&Refusal::not_found(name));
        let foreign = to_status(&Refusal::not_found(name));
        assert_eq!(unknown.details(), foreign.details());
        assert_eq!(unknown.message(), foreign.message());
    }

    #[test]
    fn many_violations_fit_a_header_and_say_how_many_were_left_out() {
        let violations = (0..100)
            .map(|index| FieldViolation::new(format!("entries[{index}].path"), "ñ".repeat(800)))
            .collect();
        let status = to_status(&Refusal::invalid_fields(violations));
        assert!(
            status.details().len() < 6 * 1024,
            "{} bytes",
            status.details().len()
        );
        let read = from_status(&status);
        let last = read
            .violations
            .last()
            .map(|violation| violation.description.clone());
        let left_out = 100 - (read.violations.len() - 1);
        assert_eq!(last, Some(format!("and {left_out} more")));
    }

    #[test]
    fn a_status_of_somebody_else_has_no_reason() {
        let read = from_status(&Status::unavailable("connection refused"));
        assert_eq!(read.reason, "");
        assert!(read.is_retryable());
    }
}
