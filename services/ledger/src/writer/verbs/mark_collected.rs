//! Notes that an ended batch was looked through for objects that nothing reaches any more (protocol 13).

use caudal_domain::BatchRef;

use crate::store::time::Micros;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// A batch, and the end that it was looked through after: one that has run again is looked through again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MarkCollected {
    pub(crate) batch: BatchRef,
    pub(crate) ended_at: Micros,
}

impl Verb for MarkCollected {
    type Answer = ();
    const NAME: &'static str = "MarkCollected";

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        group.effects.collected.push((self.batch, self.ended_at));
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn a_batch_is_marked_for_the_end_that_it_was_looked_through_after() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let ended_at = trial.now();
        let decided = trial.decided(MarkCollected { batch, ended_at });
        assert_eq!(decided.effects.collected, [(batch, ended_at)]);
    }
}
