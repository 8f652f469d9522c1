//! What acts on tenants and keys read before they are decided, and write with what they decided.

use caudal_domain::TenantId;
use sea_orm::{ConnectionTrait, DbErr};

use super::Session;
use super::audit::{self, AuditRow};
use super::credentials::{self, GoodKeys, KeyRow, Spent};
use super::tenants::{self, Account};
use super::time::Micros;

/// What is counted of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Open {
    Batches,
    Operations,
}

/// What an act needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TenancyNeeds {
    /// A tenant.
    pub(crate) tenant: Option<TenantId>,
    /// Who is called so.
    pub(crate) name: Option<String>,
    /// A key.
    pub(crate) key: Option<String>,
    /// How many good keys a tenant has, or operators.
    pub(crate) keys_of: Option<Option<TenantId>>,
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenancy {
    pub(crate) tenant: Option<Account>,
    pub(crate) named: Option<TenantId>,
    pub(crate) key: Option<KeyRow>,
    pub(crate) good_keys: GoodKeys,
}

/// What acts write.
#[derive(Clone, Debug, Default)]
pub(crate) struct TenancyWrites {
    pub(crate) new_tenants: Vec<Account>,
    pub(crate) tenants: Vec<Account>,
    pub(crate) new_keys: Vec<KeyRow>,
    /// Keys that end.
    pub(crate) ended_keys: Vec<KeyRow>,
    pub(crate) used_keys: Vec<(String, Micros)>,
    pub(crate) spent: Vec<(String, Spent)>,
    pub(crate) audit: Vec<AuditRow>,
}

impl TenancyWrites {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            new_tenants,
            tenants,
            new_keys,
            ended_keys,
            used_keys,
            spent,
            audit,
        } = self;
        new_tenants.is_empty()
            && tenants.is_empty()
            && new_keys.is_empty()
            && ended_keys.is_empty()
            && used_keys.is_empty()
            && spent.is_empty()
            && audit.is_empty()
    }
}

/// Reads what an act needs.
pub(crate) async fn read<C: ConnectionTrait>(
    session: &Session<'_, C>,
    needs: &TenancyNeeds,
    now: Micros,
) -> Result<Tenancy, DbErr> {
    let mut found = Tenancy::default();
    if let Some(tenant) = needs.tenant {
        found.tenant = tenants::account(session, tenant).await?;
    }
    if let Some(name) = &needs.name {
        found.named = tenants::named(session, name).await?;
    }
    if let Some(id) = &needs.key {
        found.key = credentials::key(session, id).await?;
    }
    if let Some(whose) = needs.keys_of {
        found.good_keys = credentials::good_keys(session, whose, now).await?;
    }
    Ok(found)
}

/// Writes what acts decided.
pub(crate) async fn write<C: ConnectionTrait>(
    session: &Session<'_, C>,
    writes: &TenancyWrites,
) -> Result<(), DbErr> {
    for account in &writes.new_tenants {
        tenants::insert(session, account).await?;
    }
    for account in &writes.tenants {
        tenants::set(session, account).await?;
    }
    for key in &writes.new_keys {
        credentials::insert(session, key).await?;
    }
    for key in &writes.ended_keys {
        credentials::set_end(session, key).await?;
    }
    for (id, at) in &writes.used_keys {
        credentials::set_used(session, id, *at).await?;
    }
    for (id, spent) in &writes.spent {
        credentials::spend(session, id, *spent).await?;
    }
    for row in &writes.audit {
        audit::insert(session, row).await?;
    }
    Ok(())
}
