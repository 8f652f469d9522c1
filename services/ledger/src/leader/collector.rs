//! Frees what no number can reach any more (protocol 13.1, 13.2): landing objects, final objects that no result names, and
//! what executions wrote whose reports were never recorded. Each batch is looked through once when it has ended, late enough that no URL of its run is valid
//! and no worker holds a lease, and again when it ran again.
//!
//! Rows are read after the keys were listed, and results after the rows. Targets and tokens never fall, and a result is
//! recorded in the transaction that raises its token: what was out of reach then is so for good.

use std::collections::HashMap;
use std::sync::Arc;

use caudal_domain::keys::{
    Execution, artifacts_of_batch, finals_of_batch, landing_of_batch, parse_artifact_key,
    parse_final_key, parse_landing_key,
};
use caudal_domain::{BatchRef, FileRef, FileState, Generation, Stage, Target};
use caudal_node::Rarely;
use caudal_objects::{ObjectError, ObjectStore};
use tokio_util::sync::CancellationToken;

use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::results::{self, ResultRow};
use crate::store::work::{self, WorkRow};
use crate::store::{Store, progress};
use crate::writer::WriterHandle;
use crate::writer::verbs::mark_collected::MarkCollected;

/// Batches looked through in one pass, one after the other.
const BATCHES_A_PASS: u32 = 16;

/// What collecting needs.
pub(crate) struct Collector {
    pub(crate) settings: Arc<LedgerSettings>,
    pub(crate) store: Arc<Store>,
    pub(crate) writer: WriterHandle,
    pub(crate) objects: ObjectStore,
    pub(crate) metrics: LedgerMetrics,
}

/// Why a batch was not looked through; the next pass begins with it again.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("the writer refused: {0}")]
    Writer(#[from] caudal_domain::Refusal),
    #[error("the database failed: {0}")]
    Database(#[from] sea_orm::DbErr),
    #[error("the object store failed: {0}")]
    Objects(#[from] ObjectError),
}

/// Results by file and generation.
type Results = HashMap<(FileRef, Generation), Vec<ResultRow>>;

impl Collector {
    /// Makes a pass every interval until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.collect_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let failed = Rarely::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let passed = tokio::select! {
                () = shutdown.cancelled() => return,
                passed = self.pass() => passed,
            };
            if let Err(error) = passed
                && let Some(times) = failed.next()
            {
                tracing::warn!(%error, times, "an ended batch was not looked through for what is left of it");
            }
        }
    }

    async fn pass(&self) -> Result<(), CollectError> {
        let session = self.store.reader();
        let before = session.now().await?.minus(self.settings.collect_after);
        for (batch, ended_at) in progress::uncollected(&session, before, BATCHES_A_PASS).await? {
            let freed = self.free_landing(batch).await?
                + self.delete_free(&finals_of_batch(batch), final_of).await?
                + self
                    .delete_free(&artifacts_of_batch(batch), artifact_of)
                    .await?;
            self.metrics.collected.inc_by(freed);
            self.writer.ask(MarkCollected { batch, ended_at }).await?;
        }
        Ok(())
    }

    async fn free_landing(&self, batch: BatchRef) -> Result<u64, CollectError> {
        let prefix = landing_of_batch(batch);
        let unfinished = match self.objects.list_multipart(&prefix).await {
            Ok(unfinished) => unfinished,
            // Where they cannot be listed no gateway has begun any.
            Err(error) if error.is_beyond_the_store() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for (key, upload) in self.free(unfinished, |(key, _)| landing_of(key)).await? {
            self.objects.abort_multipart(&key, &upload).await?;
        }
        self.delete_free(&prefix, landing_of).await
    }

    /// Deletes what is free below a prefix, page by page; how many objects.
    async fn delete_free(
        &self,
        prefix: &str,
        named: fn(&str) -> Option<Named>,
    ) -> Result<u64, CollectError> {
        let mut freed = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.objects.list(prefix, after.as_deref()).await?;
            let keys = page.objects.into_iter().map(|object| object.key).collect();
            let keys = self.free(keys, |key: &String| named(key)).await?;
            if !keys.is_empty() {
                self.objects.delete_many(&keys).await?;
                freed += keys.len() as u64;
            }
            after = page.next;
            if after.is_none() {
                return Ok(freed);
            }
        }
    }

    /// Those that nothing can reach any more.
    async fn free<T>(
        &self,
        listed: Vec<T>,
        named: impl Fn(&T) -> Option<Named>,
    ) -> Result<Vec<T>, CollectError> {
        let named: Vec<(T, Named)> = listed
            .into_iter()
            .filter_map(|item| named(&item).map(|named| (item, named)))
            .collect();
        let (rows, results) = self.read(named.iter().map(|(_, named)| named)).await?;
        let is_free = |named: &Named| {
            rows.get(&named.file())
                .is_some_and(|row| named.is_free(row, &results))
        };
        let free = named.into_iter().filter(|(_, named)| is_free(named));
        Ok(free.map(|(item, _)| item).collect())
    }

    /// The rows of files, then the results that decide.
    async fn read(
        &self,
        named: impl Iterator<Item = &Named> + Clone,
    ) -> Result<(HashMap<FileRef, WorkRow>, Results), CollectError> {
        let session = self.store.reader();
        let mut files: Vec<FileRef> = named.clone().map(Named::file).collect();
        files.sort_unstable();
        files.dedup();
        let rows = work::read(&session, &files).await?;
        let rows: HashMap<FileRef, WorkRow> = rows.into_iter().map(|row| (row.file, row)).collect();
        let mut generations: Vec<(FileRef, Generation)> = Vec::new();
        for named in named {
            let now = rows.get(&named.file()).map(|row| row.generation);
            match named {
                Named::Landing(file, _) => generations.extend(now.map(|now| (*file, now))),
                Named::Final(file, _) => generations.extend(all_to(now).map(|one| (*file, one))),
                Named::Artifact(execution) => {
                    generations.push((execution.file, execution.generation));
                }
            }
        }
        generations.sort_unstable();
        generations.dedup();
        let found = results::of_generations(&session, &generations).await?;
        let mut results = Results::default();
        for result in found.into_values().flatten() {
            let key = (result.file, result.generation);
            results.entry(key).or_default().push(result);
        }
        Ok((rows, results))
    }
}

