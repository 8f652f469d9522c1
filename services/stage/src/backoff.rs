use std::time::Duration;

use tokio_util::sync::CancellationToken;

const FIRST_CEILING: Duration = Duration::from_millis(50);
const LAST_CEILING: Duration = Duration::from_secs(5);

/// Waits between attempts that got no answer: doubling, capped, with full jitter above a floor.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            ceiling: FIRST_CEILING,
        }
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        let floor = FIRST_CEILING / 2;
        let delay = floor + self.ceiling.mul_f64(rand::random::<f64>());
        self.ceiling = (self.ceiling * 2).min(LAST_CEILING);
        delay
    }

    /// Waits; false when `ended` came first.
    pub(crate) async fn wait_unless(&mut self, ended: &CancellationToken) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.next_delay()) => true,
            () = ended.cancelled() => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_cap_and_never_reach_zero() {
        let mut backoff = Backoff::new();
        for _ in 0..100 {
            let delay = backoff.next_delay();
            assert!(delay >= FIRST_CEILING / 2 && delay <= LAST_CEILING + FIRST_CEILING);
        }
        assert_eq!(backoff.ceiling, LAST_CEILING);
    }
}
