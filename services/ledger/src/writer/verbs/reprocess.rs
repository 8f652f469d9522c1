//! Lets a PROCESSED file go through the route again from a stage on (protocol 11.3).

use caudal_domain::{FileEvent, FileRef, FileState, MediaKind, Stage, route};

use super::FileRefused;
use crate::store::results::ResultRow;
use crate::store::work::AT_FINAL_KEY;
use crate::writer::error::GroupError;
use crate::writer::group::Group;

/// A new generation that begins with the results of the stages before `from`, by reference; the old final record
/// serves until the new one is written. `force`: later stages work again even where their version is the newest.
pub(super) fn reprocess(
    group: &mut Group<'_>,
    file: FileRef,
    from: Stage,
    force: bool,
) -> Result<FileRefused, GroupError> {
    if group.rows.is_cancelled(file.batch_ref()) && !planted!(CancelledBeginsAnew) {
        return Ok(Some("BATCH_CANCELLED"));
    }
    let row = group.rows.file(file).ok_or(GroupError::Stale)?;
    if row.state != FileState::Processed {
        return Ok(Some("NOT_PROCESSED"));
    }
    let loaded = group.loaded.clone();
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
        let kept = group.is_kept(result, &stages[..at], &stages[at + 1..], force);
        if kept && !planted!(ResultsNotTakenAlong) {
            // Nothing is dispatched under the token of a PROCESSED file.
            let taken = result.taken_over(file, generation, token, group.now);
            group.effects.results.push(taken);
        }
    }
    group.raise_token(file)?;
    let row = group.rows.bytes_mut(file)?;
    row.generation = generation;
    row.stage = from;
    row.fails = 0;
    row.kills = 0;
    row.reason = None;
    row.outcome = None;
    if from == Stage::Upload {
        row.etag = Some(AT_FINAL_KEY.to_owned());
    }
    let batch = group.rows.batch_mut(file.batch_ref())?;
    let counts = &mut batch.row.facts.counts;
    if !planted!(OutcomeKept) {
        *counts = counts.outcome_moved(outcome, None)?;
    }
    batch.row.bytes_processed = batch.row.bytes_processed.saturating_sub(size);
    group.step(file, FileEvent::Reprocess)?;
    group.make_ready(file, group.now)?;
    Ok(None)
}

impl Group<'_> {
    fn is_kept(&self, result: &ResultRow, before: &[Stage], later: &[Stage], force: bool) -> bool {
        before.contains(&result.stage)
            || (!force
                && result.stage != Stage::Metadata
                && later.contains(&result.stage)
                && self.is_newest(result))
    }
}

#[cfg(test)]
mod tests {
    use caudal_domain::Generation;

    use super::*;
    use crate::store::operations::FileVerb;
    use crate::writer::trial::Trial;

    fn from(from: Stage, force: bool) -> FileVerb {
        FileVerb::Reprocess { from, force }
    }

    /// The stages of which a file has results, and who made them.
    fn taken(trial: &Trial, file: FileRef) -> Vec<(Stage, Option<(FileRef, Generation)>)> {
        let results = trial.results(file).into_iter();
        let maker = |result: ResultRow| {
            let maker = result
                .taken_from
                .map(|maker| (maker.file, maker.generation));
            (result.stage, maker)
        };
        results.map(maker).collect()
    }

    // Protocol 11.3: results of earlier stages are taken over by reference, and of later ones whose version is the newest.
    #[test]
    fn a_new_generation_begins_with_the_results_that_stay_good() {
        let mut trial = Trial::new();
        let file = trial.processed();
        let before = trial.row(file);
        assert_eq!(trial.apply(from(Stage::ExtractText, false), file), None);
        let row = trial.row(file);
        assert_eq!(
            (row.state, row.stage),
            (FileState::Queued, Stage::ExtractText)
        );
        assert_eq!(
            (row.generation, row.outcome),
            (before.generation.next(), None)
        );
        assert!(row.token > before.token);
        let maker = Some((file, Generation::FIRST));
        assert_eq!(
            taken(&trial, file),
            [(Stage::Upload, maker), (Stage::Embeddings, maker)]
        );
        let progress = trial.progress(file.batch_ref());
        assert_eq!(
            (progress.bytes_processed, progress.facts.counts.complete),
            (0, 0)
        );
        // It is done with what it took.
        trial.succeed(file);
        assert_eq!(trial.row(file).stage, Stage::Metadata);
    }

    // Protocol 11.3: unless it is forced; and never a link of a chain (13.3).
    #[test]
    fn forced_later_stages_work_again_and_references_name_the_first_maker() {
        let mut trial = Trial::new();
        let file = trial.processed();
        assert_eq!(trial.apply(from(Stage::Metadata, false), file), None);
        trial.succeed(file);
        assert_eq!(trial.apply(from(Stage::ExtractText, true), file), None);
        let maker = Some((file, Generation::FIRST));
        assert_eq!(taken(&trial, file), [(Stage::Upload, maker)]);
    }

    // Protocol 11.3: the upload stage of such a generation reads the final object.
    #[test]
    fn from_the_upload_stage_on_it_reads_the_final_object() {
        let mut trial = Trial::new();
        let file = trial.processed();
        assert_eq!(trial.apply(from(Stage::Upload, true), file), None);
        assert!(trial.row(file).is_at_final_key());
        assert!(taken(&trial, file).is_empty());
    }

    // Protocol 11.4.
    #[test]
    fn only_a_processed_file_is_reprocessed_from_a_stage_that_it_went_through() {
        let mut trial = Trial::new();
        let queued = trial.queued(1)[0];
        let file = trial.processed();
        let before = [trial.row(queued), trial.row(file)];
        let metadata = from(Stage::Metadata, false);
        assert_eq!(
            trial.apply(metadata, queued).as_deref(),
            Some("NOT_PROCESSED")
        );
        let image = from(Stage::ImageProcessing, false);
        assert_eq!(
            trial.apply(image, file).as_deref(),
            Some("STAGE_NOT_IN_ROUTE")
        );
        trial.cancel(file.batch_ref());
        assert_eq!(
            trial.apply(metadata, file).as_deref(),
            Some("BATCH_CANCELLED")
        );
        assert_eq!([trial.row(queued), trial.row(file)], before);
    }
}
