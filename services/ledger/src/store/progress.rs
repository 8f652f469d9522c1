//! `batches` and `batch_progress`: what is fixed of a batch, and its flags and counters.

use super::dialect::Dialect;
use super::page::Page;
use super::time::Micros;
use super::{Session, batch_key_of, code_of, signed, u32_of, u64_of, uuid_of};
use caudal_domain::{BatchFacts, BatchId, BatchRef, BatchState, FileCounts, StageSet, TenantId};
use rustc_hash::FxHashMap;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

/// One row of `batch_progress`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProgressRow {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) state: BatchState,
    pub(crate) facts: BatchFacts,
    pub(crate) missing_fails: bool,
    pub(crate) starts_when_completed: bool,
    pub(crate) stages: StageSet,
    pub(crate) priority: u32,
    pub(crate) run: u32,
    pub(crate) pause: Option<Pause>,
    pub(crate) completed_by_system: bool,
    pub(crate) revision: u64,
    pub(crate) next_ordinal: u32,
    pub(crate) next_folder: u32,
    pub(crate) bytes_declared: u64,
    pub(crate) bytes_uploaded: u64,
    pub(crate) bytes_processed: u64,
    pub(crate) changed_at: Micros,
    pub(crate) touched_at: Micros,
    pub(crate) upload_deadline: Micros,
    pub(crate) uploads_open: bool,
}

/// A pause in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pause {
    /// Number of `PauseSource` in the public API.
    pub(crate) by: u32,
    pub(crate) who: String,
    pub(crate) note: String,
    pub(crate) at: Micros,
}

/// What a caller changes of a batch; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Renamed {
    pub(crate) name: Option<String>,
    pub(crate) priority: Option<u32>,
    /// JSON, or `Some(None)` to take it away.
    pub(crate) metadata: Option<Option<String>>,
}

impl Renamed {
    /// These changes, and the `earlier` ones that they do not replace.
    pub(crate) fn or(self, earlier: Self) -> Self {
        Self {
            name: self.name.or(earlier.name),
            priority: self.priority.or(earlier.priority),
            metadata: self.metadata.or(earlier.metadata),
        }
    }
}

/// When a batch was completed, if it was just now, and when it ended; `None`: it goes on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) batch: BatchRef,
    pub(crate) completed_at: Option<Micros>,
    pub(crate) ended_at: Option<Micros>,
}

/// One row of `batches`: what is fixed when the batch is made, and its times.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BatchRow {
    pub(crate) name: String,
    pub(crate) options: String,
    pub(crate) metadata: Option<String>,
    pub(crate) priority: u32,
    pub(crate) created_by: String,
    pub(crate) created_at: Micros,
    pub(crate) completed_at: Option<Micros>,
    pub(crate) ended_at: Option<Micros>,
}

pub(crate) const PROGRESS_COLUMNS: &str = "p.tenant_id, p.batch_id, p.state, p.manifest_complete, p.cancel_requested, \
    p.missing_fails, p.starts_when_completed, p.stages, p.priority, p.run, p.pause_by, p.pause_who, p.pause_note, \
    p.pause_at, p.completed_by_system, p.revision, p.next_ordinal, p.next_folder, p.n_pending, p.n_uploading, \
    p.n_uploaded, p.n_queued, p.n_processing, p.n_processed, p.n_retrying, p.n_failed, p.n_cancelled, p.n_complete, \
    p.n_partial, p.n_stored_only, p.bytes_declared, p.bytes_uploaded, p.bytes_processed, p.changed_at, p.touched_at, \
    p.upload_deadline, p.uploads_open";

pub(crate) const BATCH_COLUMNS: &str = "c.name, c.options, CAST(c.metadata AS text) AS metadata, c.priority AS batch_priority, c.created_by, \
    c.created_at, c.completed_at, c.ended_at";

impl ProgressRow {
    /// The row of a new batch.
    pub(crate) fn new(key: BatchRef, now: Micros) -> Self {
        let BatchRef { tenant, batch } = key;
        let facts = BatchFacts {
            manifest_complete: false,
            cancel_requested: false,
            counts: FileCounts::default(),
        };
        Self {
            tenant,
            batch,
            state: BatchState::derive(&facts),
            facts,
            missing_fails: false,
            starts_when_completed: false,
            stages: StageSet::all(),
            priority: 2,
            run: 1,
            pause: None,
            completed_by_system: false,
            revision: 0,
            next_ordinal: 0,
            next_folder: 1,
            bytes_declared: 0,
            bytes_uploaded: 0,
            bytes_processed: 0,
            changed_at: now,
            touched_at: now,
            upload_deadline: now,
            uploads_open: false,
        }
    }

