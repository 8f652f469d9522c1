//! `tenants`: their limits and use, and what they call themselves.

use std::collections::HashMap;

use caudal_domain::TenantId;
use sea_orm::{ConnectionTrait, DbErr};

use super::page::Page;
use super::{Session, signed, tenant_of, u64_of};

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
    pub(crate) used_bytes: u64,
    pub(crate) used_files: u64,
    pub(crate) revision: u64,
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
    let sql = format!(
        "WITH {page} SELECT n.tenant_id, n.limits, n.paused_by, n.used_bytes, n.used_files, n.revision \
         FROM u JOIN tenants AS n ON n.tenant_id = u.t"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push(TenantRow {
            tenant: tenant_of(&row)?,
            limits: row.try_get("", "limits")?,
            paused: row.try_get::<Option<String>>("", "paused_by")?.is_some(),
            used_bytes: u64_of(&row, "used_bytes")?,
            used_files: u64_of(&row, "used_files")?,
            revision: u64_of(&row, "revision")?,
        });
    }
    Ok(found)
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
        .numbers("revision", rows.iter().map(|(_, row)| signed(row.revision)));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE tenants AS n SET used_bytes = u.used_bytes, used_files = u.used_files, \
         revision = u.revision FROM u WHERE n.tenant_id = u.t AND n.revision + 0 = u.held"
    );
    session.execute(sql, values).await
}
