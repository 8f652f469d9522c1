//! `leadership`, `changes`, `outbox` and `requests`: what a group of the writer leaves behind beside the files.

use std::collections::HashMap;
use std::time::Duration;

use caudal_domain::{BatchId, Stage, TenantId};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::page::Page;
use super::progress::BatchKey;
use super::time::Micros;
use super::{Session, code_of, signed, tenant_of, u64_of, uuid_of};

/// Takes the leadership if its term has ended, or in any case: the epoch that every group of this ledger then stands
/// under. `None`: another ledger leads.
pub(crate) async fn take_leadership<C: ConnectionTrait>(
    session: &Session<'_, C>,
    holder: &str,
    address: &str,
    term: Duration,
    whatever_the_term: bool,
) -> Result<Option<u64>, DbErr> {
    let now = session.dialect.now();
    let sql = format!(
        "UPDATE leadership SET epoch = epoch + 1, holder = $1, address = $2, until = {now} + $3 \
         WHERE id = 1 AND (until < {now} OR $4)"
    );
    let values = vec![
        holder.into(),
        address.into(),
        micros_of(term).into(),
        whatever_the_term.into(),
    ];
    if session.execute(sql, values).await? == 0 {
        return Ok(None);
    }
    let row = session
        .row("SELECT epoch FROM leadership WHERE id = 1", Vec::new())
        .await?;
    let row = row
        .ok_or_else(|| DbErr::Custom("the leadership row is missing: run the migrations".into()))?;
    u64_of(&row, "epoch").map(Some)
}

/// Makes the term last on; whether `epoch` still leads. With no group in flight, because
/// groups hold the row shared (protocol 9.1).
pub(crate) async fn renew_leadership<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
    term: Duration,
) -> Result<bool, DbErr> {
    let sql = format!(
        "UPDATE leadership SET until = {} + $2 WHERE id = 1 AND epoch = $1",
        session.dialect.now()
    );
    let epoch = signed(epoch);
    Ok(session
        .execute(sql, vec![epoch.into(), micros_of(term).into()])
        .await?
        > 0)
}

/// Ends the term now, so that another ledger takes over at once.
pub(crate) async fn give_back_leadership<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
) -> Result<(), DbErr> {
    let sql = format!(
        "UPDATE leadership SET until = {} WHERE id = 1 AND epoch = $1",
        session.dialect.now()
    );
    session.execute(sql, vec![signed(epoch).into()]).await?;
    Ok(())
}

/// Where the ledger that leads is reached; empty when its term has ended unrenewed, for then it may be dead.
pub(crate) async fn leader_address<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<String, DbErr> {
    let sql = format!(
        "SELECT address FROM leadership WHERE id = 1 AND until >= {}",
        session.dialect.now()
    );
    let row = session.row(sql, Vec::new()).await?;
    row.map_or(Ok(String::new()), |row| row.try_get("", "address"))
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What a group begins with.
pub(crate) struct Beginning {
    /// The database's time.
    pub(crate) now: Micros,
    /// Those of its requests that were answered before.
    pub(crate) answered: Vec<(RequestName, AnsweredRequest)>,
}

/// Begins a group, if `epoch` still leads (protocol 1.1); `None` when another ledger does. The row stays locked, shared,
/// until the transaction ends. In the same statement, for it is one way to the database and back: what `requests` were
/// answered before, by key.
pub(crate) async fn begin<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
    requests: &[RequestName],
) -> Result<Option<Beginning>, DbErr> {
    let now = session.dialect.now();
    let share = session.dialect.for_share_of("l");
    let mut values = vec![signed(epoch).into()];
    let sql = if requests.is_empty() {
        format!("SELECT {now} AS now FROM leadership AS l WHERE l.id = 1 AND l.epoch = $1{share}")
    } else {
        let (page, names) = page_of(requests.iter()).bind(session.dialect, 2);
        values.extend(names);
        format!(
            "WITH {page} SELECT {now} AS now, {ANSWERED_COLUMNS} FROM leadership AS l LEFT JOIN (u JOIN requests AS r \
             ON r.tenant_id = u.t AND r.request_id = u.id) ON 1 = 1 WHERE l.id = 1 AND l.epoch = $1{share}"
        )
    };
    let rows = session.rows(sql, values).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let now = Micros(first.try_get("", "now")?);
    let mut answered = Vec::new();
    if !requests.is_empty() {
        for row in &rows {
            if row.try_get::<Option<Uuid>>("", "request_id")?.is_some() {
                answered.push(read_answered(row)?);
            }
        }
    }
    Ok(Some(Beginning { now, answered }))
}

