//! The body of an entry: which files, under which tokens. No bytes of files, no inputs.

use std::collections::HashMap;

use bytes::Bytes;
use caudal_domain::{BatchId, FileRef, TenantId, Token};
use caudal_proto::mesh::v1::{BatchKey, Dispatches, FileTokens};
use prost::Message;

/// A body that is no list of dispatches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an encoded message.
    #[error("not an encoded message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The columns differ in length.
    #[error("columns of {batch_index}, {ordinal} and {token} items")]
    Ragged {
        /// Length of the column of batches.
        batch_index: usize,
        /// Length of the column of ordinals.
        ordinal: usize,
        /// Length of the column of tokens.
        token: usize,
    },
    /// A file points outside the list of batches.
    #[error("batch {0} is not listed")]
    UnknownBatch(u32),
    /// An id is not 16 bytes.
    #[error("an id is not a uuid")]
    InvalidId,
}

/// The dispatches of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// Each file with the token it was dispatched under.
    pub files: Vec<(FileRef, Token)>,
    /// When they were admitted, milliseconds since 1970 by the database's clock; for measuring the wait only.
    pub admitted_unix_ms: i64,
}

/// Puts files and tokens into columns, each batch named once.
pub fn to_columns(files: &[(FileRef, Token)]) -> FileTokens {
    let mut columns = FileTokens {
        batches: Vec::new(),
        batch_index: Vec::with_capacity(files.len()),
        ordinal: Vec::with_capacity(files.len()),
        token: Vec::with_capacity(files.len()),
    };
    let mut known: HashMap<(TenantId, BatchId), u32> = HashMap::new();
    for (file, token) in files {
        let index = *known.entry((file.tenant, file.batch)).or_insert_with(|| {
            columns.batches.push(BatchKey {
                tenant: Bytes::copy_from_slice(file.tenant.as_bytes()),
                batch: Bytes::copy_from_slice(file.batch.as_bytes()),
            });
            // At most one batch for each file of a page, so the count fits.
            u32::try_from(columns.batches.len() - 1).unwrap_or(u32::MAX)
        });
        columns.batch_index.push(index);
        columns.ordinal.push(file.ordinal);
        columns.token.push(token.get());
    }
    columns
}

/// Reads columns back into files and tokens, in order.
///
/// # Errors
/// The columns differ in length, name an unlisted batch, or hold an id that is no uuid.
pub fn from_columns(columns: &FileTokens) -> Result<Vec<(FileRef, Token)>, DecodeError> {
    let length = columns.ordinal.len();
    if columns.batch_index.len() != length || columns.token.len() != length {
        return Err(DecodeError::Ragged {
            batch_index: columns.batch_index.len(),
            ordinal: length,
            token: columns.token.len(),
        });
    }
    let mut batches = Vec::with_capacity(columns.batches.len());
    for key in &columns.batches {
        let tenant = TenantId::from_slice(&key.tenant).map_err(|_| DecodeError::InvalidId)?;
        let batch = BatchId::from_slice(&key.batch).map_err(|_| DecodeError::InvalidId)?;
        batches.push((tenant, batch));
    }
    let mut files = Vec::with_capacity(length);
    for ((index, ordinal), token) in columns
        .batch_index
        .iter()
        .zip(&columns.ordinal)
        .zip(&columns.token)
    {
        let Some((tenant, batch)) = usize::try_from(*index)
            .ok()
            .and_then(|index| batches.get(index))
        else {
            return Err(DecodeError::UnknownBatch(*index));
        };
        let file = FileRef {
            tenant: *tenant,
            batch: *batch,
            ordinal: *ordinal,
        };
        files.push((file, Token(*token)));
    }
    Ok(files)
}

/// Encodes the body of an entry, which is also the body of an outbox row.
pub fn encode(files: &[(FileRef, Token)], admitted_unix_ms: i64) -> Bytes {
    let message = Dispatches {
        files: Some(to_columns(files)),
        admitted_unix_ms,
    };
    Bytes::from(message.encode_to_vec())
}

/// Decodes the body of an entry.
///
/// # Errors
/// The bytes are not such a body.
pub fn decode(body: &[u8]) -> Result<Dispatch, DecodeError> {
    let message = Dispatches::decode(body)?;
    let files = from_columns(&message.files.unwrap_or_default())?;
    Ok(Dispatch {
        files,
        admitted_unix_ms: message.admitted_unix_ms,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn file(tenant: u128, batch: u128, ordinal: u32) -> FileRef {
        FileRef {
            tenant: TenantId::from_uuid(Uuid::from_u128(tenant)),
            batch: BatchId::from_uuid(Uuid::from_u128(batch)),
            ordinal,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_in_order_and_each_batch_is_named_once() {
        let files = vec![
            (file(1, 2, 0), Token(3)),
            (file(1, 9, 7), Token(1)),
            (file(1, 2, 4), Token(u64::MAX)),
        ];
        assert_eq!(to_columns(&files).batches.len(), 2);
        let read = decode(&encode(&files, 42)).unwrap();
        assert_eq!(
            read,
            Dispatch {
                files,
                admitted_unix_ms: 42
            }
        );
    }

    #[test]
    fn ragged_columns_and_unlisted_batches_are_errors() {
        let mut columns = to_columns(&[(file(1, 2, 0), Token(3))]);
        columns.batch_index[0] = 1;
        assert_eq!(from_columns(&columns), Err(DecodeError::UnknownBatch(1)));
        columns.token.push(1);
        assert!(matches!(
            from_columns(&columns),
            Err(DecodeError::Ragged { token: 2, .. })
        ));
        assert!(decode(b"\xff\xff").is_err());
    }
}
