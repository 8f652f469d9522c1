//! Makes a key, or an upload token.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId, limits, names};
use caudal_proto::mesh::v1::KeyAnswer;
use prost::Message;

use crate::store::credentials::{GoodKeys, KeyRow};
use crate::store::tenancy::TenancyNeeds;
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// A new key. Its secret is nowhere in it: it is made of the nonce and of what no database holds.
#[derive(Clone, Debug)]
pub(crate) struct CreateKey {
    /// Who remembers the request.
    pub(crate) asked_in: TenantId,
    pub(crate) request: RequestKey,
    /// As it is stored; the times are set when it is.
    pub(crate) key: KeyRow,
    pub(crate) nonce: [u8; 16],
    /// `None`: until it is revoked.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) act: Act,
}

impl CreateKey {
    fn tenancy(&self) -> TenancyNeeds {
        TenancyNeeds {
            tenant: self.key.tenant,
            keys_of: Some(self.key.tenant),
            ..TenancyNeeds::default()
        }
    }
}

/// One key more is not one too many. Upload tokens have a bound of their own: members make them, and must not keep an admin
/// from making keys.
fn has_room(key: &KeyRow, good: GoodKeys) -> Result<(), Refusal> {
    if key.batch.is_some() {
        within("upload_tokens", limits::MAX_GOOD_TOKENS, good.tokens)
    } else {
        within("keys", limits::MAX_GOOD_KEYS, good.keys)
    }
}

pub(super) fn within(subject: &str, limit: u64, used: u64) -> Result<(), Refusal> {
    if used < limit {
        return Ok(());
    }
    Err(Refusal::quota_exceeded(subject, limit, used, 1))
}

impl Verb for CreateKey {
    type Answer = KeyAnswer;
    const NAME: &'static str = "CreateKey";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(self.asked_in)),
            batch: self
                .key
                .batch
                .zip(self.key.tenant)
                .map(|(batch, tenant)| caudal_domain::BatchRef::new(tenant, batch)),
            tenancy: Some(self.tenancy()),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<KeyAnswer>, Stop> {
        if let Some(first) = group.first_answer(self.asked_in, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let found = group.loaded.tenancy_of(&self.tenancy());
        if let Some(tenant) = self.key.tenant {
            let unknown = || Refusal::not_found(&names::tenant_name(tenant));
            let account = found.tenant.ok_or_else(unknown)?;
            if account.closed_at.is_some() {
                let words = format!("{} is closed, for good", names::tenant_name(tenant));
                return Err(Refusal::failed_precondition("TENANT_CLOSED", words).into());
            }
            if let Some(batch) = self.key.batch {
                group.batch_in_force(caudal_domain::BatchRef::new(tenant, batch))?;
            }
        }
        has_room(&self.key, found.good_keys)?;
        let key = KeyRow {
            created_at: group.now,
            expires_at: self.lifetime.map(|lifetime| group.now.plus(lifetime)),
            lifetime: self.lifetime,
            ..self.key.clone()
        };
        let answer = KeyAnswer {
            key: Some(wire::api_key(&key)),
            nonce: self.nonce.to_vec().into(),
        };
        group.effects.tenancy.new_keys.push(key);
        group.audit(&self.act);
        let kept = answer.encode_to_vec();
        group.remember(self.asked_in, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}
