//! Pauses a batch, or lets it go on (protocol 10.3).

use caudal_domain::BatchRef;
use caudal_proto::v1::{Batch, PauseSource};

use crate::store::progress::Pause;
use crate::wire;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Whether a batch is paused from now on.
#[derive(Clone, Debug)]
pub(crate) struct SetPause {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    /// `None`: it goes on.
    pub(crate) pause: Option<NewPause>,
}

/// Who pauses a batch, and the words they leave.
#[derive(Clone, Debug)]
pub(crate) struct NewPause {
    pub(crate) who: String,
    pub(crate) note: String,
}

impl Verb for SetPause {
    type Answer = Batch;
    const NAME: &'static str = "SetPause";

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
        let was_paused = group.batch_in_force(self.batch)?.pause.is_some();
        let now = group.now;
        let batch = group.rows.batch_mut(self.batch)?;
        batch.row.pause = self.pause.as_ref().map(|pause| Pause {
            by: PauseSource::Batch as u32,
            who: pause.who.clone(),
            note: pause.note.clone(),
            at: now,
        });
        batch.pause_moved = true;
        batch.touched = true;
        if self.pause.is_none() && was_paused {
            group.let_go_on(self.batch);
        }
        Ok(Reply::batch(self.batch, &self.request))
    }
}
