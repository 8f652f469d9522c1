//! The gate before the stage. A store or provider that is away, throttles or refuses this installation is a state of it and
//! no failure of a file: the file is given back uncharged, nothing more is read or begun, and what was read and waits is
//! given back too. The gate opens when the time is over that was asked for, or when a probe passes: one at a time, ever
//! further apart.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use caudal_domain::limits::MAX_DETAIL_CHARS;
use caudal_domain::{FileRef, Reason};
use caudal_node::Rarely;
use caudal_proto::convert::timestamp_from_micros;
use caudal_proto::mesh;
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, Trouble, Wait};
use crate::metrics::GateMetrics;

/// How often a file may be given back for a failure that no probe confirmed; then it is charged like any other.
const GIVEN_BACK_UNCONFIRMED: u32 = 3;
/// Files whose unconfirmed failures are kept; with more of them all are forgotten, which only gives some back again.
const MAX_DOUBTFUL: usize = 4_096;

/// What the stage waits for, as others may see it.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// For what, and why.
    pub(crate) wait: Wait,
    pub(crate) failure: Failure,
    pub(crate) since: SystemTime,
}

impl Waiting {
    pub(crate) fn to_proto(&self) -> mesh::v1::Waiting {
        let words = self.failure.words_of_wait().unwrap_or_default();
        mesh::v1::Waiting {
            r#for: self.wait.on.name().to_owned(),
            reason: self.failure.reason.code().to_owned(),
            words,
            detail: self.failure.detail.chars().take(MAX_DETAIL_CHARS).collect(),
            since: Some(timestamp_from_micros(micros_of(self.since))),
        }
    }
}

