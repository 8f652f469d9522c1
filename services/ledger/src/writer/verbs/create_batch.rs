//! Makes a batch.

use caudal_domain::{BatchRef, StageSet};
use caudal_proto::v1::Batch;

use crate::store::progress::{BatchRow, ProgressRow};
use crate::store::tenancy::Open;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// A new batch, as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct CreateBatch {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    pub(crate) name: String,
    pub(crate) options: String,
    pub(crate) metadata: Option<String>,
    pub(crate) priority: u32,
    pub(crate) stages: StageSet,
    pub(crate) starts_when_completed: bool,
    pub(crate) created_by: String,
}

impl Verb for CreateBatch {
    type Answer = Batch;
    const NAME: &'static str = "CreateBatch";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(self.batch.tenant)),
            tenant: Some(self.batch.tenant),
            open_of: Some((self.batch.tenant, Open::Batches)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        let tenant = self.batch.tenant;
        if let Some(first) = group.first_answer(tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        group.open_tenant(tenant)?;
        group.may_open(tenant)?;
        let mut row = ProgressRow::new(self.batch, group.now);
        row.stages = self.stages;
        row.starts_when_completed = self.starts_when_completed;
        row.priority = self.priority;
        let made = BatchRow {
            name: self.name.clone(),
            options: self.options.clone(),
            metadata: self.metadata.clone(),
            priority: self.priority,
            created_by: self.created_by.clone(),
            created_at: group.now,
            completed_at: None,
            ended_at: None,
        };
        group.rows.take_in_batch(row, Some(made));
        group.touch(self.batch)?;
        Ok(Reply::batch(self.batch, &self.request))
    }

    #[cfg(debug_assertions)]
    fn makes(&self) -> Option<&str> {
        Some(&self.name)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{RefusalKind, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::writer::trial::Trial;

    // Whoever serves the call names the batch anew each time.
    #[test]
    fn a_repeated_creation_is_answered_with_the_first_batch_and_makes_no_other() {
        let mut trial = Trial::new();
        let create = trial.creation();
        let first = trial.ask(create.clone()).unwrap();
        let before = trial.everything();
        let again = CreateBatch {
            batch: trial.creation().batch,
            ..create
        };
        assert_eq!(trial.ask(again).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_request_id_that_comes_with_another_body_is_refused() {
        let mut trial = Trial::new();
        let mut create = trial.creation();
        trial.ask(create.clone()).unwrap();
        let before = trial.everything();
        create.request.body_hash = [1; 32];
        let refusal = trial.ask(create).unwrap_err();
        assert_eq!(refusal.reason, "REQUEST_ID_REUSED");
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_tenant_that_is_gone_gets_no_batch() {
        let mut trial = Trial::new();
        let mut create = trial.creation();
        create.batch.tenant = TenantId::from_uuid(Uuid::from_u128(99));
        let before = trial.everything();
        let refusal = trial.ask(create).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
        assert_eq!(trial.everything(), before);
    }
}
