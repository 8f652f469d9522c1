//! Completes a manifest: nothing more is added to it (protocol 14).

use caudal_domain::{BatchRef, Refusal, names};
use caudal_proto::v1::Batch;

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// A manifest that its client has sent whole.
#[derive(Clone, Debug)]
pub(crate) struct CompleteBatch {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    /// Files that have not arrived are given up.
    pub(crate) missing_fails: bool,
    /// 0: not checked.
    pub(crate) expected_entries: u32,
}

impl Verb for CompleteBatch {
    type Answer = Batch;
    const NAME: &'static str = "CompleteBatch";

    fn needs(&self) -> Needs {
        Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let row = group.batch_in_force(self.batch)?;
        let total = row.facts.counts.total();
        if self.expected_entries != 0 && self.expected_entries != total {
            let message = format!(
                "the manifest of {} holds {total} files, not {}: send the missing pages, then complete it",
                names::batch_name(self.batch.batch),
                self.expected_entries
            );
            let refusal = Refusal::failed_precondition("ENTRIES_MISSING", message)
                .with_metadata("expected_entries", self.expected_entries.to_string())
                .with_metadata("entries", total.to_string());
            return Err(refusal.into());
        }
        let first_completion = !row.facts.manifest_complete;
        let held_back = row.starts_when_completed;
        group.touch(self.batch)?;
        let batch = group.rows.batch_mut(self.batch)?;
        batch.completed |= first_completion;
        batch.row.facts.manifest_complete = true;
        // Who waited for what is missing may give it up later.
        batch.row.missing_fails |= self.missing_fails;
        if first_completion && held_back {
            group.let_go_on(self.batch);
        }
        Ok(Reply::batch(self.batch, &self.request))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::{BatchState, FileState, Stage};

    use super::*;
    use crate::writer::trial::{Trial, content_of};

    #[test]
    fn a_manifest_of_which_pages_are_missing_is_not_completed() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.add(batch, 2);
        let before = trial.everything();
        let complete = CompleteBatch {
            expected_entries: 3,
            ..trial.completion(batch)
        };
        assert_eq!(
            trial.ask(complete.clone()).unwrap_err().reason,
            "ENTRIES_MISSING"
        );
        assert_eq!(trial.everything(), before);
        trial.add(batch, 1);
        let first = trial.ask(complete.clone()).unwrap();
        let before = trial.everything();
        assert_eq!(trial.ask(complete).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 12.3, 14.1: what is missing may be given up later, and when it was completed does not move.
    #[test]
    fn a_later_completion_may_give_up_what_is_missing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.complete(batch, false);
        let completed_at = Some(trial.now());
        assert!(!trial.progress(batch).missing_fails);
        trial.pass(Duration::from_secs(1));
        trial.complete(batch, true);
        let row = trial.progress(batch);
        assert_eq!((row.missing_fails, row.state), (true, BatchState::Running));
        let cold = trial.read(|tables| tables.batches[&batch].1.clone());
        assert_eq!(cold.completed_at, completed_at);
        // Nothing is missing any more: what is asked for later has its time.
        trial.confirm(&files);
        assert!(!trial.progress(batch).missing_fails);
    }

    // Protocol 1.1: and is complete if it starts only then.
    #[test]
    fn a_batch_that_starts_when_completed_goes_out_then_at_whatever_stage_it_waits() {
        let mut trial = Trial::new();
        let held = trial.processed();
        let batch = trial.batch_held_back();
        let arrived = trial.add(batch, 1)[0];
        trial.confirm(&[arrived]);
        // Its content is held: only its own record is still to be made.
        let page = trial.page_declaring(batch, content_of(held));
        let declared = batch.file(trial.ask(page).unwrap().ordinals[0]);
        let stages = [(arrived, Stage::Upload), (declared, Stage::Metadata)];
        for (file, stage) in stages {
            let row = trial.row(file);
            assert_eq!(
                (row.state, row.wait_stage),
                (FileState::Uploaded, Some(stage))
            );
        }
        // Its turn comes, and it is passed over.
        trial.tick();
        assert_eq!(trial.row(declared).state, FileState::Uploaded);
        trial.complete(batch, false);
        for (file, stage) in stages {
            let row = trial.row(file);
            assert_eq!((row.state, row.stage), (FileState::Queued, stage));
            assert_eq!(row.dispatched_at, Some(trial.now()));
        }
    }

    // Protocol 10.2.
    #[test]
    fn a_batch_that_is_being_cancelled_is_not_completed() {
        let mut trial = Trial::new();
        let batch = trial.queued(1)[0].batch_ref();
        trial.cancel(batch);
        let before = trial.everything();
        let complete = trial.completion(batch);
        assert_eq!(trial.ask(complete).unwrap_err().reason, "BATCH_CANCELLED");
        assert_eq!(trial.everything(), before);
    }
}
