//! How far an ingest is: numbers that everybody may read, and the bounded list of what was not taken in.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::walk::Problem;

/// Problems kept with their paths; beyond it they are counted only.
const PROBLEMS_KEPT: usize = 1_000;

/// What an ingest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Walks, sends the manifest and uploads, all at once.
    #[default]
    Sending,
    /// All bytes are confirmed; the manifest is being completed.
    Completing,
    /// The batch is completed; the rest is the system's work.
    Completed,
}

/// How far an ingest is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// The walk is over: `found_files` and `found_bytes` are final.
    pub walked: bool,
    /// Files found.
    pub found_files: u64,
    /// Their bytes.
    pub found_bytes: u64,
    /// Files in the manifest.
    pub listed_files: u64,
    /// Files whose bytes landed.
    pub uploaded_files: u64,
    /// Bytes sent, of files under way too.
    pub uploaded_bytes: u64,
    /// Files whose landing is confirmed.
    pub confirmed_files: u64,
    /// Files of the manifest that were given up.
    pub given_up: u64,
    /// Things in the folder that were not taken in, given-up files among them.
    pub problems: u64,
}

/// What was not taken in.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    /// The first thousand.
    pub first: Vec<Problem>,
    /// How many there are in all.
    pub total: u64,
    /// How many of them mean that content is missing; links do not.
    pub losses: u64,
}

/// Where the steps write what they did.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    progress: watch::Sender<Progress>,
    problems: Arc<Mutex<Problems>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            progress: watch::Sender::new(Progress::default()),
            problems: Arc::default(),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Something that is in no manifest.
    pub(crate) fn report(&self, problem: Problem) {
        tracing::debug!(path = problem.path, why = %problem.why, "not taken in");
        {
            let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
            problems.total += 1;
            if problem.why.is_a_loss() {
                problems.losses += 1;
            }
            if problems.first.len() < PROBLEMS_KEPT {
                problems.first.push(problem);
            }
        }
        self.update(|progress| progress.problems += 1);
    }

    /// A file of the manifest whose bytes will not come.
    pub(crate) fn give_up(&self, problem: Problem) {
        self.report(problem);
        self.update(|progress| progress.given_up += 1);
    }

    pub(crate) fn problems(&self) -> Problems {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
