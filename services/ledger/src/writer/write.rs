//! The write phase: what a decided group still has to write, and COMMIT.

use std::panic::AssertUnwindSafe;

use caudal_domain::{BatchRef, Token};
use caudal_proto::v1;
use futures::FutureExt;
use prost::Message;
use tokio::sync::oneshot;

use super::conclude::Decided;
use super::error::GroupError;
use super::verb::Request;
use crate::memory::lease_cache::FileMoved;
use crate::phases::{Phase, Phases};
use crate::store::outbox::OutboxRow;
use crate::store::results::ResultRow;
use crate::store::work::{Moved, WorkRow};
use crate::store::write_transaction::WriteTransaction;
use crate::wire;

/// What a committed group leaves to be done.
pub(crate) struct Committed {
    pub(crate) published: Vec<OutboxRow>,
    pub(crate) hints: Vec<(BatchRef, u64)>,
    /// What was recorded of files, and what became of each, for the leases that are granted from memory.
    pub(crate) results: Vec<ResultRow>,
    pub(crate) moved: Vec<FileMoved>,
    pub(crate) phases: Phases,
}

/// The second half of a group: everything that is not written yet, and COMMIT. `ahead` is told when the group ahead is
/// committed, and dropped when it was not; `None` where there is none.
pub(crate) async fn write<T: WriteTransaction>(
    transaction: T,
    decided: Decided,
    requests: &mut [Request],
    ahead: Option<oneshot::Receiver<()>>,
) -> Result<Committed, GroupError> {
    let written = AssertUnwindSafe(decided.write(&transaction, requests, ahead))
        .catch_unwind()
        .await;
    match written.unwrap_or_else(|panic| Err(GroupError::panicked(panic.as_ref()))) {
        Ok(mut committed) => match transaction.commit().await {
            Ok(()) => {
                committed.phases.ended(Phase::Commit);
                Ok(committed)
            }
            Err(error) => Err(GroupError::Unknown(error)),
        },
        Err(error) => {
            transaction.roll_back().await;
            Err(error)
        }
    }
}

impl Decided {
    async fn write<T: WriteTransaction>(
        mut self,
        transaction: &T,
        requests: &mut [Request],
        ahead: Option<oneshot::Receiver<()>>,
    ) -> Result<Committed, GroupError> {
        self.write_files(transaction).await?;
        self.phases.ended(Phase::WriteOwn);
        if let Some(ahead) = ahead {
            ahead.await.map_err(|_| GroupError::PredecessorAborted)?;
        }
        self.phases.ended(Phase::WaitAhead);
        self.write_shared(transaction, requests).await?;
        self.phases.ended(Phase::WriteShared);
        Ok(Committed {
            published: self.outbox,
            hints: self.batches.hints,
            results: self.effects.results,
            moved: self.moved,
            phases: self.phases,
        })
    }

    /// Rows that belong to the files of this group alone.
    async fn write_files<T: WriteTransaction>(&self, transaction: &T) -> Result<(), GroupError> {
        let effects = &self.effects;
        effects.new.insert(transaction).await?;
        let arrived = self.arrived.iter();
        let arrived: Vec<(Token, &WorkRow)> = arrived.map(|(held, row)| (*held, row)).collect();
        if transaction.update_files(&arrived, Moved::BytesToo).await? != arrived.len() as u64 {
            return Err(GroupError::Stale);
        }
        if !planted!(ResultLost) {
            transaction.insert_results(&effects.results).await?;
        }
        transaction.insert_attempts(&effects.attempts).await?;
        transaction
            .insert_dead_letters(&effects.dead_letters)
            .await?;
        transaction.dismiss(&effects.dismissed, self.now).await?;
        Ok(())
    }

    /// Rows that the group ahead may have changed too: locked only when that one is committed.
    async fn write_shared<T: WriteTransaction>(
        &self,
        transaction: &T,
        requests: &mut [Request],
    ) -> Result<(), GroupError> {
        let batches = &self.batches;
        transaction.update_folders(&self.folders).await?;
        transaction.insert_batches(&batches.made).await?;
        if transaction.update_batches(&batches.changed).await? != batches.changed.len() as u64 {
            return Err(GroupError::Stale);
        }
        for row in &batches.paused {
            transaction.set_pause(row).await?;
        }
        for (batch, renamed) in &batches.renamed {
            transaction.rename(*batch, renamed).await?;
        }
        transaction.set_times(&batches.times).await?;
        if transaction.update_tenants(&self.tenants).await? != self.tenants.len() as u64 {
            return Err(GroupError::Stale);
        }
        self.write_stages_and_operations(transaction).await?;
        if !planted!(ChangeLost) {
            transaction
                .insert_changes(&batches.changes, self.now)
                .await?;
        }
        transaction.insert_outbox(&self.outbox, self.now).await?;
        transaction.delete_outbox(&self.relayed).await?;
        self.write_answers(transaction, requests).await
    }

    async fn write_stages_and_operations<T: WriteTransaction>(
        &self,
        transaction: &T,
    ) -> Result<(), GroupError> {
        let effects = &self.effects;
        for (number, version) in &effects.new_versions {
            transaction
                .insert_version(*number, version, self.now)
                .await?;
        }
        for (stage, version) in &effects.newest_versions {
            transaction.set_newest_version(*stage, *version).await?;
        }
        for (number, dimensions) in &effects.dimensions {
            transaction.set_dimensions(*number, *dimensions).await?;
        }
        for row in &effects.stages {
            transaction.set_stage(row).await?;
        }
        for row in &effects.new_operations {
            transaction.insert_operation(row).await?;
        }
        for row in &effects.operations {
            transaction.update_operation(row).await?;
        }
        for ((tenant, id), row) in &effects.tus {
            match row {
                Some(row) => transaction.put_tus(row).await?,
                None => transaction.delete_tus(*tenant, *id).await?,
            }
        }
        if !effects.tenancy.is_empty() {
            transaction.write_tenancy(&effects.tenancy).await?;
        }
        if let Some((changes, requests, limit)) = effects.prune {
            transaction.prune(changes, requests, limit).await?;
        }
        transaction
            .mark_collected(&effects.collected, self.now)
            .await?;
        if let Some((before, limit)) = effects.prune_operations {
            transaction.prune_operations(before, limit).await?;
        }
        Ok(())
    }

    /// Answers that are complete only now, and the memory of all answers.
    async fn write_answers<T: WriteTransaction>(
        &self,
        transaction: &T,
        requests: &mut [Request],
    ) -> Result<(), GroupError> {
        let mut answered = self.effects.answered.clone();
        for request in requests {
            let Some((batch, key)) = request.verb.batch_wanted() else {
                continue;
            };
            let (name, key) = (key.of(batch.tenant), key.clone());
            let message = self.batch(transaction, batch).await?;
            if !planted!(AnswerForgotten) {
                answered.push((name, key.answered(message.encode_to_vec())));
            }
            request.verb.batch_found(message);
        }
        transaction.remember(&answered, self.now).await?;
        Ok(())
    }

    /// A batch as this group leaves it.
    async fn batch<T: WriteTransaction>(
        &self,
        transaction: &T,
        batch: BatchRef,
    ) -> Result<v1::Batch, GroupError> {
        let mut made = self.batches.made.iter();
        if let Some((progress, row)) = made.find(|(row, _)| row.key() == batch) {
            return Ok(wire::batch(progress, row));
        }
        let found = transaction.batch(batch).await?;
        let (progress, row) = found.ok_or(GroupError::Stale)?;
        Ok(wire::batch(&progress, &row))
    }
}
