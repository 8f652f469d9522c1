//! What is tried again, how soon, and how much of it: a store in trouble is not asked three times for everything.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often one request is made at most: once, and again after a failure worth it.
pub(crate) const MAX_ATTEMPTS: u32 = 3;
/// The longest wait between two attempts.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The longest wait before the first repetition; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// S3's codes for what passes.
const PASSES: [&str; 12] = [
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "TooManyRequests",
    "TooManyRequestsException",
    "RequestTimeout",
    "RequestTimeoutException",
];
/// S3's code for a request that was signed at another time than the store's. The next one is signed at the store's.
pub(crate) const SKEWED: &str = "RequestTimeTooSkewed";

/// Whether the same request may fare better at once.
pub(crate) fn is_worth_another_try(status: u16, code: &str) -> bool {
    match status {
        429 | 500 | 502 | 503 | 504 => true,
        // It carries the error of a copy that broke off, or is no answer of S3's.
        200 => !code.is_empty(),
        _ => code == SKEWED || PASSES.contains(&code),
    }
}

/// How long to wait before the request is made for the `attempt`th time, of which the first is 1: any part of a span that
/// doubles, so that those who failed together do not come together.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let span = FIRST_BACKOFF * 2_u32.saturating_pow(attempt.saturating_sub(2));
    span.min(MAX_BACKOFF).mul_f64(rand::random())
}

/// What repetitions of all requests together may use up, and what those that go well give back.
#[derive(Debug)]
pub(crate) struct Quota {
    left: AtomicU32,
}

impl Quota {
    const WHOLE: u32 = 500;
    const OF_A_REPETITION: u32 = 5;
    const OF_A_SUCCESS: u32 = 1;

    pub(crate) fn new() -> Quota {
        Quota {
            left: AtomicU32::new(Quota::WHOLE),
        }
    }

    /// Whether one more repetition may be made.
    pub(crate) fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(Quota::OF_A_REPETITION);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// A request went well at its `attempt`th time.
    pub(crate) fn give_back(&self, attempt: u32) {
        if self.left.load(Ordering::Relaxed) >= Quota::WHOLE {
            return;
        }
        let given = if attempt > 1 {
            Quota::OF_A_REPETITION
        } else {
            Quota::OF_A_SUCCESS
        };
        let more = |left: u32| Some(left.saturating_add(given).min(Quota::WHOLE));
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_not() {
        for (status, code) in [
            (503, ""),
            (503, "SlowDown"),
            (500, "InternalError"),
            (502, ""),
            (504, ""),
            (429, ""),
            (400, "RequestTimeout"),
            (403, SKEWED),
            (200, "InternalError"),
        ] {
            assert!(is_worth_another_try(status, code), "{status} {code}");
        }
        for (status, code) in [
            (404, "NoSuchKey"),
            (412, "PreconditionFailed"),
            (403, "AccessDenied"),
            (409, "OperationAborted"),
            (501, "NotImplemented"),
            (507, "InsufficientStorage"),
            (301, "PermanentRedirect"),
            (200, ""),
        ] {
            assert!(!is_worth_another_try(status, code), "{status} {code}");
        }
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        for _ in 0..100 {
            assert!(backoff(2) <= FIRST_BACKOFF);
            assert!(backoff(3) <= MAX_BACKOFF);
            assert!(backoff(40) <= MAX_BACKOFF);
        }
    }

    #[test]
    fn where_nothing_goes_well_repetitions_end() {
        let quota = Quota::new();
        let taken = (0..1_000).filter(|_| quota.take()).count();
        assert_eq!(taken, 100);
        for _ in 0..5 {
            assert!(!quota.take());
            quota.give_back(1);
        }
        assert!(quota.take());
        quota.give_back(2);
        assert!(quota.take());
        assert!(!quota.take());
        for _ in 0..10_000 {
            quota.give_back(2);
        }
        assert_eq!((0..1_000).filter(|_| quota.take()).count(), 100);
    }
}
