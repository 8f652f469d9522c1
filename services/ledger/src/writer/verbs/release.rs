//! Takes files back from a process that drains; nothing is charged (protocol 7.4).

use caudal_domain::{FileRef, FileState};

use super::{Held, files_of};
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Files that a process gives back.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) held: Held,
}

impl Verb for Release {
    type Answer = ();
    const NAME: &'static str = "Release";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs::of_files(files_of(&self.held))
    }

    /// One that was never leased keeps its place and goes out again.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        for (file, token) in &self.held {
            let row = group.rows.current(*file, *token);
            let any = group.rows.file(*file);
            let row = row.or_else(|| any.filter(|_| planted!(StaleReleaseTaken)));
            let Some(row) = row else {
                continue;
            };
            match row.state {
                FileState::Queued => group.send_again(*file)?,
                FileState::Processing => group.give_back(*file)?,
                _ => {}
            }
        }
        Ok(Reply::Now(()))
    }
}

impl Group<'_> {
    /// A file that was leased goes back to its stage, and nothing is charged to it.
    pub(super) fn give_back(&mut self, file: FileRef) -> Result<(), GroupError> {
        let token = self.rows.file(file).ok_or(GroupError::Stale)?.token;
        self.memory.dispatcher.refund(file, token);
        if planted!(TokenKeptAtRelease) {
            self.rows.file_mut(file)?.dispatched_at = None;
        } else {
            self.raise_token(file)?;
        }
        if planted!(ReleaseCharged) {
            self.rows.file_mut(file)?.fails += 1;
        }
        self.make_ready(file, self.now)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::{Reason, Stage};

    use super::*;
    use crate::writer::trial::Trial;

    // Protocol 7.4: one never leased goes out again at once in its place.
    #[test]
    fn one_that_was_never_leased_goes_out_again_in_its_place() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let before = trial.row(files[0]);
        let held = trial.held(&files);
        trial.pass(Duration::from_secs(1));
        trial.ask(Release { held }).unwrap();
        let mut again = before.clone();
        again.token = before.token.next();
        again.dispatched_at = Some(trial.now());
        assert_eq!(trial.row(files[0]), again);
        assert_eq!(trial.places(Stage::Upload), 1);
    }

    // Protocol 7.4: nothing is charged.
    #[test]
    fn one_that_was_worked_on_is_charged_nothing_and_its_token_rises() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        trial.fail(files[0], Reason::StageTimeout);
        trial.pass(Duration::from_secs(600));
        trial.tick();
        trial.lease(&files);
        let before = trial.row(files[0]);
        let held = trial.held(&files);
        trial.ask(Release { held }).unwrap();
        let row = trial.row(files[0]);
        assert_eq!(row.token, before.token.next());
        assert_eq!((row.fails, row.kills), (1, 0));
        assert_eq!((row.state, row.lease_until), (FileState::Processing, None));
        assert_eq!(row.dispatched_at, Some(trial.now()));
        assert_eq!(trial.attempts(files[0]).len(), 1);
        assert_eq!(trial.places(Stage::Upload), 1);
    }

    // Protocol 10.3.
    #[test]
    fn what_is_released_in_a_paused_batch_waits() {
        let mut trial = Trial::new();
        let files = trial.processing(1);
        trial.pause(files[0].batch_ref(), true);
        let held = trial.held(&files);
        trial.ask(Release { held }).unwrap();
        let row = trial.row(files[0]);
        assert_eq!(
            (row.dispatched_at, row.wait_stage),
            (None, Some(Stage::Upload))
        );
        assert_eq!(trial.places(Stage::Upload), 0);
    }

    // Protocol 0: the token is the only fence.
    #[test]
    fn whoever_holds_an_old_token_gives_nothing_back() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let held = trial.held(&files);
        trial.ask(Release { held: held.clone() }).unwrap();
        let before = trial.everything();
        trial.ask(Release { held }).unwrap();
        assert_eq!(trial.everything(), before);
    }
}
