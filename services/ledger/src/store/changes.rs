//! `changes`: recorded transitions, packed one row a commit and batch.

use super::page::Page;
use super::time::Micros;
use super::{Session, signed, tenant_of, u64_of, uuid_of};
use caudal_domain::{BatchId, BatchRef, TenantId};
use sea_orm::{ConnectionTrait, DbErr, Value};

/// One row of `changes`.
pub(crate) struct ChangeRow {
    pub(crate) key: BatchRef,
    pub(crate) revision: u64,
    pub(crate) batch_revision: u64,
    pub(crate) count: u32,
    pub(crate) body: Vec<u8>,
}

/// Inserts changes.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[ChangeRow],
    now: Micros,
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = Page::of_batches(rows.iter().map(|row| row.key))
        .numbers("revision", rows.iter().map(|row| signed(row.revision)))
        .numbers("r", rows.iter().map(|row| signed(row.batch_revision)))
        .numbers("n", rows.iter().map(|row| i64::from(row.count)))
        .bytes("body", rows.iter().map(|row| Some(row.body.clone())));
    let (page, mut values) = page.bind(session.dialect, 1);
    values.push(now.0.into());
    let sql = format!(
        "WITH {page} INSERT INTO changes (tenant_id, revision, batch_id, batch_revision, at, n, body) \
         SELECT u.t, u.revision, u.b, u.r, ${}, u.n, u.body FROM u",
        values.len()
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// The changes of one batch after a revision, by index `changes_of_batch`: (batch revision, body).
pub(crate) async fn after<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
    after: u64,
    limit: u32,
) -> Result<Vec<(u64, Vec<u8>)>, DbErr> {
    let sql = format!(
        "SELECT c.batch_revision, c.body FROM changes AS c WHERE c.tenant_id = $1 AND c.batch_id = $2 \
         AND c.batch_revision > $3 ORDER BY c.batch_revision LIMIT {limit}"
    );
    let values = vec![
        tenant.as_uuid().into(),
        batch.as_uuid().into(),
        signed(after).into(),
    ];
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push((u64_of(&row, "batch_revision")?, row.try_get("", "body")?));
    }
    Ok(found)
}

/// A recorded change, as events are made from it.
pub(crate) struct RecordedChange {
    pub(crate) revision: u64,
    pub(crate) batch: BatchId,
    pub(crate) batch_revision: u64,
    pub(crate) at: Micros,
    pub(crate) body: Vec<u8>,
}

/// A tenant's changes after a revision of its own, by key; of one batch by index `changes_of_batch`, from where it was at
/// that revision: both revisions rise together, so that is found from its newest change back.
pub(crate) async fn tenant_changes_after<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    batch: Option<BatchId>,
    after: u64,
    limit: u32,
) -> Result<Vec<RecordedChange>, DbErr> {
    let mut values: Vec<Value> = vec![tenant.as_uuid().into(), signed(after).into()];
    let (range, order) = match batch {
        Some(batch) => {
            values.push(batch.as_uuid().into());
            let range = "c.batch_id = $3 AND c.batch_revision > coalesce((SELECT b.batch_revision FROM changes AS b \
                         WHERE b.tenant_id = $1 AND b.batch_id = $3 AND b.revision + 0 <= $2 \
                         ORDER BY b.batch_revision DESC LIMIT 1), 0)";
            (range, "c.batch_revision")
        }
        None => ("c.revision > $2", "c.revision"),
    };
    let sql = format!(
        "SELECT c.revision, c.batch_id, c.batch_revision, c.at, c.body FROM changes AS c WHERE c.tenant_id = $1 \
         AND {range} ORDER BY {order} LIMIT {limit}"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push(RecordedChange {
            revision: u64_of(&row, "revision")?,
            batch: BatchId::from_uuid(uuid_of(&row, "batch_id")?),
            batch_revision: u64_of(&row, "batch_revision")?,
            at: Micros(row.try_get("", "at")?),
            body: row.try_get("", "body")?,
        });
    }
    Ok(found)
}

/// The tenant's revision, and that of its oldest kept change.
pub(crate) async fn tenant_revisions<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<(u64, Option<u64>), DbErr> {
    let sql = "SELECT n.revision FROM tenants AS n WHERE n.tenant_id = $1";
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    let newest = row
        .map(|row| u64_of(&row, "revision"))
        .transpose()?
        .unwrap_or(0);
    let sql =
        "SELECT c.revision FROM changes AS c WHERE c.tenant_id = $1 ORDER BY c.revision LIMIT 1";
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    Ok((newest, row.map(|row| u64_of(&row, "revision")).transpose()?))
}

/// What is kept of a tenant's changes.
pub(crate) struct KeptRevisions {
    pub(crate) tenant: TenantId,
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    pub(crate) count: u64,
    /// The revision in the tenant's row.
    pub(crate) recorded: u64,
}

/// What is kept of each tenant's changes: all of them are read, so only for a check of everything.
pub(crate) async fn kept_revisions<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<KeptRevisions>, DbErr> {
    let sql = "SELECT n.tenant_id, n.revision, min(c.revision) AS oldest, max(c.revision) AS newest, count(*) AS kept \
               FROM tenants AS n JOIN changes AS c ON c.tenant_id = n.tenant_id GROUP BY n.tenant_id, n.revision";
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        found.push(KeptRevisions {
            tenant: tenant_of(&row)?,
            oldest: u64_of(&row, "oldest")?,
            newest: u64_of(&row, "newest")?,
            count: u64_of(&row, "kept")?,
            recorded: u64_of(&row, "revision")?,
        });
    }
    Ok(found)
}

/// Deletes changes older than `before`, at most `limit` rows.
pub(crate) async fn prune<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Micros,
    limit: u32,
) -> Result<(), DbErr> {
    let sql = format!(
        "DELETE FROM changes WHERE (tenant_id, revision) IN \
         (SELECT tenant_id, revision FROM changes WHERE at < $1 ORDER BY at LIMIT {limit})"
    );
    session.execute(sql, vec![before.0.into()]).await?;
    Ok(())
}
