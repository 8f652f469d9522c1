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

    fn rows(&self) -> usize {
        1
    }

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
