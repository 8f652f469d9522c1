//! How far an ingest is: numbers that everybody may read, and the bounded list of what was not taken in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// Files whose content the tenant held before: nothing was sent for them.
    pub unchanged_files: u64,
    /// Files of the batch that had arrived before this began.
    pub arrived_files: u64,
    /// Files and folders that the rules left out.
    pub left_out: u64,
    /// What is silent at the moment, the gateway or the store, in words; the files wait and nothing is given up for it.
    pub silence: Option<String>,
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
    /// The first thousand that the caller's rules left out.
    pub left_out_first: Vec<Problem>,
    /// How many these are in all.
    pub left_out: u64,
}

/// Who may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Silent {
    Gateway,
    Store,
}

/// What is silent, and since when.
#[derive(Debug, Default)]
struct Silences {
    gateway: Option<(Instant, String)>,
    store: Option<(Instant, String)>,
}

/// A silence is told of when it lasts: one call that is repeated at once is none.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Where the steps write what they did.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    progress: watch::Sender<Progress>,
    problems: Arc<Mutex<Problems>>,
    silences: Arc<Mutex<Silences>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            progress: watch::Sender::new(Progress::default()),
            problems: Arc::default(),
            silences: Arc::default(),
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

    /// Nothing comes from there, with what was said last; `None` when it answers again.
    pub(crate) fn silence(&self, who: Silent, words: Option<&str>) {
        let told = {
            let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
            let silence = match who {
                Silent::Gateway => &mut silences.gateway,
                Silent::Store => &mut silences.store,
            };
            match (words, &mut *silence) {
                (None, None) => return,
                (None, silence) => *silence = None,
                (Some(words), Some((_, said))) => words.clone_into(said),
                (Some(words), silence) => *silence = Some((Instant::now(), words.to_owned())),
            }
            let lasting = [&silences.gateway, &silences.store];
            lasting
                .into_iter()
                .flatten()
                .find(|(since, _)| since.elapsed() >= TOLD_AFTER)
                .map(|(_, words)| words.clone())
        };
        self.progress.send_if_modified(|progress| {
            let is_news = progress.silence != told;
            progress.silence = told;
            is_news
        });
    }

    /// Something that the caller's rules leave out.
    pub(crate) fn leave_out(&self, problem: Problem) {
        {
            let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
            problems.left_out += 1;
            if problems.left_out_first.len() < PROBLEMS_KEPT {
                problems.left_out_first.push(problem);
            }
        }
        self.update(|progress| progress.left_out += 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_of_when_it_lasts_and_ends_with_an_answer() {
        let board = Board::new();
        let told = || board.progress().silence;
        board.silence(Silent::Store, Some("503"));
        assert_eq!(told(), None, "it has only begun");
        if let Ok(mut silences) = board.silences.lock() {
            let long_ago = Instant::now().checked_sub(TOLD_AFTER);
            silences.store = long_ago.map(|since| (since, String::new()));
        }
        board.silence(Silent::Store, Some("503 again"));
        board.silence(Silent::Gateway, Some("refused"));
        assert_eq!(told().as_deref(), Some("503 again"));
        board.silence(Silent::Store, None);
        assert_eq!(told(), None);
    }
}
