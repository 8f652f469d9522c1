//! Says what happens again and again once a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the same is said.
const EVERY: Duration = Duration::from_secs(60);

/// Decides which of many equal log lines are written: the first, and then one a minute.
#[derive(Debug, Default)]
pub struct Rarely {
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    times: u64,
}

impl Rarely {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            said: Mutex::new(Said {
                last: None,
                times: 0,
            }),
        }
    }

    /// It happened again. How often it has since it was last said, this time included, when it is to be said now.
    pub fn next(&self) -> Option<u64> {
        self.next_at(Instant::now())
    }

    fn next_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.times += 1;
        if said.last.is_some_and(|last| now - last < EVERY) {
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_then_one_a_minute_with_how_many_there_were() {
        let rarely = Rarely::default();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(rarely.next_at(begun), Some(1));
        assert_eq!(rarely.next_at(after(1)), None);
        assert_eq!(rarely.next_at(after(59)), None);
        assert_eq!(rarely.next_at(after(60)), Some(3));
        assert_eq!(rarely.next_at(after(61)), None);
    }
}
