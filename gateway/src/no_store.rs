//! What is answered while the object store does not do its part. That is a state of the installation which every call meets,
//! so the log says it once a minute.

use std::fmt::Display;
use std::time::Duration;

use caudal_domain::Refusal;
use caudal_node::Rarely;
use caudal_objects::{ObjectError, StoreTrouble};

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Somebody has to make room first.
const WHEN_THERE_MAY_BE_ROOM: Duration = Duration::from_secs(10);
/// The reason of what is refused for want of room.
pub(crate) const STORE_FULL: &str = "STORE_FULL";

static SAID_UNSIGNED: Rarely = Rarely::new();
static SAID_UNASKED: Rarely = Rarely::new();
static SAID_UNTAKEN: Rarely = Rarely::new();
static SAID_UNFREED: Rarely = Rarely::new();

pub(crate) fn not_signed(error: &ObjectError) -> Refusal {
    if let Some(times) = SAID_UNSIGNED.next() {
        tracing::error!(%error, times, "an upload could not be presigned");
    }
    Refusal::unavailable("the upload cannot be signed at the moment", TRY_AGAIN_AFTER)
}

pub(crate) fn not_asked(error: &ObjectError) -> Refusal {
    if let Some(times) = SAID_UNASKED.next() {
        tracing::warn!(%error, times, "the store could not be asked");
    }
    Refusal::unavailable(
        "the object store cannot be asked at the moment",
        TRY_AGAIN_AFTER,
    )
}

/// Bytes that came through this gateway did not get into the store. What had come before is kept.
pub(crate) fn not_taken(error: &ObjectError) -> Refusal {
    if let Some(times) = SAID_UNTAKEN.next() {
        tracing::warn!(%error, times, "the store did not take bytes of an upload");
    }
    if error.trouble() == Some(StoreTrouble::Full) {
        return Refusal::unavailable(
            "the object store is full: nothing is lost, the upload goes on when it has room",
            WHEN_THERE_MAY_BE_ROOM,
        )
        .with_reason(STORE_FULL);
    }
    Refusal::unavailable(
        "the object store does not answer at the moment",
        TRY_AGAIN_AFTER,
    )
}

/// What an upload leaves behind could not be freed: it is tried again when the upload is due.
pub(crate) fn freed_later(error: &dyn Display) {
    if let Some(times) = SAID_UNFREED.next() {
        tracing::warn!(%error, times, "what uploads leave behind is freed when they are due");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Counts what is logged.
    #[derive(Default)]
    struct Lines(Arc<AtomicUsize>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn trouble(trouble: StoreTrouble) -> ObjectError {
        ObjectError::Unavailable {
            key: "tenant/landing/batch/0/1".to_owned(),
            trouble,
            detail: "connection refused".to_owned(),
        }
    }

    #[test]
    fn a_hundred_calls_that_the_store_does_not_answer_are_one_line_of_each_kind() {
        let lines = Lines::default();
        let counted = Arc::clone(&lines.0);
        tracing::subscriber::with_default(lines, || {
            for _ in 0..100 {
                let away = trouble(StoreTrouble::Down);
                for refusal in [not_asked(&away), not_taken(&away), not_signed(&away)] {
                    assert_eq!(refusal.retry_after, Some(TRY_AGAIN_AFTER), "{refusal:?}");
                }
                freed_later(&away);
            }
        });
        assert_eq!(counted.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_full_store_is_told_apart_from_one_that_is_away() {
        let reason = |of| not_taken(&trouble(of)).reason;
        assert_eq!(reason(StoreTrouble::Full), STORE_FULL);
        assert_ne!(reason(StoreTrouble::Down), STORE_FULL);
    }
}
