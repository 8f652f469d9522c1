#![expect(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn policy() -> BreakerPolicy {
    BreakerPolicy::try_new(3, Duration::from_secs(10), 2).unwrap()
}

fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(policy());
    for _ in 0..3 {
        let pass = breaker.try_pass(now).unwrap();
        breaker.settle(pass, Verdict::Failure, now);
    }
    breaker
}

#[test]
fn a_policy_that_could_never_close_again_is_refused() {
    let pause = Duration::from_secs(1);
    assert_eq!(
        BreakerPolicy::try_new(0, pause, 1),
        Err(InvalidBreakerPolicy::NoFailures)
    );
    assert_eq!(
        BreakerPolicy::try_new(1, pause, 0),
        Err(InvalidBreakerPolicy::NoProbes)
    );
    assert_eq!(
        BreakerPolicy::try_new(1, Duration::ZERO, 1),
        Err(InvalidBreakerPolicy::NoPause)
    );
}

#[test]
fn three_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let mut breaker = Breaker::new(policy());
    for verdict in [
        Verdict::Failure,
        Verdict::Failure,
        Verdict::Success,
        Verdict::Failure,
        Verdict::Failure,
    ] {
        let pass = breaker.try_pass(now).unwrap();
        breaker.settle(pass, verdict, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);

    let pass = breaker.try_pass(now).unwrap();
    breaker.settle(pass, Verdict::Failure, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.try_pass(now), Err(Duration::from_secs(10)));
}

#[test]
fn after_the_pause_only_the_probes_pass_and_a_success_closes_it() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + Duration::from_secs(10);
    let first = breaker.try_pass(later).unwrap();
    let second = breaker.try_pass(later).unwrap();
    assert!(breaker.try_pass(later).is_err());

    breaker.settle(first, Verdict::Success, later);
    assert_eq!(breaker.state(later), BreakerState::Closed);
    breaker.settle(second, Verdict::Failure, later);
    assert!(
        breaker.try_pass(later).is_ok(),
        "a probe of the earlier epoch no longer counts"
    );
}

#[test]
fn a_failed_probe_opens_it_again_for_the_whole_pause() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + Duration::from_secs(11);
    let probe = breaker.try_pass(later).unwrap();
    breaker.settle(probe, Verdict::Failure, later);
    assert_eq!(breaker.try_pass(later), Err(Duration::from_secs(10)));
}

#[test]
fn a_probe_that_was_given_up_leaves_its_place_to_another() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + Duration::from_secs(10);
    let first = breaker.try_pass(later).unwrap();
    let _second = breaker.try_pass(later).unwrap();
    assert!(breaker.try_pass(later).is_err());
    breaker.settle(first, Verdict::Unknown, later);
    assert!(breaker.try_pass(later).is_ok());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Ask,
    Settle(usize, Verdict),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Failure),
        1 => Just(Verdict::Success),
        1 => Just(Verdict::Unknown),
    ];
    let step = prop_oneof![
        1 => (0u64..12_000).prop_map(Step::Wait),
        3 => Just(Step::Ask),
        3 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Step::Settle(which, verdict)),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn an_open_breaker_lets_nothing_pass_and_a_half_open_one_no_more_than_its_probes(steps in steps()) {
        let mut breaker = Breaker::new(policy());
        let mut now = Instant::now();
        let mut out: Vec<Pass> = Vec::new();
        for step in steps {
            let before = breaker.state(now);
            match step {
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Ask => match breaker.try_pass(now) {
                    Ok(pass) => {
                        prop_assert_ne!(before, BreakerState::Open);
                        out.push(pass);
                        let probes = out.iter().filter(|pass| pass.epoch == breaker.epoch).count();
                        prop_assert!(before == BreakerState::Closed || probes <= 2);
                    }
                    Err(wait) => {
                        prop_assert_ne!(before, BreakerState::Closed);
                        prop_assert!(!wait.is_zero() && wait <= Duration::from_secs(10));
                    }
                },
                Step::Settle(which, verdict) => {
                    if out.is_empty() {
                        continue;
                    }
                    let pass = out.swap_remove(which % out.len());
                    let current = pass.epoch == breaker.epoch;
                    breaker.settle(pass, verdict, now);
                    let after = breaker.state(now);
                    if !current || verdict == Verdict::Unknown {
                        prop_assert_eq!(before, after);
                    } else if verdict == Verdict::Success {
                        prop_assert_eq!(after, BreakerState::Closed);
                    }
                }
            }
        }
    }

    #[test]
    fn when_every_call_is_settled_a_breaker_always_lets_one_through_in_the_end(steps in steps()) {
        let mut breaker = Breaker::new(policy());
        let mut now = Instant::now();
        let mut out: Vec<Pass> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Ask => out.extend(breaker.try_pass(now)),
                Step::Settle(which, verdict) if !out.is_empty() => {
                    let pass = out.swap_remove(which % out.len());
                    breaker.settle(pass, verdict, now);
                }
                Step::Settle(..) => {}
            }
        }
        for pass in out {
            breaker.settle(pass, Verdict::Unknown, now);
        }
        prop_assert!(breaker.try_pass(now + Duration::from_secs(10)).is_ok());
    }
}
