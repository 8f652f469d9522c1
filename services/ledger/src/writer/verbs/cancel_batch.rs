//! Cancels a batch: nothing more is added, confirmed or admitted, and its files follow in slices (protocol 10.2).

use caudal_domain::{BatchRef, Refusal, names};
use caudal_proto::v1::Batch;

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

    fn needs(&self) -> Needs {
        Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(first));
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::BatchState;

    use super::*;
    use crate::writer::trial::Trial;

    // Protocol 10.2, 14.1: at once, and CANCELLED when all files are final.
    #[test]
    fn a_cancelled_batch_takes_nothing_more_and_runs_until_its_files_are_final() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let batch = files[0].batch_ref();
        trial.cancel(batch);
        let row = trial.progress(batch);
        assert!(row.facts.cancel_requested && row.facts.manifest_complete);
        assert_eq!(row.state, BatchState::Running);
        let page = trial.page(batch, &["late"]);
        assert_eq!(trial.ask(page).unwrap_err().reason, "BATCH_CANCELLED");
        let empty = trial.batch();
        trial.cancel(empty);
        assert_eq!(trial.progress(empty).state, BatchState::Cancelled);
    }

    #[test]
    fn a_batch_that_has_ended_is_not_cancelled() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.complete(batch, false);
        let before = trial.everything();
        let request = trial.request();
        let refusal = trial.ask(CancelBatch { batch, request }).unwrap_err();
        assert_eq!(refusal.reason, "BATCH_ENDED");
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_repeated_cancellation_gets_its_first_answer() {
        let mut trial = Trial::new();
        let batch = trial.queued(1)[0].batch_ref();
        let request = trial.request();
        let cancel = CancelBatch { batch, request };
        let first = trial.ask(cancel.clone()).unwrap();
        let before = trial.everything();
        assert_eq!(trial.ask(cancel).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }
}
