//! Keeps leases alive (protocol 5.2).

use super::{Held, files_of};
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// All that a process holds, waiting or running.
#[derive(Clone, Debug)]
pub(crate) struct Renew {
    pub(crate) held: Held,
    /// Those of them whose handlers have begun or, where they are suspect, begin now.
    pub(crate) begun: Held,
}

impl Verb for Renew {
    /// By position: whether it is still to be worked on.
    type Answer = Vec<bool>;
    const NAME: &'static str = "Renew";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs::of_files(files_of(&self.held))
    }

    /// The token does not rise: who may act does not change.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Vec<bool>>, Stop> {
        let until = group.now.plus(group.memory.settings.lease);
        let mut answers = Vec::with_capacity(self.held.len());
        for (file, token) in &self.held {
            let row = group.rows.current(*file, *token);
            let any = group.rows.file(*file);
            let row = row.or_else(|| any.filter(|_| planted!(StaleRenewalTaken)));
            let kept = row.is_some_and(|row| row.dispatched_at.is_some());
            if kept && !planted!(RenewalNotWritten) {
                group.rows.file_mut(*file)?.lease_until = Some(until);
            }
            answers.push(kept);
        }
        for (file, token) in &self.begun {
            group.memory.dispatcher.begin(*file, *token);
        }
        Ok(Reply::Now(answers))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::release::Release;

    // Protocol 5.2: everything granted is renewed, waiting or running.
    #[test]
    fn a_renewal_moves_the_end_of_a_lease_and_nothing_else() {
        let mut trial = Trial::new();
        let files = trial.processing(2);
        let before = trial.row(files[0]);
        trial.pass(Duration::from_secs(4));
        let held = trial.held(&files);
        let renew = Renew {
            held,
            begun: Held::new(),
        };
        assert_eq!(trial.ask(renew).unwrap(), [true, true]);
        let mut renewed = before;
        renewed.lease_until = Some(trial.now().plus(trial.memory.settings.lease));
        assert_eq!(trial.row(files[0]), renewed);
    }

    // Protocol 5.2: no row: the handler and its child are stopped.
    #[test]
    fn what_moved_on_or_is_not_out_is_not_renewed() {
        let mut trial = Trial::new();
        let files = trial.processing(1);
        let old = trial.held(&files);
        trial.pause(files[0].batch_ref(), true);
        trial.ask(Release { held: old.clone() }).unwrap();
        let waiting = trial.held(&files);
        let before = trial.everything();
        for held in [old, waiting] {
            let begun = held.clone();
            assert_eq!(trial.ask(Renew { held, begun }).unwrap(), [false]);
        }
        assert_eq!(trial.everything(), before);
    }
}
