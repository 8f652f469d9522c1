//! What people do to files and batches that are under way: cancel, retry, reprocess, dismiss, pause (protocol 10, 11).

use std::collections::HashMap;

use caudal_domain::{
    BatchId, FileEvent, FileRef, FileState, MediaKind, Reason, Refusal, Stage, TenantId, names,
    route,
};

use super::acts::{Answer, CancelBatch, KEPT, RequestKey, SLICE, SetPause, UpdateBatch, Verb};
use super::group::{BatchAnswer, Group, GroupError, Renamed};
use super::manifest::{Answered, cancelled, decode_batch};
use crate::store::progress::{BatchKey, Pause};
use crate::store::results::ResultRow;
use crate::store::work;

/// Who can pause: somebody who may change the batch.
const PAUSED_BY_BATCH: u32 = caudal_proto::v1::PauseSource::Batch as u32;

/// Why a verb was not applied to a file; a code for people and programs.
pub(crate) type VerbRefusal = &'static str;

impl Group<'_> {
    /// Applies a verb to files that are in the group. One that refuses changes nothing and stops no other.
    pub(super) async fn apply_verb(
        &mut self,
        verb: &Verb,
        files: &[FileRef],
    ) -> Result<Vec<Result<(), VerbRefusal>>, GroupError> {
        let mut earlier = HashMap::new();
        if matches!(verb, Verb::Reprocess { .. }) {
            let processed: Vec<_> = files
                .iter()
                .filter_map(|file| self.files.get(file))
                .filter(|worked| worked.row.state == FileState::Processed)
                .map(|worked| (worked.row.file, worked.row.generation))
                .collect();
            earlier = self.results_of(&processed).await?;
        }
        let mut verdicts = Vec::with_capacity(files.len());
        let mut dismissed = Vec::new();
        for file in files {
            let Some(row) = self.files.get(file).map(|worked| &worked.row) else {
                verdicts.push(Err("NOT_FOUND"));
                continue;
            };
            let state = row.state;
            verdicts.push(match verb {
                Verb::Cancel => self.cancel(*file)?,
                Verb::Retry { skip_backoff } => self.retry(*file, *skip_backoff)?,
                Verb::Reprocess { from, force } => {
                    let results = earlier.remove(file).unwrap_or_default();
                    self.reprocess(*file, *from, *force, &results)?
                }
                Verb::Dismiss if state == FileState::Failed => {
                    dismissed.push(*file);
                    Ok(())
                }
                Verb::Dismiss => Err("NOT_FAILED"),
            });
        }
        self.dismissed.extend(dismissed);
        Ok(verdicts)
    }

    /// The token rises, so that no lease, renewal or report finds the file any more (protocol 10.1).
    fn cancel(&mut self, file: FileRef) -> Result<Result<(), VerbRefusal>, GroupError> {
        if self.state_of(file)?.is_final() {
            return Ok(Err("ALREADY_FINAL"));
        }
        self.raise_token(file)?;
        self.step(file, FileEvent::Cancel)?;
        Ok(Ok(()))
    }

    fn state_of(&self, file: FileRef) -> Result<FileState, GroupError> {
        self.files
            .get(&file)
            .map(|worked| worked.row.state)
            .ok_or(GroupError::Stale)
    }

    fn is_cancelled(&self, key: BatchKey) -> bool {
        self.batches
            .get(&key)
            .is_some_and(|batched| batched.row.facts.cancel_requested)
    }

    fn retry(
        &mut self,
        file: FileRef,
        skip_backoff: bool,
    ) -> Result<Result<(), VerbRefusal>, GroupError> {
        if self.is_cancelled((file.tenant, file.batch)) {
            return Ok(Err("BATCH_CANCELLED"));
        }
        match self.state_of(file)? {
            FileState::Failed => {
                let reason = self.row_mut(file)?.reason;
                if reason.is_some_and(Reason::needs_bytes) {
                    self.ask_for_bytes_again(file, reason)?;
                } else {
                    self.replay(file)?;
                }
                Ok(Ok(()))
            }
            FileState::Retrying if skip_backoff => {
                self.raise_token(file)?;
                self.make_ready(file, self.now)?;
                Ok(Ok(()))
            }
            FileState::Retrying => Ok(Err("ALREADY_RETRYING")),
            _ => Ok(Err("NOT_FAILED")),
        }
    }

    /// Its bytes are good: it goes on at the stage where it failed, with full budgets (protocol 11.1).
    fn replay(&mut self, file: FileRef) -> Result<(), GroupError> {
        self.take_back_letter(file);
        self.raise_token(file)?;
        let row = self.row_mut(file)?;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        self.step(file, FileEvent::Replay { needs_bytes: false })?;
        self.make_ready(file, self.now)
    }

    /// Its bytes are missing or wrong: it waits for them under a new landing key, which the delayed delete of the first
    /// upload cannot reach, and in a new generation, which old results never meet (protocol 11.2).
    fn ask_for_bytes_again(
        &mut self,
        file: FileRef,
        reason: Option<Reason>,
    ) -> Result<(), GroupError> {
        self.take_back_letter(file);
        self.raise_token(file)?;
        self.mark_bytes_moved(file);
        let row = self.row_mut(file)?;
        row.generation = row.generation.next();
        row.target = row.target.next();
        row.etag = None;
        row.stage = Stage::Upload;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        row.outcome = None;
        let size = row.size;
        if reason != Some(Reason::NeverArrived)
            && let Some(batched) = self.batches.get_mut(&(file.tenant, file.batch))
        {
            let uploaded = &mut batched.row.bytes_uploaded;
            *uploaded = uploaded.saturating_sub(size);
        }
        self.step(file, FileEvent::Replay { needs_bytes: true })?;
        // The client needs its full time again.
        self.touch((file.tenant, file.batch));
        Ok(())
    }

    /// The file leaves FAILED: its dead letter goes, wherever it is (protocol 11.1); the attempts stay.
    pub(super) fn take_back_letter(&mut self, file: FileRef) {
        self.dead_letters.retain(|letter| letter.file != file);
        self.dismissed.retain(|dismissed| *dismissed != file);
        self.buried.push(file);
    }

    /// A new generation that begins with the results of the stages before `from`, by reference; the old final record
    /// serves until the new one is written (protocol 11.3).
    fn reprocess(
        &mut self,
        file: FileRef,
        from: Stage,
        force: bool,
        results: &[ResultRow],
    ) -> Result<Result<(), VerbRefusal>, GroupError> {
        if self.is_cancelled((file.tenant, file.batch)) {
            return Ok(Err("BATCH_CANCELLED"));
        }
        if self.state_of(file)? != FileState::Processed {
            return Ok(Err("NOT_PROCESSED"));
        }
        let upload = results.iter().find(|result| result.stage == Stage::Upload);
        let kind = upload
            .and_then(|upload| upload.media_type.as_deref())
            .map_or(MediaKind::Other, MediaKind::of);
        let stages = route(kind);
        let ran = results
            .iter()
            .any(|result| result.stage == from && !result.skipped);
        let Some(at) = stages
            .iter()
            .position(|stage| *stage == from)
            .filter(|_| ran)
        else {
            return Ok(Err("STAGE_NOT_IN_ROUTE"));
        };
        let (before, later) = (&stages[..at], &stages[at + 1..]);

        let old = self.row_mut(file)?;
        let (token, generation, size, outcome) =
            (old.token, old.generation.next(), old.size, old.outcome);
        for result in results {
            let kept = before.contains(&result.stage)
                || (!force
                    && result.stage != Stage::Metadata
                    && later.contains(&result.stage)
                    && self.is_newest(result));
            if kept {
                // Nothing is dispatched under the token of a PROCESSED file.
                let taken = result.taken_over(file, generation, token, self.now);
                self.results.push(taken);
            }
        }
        self.raise_token(file)?;
        self.mark_bytes_moved(file);
        let row = self.row_mut(file)?;
        row.generation = generation;
        row.stage = from;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        row.outcome = None;
        if from == Stage::Upload {
            row.etag = Some(KEPT.to_owned());
        }
        if let Some(batched) = self.batches.get_mut(&(file.tenant, file.batch)) {
            let row = &mut batched.row;
            row.facts.counts = row
                .facts
                .counts
                .outcome_moved(outcome, None)
                .map_err(super::group::drifted)?;
            row.bytes_processed = row.bytes_processed.saturating_sub(size);
        }
        self.step(file, FileEvent::Reprocess)?;
        self.make_ready(file, self.now)?;
        Ok(Ok(()))
    }

    pub(super) async fn set_pause(&mut self, index: usize, act: &SetPause) -> Answered {
        let key = (act.tenant, act.batch);
        if let Some(answered) = self.answered_before(key, &act.request) {
            return Ok(answered);
        }
        let now = self.now;
        let Some(batched) = self.batches.get_mut(&key) else {
            return Ok(Err(Refusal::not_found(&names::batch_name(act.batch))));
        };
        if batched.row.facts.cancel_requested {
            return Ok(Err(cancelled(act.batch)));
        }
        let goes_on = act.pause.is_none() && batched.row.pause.is_some();
        batched.row.pause = act.pause.as_ref().map(|pause| Pause {
            by: PAUSED_BY_BATCH,
            who: pause.who.clone(),
            note: pause.note.clone(),
            at: now,
        });
        batched.pause_moved = true;
        batched.touched = true;
        if goes_on {
            self.let_go_on(key).await?;
        }
        self.answer_with_batch(index, key, &act.request);
        Ok(Ok(Answer::Nothing))
    }

    /// Tells the dispatcher of everything that waits in a batch which was passed over until now.
    pub(super) async fn let_go_on(&mut self, key: BatchKey) -> Result<(), GroupError> {
        for stage in Stage::ALL {
            let earliest = work::earliest_ready(&self.session, stage, key.0, key.1).await?;
            if let Some(at) = earliest {
                self.waits.push((stage, key, at));
            }
        }
        Ok(())
    }

    pub(super) async fn cancel_batch(&mut self, index: usize, act: &CancelBatch) -> Answered {
        let key = (act.tenant, act.batch);
        if let Some(answered) = self.answered_before(key, &act.request) {
            return Ok(answered);
        }
        let Some(batched) = self.batches.get_mut(&key) else {
            return Ok(Err(Refusal::not_found(&names::batch_name(act.batch))));
        };
        let facts = &mut batched.row.facts;
        if batched.row.state.is_ended() && !facts.cancel_requested {
            let message = format!(
                "{} has ended as {}: there is nothing to cancel",
                names::batch_name(act.batch),
                batched.row.state
            );
            return Ok(Err(Refusal::failed_precondition("BATCH_ENDED", message)));
        }
        if !facts.cancel_requested {
            facts.cancel_requested = true;
            batched.completed = !facts.manifest_complete;
            facts.manifest_complete = true;
        }
        batched.touched = true;
        self.answer_with_batch(index, key, &act.request);
        Ok(Ok(Answer::Nothing))
    }

    /// Cancels a slice of what is left of a cancelled batch (protocol 10.2).
    pub(super) async fn cancel_files(
        &mut self,
        tenant: TenantId,
        batch: BatchId,
        from: u32,
    ) -> Result<Answer, GroupError> {
        let key = (tenant, batch);
        if !self.is_cancelled(key) {
            return Ok(Answer::GoesOnAt(None));
        }
        let rows = work::lock_range(&self.session, tenant, batch, from, SLICE).await?;
        let next = rows
            .last()
            .filter(|_| rows.len() == SLICE as usize)
            .map(|row| row.file.ordinal.saturating_add(1));
        for row in rows {
            let file = row.file;
            // What this group has moved is newer than what was read.
            if !self.files.contains_key(&file) {
                self.take_in(row);
            }
            let _ = self.cancel(file)?;
        }
        Ok(Answer::GoesOnAt(next))
    }

    pub(super) async fn update_batch(&mut self, index: usize, act: &UpdateBatch) -> Answered {
        let key = (act.tenant, act.batch);
        if let Some(answered) = self.answered_before(key, &act.request) {
            return Ok(answered);
        }
        let Some(batched) = self.batches.get_mut(&key) else {
            return Ok(Err(Refusal::not_found(&names::batch_name(act.batch))));
        };
        if let Some(priority) = act.priority {
            batched.row.priority = priority;
            batched.priority_moved = true;
        }
        batched.touched = true;
        batched.renamed = Some(Renamed {
            name: act.name.clone(),
            priority: act.priority,
            metadata: act.metadata.clone(),
        });
        self.answer_with_batch(index, key, &act.request);
        Ok(Ok(Answer::Nothing))
    }

    /// Completes an OPEN batch that nobody touched for `batch_idle`, and says that the system did.
    pub(super) fn complete_idle(&mut self, key: BatchKey) -> Answer {
        let before = self.now.minus(self.state.settings.batch_idle);
        let Some(batched) = self.batches.get_mut(&key) else {
            return Answer::Nothing;
        };
        let row = &mut batched.row;
        if row.facts.manifest_complete || row.touched_at > before {
            return Answer::Nothing;
        }
        row.facts.manifest_complete = true;
        row.completed_by_system = true;
        batched.completed = true;
        batched.touched = true;
        if row.starts_when_completed {
            self.waits.push((Stage::Upload, key, self.now));
        }
        Answer::Nothing
    }

    fn answered_before(
        &self,
        key: BatchKey,
        request: &RequestKey,
    ) -> Option<Result<Answer, Refusal>> {
        let first = self.repeated(key.0, request)?;
        Some(first.and_then(|answer| decode_batch(&answer)))
    }

    fn answer_with_batch(&mut self, act: usize, key: BatchKey, request: &RequestKey) {
        self.batch_answers.push(BatchAnswer {
            act,
            key,
            request: request.clone(),
        });
    }
}
