//! Tier 3: what a provider may be asked, by all processes together. Requests and tokens have a bucket each, which is empty at
//! the start, so that a restart grants nothing twice. After a 429 the rate is halved, once for all who met it, and grows back.
//!
//! Pure: time comes in as what has passed since the start.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use caudal_node::permits::LOCAL_PART_MEMORY;
use caudal_proto::mesh::v1::PermitKind;

use crate::grant::{CROWDED_RETRY, Grant};
use crate::settings::Rate;

/// Providers at once.
const MAX_PROVIDERS: usize = 1000;

/// Processes that may have a part of what is spent while the limiter is away.
const MAX_PROCESSES: usize = 1000;

/// The longest pause, whatever a provider says.
pub(crate) const LONGEST_PENALTY: Duration = Duration::from_secs(3600);

/// A 429 within this time of another, or within the pause that it asked for, is the same event.
const SAME_EVENT: Duration = Duration::from_secs(1);

/// What is left of the rate after many 429s.
const LEAST_SHARE: f64 = 1.0 / 16.0;

/// How much of the whole rate comes back a second: all of it in a minute.
const GROWTH_PER_SECOND: f64 = 1.0 / 60.0;

/// How long after the start no process is told a larger part than it announces.
const RECOVERY: Duration = Duration::from_secs(10);

/// What a process without a part may have of its share meanwhile.
const PART_WHILE_RECOVERING: f64 = 1.0 / 16.0;

/// What was spent without being asked for is taken off, down to so many seconds' worth below nothing: while nobody reached us
/// all spent their parts and no more, and should not stand still for it.
const MAX_DEBT_SECONDS: f64 = 0.5;

/// Waits are told with some of a millisecond more, so that they are never too short by rounding.
const ROUNDING: Duration = Duration::from_micros(10);

/// Who asks for how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand<'a> {
    pub(crate) kind: PermitKind,
    pub(crate) provider: &'a str,
    pub(crate) want: u32,
    pub(crate) block: u32,
    pub(crate) process: &'a str,
    pub(crate) local_fraction: f64,
    pub(crate) spent_away: u32,
}

/// What it got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Budgeted {
    pub(crate) grant: Grant,
    /// The present rate.
    pub(crate) per_second: f64,
    /// The part of it for the time without a limiter.
    pub(crate) local_fraction: f64,
    /// Whether the provider asked for a pause.
    pub(crate) paused: bool,
}

/// The budgets of all providers.
#[derive(Debug)]
pub(crate) struct Budgets {
    requests: Rate,
    tokens: Rate,
    own: BTreeMap<(PermitKind, String), Rate>,
    by_provider: HashMap<String, Budget>,
}

impl Budgets {
    pub(crate) fn new(
        requests: Rate,
        tokens: Rate,
        own: &BTreeMap<(PermitKind, String), Rate>,
    ) -> Self {
        Self {
            requests,
            tokens,
            own: own.clone(),
            by_provider: HashMap::new(),
        }
    }

    /// Takes what is there, up to the block. None for a kind that is not of providers.
    pub(crate) fn acquire(&mut self, demand: &Demand<'_>, now: Duration) -> Option<Budgeted> {
        if !is_of_providers(demand.kind) {
            return None;
        }
        let nothing = Budgeted {
            grant: Grant {
                granted: 0,
                retry_after: CROWDED_RETRY,
            },
            per_second: 0.0,
            local_fraction: 0.0,
            paused: false,
        };
        let Some(budget) = self.budget(demand.provider, now) else {
            return Some(nothing);
        };
        Some(budget.acquire(demand, now))
    }

    /// The provider wants nothing for this long, and fewer requests after it. Whether this is a new event.
    pub(crate) fn penalize(&mut self, provider: &str, pause: Duration, now: Duration) -> bool {
        let Some(budget) = self.budget(provider, now) else {
            return false;
        };
        budget.penalize(pause.min(LONGEST_PENALTY), now)
    }

    /// The rate that was set, the present one, and how many processes asked.
    pub(crate) fn of(
        &self,
        kind: PermitKind,
        provider: &str,
        now: Duration,
    ) -> Option<(Rate, f64, u32)> {
        let budget = self.by_provider.get(provider)?;
        let bucket = budget.bucket(kind)?;
        let present = bucket.rate.per_second() * budget.share_at(now);
        let processes = bucket.processes.values();
        let live = processes.filter(|process| process.until > now).count();
        Some((
            bucket.rate,
            present,
            u32::try_from(live).unwrap_or(u32::MAX),
        ))
    }