pub(crate) fn micros_of(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

struct Shut {
    waiting: Waiting,
    look_at: Instant,
    failed_probes: u32,
    /// Files that failed so that it may be their own doing.
    doubtful: Vec<FileRef>,
}

#[derive(Default)]
struct Inner {
    shut: Option<Shut>,
    /// Waits one after the other without a file that was worked on between them.
    in_a_row: u32,
    unconfirmed: FxHashMap<FileRef, u32>,
}

/// The gate. Its lock is never held across an await.
pub(crate) struct Gate {
    first_pause: Duration,
    longest_pause: Duration,
    pub(crate) metrics: GateMetrics,
    inner: Mutex<Inner>,
    said: Rarely,
    /// Of a refused key, which is said at once whatever was said before.
    said_refused: Rarely,
    /// True while it is shut.
    pub(crate) is_shut: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new(
        first_pause: Duration,
        longest_pause: Duration,
        metrics: GateMetrics,
    ) -> Self {
        Self {
            first_pause,
            longest_pause,
            metrics,
            inner: Mutex::default(),
            said: Rarely::default(),
            said_refused: Rarely::default(),
            is_shut: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_shut(&self) -> bool {
        *self.is_shut.borrow()
    }

    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.lock().shut.as_ref().map(|shut| shut.waiting.clone())
    }

    /// A file was worked on: what it needed is there.
    pub(crate) fn served(&self, file: FileRef) {
        let mut inner = self.lock();
        inner.in_a_row = 0;
        if !inner.unconfirmed.is_empty() {
            inner.unconfirmed.remove(&file);
        }
    }

    /// Shuts the gate for this failure. True when the file is to be given back; false when nothing is waited for, or when
    /// the file has failed so often while every probe passed that it is its own doing.
    pub(crate) fn shut_for(&self, file: FileRef, failure: &Failure, now: Instant) -> bool {
        let Some(wait) = failure.waits else {
            return false;
        };
        let mut inner = self.lock();
        let is_doubtful = wait.trouble == Trouble::Failed;
        let confirmed = inner
            .shut
            .as_ref()
            .is_some_and(|shut| shut.failed_probes > 0);
        if is_doubtful
            && !confirmed
            && inner.unconfirmed.get(&file).copied().unwrap_or(0) >= GIVEN_BACK_UNCONFIRMED
        {
            return false;
        }
        let asked = failure.retry_after.unwrap_or_default();
        if let Some(shut) = &mut inner.shut {
            shut.look_at = shut.look_at.max(now + asked);
            if is_doubtful {
                shut.doubtful.push(file);
            }
            return true;
        }
        let pause = self.pause(inner.in_a_row).max(asked);
        inner.in_a_row = inner.in_a_row.saturating_add(1);
        inner.shut = Some(Shut {
            waiting: Waiting {
                wait,
                failure: failure.clone(),
                since: SystemTime::now(),
            },
            look_at: now + pause,
            failed_probes: 0,
            doubtful: if is_doubtful { vec![file] } else { Vec::new() },
        });
        drop(inner);
        self.metrics.shut(wait.on, failure.reason);
        self.say(failure);
        self.is_shut.send_replace(true);
        true
    }

    /// When to look again; none while it is open.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.lock().shut.as_ref().map(|shut| shut.look_at)
    }

    pub(crate) fn probe_passed(&self) {
        let mut inner = self.lock();
        let Some(shut) = inner.shut.take() else {
            return;
        };
        if shut.failed_probes == 0 {
            if inner.unconfirmed.len() + shut.doubtful.len() > MAX_DOUBTFUL {
                inner.unconfirmed.clear();
            }
            for file in shut.doubtful {
                *inner.unconfirmed.entry(file).or_default() += 1;
            }
        }
        drop(inner);
        let waited = shut.waiting.since.elapsed().unwrap_or_default();
        let on = shut.waiting.wait.on;
        self.metrics.opened(on);
        if shut.failed_probes > 0 {
            tracing::info!(on = on.name(), seconds = waited.as_secs_f32(), "goes on");
        }
        self.is_shut.send_replace(false);
    }

    pub(crate) fn probe_failed(&self, failure: Failure, now: Instant) {
        let mut inner = self.lock();
        let in_a_row = inner.in_a_row;
        let Some(shut) = &mut inner.shut else {
            return;
        };
        let asked = failure.retry_after.unwrap_or_default();
        shut.look_at = now + self.pause(in_a_row).max(asked);
        shut.failed_probes = shut.failed_probes.saturating_add(1);
        self.say(&failure);
        // What it is in may have changed: away first, then back with a key that is refused.
        if let Some(wait) = failure.waits
            && wait.on == shut.waiting.wait.on
        {
            shut.waiting.wait = wait;
            shut.waiting.failure = failure;
        }
        inner.in_a_row = in_a_row.saturating_add(1);
    }

    /// Doubles with each wait in a row, up to the longest; from half of it to all of it.
    fn pause(&self, in_a_row: u32) -> Duration {
        let ceiling = self.first_pause.saturating_mul(1 << in_a_row.min(20));
        let half = ceiling.min(self.longest_pause) / 2;
        half + half.mul_f64(rand::random::<f64>())
    }

    /// Once a minute, however many files and probes fail. A refused key needs a person, the rest may heal by itself.
    fn say(&self, failure: &Failure) {
        let is_refused = failure.reason == Reason::ProviderUnauthorized;
        let said = if is_refused {
            &self.said_refused
        } else {
            &self.said
        };
        let Some(times) = said.next() else {
            return;
        };
        let words = failure.words_of_wait().unwrap_or_default();
        let (reason, detail) = (failure.reason.code(), failure.detail.as_str());
        if is_refused {
            tracing::error!(reason, detail, times, "{words}: files wait");
        } else {
            tracing::warn!(reason, detail, times, "{words}: files wait");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::failure::Dependency;
    use caudal_domain::{BatchId, Stage, TenantId};
    use caudal_node::metrics::Registry;
    use caudal_providers::Provider;
    use uuid::Uuid;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(2);

    fn gate() -> Gate {
        let metrics = GateMetrics::new(&Registry::new("test"), Stage::Embeddings.name());
        Gate::new(FIRST, LONGEST, metrics)
    }

    fn file(ordinal: u32) -> FileRef {
        FileRef {
            tenant: TenantId::from_uuid(Uuid::from_u128(1)),
            batch: BatchId::from_uuid(Uuid::from_u128(2)),
            ordinal,
        }
    }

    fn failure(trouble: Trouble) -> Failure {
        let on = Dependency::Provider(Provider::Embedding);
        Failure::new(Reason::ProviderUnavailable, "away").waiting(on, trouble)
    }

    #[test]
    fn a_failure_of_the_file_itself_does_not_shut_it() {
        let gate = gate();
        let own = Failure::new(Reason::ProviderRejected, "no");
        assert!(!gate.shut_for(file(1), &own, Instant::now()));
        assert!(!gate.is_shut() && gate.waiting().is_none());
    }

    #[test]
    fn it_waits_as_long_as_was_asked_and_the_last_who_asks_decides() {
        let gate = gate();
        let now = Instant::now();
        let asks = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..failure(Trouble::Busy)
        };
        assert!(gate.shut_for(file(1), &asks(7), now));
        assert_eq!(gate.look_at(), Some(now + Duration::from_secs(7)));
        assert!(gate.shut_for(file(2), &asks(3), now));
        assert_eq!(gate.look_at(), Some(now + Duration::from_secs(7)));
        assert!(gate.shut_for(file(3), &asks(9), now));
        assert_eq!(gate.look_at(), Some(now + Duration::from_secs(9)));
        gate.probe_passed();
        assert!(!gate.is_shut() && gate.look_at().is_none());
    }

    #[test]
    fn probes_are_ever_further_apart_up_to_the_longest_and_begin_anew_after_a_file() {
        let gate = gate();
        let now = Instant::now();
        assert!(gate.shut_for(file(1), &failure(Trouble::Down), now));
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let wait = gate.look_at().unwrap() - now;
            assert!(wait >= FIRST / 2 && wait <= LONGEST);
            longest = longest.max(wait);
            gate.probe_failed(failure(Trouble::Down), now);
        }
        assert!(longest >= LONGEST / 2);
        gate.probe_passed();
        gate.served(file(1));
        assert!(gate.shut_for(file(1), &failure(Trouble::Down), now));
        assert!(gate.look_at().unwrap() - now <= FIRST);
    }

    #[test]
    fn a_file_that_fails_while_every_probe_passes_is_charged_in_the_end_and_others_are_not() {
        let gate = gate();
        let now = Instant::now();
        for _ in 0..GIVEN_BACK_UNCONFIRMED {
            assert!(gate.shut_for(file(1), &failure(Trouble::Failed), now));
            gate.probe_passed();
        }
        assert!(!gate.shut_for(file(1), &failure(Trouble::Failed), now));
        assert!(!gate.is_shut(), "such a file holds up nobody");
        assert!(gate.shut_for(file(2), &failure(Trouble::Failed), now));
        gate.probe_passed();
        gate.served(file(1));
        assert!(gate.shut_for(file(1), &failure(Trouble::Failed), now));
    }

    #[test]
    fn nobody_is_charged_for_an_outage_however_often_it_is_met() {
        let gate = gate();
        let now = Instant::now();
        for _ in 0..50 {
            assert!(gate.shut_for(file(1), &failure(Trouble::Failed), now));
            gate.probe_failed(failure(Trouble::Failed), now);
            gate.probe_passed();
            assert!(gate.shut_for(file(1), &failure(Trouble::Down), now));
            gate.probe_passed();
        }
    }

    /// An outage by a clock that is moved from probe to probe; how many probes it took.
    fn outlasted(outage: Duration, met: &Failure) -> u32 {
        let gate = gate();
        let began = Instant::now();
        // What is in hand comes back as it fails, and nothing more is begun.
        for ordinal in 1..=150 {
            assert!(gate.shut_for(file(ordinal), met, began));
        }
        let mut probes = 0;
        loop {
            let now = gate.look_at().unwrap();
            probes += 1;
            if now - began >= outage {
                assert!(now - began <= outage + LONGEST, "it goes on in time");
                gate.probe_passed();
                break;
            }
            gate.probe_failed(met.clone(), now);
            assert!(gate.is_shut());
        }
        // Nobody is nearer to a charge than before.
        let doubtful = failure(Trouble::Failed);
        for ordinal in 1..=150 {
            for _ in 0..GIVEN_BACK_UNCONFIRMED {
                assert!(gate.shut_for(file(ordinal), &doubtful, began + outage));
                gate.probe_passed();
            }
        }
        probes
    }

    #[test]
    fn what_is_away_for_eight_seconds_45_or_ten_minutes_charges_nobody_and_goes_on_in_time() {
        let store = |trouble| {
            Failure::new(Reason::StoreUnavailable, "").waiting(Dependency::Store, trouble)
        };
        let kind = std::io::ErrorKind::NotFound;
        for seconds in [8, 45, 600] {
            let outage = Duration::from_secs(seconds);
            for failure in [
                store(Trouble::Down),
                store(Trouble::Full),
                store(Trouble::Failed),
                Failure::of_temp_folder(&kind.into()),
                Failure::of_parser_host("Resource temporarily unavailable"),
            ] {
                let probes = outlasted(outage, &failure);
                let fewest = outage.div_duration_f64(LONGEST);
                assert!(f64::from(probes) >= fewest, "{probes}");
                assert!(f64::from(probes) <= 2.0 * fewest + 20.0, "{probes}");
            }
        }
    }

    #[test]
    fn half_an_hour_without_a_provider_and_an_hour_with_a_refused_key_charge_nobody() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let refused = Failure::new(Reason::ProviderUnauthorized, "401")
            .waiting(Dependency::Provider(Provider::Embedding), Trouble::Down);
        for (outage, failure) in [
            (minutes(30), failure(Trouble::Down)),
            (minutes(30), failure(Trouble::Busy)),
            (minutes(30), failure(Trouble::Failed)),
            (minutes(60), refused),
        ] {
            let probes = outlasted(outage, &failure);
            let fewest = outage.div_duration_f64(LONGEST);
            assert!(f64::from(probes) >= fewest, "{probes}");
            assert!(f64::from(probes) <= 2.0 * fewest + 20.0, "{probes}");
        }
    }
}
