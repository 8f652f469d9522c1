//! Tier 1: permits by rate, on governor's GCRA. A demand gets as much as there is, up to its block. What is for providers
//! (tier 3) goes on to their budgets.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caudal_domain::limits::MAX_ENTRIES_PER_PAGE;
use caudal_proto::mesh::v1::{PermitKind, RateStatus};
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{InsufficientCapacity, NotUntil, RateLimiter};

use crate::budgets::{Budgeted, Budgets, Demand, is_of_providers};
use crate::grant::{CROWDED_RETRY, Grant};
use crate::settings::{DefaultRates, Rate};

/// Keys of one kind that may have a bucket which is not full. A key beyond waits until others are full again.
const MAX_KEYS: usize = 100_000;

/// Full buckets are forgotten every so many demands: they are no different from fresh ones.
const DEMANDS_BETWEEN_PRUNES: u32 = 4096;

/// Keys that the status tells about.
const MAX_COUNTED_KEYS: usize = 1000;

type Keyed<C> =
    RateLimiter<String, DefaultKeyedStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;
type Direct<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;
type Checked<C> = Result<Result<(), NotUntil<<C as Clock>::Instant>>, InsufficientCapacity>;

pub(crate) struct Rates<C: Clock = DefaultClock> {
    clock: C,
    kinds: BTreeMap<PermitKind, Kind<C>>,
    started: C::Instant,
    budgets: Mutex<Budgets>,
    counted: Mutex<HashMap<(PermitKind, String), Counted<C>>>,
    demands: AtomicU32,
    /// Keys with a limit of their own that is kept in the database, as whoever asks tells it.
    told: Mutex<ToldRates<C>>,
}

type ToldRates<C> = HashMap<(PermitKind, String), Arc<Told<C>>>;

/// A rate that was told, and its bucket.
struct Told<C: Clock> {
    per_second: u32,
    rate: Rate,
    bucket: Direct<C>,
}

struct Kind<C: Clock> {
    rate: Rate,
    keyed: Keyed<C>,
    own: HashMap<String, (Rate, Direct<C>)>,
}

struct Counted<C: Clock> {
    granted: u64,
    refused: u64,
    last_used: C::Instant,
}

impl<C: Clock> std::fmt::Debug for Rates<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rates").finish_non_exhaustive()
    }
}

const KINDS: [PermitKind; 2] = [PermitKind::Calls, PermitKind::Entries];

impl<C: Clock + Clone> Rates<C> {
    pub(crate) fn new(
        defaults: &DefaultRates,
        own: &BTreeMap<(PermitKind, String), Rate>,
        clock: C,
    ) -> Self {
        let mut kinds = BTreeMap::new();
        for kind in KINDS {
            let Some(rate) = defaults.of(kind) else {
                continue;
            };
            let keyed = RateLimiter::new(
                rate.quota(),
                DefaultKeyedStateStore::default(),
                clock.clone(),
            );
            kinds.insert(
                kind,
                Kind {
                    rate,
                    keyed,
                    own: HashMap::new(),
                },
            );
        }
        for ((kind, key), rate) in own {
            let direct = RateLimiter::direct_with_clock(rate.quota(), clock.clone());
            if let Some(kind) = kinds.get_mut(kind) {
                kind.own.insert(key.clone(), (*rate, direct));
            }
        }
        Self {
            started: clock.now(),
            clock,
            kinds,
            budgets: Mutex::new(Budgets::new(
                defaults.provider_requests,
                defaults.provider_tokens,
                own,
            )),
            counted: Mutex::default(),
            demands: AtomicU32::new(0),
            told: Mutex::default(),
        }
    }

    /// The same for a key that has a rate of its own, which holds from the moment it is told.
    pub(crate) fn acquire_at(
        &self,
        kind: PermitKind,
        key: &str,
        want: u32,
        block: u32,
        per_second: u32,
    ) -> Option<Grant> {
        let told = self.told(kind, key, per_second);
        let Some(told) = told else {
            return self.acquire(kind, key, want, block);
        };
        self.kinds.get(&kind)?;
        let grant = take(
            &self.clock,
            want,
            block.max(want),
            told.rate.burst(),
            |count| told.bucket.check_n(count),
        );
        self.count(kind, key, want, grant);
        Some(grant)
    }

