//! Changes what operators may change of a tenant, or closes it.

use caudal_domain::{Refusal, TenantId, names};
use caudal_proto::v1;
use prost::Message;
use serde_json::{Value as Json, json};

use super::create_tenant::name_taken;
use crate::settings::OwnLimits;
use crate::store::tenancy::TenancyNeeds;
use crate::store::tenants::{Account, TenantPaused};
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// What is changed; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct TenantChanges {
    pub(crate) name: Option<String>,
    pub(crate) weight: Option<u32>,
    /// The words of a pause; inside `None`: it is over.
    pub(crate) pause: Option<Option<String>>,
    pub(crate) limits: Vec<LimitChange>,
    pub(crate) close: bool,
}

/// Changes some limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitChange {
    /// Which one, as TenantLimits names it.
    pub(crate) name: &'static str,
    pub(crate) value: Option<u64>,
    pub(crate) set: fn(&mut OwnLimits, Option<u64>),
}

/// The changes to a tenant.
#[derive(Clone, Debug)]
pub(crate) struct UpdateTenant {
    pub(crate) tenant: TenantId,
    pub(crate) request: RequestKey,
    pub(crate) changes: TenantChanges,
    pub(crate) act: Act,
}

impl UpdateTenant {
    fn tenancy(&self) -> TenancyNeeds {
        TenancyNeeds {
            tenant: Some(self.tenant),
            name: self.changes.name.clone(),
            ..TenancyNeeds::default()
        }
    }
}

/// What the audit tells of a tenant before and after.
fn shown(account: &Account) -> Json {
    json!({
        "display_name": account.name,
        "weight": account.row.weight,
        "limits": serde_json::from_str::<Json>(&account.row.limits).unwrap_or_default(),
        "pause": account.pause.as_ref().map(|pause| &pause.note),
        "closed": account.closed_at.is_some(),
    })
}

impl Verb for UpdateTenant {
    type Answer = v1::Tenant;
    const NAME: &'static str = "UpdateTenant";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(TenantId::OPERATORS)),
            tenant: Some(self.tenant),
            tenancy: Some(self.tenancy()),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<v1::Tenant>, Stop> {
        if let Some(first) = group.first_answer(TenantId::OPERATORS, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let found = group.loaded.tenancy_of(&self.tenancy());
        let unknown = || Refusal::not_found(&names::tenant_name(self.tenant));
        let before = found.tenant.ok_or_else(unknown)?;
        if before.closed_at.is_some() && !self.changes.close {
            let words = format!("{} is closed, for good", names::tenant_name(self.tenant));
            return Err(Refusal::failed_precondition("TENANT_CLOSED", words).into());
        }
        if let Some(name) = &self.changes.name
            && found.named.is_some_and(|other| other != self.tenant)
        {
            return Err(name_taken(name).into());
        }
        let mut limits = OwnLimits::from_json(&before.row.limits).unwrap_or_default();
        for change in &self.changes.limits {
            (change.set)(&mut limits, change.value);
        }
        let mut account = before.clone();
        account.row.limits = limits.to_json();
        if let Some(name) = &self.changes.name {
            account.name.clone_from(name);
        }
        if let Some(weight) = self.changes.weight {
            account.row.weight = weight;
        }
        if let Some(pause) = &self.changes.pause {
            account.pause = pause.as_ref().map(|note| match &before.pause {
                // Paused again without a word: what was said stays.
                Some(said) if note.is_empty() => said.clone(),
                said => TenantPaused {
                    who: self.act.actor.words.clone(),
                    note: note.clone(),
                    at: said.as_ref().map_or(group.now, |said| said.at),
                },
            });
        }
        if self.changes.close {
            account.closed_at = account.closed_at.or(Some(group.now));
        }
        account.row.closed = account.closed_at.is_some();
        account.row.paused = account.pause.is_some() || account.row.closed;
        // What the writer knows of it: the next verb is held against what is so from now on.
        let known = group.rows.tenant_mut(self.tenant)?;
        known.limits.clone_from(&account.row.limits);
        known.weight = account.row.weight;
        known.paused = account.row.paused;
        known.closed = account.row.closed;
        let answer = wire::tenant(&account);
        let detail = json!({"before": shown(&before), "after": shown(&account)});
        group.audit(&Act {
            detail: detail.to_string(),
            ..self.act.clone()
        });
        group.effects.tenancy.tenants.push(account);
        let kept = answer.encode_to_vec();
        group.remember(TenantId::OPERATORS, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}
