//! Deletes old changes and answers, a slice at a time.

use caudal_domain::limits;

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Rows that one prune deletes at most, of each table.
pub(super) const PRUNE_SLICE: u32 = 1_000;

/// What is older than it need be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prune;

impl Verb for Prune {
    type Answer = ();
    const NAME: &'static str = "Prune";

    fn rows(&self) -> usize {
        PRUNE_SLICE as usize
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let changes = group.now.minus(group.memory.settings.keep_changes);
        let requests = group.now.minus(limits::REQUEST_ID_RETENTION);
        group.effects.prune = Some((changes, requests, PRUNE_SLICE));
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn what_is_older_than_it_is_kept_goes_a_slice_at_a_time() {
        let mut trial = Trial::new();
        let now = trial.now();
        let changes = now.minus(trial.memory.settings.keep_changes);
        let requests = now.minus(limits::REQUEST_ID_RETENTION);
        let decided = trial.decided(Prune);
        assert_eq!(
            decided.effects.prune,
            Some((changes, requests, PRUNE_SLICE))
        );
    }
}
