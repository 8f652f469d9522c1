//! Everything that reads bytes of strangers is given broken ones: the generated files of every format, changed at random, for some
//! seconds. It must answer in time, in bounded memory, without a panic. `CAUDAL_FUZZ_SECONDS` says for how long (10), `CAUDAL_FUZZ_SEED`
//! repeats a run, `CAUDAL_FUZZ_TARGET` keeps to one target. What breaks one is written to a file, whose name is told.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod mutation;
mod seeds;
mod targets;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use mutation::mutated;
use seeds::seeds;
use targets::{Target, targets};

/// How long a run takes where nobody says otherwise.
const SECONDS: u64 = 10;
/// One input may take so long, in a build that is not optimised; what takes longer never ends for all that anybody knows.
const SLOWEST: Duration = Duration::from_secs(20);
/// What all targets together may ever need: what the children of one stage are given.
const MOST_KIB: u64 = 768 << 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap())
}

/// What is being read now, so that whoever waits too long for it can say what it was.
type Now = Arc<Mutex<Option<(Instant, String, Vec<u8>)>>>;

/// Ends the process when one input takes too long: no test can be left otherwise.
fn watch_over(now: &Now) {
    let now = Arc::clone(now);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = now.lock().unwrap();
            if let Some((since, what, bytes)) = &*now
                && since.elapsed() > SLOWEST
            {
                eprintln!(
                    "{what} did not end in {SLOWEST:?}: {}",
                    kept(bytes).display()
                );
                std::process::exit(1);
            }
        }
    });
}

/// The input in a file that stays.
fn kept(bytes: &[u8]) -> PathBuf {
    let (_, path) = tempfile::Builder::new()
        .prefix("caudal-fuzz-")
        .tempfile()
        .unwrap()
        .keep()
        .unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn no_reader_panics_hangs_or_swells_whatever_it_is_given() {
    let seconds = number("CAUDAL_FUZZ_SECONDS").unwrap_or(SECONDS);
    let seed = number("CAUDAL_FUZZ_SEED").unwrap_or_else(rand::random);
    let only = std::env::var("CAUDAL_FUZZ_TARGET").unwrap_or_default();
    println!("CAUDAL_FUZZ_SEED={seed}");
    let seeds = seeds();
    let targets = targets(&seeds);
    let chosen: Vec<(&Target, Vec<&[u8]>)> = targets
        .iter()
        .filter(|target| only.is_empty() || target.name == only)
        .map(|target| {
            let of_target = seeds.iter().filter(|seed| (target.takes)(seed));
            let bytes: Vec<&[u8]> = of_target.map(|seed| seed.bytes.as_slice()).collect();
            assert!(!bytes.is_empty(), "there is no seed for {}", target.name);
            (target, bytes)
        })
        .collect();
    assert!(!chosen.is_empty(), "there is no target {only}");
    let all: Vec<&[u8]> = seeds.iter().map(|seed| seed.bytes.as_slice()).collect();

    // Whoever panics says where.
    let panicked = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&panicked);
    std::panic::set_hook(Box::new(move |info| {
        *said.lock().unwrap() = info.to_string();
    }));
    let now = Now::default();
    watch_over(&now);
    let each = Duration::from_secs(seconds) / u32::try_from(chosen.len()).unwrap();
    let mut faults: BTreeMap<(String, String), String> = BTreeMap::new();
    for (target, seeds) in &chosen {
        let mut dice = SmallRng::seed_from_u64(seed);
        let begun = Instant::now();
        let mut turns = 0;
        while turns < seeds.len() || begun.elapsed() < each {
            // Each seed once as it is, then changed ones.
            let bytes = match seeds.get(turns) {
                Some(seed) => seed.to_vec(),
                None => mutated(seeds[dice.random_range(0..seeds.len())], &all, &mut dice),
            };
            turns += 1;
            let what = format!("{}, turn {turns}", target.name);
            *now.lock().unwrap() = Some((Instant::now(), what.clone(), bytes.clone()));
            let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&bytes)));
            now.lock().unwrap().take();
            if read.is_err() {
                let words = panicked.lock().unwrap().clone();
                let place = words.lines().next().unwrap_or_default().to_owned();
                faults
                    .entry((target.name.clone(), place))
                    .or_insert_with(|| format!("{what}: {words}: {}", kept(&bytes).display()));
            }
        }
        println!("{:80} {turns:7} inputs", target.name);
    }
    let _ = std::panic::take_hook();
    let faults: Vec<String> = faults.into_values().collect();
    assert!(
        faults.is_empty(),
        "CAUDAL_FUZZ_SEED={seed}\n{}",
        faults.join("\n")
    );
    let peak = peak_kib();
    assert!(
        peak <= MOST_KIB,
        "{peak} KiB were needed; CAUDAL_FUZZ_SEED={seed}"
    );
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches("kB").trim();
    number.parse().unwrap()
}
