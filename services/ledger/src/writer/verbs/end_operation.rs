//! Ends a bulk operation before its time.

use caudal_domain::TenantId;
use uuid::Uuid;

use crate::store::operations::{OperationRow, OperationState};
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// How it ends. One that has ended stays as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndOperation {
    pub(crate) tenant: TenantId,
    pub(crate) operation: Uuid,
    pub(crate) state: OperationState,
}

impl Verb for EndOperation {
    type Answer = ();
    const NAME: &'static str = "EndOperation";

    fn needs(&self) -> Needs {
        Needs {
            operation: Some((self.tenant, self.operation)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        if let Some(mut row) = group.operation_in_force(self.tenant, self.operation) {
            row.state = self.state;
            row.updated_at = group.now;
            row.ended_at = Some(group.now);
            group.effects.operations.push(row);
        }
        Ok(Reply::Now(()))
    }
}

impl Group<'_> {
    /// An operation that goes on, as this group has left it so far.
    pub(super) fn operation_in_force(&self, tenant: TenantId, id: Uuid) -> Option<OperationRow> {
        let moved = self.effects.operations.iter().rev();
        let mut moved = moved.filter(|row| (row.tenant, row.id) == (tenant, id));
        let row = moved
            .next()
            .or_else(|| self.loaded.operations.get(&(tenant, id)))?;
        (row.state == OperationState::Running).then(|| row.clone())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::trial::Trial;

    // Protocol 10.4: else a cancelled operation goes on.
    #[test]
    fn an_operation_that_was_ended_does_no_more_and_stays_as_it_ended() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        let start = trial.operation(FileVerb::Cancel);
        let (tenant, operation) = (start.tenant, start.id);
        trial.ask(start).unwrap();
        let end = |state| EndOperation {
            tenant,
            operation,
            state,
        };
        trial.ask(end(OperationState::Cancelled)).unwrap();
        let row = trial.operation_row(operation);
        assert_eq!(row.state, OperationState::Cancelled);
        assert_eq!(row.ended_at, Some(trial.now()));
        let before = trial.everything();
        let slice = trial.slice(operation, &[file]);
        trial.ask(slice).unwrap();
        trial.ask(end(OperationState::Failed)).unwrap();
        assert_eq!(trial.everything(), before);
    }
}
