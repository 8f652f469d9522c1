//! Whole histories of the core: the writer's verbs and groups, the dispatcher, the memory between groups, the leases that are
//! granted from memory and the rules of the reconciler are the real ones; database, Redis, object store, clients, stage
//! processes and other ledgers are models, moved by one scheduler (`world.rs`). A history is known by its seed, and is the
//! same each time.
//!
//! `CAUDAL_SIMULATE_SEED` begins with another seed, `CAUDAL_SIMULATE_HISTORIES` runs so many, and for one of them the whole
//! history is told (`make simulate`); without it they run for `CAUDAL_SIMULATE_SECONDS`.

mod contention;
pub(crate) mod database;
mod fairness;
pub(crate) mod invariants;
mod ledger;
pub(crate) mod steps;
pub(crate) mod streams;
mod world;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::world::World;
use crate::planted::{Fault, plant};

/// Events of a history, before everything comes to rest.
const EVENTS: u32 = 60;
/// How long histories are run where nobody says how many.
const USUAL: Duration = Duration::from_secs(18);
/// Histories in which a planted fault is looked for where nobody says how many.
const MOST_HISTORIES: u64 = 600;
/// What the docs say of the faults.
const TABLE: &str = include_str!("../../../../docs/simulation.md");

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`"))
    })
}

/// One history in so many is one of contention.
const CONTENDED: u64 = 256;

/// One history; what it broke.
fn history(seed: u64) -> Vec<String> {
    let run = || match seed % CONTENDED {
        0 => contention::run(seed),
        _ => World::new(seed, false).run(EVENTS).violations,
    };
    // A core that is stuck or fails is one that broke its rules.
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        vec![format!("it panicked: {}", words.unwrap_or_default())]
    })
}

/// The same history, told.
fn told(seed: u64) -> String {
    let mut words = String::new();
    if seed.is_multiple_of(CONTENDED) {
        for violation in contention::run(seed) {
            let _ = writeln!(words, "  BROKEN: {violation}");
        }
        return words;
    }
    let world = World::new(seed, true).run(EVENTS);
    for line in world.trace.unwrap_or_default() {
        let _ = writeln!(words, "  {line}");
    }
    for violation in world.violations {
        let _ = writeln!(words, "  BROKEN: {violation}");
    }
    words
}

#[test]
fn whatever_happens_every_history_ends_as_it_must() {
    let first = number("CAUDAL_SIMULATE_SEED").unwrap_or_else(rand::random);
    let histories = number("CAUDAL_SIMULATE_HISTORIES");
    let usual = number("CAUDAL_SIMULATE_SECONDS").map_or(USUAL, Duration::from_secs);
    println!("simulating from seed {first}");
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let run_some = || {
        let mut run = 0;
        while histories.is_some() || begun.elapsed() < usual {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if histories.is_some_and(|histories| number >= histories)
                || broken.load(Ordering::Relaxed)
            {
                break;
            }
            let seed = first.wrapping_add(number);
            let violations = history(seed);
            if !violations.is_empty() {
                broken.store(true, Ordering::Relaxed);
            }
            assert!(
                violations.is_empty(),
                "CAUDAL_SIMULATE_SEED={seed} CAUDAL_SIMULATE_HISTORIES=1 replays this history:\n{}",
                told(seed)
            );
            run += 1;
        }
        run
    };
    // Beside other tests one core is enough.
    let threads = histories.map_or(1, |_| {
        std::thread::available_parallelism().map_or(1, usize::from)
    });
    let run: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run_some)).collect();
        let run = threads.into_iter().map(|thread| match thread.join() {
            Ok(run) => run,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        run.sum()
    });
    if histories == Some(1) {
        println!("{}", told(first));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{run} histories of {EVENTS} events in {seconds:.1} s, all as they must be");
}

#[test]
fn a_seed_replays_a_history_exactly() {
    for seed in [1, 2, 3, u64::MAX] {
        assert_eq!(told(seed), told(seed), "seed {seed}");
    }
}

/// The rows of the docs' table: what stands before the number of the history, and that number.
fn listed() -> Vec<(&'static str, u64)> {
    let rows = TABLE.lines().filter(|line| line.contains("(`"));
    let row = |line: &'static str| {
        let (row, number) = line.strip_suffix(" |")?.rsplit_once(" | ")?;
        Some((row, number.parse().ok()?))
    };
    rows.filter_map(row).collect()
}

fn row_of(fault: Fault) -> String {
    let (section, words) = (fault.section(), fault.words());
    format!("| {section} | {words} (`{fault:?}`)")
}

#[test]
fn the_table_of_the_docs_is_that_of_the_faults() {
    let listed = listed();
    for fault in Fault::ALL {
        let row = row_of(*fault);
        let count = listed.iter().filter(|(known, _)| *known == row).count();
        assert_eq!(count, 1, "no row begins with {row}");
    }
    assert_eq!(listed.len(), Fault::ALL.len());
}

// Each section of docs/protocol.md that has code is broken at least once, on purpose, and each time it must be noticed. The history
// that the docs name is tried first; where a change has moved the dice, all from seed 1 on.
#[test]
fn planted_faults_are_found() {
    let only = std::env::var("CAUDAL_SIMULATE_FAULT").ok();
    let asked = number("CAUDAL_SIMULATE_FAULTS");
    let most = asked.unwrap_or(MOST_HISTORIES);
    let listed = listed();
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let name = format!("{fault:?}");
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let row = row_of(*fault);
        let known = listed.iter().find(|(known, _)| *known == row);
        let known = known.map(|(_, seed)| *seed).filter(|_| asked.is_none());
        plant(Some(*fault));
        let first = known.into_iter().chain(1..=most).find_map(|seed| {
            let violations = history(seed);
            violations.first().map(|first| (seed, first.clone()))
        });
        plant(None);
        match first {
            Some((seed, first)) => {
                let first = first.lines().next().unwrap_or_default();
                println!("{row} | {seed} | {first}");
            }
            None => missed.push(*fault),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
