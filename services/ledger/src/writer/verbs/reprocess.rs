//! Lets a PROCESSED file go through the route again from a stage on (protocol 11.3).

use caudal_domain::{FileEvent, FileRef, FileState, MediaKind, Stage, route};

use super::apply_slice::FileRefused;
use crate::store::results::ResultRow;
use crate::store::work::AT_FINAL_KEY;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

impl Group<'_> {
    /// A new generation that begins with the results of the stages before `from`, by reference; the old final record
    /// serves until the new one is written. `force`: later stages work again even where their version is the newest.
    pub(super) fn reprocess(
        &mut self,
        file: FileRef,
        from: Stage,
        force: bool,
    ) -> Result<FileRefused, GroupError> {
        if self.rows.is_cancelled(file.batch_ref()) {
            return Ok(Some("BATCH_CANCELLED"));
        }
        let row = self.rows.file(file).ok_or(GroupError::Stale)?;
        if row.state != FileState::Processed {
            return Ok(Some("NOT_PROCESSED"));
        }
        let loaded = self.loaded.clone();
        let results = loaded.results.get(&(file, row.generation));
        let results = results.map_or(&[][..], Vec::as_slice);
        let upload = results.iter().find(|result| result.stage == Stage::Upload);
        let kind = upload
            .and_then(|upload| upload.media_type.as_deref())
            .map_or(MediaKind::Other, MediaKind::of);
        let stages = route(kind);
        let ran = |result: &ResultRow| result.stage == from && !result.skipped;
        let at = stages.iter().position(|stage| *stage == from);
        let Some(at) = at.filter(|_| results.iter().any(ran)) else {
            return Ok(Some("STAGE_NOT_IN_ROUTE"));
        };
        let (token, generation) = (row.token, row.generation.next());
        let (size, outcome) = (row.size, row.outcome);
        for result in results {
            let kept = self.is_kept(result, &stages[..at], &stages[at + 1..], force);
            if kept && !planted!(ResultsNotTakenAlong) {
                // Nothing is dispatched under the token of a PROCESSED file.
                let taken = result.taken_over(file, generation, token, self.now);
                self.effects.results.push(taken);
            }
        }
        self.raise_token(file)?;
        let row = self.rows.bytes_mut(file)?;
        row.generation = generation;
        row.stage = from;
        row.fails = 0;
        row.kills = 0;
        row.reason = None;
        row.outcome = None;
        if from == Stage::Upload {
            row.etag = Some(AT_FINAL_KEY.to_owned());
        }
        let batch = self.rows.batch_mut(file.batch_ref())?;
        let counts = &mut batch.row.facts.counts;
        if !planted!(OutcomeKept) {
            *counts = counts.outcome_moved(outcome, None)?;
        }
        batch.row.bytes_processed = batch.row.bytes_processed.saturating_sub(size);
        self.step(file, FileEvent::Reprocess)?;
        self.make_ready(file, self.now)?;
        Ok(None)
    }

    fn is_kept(&self, result: &ResultRow, before: &[Stage], later: &[Stage], force: bool) -> bool {
        before.contains(&result.stage)
            || (!force
                && result.stage != Stage::Metadata
                && later.contains(&result.stage)
                && self.is_newest(result))
    }
}
