//! Deletes operations that ended long ago, a slice at a time.

use caudal_domain::limits;

use super::prune::PRUNE_SLICE;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Operations that nobody looks up any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PruneOperations;

impl Verb for PruneOperations {
    type Answer = ();
    const NAME: &'static str = "PruneOperations";

    fn rows(&self) -> usize {
        PRUNE_SLICE as usize
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let before = group.now.minus(limits::OPERATION_RETENTION);
        group.effects.prune_operations = Some((before, PRUNE_SLICE));
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn operations_go_that_ended_before_what_is_kept() {
        let mut trial = Trial::new();
        let before = trial.now().minus(limits::OPERATION_RETENTION);
        let decided = trial.decided(PruneOperations);
        assert_eq!(
            decided.effects.prune_operations,
            Some((before, PRUNE_SLICE))
        );
    }
}
