//! Makes a tenant.

use caudal_domain::{Refusal, RefusalKind, TenantId};
use caudal_proto::v1;
use prost::Message;

use crate::settings::OwnLimits;
use crate::store::tenancy::TenancyNeeds;
use crate::store::tenants::{Account, TenantRow};
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// A new tenant, as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct CreateTenant {
    pub(crate) tenant: TenantId,
    pub(crate) request: RequestKey,
    pub(crate) name: String,
    pub(crate) limits: OwnLimits,
    pub(crate) weight: u32,
    pub(crate) act: Act,
}

/// Another is called so.
pub(super) fn name_taken(name: &str) -> Refusal {
    let words = format!("a tenant is called `{name}` already: no two are called alike");
    Refusal::new(RefusalKind::AlreadyExists, "TENANT_NAME_TAKEN", words)
        .with_metadata("display_name", name)
}

impl CreateTenant {
    fn tenancy(&self) -> TenancyNeeds {
        TenancyNeeds {
            name: Some(self.name.clone()),
            ..TenancyNeeds::default()
        }
    }
}

impl Verb for CreateTenant {
    type Answer = v1::Tenant;
    const NAME: &'static str = "CreateTenant";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(TenantId::OPERATORS)),
            tenancy: Some(self.tenancy()),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<v1::Tenant>, Stop> {
        if let Some(first) = group.first_answer(TenantId::OPERATORS, &self.request)? {
            return Ok(Reply::Now(first));
        }
        if group.loaded.tenancy_of(&self.tenancy()).named.is_some() {
            return Err(name_taken(&self.name).into());
        }
        let account = Account {
            row: TenantRow::new(self.tenant, self.limits.to_json(), self.weight),
            name: self.name.clone(),
            pause: None,
            created_at: group.now,
            closed_at: None,
        };
        let answer = wire::tenant(&account);
        group.effects.tenancy.new_tenants.push(account);
        group.audit(&self.act);
        let kept = answer.encode_to_vec();
        group.remember(TenantId::OPERATORS, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}
