//! Rows as messages, and messages as rows: what the writer, the API and the checks have in common of the public contract.

mod json;
mod messages;
mod operation;
mod record;
mod tenancy;

use caudal_domain::Refusal;
use prost::Message;

pub(crate) use self::messages::*;
pub(crate) use self::operation::{operation, saturated};
pub(crate) use self::tenancy::*;

/// A message that this ledger has kept.
///
/// # Errors
/// INTERNAL: what is kept is not what was written.
pub(crate) fn decode<M: Message + Default>(kept: &[u8]) -> Result<M, Refusal> {
    M::decode(kept).map_err(|_| Refusal::internal())
}
