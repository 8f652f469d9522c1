//! What stage processes wait for, as they told it lately. For eyes only: nothing is decided by it, it is not stored, and a
//! new leader hears of it again within a third of a lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use caudal_domain::Stage;
use caudal_proto::mesh::v1::Waiting;
use uuid::Uuid;

/// Processes whose waits are kept; those of others are not shown.
const MOST_PROCESSES: usize = 1_024;

struct Told {
    waiting: Waiting,
    until: Instant,
}

/// Waits of stage processes. Clones share them.
#[derive(Clone)]
pub(crate) struct Waits {
    /// What is not told again within this is over.
    good_for: Duration,
    told: Arc<Mutex<BTreeMap<(Stage, Uuid), Told>>>,
}

/// Processes of a stage that wait for the same.
pub(crate) struct StageWait {
    pub(crate) stage: Stage,
    /// As the first of them told it.
    pub(crate) waiting: Waiting,
    pub(crate) processes: u32,
}

impl Waits {
    pub(crate) fn new(good_for: Duration) -> Self {
        Self {
            good_for,
            told: Arc::default(),
        }
    }

    /// A process says what it waits for.
    pub(crate) fn told(&self, stage: Stage, process: Uuid, waiting: Waiting, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, told| told.until > now);
        if told.len() < MOST_PROCESSES || told.contains_key(&(stage, process)) {
            let until = now + self.good_for;
            told.insert((stage, process), Told { waiting, until });
        }
    }

    /// What processes wait for now, by stage and cause.
    pub(crate) fn now(&self, now: Instant) -> Vec<StageWait> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits: Vec<StageWait> = Vec::new();
        let lives = told.iter().filter(|(_, told)| told.until > now);
        for (&(stage, _), Told { waiting, .. }) in lives {
            let same = waits.iter_mut().find(|wait| {
                wait.stage == stage
                    && wait.waiting.r#for == waiting.r#for
                    && wait.waiting.reason == waiting.reason
            });
            let since = |waiting: &Waiting| waiting.since.map(|at| (at.seconds, at.nanos));
            match same {
                Some(same) => {
                    same.processes += 1;
                    if since(waiting) < since(&same.waiting) {
                        same.waiting = waiting.clone();
                    }
                }
                None => waits.push(StageWait {
                    stage,
                    waiting: waiting.clone(),
                    processes: 1,
                }),
            }
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(reason: &str, since: i64) -> Waiting {
        Waiting {
            r#for: "provider".to_owned(),
            reason: reason.to_owned(),
            since: Some(prost_types::Timestamp {
                seconds: since,
                nanos: 0,
            }),
            ..Waiting::default()
        }
    }

    #[test]
    fn processes_that_wait_for_the_same_are_one_wait_since_the_first_and_it_ends_by_silence() {
        let waits = Waits::new(Duration::from_secs(12));
        let now = Instant::now();
        let stage = Stage::Embeddings;
        let process = |number| Uuid::from_u128(number);
        waits.told(stage, process(1), waiting("PROVIDER_THROTTLED", 20), now);
        waits.told(stage, process(2), waiting("PROVIDER_THROTTLED", 10), now);
        waits.told(
            Stage::Upload,
            process(3),
            waiting("STORE_UNAVAILABLE", 5),
            now,
        );
        let told = waits.now(now);
        assert_eq!(told.len(), 2);
        let throttled = told.iter().find(|wait| wait.stage == stage);
        assert!(throttled.is_some_and(|wait| {
            wait.processes == 2 && wait.waiting.since.is_some_and(|since| since.seconds == 10)
        }));
        let later = now + Duration::from_secs(11);
        waits.told(stage, process(2), waiting("PROVIDER_THROTTLED", 10), later);
        assert_eq!(waits.now(now + Duration::from_secs(13)).len(), 1);
        assert!(waits.now(later + Duration::from_secs(13)).is_empty());
    }

    #[test]
    fn no_more_processes_are_kept_than_the_bound() {
        let waits = Waits::new(Duration::from_secs(12));
        let now = Instant::now();
        for number in 0..MOST_PROCESSES as u128 + 9 {
            waits.told(Stage::Upload, Uuid::from_u128(number), waiting("R", 1), now);
        }
        let kept: u32 = waits.now(now).iter().map(|wait| wait.processes).sum();
        assert_eq!(kept as usize, MOST_PROCESSES);
    }
}
