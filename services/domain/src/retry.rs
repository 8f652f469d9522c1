//! When a failed file is tried again, and when it is given up.

use std::time::Duration;

/// How often the worker of a file may be lost before the file is FAILED: the first makes it a suspect that runs alone,
/// the third ends it (protocol 7.3).
pub const MAX_KILLS: u32 = 3;

/// Capped exponential backoff with full jitter, and a budget of failures. Valid by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    max_fails: u32,
    base: Duration,
    cap: Duration,
}

/// Which rule a retry policy breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRetryPolicy {
    /// There must be at least one attempt.
    #[error("max_fails must be at least 1")]
    NoAttempts,
    /// A base of nothing never backs off.
    #[error("the base of the backoff must be longer than zero")]
    ZeroBase,
    /// The cap lies below the base.
    #[error("the cap of the backoff must not be shorter than its base")]
    CapBelowBase,
    /// The cap is longer than a day: such a file waits, it does not retry.
    #[error("the cap of the backoff must be at most 24 hours")]
    CapTooLong,
}

impl RetryPolicy {
    /// The longest cap there may be.
    pub const MAX_CAP: Duration = Duration::from_secs(24 * 60 * 60);

    /// Checks the rules: `max_fails` >= 1, 0 < base <= cap <= 24 h.
    pub const fn try_new(
        max_fails: u32,
        base: Duration,
        cap: Duration,
    ) -> Result<Self, InvalidRetryPolicy> {
        if max_fails == 0 {
            return Err(InvalidRetryPolicy::NoAttempts);
        }
        if base.is_zero() {
            return Err(InvalidRetryPolicy::ZeroBase);
        }
        if cap.as_nanos() < base.as_nanos() {
            return Err(InvalidRetryPolicy::CapBelowBase);
        }
        if cap.as_nanos() > Self::MAX_CAP.as_nanos() {
            return Err(InvalidRetryPolicy::CapTooLong);
        }
        Ok(Self {
            max_fails,
            base,
            cap,
        })
    }

    /// A policy that stands in the code: one that breaks a rule does not compile there.
    ///
    /// # Panics
    /// Where it is not a constant and breaks a rule; see [`RetryPolicy::try_new`].
    #[must_use]
    pub const fn fixed(max_fails: u32, base: Duration, cap: Duration) -> Self {
        match Self::try_new(max_fails, base, cap) {
            Ok(policy) => policy,
            Err(_) => panic!("max_fails >= 1, 0 < base <= cap <= 24 h"),
        }
    }

    /// How many failures of one stage end the file.
    #[must_use]
    pub const fn max_fails(&self) -> u32 {
        self.max_fails
    }

    /// The first backoff at its longest.
    #[must_use]
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// No backoff is longer.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// Whether `fails` failures of this stage exhaust the budget.
    #[must_use]
    pub const fn exhausted(&self, fails: u32) -> bool {
        fails >= self.max_fails
    }

    /// The longest backoff after the `fails`-th failure: base doubled with each failure after the first, up to the cap.
    #[must_use]
    pub fn ceiling(&self, fails: u32) -> Duration {
        let doublings = fails.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// The backoff after the `fails`-th failure (1 for the first). `jitter` is drawn evenly from 0 to 1 by the caller;
    /// full jitter: any wait from nothing to the ceiling. What lies outside 0..=1 is taken as the nearer end, NaN as 1.
    #[must_use]
    pub fn delay(&self, fails: u32, jitter: f64) -> Duration {
        let share = if jitter.is_nan() {
            1.0
        } else {
            jitter.clamp(0.0, 1.0)
        };
        self.ceiling(fails).mul_f64(share)
    }

    /// The same, but not shorter than what a provider asked for, as far as [`RetryPolicy::MAX_CAP`].
    #[must_use]
    pub fn delay_after(&self, fails: u32, jitter: f64, asked: Option<Duration>) -> Duration {
        let asked = asked.unwrap_or_default().min(Self::MAX_CAP);
        self.delay(fails, jitter).max(asked)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::stage::Stage;

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_policy_that_breaks_a_rule_is_not_made() {
        for (max_fails, base, cap, error) in [
            (0, seconds(1), seconds(2), InvalidRetryPolicy::NoAttempts),
            (1, Duration::ZERO, seconds(2), InvalidRetryPolicy::ZeroBase),
            (1, seconds(3), seconds(2), InvalidRetryPolicy::CapBelowBase),
            (
                1,
                seconds(3),
                seconds(86_401),
                InvalidRetryPolicy::CapTooLong,
            ),
        ] {
            assert_eq!(RetryPolicy::try_new(max_fails, base, cap), Err(error));
        }
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let policy = RetryPolicy::try_new(9, seconds(1), seconds(10)).unwrap();
        let ceilings: Vec<u64> = (0..7)
            .map(|fails| policy.ceiling(fails).as_secs())
            .collect();
        assert_eq!(ceilings, [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.ceiling(u32::MAX), seconds(10));
        assert!(!policy.exhausted(8));
        assert!(policy.exhausted(9));
    }

    #[test]
    fn what_a_provider_asks_for_is_waited_out_but_not_for_ever() {
        let policy = RetryPolicy::for_stage(Stage::Embeddings);
        assert_eq!(policy.delay_after(1, 0.0, Some(seconds(40))), seconds(40));
        assert_eq!(
            policy.delay_after(1, 1.0, Some(Duration::ZERO)),
            policy.base()
        );
        assert_eq!(
            policy.delay_after(1, 0.5, Some(Duration::MAX)),
            RetryPolicy::MAX_CAP
        );
    }

    proptest! {
        #[test]
        fn a_delay_lies_between_nothing_and_the_ceiling_whatever_is_given(
            max_fails in 1..100_u32,
            base in 1..10_000_000_u64,
            more in 0..10_000_000_u64,
            fails in any::<u32>(),
            jitter in prop::num::f64::ANY
        ) {
            let base = Duration::from_micros(base);
            let policy = RetryPolicy::try_new(max_fails, base, base + Duration::from_micros(more)).unwrap();
            let ceiling = policy.ceiling(fails);
            prop_assert!(policy.delay(fails, jitter) <= ceiling);
            prop_assert!(ceiling >= policy.base() && ceiling <= policy.cap());
            prop_assert!(policy.ceiling(fails.saturating_add(1)) >= ceiling);
            prop_assert_eq!(policy.delay(fails, 0.0), Duration::ZERO);
            prop_assert_eq!(policy.delay(fails, 1.0), ceiling);
        }

        #[test]
        fn jitter_is_full_every_share_of_the_ceiling_can_be_drawn(share in 0.0..1.0_f64) {
            let policy = RetryPolicy::try_new(5, seconds(8), seconds(8)).unwrap();
            let expected = 8.0 * share;
            prop_assert!((policy.delay(1, share).as_secs_f64() - expected).abs() < 1e-6);
        }
    }
}
