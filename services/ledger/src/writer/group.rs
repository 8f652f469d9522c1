//! A group of verbs while it is decided: the rows it holds, and what may be done to them. Files are moved through the domain's
//! state machine, and everything that counts them with them.

use std::sync::Arc;

use caudal_domain::{
    BatchRef, FileEvent, FileRef, FileState, Reason, Refusal, Stage, TenantId, Token, names,
};

use prost::Message;

use super::effects::{Effects, Outgoing};
use super::error::GroupError;
use super::loaded::Loaded;
use super::request_key::RequestKey;
use super::rows::Rows;
use crate::memory::lease_cache::Granted;
use crate::memory::{Memory, Waiting};
use crate::phases::Phases;
use crate::store::attempts::AttemptRow;
use crate::store::progress::ProgressRow;
use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::store::write_transaction::WriteTransaction;
use crate::wire;

/// How often a batch's `touched_at`, which is indexed, and `upload_deadline` move at most.
const TOUCH_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// A group under way.
pub(crate) struct Group<'a> {
    pub(super) now: Micros,
    pub(super) memory: &'a mut Memory,
    pub(super) rows: Rows,
    pub(super) loaded: Arc<Loaded>,
    pub(super) effects: Effects,
    pub(super) outgoing: Outgoing,
    pub(super) use_remembered_rows: bool,
    pub(super) phases: Phases,
}

