//! The group that is being written while the next one is decided.

use std::time::Instant;

use caudal_domain::{BatchRef, FileRef, TenantId};
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use uuid::Uuid;

use super::conclude::Decided;
use super::delta::MemoryDelta;
use super::error::GroupError;
use super::needs::Needs;
use super::verb::Request;
use super::write::{Committed, write};
use crate::memory::Memory;
use crate::memory::lease_cache::LeaseCache;
use crate::memory::relay_queue::RelayQueue;
use crate::memory::stages::Stages;
use crate::metrics::LedgerMetrics;
use crate::store::requests::RequestName;
use crate::store::write_transaction::WriteTransaction;

/// What the next group must leave alone of this one.
pub(crate) struct HeldRows {
    /// Its files: a verb on one of them waits.
    files: FxHashSet<FileRef>,
    /// The batches whose manifests it grows: their next page waits, because it must see the folders of this one.
    manifests: Vec<BatchRef>,
    /// The requests that it answers: one that is repeated waits, for the first answer is known when it is committed.
    answers: FxHashSet<RequestName>,
    /// The uploads through gateways that it may make or write: a row that is not committed cannot be locked.
    uploads: FxHashSet<(TenantId, Uuid)>,
    /// It numbers stage versions: the next number is known when it is committed.
    numbers_versions: bool,
    /// It saw a stage's newest version, or the first vectors of one: what may be taken over, and what is recorded, is known
    /// when it is committed.
    moves_newest: bool,
}

impl HeldRows {
    pub(crate) fn of(delta: &MemoryDelta, requests: &[Request]) -> Self {
        let answers = requests.iter().filter_map(|request| request.needs.request);
        let uploads = requests.iter().filter_map(|request| request.needs.tus);
        Self {
            answers: answers.collect(),
            uploads: uploads.collect(),
            files: delta.files(),
            manifests: delta.manifests().to_vec(),
            numbers_versions: delta.numbers_versions(),
            moves_newest: delta.moves_newest() || delta.sets_dimensions(),
        }
    }

    /// Whether a verb must wait until this group has ended.
    pub(crate) fn hold_up(&self, needs: &Needs, memory: &Memory) -> bool {
        // Places are compared with rows while no dispatch is in flight (protocol 2.3), and this group may still have rows to
        // write that others look for.
        if needs.looks_for_rows() || needs.stage.is_some() || self.moves_newest {
            return true;
        }
        let version = needs.version.as_ref();
        let new_version = version.is_some_and(|version| !memory.versions.contains_key(version));
        (self.numbers_versions && new_version)
            || needs
                .grows()
                .is_some_and(|batch| self.manifests.contains(&batch))
            || needs
                .request
                .is_some_and(|name| self.answers.contains(&name))
            || needs
                .tus
                .is_some_and(|upload| self.uploads.contains(&upload) && !planted!(UploadNotHeld))
            || needs.files.iter().any(|file| self.files.contains(file))
    }
}

/// A group that is being written.
pub(super) struct InFlight {
    held: HeldRows,
    delta: MemoryDelta,
    /// Is told as soon as it is committed, and dropped if it is not: the next group waits for it.
    committed: Option<oneshot::Receiver<()>>,
    written: JoinHandle<Written>,
    ended: Option<Result<Written, JoinError>>,
}

/// How writing a group ended.
pub(crate) enum Written {
    /// Its callers are answered.
    Committed { verbs: usize },
    /// What it took is given back.
    Failed {
        error: GroupError,
        requests: Vec<Request>,
        relayed: Vec<u64>,
    },
}

/// How a group ended, once memory has learnt of it.
pub(crate) enum Settled {
    Committed {
        verbs: usize,
    },
    Failed {
        error: GroupError,
        requests: Vec<Request>,
    },
}

/// Why a group came to nothing, and what it was asked.
pub(crate) type Failure = (GroupError, Vec<Request>);

/// What becomes of a group that could not be decided.
pub(crate) struct Undecided {
    /// They are decided again.
    pub(crate) again: Vec<Request>,
    /// Who is told why.
    pub(crate) failed: Failure,
}

/// A group is decided on the one ahead of it: where that one was not committed, what the next could not decide stood on what
/// never came to be, and its error says nothing about its verbs.
pub(crate) fn undecided((error, requests): Failure, ahead: Result<(), Failure>) -> Undecided {
    match ahead {
        Ok(()) => Undecided {
            again: Vec::new(),
            failed: (error, requests),
        },
        Err(ahead) => Undecided {
            again: requests,
            failed: ahead,
        },
    }
}

impl InFlight {
    pub(super) fn new(
        held: HeldRows,
        delta: MemoryDelta,
        committed: oneshot::Receiver<()>,
        written: JoinHandle<Written>,
    ) -> Self {
        Self {
            held,
            delta,
            committed: Some(committed),
            written,
            ended: None,
        }
    }

    pub(super) fn holds_up(&self, needs: &Needs, memory: &Memory) -> bool {
        self.held.hold_up(needs, memory)
    }

    /// Tells the next group when this one is committed; given once.
    pub(super) fn when_committed(&mut self) -> Option<oneshot::Receiver<()>> {
        self.committed.take()
    }

