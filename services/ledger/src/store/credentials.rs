//! `api_keys`, and the tenants they belong to.

use std::time::Duration;

use caudal_domain::plain_text::called;
use caudal_domain::{BatchId, TenantId};
use caudal_node::scope::Role;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::time::Micros;
use super::{Session, signed};

/// One row of `api_keys`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    /// `None`: an operator's.
    pub(crate) tenant: Option<TenantId>,
    /// `None`: what stands there is no role.
    pub(crate) role: Option<Role>,
    pub(crate) batch: Option<BatchId>,
    pub(crate) secret_sha256: Vec<u8>,
    pub(crate) name: String,
    pub(crate) created_at: Micros,
    pub(crate) expires_at: Option<Micros>,
    /// How long it was given when it was made; `None`: until it is revoked.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) revoked_at: Option<Micros>,
    pub(crate) last_used_at: Option<Micros>,
    /// What an upload token may add.
    pub(crate) may_add: Allowance,
    /// What was added with it.
    pub(crate) added: Spent,
}

/// What an upload token may add to its batch; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) files: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

/// What was added with an upload token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl KeyRow {
    /// Whether calls are taken with it.
    pub(crate) fn is_good(&self, now: Micros) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|until| until > now)
    }

    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let time = |column| -> Result<Option<Micros>, DbErr> {
            Ok(row.try_get::<Option<i64>>("", column)?.map(Micros))
        };
        let number = |column| -> Result<Option<u64>, DbErr> {
            let number: Option<i64> = row.try_get("", column)?;
            Ok(number.map(|number| u64::try_from(number).unwrap_or_default()))
        };
        let role: String = row.try_get("", "role")?;
        Ok(Self {
            id: row.try_get("", "id")?,
            tenant: row
                .try_get::<Option<Uuid>>("", "tenant_id")?
                .map(TenantId::from_uuid),
            role: role_named(&role),
            batch: row
                .try_get::<Option<Uuid>>("", "batch_id")?
                .map(BatchId::from_uuid),
            secret_sha256: row.try_get("", "secret_sha256")?,
            name: row.try_get("", "name")?,
            created_at: Micros(row.try_get("", "created_at")?),
            expires_at: time("expires_at")?,
            lifetime: number("lifetime")?.map(Duration::from_micros),
            revoked_at: time("revoked_at")?,
            last_used_at: time("last_used_at")?,
            may_add: Allowance {
                files: number("max_files")?,
                bytes: number("max_bytes")?,
            },
            added: Spent {
                files: number("used_files")?.unwrap_or_default(),
                bytes: number("used_bytes")?.unwrap_or_default(),
            },
        })
    }
}

const ROLES: [(Role, &str); 5] = [
    (Role::Uploader, "UPLOADER"),
    (Role::Viewer, "VIEWER"),
    (Role::Member, "MEMBER"),
    (Role::Admin, "ADMIN"),
    (Role::Operator, "OPERATOR"),
];

fn role_named(name: &str) -> Option<Role> {
    let mut roles = ROLES.iter();
    roles.find_map(|(role, stored)| (*stored == name).then_some(*role))
}

/// A role as it is stored; keys of the mesh are none.
pub(crate) fn role_name(role: Role) -> &'static str {
    let mut roles = ROLES.iter();
    roles
        .find_map(|(known, name)| (*known == role).then_some(*name))
        .unwrap_or_default()
}

const COLUMNS: &str = "k.id, k.tenant_id, k.role, k.batch_id, k.secret_sha256, k.name, k.created_at, k.expires_at, \
    k.lifetime, k.revoked_at, k.last_used_at, k.max_files, k.max_bytes, k.used_files, k.used_bytes";

/// The key with this id.
pub(crate) async fn key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
) -> Result<Option<KeyRow>, DbErr> {
    let sql = format!("SELECT {COLUMNS} FROM api_keys AS k WHERE k.id = $1");
    let row = session.row(sql, vec![id.into()]).await?;
    row.map(|row| KeyRow::read(&row)).transpose()
}

/// A key as it is checked, and the tenant that it works in.
pub(crate) struct Presented {
    pub(crate) key: KeyRow,
    /// The limits of the tenant; `None`: there is no such tenant, or it is closed.
    pub(crate) limits: Option<String>,
    pub(crate) now: Micros,
}

/// The key with this id, for whoever comes with it.
pub(crate) async fn presented<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
) -> Result<Option<Presented>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS}, n.limits, {} AS now FROM api_keys AS k LEFT JOIN tenants AS n \
         ON n.tenant_id = k.tenant_id AND n.closed_at IS NULL WHERE k.id = $1",
        session.dialect.now()
    );
    let Some(row) = session.row(sql, vec![id.into()]).await? else {
        return Ok(None);
    };
    Ok(Some(Presented {
        key: KeyRow::read(&row)?,
        limits: row.try_get("", "limits")?,
        now: Micros(row.try_get("", "now")?),
    }))
}

/// The keys of a tenant, or of operators, the newest first, from a place on; by index `api_keys_of_tenant` and
/// `api_keys_of_operators`.
pub(crate) async fn keys<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    before: Option<(Micros, &str)>,
    limit: u32,
) -> Result<Vec<KeyRow>, DbErr> {
    let (at, id) = before.map_or((i64::MAX, ""), |(at, id)| (at.0, id));
    let whose = match tenant {
        Some(_) => "k.tenant_id = $4",
        None => "k.tenant_id IS NULL",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM api_keys AS k WHERE {whose} AND k.created_at <= $1 \
         AND (k.created_at < $1 OR k.id < $2) ORDER BY k.created_at DESC, k.id DESC LIMIT $3"
    );
    let mut values: Vec<Value> = vec![at.into(), id.into(), i64::from(limit).into()];
    values.extend(tenant.map(|tenant| Value::from(tenant.as_uuid())));
    let rows = session.rows(sql, values).await?;
    rows.iter().map(KeyRow::read).collect()
}

