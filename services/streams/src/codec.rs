//! The body of an entry: which files, under which tokens. No bytes of files, no inputs.

use bytes::Bytes;
use caudal_domain::{FileRef, Token};
use caudal_proto::convert::{ConvertError, file_tokens_from_proto, file_tokens_to_proto};
use caudal_proto::mesh::v1::Dispatches;
use prost::Message;

use crate::lane::Lane;

/// Dispatches that a reader takes from one entry. Far above what is packed, so that a change of packing never makes an
/// entry unreadable for an older reader.
const MAX_DISPATCHES_READ: usize = 2_048;

/// A body that is no list of dispatches.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not an encoded message.
    #[error("not an encoded message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The columns of the message do not belong together.
    #[error("columns: {0}")]
    Columns(#[from] ConvertError),
}

/// The dispatches of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// Each file with the token it was dispatched under.
    pub files: Vec<(FileRef, Token)>,
    /// The stream that they go to.
    pub lane: Lane,
    /// When they were admitted, milliseconds since 1970 by the database's clock; for measuring the wait only.
    pub admitted_unix_ms: i64,
}

/// Encodes the body of an entry, which is also the body of an outbox row.
pub fn encode(files: &[(FileRef, Token)], lane: Lane, admitted_unix_ms: i64) -> Bytes {
    let message = Dispatches {
        files: Some(file_tokens_to_proto(files.iter().copied())),
        admitted_unix_ms,
        express: lane == Lane::Express,
    };
    Bytes::from(message.encode_to_vec())
}

/// Decodes the body of an entry.
///
/// # Errors
/// The bytes are not such a body.
pub fn decode(body: &[u8]) -> Result<Dispatch, DecodeError> {
    let message = Dispatches::decode(body)?;
    let files = file_tokens_from_proto(&message.files.unwrap_or_default(), MAX_DISPATCHES_READ)?;
    Ok(Dispatch {
        files,
        lane: match message.express {
            true => Lane::Express,
            false => Lane::Regular,
        },
        admitted_unix_ms: message.admitted_unix_ms,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use caudal_domain::{BatchId, TenantId};
    use uuid::Uuid;

    fn file(tenant: u128, batch: u128, ordinal: u32) -> FileRef {
        FileRef {
            tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
            batch: BatchId::from_uuid(Uuid::from_u128(batch)),
            ordinal,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_in_order() {
        let files = vec![
            (file(1, 2, 0), Token(3)),
            (file(1, 9, 7), Token(1)),
            (file(1, 2, 4), Token(99)),
        ];
        let read = decode(&encode(&files, Lane::Express, 42)).unwrap();
        assert_eq!(read.files, files);
        assert_eq!(read.lane, Lane::Express);
        assert_eq!(read.admitted_unix_ms, 42);
    }

    #[test]
    fn a_body_that_is_no_message_is_an_error() {
        assert!(decode(b"\xff\xff").is_err());
    }
}
