//! A circuit breaker: after several failures in a row nobody calls for a while, then a few probes decide.
//!
//! Pure: time comes in as [`Instant`], nothing sleeps, nothing locks. [`Breaker::try_pass`] asks for leave to call,
//! [`Breaker::settle`] tells how the call went. Every change of state begins a new epoch, and what a call of an earlier
//! epoch has to tell no longer counts.

use std::time::{Duration, Instant};

/// How long a caller waits who came while all probes were out.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// When to open, and how to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    failures_to_open: u32,
    open_for: Duration,
    probes: u32,
}

/// A policy that could never open, or never close again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBreakerPolicy {
    /// A breaker that opens after no failure at all is never closed.
    #[error("failures_to_open must be at least 1")]
    NoFailures,
    /// A breaker without probes never closes again.
    #[error("probes must be at least 1")]
    NoProbes,
    /// A breaker that opens for no time does nothing.
    #[error("open_for must be longer than zero")]
    NoPause,
}

impl BreakerPolicy {
    /// Opens after `failures_to_open` failures in a row, stays open for `open_for`, then lets `probes` calls through at a time.
    pub fn try_new(
        failures_to_open: u32,
        open_for: Duration,
        probes: u32,
    ) -> Result<Self, InvalidBreakerPolicy> {
        if failures_to_open == 0 {
            return Err(InvalidBreakerPolicy::NoFailures);
        }
        if probes == 0 {
            return Err(InvalidBreakerPolicy::NoProbes);
        }
        if open_for.is_zero() {
            return Err(InvalidBreakerPolicy::NoPause);
        }
        Ok(Self {
            failures_to_open,
            open_for,
            probes,
        })
    }
}

impl Default for BreakerPolicy {
    /// Five failures in a row, fifteen seconds, one probe.
    fn default() -> Self {
        Self {
            failures_to_open: 5,
            open_for: Duration::from_secs(15),
            probes: 1,
        }
    }
}

/// What a breaker is doing, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Nothing passes until the pause is over.
    Open,
    /// A few probes pass; the first verdict decides.
    HalfOpen,
}

/// Leave to make one call; hand it back with [`Breaker::settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pass that is never settled keeps its probe's place"]
pub struct Pass {
    epoch: u64,
}

/// How a call went, as far as the provider's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The provider answered as a healthy one does.
    Success,
    /// The provider failed.
    Failure,
    /// The call says nothing about health: given up, throttled, never sent.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probing: u32 },
}

/// The breaker of one provider.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    epoch: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed { failures: 0 },
            epoch: 0,
        }
    }

    /// What it is doing at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How long nothing will pass, seen from `now`; `None` when a call could be tried.
    pub fn closed_to_callers_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            State::HalfOpen { probing } if probing >= self.policy.probes => Some(PROBE_WAIT),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Leave to call at `now`, or how long to wait before asking again.
    pub fn try_pass(&mut self, now: Instant) -> Result<Pass, Duration> {
        if let Some(wait) = self.closed_to_callers_for(now) {
            return Err(wait);
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::HalfOpen { probing } => *probing += 1,
            State::Open { .. } => self.enter(State::HalfOpen { probing: 1 }),
        }
        Ok(Pass { epoch: self.epoch })
    }

    /// Takes a pass back with what its call showed.
    #[expect(clippy::needless_pass_by_value)]
    pub fn settle(&mut self, pass: Pass, verdict: Verdict, now: Instant) {
        if pass.epoch != self.epoch {
            return;
        }
        match (&mut self.state, verdict) {
            (State::Closed { failures }, Verdict::Success) => *failures = 0,
            (State::Closed { failures }, Verdict::Failure) => {
                *failures += 1;
                if *failures >= self.policy.failures_to_open {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Verdict::Success) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen { .. }, Verdict::Failure) => self.open(now),
            (State::HalfOpen { probing }, Verdict::Unknown) => *probing = probing.saturating_sub(1),
            (State::Closed { .. }, Verdict::Unknown) | (State::Open { .. }, _) => {}
        }
    }

    fn open(&mut self, now: Instant) {
        self.enter(State::Open {
            until: now + self.policy.open_for,
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
