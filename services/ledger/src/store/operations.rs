//! `operations`: long jobs over many files, with how far they are.

use std::collections::BTreeMap;

use caudal_domain::{BatchId, Stage, TenantId};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::selection::Position;
use super::time::Micros;
use super::{Session, damaged, signed, tenant_of, u64_of, uuid_of};

/// What is done to chosen files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileVerb {
    /// Whatever is not final becomes CANCELLED.
    Cancel,
    /// FAILED files go on where they failed, or wait for their bytes again where the reason says so.
    Retry {
        /// RETRYING files go out now as well.
        skip_backoff: bool,
    },
    /// PROCESSED files go through the route again from a stage on.
    Reprocess {
        from: Stage,
        /// Later stages work again even where their version is the newest.
        force: bool,
    },
    /// The dead letters of FAILED files leave lists and alarms.
    Dismiss,
}

/// Whether an operation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationState {
    Running,
    Succeeded,
    Cancelled,
    /// A slice of it failed again and again.
    Failed,
}

impl OperationState {
    const ALL: [Self; 4] = [
        Self::Running,
        Self::Succeeded,
        Self::Cancelled,
        Self::Failed,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
        }
    }
}

/// One row of `operations`.
#[derive(Clone, Debug)]
pub(crate) struct OperationRow {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) verb: FileVerb,
    /// An encoded `FileSelector`.
    pub(crate) selector: Vec<u8>,
    pub(crate) state: OperationState,
    /// `None`: at the beginning.
    pub(crate) cursor: Option<Position>,
    pub(crate) matched: u64,
    /// 0: no bound.
    pub(crate) max_count: u64,
    pub(crate) done: u64,
    /// How many files were left alone, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) requested_by: String,
    /// Tenants do not see what operators do.
    pub(crate) by_operator: bool,
    pub(crate) created_at: Micros,
    pub(crate) updated_at: Micros,
    pub(crate) ended_at: Option<Micros>,
}

/// What a verb is told beside its name.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct VerbOptions {
    #[serde(skip_serializing_if = "is_false")]
    skip_backoff: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_stage: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    force: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn words_of(verb: &FileVerb) -> (&'static str, VerbOptions) {
    match verb {
        FileVerb::Cancel => ("CANCEL", VerbOptions::default()),
        FileVerb::Retry { skip_backoff } => (
            "RETRY",
            VerbOptions {
                skip_backoff: *skip_backoff,
                ..VerbOptions::default()
            },
        ),
        FileVerb::Reprocess { from, force } => (
            "REPROCESS",
            VerbOptions {
                from_stage: Some(from.name().to_owned()),
                force: *force,
                ..VerbOptions::default()
            },
        ),
        FileVerb::Dismiss => ("DISMISS", VerbOptions::default()),
    }
}

fn verb_of(kind: &str, options: &str) -> Result<FileVerb, DbErr> {
    let options: VerbOptions = serde_json::from_str(options).map_err(|_| damaged("options"))?;
    Ok(match kind {
        "CANCEL" => FileVerb::Cancel,
        "RETRY" => FileVerb::Retry {
            skip_backoff: options.skip_backoff,
        },
        "REPROCESS" => FileVerb::Reprocess {
            from: options
                .from_stage
                .as_deref()
                .and_then(Stage::from_name)
                .ok_or_else(|| damaged("options"))?,
            force: options.force,
        },
        "DISMISS" => FileVerb::Dismiss,
        _ => return Err(damaged("kind")),
    })
}

const COLUMNS: &str = "o.tenant_id, o.operation_id, o.kind, o.options, o.selector, o.state, o.cursor_batch, \
    o.cursor_ordinal, o.matched, o.max_count, o.done, o.refused, o.requested_by, o.by_operator, o.created_at, \
    o.updated_at, o.ended_at";

impl OperationRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let kind: String = row.try_get("", "kind")?;
        let options: String = row.try_get("", "options")?;
        let state: String = row.try_get("", "state")?;
        let refused: String = row.try_get("", "refused")?;
        let batch: Option<Uuid> = row.try_get("", "cursor_batch")?;
        let ordinal: Option<i32> = row.try_get("", "cursor_ordinal")?;
        Ok(Self {
            tenant: tenant_of(row)?,
            id: uuid_of(row, "operation_id")?,
            verb: verb_of(&kind, &options)?,
            selector: row.try_get("", "selector")?,
            state: OperationState::ALL
                .into_iter()
                .find(|known| known.name() == state)
                .ok_or_else(|| damaged("state"))?,
            cursor: match (batch, ordinal) {
                (Some(batch), Some(ordinal)) => Some(Position {
                    batch: BatchId::from_uuid(batch),
                    ordinal: u32::try_from(ordinal).map_err(|_| damaged("cursor_ordinal"))?,
                }),
                _ => None,
            },
            matched: u64_of(row, "matched")?,
            max_count: u64_of(row, "max_count")?,
            done: u64_of(row, "done")?,
            refused: serde_json::from_str(&refused).map_err(|_| damaged("refused"))?,
            requested_by: row.try_get("", "requested_by")?,
            by_operator: row.try_get("", "by_operator")?,
            created_at: Micros(row.try_get("", "created_at")?),
            updated_at: Micros(row.try_get("", "updated_at")?),
            ended_at: row.try_get::<Option<i64>>("", "ended_at")?.map(Micros),
        })
    }

    /// Files looked at so far.
    pub(crate) fn looked_at(&self) -> u64 {
        self.done + self.refused.values().sum::<u64>()
    }
}

