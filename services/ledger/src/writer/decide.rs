//! One group of verbs in one transaction, in two halves.
//!
//! [`decide`] loads what the verbs need, decides one after the other in memory, where files are moved through the domain's
//! state machine, and writes their rows in set-based statements whose WHERE clause holds the token that was read: that token
//! is the fence (protocol 0). Rows of files that are new or out, of batches, tenants and folders are known from memory, so
//! confirmations, leases and reports read nothing. Two verbs on one file keep their order. Then whoever waits is admitted.
//! [`write`](super::write::write) inserts the files of manifests and results, writes the rows of new files that have arrived,
//! and, when the group ahead is committed, moves folders, batches and tenants, appends changes and outbox, and commits.
//!
//! While one group is being written the next may decide (on Postgres, which has two connections for it), and write what
//! belongs to files. The first never waits for the second: its locks on files were taken before the second began, but for
//! those on new files, which nobody else wants (verbs that look for such rows by themselves wait for it); and what it still
//! locks (folders, batches, tenants) the second locks only when the first is committed. Order of locks: leadership (shared),
//! files by key, then folders, batches, tenants, each by key (protocol 9.3).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::conclude::Decided;
use super::delta::MemoryDelta;
use super::effects::{Effects, Outgoing};
use super::error::GroupError;
use super::group::Group;
use super::needs::Needs;
use super::rows::Rows;
use super::verb::Request;
use crate::memory::Memory;
use crate::phases::{Phase, Phases};
use crate::store::leadership::Beginning;
use crate::store::requests::{AnsweredRequest, RequestName};
use crate::store::write_transaction::WriteTransaction;

/// The first half of a group: everything that is decided, with the rows of most files written. When it fails nothing
/// happened, and memory stands as before.
pub(crate) async fn decide<T: WriteTransaction>(
    transaction: &T,
    memory: &mut Memory,
    requests: &mut [Request],
    use_remembered_rows: bool,
    mut phases: Phases,
) -> Result<(Decided, MemoryDelta), GroupError> {
    let names = requests.iter().filter_map(|request| request.needs.request);
    let names: Vec<RequestName> = names.collect();
    let begun = transaction.begin_group(memory.epoch, &names).await?;
    phases.ended(Phase::Begin);
    let Beginning { now, answered } = begun.ok_or(GroupError::NotLeading)?;
    memory.clock.set(now);
    memory.dispatcher.promote(now);
    let mut group = Group {
        now,
        memory,
        rows: Rows::default(),
        loaded: Arc::default(),
        effects: Effects::default(),
        outgoing: Outgoing::default(),
        use_remembered_rows,
        phases,
    };
    // What a group moved in memory is taken back below, also after a panic.
    let worked = AssertUnwindSafe(group.work(transaction, answered, requests))
        .catch_unwind()
        .await;
    match worked.unwrap_or_else(|panic| Err(GroupError::panicked(panic.as_ref()))) {
        Ok(decided) => Ok((decided, group.end().0)),
        Err(error) => {
            let (delta, memory) = group.end();
            delta.undone(memory);
            Err(error)
        }
    }
}

impl<'a> Group<'a> {
    async fn work<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        answered: Vec<(RequestName, AnsweredRequest)>,
        requests: &mut [Request],
    ) -> Result<Decided, GroupError> {
        let needs: Vec<&Needs> = requests.iter().map(|request| &request.needs).collect();
        let mut loaded = self.load(transaction, &needs).await?;
        loaded.answered.extend(answered);
        self.loaded = Arc::new(loaded);
        self.phases.ended(Phase::Load);
        for (position, request) in requests.iter_mut().enumerate() {
            let decided = request.verb.decide(self);
            decided.map_err(|error| error.of_verb(position))?;
        }
        self.phases.ended(Phase::Decide);
        self.write_files(transaction, false).await?;
        self.enqueue_waiting();
        self.admit(transaction).await?;
        self.write_files(transaction, false).await?;
        self.phases.ended(Phase::Admit);
        let folders = self.count_folders(transaction).await?;
        self.conclude(transaction, folders).await
    }

    /// Ends the group: what memory learns of it, and the memory.
    fn end(self) -> (MemoryDelta, &'a mut Memory) {
        let delta = MemoryDelta::of(self.now, self.rows, self.effects, self.outgoing);
        (delta, self.memory)
    }
}
