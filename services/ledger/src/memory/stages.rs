//! What others than the writer know of stages: what operators set for each, which processes live, and whose turn comes when.
//! Nothing is decided by it: the writer has its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use caudal_domain::{Stage, StageVersion};
use uuid::Uuid;

use super::queues::Queues;
use crate::store::stages::StageRow;

/// A process that has said nothing for so long is gone; it says so twice a second.
const ALIVE_FOR: Duration = Duration::from_secs(5);
/// Processes that are remembered; others are told what is set and are not counted.
const MOST_PROCESSES: usize = 1_024;

/// Clones share what they know.
#[derive(Clone, Default)]
pub(crate) struct Stages {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Stage, StageRow>,
    processes: BTreeMap<(Stage, Uuid), Process>,
    /// Processes that were known and live no more, until somebody takes note; no more than there may be.
    gone: Vec<(Stage, Uuid)>,
    /// Since when they are listened to, and when one of each stage was heard of.
    listens: Option<(Instant, SystemTime)>,
    heard: BTreeMap<Stage, SystemTime>,
    queues: Arc<Queues>,
    /// The length of the vectors that stage versions were first recorded with.
    dimensions: BTreeMap<StageVersion, u32>,
}

struct Process {
    slots: u32,
    until: Instant,
}

/// The processes of a stage that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crewed {
    pub(crate) processes: u32,
    pub(crate) slots: u32,
}

impl Inner {
    fn forget_silent(&mut self, now: Instant) {
        let silent = self
            .processes
            .extract_if(.., |_, process| process.until <= now);
        for (process, _) in silent.collect::<Vec<_>>() {
            self.lose(process);
        }
    }

    fn lose(&mut self, process: (Stage, Uuid)) {
        if self.gone.len() < MOST_PROCESSES {
            self.gone.push(process);
        }
    }
}

impl Stages {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ledger begins to lead, and with it to listen.
    pub(crate) fn begin(&self, now: Instant) {
        let mut inner = self.lock();
        *inner = Inner {
            listens: Some((now, SystemTime::now())),
            ..Inner::default()
        };
    }

    /// What is set for a stage from now on.
    pub(crate) fn set(&self, row: StageRow) {
        self.lock().rows.insert(row.stage, row);
    }

    /// What is set for a stage.
    pub(crate) fn row(&self, stage: Stage) -> StageRow {
        let known = self.lock().rows.get(&stage).cloned();
        known.unwrap_or_else(|| StageRow::unset(stage))
    }

    /// Results of a stage version have vectors of this length.
    pub(crate) fn set_dimensions(&self, version: StageVersion, dimensions: u32) {
        self.lock().dimensions.insert(version, dimensions);
    }

    /// The length of the vectors that a stage version was first recorded with.
    pub(crate) fn dimensions(&self, version: &StageVersion) -> Option<u32> {
        self.lock().dimensions.get(version).copied()
    }

    /// A process lives; what is set for its stage.
    pub(crate) fn attend(&self, stage: Stage, process: Uuid, slots: u32, now: Instant) -> StageRow {
        let mut inner = self.lock();
        inner.forget_silent(now);
        let known = inner.processes.contains_key(&(stage, process));
        if known || inner.processes.len() < MOST_PROCESSES {
            let until = now + ALIVE_FOR;
            inner
                .processes
                .insert((stage, process), Process { slots, until });
        }
        inner.heard.insert(stage, SystemTime::now());
        drop(inner);
        self.row(stage)
    }

    /// A process ends.
    pub(crate) fn leave(&self, stage: Stage, process: Uuid) {
        let mut inner = self.lock();
        if inner.processes.remove(&(stage, process)).is_some() {
            inner.lose((stage, process));
        }
    }

    /// The processes that have ended or fallen silent since this was last asked.
    pub(crate) fn take_gone(&self, now: Instant) -> Vec<(Stage, Uuid)> {
        let mut inner = self.lock();
        inner.forget_silent(now);
        std::mem::take(&mut inner.gone)
    }

    /// The processes of a stage that live.
    pub(crate) fn crew(&self, stage: Stage, now: Instant) -> Crewed {
        let inner = self.lock();
        let of_stage = inner.processes.iter();
        let of_stage = of_stage.filter(|((of, _), process)| *of == stage && process.until > now);
        of_stage.fold(Crewed::default(), |sum, (_, process)| Crewed {
            processes: sum.processes + 1,
            slots: sum.slots.saturating_add(process.slots),
        })
    }

    /// Since when no process of a stage lives; `None` while one does, or may do and was not heard of yet.
    pub(crate) fn deserted(&self, stage: Stage, now: Instant) -> Option<SystemTime> {
        if self.crew(stage, now).processes > 0 {
            return None;
        }
        let inner = self.lock();
        let (listens, since) = inner.listens?;
        if now.saturating_duration_since(listens) < ALIVE_FOR {
            return None;
        }
        Some(inner.heard.get(&stage).copied().unwrap_or(since))
    }

    /// Whose turn comes when, from now on.
    pub(crate) fn show(&self, queues: Queues) {
        self.lock().queues = Arc::new(queues);
    }

    /// Whose turn comes when, as of the last second.
    pub(crate) fn queues(&self) -> Arc<Queues> {
        Arc::clone(&self.lock().queues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGE: Stage = Stage::Embeddings;

    fn process(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_stage_is_deserted_when_the_last_of_its_processes_has_left_or_is_silent() {
        let stages = Stages::default();
        let now = Instant::now();
        assert_eq!(stages.deserted(STAGE, now), None);
        stages.begin(now);
        // One may live that was not heard of yet.
        assert_eq!(stages.deserted(STAGE, now), None);
        let later = now + ALIVE_FOR;
        assert!(stages.deserted(STAGE, later).is_some());
        stages.attend(STAGE, process(1), 4, later);
        stages.attend(STAGE, process(2), 3, later);
        stages.attend(Stage::Upload, process(3), 8, later);
        let crew = stages.crew(STAGE, later);
        assert_eq!((crew.processes, crew.slots), (2, 7));
        stages.leave(STAGE, process(1));
        assert_eq!(stages.deserted(STAGE, later), None);
        assert!(stages.deserted(STAGE, later + ALIVE_FOR).is_some());
        // Each is told once, whether it said so or not.
        assert_eq!(stages.take_gone(later), [(STAGE, process(1))]);
        let silent = stages.take_gone(later + ALIVE_FOR);
        assert_eq!(silent, [(Stage::Upload, process(3)), (STAGE, process(2))]);
        assert_eq!(stages.take_gone(later + ALIVE_FOR), []);
    }

    #[test]
    fn no_more_processes_are_remembered_than_the_bound_and_each_is_told_what_is_set() {
        let stages = Stages::default();
        let now = Instant::now();
        stages.begin(now);
        stages.set(StageRow {
            max_slots: Some(9),
            ..StageRow::unset(STAGE)
        });
        for number in 0..MOST_PROCESSES as u128 + 9 {
            let row = stages.attend(STAGE, process(number), 1, now);
            assert_eq!(row.max_slots, Some(9));
        }
        assert_eq!(stages.crew(STAGE, now).processes as usize, MOST_PROCESSES);
    }
}
