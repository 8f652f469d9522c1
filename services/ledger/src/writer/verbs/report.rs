//! Records what became of files at a stage, each outcome at most once (protocol 6.2, 6.3, 7.1).

use std::time::Duration;

use caudal_domain::{
    FileEvent, FileRef, Outcome, Reason, Recorded, RetryPolicy, Stage, StageVersion, Token, Warning,
};

use uuid::Uuid;

use crate::memory::costs::Cost;
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
    /// Length of the vectors, where there are some.
    pub(crate) dimensions: Option<u32>,
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

/// What one process says of one file.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) file: FileRef,
    pub(crate) token: Token,
    pub(crate) outcome: StageOutcome,
    /// Slot time of its handler; none where it was not measured.
    pub(crate) took: Option<Cost>,
}

/// Reports of one process.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) stage: Stage,
    pub(crate) version: StageVersion,
    /// Which process it is, and how many handlers it runs at once; none where it does not say.
    pub(crate) slots: Option<(Uuid, u32)>,
    pub(crate) reported: Vec<Reported>,
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
        self.reported.len()
    }

    fn needs(&self) -> Needs {
        let reported = self.reported.iter();
        let content = |one: &Reported| Some((one.file.tenant, one.outcome.as_ref().ok()?.content?));
        Needs {
            version: Some(self.version.clone()),
            contents: reported.clone().filter_map(content).collect(),
            reported: reported
                .clone()
                .map(|one| (one.file, one.token, trace_of(&one.outcome)))
                .collect(),
            ..Needs::of_files(reported.map(|one| one.file).collect())
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Vec<bool>>, Stop> {
        let version = group.version_number(&self.version)?;
        let loaded = group.loaded.clone();
        let mut verdicts = Vec::with_capacity(self.reported.len());
        if let Some((process, slots)) = self.slots {
            let dispatcher = &mut group.memory.dispatcher;
            dispatcher.hear(self.stage, process, slots, group.now);
        }
        for one in &self.reported {
            let Reported {
                file,
                token,
                outcome,
                took,
            } = one;
            let row = group.rows.current(*file, *token);
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
            if let Some(took) = took {
                group.settle_cost(*file, *token, *took)?;
            }
            let dimensions = outcome.as_ref().ok().and_then(|good| good.dimensions);
            if dimensions.is_some_and(|found| !group.are_of_version(version, found)) {
                group.memory.metrics.other_dimensions.inc();
                group.give_back(*file)?;
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
    /// Whether vectors of this length are such as the stage version makes: the first that are recorded of it say how long all
    /// are. Vectors of another length cannot be compared with them.
    fn are_of_version(&mut self, version: u32, found: u32) -> bool {
        let mut in_group = self.effects.dimensions.iter();
        let in_group = in_group.find(|(number, _)| *number == version);
        let first = in_group.map(|(_, first)| *first);
        let first = first.or_else(|| self.memory.dimensions.get(&version).copied());
        if first.is_none() {
            self.effects.dimensions.push((version, found));
        }
        first.is_none_or(|first| first == found)
    }

    /// What the file was expected to take is settled with what it took.
    fn settle_cost(&mut self, file: FileRef, token: Token, took: Cost) -> Result<(), GroupError> {
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        let (stage, like) = (row.stage, row.likeness());
        let Some(expected) = self.memory.dispatcher.took(file, token, like, took) else {
            return Ok(());
        };
        let metrics = &self.memory.metrics;
        for (counter, time) in [
            (&metrics.expected_time, expected),
            (&metrics.taken_time, took),
            (&metrics.missed_time, took.saturating_sub(expected)),
        ] {
            counter.with([stage.name()]).inc_by(time.unsigned_abs());
        }
        Ok(())
    }

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
        if !planted!(BudgetsKeptAtHop) {
            row.fails = 0;
            row.kills = 0;
        }
        row.reason = None;
        let Some(next) = next else {
            row.outcome = good.outcome;
            return self.step(file, FileEvent::StageRecorded { last: true });
        };
        if cancelled && !planted!(CancelledGoesOn) {
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
        let permanent = !bad.reason.retryable() && !planted!(PermanentRetried);
        if permanent || (policy.exhausted(counted) && !planted!(FailuresUnlimited)) {
            return self.end_attempt(attempt, bad.reason);
        }
        let asked = bad.retry_after.filter(|_| !planted!(ProviderNotHeard));
        let delay = policy.delay_after(fails, self.memory.jitter(), asked);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchState, FileState};

    use super::*;
    use crate::writer::trial::{SIZE, Trial, bad, content_of, good, version};
    use crate::writer::verbs::release::Release;
    use crate::writer::verbs::renew::Renew;
    use crate::writer::verbs::repair::{KillCause, Repair};

    // Protocol 6.2, 6.3: RECORDED when the file has a result under this token, because the answer had been lost.
    #[test]
    fn a_good_report_is_recorded_once_and_the_file_goes_on() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        trial.fail(file, Reason::StageTimeout);
        trial.pass(Duration::from_secs(600));
        trial.tick();
        trial.lease(&[file]);
        let before = trial.row(file);
        assert_eq!(before.fails, 1);
        let report = trial.reporting(file, Ok(good(Stage::Upload, content_of(file))));
        assert_eq!(trial.ask(report.clone()).unwrap(), [true]);
        let row = trial.row(file);
        assert_eq!(row.token, before.token.next());
        assert_eq!((row.fails, row.reason), (0, None));
        assert_eq!(
            (row.state, row.stage),
            (FileState::Processing, Stage::ExtractText)
        );
        assert_eq!(row.dispatched_at, Some(trial.now()));
        assert_eq!(
            (
                trial.places(Stage::Upload),
                trial.places(Stage::ExtractText)
            ),
            (0, 1)
        );
        assert_eq!(trial.results(file)[0].token, before.token);
        let recorded = trial.everything();
        assert_eq!(trial.ask(report).unwrap(), [true]);
        assert_eq!(trial.everything(), recorded);
    }

    // Protocol 6.3: an attempt is not enough for a good report, for a kill leaves one under the same token.
    #[test]
    fn a_report_that_comes_late_is_superseded_also_where_its_token_left_an_attempt() {
        let mut trial = Trial::new();
        let files = trial.processing(2);
        let late = |file| trial.reporting(file, Ok(good(Stage::Upload, content_of(file))));
        let reports: Vec<Report> = files.iter().copied().map(late).collect();
        let held = trial.held(&files);
        let begun = vec![held[0]];
        let renew = Renew {
            held: begun.clone(),
            begun,
        };
        trial.ask(renew).unwrap();
        trial.pass(trial.memory.settings.lease + Duration::from_micros(1));
        let kill = vec![(files[0], held[0].1, KillCause::LeaseExpired)];
        trial
            .ask(Repair {
                kill,
                ..Repair::default()
            })
            .unwrap();
        trial
            .ask(Release {
                held: vec![held[1]],
            })
            .unwrap();
        assert_eq!(trial.attempts(files[0])[0].token, held[0].1);
        for report in reports {
            let before = trial.everything();
            assert_eq!(trial.ask(report).unwrap(), [false]);
            assert_eq!(trial.everything(), before);
        }
    }

    // Protocol 7.1: RETRYING until its backoff ends, FAILED with a dead letter when the stage's budget is used up.
    #[test]
    fn a_failure_is_charged_until_the_budget_of_the_stage_is_used_up() {
        let mut trial = Trial::new();
        let file = trial.queued(1)[0];
        let most = RetryPolicy::for_stage(Stage::Upload).max_fails();
        for fails in 1..most {
            let token = trial.row(file).token;
            trial.fail(file, Reason::StageTimeout);
            let row = trial.row(file);
            assert_eq!((row.state, row.fails), (FileState::Retrying, fails));
            assert_eq!((row.token, row.dispatched_at), (token.next(), None));
            assert!(row.ready_at >= Some(trial.now().plus(Duration::from_secs(5))));
            trial.pass(Duration::from_secs(600));
            trial.tick();
        }
        trial.fail(file, Reason::StageTimeout);
        let row = trial.row(file);
        assert_eq!((row.state, row.fails), (FileState::Failed, most));
        assert_eq!(trial.attempts(file).len(), most as usize);
        assert_eq!(trial.letter(file), Some(Reason::StageTimeout));
        assert_eq!(trial.places(Stage::Upload), 0);
    }

    // Protocol 7.1, 6.3: when the reason is permanent; a repeat finds its attempt.
    #[test]
    fn a_permanent_failure_ends_a_file_at_once_and_a_repeat_charges_nothing() {
        let mut trial = Trial::new();
        let file = trial.processing(1)[0];
        let report = trial.reporting(file, Err(bad(Reason::CorruptDocument)));
        assert_eq!(trial.ask(report.clone()).unwrap(), [true]);
        assert_eq!(trial.row(file).state, FileState::Failed);
        assert_eq!(trial.letter(file), Some(Reason::CorruptDocument));
        let before = trial.everything();
        assert_eq!(trial.ask(report).unwrap(), [true]);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 6.2: CANCELLED instead of the hop when stages remain.
    #[test]
    fn in_a_batch_that_is_being_cancelled_a_good_report_ends_the_file() {
        let mut trial = Trial::new();
        let file = trial.processing(1)[0];
        trial.cancel(file.batch_ref());
        let report = trial.reporting(file, Ok(good(Stage::Upload, content_of(file))));
        assert_eq!(trial.ask(report).unwrap(), [true]);
        let row = trial.row(file);
        assert_eq!((row.state, row.dispatched_at), (FileState::Cancelled, None));
        assert_eq!(trial.results(file).len(), 1);
    }

    // Protocol 6.2, 14.1: counters move in the same transaction, once.
    #[test]
    fn the_last_good_report_ends_the_file_and_with_the_last_file_its_batch() {
        let mut trial = Trial::new();
        let file = trial.processed();
        let batch = file.batch_ref();
        trial.complete(batch, false);
        let row = trial.progress(batch);
        let counts = row.facts.counts;
        assert_eq!((counts.processed, counts.complete), (1, 1));
        assert_eq!(
            (row.bytes_processed, row.state),
            (SIZE, BatchState::Succeeded)
        );
    }

    // Protocol 13.3: at the report of the upload stage.
    #[test]
    fn content_that_the_tenant_holds_goes_on_behind_what_was_made_of_it() {
        let mut trial = Trial::new();
        let held = trial.processed();
        let file = trial.processing(1)[0];
        let report = trial.reporting(file, Ok(good(Stage::Upload, content_of(held))));
        assert_eq!(trial.ask(report).unwrap(), [true]);
        assert_eq!(trial.row(file).stage, Stage::Metadata);
        let taken = trial
            .results(file)
            .into_iter()
            .filter_map(|result| result.taken_from);
        let makers: Vec<FileRef> = taken.map(|maker| maker.file).collect();
        assert_eq!(makers, [held, held]);
    }

    // Protocol 13.6: the first vectors of a stage version say how long all of them are, also when a COMMIT got no answer.
    #[test]
    fn vectors_of_another_length_than_the_first_of_their_version_are_not_recorded_and_charge_nothing()
     {
        let mut trial = Trial::new();
        let files = trial.processing(3);
        let with = |trial: &Trial, file: FileRef, dimensions: u32| {
            let good = GoodResult {
                dimensions: Some(dimensions),
                ..good(Stage::Upload, content_of(file))
            };
            trial.reporting(file, Ok(good))
        };
        let first = with(&trial, files[0], 384);
        trial.lose_answer(first);
        trial.tick();
        assert_eq!(
            trial.memory.stages.dimensions(&version(Stage::Upload)),
            Some(384)
        );
        let other = with(&trial, files[1], 768);
        assert_eq!(trial.ask(other).unwrap(), [false]);
        let row = trial.row(files[1]);
        assert_eq!((row.fails, row.kills), (0, 0));
        assert!(trial.results(files[1]).is_empty());
        let same = with(&trial, files[2], 384);
        assert_eq!(trial.ask(same).unwrap(), [true]);
        let kept = trial.read(|tables| tables.dimensions.values().copied().collect::<Vec<_>>());
        assert_eq!(kept, [384]);
    }
}
