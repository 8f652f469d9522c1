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
            let row = group.rows.current(*file, *token);
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
            let row = group.rows.current(*file, *token);
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

    /// Charges the loss of a worker: a budget of its own, apart from failures (protocol 7.3). What was not known to be worked on
    /// may have been all the same: it is suspect from now on, but charged nothing.
    fn kill(&mut self, file: FileRef, token: Token) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (stage, kills) = (row.stage, row.kills + 1);
        let has_begun = self.memory.dispatcher.has_begun(file, token);
        if !has_begun && !planted!(HeldCharged) {
            if !planted!(HeldNotSuspected) {
                self.rows.file_mut(file)?.kills = row.kills.max(1);
            }
            return self.give_back(file);
        }
        let attempt = AttemptRow {
            file,
            token,
            stage,
            reason: Reason::WorkerLost,
            detail: format!(
                "the worker was lost while it worked on this file ({kills} of {MAX_KILLS})"
            ),
            trace_id: String::new(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        if planted!(KillsNotCounted) {
            let delay = RetryPolicy::for_stage(stage).delay(1, 1.0);
            return self.try_again(attempt, delay);
        }
        self.rows.file_mut(file)?.kills = kills;
        if kills >= MAX_KILLS && !planted!(KillsUnlimited) {
            return self.end_attempt(attempt, Reason::TooManyKills);
        }
        let jitter = self.memory.jitter();
        let delay = RetryPolicy::for_stage(stage).delay(kills, jitter);
        self.try_again(attempt, delay)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::Stage;

    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::release::Release;
    use crate::writer::verbs::renew::Renew;

    fn kill(trial: &mut Trial, file: FileRef, cause: KillCause) {
        let kill = vec![(file, trial.row(file).token, cause)];
        let redispatch = Vec::new();
        trial.ask(Repair { redispatch, kill }).unwrap();
    }

    /// A process says that the handler of the file begins, and is silent then.
    fn begin(trial: &mut Trial, file: FileRef) {
        let held = trial.held(&[file]);
        let begun = held.clone();
        assert_eq!(trial.ask(Renew { held, begun }).unwrap(), [true]);
        trial.pass(trial.memory.settings.lease + Duration::from_micros(1));
    }

    // Protocol 7.3: a machine that dies again and again fails nothing but what it worked on.
    #[test]
    fn what_was_only_held_goes_back_and_is_charged_nothing_but_suspicion() {
        let mut trial = Trial::new();
        let file = trial.processing(1)[0];
        for _ in 0..3 * MAX_KILLS {
            let before = trial.row(file);
            kill(&mut trial, file, KillCause::NeverRenewed);
            let row = trial.row(file);
            assert_eq!((row.state, row.kills), (FileState::Processing, 1));
            assert_eq!(row.token, before.token.next());
            assert_eq!(trial.attempts(file).len(), 0);
            trial.lease(&[file]);
        }
    }

    // Protocol 8.2, 7.2: sent again in place, state unchanged, nothing charged.
    #[test]
    fn a_lost_dispatch_is_sent_again_in_its_place() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let before = trial.row(files[0]);
        trial.pass(Duration::from_secs(6));
        let redispatch = trial.held(&files);
        let kill = Vec::new();
        let repair = Repair { redispatch, kill };
        trial.ask(repair.clone()).unwrap();
        let mut again = before.clone();
        again.token = before.token.next();
        again.dispatched_at = Some(trial.now());
        assert_eq!(trial.row(files[0]), again);
        assert_eq!(trial.places(Stage::Upload), 1);
        // Each item only while its token is the one that was looked at.
        let before = trial.everything();
        trial.ask(repair).unwrap();
        assert_eq!(trial.everything(), before);
    }

    // Protocol 8.2, 8.3: a live lease needs no message.
    #[test]
    fn a_lease_that_lives_is_taken_from_nobody() {
        let mut trial = Trial::new();
        let files = trial.processing(1);
        let held = trial.held(&files);
        let renew = Renew {
            held: held.clone(),
            begun: Held::new(),
        };
        trial.ask(renew).unwrap();
        trial.pass(trial.memory.settings.lease);
        let before = trial.everything();
        let kill = [KillCause::LeaseExpired, KillCause::NeverRenewed];
        let kill = kill.map(|cause| (held[0].0, held[0].1, cause)).to_vec();
        let redispatch = held;
        let held_token = trial.row(files[0]).token;
        trial.ask(Repair { redispatch, kill }).unwrap();
        assert_eq!(trial.everything(), before);
        // A moment later it has run out.
        trial.pass(Duration::from_micros(1));
        self::kill(&mut trial, files[0], KillCause::LeaseExpired);
        assert_ne!(trial.row(files[0]).token, held_token);
    }

    // Protocol 8.1: rows that are out.
    #[test]
    fn one_that_waits_is_not_sent_again() {
        let mut trial = Trial::new();
        let files = trial.processing(1);
        trial.pause(files[0].batch_ref(), true);
        let held = trial.held(&files);
        trial.ask(Release { held }).unwrap();
        let redispatch = trial.held(&files);
        let before = trial.everything();
        let kill = Vec::new();
        trial.ask(Repair { redispatch, kill }).unwrap();
        assert_eq!(trial.everything(), before);
    }

    // Protocol 8.2: QUEUED was never leased.
    #[test]
    fn one_that_was_never_leased_is_not_killed() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        let before = trial.everything();
        kill(&mut trial, file, KillCause::NeverRenewed);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 7.3: a budget apart from failures; at the third kill FAILED.
    #[test]
    fn a_file_whose_worker_is_lost_again_and_again_is_failed_at_the_third_time() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        for kills in 1..MAX_KILLS {
            trial.lease(&[file]);
            begin(&mut trial, file);
            let token = trial.row(file).token;
            kill(&mut trial, file, KillCause::LeaseExpired);
            let row = trial.row(file);
            assert_eq!((row.kills, row.fails), (kills, 0));
            assert_eq!((row.state, row.token), (FileState::Retrying, token.next()));
            trial.pass(Duration::from_secs(600));
            trial.tick();
        }
        trial.lease(&[file]);
        begin(&mut trial, file);
        kill(&mut trial, file, KillCause::LeaseExpired);
        let row = trial.row(file);
        assert_eq!((row.state, row.kills), (FileState::Failed, MAX_KILLS));
        assert_eq!(trial.letter(file), Some(Reason::TooManyKills));
        assert_eq!(trial.attempts(file).len(), MAX_KILLS as usize);
    }
}
