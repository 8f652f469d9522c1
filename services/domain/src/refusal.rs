//! What a caller is told when something is not done. One crate alone turns it into a gRPC status.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::file_state::IllegalTransition;
use crate::ids::InvalidId;

/// The kind of a refusal; each is one gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The request itself is wrong; sending it again does not help.
    InvalidArgument,
    /// It does not exist, or is another's.
    NotFound,
    /// It exists already, and differs.
    AlreadyExists,
    /// The request is right, but not in this state.
    FailedPrecondition,
    /// A limit or quota is reached.
    ResourceExhausted,
    /// No valid credential.
    Unauthenticated,
    /// The credential does not allow it.
    PermissionDenied,
    /// Not now; send it again with the same request id.
    Unavailable,
    /// It met another change; send it again.
    Aborted,
    /// A fault of the system.
    Internal,
}

/// One field of a request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field, such as `entries[3].path`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

impl FieldViolation {
    /// Puts both together.
    #[must_use]
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// What is wrong with a request, as far as it is told: [`crate::limits::MAX_VIOLATIONS`] are kept. Whoever looks through a
/// request stops where it is full, so that a request of nothing but faults costs no more than they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    kept: Vec<FieldViolation>,
}

impl Violations {
    /// Keeps one more, if there is room.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if !self.is_full() {
            self.kept.push(FieldViolation::new(field, description));
        }
    }

    /// Keeps those of others after its own, as far as there is room.
    pub fn append(&mut self, others: Self) {
        let room = crate::limits::MAX_VIOLATIONS.saturating_sub(self.kept.len());
        self.kept.extend(others.kept.into_iter().take(room));
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether no more is kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.kept.len() >= crate::limits::MAX_VIOLATIONS
    }

    /// Puts them in an order; those that are equal stay as they are.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl FnMut(&FieldViolation) -> K) {
        self.kept.sort_by_key(key);
    }

    /// The refusal that tells them.
    #[must_use]
    pub fn into_refusal(self) -> Refusal {
        Refusal::invalid_fields(self.kept)
    }

    /// The refusal, when anything is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn into_result(self) -> Result<(), Refusal> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.into_refusal())
        }
    }
}

/// One quota that would be passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaViolation {
    /// Which limit, such as `stored_bytes`.
    pub subject: String,
    /// The limit, what is used and what was asked.
    pub description: String,
}

/// A refusal: it changes nothing, and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its kind.
    pub kind: RefusalKind,
    /// For machines, `UPPER_SNAKE`, stable.
    pub reason: &'static str,
    /// For people: lower case, concise, no trailing period.
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

impl Refusal {
    /// A refusal with nothing but its kind, reason and message.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            quota: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// One field is wrong.
    #[must_use]
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldViolation::new(field, description)])
    }

    /// Several fields are wrong: the message tells the first and how many more; the details hold at most
    /// [`crate::limits::MAX_VIOLATIONS`].
    #[must_use]
    pub fn invalid_fields(mut violations: Vec<FieldViolation>) -> Self {
        let message = match violations.as_slice() {
            [] => "the request is not valid".to_owned(),
            [only] => format!("{}: {}", only.field, only.description),
            [first, more @ ..] => format!(
                "{}: {} (and {} more)",
                first.field,
                first.description,
                more.len()
            ),
        };
        violations.truncate(crate::limits::MAX_VIOLATIONS);
        let mut refusal = Self::new(RefusalKind::InvalidArgument, "INVALID_FIELD", message);
        refusal.violations = violations;
        refusal
    }

    /// The resource does not exist or is another tenant's: the same words for both, so that nobody learns which.
    #[must_use]
    pub fn not_found(resource_name: &str) -> Self {
        Self::new(
            RefusalKind::NotFound,
            "NOT_FOUND",
            format!("{resource_name} was not found"),
        )
        .with_metadata("resource", resource_name)
    }

    /// Not in this state; `reason` says which state is in the way.
    #[must_use]
    pub fn failed_precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(RefusalKind::FailedPrecondition, reason, message)
    }

    /// A quota would be passed: names the limit, what is used and what was asked.
    #[must_use]
    pub fn quota_exceeded(subject: &str, limit: u64, used: u64, asked: u64) -> Self {
        let description = format!("the limit is {limit}, {used} are used, {asked} more were asked");
        let mut refusal = Self::new(
            RefusalKind::ResourceExhausted,
            "QUOTA_EXCEEDED",
            format!("the quota {subject} would be exceeded: {description}"),
        )
        .with_metadata("quota", subject)
        .with_metadata("limit", limit.to_string())
        .with_metadata("used", used.to_string())
        .with_metadata("asked", asked.to_string());
        refusal.quota.push(QuotaViolation {
            subject: subject.to_owned(),
            description,
        });
        refusal
    }

    /// Too much at once; try again after `retry_after`.
    #[must_use]
    pub fn rate_limited(subject: &str, retry_after: Duration) -> Self {
        Self::new(
            RefusalKind::ResourceExhausted,
            "RATE_LIMITED",
            format!("too many {subject} at once, try again a little later"),
        )
        .with_metadata("limit", subject)
        .with_retry_after(retry_after)
    }

    /// Another bound that was reached, such as a page of too many items that cannot be told by a field.
    #[must_use]
    pub fn exhausted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(RefusalKind::ResourceExhausted, reason, message)
    }

    /// No credential, or one that is not valid.
    #[must_use]
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Unauthenticated, "UNAUTHENTICATED", message)
    }

    /// The credential is valid, and does not allow this.
    #[must_use]
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::PermissionDenied, "PERMISSION_DENIED", message)
    }

    /// Not now; the same request may be sent again after `retry_after`.
    #[must_use]
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(RefusalKind::Unavailable, "UNAVAILABLE", message).with_retry_after(retry_after)
    }

    /// Another change came first; the same request may be sent again.
    #[must_use]
    pub fn aborted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Aborted, reason, message)
    }

    /// A fault of the system. The caller is told no particulars; log them where it happened.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            RefusalKind::Internal,
            "INTERNAL",
            "an internal error: send the same request again, with the same request_id where it has one",
        )
    }

    /// The request id was used before for another request.
    #[must_use]
    pub fn request_id_reused() -> Self {
        Self::invalid(
            "request_id",
            "was used before for a different request: make a new one for each request",
        )
        .with_reason("REQUEST_ID_REUSED")
    }

    /// Another reason for machines.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// One more wrong field.
    #[must_use]
    pub fn with_violation(
        mut self,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.violations
            .push(FieldViolation::new(field, description));
        self
    }

    /// When to try again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// One variable of the message, for machines.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