    pub(crate) fn key(&self) -> BatchRef {
        BatchRef::new(self.tenant, self.batch)
    }

    /// Reads a row whose columns are [`PROGRESS_COLUMNS`].
    pub(crate) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let counts = FileCounts {
            pending: u32_of(row, "n_pending")?,
            uploading: u32_of(row, "n_uploading")?,
            uploaded: u32_of(row, "n_uploaded")?,
            queued: u32_of(row, "n_queued")?,
            processing: u32_of(row, "n_processing")?,
            processed: u32_of(row, "n_processed")?,
            retrying: u32_of(row, "n_retrying")?,
            failed: u32_of(row, "n_failed")?,
            cancelled: u32_of(row, "n_cancelled")?,
            complete: u32_of(row, "n_complete")?,
            partial: u32_of(row, "n_partial")?,
            stored_only: u32_of(row, "n_stored_only")?,
        };
        Ok(Self {
            tenant: TenantId::from_uuid(uuid_of(row, "tenant_id")?),
            batch: BatchId::from_uuid(uuid_of(row, "batch_id")?),
            state: code_of(row, "state", BatchState::from_code)?,
            facts: BatchFacts {
                manifest_complete: row.try_get("", "manifest_complete")?,
                cancel_requested: row.try_get("", "cancel_requested")?,
                counts,
            },
            missing_fails: row.try_get("", "missing_fails")?,
            starts_when_completed: row.try_get("", "starts_when_completed")?,
            stages: code_of(row, "stages", |bits| Some(StageSet::from_bits(bits)))?,
            priority: u32_of(row, "priority")?,
            run: u32_of(row, "run")?,
            pause: match u32_of(row, "pause_by")? {
                0 => None,
                by => Some(Pause {
                    by,
                    who: row
                        .try_get::<Option<String>>("", "pause_who")?
                        .unwrap_or_default(),
                    note: row
                        .try_get::<Option<String>>("", "pause_note")?
                        .unwrap_or_default(),
                    at: Micros(
                        row.try_get::<Option<i64>>("", "pause_at")?
                            .unwrap_or_default(),
                    ),
                }),
            },
            completed_by_system: row.try_get("", "completed_by_system")?,
            revision: u64_of(row, "revision")?,
            next_ordinal: u32_of(row, "next_ordinal")?,
            next_folder: u32_of(row, "next_folder")?,
            bytes_declared: u64_of(row, "bytes_declared")?,
            bytes_uploaded: u64_of(row, "bytes_uploaded")?,
            bytes_processed: u64_of(row, "bytes_processed")?,
            changed_at: Micros(row.try_get("", "changed_at")?),
            touched_at: Micros(row.try_get("", "touched_at")?),
            upload_deadline: Micros(row.try_get("", "upload_deadline")?),
            uploads_open: row.try_get("", "uploads_open")?,
        })
    }
}

impl BatchRow {
    /// Reads a row whose columns are [`BATCH_COLUMNS`].
    pub(crate) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            name: row.try_get("", "name")?,
            options: row.try_get("", "options")?,
            metadata: row.try_get("", "metadata")?,
            priority: u32_of(row, "batch_priority")?,
            created_by: row.try_get("", "created_by")?,
            created_at: Micros(row.try_get("", "created_at")?),
            completed_at: row.try_get::<Option<i64>>("", "completed_at")?.map(Micros),
            ended_at: row.try_get::<Option<i64>>("", "ended_at")?.map(Micros),
        })
    }
}

/// Rows by key.
pub(crate) async fn read<C: ConnectionTrait>(
    session: &Session<'_, C>,
    keys: &[BatchRef],
) -> Result<Vec<ProgressRow>, DbErr> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (page, values) = Page::of_batches(keys.iter().copied()).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT {PROGRESS_COLUMNS} FROM u JOIN batch_progress AS p ON p.tenant_id = u.t AND p.batch_id = u.b"
    );
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(ProgressRow::read)
        .collect()
}