    /// The bucket of a rate that is told; `None` where there is none of its own.
    fn told(&self, kind: PermitKind, key: &str, per_second: u32) -> Option<Arc<Told<C>>> {
        let name = (kind, key.to_owned());
        let mut known = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if per_second == 0 {
            known.remove(&name);
            return None;
        }
        if let Some(told) = known.get(&name)
            && told.per_second == per_second
        {
            return Some(Arc::clone(told));
        }
        // A page of entries is taken whole or not at all, so there is room for one.
        let page = u32::try_from(MAX_ENTRIES_PER_PAGE).unwrap_or(u32::MAX);
        let burst = match kind {
            PermitKind::Entries => per_second.max(page),
            _ => per_second,
        };
        let rate = Rate::try_new("per_second", per_second.into(), burst).ok()?;
        if known.len() >= MAX_KEYS {
            // Each begins with a full bucket again: a burst more, once.
            known.clear();
        }
        let told = Arc::new(Told {
            per_second,
            rate,
            bucket: RateLimiter::direct_with_clock(rate.quota(), self.clock.clone()),
        });
        known.insert(name, Arc::clone(&told));
        Some(told)
    }

    /// Takes up to `block` permits; with fewer than `want` it says when to ask again. None for an unknown kind, and for the
    /// kinds of providers.
    pub(crate) fn acquire(
        &self,
        kind: PermitKind,
        key: &str,
        want: u32,
        block: u32,
    ) -> Option<Grant> {
        let limits = self.kinds.get(&kind)?;
        self.prune_now_and_then();
        let grant = limits.acquire(&self.clock, key, want, block.max(want));
        self.count(kind, key, want, grant);
        Some(grant)
    }

    /// Takes permits of a provider. None for other kinds.
    pub(crate) fn acquire_of_provider(&self, demand: &Demand<'_>) -> Option<Budgeted> {
        let now = self.passed();
        let found = self.budgets().acquire(demand, now)?;
        self.count(demand.kind, demand.provider, demand.want, found.grant);
        Some(found)
    }

    /// The provider wants nothing for this long, and fewer requests after it. Whether this is not the same event again.
    pub(crate) fn penalize(&self, provider: &str, retry_after: Duration) -> bool {
        let now = self.passed();
        self.budgets().penalize(provider, retry_after, now)
    }

    /// Since the start.
    fn passed(&self) -> Duration {
        self.clock.now().duration_since(self.started).into()
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was granted and refused, by kind and key.
    pub(crate) fn status(&self) -> Vec<RateStatus> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rates: Vec<RateStatus> = counted
            .iter()
            .filter_map(|((kind, key), counted)| {
                let (rate, present_per_second, processes) = self.present(*kind, key)?;
                Some(RateStatus {
                    kind: (*kind).into(),
                    key: key.clone(),
                    per_second: rate.per_second(),
                    burst: rate.burst(),
                    granted: counted.granted,
                    refused: counted.refused,
                    present_per_second,
                    processes,
                })
            })
            .collect();
        rates.sort_by(|left, right| (left.kind, &left.key).cmp(&(right.kind, &right.key)));
        rates
    }

    /// The rate that is set, what it is now, and how many processes share it, where that is known.
    pub(crate) fn present(&self, kind: PermitKind, key: &str) -> Option<(Rate, f64, u32)> {
        if is_of_providers(kind) {
            return self.budgets().of(kind, key, self.passed());
        }
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.get(&(kind, key.to_owned())).map(|told| told.rate);
        let rate = told.unwrap_or(self.kinds.get(&kind)?.rate_of(key));
        Some((rate, rate.per_second(), 0))
    }

    fn count(&self, kind: PermitKind, key: &str, want: u32, grant: Grant) {
        let now = self.clock.now();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (kind, key.to_owned());
        if counted.len() >= MAX_COUNTED_KEYS && !counted.contains_key(&name) {
            let oldest = counted
                .iter()
                .min_by_key(|(_, counted)| counted.last_used)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                counted.remove(&oldest);
            }
        }
        let entry = counted.entry(name).or_insert(Counted {
            granted: 0,
            refused: 0,
            last_used: now,
        });
        entry.granted += u64::from(grant.granted);
        entry.refused += u64::from(want.saturating_sub(grant.granted));
        entry.last_used = now;
    }

    fn prune_now_and_then(&self) {
        if self.demands.fetch_add(1, Ordering::Relaxed) % DEMANDS_BETWEEN_PRUNES
            != DEMANDS_BETWEEN_PRUNES - 1
        {
            return;
        }
        for kind in self.kinds.values() {
            kind.keyed.retain_recent();
            kind.keyed.shrink_to_fit();
        }
    }
}