    fn budget(&mut self, provider: &str, now: Duration) -> Option<&mut Budget> {
        if !self.by_provider.contains_key(provider) {
            if self.by_provider.len() >= MAX_PROVIDERS {
                tracing::warn!(provider, "too many providers, this one is granted nothing");
                return None;
            }
            let own = |kind, default| {
                let own = self.own.get(&(kind, provider.to_owned()));
                Bucket::new(own.copied().unwrap_or(default), now)
            };
            let budget = Budget {
                requests: own(PermitKind::ProviderRequests, self.requests),
                tokens: own(PermitKind::ProviderTokens, self.tokens),
                share: 1.0,
                share_at: now,
                paused_until: now,
                same_event_until: now,
            };
            self.by_provider.insert(provider.to_owned(), budget);
        }
        self.by_provider.get_mut(provider)
    }
}

pub(crate) fn is_of_providers(kind: PermitKind) -> bool {
    matches!(
        kind,
        PermitKind::ProviderRequests | PermitKind::ProviderTokens
    )
}

#[derive(Debug)]
struct Budget {
    requests: Bucket,
    tokens: Bucket,
    /// Of the rate, at that time; it grows from then on.
    share: f64,
    share_at: Duration,
    paused_until: Duration,
    same_event_until: Duration,
}

impl Budget {
    fn bucket(&self, kind: PermitKind) -> Option<&Bucket> {
        match kind {
            PermitKind::ProviderRequests => Some(&self.requests),
            PermitKind::ProviderTokens => Some(&self.tokens),
            PermitKind::Unspecified | PermitKind::Calls | PermitKind::Entries => None,
        }
    }

    fn share_at(&self, now: Duration) -> f64 {
        let grown = now.saturating_sub(self.share_at).as_secs_f64() * GROWTH_PER_SECOND;
        (self.share + grown).min(1.0)
    }

    /// Brings both buckets up to now, at the share that there was at the last time, which is never above the present one.
    fn refill(&mut self, now: Duration) {
        let share = self.share;
        self.requests.refill(share, now);
        self.tokens.refill(share, now);
        self.share = self.share_at(now);
        self.share_at = self.share_at.max(now);
    }

    fn acquire(&mut self, demand: &Demand<'_>, now: Duration) -> Budgeted {
        self.refill(now);
        let (share, paused_for) = (self.share, self.paused_until.saturating_sub(now));
        let bucket = match demand.kind {
            PermitKind::ProviderTokens => &mut self.tokens,
            _ => &mut self.requests,
        };
        let per_second = bucket.rate.per_second() * share;
        bucket.charge(demand.spent_away);
        let local_fraction = bucket.part_of(demand, now);
        let grant = if paused_for.is_zero() {
            bucket.take(demand.want, demand.block, per_second)
        } else {
            Grant {
                granted: 0,
                retry_after: paused_for,
            }
        };
        Budgeted {
            grant,
            per_second,
            local_fraction,
            paused: !paused_for.is_zero(),
        }
    }

    fn penalize(&mut self, pause: Duration, now: Duration) -> bool {
        self.refill(now);
        let is_new = now >= self.same_event_until;
        if is_new {
            self.share = (self.share / 2.0).max(LEAST_SHARE);
        }
        self.same_event_until = self.same_event_until.max(now + pause.max(SAME_EVENT));
        self.paused_until = self.paused_until.max(now + pause);
        // Neither permits nor the rate grow while nothing may be asked.
        self.share_at = self.paused_until;
        for bucket in [&mut self.requests, &mut self.tokens] {
            bucket.level = bucket.level.min(0.0);
            bucket.at = self.paused_until;
        }
        is_new
    }
}

/// The part that a process was told.
#[derive(Debug)]
struct Part {
    fraction: f64,
    until: Duration,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Permits that are there; below zero after some were spent without being asked for.
    level: f64,
    at: Duration,
    processes: BTreeMap<String, Part>,
}

impl Bucket {
    fn new(rate: Rate, now: Duration) -> Self {
        Self {
            rate,
            level: 0.0,
            at: now,
            processes: BTreeMap::new(),
        }
    }

    fn refill(&mut self, share: f64, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let level = self.level + passed * self.rate.per_second() * share;
        self.level = level.min(f64::from(self.rate.burst()));
        self.at = self.at.max(now);
    }

    fn charge(&mut self, spent_away: u32) {
        let least = -MAX_DEBT_SECONDS * self.rate.per_second();
        self.level = (self.level - f64::from(spent_away)).max(least.min(self.level));
    }

