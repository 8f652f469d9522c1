use caudal_objects::{GetObject, ObjectError, ObjectStore};
use futures::StreamExt;
use sha2::{Digest, Sha256};

/// Bytes kept of the beginning: enough for every signature, and to tell text from anything else.
pub(crate) const HEAD_BYTES: usize = 64 << 10;
/// Bytes kept of the end: the directory of an office document of some thousand parts.
pub(crate) const TAIL_BYTES: usize = 256 << 10;

/// What is known of an object: what one pass over it leaves, or what its beginning and its key say.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) sha256: [u8; 32],
    /// The first bytes, at most [`HEAD_BYTES`].
    pub(crate) head: Vec<u8>,
    /// The last bytes, at least [`TAIL_BYTES`] of them where there are so many; none where only the beginning was read.
    pub(crate) tail: Vec<u8>,
}

impl Content {
    /// Reads to the end.
    pub(crate) async fn read(mut object: GetObject) -> Result<Self, ObjectError> {
        let mut hasher = Sha256::new();
        let mut head = Vec::new();
        let mut tail = Vec::new();
        while let Some(piece) = object.stream.next().await {
            let piece = piece?;
            hasher.update(&piece);
            if head.len() < HEAD_BYTES {
                let missing = HEAD_BYTES - head.len();
                head.extend_from_slice(&piece[..piece.len().min(missing)]);
            }
            tail.extend_from_slice(&piece);
            if tail.len() > 4 * TAIL_BYTES {
                tail.drain(..tail.len() - TAIL_BYTES);
            }
        }
        Ok(Self {
            size: object.size,
            etag: object.etag,
            sha256: hasher.finalize().into(),
            head,
            tail,
        })
    }

    /// Reads the beginning of an object that is known to have this checksum; none where there is no object.
    pub(crate) async fn of_verified(
        objects: &ObjectStore,
        key: &str,
        sha256: [u8; 32],
    ) -> Result<Option<Self>, ObjectError> {
        let beginning = objects.get_beginning(key, HEAD_BYTES as u64).await?;
        Ok(beginning.map(|beginning| Self {
            size: beginning.size,
            etag: beginning.etag,
            sha256,
            head: beginning.bytes.to_vec(),
            tail: Vec::new(),
        }))
    }

    /// The whole content, where it is no longer than the head.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        (self.size == self.head.len() as u64).then_some(&self.head)
    }
}

impl Content {
    /// A content that is known already.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            size: bytes.len() as u64,
            etag: String::new(),
            sha256: Sha256::digest(bytes).into(),
            head: bytes[..bytes.len().min(HEAD_BYTES)].to_vec(),
            tail: bytes[bytes.len().saturating_sub(TAIL_BYTES)..].to_vec(),
        }
    }
    /// As [`of`](Self::of), all of it in the end that is kept.
    pub(crate) fn whole_of(bytes: &[u8]) -> Self {
        Self {
            tail: bytes.to_vec(),
            ..Self::of(bytes)
        }
    }
}
