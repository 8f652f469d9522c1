//! Completes a manifest: nothing more is added to it (protocol 14).

use caudal_domain::{BatchRef, Refusal, names};
use caudal_proto::v1::Batch;

use crate::wire;
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