type Column = (&'static str, fn(&ProgressRow) -> i64);

/// The columns of `batch_progress` that move.
const MOVING: [Column; 29] = [
    ("state", |row| row.state.code().into()),
    ("run", |row| row.run.into()),
    ("revision", |row| signed(row.revision)),
    ("next_ordinal", |row| row.next_ordinal.into()),
    ("next_folder", |row| row.next_folder.into()),
    ("n_pending", |row| row.facts.counts.pending.into()),
    ("n_uploading", |row| row.facts.counts.uploading.into()),
    ("n_uploaded", |row| row.facts.counts.uploaded.into()),
    ("n_queued", |row| row.facts.counts.queued.into()),
    ("n_processing", |row| row.facts.counts.processing.into()),
    ("n_processed", |row| row.facts.counts.processed.into()),
    ("n_retrying", |row| row.facts.counts.retrying.into()),
    ("n_failed", |row| row.facts.counts.failed.into()),
    ("n_cancelled", |row| row.facts.counts.cancelled.into()),
    ("n_complete", |row| row.facts.counts.complete.into()),
    ("n_partial", |row| row.facts.counts.partial.into()),
    ("n_stored_only", |row| row.facts.counts.stored_only.into()),
    ("bytes_declared", |row| signed(row.bytes_declared)),
    ("bytes_uploaded", |row| signed(row.bytes_uploaded)),
    ("bytes_processed", |row| signed(row.bytes_processed)),
    ("changed_at", |row| row.changed_at.0),
    ("touched_at", |row| row.touched_at.0),
    ("upload_deadline", |row| row.upload_deadline.0),
    ("manifest_complete", |row| {
        row.facts.manifest_complete.into()
    }),
    ("cancel_requested", |row| row.facts.cancel_requested.into()),
    ("missing_fails", |row| row.missing_fails.into()),
    ("uploads_open", |row| row.uploads_open.into()),
    ("priority", |row| row.priority.into()),
    ("completed_by_system", |row| row.completed_by_system.into()),
];

const BOOLEANS: [&str; 5] = [
    "completed_by_system",
    "manifest_complete",
    "cancel_requested",
    "missing_fails",
    "uploads_open",
];

/// A page of batches with the columns that move, and the expression that each has in it.
fn page_of<'a, Rows: Iterator<Item = &'a ProgressRow> + Clone>(
    rows: &Rows,
    dialect: Dialect,
) -> (
    Page,
    impl Iterator<Item = (&'static str, String)> + use<Rows>,
) {
    let keys = Page::of_batches(rows.clone().map(ProgressRow::key));
    let page = MOVING.iter().fold(keys, |page, (name, value)| {
        page.numbers(name, rows.clone().map(value))
    });
    let expressions = MOVING.iter().map(move |(name, _)| {
        let column = format!("u.{name}");
        let is_boolean = BOOLEANS.contains(name);
        let expression = if is_boolean {
            dialect.boolean(&column)
        } else {
            column
        };
        (*name, expression)
    });
    (page, expressions)
}

/// Makes batches: both rows of each, and its root folder.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    made: &[(ProgressRow, BatchRow)],
) -> Result<(), DbErr> {
    if made.is_empty() {
        return Ok(());
    }
    let rows = made.iter().map(|(row, _)| row);
    let batches = || made.iter().map(|(_, batch)| batch);
    let keys = || Page::of_batches(rows.clone().map(ProgressRow::key));
    let text = |of: fn(&BatchRow) -> &String| batches().map(move |row| Some(of(row).clone()));
    let (page, values) = keys()
        .texts("name", text(|row| &row.name))
        .texts("options", text(|row| &row.options))
        .texts("metadata", batches().map(|row| row.metadata.clone()))
        .numbers("priority", batches().map(|row| row.priority.into()))
        .texts("created_by", text(|row| &row.created_by))
        .numbers("created_at", batches().map(|row| row.created_at.0))
        .bind(session.dialect, 1);
    let metadata = session.dialect.json("u.metadata");
    let sql = format!(
        "WITH {page} INSERT INTO batches (tenant_id, batch_id, name, options, metadata, priority, created_by, created_at) \
         SELECT u.t, u.b, coalesce(u.name, ''), coalesce(u.options, ''), {metadata}, u.priority, \
         coalesce(u.created_by, ''), u.created_at FROM u"
    );
    session.execute(sql, values).await?;
    let (page, expressions) = page_of(&rows, session.dialect);
    let (page, values) = page
        .numbers("stages", rows.clone().map(|row| row.stages.bits().into()))
        .numbers(
            "starts",
            rows.clone().map(|row| row.starts_when_completed.into()),
        )
        .bind(session.dialect, 1);
    let (names, expressions): (Vec<&str>, Vec<String>) = expressions.unzip();
    let sql = format!(
        "WITH {page} INSERT INTO batch_progress (tenant_id, batch_id, stages, starts_when_completed, pause_by, {}) \
         SELECT u.t, u.b, u.stages, {}, 0, {} FROM u",
        names.join(", "),
        session.dialect.boolean("u.starts"),
        expressions.join(", ")
    );
    session.execute(sql, values).await?;
    let (page, values) = keys().bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
         SELECT u.t, u.b, 0, {}, '', 0, 0, 0, 0 FROM u",
        session.dialect.no_bytes()
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Writes rows whose revision in the database is still the one before theirs. How many were: fewer than asked means
/// that a row was not what its writer believed.
pub(crate) async fn update<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[ProgressRow],
) -> Result<u64, DbErr> {
    if rows.is_empty() {
        return Ok(0);
    }
    let (page, expressions) = page_of(&rows.iter(), session.dialect);
    let assignments: Vec<String> = expressions
        .map(|(name, expression)| format!("{name} = {expression}"))
        .collect();
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE batch_progress AS p SET {} FROM u WHERE p.tenant_id = u.t AND p.batch_id = u.b \
         AND p.revision + 1 = u.revision",
        assignments.join(", ")
    );
    session.execute(sql, values).await
}