impl<C: Clock> Kind<C> {
    fn rate_of(&self, key: &str) -> Rate {
        self.own.get(key).map_or(self.rate, |(rate, _)| *rate)
    }

    fn acquire(&self, clock: &C, key: &str, want: u32, block: u32) -> Grant {
        if let Some((rate, direct)) = self.own.get(key) {
            return take(clock, want, block, rate.burst(), |count| {
                direct.check_n(count)
            });
        }
        if self.keyed.len() >= MAX_KEYS {
            self.keyed.retain_recent();
            if self.keyed.len() >= MAX_KEYS {
                tracing::warn!(keys = MAX_KEYS, "too many keys at once, a demand waits");
                return Grant {
                    granted: 0,
                    retry_after: CROWDED_RETRY,
                };
            }
        }
        let key = key.to_owned();
        take(clock, want, block, self.rate.burst(), |count| {
            self.keyed.check_key_n(&key, count)
        })
    }
}

/// The most that is there, up to the block. A check takes all of its count or nothing, so powers of two are taken from
/// the largest down: their sum is exactly what is there.
fn take<C: Clock>(
    clock: &C,
    want: u32,
    block: u32,
    burst: u32,
    check: impl Fn(NonZeroU32) -> Checked<C>,
) -> Grant {
    let taken =
        |count: u32| NonZeroU32::new(count).is_some_and(|count| matches!(check(count), Ok(Ok(()))));
    // A bucket never holds more than its burst.
    let most = block.min(burst);
    if taken(most) {
        return granted(clock, want, most, burst, &check);
    }
    let mut sum = 0;
    let mut piece = 1 << (u32::BITS - 1 - most.max(1).leading_zeros());
    while piece > 0 {
        if sum + piece <= most && taken(piece) {
            sum += piece;
        }
        piece /= 2;
    }
    granted(clock, want, sum, burst, &check)
}

