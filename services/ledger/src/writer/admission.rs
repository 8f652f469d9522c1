//! Admission: whose turn it is is chosen, the rows that wait are loaded, and they go out (protocol 1.1).

use std::collections::BTreeSet;

use caudal_domain::Stage;

use super::error::GroupError;
use super::group::Group;
use crate::memory::costs::Cost;
use crate::memory::dispatcher::Turn;
use crate::store::work::WorkRow;
use crate::store::write_transaction::WriteTransaction;

/// Turns that one group takes at one stage, and files it admits there: a group stays a bounded piece of work.
const MAX_TURNS: usize = 32;
const MAX_ADMISSIONS: u32 = 1_000;

/// What came of a turn.
struct Taken {
    files: u32,
    cost: Cost,
    /// Nothing of the batch is ready any more.
    ran_dry: bool,
    /// All that was read is long work, for which the stage has no slot free.
    waits_for_slot: bool,
}

impl Group<'_> {
    /// Takes turns at every stage that has room, for those who wait. Later stages are first: where a tenant's window is full, what
    /// has begun its way ends it before more begins.
    pub(super) async fn admit<T: WriteTransaction>(
        &mut self,
        transaction: &T,
    ) -> Result<(), GroupError> {
        for stage in Stage::ALL.into_iter().rev() {
            let mut admitted = 0;
            for _ in 0..MAX_TURNS {
                if admitted >= MAX_ADMISSIONS {
                    break;
                }
                let left = MAX_ADMISSIONS - admitted;
                let Some(turn) = self.memory.dispatcher.next_turn(stage, left) else {
                    break;
                };
                admitted += self.take_turn(transaction, turn).await?;
            }
        }
        Ok(())
    }

    async fn take_turn<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        mut turn: Turn,
    ) -> Result<u32, GroupError> {
        let Turn { stage, batch, .. } = turn;
        self.load_tenants(transaction, BTreeSet::from([batch.tenant]))
            .await?;
        self.load_batches(transaction, BTreeSet::from([batch]))
            .await?;
        let waiting = self.waiting(stage, batch, self.now);
        self.outgoing.turns.push(waiting);
        if !self.rows.may_go_out(batch) {
            // Whatever lets it go on (completion, resume) says again that it waits.
            self.memory.dispatcher.turn_taken(turn, 0, true);
            return Ok(0);
        }
        // What its tenant may have out is known for certain now.
        let room = self.memory.dispatcher.room(stage, batch.tenant);
        turn.files = turn.files.min(room.files);
        if room.is_none() {
            self.memory.dispatcher.turn_taken(turn, 0, false);
            return Ok(0);
        }
        self.write_files(transaction, true).await?;
        let rows = transaction
            .waiting(stage, batch, self.now, turn.files)
            .await?;
        let taken = self.admit_rows(turn, rows)?;
        if taken.waits_for_slot {
            self.memory.dispatcher.park(turn);
            return Ok(0);
        }
        self.memory
            .dispatcher
            .turn_taken(turn, taken.cost, taken.ran_dry);
        if taken.files > 0 {
            // Written at once, so that the next turn of this batch does not read the same rows.
            self.write_files(transaction, true).await?;
        }
        if taken.ran_dry
            && let Some(at) = transaction.earliest_ready(stage, batch).await?
        {
            let waiting = self.waiting(stage, batch, at);
            if at <= self.now {
                // Ready, and yet not read: the group before this one holds those rows.
                self.outgoing.requeue.push(waiting);
            } else {
                self.memory.dispatcher.enqueue(waiting, self.now);
            }
        }
        Ok(taken.files)
    }

    fn admit_rows(&mut self, turn: Turn, rows: Vec<WorkRow>) -> Result<Taken, GroupError> {
        let read = rows.len();
        let mut taken = Taken {
            files: 0,
            cost: 0,
            ran_dry: false,
            waits_for_slot: false,
        };
        let mut passed_over = 0;
        for row in rows {
            if taken.cost >= turn.cost {
                break;
            }
            let file = row.file;
            let dispatcher = &self.memory.dispatcher;
            if !dispatcher.takes(turn.stage, file, row.likeness()) {
                passed_over += 1;
                continue;
            }
            let cost = dispatcher.cost_of(turn.stage, file, row.likeness());
            taken.cost = taken.cost.saturating_add(cost);
            taken.files += 1;
            self.rows.take_in(row);
            self.raise_token(file)?;
            self.dispatch(file)?;
        }
        taken.ran_dry = taken.files as usize == read && read < turn.files as usize;
        taken.waits_for_slot = passed_over > 0 && taken.files == 0;
        Ok(taken)
    }
}