/// Writes whether a batch is paused, by whom and since when.
pub(crate) async fn set_pause<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &ProgressRow,
) -> Result<(), DbErr> {
    let pause = row.pause.as_ref();
    let sql = "UPDATE batch_progress SET pause_by = $3, pause_who = $4, pause_note = $5, pause_at = $6 \
               WHERE tenant_id = $1 AND batch_id = $2";
    let values = vec![
        row.tenant.as_uuid().into(),
        row.batch.as_uuid().into(),
        signed_small(pause.map_or(0, |pause| pause.by)).into(),
        pause.map(|pause| pause.who.clone()).into(),
        pause.map(|pause| pause.note.clone()).into(),
        pause.map(|pause| pause.at.0).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Changes what a caller may change of a batch; `None` leaves it.
pub(crate) async fn rename<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
    renamed: &Renamed,
) -> Result<(), DbErr> {
    let mut values: Vec<Value> = vec![tenant.as_uuid().into(), batch.as_uuid().into()];
    let mut assignments = Vec::new();
    let mut assign = |column: &str, value: Value| {
        values.push(value);
        let parameter = format!("${}", values.len());
        let value = match column {
            "metadata" => session.dialect.json(&parameter),
            _ => parameter,
        };
        assignments.push(format!("{column} = {value}"));
    };
    if let Some(name) = &renamed.name {
        assign("name", name.clone().into());
    }
    if let Some(priority) = renamed.priority {
        assign("priority", signed_small(priority).into());
    }
    if let Some(metadata) = &renamed.metadata {
        assign("metadata", metadata.clone().into());
    }
    if assignments.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE batches SET {} WHERE tenant_id = $1 AND batch_id = $2",
        assignments.join(", ")
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Cancelled batches that still have files to cancel, by index `batch_progress_live`.
pub(crate) async fn cancelling<C: ConnectionTrait>(
    session: &Session<'_, C>,
    limit: u32,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql = format!(
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE p.state IN (1, 2) AND p.cancel_requested \
         LIMIT {limit}"
    );
    let rows = session.rows(sql, Vec::new()).await?;
    rows.iter().map(batch_key_of).collect()
}

/// OPEN batches that nobody touched since `before`, by index `batch_progress_idle`.
pub(crate) async fn idle<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Micros,
    limit: u32,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql = format!(
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE p.state = 1 AND p.touched_at <= $1 \
         ORDER BY p.touched_at LIMIT {limit}"
    );
    let rows = session.rows(sql, vec![before.0.into()]).await?;
    rows.iter().map(batch_key_of).collect()
}

/// Writes the times of batches that were completed or ended in this transaction.
pub(crate) async fn set_times<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[Times],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = Page::of_batches(rows.iter().map(|times| times.batch))
        .nullable_numbers(
            "completed_at",
            rows.iter().map(|times| times.completed_at.map(|at| at.0)),
        )
        .nullable_numbers(
            "ended_at",
            rows.iter().map(|times| times.ended_at.map(|at| at.0)),
        );
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE batches AS c SET completed_at = coalesce(c.completed_at, u.completed_at), \
         ended_at = u.ended_at, collected_at = NULL FROM u WHERE c.tenant_id = u.t AND c.batch_id = u.b"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Batches that ended before a time and were not looked through since for objects that nothing reaches, with their ends; by
/// index `batches_uncollected`.
pub(crate) async fn uncollected<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Micros,
    limit: u32,
) -> Result<Vec<(BatchRef, Micros)>, DbErr> {
    let sql = format!(
        "SELECT c.tenant_id, c.batch_id, c.ended_at FROM batches AS c WHERE c.collected_at IS NULL \
         AND c.ended_at IS NOT NULL AND c.ended_at <= $1 ORDER BY c.ended_at LIMIT {limit}"
    );
    let rows = session.rows(sql, vec![before.0.into()]).await?;
    let read = rows.iter();
    read.map(|row| Ok((batch_key_of(row)?, Micros(row.try_get("", "ended_at")?))))
        .collect()
}

