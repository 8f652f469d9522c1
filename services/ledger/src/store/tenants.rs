//! `tenants`: their limits and use, and what they call themselves.

use std::collections::HashMap;

use caudal_domain::TenantId;
use caudal_domain::plain_text::called;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use uuid::Uuid;

use super::page::Page;
use super::time::Micros;
use super::{Session, signed, tenant_of, u32_of, u64_of};
use crate::settings::OwnLimits;

/// What tenants call themselves, by key. Those that do not exist are left out.
pub(crate) async fn names<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenants: &[TenantId],
) -> Result<HashMap<TenantId, String>, DbErr> {
    let mut found = HashMap::new();
    if tenants.is_empty() {
        return Ok(found);
    }
    let page = Page::new().uuids("t", tenants.iter().map(TenantId::as_uuid));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT n.tenant_id, n.name FROM u JOIN tenants AS n ON n.tenant_id = u.t"
    );
    for row in session.rows(sql, values).await? {
        found.insert(tenant_of(&row)?, row.try_get("", "name")?);
    }
    Ok(found)
}

/// What the writer needs of `tenants`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TenantRow {
    pub(crate) tenant: TenantId,
    pub(crate) limits: String,
    pub(crate) paused: bool,
    /// For good: nothing of it is taken in any more.
    pub(crate) closed: bool,
    /// Its share where several tenants wait.
    pub(crate) weight: u32,
    pub(crate) used_bytes: u64,
    pub(crate) used_files: u64,
    pub(crate) used_folders: u64,
    pub(crate) revision: u64,
}

impl TenantRow {
    /// How many files it may have out at once, where it has a limit of its own.
    pub(crate) fn dispatched_files(&self) -> Option<u32> {
        if self.limits == "{}" {
            return None;
        }
        let own = OwnLimits::from_json(&self.limits).ok()?.dispatched_files?;
        Some(u32::try_from(own).unwrap_or(u32::MAX))
    }
}

/// Tenants by key.
pub(crate) async fn read<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenants: &[TenantId],
) -> Result<Vec<TenantRow>, DbErr> {
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let page = Page::new().uuids("t", tenants.iter().map(TenantId::as_uuid));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!("WITH {page} SELECT {HOT} FROM u JOIN tenants AS n ON n.tenant_id = u.t");
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push(TenantRow::read(&row)?);
    }
    Ok(found)
}

const HOT: &str = "n.tenant_id, n.limits, n.weight, n.paused_by, n.closed_at, n.used_bytes, n.used_files, n.used_folders, \
    n.revision";

impl TenantRow {
    /// One that has used nothing yet. `limits` is JSON.
    pub(crate) fn new(tenant: TenantId, limits: String, weight: u32) -> Self {
        Self {
            tenant,
            limits,
            paused: false,
            closed: false,
            weight,
            used_bytes: 0,
            used_files: 0,
            used_folders: 0,
            revision: 0,
        }
    }

    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let paused_by: Option<String> = row.try_get("", "paused_by")?;
        let closed_at: Option<i64> = row.try_get("", "closed_at")?;
        Ok(Self {
            tenant: tenant_of(row)?,
            limits: row.try_get("", "limits")?,
            // Of a closed one nothing goes out either.
            paused: paused_by.is_some() || closed_at.is_some(),
            closed: closed_at.is_some(),
            weight: u32_of(row, "weight")?,
            used_bytes: u64_of(row, "used_bytes")?,
            used_files: u64_of(row, "used_files")?,
            used_folders: u64_of(row, "used_folders")?,
            revision: u64_of(row, "revision")?,
        })
    }
}

/// Why a tenant's files wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TenantPaused {
    pub(crate) who: String,
    pub(crate) note: String,
    pub(crate) at: Micros,
}

/// A tenant as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Account {
    pub(crate) row: TenantRow,
    pub(crate) name: String,
    pub(crate) pause: Option<TenantPaused>,
    pub(crate) created_at: Micros,
    pub(crate) closed_at: Option<Micros>,
}

const ACCOUNT: &str = "n.name, n.pause_note, n.paused_at, n.created_at";

