//! Tenants, keys and the audit as messages.

use caudal_domain::names;
use caudal_node::scope::Role;
use caudal_proto::convert::timestamp_from_micros;
use caudal_proto::v1;

use crate::settings::OwnLimits;
use crate::store::audit::AuditRow;
use crate::store::credentials::KeyRow;
use crate::store::tenants::Account;

/// What the names of keys begin with.
pub(crate) const KEYS: &str = "apiKeys/";

/// A tenant, without what it uses.
pub(crate) fn tenant(account: &Account) -> v1::Tenant {
    let limits = OwnLimits::from_json(&account.row.limits).unwrap_or_default();
    v1::Tenant {
        name: names::tenant_name(account.row.tenant),
        display_name: account.name.clone(),
        limits: Some(limits_to_proto(limits)),
        weight: account.row.weight,
        pause: tenant_pause(account),
        create_time: Some(timestamp_from_micros(account.created_at.0)),
        close_time: account.closed_at.map(|at| timestamp_from_micros(at.0)),
        usage: None,
    }
}

/// Why a tenant's files wait.
pub(crate) fn tenant_pause(account: &Account) -> Option<v1::TenantPause> {
    account.pause.as_ref().map(|pause| v1::TenantPause {
        note: pause.note.clone(),
        who: pause.who.clone(),
        since: Some(timestamp_from_micros(pause.at.0)),
    })
}

fn limits_to_proto(own: OwnLimits) -> v1::TenantLimits {
    v1::TenantLimits {
        stored_bytes: own.stored_bytes,
        files: own.files,
        folders: own.folders,
        files_per_batch: own.files_per_batch,
        file_bytes: own.file_bytes,
        entries_per_second: own.entries_per_second,
        calls_per_second: own.calls_per_second,
        open_batches: own.open_batches,
        streams: own.streams,
        operations: own.operations,
        expensive_reads: own.expensive_reads,
        dispatched_files: own.dispatched_files,
    }
}

/// A tenant's own limits.
pub(crate) fn limits_from_proto(limits: &v1::TenantLimits) -> OwnLimits {
    OwnLimits {
        stored_bytes: limits.stored_bytes,
        files: limits.files,
        folders: limits.folders,
        files_per_batch: limits.files_per_batch,
        file_bytes: limits.file_bytes,
        entries_per_second: limits.entries_per_second,
        calls_per_second: limits.calls_per_second,
        open_batches: limits.open_batches,
        streams: limits.streams,
        operations: limits.operations,
        expensive_reads: limits.expensive_reads,
        dispatched_files: limits.dispatched_files,
    }
}

/// A key, without its secret.
pub(crate) fn api_key(key: &KeyRow) -> v1::ApiKey {
    let time = |at: Option<crate::store::time::Micros>| at.map(|at| timestamp_from_micros(at.0));
    v1::ApiKey {
        name: format!("{KEYS}{}", key.id),
        display_name: key.name.clone(),
        role: key
            .role
            .map_or(v1::KeyRole::Unspecified, role_to_proto)
            .into(),
        batch: key.batch.map(names::batch_name).unwrap_or_default(),
        create_time: time(Some(key.created_at)),
        expire_time: time(key.expires_at),
        revoke_time: time(key.revoked_at),
        last_use_time: time(key.last_used_at),
    }
}

fn role_to_proto(role: Role) -> v1::KeyRole {
    match role {
        Role::Uploader => v1::KeyRole::Uploader,
        Role::Viewer => v1::KeyRole::Viewer,
        Role::Member => v1::KeyRole::Member,
        Role::Admin => v1::KeyRole::Admin,
        Role::Operator => v1::KeyRole::Operator,
        Role::Service => v1::KeyRole::Unspecified,
    }
}

/// An act.
pub(crate) fn audit_entry(row: &AuditRow) -> v1::AuditEntry {
    v1::AuditEntry {
        time: Some(timestamp_from_micros(row.at.0)),
        tenant: row.tenant.map(names::tenant_name).unwrap_or_default(),
        actor: row.actor.clone(),
        key: if row.key_id.is_empty() {
            String::new()
        } else {
            format!("{KEYS}{}", row.key_id)
        },
        act: row.act.clone(),
        target: row.target.clone(),
        detail: row.detail.clone(),
    }
}
