//! The memory that all uploads of a gateway may hold together.

use std::sync::Arc;
use std::time::Duration;

use caudal_domain::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is granted at once.
const UNIT: u64 = 256 << 10;
/// How long an upload waits for memory. Then it puts what it holds into the store and frees its own, so that those who wait
/// for each other's do not wait for ever.
const PATIENCE: Duration = Duration::from_secs(5);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// All of it.
#[derive(Clone)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    patience: Duration,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        let units = Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            units: Arc::new(units),
            patience: PATIENCE,
        }
    }

    pub(super) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            held: None,
            units: 0,
        }
    }
}

/// What one upload holds of it.
pub(super) struct Share {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
    units: u64,
}

impl Share {
    /// Grows to so many bytes.
    ///
    /// # Errors
    /// There is none, for as long as it is waited for.
    pub(super) async fn grow_to(&mut self, bytes: u64) -> Result<(), Refusal> {
        let units = bytes.div_ceil(UNIT);
        let more = units.saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let wanted = Arc::clone(&self.budget.units)
            .acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
        // The semaphore is never closed.
        let Ok(Ok(permit)) = tokio::time::timeout(self.budget.patience, wanted).await else {
            let words = "the gateway has no memory left for more uploads at once";
            return Err(Refusal::unavailable(words, TRY_AGAIN_AFTER));
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        self.units = units;
        Ok(())
    }

    /// Gives all of it back.
    pub(super) fn free(&mut self) {
        self.held = None;
        self.units = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_finds_no_memory_is_told_to_come_again_and_what_is_freed_is_given_to_the_next()
    {
        let mut budget = Budget::new(4 * UNIT);
        budget.patience = Duration::ZERO;
        let (mut one, mut other) = (budget.share(), budget.share());
        assert_eq!(one.grow_to(3 * UNIT).await, Ok(()));
        assert_eq!(other.grow_to(UNIT).await, Ok(()));
        let refusal = other.grow_to(UNIT + 1).await;
        assert_eq!(
            refusal.err().map(|refusal| refusal.reason),
            Some("UNAVAILABLE")
        );
        one.free();
        assert_eq!(other.grow_to(4 * UNIT).await, Ok(()));
        drop(other);
        assert_eq!(one.grow_to(4 * UNIT).await, Ok(()));
    }
}
