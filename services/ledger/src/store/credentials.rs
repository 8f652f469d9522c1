//! `api_keys`, and the tenants they belong to.

use caudal_domain::{BatchId, TenantId};
use sea_orm::{ConnectionTrait, DbErr};
use uuid::Uuid;

use super::Session;
use super::time::Micros;

/// One row of `api_keys`.
pub(crate) struct KeyRow {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) role: String,
    pub(crate) batch: Option<BatchId>,
    pub(crate) secret_sha256: Vec<u8>,
    pub(crate) name: String,
    pub(crate) expires_at: Option<Micros>,
    pub(crate) revoked_at: Option<Micros>,
}

/// The key with this id.
pub(crate) async fn key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
) -> Result<Option<KeyRow>, DbErr> {
    let sql = "SELECT k.tenant_id, k.role, k.batch_id, k.secret_sha256, k.name, k.expires_at, k.revoked_at \
               FROM api_keys AS k WHERE k.id = $1";
    let Some(row) = session.row(sql, vec![id.into()]).await? else {
        return Ok(None);
    };
    Ok(Some(KeyRow {
        tenant: row
            .try_get::<Option<Uuid>>("", "tenant_id")?
            .map(TenantId::from_uuid),
        role: row.try_get("", "role")?,
        batch: row
            .try_get::<Option<Uuid>>("", "batch_id")?
            .map(BatchId::from_uuid),
        secret_sha256: row.try_get("", "secret_sha256")?,
        name: row.try_get("", "name")?,
        expires_at: row.try_get::<Option<i64>>("", "expires_at")?.map(Micros),
        revoked_at: row.try_get::<Option<i64>>("", "revoked_at")?.map(Micros),
    }))
}

/// The tenant of this name, made when it is missing.
pub(crate) async fn ensure_tenant<C: ConnectionTrait>(
    session: &Session<'_, C>,
    name: &str,
    now: Micros,
) -> Result<TenantId, DbErr> {
    let sql = "INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, created_at) \
               VALUES ($1, $2, '{}', 0, 0, 0, $3) ON CONFLICT (name) DO NOTHING";
    session
        .execute(sql, vec![Uuid::now_v7().into(), name.into(), now.0.into()])
        .await?;
    let row = session
        .row(
            "SELECT n.tenant_id FROM tenants AS n WHERE n.name = $1",
            vec![name.into()],
        )
        .await?;
    let row = row.ok_or_else(|| DbErr::Custom("the tenant vanished while it was made".into()))?;
    super::tenant_of(&row)
}

/// Stores a key under its id; one that is there already is left alone.
pub(crate) async fn ensure_key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
    secret_sha256: &[u8; 32],
    tenant: Option<TenantId>,
    role: &str,
    now: Micros,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO api_keys (id, tenant_id, role, secret_sha256, name, created_at) \
               VALUES ($1, $2, $3, $4, $1, $5) ON CONFLICT (id) DO NOTHING";
    let values = vec![
        id.into(),
        tenant.map(|tenant| tenant.as_uuid()).into(),
        role.into(),
        secret_sha256.to_vec().into(),
        now.0.into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}
