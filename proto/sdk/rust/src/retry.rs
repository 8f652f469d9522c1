//! Waiting between attempts: exponential, capped, with full jitter.

use std::time::Duration;

/// The waits between the attempts of one thing. They double from `base` to `cap`, each scattered over its whole range.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// Begins with waits of at most `base`, ends with waits of at most `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            attempts: 0,
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.attempts))
            .min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(rand::random::<f64>())
    }

    /// How many waits were taken since the start or the last success.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It went well: the next trouble begins with short waits again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_never_exceed_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..80 {
            assert!(backoff.next_wait() <= Duration::from_secs(5));
        }
        assert_eq!(backoff.attempts(), 80);
    }
}
