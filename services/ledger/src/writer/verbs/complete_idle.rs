//! Completes an OPEN batch that nobody has touched for long, and says that the system did.

use caudal_domain::BatchRef;

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// A batch that seems to be left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompleteIdle {
    pub(crate) batch: BatchRef,
}

impl Verb for CompleteIdle {
    type Answer = ();
    const NAME: &'static str = "CompleteIdle";

    fn needs(&self) -> Needs {
        Needs {
            batch: Some(self.batch),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let before = group.now.minus(group.memory.settings.batch_idle);
        let is_idle = group
            .rows
            .batch(self.batch)
            .is_some_and(|row| !row.facts.manifest_complete && row.touched_at <= before);
        if !is_idle {
            return Ok(Reply::Now(()));
        }
        let batch = group.rows.batch_mut(self.batch)?;
        batch.row.facts.manifest_complete = true;
        batch.row.completed_by_system = true;
        batch.completed = true;
        batch.touched = true;
        if batch.row.starts_when_completed {
            group.let_go_on(self.batch);
        }
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::FileState;

    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn a_batch_that_nobody_touched_for_long_is_completed_by_the_system_and_starts() {
        let mut trial = Trial::new();
        let batch = trial.batch_held_back();
        let files = trial.add(batch, 1);
        trial.confirm(&files);
        // Its turn comes, and it is passed over.
        trial.tick();
        trial.pass(trial.memory.settings.batch_idle);
        trial.ask(CompleteIdle { batch }).unwrap();
        let row = trial.progress(batch);
        assert!(row.facts.manifest_complete && row.completed_by_system);
        assert_eq!(trial.row(files[0]).state, FileState::Queued);
        let cold = trial.read(|tables| tables.batches[&batch].1.clone());
        assert_eq!(cold.completed_at, Some(trial.now()));
    }

    #[test]
    fn a_batch_that_was_touched_since_or_is_complete_stays_as_it_is() {
        let mut trial = Trial::new();
        let touched = trial.batch();
        let complete = trial.batch();
        trial.add(complete, 1);
        trial.complete(complete, false);
        trial.pass(trial.memory.settings.batch_idle - Duration::from_secs(1));
        let before = trial.everything();
        trial.ask(CompleteIdle { batch: touched }).unwrap();
        assert_eq!(trial.everything(), before);
        trial.add(touched, 1);
        trial.pass(Duration::from_secs(2));
        let before = trial.everything();
        for batch in [touched, complete] {
            trial.ask(CompleteIdle { batch }).unwrap();
        }
        assert_eq!(trial.everything(), before);
    }
}
