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
            let row = group.current(*file, *token);
            let kept = row.is_some_and(|row| row.dispatched_at.is_some());
            if kept && !planted!(RenewalNotWritten) {
                group.rows.file_mut(*file)?.lease_until = Some(until);
            }
            answers.push(kept);
        }
        Ok(Reply::Now(answers))
    }
}
