//! Records what became of files at a stage, each outcome at most once (protocol 6.2, 6.3, 7.1).

use std::time::Duration;

use caudal_domain::{
    FileEvent, FileRef, Outcome, Reason, Recorded, RetryPolicy, Stage, StageVersion, Token, Warning,
};

use crate::store::attempts::AttemptRow;
use crate::store::results::{ResultRow, StoredArtifact, Trace, Used};
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::loaded::Loaded;
use crate::writer::needs::Needs;
use crate::writer::reuse::Onward;
use crate::writer::verb::{Reply, Verb};

/// A good result, as it is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct GoodResult {
    pub(crate) artifacts: Vec<StoredArtifact>,
    pub(crate) nonce: String,
    pub(crate) facts: String,
    pub(crate) content: Option<[u8; 32]>,
    pub(crate) media_type: Option<String>,
    pub(crate) has_text: bool,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) used: Used,
    pub(crate) outcome: Option<Outcome>,
}

/// A failure, as it is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct BadResult {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) trace_id: String,
    pub(crate) retry_after: Option<Duration>,
}

/// Outcome of one file at one stage.
pub(crate) type StageOutcome = Result<GoodResult, BadResult>;

/// Reports of one process.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) stage: Stage,
    pub(crate) version: StageVersion,
    pub(crate) outcomes: Vec<(FileRef, Token, StageOutcome)>,
}

fn trace_of(outcome: &StageOutcome) -> Trace {
    if outcome.is_ok() {
        Trace::Result
    } else {
        Trace::Attempt
    }
}

impl Verb for Report {
    /// By position: whether it is recorded, now or before; else it is superseded.
    type Answer = Vec<bool>;
    const NAME: &'static str = "Report";

    fn rows(&self) -> usize {
        self.outcomes.len()
    }

    fn needs(&self) -> Needs {
        let outcomes = self.outcomes.iter();
        let content = |(file, _, outcome): &(FileRef, Token, StageOutcome)| {
            Some((file.tenant, outcome.as_ref().ok()?.content?))
        };
        Needs {
            version: Some(self.version.clone()),
            contents: outcomes.clone().filter_map(content).collect(),
            reported: outcomes
                .clone()
                .map(|(file, token, outcome)| (*file, *token, trace_of(outcome)))
                .collect(),
            ..Needs::of_files(outcomes.map(|(file, ..)| *file).collect())
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Vec<bool>>, Stop> {
        let version = group.version_number(&self.version)?;
        let loaded = group.loaded.clone();
        let mut verdicts = Vec::with_capacity(self.outcomes.len());
        for (file, token, outcome) in &self.outcomes {
            let row = group.current(*file, *token);
            let any = group.rows.file(*file);
            let row = row.or_else(|| any.filter(|_| planted!(StaleReportTaken)));
            if !row.is_some_and(|row| row.stage == self.stage && row.dispatched_at.is_some()) {
                group.memory.metrics.late_reports.inc();
                verdicts.push(group.was_recorded(&loaded, trace_of(outcome), *file, *token));
                continue;
            }
            let last = self.stage == Stage::Metadata;
            if !group.allows(*file, FileEvent::StageRecorded { last }) {
                verdicts.push(false);
                continue;
            }
            match outcome {
                Ok(good) => group.record(*file, version, self.stage, good, &loaded)?,
                Err(bad) => group.fail(*file, bad)?,
            }
            verdicts.push(true);
        }
        Ok(Reply::Now(verdicts))
    }
}

impl Group<'_> {
    /// Tells a repeated report from a late one (protocol 6.3). A good one was recorded only where its token made a
    /// result: a kill of the same token leaves an attempt too, and a worker that believed itself recorded would free
    /// bytes that are still needed.
    fn was_recorded(&self, loaded: &Loaded, trace: Trace, file: FileRef, token: Token) -> bool {
        // What this group records is not in the database yet.
        let now = match trace {
            Trace::Result => {
                let mut results = self.effects.results.iter();
                results.any(|row| (row.file, row.token) == (file, token))
            }
            Trace::Attempt => {
                let mut attempts = self.effects.attempts.iter();
                attempts.any(|row| (row.file, row.token) == (file, token))
            }
        };
        now || loaded.recorded.contains(&(trace, file, token)) || planted!(LateReportRecorded)
    }

    fn record(
        &mut self,
        file: FileRef,
        version: u32,
        stage: Stage,
        good: &GoodResult,
        loaded: &Loaded,
    ) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (generation, token) = (row.generation, row.token);
        let batch = self.rows.batch(file.batch_ref()).ok_or(GroupError::Stale)?;
        let (asked, cancelled) = (batch.stages, batch.facts.cancel_requested);
        self.effects.results.push(ResultRow {
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
        let recorded = Recorded {
            stage,
            media_type: good.media_type.as_deref(),
            has_text: good.has_text,
        };
        let has = loaded.results.get(&(file, generation));
        let onward = Onward {
            file,
            generation,
            token,
            asked,
            has: has.map_or(&[], Vec::as_slice),
            offered: self.offered(loaded, good.content.map(|content| (file.tenant, content))),
        };
        let next = self.go_on(recorded, &onward);
        self.raise_token(file)?;
        let row = self.rows.file_mut(file)?;
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
        self.rows.show_hop(file, self.now)?;
        self.make_ready(file, self.now)
    }

    /// Charges a failure to the file: RETRYING after a backoff, or FAILED with a dead letter.
    fn fail(&mut self, file: FileRef, bad: &BadResult) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (stage, fails) = (row.stage, row.fails + 1);
        let policy = RetryPolicy::for_stage(stage);
        let attempt = AttemptRow {
            file,
            token: row.token,
            stage,
            reason: bad.reason,
            detail: bad.detail.clone(),
            trace_id: bad.trace_id.clone(),
            ended_at: self.now,
        };
        self.raise_token(file)?;
        if !planted!(FailuresNotCounted) {
            self.rows.file_mut(file)?.fails = fails;
        }
        let counted = self.rows.file(file).map_or(fails, |row| row.fails);
        if !bad.reason.retryable() || policy.exhausted(counted) {
            return self.end_attempt(attempt, bad.reason);
        }
        let delay = policy.delay_after(fails, self.memory.jitter(), bad.retry_after);
        self.try_again(attempt, delay)
    }

    /// An attempt failed, and the file is tried again after a delay.
    pub(super) fn try_again(
        &mut self,
        attempt: AttemptRow,
        delay: Duration,
    ) -> Result<(), GroupError> {
        let file = attempt.file;
        self.rows.file_mut(file)?.reason = Some(attempt.reason);
        self.effects.attempts.push(attempt);
        self.step(file, FileEvent::Retry)?;
        self.make_ready(file, self.now.plus(delay))
    }

    /// The last attempt failed: the file becomes FAILED.
    pub(super) fn end_attempt(
        &mut self,
        attempt: AttemptRow,
        reason: Reason,
    ) -> Result<(), GroupError> {
        self.effects.attempts.push(attempt.clone());
        self.fail_with_letter(attempt, reason, FileEvent::Fail)
    }
}