/// What a key names.
enum Named {
    Landing(FileRef, Target),
    Final(FileRef, [u8; 32]),
    Artifact(Execution),
}

/// Every generation up to this one.
fn all_to(last: Option<Generation>) -> impl Iterator<Item = Generation> {
    let last = last.map_or(0, Generation::get);
    (Generation::FIRST.get()..=last).map(Generation::new)
}

fn landing_of(key: &str) -> Option<Named> {
    parse_landing_key(key).map(|(file, target)| Named::Landing(file, target))
}

fn final_of(key: &str) -> Option<Named> {
    parse_final_key(key).map(|(file, sha256)| Named::Final(file, sha256))
}

fn artifact_of(key: &str) -> Option<Named> {
    parse_artifact_key(key).map(Named::Artifact)
}

impl Named {
    fn file(&self) -> FileRef {
        match self {
            Self::Landing(file, _) | Self::Final(file, _) => *file,
            Self::Artifact(execution) => execution.file,
        }
    }

    fn is_free(&self, row: &WorkRow, results: &Results) -> bool {
        match self {
            Self::Landing(_, target) => is_spent(row, *target, results),
            Self::Final(_, sha256) => is_unnamed(row, sha256, results),
            Self::Artifact(execution) => is_orphan(row, execution, results),
        }
    }
}

/// Whether nothing can begin from a landing object any more (protocol 13.1): newer bytes were asked for, or those are
/// verified and recorded.
fn is_spent(row: &WorkRow, target: Target, results: &Results) -> bool {
    let of_row = results.get(&(row.file, row.generation));
    let recorded = of_row
        .into_iter()
        .flatten()
        .any(|result| result.stage == Stage::Upload);
    target < row.target || (target == row.target && recorded)
}

/// Whether a final object can never be a result's any more (protocol 12.5, 13.1): no generation recorded it, and the file
/// is cancelled, or has recorded other bytes. Until then it is where bytes may come, or came and wait to be recorded.
fn is_unnamed(row: &WorkRow, sha256: &[u8; 32], results: &Results) -> bool {
    let of = |generation| results.get(&(row.file, generation)).into_iter().flatten();
    let mut uploads = all_to(Some(row.generation))
        .flat_map(of)
        .filter(|result| result.stage == Stage::Upload);
    let is_named = uploads.any(|result| result.content.as_ref() == Some(sha256));
    let recorded = of(row.generation).any(|result| result.stage == Stage::Upload);
    !is_named && (recorded || row.state == FileState::Cancelled)
}

