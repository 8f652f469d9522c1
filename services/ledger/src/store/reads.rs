//! What callers read, each for one tenant.

use std::collections::{BTreeSet, HashMap};

use caudal_domain::{
    BatchId, BatchRef, BatchState, FileRef, FileState, Outcome, Reason, Stage, TenantId,
};
use sea_orm::{ConnectionTrait, DbErr, Value};

use super::page::Page;
use super::progress::{BATCH_COLUMNS, BatchRow, PROGRESS_COLUMNS, ProgressRow};
use super::time::Micros;
use super::work::{self, WorkRow};
use super::{Session, batch_key_of, code_of, file_of, u32_of};

/// One batch, by key.
pub(crate) async fn batch<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
) -> Result<Option<(ProgressRow, BatchRow)>, DbErr> {
    let sql = format!(
        "SELECT {PROGRESS_COLUMNS}, {BATCH_COLUMNS} FROM batch_progress AS p JOIN batches AS c \
         ON c.tenant_id = p.tenant_id AND c.batch_id = p.batch_id WHERE p.tenant_id = $1 AND p.batch_id = $2"
    );
    let row = session
        .row(sql, vec![tenant.as_uuid().into(), batch.as_uuid().into()])
        .await?;
    row.map(|row| Ok((ProgressRow::read(&row)?, BatchRow::read(&row)?)))
        .transpose()
}

/// Batches of a tenant below `before`, newest first: the key backwards.
pub(crate) async fn batches<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    before: Option<BatchId>,
    states: &[BatchState],
    created_after: Option<Micros>,
    limit: u32,
) -> Result<Vec<(ProgressRow, BatchRow)>, DbErr> {
    let mut values: Vec<Value> = vec![tenant.as_uuid().into()];
    let mut conditions = String::new();
    if let Some(before) = before {
        values.push(before.as_uuid().into());
        conditions.push_str(&format!(" AND p.batch_id < ${}", values.len()));
    }
    if !states.is_empty() {
        let codes = states.iter().map(|state| state.code().into());
        values.push(session.dialect.numbers(codes));
        let is_among = session.dialect.is_among("p.state", values.len());
        conditions.push_str(&format!(" AND {is_among}"));
    }
    if let Some(after) = created_after {
        values.push(after.0.into());
        conditions.push_str(&format!(" AND c.created_at > ${}", values.len()));
    }
    values.push(i64::from(limit).into());
    let limit = values.len();
    let sql = format!(
        "SELECT {PROGRESS_COLUMNS}, {BATCH_COLUMNS} FROM batch_progress AS p JOIN batches AS c \
         ON c.tenant_id = p.tenant_id AND c.batch_id = p.batch_id WHERE p.tenant_id = $1\
         {conditions} ORDER BY p.batch_id DESC LIMIT ${limit}"
    );
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(|row| Ok((ProgressRow::read(row)?, BatchRow::read(row)?)))
        .collect()
}

/// A file with its place in the tree.
#[derive(Clone, Debug)]
pub(crate) struct FileView {
    pub(crate) work: WorkRow,
    pub(crate) path: String,
    pub(crate) declared_sha256: Option<Vec<u8>>,
    pub(crate) metadata: Option<String>,
    pub(crate) modified_at: Option<Micros>,
    pub(crate) created_at: Micros,
}

/// Names and manifest data of files, by key. Files that do not exist are left out.
pub(crate) async fn views<C: ConnectionTrait>(
    session: &Session<'_, C>,
    works: Vec<WorkRow>,
) -> Result<Vec<FileView>, DbErr> {
    if works.is_empty() {
        return Ok(Vec::new());
    }
    let page = Page::of_files(works.iter().map(|row| row.file));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT f.tenant_id, f.batch_id, f.ordinal, f.name, f.declared_sha256, \
         CAST(f.metadata AS text) AS metadata, f.modified_at, f.created_at \
         FROM u JOIN files AS f ON f.tenant_id = u.t AND f.batch_id = u.b AND f.ordinal = u.o"
    );
    let mut cold = HashMap::new();
    for row in session.rows(sql, values).await? {
        cold.insert(file_of(&row)?, row);
    }
    let paths = folder_paths(session, &works).await?;
    let mut found = Vec::with_capacity(works.len());
    for work in works {
        let Some(row) = cold.get(&work.file) else {
            continue;
        };
        let place = (work.file.tenant, work.file.batch, work.folder);
        let folder = paths.get(&place).map_or("", String::as_str);
        let name: String = row.try_get("", "name")?;
        found.push(FileView {
            path: if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            },
            declared_sha256: row.try_get("", "declared_sha256")?,
            metadata: row.try_get("", "metadata")?,
            modified_at: row.try_get::<Option<i64>>("", "modified_at")?.map(Micros),
            created_at: Micros(row.try_get("", "created_at")?),
            work,
        });
    }
    Ok(found)
}

