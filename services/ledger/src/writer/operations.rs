//! Bulk operations: begun, carried on in slices, ended. A slice and the place it has reached are one transaction, so an
//! operation goes on where it stood whoever leads.

use caudal_domain::Refusal;
use caudal_proto::longrunning::Operation;
use prost::Message;

use super::acts::{Answer, EndOperation, Slice, StartOperation};
use super::group::{Group, GroupError};
use super::manifest::Answered;
use crate::api::operations::message_of;
use crate::store::operations;
use crate::store::operations::{OperationRow, OperationState};

/// Ended operations that one prune deletes at most.
const PRUNE_SLICE: u32 = 1_000;

impl Group<'_> {
    pub(super) async fn start_operation(&mut self, act: &StartOperation) -> Answered {
        if let Some(first) = self.repeated(act.tenant, &act.request) {
            return Ok(first.and_then(|answer| decode(&answer)));
        }
        let row = OperationRow {
            tenant: act.tenant,
            id: act.id,
            verb: act.verb,
            selector: act.selector.clone(),
            state: OperationState::Running,
            cursor: None,
            matched: act.matched,
            max_count: act.max_count,
            done: 0,
            refused: std::collections::BTreeMap::new(),
            requested_by: act.requested_by.clone(),
            by_operator: act.by_operator,
            created_at: self.now,
            updated_at: self.now,
            ended_at: None,
        };
        operations::insert(&self.session, &row).await?;
        let message = message_of(&row);
        let request = &act.request;
        self.remember(act.tenant, request, message.encode_to_vec());
        Ok(Ok(Answer::Operation(Box::new(message))))
    }

    /// Does a slice of an operation, unless it has ended meanwhile: then nothing of it is done.
    pub(super) async fn slice(&mut self, act: &Slice) -> Answered {
        let Some(mut row) = operations::lock(&self.session, act.tenant, act.operation).await?
        else {
            return Ok(Ok(Answer::Nothing));
        };
        if row.state != OperationState::Running {
            return Ok(Ok(Answer::Nothing));
        }
        let adopted = self.adopt(&act.arrived)?;
        row.done += adopted.len() as u64;
        let files: Vec<_> = act
            .files
            .iter()
            .copied()
            .filter(|file| !adopted.contains(file))
            .collect();
        for result in self.apply_verb(&row.verb, &files).await? {
            match result {
                Ok(()) => row.done += 1,
                Err(reason) => *row.refused.entry(reason.to_owned()).or_default() += 1,
            }
        }
        row.cursor = act.cursor;
        row.updated_at = self.now;
        if act.ended {
            row.state = OperationState::Succeeded;
            row.ended_at = Some(self.now);
        }
        operations::update(&self.session, &row).await?;
        Ok(Ok(Answer::Nothing))
    }

    /// Ends an operation before its time. One that has ended stays as it is.
    pub(super) async fn end_operation(&mut self, act: &EndOperation) -> Answered {
        if let Some(mut row) = operations::lock(&self.session, act.tenant, act.operation).await?
            && row.state == OperationState::Running
        {
            row.state = act.state;
            row.updated_at = self.now;
            row.ended_at = Some(self.now);
            operations::update(&self.session, &row).await?;
        }
        Ok(Ok(Answer::Nothing))
    }

    pub(super) async fn prune_operations(&mut self) -> Result<Answer, GroupError> {
        let before = self.now.minus(caudal_domain::limits::OPERATION_RETENTION);
        operations::prune(&self.session, before, PRUNE_SLICE).await?;
        Ok(Answer::Nothing)
    }
}

fn decode(answer: &[u8]) -> Result<Answer, Refusal> {
    let operation = Operation::decode(answer).map_err(|_| Refusal::internal())?;
    Ok(Answer::Operation(Box::new(operation)))
}
