//! Receiving a body: hashed as it arrives, compared with every checksum that came with it; a small one is collected in
//! memory, a large one written to a file in bounded pieces.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::dto::{Checksum, ChecksumAlgorithm, StreamingBlob};
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};

use super::etag::Tagger;
use super::failure::from_io;
use super::files::{Piece, Staged};
use super::group::Content;
use super::store::{FILE_BYTES, Store};

/// A client that sends nothing for so long has gone.
const BODY_IDLE: Duration = Duration::from_secs(60);
/// A body of so many bytes, as its head tells, goes to the disk past the page cache.
const LONG_BYTES: usize = 1024 * 1024;

/// The checksums a client declared for its body, each in base64.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) md5: Option<String>,
    pub(super) checksum: Checksum,
    /// Names the algorithm of a checksum that follows the body.
    pub(super) algorithm: Option<ChecksumAlgorithm>,
    pub(super) trailers: Option<TrailingHeaders>,
}

/// A body that has arrived whole and unharmed.
pub(super) struct Received {
    pub(super) content: Content,
    pub(super) etag: String,
}

/// Runs file work off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> S3Result<T> + Send + 'static,
) -> S3Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(S3Error::internal_error(error)))
}

/// Takes the body in; what is written of it is synced. Nothing of it is kept when it breaks off or a checksum differs.
pub(super) async fn receive(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    declared: Declared,
) -> S3Result<Received> {
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    let mut hasher = hasher_for(&declared);
    let mut tagger = Tagger::new(
        store.secret,
        declared.md5.is_some(),
        hasher.sha256.is_some(),
    );
    let is_long = body
        .remaining_length()
        .exact()
        .is_some_and(|length| length >= LONG_BYTES);
    let (mut staged, mut piece) = match is_long {
        true => {
            let store = Arc::clone(store);
            let staged = blocking(move || store.stage_long()).await?;
            let piece = staged.piece();
            (Some(staged), piece)
        }
        false => (None, Piece::new()),
    };
    loop {
        let next = tokio::time::timeout(BODY_IDLE, body.next())
            .await
            .map_err(|_| s3_error!(RequestTimeout))?;
        let Some(next) = next else { break };
        let bytes = next.map_err(|error| {
            // Broken off, longer than declared, or not what its signature covers.
            S3Error::with_source(S3ErrorCode::IncompleteBody, error)
        })?;
        tagger.update(&bytes);
        hasher.update(&bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            rest = piece.fill(rest);
            if piece.is_full() {
                let (file, emptied) = write(store, staged, piece).await?;
                (staged, piece) = (Some(file), emptied);
            }
        }
    }
    let computed = hasher.finalize();
    let (etag, md5) = tagger.finished(computed.checksum_sha256.as_deref());
    verify(&declared, md5.as_ref(), &computed)?;
    let content = match staged {
        None if piece.filled().len() <= FILE_BYTES => Content::Memory(Bytes::from(piece.taken())),
        staged => Content::Staged(sealed(store, staged, piece).await?),
    };
    Ok(Received { content, etag })
}

/// Writes a piece, and gives it back emptied.
async fn write(
    store: &Arc<Store>,
    staged: Option<Staged>,
    mut piece: Piece,
) -> S3Result<(Staged, Piece)> {
    let store = Arc::clone(store);
    blocking(move || {
        let mut staged = staged.map_or_else(|| store.stage(), Ok)?;
        staged.append_piece(&mut piece)?;
        Ok((staged, piece))
    })
    .await
}

/// Writes the last piece and syncs all, each file for itself.
async fn sealed(store: &Arc<Store>, staged: Option<Staged>, mut piece: Piece) -> S3Result<Staged> {
    let store = Arc::clone(store);
    blocking(move || {
        let mut staged = staged.map_or_else(|| store.stage(), Ok)?;
        staged.append_piece(&mut piece)?;
        store.files.seal(&staged).map_err(from_io)?;
        Ok(staged)
    })
    .await
}

fn hasher_for(declared: &Declared) -> ChecksumHasher {
    let named = declared.algorithm.as_ref().map(ChecksumAlgorithm::as_str);
    let is_named = |name: &str| named == Some(name);
    let given = &declared.checksum;
    ChecksumHasher {
        crc32: (given.checksum_crc32.is_some() || is_named(ChecksumAlgorithm::CRC32))
            .then(Default::default),
        crc32c: (given.checksum_crc32c.is_some() || is_named(ChecksumAlgorithm::CRC32C))
            .then(Default::default),
        sha1: (given.checksum_sha1.is_some() || is_named(ChecksumAlgorithm::SHA1))
            .then(Default::default),
        sha256: (given.checksum_sha256.is_some() || is_named(ChecksumAlgorithm::SHA256))
            .then(Default::default),
        crc64nvme: (given.checksum_crc64nvme.is_some() || is_named(ChecksumAlgorithm::CRC64NVME))
            .then(Default::default),
    }
}

fn verify(declared: &Declared, md5: Option<&[u8; 16]>, computed: &Checksum) -> S3Result<()> {
    if let (Some(declared), Some(md5)) = (&declared.md5, md5) {
        let is_same = base64_of(md5) == *declared;
        if !is_same {
            return Err(s3_error!(
                BadDigest,
                "the body does not have the declared Content-MD5"
            ));
        }
    }
    let trailers = declared.trailers.as_ref().and_then(TrailingHeaders::take);
    let pairs = [
        (
            "x-amz-checksum-crc32",
            &declared.checksum.checksum_crc32,
            &computed.checksum_crc32,
        ),
        (
            "x-amz-checksum-crc32c",
            &declared.checksum.checksum_crc32c,
            &computed.checksum_crc32c,
        ),
        (
            "x-amz-checksum-sha1",
            &declared.checksum.checksum_sha1,
            &computed.checksum_sha1,
        ),
        (
            "x-amz-checksum-sha256",
            &declared.checksum.checksum_sha256,
            &computed.checksum_sha256,
        ),
        (
            "x-amz-checksum-crc64nvme",
            &declared.checksum.checksum_crc64nvme,
            &computed.checksum_crc64nvme,
        ),
    ];
    for (name, given, computed) in pairs {
        let trailing = trailers
            .as_ref()
            .and_then(|trailers| trailers.get(name)?.to_str().ok());
        let (Some(given), Some(computed)) = (given.as_deref().or(trailing), computed) else {
            continue;
        };
        if given != computed {
            return Err(s3_error!(
                BadDigest,
                "the body does not have the declared {name}"
            ));
        }
    }
    Ok(())
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
