//! Does what the reconciler found, each item only while its token is still the one that was looked at (protocol 8.2, 8.3).

use caudal_domain::{FileRef, FileState, MAX_KILLS, Reason, RetryPolicy, Token};

use super::Held;
use crate::store::attempts::AttemptRow;
use crate::store::work::WorkRow;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Why the reconciler counts a kill (protocol 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// Its renewed lease ran out.
    LeaseExpired,
    /// It was leased, and its message is pending beyond a lease without any renewal.
    NeverRenewed,
}

/// What the reconciler found to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repair {
    pub(crate) redispatch: Held,
    pub(crate) kill: Vec<(FileRef, Token, KillCause)>,
}

impl Verb for Repair {
    type Answer = ();
    const NAME: &'static str = "Repair";

    fn rows(&self) -> usize {
        self.redispatch.len() + self.kill.len()
    }

    fn needs(&self) -> Needs {
        let redispatched = self.redispatch.iter().map(|(file, _)| *file);
        let killed = self.kill.iter().map(|(file, ..)| *file);
        Needs::of_files(redispatched.chain(killed).collect())
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        for (file, token) in &self.redispatch {
            let row = group.current(*file, *token);
            let is_lost = |row: &WorkRow| {
                let leased = row.lease_until.is_some() && !planted!(LiveLeaseRedispatched);
                row.dispatched_at.is_some() && !leased
            };
            if row.is_some_and(is_lost) {
                group.send_again(*file)?;
                group.memory.metrics.redispatches.inc();
            }
        }
        for (file, token, cause) in &self.kill {
            let row = group.current(*file, *token);
            if row.is_some_and(|row| group.is_dead(row, *cause)) {
                group.kill(*file, *token)?;
                group.memory.metrics.kills.inc();
            }
        }
        Ok(Reply::Now(()))
    }
}

impl Group<'_> {
    fn is_dead(&self, row: &WorkRow, cause: KillCause) -> bool {
        row.state == FileState::Processing
            && row.dispatched_at.is_some()
            && match cause {
                KillCause::LeaseExpired => row
                    .lease_until
                    .is_some_and(|until| until < self.now || planted!(LiveLeaseKilled)),
                KillCause::NeverRenewed => row.lease_until.is_none(),
            }
    }

    /// Charges the loss of a worker: a budget of its own, apart from failures (protocol 7.3).
    fn kill(&mut self, file: FileRef, token: Token) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (stage, kills) = (row.stage, row.kills + 1);
        let attempt = AttemptRow {
            file,
            token,
            stage,
            reason: Reason::WorkerLost,
            detail: format!("the worker was lost while it held this file ({kills} of {MAX_KILLS})"),
            trace_id: String::new(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        if planted!(KillsNotCounted) {
            let delay = RetryPolicy::for_stage(stage).delay(1, 1.0);
            return self.try_again(attempt, delay);
        }
        self.rows.file_mut(file)?.kills = kills;
        if kills >= MAX_KILLS {
            return self.end_attempt(attempt, Reason::TooManyKills);
        }
        let jitter = self.memory.jitter();
        let delay = RetryPolicy::for_stage(stage).delay(kills, jitter);
        self.try_again(attempt, delay)
    }
}