/// Whether an execution's writes can never be referred to (protocol 13.2): its token is over, and no result names it. Who
/// takes a result over names its first maker, whose own result stays.
fn is_orphan(row: &WorkRow, execution: &Execution, results: &Results) -> bool {
    let of_generation = results.get(&(execution.file, execution.generation));
    let named = of_generation.into_iter().flatten().any(|result| {
        let maker = result.maker();
        result.stage == execution.stage
            && (maker.file, maker.generation) == (execution.file, execution.generation)
            && maker.token == execution.token
            && maker.nonce == execution.nonce
    });
    execution.token < row.token && !named
}

#[cfg(test)]
mod tests {
    use caudal_domain::{BatchId, TenantId, Token};
    use uuid::Uuid;

    use super::*;
    use crate::likeness::Likeness;
    use crate::store::results::Used;
    use crate::store::time::Micros;

    fn file() -> FileRef {
        let nil = Uuid::nil();
        FileRef::new(TenantId::from_uuid(nil), BatchId::from_uuid(nil), 1)
    }

    fn row(target: u32, token: u64) -> WorkRow {
        WorkRow {
            target: Target::new(target),
            token: Token::new(token),
            ..WorkRow::pending(file(), 0, Likeness::sized(1), Micros(1))
        }
    }

    fn recorded(stage: Stage, token: u64) -> Results {
        let result = ResultRow {
            file: file(),
            generation: Generation::FIRST,
            stage,
            version: None,
            content: None,
            media_type: None,
            token: Token::new(token),
            nonce: "a".into(),
            artifacts: Vec::new(),
            facts: String::new(),
            warnings: Vec::new(),
            used: Used::default(),
            skipped: false,
            has_text: false,
            taken_from: None,
            at: Micros(1),
        };
        Results::from([((file(), Generation::FIRST), vec![result])])
    }

    // Protocol 13.1.
    #[test]
    fn a_landing_object_is_kept_until_its_bytes_are_recorded_or_newer_ones_asked_for() {
        let none = Results::default();
        let verified = recorded(Stage::Upload, 2);
        assert!(is_spent(&row(2, 1), Target::new(1), &none));
        assert!(!is_spent(&row(2, 1), Target::new(2), &none));
        assert!(!is_spent(&row(2, 1), Target::new(3), &verified));
        assert!(is_spent(&row(2, 1), Target::new(2), &verified));
        let later = recorded(Stage::Metadata, 2);
        assert!(!is_spent(&row(2, 1), Target::new(2), &later));
    }

    // Protocol 12.5.
    #[test]
    fn a_final_object_is_kept_while_bytes_may_come_to_it_or_any_generation_names_it() {
        let none = Results::default();
        let in_state = |state| WorkRow { state, ..row(1, 5) };
        let waiting = [FileState::Pending, FileState::Failed, FileState::Processing];
        for state in waiting {
            assert!(!is_unnamed(&in_state(state), &[9; 32], &none), "{state:?}");
        }
        assert!(is_unnamed(&in_state(FileState::Cancelled), &[9; 32], &none));
        let mut results = recorded(Stage::Upload, 2);
        for result in results.values_mut().flatten() {
            result.content = Some([9; 32]);
        }
        for state in [FileState::Processed, FileState::Cancelled] {
            let first = in_state(state);
            assert!(!is_unnamed(&first, &[9; 32], &results), "{state:?}");
            assert!(is_unnamed(&first, &[8; 32], &results), "{state:?}");
            // What an older generation recorded stays until the batch is erased.
            let later = WorkRow {
                generation: Generation::new(2),
                ..first
            };
            assert!(!is_unnamed(&later, &[9; 32], &results), "{state:?}");
        }
    }

    // Protocol 13.2.
    #[test]
    fn what_an_execution_wrote_is_kept_while_its_token_lives_or_a_result_names_it() {
        let execution = |token: u64, nonce: &str| Execution {
            file: file(),
            generation: Generation::FIRST,
            stage: Stage::ExtractText,
            token: Token::new(token),
            nonce: nonce.to_owned(),
        };
        let results = recorded(Stage::ExtractText, 3);
        assert!(!is_orphan(&row(1, 5), &execution(3, "a"), &results));
        assert!(is_orphan(&row(1, 5), &execution(3, "b"), &results));
        assert!(is_orphan(&row(1, 5), &execution(4, "a"), &results));
        assert!(!is_orphan(&row(1, 5), &execution(5, "a"), &results));
        let of_another_stage = recorded(Stage::Metadata, 3);
        assert!(is_orphan(&row(1, 5), &execution(3, "a"), &of_another_stage));
    }
}
