//! Begins a bulk operation.

use caudal_domain::TenantId;
use caudal_proto::longrunning::Operation;
use prost::Message;
use uuid::Uuid;

use crate::store::operations::{FileVerb, OperationRow, OperationState};
use crate::store::tenancy::Open;
use crate::wire;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// What is to be done, and to which files.
#[derive(Clone, Debug)]
pub(crate) struct StartOperation {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) request: RequestKey,
    pub(crate) verb: FileVerb,
    /// An encoded `FileSelector`.
    pub(crate) selector: Vec<u8>,
    pub(crate) matched: u64,
    /// 0: no bound.
    pub(crate) max_count: u64,
    pub(crate) requested_by: String,
    pub(crate) by_operator: bool,
}

impl Verb for StartOperation {
    type Answer = Operation;
    const NAME: &'static str = "StartOperation";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(self.tenant)),
            tenant: Some(self.tenant),
            open_of: Some((self.tenant, Open::Operations)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Operation>, Stop> {
        if let Some(first) = group.first_answer(self.tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        if !self.by_operator {
            group.open_tenant(self.tenant)?;
            group.may_start(self.tenant)?;
        }
        let row = OperationRow {
            tenant: self.tenant,
            id: self.id,
            verb: self.verb,
            selector: self.selector.clone(),
            state: OperationState::Running,
            cursor: None,
            matched: self.matched,
            max_count: self.max_count,
            done: 0,
            refused: std::collections::BTreeMap::new(),
            requested_by: self.requested_by.clone(),
            by_operator: self.by_operator,
            created_at: group.now,
            updated_at: group.now,
            ended_at: None,
        };
        let message = wire::operation(&row);
        group.effects.new_operations.push(row);
        group.remember(self.tenant, &self.request, message.encode_to_vec());
        Ok(Reply::Now(message))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn a_repeated_start_is_answered_with_the_first_operation_and_begins_no_other() {
        let mut trial = Trial::new();
        let start = trial.operation(FileVerb::Cancel);
        let id = start.id;
        let first = trial.ask(start.clone()).unwrap();
        let row = trial.operation_row(id);
        assert_eq!((row.state, row.done), (OperationState::Running, 0));
        let before = trial.everything();
        let again = StartOperation {
            id: trial.operation(FileVerb::Cancel).id,
            ..start
        };
        assert_eq!(trial.ask(again.clone()).unwrap(), first);
        let mut other = again;
        other.request.body_hash = [1; 32];
        assert_eq!(trial.ask(other).unwrap_err().reason, "REQUEST_ID_REUSED");
        assert_eq!(trial.everything(), before);
    }
}
