//! What waits in a batch of a tenant that was paused is asked for again.

use caudal_domain::BatchRef;

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Which batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WakeBatch {
    pub(crate) batch: BatchRef,
}

impl Verb for WakeBatch {
    type Answer = ();
    const NAME: &'static str = "WakeBatch";

    fn needs(&self) -> Needs {
        Needs {
            batch: Some(self.batch),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        if group.rows.may_go_out(self.batch) {
            group.let_go_on(self.batch);
        }
        Ok(Reply::Now(()))
    }
}