/// The checksums that were declared of files, by key. Files without one are left out.
pub(crate) async fn declared_checksums<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: impl Iterator<Item = FileRef> + Clone,
) -> Result<HashMap<FileRef, [u8; 32]>, DbErr> {
    if files.clone().next().is_none() {
        return Ok(HashMap::new());
    }
    let (page, values) = Page::of_files(files).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT f.tenant_id, f.batch_id, f.ordinal, f.declared_sha256 \
         FROM u JOIN files AS f ON f.tenant_id = u.t AND f.batch_id = u.b AND f.ordinal = u.o"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        let sha256: Option<Vec<u8>> = row.try_get("", "declared_sha256")?;
        if let Some(Ok(sha256)) = sha256.map(|bytes| bytes.as_slice().try_into()) {
            found.insert(file_of(&row)?, sha256);
        }
    }
    Ok(found)
}

/// The paths of the folders that these files are in, each folder read once, by key.
async fn folder_paths<C: ConnectionTrait>(
    session: &Session<'_, C>,
    works: &[WorkRow],
) -> Result<HashMap<(TenantId, BatchId, u32), String>, DbErr> {
    let places: BTreeSet<(TenantId, BatchId, u32)> = works
        .iter()
        .map(|work| (work.file.tenant, work.file.batch, work.folder))
        .collect();
    let page = Page::of_batches(
        places
            .iter()
            .map(|(tenant, batch, _)| BatchRef::new(*tenant, *batch)),
    )
    .numbers("f", places.iter().map(|(.., folder)| i64::from(*folder)));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT d.tenant_id, d.batch_id, d.folder, d.path FROM u JOIN folders AS d ON d.tenant_id = u.t \
         AND d.batch_id = u.b AND d.folder = u.f"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        let BatchRef { tenant, batch } = batch_key_of(&row)?;
        found.insert(
            (tenant, batch, u32_of(&row, "folder")?),
            row.try_get("", "path")?,
        );
    }
    Ok(found)
}

/// The path of a folder, by key; empty for the root.
pub(crate) async fn folder_path<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    batch: BatchId,
    folder: u32,
) -> Result<Option<String>, DbErr> {
    let page = Page::of_batches([BatchRef::new(tenant, batch)]).numbers("f", [i64::from(folder)]);
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT d.path FROM u JOIN folders AS d ON d.tenant_id = u.t AND d.batch_id = u.b AND d.folder = u.f"
    );
    let row = session.row(sql, values).await?;
    row.map(|row| row.try_get("", "path")).transpose()
}

/// The few columns that a snapshot shows of a file.
pub(crate) struct SnapshotRow {
    pub(crate) ordinal: u32,
    pub(crate) state: FileState,
    pub(crate) detail: u32,
}

/// Files of a batch from an ordinal on, for a snapshot: a range of the key, no join.
pub(crate) async fn snapshot_files<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    batch: BatchId,
    from: u32,
    limit: u32,
) -> Result<Vec<SnapshotRow>, DbErr> {
    let sql = format!(
        "SELECT w.ordinal, w.state, w.stage, w.outcome, w.reason FROM file_work AS w WHERE w.tenant_id = $1 \
         AND w.batch_id = $2 AND w.ordinal >= $3 ORDER BY w.ordinal LIMIT {limit}"
    );
    let from = i32::try_from(from).unwrap_or(i32::MAX);
    let values = vec![tenant.as_uuid().into(), batch.as_uuid().into(), from.into()];
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        let state = code_of(&row, "state", FileState::from_code)?;
        let stage = code_of(&row, "stage", Stage::from_code)?;
        let outcome = u8::try_from(u32_of(&row, "outcome")?)
            .ok()
            .and_then(Outcome::from_code);
        let reason = u16::try_from(u32_of(&row, "reason")?)
            .ok()
            .and_then(Reason::from_number);
        found.push(SnapshotRow {
            ordinal: u32_of(&row, "ordinal")?,
            state,
            detail: work::detail(state, stage, outcome, reason),
        });
    }
    Ok(found)
}

/// A folder's counters for a snapshot: (number, total, processed, failed, cancelled).
pub(crate) async fn snapshot_folders<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    batch: BatchId,
    from: u32,
    limit: u32,
) -> Result<Vec<[u32; 5]>, DbErr> {
    let sql = format!(
        "SELECT d.folder, d.total, d.processed, d.failed, d.cancelled FROM folders AS d WHERE d.tenant_id = $1 \
         AND d.batch_id = $2 AND d.folder >= $3 ORDER BY d.folder LIMIT {limit}"
    );
    let from = i32::try_from(from).unwrap_or(i32::MAX);
    let values = vec![tenant.as_uuid().into(), batch.as_uuid().into(), from.into()];
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push([
            u32_of(&row, "folder")?,
            u32_of(&row, "total")?,
            u32_of(&row, "processed")?,
            u32_of(&row, "failed")?,
            u32_of(&row, "cancelled")?,
        ]);
    }
    Ok(found)
}