impl Account {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let paused_by: Option<String> = row.try_get("", "paused_by")?;
        let note: Option<String> = row.try_get("", "pause_note")?;
        let at: Option<i64> = row.try_get("", "paused_at")?;
        Ok(Self {
            row: TenantRow::read(row)?,
            name: row.try_get("", "name")?,
            pause: paused_by.map(|who| TenantPaused {
                who,
                note: note.unwrap_or_default(),
                at: Micros(at.unwrap_or_default()),
            }),
            created_at: Micros(row.try_get("", "created_at")?),
            closed_at: row.try_get::<Option<i64>>("", "closed_at")?.map(Micros),
        })
    }
}

/// One tenant by its key.
pub(crate) async fn account<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<Option<Account>, DbErr> {
    let sql = format!("SELECT {HOT}, {ACCOUNT} FROM tenants AS n WHERE n.tenant_id = $1");
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    row.map(|row| Account::read(&row)).transpose()
}

/// The tenant that is called alike; by index `tenants_called`.
pub(crate) async fn named<C: ConnectionTrait>(
    session: &Session<'_, C>,
    name: &str,
) -> Result<Option<TenantId>, DbErr> {
    let sql = "SELECT n.tenant_id FROM tenants AS n WHERE n.called = $1";
    let row = session.row(sql, vec![called(name).into()]).await?;
    row.map(|row| tenant_of(&row)).transpose()
}

/// Tenants before a key, the newest first: the key is a version 7 UUID.
pub(crate) async fn accounts<C: ConnectionTrait>(
    session: &Session<'_, C>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Account>, DbErr> {
    let sql = format!(
        "SELECT {HOT}, {ACCOUNT} FROM tenants AS n WHERE n.tenant_id < $1 \
         ORDER BY n.tenant_id DESC LIMIT $2"
    );
    let before = before.unwrap_or(Uuid::max());
    let values = vec![before.into(), i64::from(limit).into()];
    let rows = session.rows(sql, values).await?;
    rows.iter().map(Account::read).collect()
}

/// Inserts a tenant.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    account: &Account,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO tenants (tenant_id, name, limits, weight, used_bytes, used_files, used_folders, revision, \
               created_at, called) VALUES ($1, $2, $3, $4, 0, 0, 0, 0, $5, $6)";
    let values = vec![
        account.row.tenant.as_uuid().into(),
        account.name.clone().into(),
        account.row.limits.clone().into(),
        signed(account.row.weight.into()).into(),
        account.created_at.0.into(),
        called(&account.name).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Writes what operators change of a tenant.
pub(crate) async fn set<C: ConnectionTrait>(
    session: &Session<'_, C>,
    account: &Account,
) -> Result<(), DbErr> {
    let sql = "UPDATE tenants SET name = $2, limits = $3, weight = $4, paused_by = $5, pause_note = $6, paused_at = $7, \
               closed_at = $8, called = $9 WHERE tenant_id = $1";
    let pause = account.pause.as_ref();
    let values = vec![
        account.row.tenant.as_uuid().into(),
        account.name.clone().into(),
        account.row.limits.clone().into(),
        signed(account.row.weight.into()).into(),
        pause.map(|pause| pause.who.clone()).into(),
        pause.map(|pause| pause.note.clone()).into(),
        pause.map(|pause| pause.at.0).into(),
        account.closed_at.map(|at| at.0).into(),
        called(&account.name).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Writes tenants whose revision in the database is still the one given beside them; how many were.
pub(crate) async fn update<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[(u64, TenantRow)],
) -> Result<u64, DbErr> {
    if rows.is_empty() {
        return Ok(0);
    }
    let page = Page::new()
        .uuids("t", rows.iter().map(|(_, row)| row.tenant.as_uuid()))
        .numbers("held", rows.iter().map(|(held, _)| signed(*held)))
        .numbers(
            "used_bytes",
            rows.iter().map(|(_, row)| signed(row.used_bytes)),
        )
        .numbers(
            "used_files",
            rows.iter().map(|(_, row)| signed(row.used_files)),
        )
        .numbers(
            "used_folders",
            rows.iter().map(|(_, row)| signed(row.used_folders)),
        )
        .numbers("revision", rows.iter().map(|(_, row)| signed(row.revision)));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE tenants AS n SET used_bytes = u.used_bytes, used_files = u.used_files, \
         used_folders = u.used_folders, revision = u.revision FROM u WHERE n.tenant_id = u.t AND n.revision + 0 = u.held"
    );
    session.execute(sql, values).await
}
