//! While the database takes nothing: what is logged of it, and when the ledger says that calls are not welcome.

use std::time::{Duration, Instant};

use sea_orm::DbErr;
use tokio::sync::watch;

/// How long the database may take nothing before the ledger's health says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is logged.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What is remembered of failures until the database takes something again.
pub(super) struct Outage {
    under_way: Option<UnderWay>,
    takes_calls: watch::Sender<bool>,
}

struct UnderWay {
    since: Instant,
    last: Instant,
    said: Instant,
    failures: u64,
}

impl Outage {
    /// None. `takes_calls` is told when one has lasted for some seconds, and when it is over.
    pub(super) fn none(takes_calls: watch::Sender<bool>) -> Self {
        Self {
            under_way: None,
            takes_calls,
        }
    }

    /// The database did not take something.
    pub(super) fn failed(&mut self, error: &DbErr) {
        let now = Instant::now();
        let under_way = self.under_way.get_or_insert_with(|| {
            tracing::error!(%error, "the database takes nothing; callers are told to try again, and it is tried on");
            UnderWay {
                since: now,
                last: now,
                said: now,
                failures: 0,
            }
        });
        under_way.failures += 1;
        under_way.last = now;
        if now - under_way.said >= SAID_EVERY {
            under_way.said = now;
            tracing::error!(
                %error,
                failures = under_way.failures,
                seconds = (now - under_way.since).as_secs(),
                "the database still takes nothing"
            );
        }
        if now - under_way.since >= PATIENCE {
            self.takes_calls
                .send_if_modified(|takes| std::mem::replace(takes, false));
        }
    }

    /// A group with acts was committed.
    pub(super) fn is_over(&mut self) {
        let Some(under_way) = self.under_way.take() else {
            return;
        };
        tracing::info!(
            failures = under_way.failures,
            seconds = under_way.since.elapsed().as_secs(),
            "the database takes changes again"
        );
        self.takes_calls
            .send_if_modified(|takes| !std::mem::replace(takes, true));
    }

    /// Something small was committed. That proves little while larger things fail.
    pub(super) fn may_be_over(&mut self) {
        let calm = |under_way: &UnderWay| under_way.last.elapsed() >= PATIENCE;
        if self.under_way.as_ref().is_some_and(calm) {
            self.is_over();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// As if it had begun so long ago, and last failed then.
    fn age(outage: &mut Outage, by: Duration) {
        let under_way = outage.under_way.as_mut().unwrap();
        under_way.since = under_way.since.checked_sub(by).unwrap();
        under_way.last = under_way.last.checked_sub(by).unwrap();
    }

    #[test]
    fn calls_are_unwelcome_after_some_seconds_and_welcome_when_it_is_over() {
        let (sender, takes_calls) = watch::channel(true);
        let mut outage = Outage::none(sender);
        let error = DbErr::Custom("no room".into());
        outage.failed(&error);
        assert!(*takes_calls.borrow(), "one failure is no outage");
        age(&mut outage, PATIENCE);
        outage.failed(&error);
        assert!(!*takes_calls.borrow());
        outage.may_be_over();
        assert!(!*takes_calls.borrow(), "larger things failed a moment ago");
        age(&mut outage, PATIENCE);
        outage.may_be_over();
        assert!(*takes_calls.borrow());
        outage.failed(&error);
        assert!(*takes_calls.borrow(), "another one begins anew");
        outage.is_over();
        assert!(*takes_calls.borrow());
    }
}