impl Group<'_> {
    /// How often a verb of this group has changed anything.
    pub(super) fn changes(&self) -> u64 {
        self.rows.changes()
    }

    /// The dispatcher hears of what waits.
    pub(super) fn enqueue_waiting(&mut self) {
        for (stage, batch, at) in self.outgoing.take_waits() {
            let waiting = self.waiting(stage, batch, at);
            self.memory.dispatcher.enqueue(waiting, self.now);
            self.outgoing.requeue.push(waiting);
        }
    }

    pub(super) fn waiting(&self, stage: Stage, batch: BatchRef, at: Micros) -> Waiting {
        Waiting {
            stage,
            batch,
            weight: self.rows.batch(batch).map_or(0, |row| row.priority),
            at,
        }
    }

    /// Writes the rows that changed; see [`Rows::unwritten`].
    pub(super) async fn write_files<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        all: bool,
    ) -> Result<(), GroupError> {
        if all {
            let new = std::mem::take(&mut self.effects.new);
            new.insert(transaction).await?;
        }
        for (moved, rows) in self.rows.unwritten(all) {
            let written = transaction.update_files(&rows, moved).await?;
            if written != rows.len() as u64 {
                return Err(GroupError::Stale);
            }
        }
        self.rows.written(all);
        let left_failed = std::mem::take(&mut self.effects.left_failed);
        transaction.delete_dead_letters(&left_failed).await?;
        Ok(())
    }

    /// The first answer to a repeated request.
    ///
    /// # Errors
    /// The id came with another body before.
    pub(super) fn first_answer<M: Message + Default>(
        &self,
        tenant: TenantId,
        request: &RequestKey,
    ) -> Result<Option<M>, Refusal> {
        let name = request.of(tenant);
        let before = self.loaded.answered.get(&name);
        let Some(first) = before.or_else(|| self.effects.answer_of(&name)) else {
            return Ok(None);
        };
        if first.method == request.method && first.body_hash == request.body_hash {
            return wire::decode(&first.answer).map(Some);
        }
        Err(Refusal::request_id_reused())
    }

    /// Remembers what a request was answered, for the next that comes with its id.
    pub(super) fn remember(&mut self, tenant: TenantId, request: &RequestKey, answer: Vec<u8>) {
        let answered = request.answered(answer);
        if !planted!(AnswerForgotten) {
            self.effects.answered.push((request.of(tenant), answered));
        }
    }

    /// The batch.
    ///
    /// # Errors
    /// The refusal that a batch of another tenant gets too.
    pub(super) fn batch(&self, batch: BatchRef) -> Result<&ProgressRow, Refusal> {
        self.rows
            .batch(batch)
            .ok_or_else(|| Refusal::not_found(&names::batch_name(batch.batch)))
    }

    /// The batch, while it takes files.
    ///
    /// # Errors
    /// As [`Group::batch`], and where it is cancelled (protocol 10.2).
    pub(super) fn batch_in_force(&self, batch: BatchRef) -> Result<&ProgressRow, Refusal> {
        let row = self.batch(batch)?;
        if row.facts.cancel_requested && !planted!(CancelledBatchTakesFiles) {
            let name = names::batch_name(batch.batch);
            let message = format!("{name} is cancelled; create another batch");
            return Err(Refusal::failed_precondition("BATCH_CANCELLED", message));
        }
        Ok(row)
    }

    /// Says that a client did something to a batch; the row is written at the end of the group.
    pub(super) fn touch(&mut self, batch: BatchRef) -> Result<(), GroupError> {
        let now = self.now;
        let batch = self.rows.batch_mut(batch)?;
        batch.touched = true;
        if now.since(batch.row.touched_at) >= TOUCH_EVERY {
            batch.row.touched_at = now;
        }
        let time = self.memory.settings.upload_deadline;
        let deadline = now.plus(time);
        if deadline.since(batch.row.upload_deadline) >= TOUCH_EVERY.min(time / 4) {
            batch.row.upload_deadline = deadline;
        }
        Ok(())
    }

    /// As [`Group::touch`]; the batch waits for bytes at least until then, for an upload may rest so long.
    pub(super) fn keep_waiting(
        &mut self,
        batch: BatchRef,
        until: Micros,
    ) -> Result<(), GroupError> {
        self.touch(batch)?;
        let row = &mut self.rows.batch_mut(batch)?.row;
        if until.since(row.upload_deadline) >= TOUCH_EVERY {
            row.upload_deadline = until;
        }
        Ok(())
    }

    /// Raises the token: whoever held the old one holds nothing now.
    pub(super) fn raise_token(&mut self, file: FileRef) -> Result<(), GroupError> {
        let row = self.rows.file_mut(file)?;
        let old = row.token;
        row.token = if planted!(TokenResetAtReplay) && row.state == FileState::Failed {
            Token::FIRST
        } else {
            old.next()
        };
        row.dispatched_at = None;
        row.lease_until = None;
        row.wait_stage = None;
        row.ready_at = None;
        self.outgoing.left.push((file, old));
        Ok(())
    }

    /// Moves a file through the state machine and everything that counts it.
    pub(super) fn step(&mut self, file: FileRef, event: FileEvent) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let steps = row.state.steps(event).map_err(|illegal| {
            self.memory.metrics.illegal_transitions.inc();
            GroupError::defect(illegal.to_string())
        })?;
        for to in steps {
            self.rows.move_file(file, *to, self.now)?;
        }
        Ok(())
    }

    /// Whether the state machine allows an event; counted when it does not.
    pub(super) fn allows(&self, file: FileRef, event: FileEvent) -> bool {
        let row = self.rows.file(file);
        let allowed = row.is_some_and(|row| row.state.next(event).is_ok());
        if !allowed {
            self.memory.metrics.illegal_transitions.inc();
            tracing::warn!(%file, %event, "a transition that the state machine does not know was asked for");
        }
        allowed
    }

    /// A file is ready for its stage: it goes out in this transaction when the stage has room and nobody waits before
    /// it (protocol 1.3); otherwise it waits in the database. Its token was raised by the caller, or is raised by the
    /// admission.
    pub(super) fn make_ready(&mut self, file: FileRef, ready_at: Micros) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (stage, like) = (row.stage, row.likeness());
        let goes_out = ready_at <= self.now
            && self.rows.may_go_out(file.batch_ref())
            && !self.memory.dispatcher.anyone_waits(stage)
            && !self.memory.dispatcher.room(stage, file.tenant).is_none()
            && self
                .memory
                .dispatcher
                .takes_before_others(stage, file, like);
        if goes_out {
            return self.dispatch(file);
        }
        let row = self.rows.file_mut(file)?;
        row.wait_stage = Some(stage);
        row.ready_at = Some(ready_at);
        self.outgoing.wait(stage, file.batch_ref(), ready_at);
        Ok(())
    }

    /// What waits in a batch that was passed over until now may go out, at whatever stage: content that was held already
    /// waits for a later one than the first.
    pub(super) fn let_go_on(&mut self, batch: BatchRef) {
        for stage in Stage::ALL {
            self.outgoing.wait(stage, batch, self.now);
        }
    }

    /// Sends a file out under its present token. The place is taken before COMMIT is sent (protocol 2.1).
    pub(super) fn dispatch(&mut self, file: FileRef) -> Result<(), GroupError> {
        self.step(file, FileEvent::Admitted)?;
        let row = self.rows.file_mut(file)?;
        row.wait_stage = None;
        row.ready_at = None;
        row.lease_until = None;
        self.send(file)
    }

    /// Sends a file whose dispatch was lost out again, its state unchanged (protocol 8.2).
    pub(super) fn send_again(&mut self, file: FileRef) -> Result<(), GroupError> {
        self.raise_token(file)?;
        if planted!(LossCharged) {
            self.rows.file_mut(file)?.fails += 1;
        }
        self.send(file)
    }

    fn send(&mut self, file: FileRef) -> Result<(), GroupError> {
        let row = self.rows.file_mut(file)?;
        row.dispatched_at = Some(self.now);
        let (stage, token, like) = (row.stage, row.token, row.likeness());
        let dispatcher = &mut self.memory.dispatcher;
        if !planted!(PlaceNotTaken) {
            dispatcher.enter(stage, file, token, like, self.now);
        }
        let lane = dispatcher.lane(stage, file.batch_ref());
        self.outgoing.entered.push((file, token));
        self.memory.metrics.admissions.with([stage.name()]).inc();
        let out = self.outgoing.dispatches.entry((stage, lane)).or_default();
        out.push((file, token));
        Ok(())
    }

    /// What a stage is told of a row that is out to it.
    pub(super) fn granted(&self, row: &WorkRow) -> Arc<Granted> {
        let batch = self.rows.batch(row.file.batch_ref());
        Arc::new(Granted {
            row: row.clone(),
            stages: batch.map(|batch| batch.stages).unwrap_or_default(),
            expected: self
                .memory
                .dispatcher
                .cost_of(row.stage, row.file, row.likeness()),
        })
    }

    /// A file becomes FAILED for a reason, with its dead letter (protocol 11.1).
    pub(super) fn fail_with_letter(
        &mut self,
        letter: AttemptRow,
        reason: Reason,
        event: FileEvent,
    ) -> Result<(), GroupError> {
        let file = letter.file;
        self.rows.file_mut(file)?.reason = Some(reason);
        let letter = AttemptRow { reason, ..letter };
        if !planted!(LetterForgotten) {
            self.effects.dead_letters.push(letter);
        }
        self.step(file, event)
    }

    /// The file leaves FAILED: its dead letter goes, wherever it is (protocol 11.1); the attempts stay.
    pub(super) fn undo_dead_letter(&mut self, file: FileRef) {
        let effects = &mut self.effects;
        effects.dead_letters.retain(|letter| letter.file != file);
        effects.dismissed.retain(|dismissed| *dismissed != file);
        if !planted!(LetterKeptAtReplay) {
            effects.left_failed.push(file);
        }
    }
}
