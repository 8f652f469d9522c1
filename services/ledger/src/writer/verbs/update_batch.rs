//! Changes what may be changed of a batch.

use caudal_domain::BatchRef;
use caudal_proto::v1::Batch;

use crate::store::progress::Renamed;
use crate::wire;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// The changes; what is `None` stays.
#[derive(Clone, Debug)]
pub(crate) struct UpdateBatch {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    pub(crate) changes: Renamed,
}

impl Verb for UpdateBatch {
    type Answer = Batch;
    const NAME: &'static str = "UpdateBatch";

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
        group.batch(self.batch)?;
        let batch = group.rows.batch_mut(self.batch)?;
        if let Some(priority) = self.changes.priority {
            batch.row.priority = priority;
        }
        batch.touched = true;
        // Of two changes in one group the later one wins where both say something.
        let earlier = batch.renamed.take().unwrap_or_default();
        batch.renamed = Some(self.changes.clone().or(earlier));
        Ok(Reply::batch(self.batch, &self.request))
    }
}