/// Inserts a new operation.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &OperationRow,
) -> Result<(), DbErr> {
    let (kind, options) = words_of(&row.verb);
    let options = serde_json::to_string(&options).map_err(|_| damaged("options"))?;
    let sql = "INSERT INTO operations (tenant_id, operation_id, kind, options, selector, state, matched, max_count, done, \
               refused, requested_by, by_operator, next_at, created_at, updated_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '{}', $9, $10, $11, $11, $11)";
    let values: Vec<Value> = vec![
        row.tenant.as_uuid().into(),
        row.id.into(),
        kind.into(),
        options.into(),
        row.selector.clone().into(),
        row.state.name().into(),
        signed(row.matched).into(),
        signed(row.max_count).into(),
        row.requested_by.clone().into(),
        row.by_operator.into(),
        row.created_at.0.into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// One operation by key, locked until the transaction ends.
pub(crate) async fn lock<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<OperationRow>, DbErr> {
    let lock = session.dialect.for_update();
    let sql = format!(
        "SELECT {COLUMNS} FROM operations AS o WHERE o.tenant_id = $1 AND o.operation_id = $2{lock}"
    );
    let row = session
        .row(sql, vec![tenant.as_uuid().into(), id.into()])
        .await?;
    row.map(|row| OperationRow::read(&row)).transpose()
}

/// Writes how far a locked operation is; its next turn comes after those of the others.
pub(crate) async fn update<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &OperationRow,
) -> Result<(), DbErr> {
    let refused = serde_json::to_string(&row.refused).map_err(|_| damaged("refused"))?;
    let sql = "UPDATE operations SET state = $3, cursor_batch = $4, cursor_ordinal = $5, done = $6, refused = $7, \
               next_at = $8, updated_at = $8, ended_at = $9 WHERE tenant_id = $1 AND operation_id = $2";
    let values: Vec<Value> = vec![
        row.tenant.as_uuid().into(),
        row.id.into(),
        row.state.name().into(),
        row.cursor.map(|cursor| cursor.batch.as_uuid()).into(),
        row.cursor
            .map(|cursor| i32::try_from(cursor.ordinal).unwrap_or(i32::MAX))
            .into(),
        signed(row.done).into(),
        refused.into(),
        row.updated_at.0.into(),
        row.ended_at.map(|at| at.0).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Whose operations a caller sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Viewer {
    /// Those that the tenant's own members began.
    Tenant(TenantId),
    /// All.
    Operator,
}

/// One operation, if the caller sees it: by index `operations_id`.
pub(crate) async fn get<C: ConnectionTrait>(
    session: &Session<'_, C>,
    viewer: Viewer,
    id: Uuid,
) -> Result<Option<OperationRow>, DbErr> {
    let mut values: Vec<Value> = vec![id.into()];
    let seen = seen_by(viewer, &mut values);
    let sql = format!("SELECT {COLUMNS} FROM operations AS o WHERE o.operation_id = $1{seen}");
    let row = session.row(sql, values).await?;
    row.map(|row| OperationRow::read(&row)).transpose()
}

/// Operations below an id, newest first: their ids rise with time.
pub(crate) async fn list<C: ConnectionTrait>(
    session: &Session<'_, C>,
    viewer: Viewer,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<OperationRow>, DbErr> {
    let mut values: Vec<Value> = vec![before.unwrap_or(Uuid::max()).into()];
    let seen = seen_by(viewer, &mut values);
    values.push(i64::from(limit).into());
    let sql = format!(
        "SELECT {COLUMNS} FROM operations AS o WHERE o.operation_id < $1{seen} ORDER BY o.operation_id DESC LIMIT ${}",
        values.len()
    );
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(OperationRow::read)
        .collect()
}

fn seen_by(viewer: Viewer, values: &mut Vec<Value>) -> &'static str {
    match viewer {
        Viewer::Tenant(tenant) => {
            values.push(tenant.as_uuid().into());
            " AND o.tenant_id = $2 AND NOT o.by_operator"
        }
        Viewer::Operator => "",
    }
}

/// How many operations of a tenant are under way; by index `operations_running`.
pub(crate) async fn running<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<u64, DbErr> {
    let sql = "SELECT COUNT(*) AS running FROM operations AS o WHERE o.tenant_id = $1 AND o.state = 'RUNNING'";
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    row.map_or(Ok(0), |row| u64_of(&row, "running"))
}

/// Operations that go on, those whose turn was longest ago first; by index `operations_due`.
pub(crate) async fn due<C: ConnectionTrait>(
    session: &Session<'_, C>,
    limit: u32,
) -> Result<Vec<OperationRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM operations AS o WHERE o.state = 'RUNNING' ORDER BY o.next_at LIMIT {limit}"
    );
    session
        .rows(sql, Vec::new())
        .await?
        .iter()
        .map(OperationRow::read)
        .collect()
}

/// Deletes operations that ended before `before`, at most `limit`; by index `operations_ended`.
pub(crate) async fn prune<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Micros,
    limit: u32,
) -> Result<(), DbErr> {
    let sql = format!(
        "DELETE FROM operations WHERE (tenant_id, operation_id) IN (SELECT tenant_id, operation_id FROM operations \
         WHERE ended_at < $1 ORDER BY ended_at LIMIT {limit})"
    );
    session.execute(sql, vec![before.0.into()]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_verb_is_read_as_it_was_written() {
        for verb in [
            FileVerb::Cancel,
            FileVerb::Retry { skip_backoff: true },
            FileVerb::Retry {
                skip_backoff: false,
            },
            FileVerb::Reprocess {
                from: Stage::Embeddings,
                force: true,
            },
            FileVerb::Dismiss,
        ] {
            let (kind, options) = words_of(&verb);
            let options = serde_json::to_string(&options).unwrap();
            let read = verb_of(kind, &options).unwrap();
            assert_eq!(format!("{read:?}"), format!("{verb:?}"));
        }
    }
}