/// One row of `changes`.
pub(crate) struct ChangeRow {
    pub(crate) key: BatchKey,
    pub(crate) revision: u64,
    pub(crate) batch_revision: u64,
    pub(crate) count: u32,
    pub(crate) body: Vec<u8>,
}

/// Inserts changes.
pub(crate) async fn insert_changes<C: ConnectionTrait>(
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
pub(crate) async fn changes_after<C: ConnectionTrait>(
    session: &Session<'_, C>,
    (tenant, batch): BatchKey,
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

/// Deletes what is older than `before` from `changes` or `requests`, at most `limit` rows.
pub(crate) async fn prune<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before_changes: Micros,
    before_requests: Micros,
    limit: u32,
) -> Result<(), DbErr> {
    let sql = format!(
        "DELETE FROM changes WHERE (tenant_id, revision) IN \
         (SELECT tenant_id, revision FROM changes WHERE at < $1 ORDER BY at LIMIT {limit})"
    );
    session.execute(sql, vec![before_changes.0.into()]).await?;
    let sql = format!(
        "DELETE FROM requests WHERE (tenant_id, request_id) IN \
         (SELECT tenant_id, request_id FROM requests WHERE at < $1 ORDER BY at LIMIT {limit})"
    );
    session.execute(sql, vec![before_requests.0.into()]).await?;
    Ok(())
}

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
pub(crate) async fn insert_outbox<C: ConnectionTrait>(
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
pub(crate) async fn delete_outbox<C: ConnectionTrait>(
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
pub(crate) async fn left_outbox<C: ConnectionTrait>(
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
pub(crate) async fn outbox_after<C: ConnectionTrait>(
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
pub(crate) async fn oldest_outbox<C: ConnectionTrait>(
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

/// Names a request: whose it is, and the id they gave it.
pub(crate) type RequestName = (TenantId, Uuid);

/// A request that was answered, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct AnsweredRequest {
    pub(crate) method: String,
    pub(crate) body_hash: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

const ANSWERED_COLUMNS: &str = "r.tenant_id, r.request_id, r.method, r.body_hash, r.answer";

fn page_of<'a>(requests: impl Iterator<Item = &'a RequestName> + Clone) -> Page {
    Page::new()
        .uuids("t", requests.clone().map(|(tenant, _)| tenant.as_uuid()))
        .uuids("id", requests.map(|(_, id)| *id))
}

fn read_answered(row: &QueryResult) -> Result<(RequestName, AnsweredRequest), DbErr> {
    let answered = AnsweredRequest {
        method: row.try_get("", "method")?,
        body_hash: row.try_get("", "body_hash")?,
        answer: row.try_get("", "answer")?,
    };
    Ok(((tenant_of(row)?, uuid_of(row, "request_id")?), answered))
}

/// What a request was answered, by key.
pub(crate) async fn answered<C: ConnectionTrait>(
    session: &Session<'_, C>,
    (tenant, id): RequestName,
) -> Result<Option<AnsweredRequest>, DbErr> {
    let sql = format!(
        "SELECT {ANSWERED_COLUMNS} FROM requests AS r WHERE r.tenant_id = $1 AND r.request_id = $2"
    );
    let row = session
        .row(sql, vec![tenant.as_uuid().into(), id.into()])
        .await?;
    row.map(|row| read_answered(&row).map(|(_, answered)| answered))
        .transpose()
}

/// Remembers what requests were answered.
pub(crate) async fn remember<C: ConnectionTrait>(
    session: &Session<'_, C>,
    requests: &[(RequestName, AnsweredRequest)],
    now: Micros,
) -> Result<(), DbErr> {
    if requests.is_empty() {
        return Ok(());
    }
    let answers = requests.iter().map(|(_, request)| request);
    let page = page_of(requests.iter().map(|(name, _)| name))
        .texts(
            "method",
            answers.clone().map(|request| Some(request.method.clone())),
        )
        .bytes(
            "hash",
            answers
                .clone()
                .map(|request| Some(request.body_hash.clone())),
        )
        .bytes(
            "answer",
            answers.map(|request| Some(request.answer.clone())),
        );
    let (page, mut values) = page.bind(session.dialect, 1);
    values.push(now.0.into());
    let sql = format!(
        "WITH {page} INSERT INTO requests (tenant_id, request_id, method, body_hash, answer, at) \
         SELECT u.t, u.id, u.method, u.hash, coalesce(u.answer, {}), ${} FROM u",
        session.dialect.no_bytes(),
        values.len()
    );
    session.execute(sql, values).await?;
    Ok(())
}
