//! `attempts`: failures and kills, a row each.

use std::collections::HashMap;

use caudal_domain::{FileRef, Reason, Stage, Token};
use sea_orm::{ConnectionTrait, DbErr};

use super::page::Page;
use super::time::Micros;
use super::{Session, file_of, signed};

/// One row of `attempts`: a failure or a kill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptRow {
    pub(crate) file: FileRef,
    pub(crate) token: Token,
    pub(crate) stage: Stage,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) trace_id: String,
    pub(crate) ended_at: Micros,
}

/// Inserts failures and kills.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[AttemptRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = page_of(rows).texts("trace", rows.iter().map(|row| Some(row.trace_id.clone())));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO attempts (tenant_id, batch_id, ordinal, token, stage, reason, detail, trace_id, ended_at) \
         SELECT u.t, u.b, u.o, u.token, u.stage, u.reason, coalesce(u.detail, ''), coalesce(u.trace, ''), u.at FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

pub(super) fn page_of(rows: &[AttemptRow]) -> Page {
    Page::of_files(rows.iter().map(|row| row.file))
        .numbers("token", rows.iter().map(|row| signed(row.token.get())))
        .numbers("stage", rows.iter().map(|row| i64::from(row.stage.code())))
        .numbers(
            "reason",
            rows.iter().map(|row| i64::from(row.reason.number())),
        )
        .texts("detail", rows.iter().map(|row| Some(row.detail.clone())))
        .numbers("at", rows.iter().map(|row| row.ended_at.0))
}

/// What was said when each of these files last failed: by its last attempt, or by its dead letter where nothing was tried.
pub(crate) async fn last<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<HashMap<FileRef, String>, DbErr> {
    if files.is_empty() {
        return Ok(HashMap::new());
    }
    let page = Page::of_files(files.iter().copied());
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT a.tenant_id, a.batch_id, a.ordinal, a.detail, a.token FROM u JOIN attempts AS a \
         ON a.tenant_id = u.t AND a.batch_id = u.b AND a.ordinal = u.o \
         UNION ALL SELECT d.tenant_id, d.batch_id, d.ordinal, d.detail, d.token FROM u JOIN dead_letters AS d \
         ON d.tenant_id = u.t AND d.batch_id = u.b AND d.ordinal = u.o ORDER BY 5"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        found.insert(file_of(&row)?, row.try_get("", "detail")?);
    }
    Ok(found)
}
