//! `requests`: what mutations were answered, for those that are repeated.

use caudal_domain::TenantId;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use uuid::Uuid;

use super::page::Page;
use super::time::Micros;
use super::{Session, tenant_of, uuid_of};

/// Names a request: whose it is, and the id they gave it.
pub(crate) type RequestName = (TenantId, Uuid);

/// A request that was answered, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct AnsweredRequest {
    pub(crate) method: String,
    pub(crate) body_hash: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

pub(super) const ANSWERED_COLUMNS: &str =
    "r.tenant_id, r.request_id, r.method, r.body_hash, r.answer";

pub(super) fn page_of<'a>(requests: impl Iterator<Item = &'a RequestName> + Clone) -> Page {
    Page::new()
        .uuids("t", requests.clone().map(|(tenant, _)| tenant.as_uuid()))
        .uuids("id", requests.map(|(_, id)| *id))
}

pub(super) fn read(row: &QueryResult) -> Result<(RequestName, AnsweredRequest), DbErr> {
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
    row.map(|row| read(&row).map(|(_, answered)| answered))
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

/// Deletes answers older than `before`, at most `limit`.
pub(crate) async fn prune<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Micros,
    limit: u32,
) -> Result<(), DbErr> {
    let sql = format!(
        "DELETE FROM requests WHERE (tenant_id, request_id) IN \
         (SELECT tenant_id, request_id FROM requests WHERE at < $1 ORDER BY at LIMIT {limit})"
    );
    session.execute(sql, vec![before.0.into()]).await?;
    Ok(())
}
