//! `dead_letters`: FAILED files, each with its reason.

use std::collections::HashMap;

use caudal_domain::{FileRef, Reason, Token};
use sea_orm::{ConnectionTrait, DbErr};

use super::attempts::{self, AttemptRow};
use super::page::Page;
use super::time::Micros;
use super::work::{self, WorkRow};
use super::{Session, damaged, file_of, u32_of, u64_of};

/// Inserts dead letters: files that became FAILED.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[AttemptRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let (page, values) = attempts::page_of(rows).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO dead_letters (tenant_id, batch_id, ordinal, stage, reason, token, detail, at) \
         SELECT u.t, u.b, u.o, u.stage, u.reason, u.token, coalesce(u.detail, ''), u.at FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Deletes the dead letters of files that left FAILED (protocol 11.1); their attempts stay.
pub(crate) async fn delete<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<(), DbErr> {
    if files.is_empty() {
        return Ok(());
    }
    let (page, values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} DELETE FROM dead_letters WHERE (tenant_id, batch_id, ordinal) IN (SELECT u.t, u.b, u.o FROM u)"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// The dead letters of these files, by key: token and reason.
pub(crate) async fn of_files<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<HashMap<FileRef, (Token, Reason)>, DbErr> {
    if files.is_empty() {
        return Ok(HashMap::new());
    }
    let (page, values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT l.tenant_id, l.batch_id, l.ordinal, l.token, l.reason FROM u JOIN dead_letters AS l \
         ON l.tenant_id = u.t AND l.batch_id = u.b AND l.ordinal = u.o"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        let reason = u16::try_from(u32_of(&row, "reason")?).ok();
        let reason = reason.and_then(Reason::from_number);
        let reason = reason.ok_or_else(|| damaged("reason"))?;
        found.insert(file_of(&row)?, (Token::new(u64_of(&row, "token")?), reason));
    }
    Ok(found)
}

/// Files that were given up without bytes after `from` and until `until`, with the time, in order; by index
/// `dead_letters_without_bytes`.
pub(crate) async fn without_bytes<C: ConnectionTrait>(
    session: &Session<'_, C>,
    (after, file): (Micros, FileRef),
    until: Micros,
    limit: u32,
) -> Result<Vec<(Micros, WorkRow)>, DbErr> {
    // As the index spells them.
    let numbers = Reason::ALL.iter().filter(|reason| reason.never_had_bytes());
    let numbers: Vec<String> = numbers.map(|reason| reason.number().to_string()).collect();
    let sql = format!(
        "SELECT l.at, {} FROM dead_letters AS l JOIN file_work AS w ON w.tenant_id = l.tenant_id \
         AND w.batch_id = l.batch_id AND w.ordinal = l.ordinal WHERE l.reason IN ({}) AND l.at <= $1 \
         AND (l.at, l.tenant_id, l.batch_id, l.ordinal) > ($2, $3, $4, $5) \
         ORDER BY l.at, l.tenant_id, l.batch_id, l.ordinal LIMIT {limit}",
        work::COLUMNS,
        numbers.join(", ")
    );
    let values = vec![
        until.0.into(),
        after.0.into(),
        file.tenant.as_uuid().into(),
        file.batch.as_uuid().into(),
        i32::try_from(file.ordinal).unwrap_or(i32::MAX).into(),
    ];
    let rows = session.rows(sql, values).await?;
    let read = rows
        .iter()
        .map(|row| Ok((Micros(row.try_get("", "at")?), WorkRow::read(row)?)));
    read.collect()
}

/// Takes the dead letters of FAILED files off lists and alarms.
pub(crate) async fn dismiss<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
    now: Micros,
) -> Result<(), DbErr> {
    if files.is_empty() {
        return Ok(());
    }
    let (page, mut values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    values.push(now.0.into());
    let sql = format!(
        "WITH {page} UPDATE dead_letters AS d SET dismissed_at = coalesce(d.dismissed_at, ${}) FROM u \
         WHERE d.tenant_id = u.t AND d.batch_id = u.b AND d.ordinal = u.o",
        values.len()
    );
    session.execute(sql, values).await?;
    Ok(())
}
