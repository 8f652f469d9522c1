//! Frees what no number can reach any more (protocol 13.1, 13.2): landing objects, and what executions wrote whose reports
//! were never recorded. Each batch is looked through once when it has ended, late enough that no URL of its run is valid
//! and no worker holds a lease, and again when it ran again.
//!
//! Rows are read after the keys were listed, and results after the rows. Targets and tokens never fall, and a result is
//! recorded in the transaction that raises its token: what was out of reach then is so for good.

use std::collections::HashMap;
use std::sync::Arc;

use caudal_domain::keys::{
    Execution, artifacts_of_batch, landing_of_batch, parse_artifact_key, parse_landing_key,
};
use caudal_domain::{BatchRef, FileRef, Generation, Stage, Target};
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
            let freed = self.free_landing(batch).await? + self.free_artifacts(batch).await?;
            self.metrics.collected.inc_by(freed);
            self.writer.ask(MarkCollected { batch, ended_at }).await?;
        }
        Ok(())
    }

    async fn free_landing(&self, batch: BatchRef) -> Result<u64, CollectError> {
        let prefix = landing_of_batch(batch);
        for (key, upload) in self.objects.list_multipart(&prefix).await? {
            let Some(named) = parse_landing_key(&key) else {
                continue;
            };
            let (rows, results) = self.read([(named.0, None)]).await?;
            if rows
                .first()
                .is_some_and(|row| is_spent(row, named.1, &results))
            {
                self.objects.abort_multipart(&key, &upload).await?;
            }
        }
        let mut freed = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.objects.list(&prefix, after.as_deref()).await?;
            let keys = page.objects.into_iter().map(|object| object.key);
            let named: Vec<(String, (FileRef, Target))> = keys
                .filter_map(|key| Some((key.clone(), parse_landing_key(&key)?)))
                .collect();
            let (rows, results) = self
                .read(named.iter().map(|(_, (file, _))| (*file, None)))
                .await?;
            let rows: HashMap<FileRef, &WorkRow> = rows.iter().map(|row| (row.file, row)).collect();
            let spent = named.into_iter().filter(|(_, (file, target))| {
                rows.get(file)
                    .is_some_and(|row| is_spent(row, *target, &results))
            });
            freed += self.delete(spent.map(|(key, _)| key).collect()).await?;
            after = page.next;
            if after.is_none() {
                return Ok(freed);
            }
        }
    }

    async fn free_artifacts(&self, batch: BatchRef) -> Result<u64, CollectError> {
        let prefix = artifacts_of_batch(batch);
        let mut freed = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.objects.list(&prefix, after.as_deref()).await?;
            let keys = page.objects.into_iter().map(|object| object.key);
            let named: Vec<(String, Execution)> = keys
                .filter_map(|key| Some((key.clone(), parse_artifact_key(&key)?)))
                .collect();
            let of =
                |(_, execution): &(String, Execution)| (execution.file, Some(execution.generation));
            let (rows, results) = self.read(named.iter().map(of)).await?;
            let rows: HashMap<FileRef, &WorkRow> = rows.iter().map(|row| (row.file, row)).collect();
            let orphans = named.into_iter().filter(|(_, execution)| {
                rows.get(&execution.file)
                    .is_some_and(|row| is_orphan(row, execution, &results))
            });
            freed += self.delete(orphans.map(|(key, _)| key).collect()).await?;
            after = page.next;
            if after.is_none() {
                return Ok(freed);
            }
        }
    }

    /// The rows of files, then their results: of these generations, or of the current ones.
    async fn read(
        &self,
        files: impl IntoIterator<Item = (FileRef, Option<Generation>)>,
    ) -> Result<(Vec<WorkRow>, Results), CollectError> {
        let session = self.store.reader();
        let wanted: Vec<(FileRef, Option<Generation>)> = files.into_iter().collect();
        let mut of_rows: Vec<FileRef> = wanted.iter().map(|(file, _)| *file).collect();
        of_rows.sort_unstable();
        of_rows.dedup();
        let rows = work::read(&session, &of_rows).await?;
        let current: HashMap<FileRef, Generation> =
            rows.iter().map(|row| (row.file, row.generation)).collect();
        let generations = wanted.into_iter().filter_map(|(file, generation)| {
            Some((file, generation.or_else(|| current.get(&file).copied())?))
        });
        let mut generations: Vec<(FileRef, Generation)> = generations.collect();
        generations.sort_unstable();
        generations.dedup();
        let mut found = Results::default();
        for results in results::of_generations(&session, &generations)
            .await?
            .into_values()
        {
            for result in results {
                let key = (result.file, result.generation);
                found.entry(key).or_default().push(result);
            }
        }
        Ok((rows, found))
    }

    async fn delete(&self, keys: Vec<String>) -> Result<u64, CollectError> {
        if keys.is_empty() {
            return Ok(0);
        }
        self.objects.delete_many(&keys).await?;
        Ok(keys.len() as u64)
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

/// Whether an execution's writes can never be referred to (protocol 13.2): its token is over, and no result names it. Who
/// takes a result over names its first maker, whose own result stays.
fn is_orphan(row: &WorkRow, execution: &Execution, results: &Results) -> bool {
    let of_generation = results.get(&(execution.file, execution.generation));
    let named = of_generation.into_iter().flatten().any(|result| {
        let maker = result.maker();
        result.stage == execution.stage
            && (maker.file, maker.generation) == (execution.file, execution.generation)
            && (maker.token, maker.nonce) == (execution.token, execution.nonce.clone())
    });
    execution.token < row.token && !named
}

#[cfg(test)]
mod tests {
    use caudal_domain::{BatchId, TenantId, Token};
    use uuid::Uuid;

    use super::*;
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
            ..WorkRow::pending(file(), 0, 1, Micros(1))
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
