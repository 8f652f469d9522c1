//! Makes a key like another, which ends a while later.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId};
use caudal_proto::mesh::v1::KeyAnswer;
use prost::Message;

use super::create_key::has_room;
use super::revoke_key::{about_key, key_of};
use crate::store::credentials::KeyRow;
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Which key is replaced, and by what.
#[derive(Clone, Debug)]
pub(crate) struct RotateKey {
    pub(crate) asked_in: TenantId,
    pub(crate) request: RequestKey,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) key: String,
    pub(crate) overlap: Duration,
    pub(crate) new_id: String,
    pub(crate) new_secret_sha256: Vec<u8>,
    pub(crate) nonce: [u8; 16],
    pub(crate) act: Act,
}

impl Verb for RotateKey {
    type Answer = KeyAnswer;
    const NAME: &'static str = "RotateKey";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(self.asked_in)),
            tenancy: Some(about_key(self.tenant, &self.key)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<KeyAnswer>, Stop> {
        if let Some(first) = group.first_answer(self.asked_in, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let found = group.loaded.tenancy_of(&about_key(self.tenant, &self.key));
        let mut old = key_of(&found, self.tenant, &self.key)?;
        if !old.is_good(group.now) {
            let words = "the key is revoked or has expired: make a new one instead";
            return Err(Refusal::failed_precondition("KEY_ENDED", words).into());
        }
        if old.batch.is_some() {
            let words = "upload tokens are not rotated: make another";
            return Err(Refusal::failed_precondition("UPLOAD_TOKEN", words).into());
        }
        has_room(found.good_keys)?;
        let now = group.now;
        // It lives as long as the old one was given, from now on.
        let lifetime = old.expires_at.map(|end| end.since(old.created_at));
        let new = KeyRow {
            id: self.new_id.clone(),
            secret_sha256: self.new_secret_sha256.clone(),
            created_at: now,
            expires_at: lifetime.map(|lifetime| now.plus(lifetime)),
            last_used_at: None,
            ..old.clone()
        };
        let ends_at = now.plus(self.overlap);
        old.expires_at = Some(old.expires_at.map_or(ends_at, |end| end.min(ends_at)));
        let answer = KeyAnswer {
            key: Some(wire::api_key(&new)),
            nonce: self.nonce.to_vec().into(),
        };
        group.effects.tenancy.new_keys.push(new);
        group.effects.tenancy.ended_keys.push(old);
        group.audit(&self.act);
        let kept = answer.encode_to_vec();
        group.remember(self.asked_in, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}