impl From<IllegalTransition> for Refusal {
    fn from(error: IllegalTransition) -> Self {
        Self::failed_precondition("ILLEGAL_TRANSITION", error.to_string())
            .with_metadata("state", error.state.name())
            .with_metadata("event", error.event.name())
    }
}

impl From<InvalidId> for Refusal {
    /// For requests whose field is called `name`.
    fn from(error: InvalidId) -> Self {
        Self::invalid("name", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_state::{FileEvent, FileState};
    use crate::limits::MAX_VIOLATIONS;

    #[test]
    fn what_is_foreign_and_what_does_not_exist_are_refused_with_the_same_words() {
        let refusal = Refusal::not_found("batches/7");
        assert_eq!(refusal.to_string(), "batches/7 was not found");
        assert_eq!(refusal, Refusal::not_found("batches/7"));
    }

    #[test]
    fn a_wrong_page_tells_its_first_faults_and_how_many_there_are() {
        let violations = (0..MAX_VIOLATIONS + 5)
            .map(|index| FieldViolation::new(format!("entries[{index}].path"), "is empty"))
            .collect();
        let refusal = Refusal::invalid_fields(violations);
        assert_eq!(refusal.kind, RefusalKind::InvalidArgument);
        assert_eq!(refusal.violations.len(), MAX_VIOLATIONS);
        assert_eq!(refusal.message, "entries[0].path: is empty (and 104 more)");
    }

    #[test]
    fn no_more_faults_are_kept_than_are_told() {
        let mut wrong = Violations::default();
        assert_eq!(wrong.clone().into_result(), Ok(()));
        for index in 0..MAX_VIOLATIONS - 1 {
            assert!(!wrong.is_full());
            wrong.add(format!("states[{index}]"), "is no state");
        }
        let mut more = Violations::default();
        more.add("first", "is wrong");
        more.add("second", "is wrong");
        wrong.append(more);
        assert!(wrong.is_full());
        wrong.add("third", "is wrong");
        let told = wrong.into_refusal().violations;
        assert_eq!(told.len(), MAX_VIOLATIONS);
        assert_eq!(told[MAX_VIOLATIONS - 1].field, "first");
    }

    #[test]
    fn a_quota_names_the_limit_what_is_used_and_what_was_asked() {
        let refusal = Refusal::quota_exceeded("files", 10, 8, 5);
        assert_eq!(refusal.quota[0].subject, "files");
        assert_eq!(
            refusal.quota[0].description,
            "the limit is 10, 8 are used, 5 more were asked"
        );
        assert_eq!(refusal.metadata["asked"], "5");
    }

    #[test]
    fn an_illegal_transition_is_a_failed_precondition_that_names_the_state() {
        let error = IllegalTransition {
            state: FileState::Processed,
            event: FileEvent::Cancel,
        };
        let refusal = Refusal::from(error);
        assert_eq!(refusal.kind, RefusalKind::FailedPrecondition);
        assert_eq!(refusal.metadata["state"], "PROCESSED");
        assert_eq!(
            refusal.message,
            "a file that is PROCESSED has no transition by CANCEL"
        );
    }

    #[test]
    fn a_reused_request_id_is_an_invalid_argument_with_a_reason_of_its_own() {
        let refusal = Refusal::request_id_reused();
        assert_eq!(refusal.kind, RefusalKind::InvalidArgument);
        assert_eq!(refusal.reason, "REQUEST_ID_REUSED");
        assert_eq!(refusal.violations[0].field, "request_id");
    }
}
