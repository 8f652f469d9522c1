//! `tenants` as operators see them.

use std::collections::HashMap;

use caudal_domain::TenantId;
use sea_orm::{ConnectionTrait, DbErr};

use super::page::Page;
use super::{Session, tenant_of};

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
