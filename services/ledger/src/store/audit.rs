//! `audit`: who did what. Rows are only ever added.

use caudal_domain::TenantId;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::Session;
use super::time::Micros;

/// One act, written in the transaction that did it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuditRow {
    pub(crate) id: Uuid,
    /// `None`: of the installation itself.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) at: Micros,
    /// The words of the key it was done with, and its id.
    pub(crate) actor: String,
    pub(crate) key_id: String,
    pub(crate) act: String,
    pub(crate) target: String,
    /// JSON.
    pub(crate) detail: String,
}

impl AuditRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            id: row.try_get("", "id")?,
            tenant: row
                .try_get::<Option<Uuid>>("", "tenant_id")?
                .map(TenantId::from_uuid),
            at: Micros(row.try_get("", "at")?),
            actor: row.try_get("", "actor")?,
            key_id: row.try_get("", "key_id")?,
            act: row.try_get("", "act")?,
            target: row.try_get("", "target")?,
            detail: row.try_get("", "detail")?,
        })
    }
}

/// Adds an act.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &AuditRow,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO audit (id, tenant_id, at, actor, key_id, act, target, detail) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let values = vec![
        row.id.into(),
        row.tenant.map(|tenant| tenant.as_uuid()).into(),
        row.at.0.into(),
        row.actor.clone().into(),
        row.key_id.clone().into(),
        row.act.clone().into(),
        row.target.clone().into(),
        row.detail.clone().into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// What was done before an act, the newest first: in one tenant (by index `audit_of_tenant`), or everywhere.
pub(crate) async fn before<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AuditRow>, DbErr> {
    let whose = match tenant {
        Some(_) => "a.tenant_id = $3 AND",
        None => "",
    };
    let order = match tenant {
        Some(_) => "a.tenant_id DESC, a.id DESC",
        None => "a.id DESC",
    };
    let sql = format!(
        "SELECT a.id, a.tenant_id, a.at, a.actor, a.key_id, a.act, a.target, a.detail FROM audit AS a \
         WHERE {whose} a.id < $1 ORDER BY {order} LIMIT $2"
    );
    let mut values: Vec<Value> = vec![
        before.unwrap_or(Uuid::max()).into(),
        i64::from(limit).into(),
    ];
    values.extend(tenant.map(|tenant| Value::from(tenant.as_uuid())));
    let rows = session.rows(sql, values).await?;
    rows.iter().map(AuditRow::read).collect()
}