    /// Waits until it has ended, and lets memory learn of it.
    pub(super) async fn settle(self, memory: &mut Memory, relay: &RelayQueue) -> Settled {
        let ended = match self.ended {
            Some(ended) => ended,
            None => self.written.await,
        };
        match ended {
            Ok(written) => learn(self.delta, written, memory, relay),
            Err(panicked) => {
                self.delta.unknown(memory);
                // After COMMIT: a repeat of what was asked gets its answer.
                let words = format!("writing a group ended early: {panicked}");
                Settled::Failed {
                    error: GroupError::defect(words),
                    requests: Vec::new(),
                }
            }
        }
    }
}

/// Lets memory learn how a group ended.
pub(crate) fn learn(
    delta: MemoryDelta,
    written: Written,
    memory: &mut Memory,
    relay: &RelayQueue,
) -> Settled {
    match written {
        Written::Committed { verbs } => {
            delta.committed(memory);
            Settled::Committed { verbs }
        }
        Written::Failed {
            error,
            requests,
            relayed,
        } => {
            relay.give_back(relayed);
            if matches!(error, GroupError::Unknown(_)) {
                delta.unknown(memory);
            } else {
                delta.undone(memory);
            }
            Settled::Failed { error, requests }
        }
    }
}

/// Completes when the group in flight has been written; never where there is none. Whoever settles takes the outcome.
pub(super) async fn ended(in_flight: &mut Option<InFlight>) {
    match in_flight {
        Some(ahead) => {
            if ahead.ended.is_none() {
                ahead.ended = Some((&mut ahead.written).await);
            }
        }
        None => std::future::pending().await,
    }
}

/// What writing a group needs of the writer.
pub(crate) struct Writing {
    pub(crate) relay: RelayQueue,
    pub(crate) hints: mpsc::Sender<Vec<(BatchRef, u64)>>,
    pub(crate) leases: LeaseCache,
    pub(crate) stages: Stages,
    pub(crate) metrics: LedgerMetrics,
    pub(crate) begun: Instant,
    /// Tells when the group ahead is committed.
    pub(crate) ahead: Option<oneshot::Receiver<()>>,
    pub(crate) committed: oneshot::Sender<()>,
}

impl Writing {
    /// The second half of a group; its callers are answered as soon as it is committed.
    pub(crate) async fn write<T: WriteTransaction>(
        self,
        transaction: T,
        decided: Decided,
        mut requests: Vec<Request>,
    ) -> Written {
        let relayed = decided.relayed.clone();
        let stages = decided.effects.stages.clone();
        match write(transaction, decided, &mut requests, self.ahead).await {
            Ok(Committed {
                published,
                hints,
                results,
                moved,
                phases,
            }) => {
                // The next group goes on; none may be there.
                let _ = self.committed.send(());
                self.leases.advance(moved, results);
                // Processes are told so from now on, before whoever asked for it is.
                for row in stages {
                    self.stages.set(row);
                }
                self.metrics.groups.inc();
                self.metrics.group_verbs.inc_by(requests.len() as u64);
                self.metrics
                    .group_seconds
                    .observe(self.begun.elapsed().as_secs_f64());
                for (seconds, took) in self.metrics.phase_seconds.iter().zip(phases.took()) {
                    seconds.observe(took.as_secs_f64());
                }
                self.relay.publish(published);
                if !hints.is_empty() && self.hints.try_send(hints).is_err() {
                    tracing::debug!("no room for a hint; watchers find the change by themselves");
                }
                let verbs = requests.len();
                for request in requests {
                    request.verb.committed();
                }
                Written::Committed { verbs }
            }
            Err(error) => Written::Failed {
                error,
                requests,
                relayed,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::prune::Prune;

    // Protocol 13.3: what may be taken over is known when the group ahead is committed.
    #[test]
    fn nobody_goes_by_the_newest_version_while_the_group_ahead_moves_it() {
        let trial = Trial::new();
        let mut held = HeldRows {
            files: FxHashSet::default(),
            manifests: Vec::new(),
            answers: FxHashSet::default(),
            uploads: FxHashSet::default(),
            numbers_versions: false,
            moves_newest: true,
        };
        assert!(held.hold_up(&Needs::default(), &trial.memory));
        held.moves_newest = false;
        assert!(!held.hold_up(&Needs::default(), &trial.memory));
    }

    // Protocol 0: a verb is told INTERNAL only where it is at fault itself.
    #[test]
    fn a_group_that_stood_on_one_which_was_not_committed_is_decided_again() {
        let asked = || vec![Request::new(Prune).0];
        let underflow = || GroupError::defect("a counter would fall below zero".into());
        let lost = Err((GroupError::PredecessorAborted, Vec::new()));
        let Undecided { again, failed } = undecided((underflow(), asked()), lost);
        assert_eq!(again.len(), 1);
        assert!(matches!(failed, (GroupError::PredecessorAborted, told) if told.is_empty()));
        let Undecided { again, failed } = undecided((underflow(), asked()), Ok(()));
        assert!(again.is_empty());
        assert!(matches!(failed, (GroupError::Defect { .. }, told) if told.len() == 1));
    }
}