    fn take(&mut self, want: u32, block: u32, per_second: f64) -> Grant {
        // Saturates at zero and at the largest, which is what is meant.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let there = self.level.floor() as u32;
        let granted = there.min(block.max(want));
        self.level -= f64::from(granted);
        let missing = want.saturating_sub(granted).min(self.rate.burst());
        if missing == 0 {
            return Grant {
                granted,
                retry_after: Duration::ZERO,
            };
        }
        let wait = (f64::from(missing) - self.level) / per_second;
        Grant {
            granted,
            retry_after: Duration::from_secs_f64(wait.clamp(0.0, LONGEST_PENALTY.as_secs_f64()))
                + ROUNDING,
        }
    }

    /// What the process may spend of the rate while it cannot reach us. The parts that processes believe to have are never
    /// above the whole together: a new one has half of what nobody has, until the others have heard of it.
    fn part_of(&mut self, demand: &Demand<'_>, now: Duration) -> f64 {
        self.processes
            .retain(|name, part| part.until > now || name == demand.process);
        let is_known = self.processes.contains_key(demand.process);
        if demand.process.is_empty() || (!is_known && self.processes.len() >= MAX_PROCESSES) {
            return 0.0;
        }
        let announced = if demand.local_fraction.is_finite() {
            demand.local_fraction.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let others = self
            .processes
            .iter()
            .filter(|(name, _)| *name != demand.process);
        let (count, theirs) = others.fold((0_u32, 0.0), |(count, sum), (_, part)| {
            (count + 1, sum + part.fraction)
        });
        let free = (1.0_f64 - theirs).max(0.0);
        // One more may come at any time.
        let mut fraction = (1.0 / f64::from(count + 2)).min(free / 2.0);
        if now < RECOVERY {
            // Others may have parts that we do not know of yet.
            fraction = if announced > 0.0 {
                fraction.min(announced)
            } else {
                fraction * PART_WHILE_RECOVERING
            };
        }
        let part = Part {
            // Until it has heard of less it believes to have what it announced.
            fraction: fraction.max(announced),
            until: now + LOCAL_PART_MEMORY,
        };
        self.processes.insert(demand.process.to_owned(), part);
        fraction
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const KIND: PermitKind = PermitKind::ProviderRequests;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate::try_new("test", per_second, burst).unwrap()
    }

    fn budgets(each: Rate) -> Budgets {
        Budgets::new(each, each, &BTreeMap::new())
    }

    fn demand(want: u32, block: u32) -> Demand<'static> {
        Demand {
            kind: KIND,
            provider: "p",
            want,
            block,
            process: "",
            local_fraction: 0.0,
            spent_away: 0,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn all(budgets: &mut Budgets, now: Duration) -> u32 {
        let found = budgets.acquire(&demand(1, u32::MAX), now).unwrap();
        found.grant.granted
    }

    #[test]
    fn a_budget_begins_empty_and_is_full_after_its_burst() {
        let mut budgets = budgets(rate(10.0, 20));
        assert_eq!(all(&mut budgets, seconds(1)), 0);
        assert_eq!(all(&mut budgets, seconds(2)), 10);
        assert_eq!(all(&mut budgets, seconds(100)), 20);
        let found = budgets.acquire(&demand(5, 5), seconds(100)).unwrap();
        assert_eq!(found.grant.granted, 0);
        let wait = found.grant.retry_after;
        assert!(wait >= Duration::from_millis(500) && wait < Duration::from_millis(501));
        let other = Demand {
            kind: PermitKind::Calls,
            ..demand(1, 1)
        };
        assert_eq!(budgets.acquire(&other, seconds(100)), None);
    }

    #[test]
    fn a_429_pauses_halves_the_rate_once_and_the_rate_grows_back_within_a_minute() {
        let mut budgets = budgets(rate(100.0, 100));
        all(&mut budgets, seconds(0));
        let present = |budgets: &Budgets, at| budgets.of(KIND, "p", at).unwrap().1;
        assert!(budgets.penalize("p", seconds(5), seconds(10)));
        // Five other processes met the same.
        for _ in 0..5 {
            assert!(!budgets.penalize("p", seconds(5), seconds(12)));
        }
        assert!((present(&budgets, seconds(17)) - 50.0).abs() < 1e-9);
        for at in [12, 16] {
            let found = budgets.acquire(&demand(1, 50), seconds(at)).unwrap();
            assert!(found.paused && found.grant.granted == 0);
            assert_eq!(found.grant.retry_after, seconds(17 - at));
        }
        assert_eq!(all(&mut budgets, seconds(17)), 0);
        assert_eq!(all(&mut budgets, seconds(18)), 50);
        assert!((present(&budgets, seconds(32)) - 75.0).abs() < 1e-9);
        assert!((present(&budgets, seconds(47)) - 100.0).abs() < 1e-9);
        assert!((present(&budgets, seconds(900)) - 100.0).abs() < 1e-9);
        for number in 0..20 {
            budgets.penalize("p", seconds(1), seconds(1_000 + 2 * number));
        }
        let floor = present(&budgets, seconds(1_039));
        assert!(
            (100.0 * LEAST_SHARE..100.0 * LEAST_SHARE + 2.0).contains(&floor),
            "{floor}"
        );
    }

    #[test]
    fn the_parts_for_the_time_without_a_limiter_are_never_above_the_whole_and_come_to_equal_ones() {
        let mut budgets = budgets(rate(10.0, 20));
        let mut believed = [0.0_f64; 5];
        let names = ["a", "b", "c", "d", "e"];
        for round in 0..40_u64 {
            for (index, process) in names.iter().enumerate() {
                let asked = Demand {
                    process,
                    local_fraction: believed[index],
                    ..demand(1, 1)
                };
                let told = budgets.acquire(&asked, seconds(round * 30)).unwrap();
                believed[index] = told.local_fraction;
                let sum: f64 = believed.iter().sum();
                assert!(sum <= 1.0 + 1e-9, "{believed:?}");
                assert!(told.local_fraction > 0.0);
            }
        }
        for part in believed {
            assert!((part - 1.0 / 6.0).abs() < 0.01, "{believed:?}");
        }
    }

    #[test]
    fn what_was_spent_without_us_is_taken_off_and_nobody_stands_still_for_long() {
        let mut budgets = budgets(rate(10.0, 20));
        all(&mut budgets, seconds(0));
        let told = Demand {
            spent_away: 1_000_000,
            ..demand(1, 1)
        };
        let found = budgets.acquire(&told, seconds(10)).unwrap();
        assert_eq!(found.grant.granted, 0);
        assert_eq!(all(&mut budgets, Duration::from_millis(10_500)), 0);
        assert_eq!(all(&mut budgets, seconds(11)), 5);
    }

    proptest! {
        #[test]
        fn never_above_the_configured_rate_with_or_without_429s(
            per_second in 1_u32..5000,
            burst in 1_u32..3000,
            steps in prop::collection::vec((1_u32..500, 1_u32..2000, 0_u64..400, prop::option::weighted(0.1, 0_u64..3)), 1..80),
        ) {
            let mut budgets = budgets(rate(f64::from(per_second), burst));
            let mut log: Vec<(Duration, u32)> = Vec::new();
            let mut now = Duration::ZERO;
            for (want, block, pause, penalty) in steps {
                let found = budgets.acquire(&demand(want, block), now).unwrap();
                prop_assert!(found.grant.granted <= block.max(want));
                prop_assert!(found.per_second <= f64::from(per_second) + 1e-9);
                log.push((now, found.grant.granted));
                if let Some(penalty) = penalty {
                    let before = budgets.of(KIND, "p", now).unwrap().1;
                    let is_new = budgets.penalize("p", seconds(penalty), now);
                    let after = budgets.of(KIND, "p", now).unwrap().1;
                    prop_assert!(after <= before + 1e-9);
                    prop_assert!(!is_new || after <= (before / 2.0).max(f64::from(per_second) * LEAST_SHARE) + 1e-9);
                }
                now += Duration::from_millis(pause);
            }
            for (index, (begin, _)) in log.iter().enumerate() {
                let mut sum = 0_u64;
                for (end, granted) in &log[index..] {
                    sum += u64::from(*granted);
                    let window = (*end - *begin).as_secs_f64();
                    let bound = f64::from(burst) + window * f64::from(per_second);
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
            let mut budgets = budgets(rate(f64::from(per_second), burst));
            let (mut left, mut rounds, mut now) = (want, 0, Duration::ZERO);
            while left > 0 {
                let grant = budgets.acquire(&demand(left, left), now).unwrap().grant;
                prop_assert!(rounds == 0 || grant.granted > 0);
                left -= grant.granted;
                now += grant.retry_after;
                rounds += 1;
            }
            prop_assert!(rounds <= want.div_ceil(burst) + 2);
        }
    }
}
