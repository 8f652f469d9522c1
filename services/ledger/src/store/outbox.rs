//! `outbox`: dispatches that Redis has not accepted yet.

use std::collections::HashMap;

use caudal_domain::Stage;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::page::Page;
use super::time::Micros;
use super::{Session, code_of, signed, u64_of};

/// Ids that one epoch can give.
const OUTBOX_COUNTER_BITS: u32 = 40;

/// An id of the outbox: unique without asking the database back, because no two ledgers share an epoch. All ids of an
/// earlier epoch stand below `outbox_id(epoch, 0)`.
pub(crate) fn outbox_id(epoch: u64, counter: u64) -> u64 {
    (epoch << OUTBOX_COUNTER_BITS) | counter
}

/// One row of `outbox`.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    pub(crate) id: u64,
    pub(crate) stage: Stage,
    pub(crate) body: Vec<u8>,
}

impl OutboxRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            id: u64_of(row, "id")?,
            stage: code_of(row, "stage", Stage::from_code)?,
            body: row.try_get("", "body")?,
        })
    }
}

/// Inserts dispatches that are to be published.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[OutboxRow],
    now: Micros,
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = Page::new()
        .numbers("id", rows.iter().map(|row| signed(row.id)))
        .numbers("stage", rows.iter().map(|row| i64::from(row.stage.code())))
        .bytes("body", rows.iter().map(|row| Some(row.body.clone())));
    let (page, mut values) = page.bind(session.dialect, 1);
    values.push(now.0.into());
    let sql = format!(
        "WITH {page} INSERT INTO outbox (id, stage, at, body) SELECT u.id, u.stage, ${}, u.body FROM u",
        values.len()
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Deletes rows that Redis accepted, by their ids: a cursor would skip rows whose commit came late (protocol 3.3).
pub(crate) async fn delete<C: ConnectionTrait>(
    session: &Session<'_, C>,
    ids: &[u64],
) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    let page = Page::new().numbers("id", ids.iter().map(|id| signed(*id)));
    let (page, values) = page.bind(session.dialect, 1);
    session
        .execute(
            format!("WITH {page} DELETE FROM outbox WHERE id IN (SELECT u.id FROM u)"),
            values,
        )
        .await?;
    Ok(())
}

/// Rows that nobody will publish any more: those with an id below `own`, the first that the leading ledger gives, are a
/// dead ledger's whatever their age; those older than `before` were left by a relay that had no room. By key: the oldest
/// stand first, and the table holds only what is not published.
pub(crate) async fn left<C: ConnectionTrait>(
    session: &Session<'_, C>,
    own: u64,
    before: Micros,
    limit: u32,
) -> Result<Vec<OutboxRow>, DbErr> {
    let sql = format!(
        "SELECT o.id, o.stage, o.body FROM outbox AS o WHERE o.id < $1 OR o.at <= $2 ORDER BY o.id LIMIT {limit}"
    );
    let values = vec![signed(own).into(), before.0.into()];
    let rows = session.rows(sql, values).await?;
    rows.iter().map(OutboxRow::read).collect()
}

/// All rows, page by page: those after an id, by key.
pub(crate) async fn after<C: ConnectionTrait>(
    session: &Session<'_, C>,
    after: u64,
    limit: u32,
) -> Result<Vec<OutboxRow>, DbErr> {
    let sql = format!(
        "SELECT o.id, o.stage, o.body FROM outbox AS o WHERE o.id > $1 ORDER BY o.id LIMIT {limit}"
    );
    let rows = session.rows(sql, vec![signed(after).into()]).await?;
    rows.iter().map(OutboxRow::read).collect()
}

/// When the oldest unpublished dispatch of each stage was written (protocol 8.1).
pub(crate) async fn oldest<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<HashMap<Stage, Micros>, DbErr> {
    let mut found = HashMap::new();
    for row in session
        .rows(
            "SELECT o.stage, min(o.at) AS at FROM outbox AS o GROUP BY o.stage",
            Vec::new(),
        )
        .await?
    {
        found.insert(
            code_of(&row, "stage", Stage::from_code)?,
            Micros(row.try_get("", "at")?),
        );
    }
    Ok(found)
}
