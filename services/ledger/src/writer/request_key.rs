//! The name under which a mutation's answer is kept.

use caudal_domain::TenantId;
use uuid::Uuid;

use crate::store::requests::{AnsweredRequest, RequestName};

/// Names a mutation so that a repeat gets the first answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestKey {
    pub(crate) id: Uuid,
    pub(crate) method: &'static str,
    /// sha256 of the encoded request.
    pub(crate) body_hash: [u8; 32],
}

impl RequestKey {
    /// As it is remembered with its answer.
    pub(crate) fn answered(&self, answer: Vec<u8>) -> AnsweredRequest {
        AnsweredRequest {
            method: self.method.to_owned(),
            body_hash: self.body_hash.to_vec(),
            answer,
        }
    }

    /// The same in the tables.
    pub(crate) fn of(&self, tenant: TenantId) -> RequestName {
        (tenant, self.id)
    }
}