/// How many good keys and upload tokens a tenant has, or operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoodKeys {
    pub(crate) keys: u64,
    /// Those of the keys that do not end by themselves.
    pub(crate) lasting: u64,
    pub(crate) tokens: u64,
}

#[cfg(test)]
impl GoodKeys {
    /// Counts one more.
    pub(crate) fn add(&mut self, key: &KeyRow) {
        if key.batch.is_some() {
            self.tokens += 1;
            return;
        }
        self.keys += 1;
        if key.expires_at.is_none() {
            self.lasting += 1;
        }
    }
}

/// Counts the good keys of a tenant, or of operators.
pub(crate) async fn good_keys<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    now: Micros,
) -> Result<GoodKeys, DbErr> {
    let whose = match tenant {
        Some(_) => "k.tenant_id = $2",
        None => "k.tenant_id IS NULL",
    };
    let sql = format!(
        "SELECT COUNT(CASE WHEN k.batch_id IS NULL THEN 1 END) AS keys, \
         COUNT(CASE WHEN k.batch_id IS NULL AND k.expires_at IS NULL THEN 1 END) AS lasting, \
         COUNT(CASE WHEN k.batch_id IS NOT NULL THEN 1 END) AS tokens FROM api_keys AS k WHERE {whose} AND k.revoked_at IS NULL \
         AND (k.expires_at IS NULL OR k.expires_at > $1)"
    );
    let mut values: Vec<Value> = vec![now.0.into()];
    values.extend(tenant.map(|tenant| Value::from(tenant.as_uuid())));
    match session.row(sql, values).await? {
        Some(row) => Ok(GoodKeys {
            keys: super::u64_of(&row, "keys")?,
            lasting: super::u64_of(&row, "lasting")?,
            tokens: super::u64_of(&row, "tokens")?,
        }),
        None => Ok(GoodKeys::default()),
    }
}

/// Inserts a key.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    key: &KeyRow,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO api_keys (id, tenant_id, role, batch_id, secret_sha256, name, created_at, expires_at, \
               lifetime, max_files, max_bytes, used_files, used_bytes) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0)";
    let values = vec![
        key.id.clone().into(),
        key.tenant.map(|tenant| tenant.as_uuid()).into(),
        key.role.map_or("", role_name).into(),
        key.batch.map(|batch| batch.as_uuid()).into(),
        key.secret_sha256.clone().into(),
        key.name.clone().into(),
        key.created_at.0.into(),
        key.expires_at.map(|at| at.0).into(),
        key.lifetime.map(micros).into(),
        key.may_add.files.map(signed).into(),
        key.may_add.bytes.map(signed).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Writes when a key ends.
pub(crate) async fn set_end<C: ConnectionTrait>(
    session: &Session<'_, C>,
    key: &KeyRow,
) -> Result<(), DbErr> {
    let sql = "UPDATE api_keys SET expires_at = $2, revoked_at = $3 WHERE id = $1";
    let values = vec![
        key.id.clone().into(),
        key.expires_at.map(|at| at.0).into(),
        key.revoked_at.map(|at| at.0).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Notes that a key was used.
pub(crate) async fn set_used<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
    at: Micros,
) -> Result<(), DbErr> {
    let sql = "UPDATE api_keys SET last_used_at = $2 WHERE id = $1";
    session.execute(sql, vec![id.into(), at.0.into()]).await?;
    Ok(())
}

/// Counts what was added with an upload token.
pub(crate) async fn spend<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
    spent: Spent,
) -> Result<(), DbErr> {
    let sql = "UPDATE api_keys SET used_files = used_files + $2, used_bytes = used_bytes + $3 WHERE id = $1";
    let values = vec![
        id.into(),
        signed(spent.files).into(),
        signed(spent.bytes).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// The tenant of this name, made when it is missing.
pub(crate) async fn ensure_tenant<C: ConnectionTrait>(
    session: &Session<'_, C>,
    name: &str,
    now: Micros,
) -> Result<TenantId, DbErr> {
    let sql = "INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, created_at, called) \
               VALUES ($1, $2, '{}', 0, 0, 0, $3, $4) ON CONFLICT DO NOTHING";
    let values = vec![
        Uuid::now_v7().into(),
        name.into(),
        now.0.into(),
        called(name).into(),
    ];
    session.execute(sql, values).await?;
    let found = super::tenants::named(session, name).await?;
    found.ok_or_else(|| DbErr::Custom("the tenant vanished while it was made".into()))
}

/// Stores a key under its id; one that is there already is left alone, revoked or not.
pub(crate) async fn ensure_key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    id: &str,
    secret_sha256: &[u8; 32],
    tenant: Option<TenantId>,
    role: Role,
    now: Micros,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO api_keys (id, tenant_id, role, secret_sha256, name, created_at) \
               VALUES ($1, $2, $3, $4, $1, $5) ON CONFLICT (id) DO NOTHING";
    let values = vec![
        id.into(),
        tenant.map(|tenant| tenant.as_uuid()).into(),
        role_name(role).into(),
        secret_sha256.to_vec().into(),
        now.0.into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}
