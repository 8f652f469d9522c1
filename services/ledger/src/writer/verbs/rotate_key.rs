//! Makes a key like another, which ends a while later.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId, limits};
use caudal_proto::mesh::v1::KeyAnswer;
use prost::Message;

use super::create_key::within;
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
        // It takes the place of another, so it is not refused where no new key would be made.
        within("keys", limits::MAX_GOOD_KEYS_ROTATED, found.good_keys.keys)?;
        let now = group.now;
        // It lives as long as the old one was given, from now on.
        let lifetime = old.lifetime;
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::BatchId;
    use caudal_node::scope::Role;
    use uuid::Uuid;

    use super::*;
    use crate::store::credentials::{Allowance, Spent};
    use crate::store::time::Micros;
    use crate::writer::audited::Actor;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::create_key::CreateKey;

    fn act() -> Act {
        Act {
            id: Uuid::now_v7(),
            actor: Actor {
                words: "operator".into(),
                key_id: "operator".into(),
            },
            tenant: None,
            call: "RotateApiKey",
            target: String::new(),
            detail: String::new(),
        }
    }

    fn key(id: String) -> KeyRow {
        KeyRow {
            id,
            tenant: None,
            role: Some(Role::Operator),
            batch: None,
            secret_sha256: vec![0; 32],
            name: "key".into(),
            created_at: Micros(0),
            expires_at: None,
            lifetime: None,
            revoked_at: None,
            last_used_at: None,
            may_add: Allowance::default(),
            added: Spent::default(),
        }
    }

    fn rotation(trial: &mut Trial, old: &str, new: &str) -> RotateKey {
        RotateKey {
            asked_in: TenantId::OPERATORS,
            request: trial.request(),
            tenant: None,
            key: old.to_owned(),
            overlap: limits::MAX_KEY_OVERLAP,
            new_id: new.to_owned(),
            new_secret_sha256: vec![1; 32],
            nonce: [0; 16],
            act: act(),
        }
    }

    #[test]
    fn a_key_is_replaced_however_many_keys_and_tokens_there_are() {
        let mut trial = Trial::new();
        let token = |number| KeyRow {
            batch: Some(BatchId::from_uuid(Uuid::nil())),
            ..key(format!("token{number}"))
        };
        trial.hold_keys((0..limits::MAX_GOOD_TOKENS).map(token));
        trial.hold_keys([key("leaked".into())].into_iter());
        let create = |trial: &mut Trial, id: &str| CreateKey {
            asked_in: TenantId::OPERATORS,
            request: trial.request(),
            key: key(id.to_owned()),
            nonce: [0; 16],
            lifetime: None,
            act: act(),
        };
        // Tokens keep nobody from making keys.
        let another = create(&mut trial, "another");
        trial.ask(another).unwrap();
        trial.hold_keys((2..limits::MAX_GOOD_KEYS).map(|number| key(format!("key{number}"))));
        let one_more = create(&mut trial, "more");
        let full = trial.ask(one_more).unwrap_err();
        assert_eq!(full.quota[0].subject, "keys");
        let rotate = rotation(&mut trial, "leaked", "new");
        trial.ask(rotate).unwrap();
        let end = trial.read(|tables| tables.keys["leaked"].expires_at);
        assert!(end.is_some());
    }
}
