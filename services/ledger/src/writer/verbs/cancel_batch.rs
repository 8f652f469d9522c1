//! Cancels a batch: nothing more is added, confirmed or admitted, and its files follow in slices (protocol 10.2).

use caudal_domain::{BatchRef, Refusal, names};
use caudal_proto::v1::Batch;

use crate::wire;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// A batch that is not wanted any more.
#[derive(Clone, Debug)]
pub(crate) struct CancelBatch {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
}

impl Verb for CancelBatch {
    type Answer = Batch;
    const NAME: &'static str = "CancelBatch";

    fn rows(&self) -> usize {
        1
    }

    fn needs(&self) -> Needs {
        Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(wire::decode(first)?));
        }
        let row = group.batch(self.batch)?;
        if row.state.is_ended() && !row.facts.cancel_requested {
            let name = names::batch_name(self.batch.batch);
            let message = format!(
                "{name} has ended as {}: there is nothing to cancel",
                row.state
            );
            return Err(Refusal::failed_precondition("BATCH_ENDED", message).into());
        }
        let batch = group.rows.batch_mut(self.batch)?;
        let facts = &mut batch.row.facts;
        if !facts.cancel_requested {
            facts.cancel_requested = true;
            batch.completed = !facts.manifest_complete;
            facts.manifest_complete = true;
        }
        batch.touched = true;
        Ok(Reply::batch(self.batch, &self.request))
    }
}
