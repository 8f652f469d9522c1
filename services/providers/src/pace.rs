//! How fast a provider is asked: as fast as work comes, until it answers 429; then at a distance that doubles with each
//! further one and shrinks a little with each request that is served.
//!
//! Pure: time comes in as [`Instant`], nothing sleeps.

use std::time::{Duration, Instant};

/// The distance after a first 429: at least this, and half of what the provider asks to wait up to [`FIRST_AT_MOST`].
const FIRST_AT_LEAST: Duration = Duration::from_millis(50);
const FIRST_AT_MOST: Duration = Duration::from_secs(1);
/// No two requests are further apart, whatever a provider says; it is then asked in vain now and then.
const FURTHEST: Duration = Duration::from_secs(60);
/// A distance below this is none.
const CLOSEST: Duration = Duration::from_millis(10);
/// Each request that is served makes the pace so much faster: some fourteen of them as much as a 429 takes.
const FASTER: f64 = 1.05;
/// After so many requests in a row another may be under way beside those that may be.
const SERVED_BEFORE_WIDER: usize = 4;

/// The pace of one provider.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    distance: Duration,
    not_before: Option<Instant>,
    /// Requests served since the last 429.
    served: usize,
}

impl Pace {
    /// How long the next request has to wait, and takes its turn; without the turn when it would wait longer than `longest`.
    pub(crate) fn turn(&mut self, now: Instant, longest: Duration) -> Result<Duration, Duration> {
        let wait = self.pause_left(now);
        if wait > longest {
            return Err(wait);
        }
        self.not_before = Some(now + wait + self.distance);
        Ok(wait)
    }

    /// Requests that may be under way at once: one at first and while there is a distance, then ever more.
    pub(crate) fn width(&self) -> usize {
        if self.distance.is_zero() {
            1 + self.served / SERVED_BEFORE_WIDER
        } else {
            1
        }
    }

    /// How long nothing may be sent; zero when something may.
    pub(crate) fn pause_left(&self, now: Instant) -> Duration {
        self.not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// The provider answered 429 and wants nothing for this long.
    pub(crate) fn throttled(&mut self, now: Instant, retry_after: Duration) {
        self.served = 0;
        let first = (retry_after / 2).clamp(FIRST_AT_LEAST, FIRST_AT_MOST);
        self.distance = (self.distance * 2).max(first).min(FURTHEST);
        let quiet_until = now + retry_after;
        self.not_before = Some(
            self.not_before
                .map_or(quiet_until, |at| at.max(quiet_until)),
        );
    }

    /// The provider did its work.
    pub(crate) fn served(&mut self) {
        self.served = self.served.saturating_add(1);
        if self.distance.is_zero() {
            return;
        }
        let distance = self.distance.mul_f64(1.0 / FASTER);
        self.distance = if distance < CLOSEST {
            Duration::ZERO
        } else {
            distance
        };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    /// Asks a provider that serves a request each `every` and else answers 429 with `retry_after`, for `time`.
    fn asked(every: Duration, retry_after: Duration, time: Duration) -> (u32, u32) {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let (mut served, mut refused) = (0, 0);
        let mut free_at = begun;
        let mut now = begun;
        while now < begun + time {
            match pace.turn(now, LONGEST) {
                Ok(wait) => now += wait,
                Err(wait) => {
                    now += wait;
                    continue;
                }
            }
            if now >= free_at {
                free_at = now + every;
                served += 1;
                pace.served();
            } else {
                refused += 1;
                pace.throttled(now, retry_after);
            }
        }
        (served, refused)
    }

    #[test]
    fn without_a_429_nothing_waits() {
        let mut pace = Pace::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(pace.turn(now, LONGEST), Ok(Duration::ZERO));
            pace.served();
        }
    }

    #[test]
    fn a_strict_provider_is_asked_nearly_as_often_as_it_likes_and_seldom_in_vain() {
        for (every, retry_after) in [(1_500, 2_000), (1_500, 100), (200, 1_000), (30_000, 1_000)] {
            let every = Duration::from_millis(every);
            let time = every * 400;
            let (served, refused) = asked(every, Duration::from_millis(retry_after), time);
            assert!(served >= 200, "{every:?}: {served} of 400 were used");
            assert!(
                refused * 4 <= served,
                "{every:?}: {refused} in vain, {served} served"
            );
        }
    }

    #[test]
    fn requests_go_beside_each_other_only_once_some_were_served() {
        let mut pace = Pace::default();
        assert_eq!(pace.width(), 1);
        for _ in 0..SERVED_BEFORE_WIDER {
            pace.served();
        }
        assert_eq!(pace.width(), 2);
        pace.throttled(Instant::now(), Duration::ZERO);
        assert_eq!(pace.width(), 1);
    }

    #[test]
    fn a_long_pause_takes_no_turn() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.throttled(now, Duration::from_secs(60));
        let wait = pace.turn(now, LONGEST).unwrap_err();
        assert_eq!(wait, Duration::from_secs(60));
        assert_eq!(pace.turn(now, LONGEST), Err(wait));
        let later = now + wait;
        assert_eq!(pace.turn(later, LONGEST), Ok(Duration::ZERO));
        assert!(pace.turn(later, LONGEST).unwrap() > Duration::ZERO);
    }

    #[test]
    fn the_pace_comes_back_when_all_is_served() {
        let mut pace = Pace::default();
        pace.throttled(Instant::now(), Duration::from_secs(20));
        for _ in 0..1_000 {
            pace.served();
        }
        assert!(pace.distance.is_zero());
    }
}