/// Notes that batches were looked through after these ends, unless they ran again since.
pub(crate) async fn mark_collected<C: ConnectionTrait>(
    session: &Session<'_, C>,
    batches: &[(BatchRef, Micros)],
    now: Micros,
) -> Result<(), DbErr> {
    if batches.is_empty() {
        return Ok(());
    }
    let page = Page::of_batches(batches.iter().map(|(batch, _)| *batch))
        .numbers("ended_at", batches.iter().map(|(_, at)| at.0));
    let (page, mut values) = page.bind(session.dialect, 1);
    values.push(now.0.into());
    let sql = format!(
        "WITH {page} UPDATE batches AS c SET collected_at = ${} FROM u WHERE c.tenant_id = u.t AND c.batch_id = u.b \
         AND c.ended_at = u.ended_at",
        values.len()
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Batches completed with missing = FAIL that were not looked through yet; by index `batch_progress_live`.
pub(crate) async fn failing_missing<C: ConnectionTrait>(
    session: &Session<'_, C>,
    limit: u32,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql = format!(
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE p.state IN (1, 2) AND p.missing_fails \
         LIMIT {limit}"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        found.push(batch_key_of(&row)?);
    }
    Ok(found)
}

/// Batches whose uploads have had their time, by index `batch_progress_live`.
pub(crate) async fn overdue<C: ConnectionTrait>(
    session: &Session<'_, C>,
    now: Micros,
    limit: u32,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql = format!(
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE p.state IN (1, 2) AND p.uploads_open \
         AND NOT p.missing_fails AND NOT p.cancel_requested AND p.upload_deadline <= $1 LIMIT {limit}"
    );
    let rows = session.rows(sql, vec![now.0.into()]).await?;
    rows.iter().map(batch_key_of).collect()
}

/// Every batch there is, in the order of its key.
pub(crate) async fn all<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql =
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p ORDER BY p.tenant_id, p.batch_id";
    let rows = session.rows(sql, Vec::new()).await?;
    rows.iter().map(batch_key_of).collect()
}

/// Priorities of the batches that are not ended, by index `batch_progress_live`: read once, when a ledger begins.
pub(crate) async fn live_priorities<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<FxHashMap<BatchRef, u32>, DbErr> {
    let sql = "SELECT p.tenant_id, p.batch_id, p.priority FROM batch_progress AS p WHERE p.state IN (1, 2)";
    let mut found = FxHashMap::default();
    for row in session.rows(sql, Vec::new()).await? {
        found.insert(batch_key_of(&row)?, u32_of(&row, "priority")?);
    }
    Ok(found)
}

/// How many batches of a tenant are OPEN; by index `batch_progress_open`.
pub(crate) async fn open_batches<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<u64, DbErr> {
    let sql =
        "SELECT COUNT(*) AS open FROM batch_progress AS p WHERE p.tenant_id = $1 AND p.state = 1";
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    row.map_or(Ok(0), |row| u64_of(&row, "open"))
}

/// Batches of a tenant that have not ended; by index `batch_progress_live`.
pub(crate) async fn live_batches<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<Vec<BatchRef>, DbErr> {
    let sql = "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE p.state IN (1, 2) AND p.tenant_id = $1";
    let rows = session.rows(sql, vec![tenant.as_uuid().into()]).await?;
    rows.iter().map(batch_key_of).collect()
}

fn signed_small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