fn granted<C: Clock>(
    clock: &C,
    want: u32,
    granted: u32,
    burst: u32,
    check: impl Fn(NonZeroU32) -> Checked<C>,
) -> Grant {
    let missing = want.saturating_sub(granted).min(burst);
    let Some(missing) = NonZeroU32::new(missing) else {
        return Grant {
            granted,
            retry_after: Duration::ZERO,
        };
    };
    match check(missing) {
        // Some came free in between.
        Ok(Ok(())) => Grant {
            granted: granted + missing.get(),
            retry_after: Duration::ZERO,
        },
        Ok(Err(not_until)) => Grant {
            granted,
            retry_after: not_until.wait_time_from(clock.now()),
        },
        Err(InsufficientCapacity(_)) => Grant {
            granted,
            retry_after: CROWDED_RETRY,
        },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    #[test]
    fn a_rate_that_is_told_holds_at_once_and_until_it_is_taken_back() {
        let clock = FakeRelativeClock::default();
        let each = Rate::try_new("each", 200.0, 200).unwrap();
        let rates = rates(&clock, each);
        let ask = |want, told| {
            let grant = rates.acquire_at(PermitKind::Calls, "t", want, want, told);
            grant.unwrap().granted
        };
        let usual = ask(100, 0);
        assert_eq!(usual, 100);
        assert_eq!(ask(100, 3), 3);
        assert_eq!(ask(1, 3), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(100, 3), 3);
        assert_eq!(ask(100, 7), 7);
        assert!(ask(1, 0) > 0);
        // A page is taken whole, however slow the rate.
        let page = u32::try_from(MAX_ENTRIES_PER_PAGE).unwrap();
        let whole = rates.acquire_at(PermitKind::Entries, "t", page, page, 10);
        assert_eq!(whole.unwrap().granted, page);
        let next = rates.acquire_at(PermitKind::Entries, "t", page, page, 10);
        assert!(next.unwrap().retry_after > Duration::from_secs(60));
    }

    use super::*;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate::try_new("test", per_second, burst).unwrap()
    }

    fn rates(clock: &FakeRelativeClock, each: Rate) -> Rates<FakeRelativeClock> {
        let defaults = DefaultRates {
            calls: each,
            entries: each,
            provider_requests: each,
            provider_tokens: each,
        };
        let own = BTreeMap::from([((PermitKind::Entries, "slow".to_owned()), rate(1.0, 2))]);
        Rates::new(&defaults, &own, clock.clone())
    }

    fn take_all(rates: &Rates<FakeRelativeClock>, kind: PermitKind, key: &str) -> u32 {
        rates.acquire(kind, key, 1, u32::MAX).unwrap().granted
    }

    #[test]
    fn a_demand_gets_what_is_there_and_is_told_when_the_rest_comes() {
        let clock = FakeRelativeClock::default();
        let rates = rates(&clock, rate(10.0, 37));
        let first = rates.acquire(PermitKind::Calls, "a", 1, 20).unwrap();
        assert_eq!(
            first,
            Grant {
                granted: 20,
                retry_after: Duration::ZERO
            }
        );
        let second = rates.acquire(PermitKind::Calls, "a", 30, 30).unwrap();
        assert_eq!(second.granted, 17);
        assert_eq!(second.retry_after, Duration::from_millis(1300));
        clock.advance(Duration::from_millis(1300));
        assert_eq!(take_all(&rates, PermitKind::Calls, "a"), 13);
        // Another key and another kind have buckets of their own.
        assert_eq!(take_all(&rates, PermitKind::Calls, "b"), 37);
        assert_eq!(take_all(&rates, PermitKind::Entries, "a"), 37);
        assert_eq!(rates.acquire(PermitKind::Unspecified, "a", 1, 1), None);
    }

    #[test]
    fn a_key_with_a_rate_of_its_own_has_it_in_its_kind_only() {
        let clock = FakeRelativeClock::default();
        let rates = rates(&clock, rate(10.0, 37));
        assert_eq!(take_all(&rates, PermitKind::Entries, "slow"), 2);
        assert_eq!(take_all(&rates, PermitKind::Calls, "slow"), 37);
        let status = rates.status();
        assert_eq!(status.len(), 2);
        assert_eq!(
            (status[1].per_second, status[1].burst, status[1].granted),
            (1.0, 2, 2)
        );
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let rates = rates(&clock, rate(10.0, 10));
        for number in 0..2000 {
            take_all(&rates, PermitKind::Calls, &number.to_string());
        }
        assert_eq!(rates.status().len(), MAX_COUNTED_KEYS);
        clock.advance(Duration::from_secs(60));
        for _ in 0..DEMANDS_BETWEEN_PRUNES {
            take_all(&rates, PermitKind::Calls, "one");
        }
        assert!(rates.kinds[&PermitKind::Calls].keyed.len() <= 1);
    }

    proptest! {
        #[test]
        fn what_is_granted_in_a_window_is_at_most_rate_times_window_and_burst(
            per_second in 1_u32..5000,
            burst in 1_u32..3000,
            demands in prop::collection::vec((1_u32..500, 1_u32..2000, 0_u64..400), 1..80),
        ) {
            let clock = FakeRelativeClock::default();
            let each = rate(f64::from(per_second), burst);
            let rates = rates(&clock, each);
            // Granted so far, with the time of each demand in ms.
            let mut log: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            for (want, block, pause) in demands {
                let grant = rates.acquire(PermitKind::Entries, "t", want, block).unwrap();
                prop_assert!(grant.granted <= block.max(want));
                prop_assert_eq!(grant.retry_after.is_zero(), grant.granted >= want);
                log.push((now, grant.granted));
                clock.advance(Duration::from_millis(pause));
                now += pause;
            }
            let interval = each.quota().replenish_interval().as_secs_f64();
            for (index, (begin, _)) in log.iter().enumerate() {
                let mut sum = 0_u64;
                for (end, granted) in &log[index..] {
                    sum += u64::from(*granted);
                    let window = Duration::from_millis(end - begin).as_secs_f64();
                    let bound = f64::from(burst) + window / interval;
                    prop_assert!(sum as f64 <= bound + 1e-6, "{} in {} s, at most {}", sum, window, bound);
                }
            }
        }

        #[test]
        fn waiting_as_told_always_gets_something(
            per_second in 1_u32..5000,
            burst in 1_u32..300,
            want in 1_u32..1000,
        ) {
            let clock = FakeRelativeClock::default();
            let rates = rates(&clock, rate(f64::from(per_second), burst));
            let mut left = want;
            let mut rounds = 0;
            while left > 0 {
                let grant = rates.acquire(PermitKind::Entries, "p", left, left).unwrap();
                prop_assert!(rounds == 0 || grant.granted > 0);
                left -= grant.granted;
                clock.advance(grant.retry_after);
                rounds += 1;
            }
            prop_assert!(rounds <= want.div_ceil(burst) + 1);
        }
    }
}
