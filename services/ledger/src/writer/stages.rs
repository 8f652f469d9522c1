//! What stage processes and the reconciler ask: lease, renew, release, report, repair (protocol 5 to 8).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{
    FileEvent, FileRef, FileState, Generation, MAX_KILLS, Reason, Recorded, RetryPolicy, Stage,
    StageVersion, Token,
};

use super::acts::{
    Answer, BadResult, GoodResult, Granted, Held, KillCause, LookedUp, Repairs, Report,
};
use super::group::{Group, GroupError};
use super::reuse::{Onward, TenantContent};
use crate::store::results::{self, AttemptRow, ResultRow, Trace};
use crate::store::{changes, work};

/// Results that the files of a report can take over.
struct TakenOver {
    of_generation: HashMap<FileRef, Vec<ResultRow>>,
    of_content: HashMap<TenantContent, Vec<ResultRow>>,
}

impl Group<'_> {
    /// Grants what is current; a QUEUED file becomes PROCESSING, a later hop writes nothing (protocol 5.1).
    pub(super) async fn lease(
        &mut self,
        version: &StageVersion,
        held: &Held,
    ) -> Result<Answer, GroupError> {
        let stage = version.stage;
        self.see_version(version).await?;
        let mut answers = Vec::with_capacity(held.len());
        for (file, token) in held {
            let granted = self.current(*file, *token).is_some_and(|row| {
                row.stage == stage && matches!(row.state, FileState::Queued | FileState::Processing)
            });
            if !granted {
                answers.push(None);
                continue;
            }
            if self
                .current(*file, *token)
                .is_some_and(|row| row.state == FileState::Queued)
            {
                self.step(*file, FileEvent::Leased)?;
            }
            answers.push(Some(self.granted(self.row(*file)?)));
        }
        Ok(Answer::Leased(answers))
    }

    /// What a stage is told of a row that is out to it.
    pub(super) fn granted(&self, row: &work::WorkRow) -> Arc<Granted> {
        let batch = self.batches.get(&(row.file.tenant, row.file.batch));
        Arc::new(Granted {
            row: row.clone(),
            stages: batch.map(|batched| batched.row.stages).unwrap_or_default(),
        })
    }

    fn row(&self, file: FileRef) -> Result<&work::WorkRow, GroupError> {
        self.files
            .get(&file)
            .map(|worked| &worked.row)
            .ok_or(GroupError::Stale)
    }

    /// Keeps what is current alive (protocol 5.2). The token does not rise: who may act does not change.
    pub(super) fn renew(&mut self, held: &Held) -> Answer {
        let until = self.now.plus(self.state.settings.lease);
        let mut answers = Vec::with_capacity(held.len());
        for (file, token) in held {
            let kept = self
                .current(*file, *token)
                .is_some_and(|row| row.dispatched_at.is_some());
            if kept && let Ok(row) = self.row_mut(*file) {
                row.lease_until = Some(until);
            }
            answers.push(kept);
        }
        Answer::Kept(answers)
    }

    /// Takes files back from a process that drains; nothing is charged (protocol 7.4). One that was never leased keeps
    /// its place and goes out again.
    pub(super) fn release(&mut self, held: &Held) -> Result<Answer, GroupError> {
        for (file, token) in held {
            let Some(row) = self.current(*file, *token) else {
                continue;
            };
            match row.state {
                FileState::Queued => self.send_again(*file)?,
                FileState::Processing => {
                    self.raise_token(*file)?;
                    self.make_ready(*file, self.now)?;
                }
                _ => {}
            }
        }
        Ok(Answer::Nothing)
    }

    /// Records outcomes, each at most once (protocol 6.2, 6.3, 7.1).
    pub(super) async fn report(&mut self, report: &Report) -> Result<Answer, GroupError> {
        let mut verdicts = vec![true; report.outcomes.len()];
        let mut not_current = Vec::new();
        let version = self.version_number(&report.version).await?;
        let taken = self.what_can_be_taken_over(report).await?;
        for (position, (file, token, outcome)) in report.outcomes.iter().enumerate() {
            let at_work = self
                .current(*file, *token)
                .is_some_and(|row| row.stage == report.stage && row.dispatched_at.is_some());
            if !at_work {
                not_current.push(position);
                continue;
            }
            let event = FileEvent::StageRecorded {
                last: report.stage == Stage::Metadata,
            };
            if !self.allows(*file, event) {
                verdicts[position] = false;
                continue;
            }
            match outcome {
                Ok(good) => self.record(*file, *token, version, report.stage, good, &taken)?,
                Err(bad) => self.fail(*file, *token, bad)?,
            }
        }
        self.judge_late(report, &not_current, &mut verdicts).await?;
        Ok(Answer::Recorded(verdicts))
    }

    /// Tells a repeated report from a late one (protocol 6.3). A good one was recorded only where its token made a
    /// result: a kill of the same token leaves an attempt too, and a worker that believed itself recorded would free
    /// bytes that are still needed.
    async fn judge_late(
        &mut self,
        report: &Report,
        late: &[usize],
        verdicts: &mut [bool],
    ) -> Result<(), GroupError> {
        for trace in [Trace::Result, Trace::Attempt] {
            let is_of_trace = |position: &&usize| {
                report.outcomes[**position].2.is_ok() == (trace == Trace::Result)
            };
            let positions: Vec<usize> = late.iter().filter(is_of_trace).copied().collect();
            let pair =
                |position: &usize| (report.outcomes[*position].0, report.outcomes[*position].1);
            let pairs: Vec<(FileRef, Token)> = positions.iter().map(pair).collect();
            let mut recorded = results::already_recorded(&self.session, trace, &pairs).await?;
            // What this group records is not in the database yet.
            match trace {
                Trace::Result => {
                    recorded.extend(self.results.iter().map(|row| (row.file, row.token)));
                }
                Trace::Attempt => {
                    recorded.extend(self.attempts.iter().map(|row| (row.file, row.token)));
                }
            }
            for position in positions {
                verdicts[position] = recorded.contains(&pair(&position));
                self.state.metrics.late_reports.inc();
            }
        }
        Ok(())
    }

    /// Notes the version that a live process runs: results are taken over from the newest one only.
    async fn see_version(&mut self, version: &StageVersion) -> Result<(), GroupError> {
        let number = self.version_number(version).await?;
        let seen = self
            .newest_versions
            .get(&version.stage)
            .or_else(|| self.state.newest_versions.get(&version.stage));
        if seen.is_none_or(|seen| *seen < number) {
            results::set_newest_version(&self.session, version.stage, number).await?;
            self.newest_versions.insert(version.stage, number);
        }
        Ok(())
    }

    async fn version_number(&mut self, version: &StageVersion) -> Result<u32, GroupError> {
        if let Some(number) = self.state.versions.get(version) {
            return Ok(*number);
        }
        if let Some((number, _)) = self.new_versions.iter().find(|(_, known)| known == version) {
            return Ok(*number);
        }
        // Read, not remembered: a group whose COMMIT got no answer may have recorded this version, or another.
        let recorded = results::versions(&self.session).await?;
        if let Some((number, _)) = recorded.iter().find(|(_, known)| known == version) {
            self.new_versions.push((*number, version.clone()));
            return Ok(*number);
        }
        let highest = recorded.iter().map(|(number, _)| *number).max();
        let number = highest.map_or(1, |highest| highest + 1);
        results::insert_version(&self.session, number, version, self.now).await?;
        self.new_versions.push((number, version.clone()));
        Ok(number)
    }

    /// What files of this report need not work out again: results that a reprocess brought into their generation, and
    /// those of other files with the content that the upload stage found.
    async fn what_can_be_taken_over(&self, report: &Report) -> Result<TakenOver, GroupError> {
        let good = report.outcomes.iter().filter_map(|(file, token, outcome)| {
            let row = self.current(*file, *token)?;
            outcome.as_ref().ok().map(|good| (row, good))
        });
        let mut again = Vec::new();
        let mut contents = BTreeSet::new();
        for (row, good) in good {
            if row.generation > Generation::FIRST {
                again.push((row.file, row.generation));
            }
            if let Some(content) = good.content {
                contents.insert((row.file.tenant, content));
            }
        }
        Ok(TakenOver {
            of_generation: self.results_of(&again).await?,
            of_content: self.lenders(&contents).await?,
        })
    }

    fn record(
        &mut self,
        file: FileRef,
        token: Token,
        version: u32,
        stage: Stage,
        good: &GoodResult,
        taken: &TakenOver,
    ) -> Result<(), GroupError> {
        let key = (file.tenant, file.batch);
        let asked = self
            .batches
            .get(&key)
            .map(|batched| batched.row.stages)
            .unwrap_or_default();
        let cancelled = self
            .batches
            .get(&key)
            .is_some_and(|batched| batched.row.facts.cancel_requested);
        let recorded = Recorded {
            stage,
            media_type: good.media_type.as_deref(),
            has_text: good.has_text,
        };
        let generation = self.row(file)?.generation;
        self.results.push(ResultRow {
            file,
            generation,
            stage,
            version: Some(version),
            content: good.content,
            media_type: good.media_type.clone(),
            token,
            nonce: good.nonce.clone(),
            artifacts: good.artifacts.clone(),
            facts: good.facts.clone(),
            warnings: good.warnings.clone(),
            used: good.used,
            skipped: false,
            has_text: good.has_text,
            taken_from: None,
            at: self.now,
        });
        let lender = good.content.map(|content| (file.tenant, content));
        let next = self.go_on(
            recorded,
            &Onward {
                file,
                generation,
                token,
                asked,
                has: taken.of_generation.get(&file).map_or(&[], Vec::as_slice),
                lent: lender
                    .and_then(|content| taken.of_content.get(&content))
                    .map_or(&[], Vec::as_slice),
            },
        );
        self.raise_token(file)?;
        let row = self.row_mut(file)?;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        let Some(next) = next else {
            row.outcome = good.outcome;
            return self.step(file, FileEvent::StageRecorded { last: true });
        };
        if cancelled {
            return self.step(file, FileEvent::Cancel);
        }
        row.stage = next;
        self.record_hop(file)?;
        self.make_ready(file, self.now)
    }

    /// Charges a failure to the file: RETRYING after a backoff, or FAILED with a dead letter.
    fn fail(&mut self, file: FileRef, token: Token, bad: &BadResult) -> Result<(), GroupError> {
        let row = self.row(file)?;
        let (stage, fails) = (row.stage, row.fails + 1);
        let policy = RetryPolicy::for_stage(stage);
        let attempt = AttemptRow {
            file,
            token,
            stage,
            reason: bad.reason,
            detail: bad.detail.clone(),
            trace_id: bad.trace_id.clone(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        let row = self.row_mut(file)?;
        row.fails = fails;
        if !bad.reason.retryable() || policy.exhausted(fails) {
            return self.bury(attempt, bad.reason);
        }
        let delay = policy.delay_after(fails, self.state.jitter(), bad.retry_after);
        self.retry_after(attempt, delay)
    }

    fn retry_after(&mut self, attempt: AttemptRow, delay: Duration) -> Result<(), GroupError> {
        let file = attempt.file;
        self.row_mut(file)?.reason = Some(attempt.reason);
        self.attempts.push(attempt);
        self.step(file, FileEvent::Retry)?;
        self.make_ready(file, self.now.plus(delay))
    }

    fn bury(&mut self, attempt: AttemptRow, reason: Reason) -> Result<(), GroupError> {
        let file = attempt.file;
        self.row_mut(file)?.reason = Some(reason);
        self.dead_letters.push(AttemptRow {
            reason,
            ..attempt.clone()
        });
        self.attempts.push(attempt);
        self.step(file, FileEvent::Fail)
    }

    /// Does what the reconciler found, each item only while its token is still the one that was looked at.
    pub(super) fn repair(&mut self, repairs: &Repairs) -> Result<Answer, GroupError> {
        for (file, token) in &repairs.redispatch {
            let lost = self
                .current(*file, *token)
                .is_some_and(|row| row.dispatched_at.is_some() && row.lease_until.is_none());
            if lost {
                self.send_again(*file)?;
                self.state.metrics.redispatches.inc();
            }
        }
        for (file, token, cause) in &repairs.kill {
            let now = self.now;
            let dead = self.current(*file, *token).is_some_and(|row| {
                row.state == FileState::Processing
                    && row.dispatched_at.is_some()
                    && match cause {
                        KillCause::LeaseExpired => row.lease_until.is_some_and(|until| until < now),
                        KillCause::NeverRenewed => row.lease_until.is_none(),
                    }
            });
            if dead {
                self.kill(*file, *token)?;
                self.state.metrics.kills.inc();
            }
        }
        Ok(Answer::Nothing)
    }

    /// Charges the loss of a worker: a budget of its own, apart from failures (protocol 7.3).
    fn kill(&mut self, file: FileRef, token: Token) -> Result<(), GroupError> {
        let row = self.row(file)?;
        let (stage, kills) = (row.stage, row.kills + 1);
        let attempt = AttemptRow {
            file,
            token,
            stage,
            reason: Reason::WorkerLost,
            detail: format!("the worker was lost while it held this file, for the {kills}. time"),
            trace_id: String::new(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        self.row_mut(file)?.kills = kills;
        if kills >= MAX_KILLS {
            return self.bury(attempt, Reason::TooManyKills);
        }
        let delay = RetryPolicy::for_stage(stage).delay(kills, self.state.jitter());
        self.retry_after(attempt, delay)
    }

    /// Reads rows while no dispatch is in flight, and frees the places of pairs that moved on (protocol 2.3, 8.1).
    pub(super) async fn look_up(&mut self, held: &Held) -> Result<Answer, GroupError> {
        let mut files: Vec<FileRef> = held.iter().map(|(file, _)| *file).collect();
        files.sort_unstable();
        files.dedup();
        let rows = work::read(&self.session, &files).await?;
        let current: HashMap<FileRef, Token> = rows
            .iter()
            .filter(|row| row.dispatched_at.is_some())
            .map(|row| (row.file, row.token))
            .collect();
        for (file, token) in held {
            let moved_on_in_this_group = self
                .files
                .get(file)
                .is_some_and(|worked| worked.row.token != *token);
            if current.get(file) != Some(token) && !moved_on_in_this_group {
                self.state.dispatcher.leave(*file, *token);
                self.state.dispatcher.forget(*file);
            }
        }
        let oldest_outbox = changes::oldest_outbox(&self.session).await?;
        Ok(Answer::Looked(LookedUp {
            now: self.now,
            rows,
            oldest_outbox,
        }))
    }
}
