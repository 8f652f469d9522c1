//! What happened to one file: its results, failed attempts and dead letter by key, its transitions out of the packed
//! changes of its batch.

use caudal_domain::{FileRef, Reason, Stage, Token};
use caudal_proto::mesh::v1::ChangeSet;
use prost::Message;
use sea_orm::{ConnectionTrait, DbErr, Value};

use super::attempts::AttemptRow;
use super::time::Micros;
use super::{Session, code_of, damaged, signed, u32_of, u64_of};

/// One transition of a file, as it stands in the changes: numbers of states and stage, and the detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) stage: u32,
    pub(crate) detail: u32,
}

/// A stretch of a file's transitions.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// (time, batch revision, transition), in order.
    pub(crate) transitions: Vec<(Micros, u64, Transition)>,
    /// The last change that was looked at, when there are more: (time, batch revision).
    pub(crate) read_up_to: Option<(Micros, u64)>,
}

/// A file's transitions from a batch revision on, out of at most `limit` changes: by index `changes_of_batch`.
pub(crate) async fn transitions<C: ConnectionTrait>(
    session: &Session<'_, C>,
    file: FileRef,
    from_revision: u64,
    limit: u32,
) -> Result<Stretch, DbErr> {
    let sql = format!(
        "SELECT c.batch_revision, c.at, c.body FROM changes AS c WHERE c.tenant_id = $1 AND c.batch_id = $2 \
         AND c.batch_revision >= $3 ORDER BY c.batch_revision LIMIT {}",
        limit.saturating_add(1)
    );
    let values = vec![
        file.tenant.as_uuid().into(),
        file.batch.as_uuid().into(),
        signed(from_revision).into(),
    ];
    let mut rows = session.rows(sql, values).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let mut stretch = Stretch {
        transitions: Vec::new(),
        read_up_to: None,
    };
    for row in &rows {
        let at = Micros(row.try_get("", "at")?);
        let revision = u64_of(row, "batch_revision")?;
        let body: Vec<u8> = row.try_get("", "body")?;
        let changes = ChangeSet::decode(body.as_slice())
            .map_err(|error| DbErr::Custom(format!("a change cannot be read: {error}")))?;
        for (index, ordinal) in changes.ordinal.iter().enumerate() {
            if *ordinal != file.ordinal {
                continue;
            }
            let number = |column: &[u32]| column.get(index).copied().unwrap_or_default();
            let transition = Transition {
                from: number(&changes.from),
                to: number(&changes.to),
                stage: number(&changes.stage),
                detail: number(&changes.detail),
            };
            stretch.transitions.push((at, revision, transition));
        }
        if more {
            stretch.read_up_to = Some((at, revision));
        }
    }
    Ok(stretch)
}

/// Whether the first changes of a file's batch are no longer kept.
pub(crate) async fn is_pruned<C: ConnectionTrait>(
    session: &Session<'_, C>,
    file: FileRef,
) -> Result<bool, DbErr> {
    let sql = "SELECT c.batch_revision FROM changes AS c WHERE c.tenant_id = $1 AND c.batch_id = $2 \
               ORDER BY c.batch_revision LIMIT 1";
    let values = vec![file.tenant.as_uuid().into(), file.batch.as_uuid().into()];
    let row = session.row(sql, values).await?;
    let oldest = row.map(|row| u64_of(&row, "batch_revision")).transpose()?;
    Ok(oldest.is_none_or(|oldest| oldest > 1))
}

/// All failures and kills of a file; by key.
pub(crate) async fn attempts_of<C: ConnectionTrait>(
    session: &Session<'_, C>,
    file: FileRef,
) -> Result<Vec<AttemptRow>, DbErr> {
    let sql = "SELECT a.token, a.stage, a.reason, a.detail, a.trace_id, a.ended_at FROM attempts AS a \
               WHERE a.tenant_id = $1 AND a.batch_id = $2 AND a.ordinal = $3 ORDER BY a.token";
    let mut found = Vec::new();
    for row in session.rows(sql, key_of(file)).await? {
        found.push(AttemptRow {
            file,
            token: Token::new(u64_of(&row, "token")?),
            stage: code_of(&row, "stage", Stage::from_code)?,
            reason: reason_of(&row)?,
            detail: row.try_get("", "detail")?,
            trace_id: row.try_get("", "trace_id")?,
            ended_at: Micros(row.try_get("", "ended_at")?),
        });
    }
    Ok(found)
}

/// The dead letter of a FAILED file.
#[derive(Clone, Debug)]
pub(crate) struct LetterRow {
    pub(crate) stage: Stage,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) at: Micros,
    pub(crate) dismissed_at: Option<Micros>,
}

/// The dead letter of a file, if it is FAILED; by key.
pub(crate) async fn letter_of<C: ConnectionTrait>(
    session: &Session<'_, C>,
    file: FileRef,
) -> Result<Option<LetterRow>, DbErr> {
    let sql = "SELECT d.stage, d.reason, d.detail, d.at, d.dismissed_at FROM dead_letters AS d \
               WHERE d.tenant_id = $1 AND d.batch_id = $2 AND d.ordinal = $3";
    let row = session.row(sql, key_of(file)).await?;
    row.map(|row| {
        Ok(LetterRow {
            stage: code_of(&row, "stage", Stage::from_code)?,
            reason: reason_of(&row)?,
            detail: row.try_get("", "detail")?,
            at: Micros(row.try_get("", "at")?),
            dismissed_at: row.try_get::<Option<i64>>("", "dismissed_at")?.map(Micros),
        })
    })
    .transpose()
}

fn key_of(file: FileRef) -> Vec<Value> {
    vec![
        file.tenant.as_uuid().into(),
        file.batch.as_uuid().into(),
        i32::try_from(file.ordinal).unwrap_or(i32::MAX).into(),
    ]
}

fn reason_of(row: &sea_orm::QueryResult) -> Result<Reason, DbErr> {
    u16::try_from(u32_of(row, "reason")?)
        .ok()
        .and_then(Reason::from_number)
        .ok_or_else(|| damaged("reason"))
}
