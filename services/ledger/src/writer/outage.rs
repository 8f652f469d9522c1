//! While the database takes nothing: what is logged of it, and when the ledger says that calls are not welcome.

use std::time::{Duration, Instant};

use sea_orm::DbErr;
use tokio::sync::watch;

/// How long the database may take nothing before the ledger's health says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing may have failed before it is over: at the edge of a full disk one change in many still finds room.
const CALM: Duration = Duration::from_secs(2);
/// How often it is logged.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What is remembered of failures until the database takes something again.
pub(super) struct Outage {
    under_way: Option<UnderWay>,
    /// When the last one was logged.
    said: Option<Instant>,
    takes_calls: watch::Sender<bool>,
}

struct UnderWay {
    since: Instant,
    last: Instant,
    is_said: bool,
    failures: u64,
}

impl Outage {
    /// None. `takes_calls` is told when one has lasted for some seconds, and when it is over.
    pub(super) fn none(takes_calls: watch::Sender<bool>) -> Self {
        Self {
            under_way: None,
            said: None,
            takes_calls,
        }
    }

    /// The database did not take something.
    pub(super) fn failed(&mut self, error: &DbErr) {
        let now = Instant::now();
        let under_way = self.under_way.get_or_insert(UnderWay {
            since: now,
            last: now,
            is_said: false,
            failures: 0,
        });
        under_way.failures += 1;
        under_way.last = now;
        if self.said.is_none_or(|said| now - said >= SAID_EVERY) {
            self.said = Some(now);
            under_way.is_said = true;
            tracing::error!(
                %error,
                failures = under_way.failures,
                seconds = (now - under_way.since).as_secs(),
                "the database takes nothing; callers are told to try again, and it is tried on"
            );
        }
        if now - under_way.since >= PATIENCE {
            self.takes_calls
                .send_if_modified(|takes| std::mem::replace(takes, false));
        }
    }

    /// A group with verbs was committed.
    pub(super) fn took(&mut self) {
        self.is_over_after(CALM);
    }

    /// Something small was committed. That proves little while larger things fail.
    pub(super) fn took_little(&mut self) {
        self.is_over_after(PATIENCE);
    }

    fn is_over_after(&mut self, calm: Duration) {
        let over = |under_way: &mut UnderWay| under_way.last.elapsed() >= calm;
        let Some(under_way) = self.under_way.take_if(over) else {
            return;
        };
        if under_way.is_said {
            tracing::info!(
                failures = under_way.failures,
                seconds = under_way.since.elapsed().as_secs(),
                "the database takes changes again"
            );
        }
        self.takes_calls
            .send_if_modified(|takes| !std::mem::replace(takes, true));
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
        outage.took();
        assert!(!*takes_calls.borrow(), "others failed a moment ago");
        age(&mut outage, CALM);
        outage.took_little();
        assert!(!*takes_calls.borrow(), "larger things may still fail");
        outage.took();
        assert!(*takes_calls.borrow());
        outage.failed(&error);
        assert!(*takes_calls.borrow(), "another one begins anew");
        age(&mut outage, PATIENCE);
        outage.took_little();
        assert!(outage.under_way.is_none());
    }

    #[test]
    fn it_is_said_once_a_minute_however_often_it_begins_anew() {
        let mut outage = Outage::none(watch::channel(true).0);
        let error = DbErr::Custom("no room".into());
        for _ in 0..3 {
            outage.failed(&error);
            let said = outage.under_way.as_ref().unwrap().is_said;
            assert_eq!(
                said,
                outage.under_way.as_ref().unwrap().since == outage.said.unwrap()
            );
            age(&mut outage, CALM);
            outage.took();
        }
        outage.failed(&error);
        assert!(
            !outage.under_way.as_ref().unwrap().is_said,
            "it was said a moment ago"
        );
        outage.said = outage.said.unwrap().checked_sub(SAID_EVERY);
        outage.failed(&error);
        assert!(outage.under_way.as_ref().unwrap().is_said);
    }
}
