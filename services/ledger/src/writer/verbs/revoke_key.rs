//! Ends a key.

use caudal_domain::{Refusal, TenantId};
use caudal_node::scope::Role;
use caudal_proto::v1;
use prost::Message;

use crate::store::credentials::KeyRow;
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
            let ends_one = key.role == Some(Role::Operator) && key.is_good(group.now);
            if ends_one && found.good_keys <= 1 {
                let words =
                    "this is the last good key of operators: make another before you revoke it";
                return Err(Refusal::failed_precondition("LAST_OPERATOR_KEY", words).into());
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
