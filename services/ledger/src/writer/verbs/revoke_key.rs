//! Ends a key.

use caudal_domain::{Refusal, TenantId};
use caudal_node::scope::Role;
use caudal_proto::v1;
use prost::Message;

use crate::store::credentials::{GoodKeys, KeyRow};
use crate::store::tenancy::{Tenancy, TenancyNeeds};
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Which key, of whom.
#[derive(Clone, Debug)]
pub(crate) struct RevokeKey {
    pub(crate) asked_in: TenantId,
    pub(crate) request: RequestKey,
    /// `None`: an operator's.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) key: String,
    pub(crate) act: Act,
}

/// What is asked of a key that is named.
pub(super) fn about_key(tenant: Option<TenantId>, key: &str) -> TenancyNeeds {
    TenancyNeeds {
        key: Some(key.to_owned()),
        keys_of: Some(tenant),
        ..TenancyNeeds::default()
    }
}

/// The key, if it is one of these: another's and none answer alike.
pub(super) fn key_of(
    found: &Tenancy,
    tenant: Option<TenantId>,
    id: &str,
) -> Result<KeyRow, Refusal> {
    let key = found.key.clone().filter(|key| key.tenant == tenant);
    key.ok_or_else(|| Refusal::not_found(&format!("{}{id}", wire::KEYS)))
}

impl Verb for RevokeKey {
    type Answer = v1::ApiKey;
    const NAME: &'static str = "RevokeKey";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(self.asked_in)),
            tenancy: Some(about_key(self.tenant, &self.key)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<v1::ApiKey>, Stop> {
        if let Some(first) = group.first_answer(self.asked_in, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let found = group.loaded.tenancy_of(&about_key(self.tenant, &self.key));
        let mut key = key_of(&found, self.tenant, &self.key)?;
        if key.revoked_at.is_none() {
            if key.role == Some(Role::Operator) && key.is_good(group.now) {
                group.leaves_operators_a_key(&key, found.good_keys)?;
            }
            key.revoked_at = Some(group.now);
            group.effects.tenancy.ended_keys.push(key.clone());
            group.audit(&self.act);
        }
        let answer = wire::api_key(&key);
        let kept = answer.encode_to_vec();
        group.remember(self.asked_in, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}

impl Group<'_> {
    /// Nobody could run the system any more without a key of operators. One that ends by itself is none to rely on: where there
    /// is one that does not, the last of those stays.
    fn leaves_operators_a_key(&self, key: &KeyRow, mut good: GoodKeys) -> Result<(), Refusal> {
        let ended = self.effects.tenancy.ended_keys.iter();
        for ended in ended.filter(|ended| ended.tenant.is_none() && ended.revoked_at.is_some()) {
            good.keys = good.keys.saturating_sub(1);
            good.lasting = good
                .lasting
                .saturating_sub(ended.expires_at.is_none().into());
        }
        let words = if good.keys <= 1 {
            "this is the last good key of operators: make another before you revoke it"
        } else if key.expires_at.is_none() && good.lasting <= 1 {
            "this is the last key of operators that does not end by itself: make another without a lifetime before you revoke it"
        } else {
            return Ok(());
        };
        Err(Refusal::failed_precondition("LAST_OPERATOR_KEY", words))
    }
}
