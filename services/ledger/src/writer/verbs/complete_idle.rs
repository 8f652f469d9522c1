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

    fn rows(&self) -> usize {
        1
    }

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
