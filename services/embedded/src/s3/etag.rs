//! What an ETag is: a name of the bytes, so that a condition on it is one on the very bytes.
//!
//! It is their MD5, as S3 has it, only where the client sent that along as Content-MD5: it costs more than all else that
//! is done with a byte. Otherwise it is half of their SHA-256 where that was declared and so computed, or else a hash keyed
//! with a secret of the store (XXH3 of 128 bits): nobody outside can look for other bytes of the same. These two end in
//! `-1`, as the ETag of an upload in one part: clients know of such that it is no MD5, and compare it with none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use s3s::crypto::{Checksum as _, Md5};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a hash in an ETag.
const HASH_BYTES: usize = 16;
/// Marks an ETag that is no MD5.
const NO_MD5: &str = "-1";

/// Computes the ETag of bytes as they come.
pub(super) struct Tagger {
    md5: Option<Md5>,
    keyed: Option<Box<Xxh3>>,
}

impl Tagger {
    /// For bytes whose MD5 is declared or not; `has_sha256` says whether that is computed elsewhere.
    pub(super) fn new(secret: u64, has_md5: bool, has_sha256: bool) -> Tagger {
        Tagger {
            md5: has_md5.then(Md5::new),
            keyed: (!has_md5 && !has_sha256).then(|| Box::new(Xxh3::with_seed(secret))),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(keyed) = &mut self.keyed {
            keyed.update(bytes);
        }
    }

    /// The ETag, with the MD5 where it was computed. `sha256` is in base64.
    pub(super) fn finished(self, sha256: Option<&str>) -> (String, Option<[u8; HASH_BYTES]>) {
        if let Some(md5) = self.md5 {
            let md5 = md5.finalize();
            return (hex::encode(md5), Some(md5));
        }
        if let Some(keyed) = self.keyed {
            return (marked(&keyed.digest128().to_be_bytes()), None);
        }
        let sha256 = sha256.and_then(|text| STANDARD.decode(text).ok());
        let half = sha256.as_deref().and_then(|hash| hash.get(..HASH_BYTES));
        (marked(half.unwrap_or_default()), None)
    }
}

/// The ETag of an upload of these parts: S3's, the MD5 of the parts' MD5s and their number, where all of them are MD5s;
/// clients that sent those compare it. Otherwise it is made of the parts' ETags the same way.
pub(super) fn joined<'etag>(parts: impl ExactSizeIterator<Item = &'etag str>) -> String {
    let count = parts.len();
    let mut md5 = Md5::new();
    for part in parts {
        let mut raw = [0_u8; HASH_BYTES];
        match hex::decode_to_slice(part, &mut raw) {
            Ok(()) => md5.update(&raw),
            Err(_) => md5.update(part.as_bytes()),
        }
    }
    format!("{}-{count}", hex::encode(md5.finalize()))
}

fn marked(hash: &[u8]) -> String {
    format!("{}{NO_MD5}", hex::encode(hash))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tag(secret: u64, bytes: &[u8], md5: bool, sha256: Option<&str>) -> String {
        let mut tagger = Tagger::new(secret, md5, sha256.is_some());
        for piece in bytes.chunks(3) {
            tagger.update(piece);
        }
        tagger.finished(sha256).0
    }

    #[test]
    fn an_etag_is_an_md5_where_one_was_sent_and_else_cannot_be_taken_for_one() {
        let md5 = "9a0364b9e99bb480dd25e1f0284c8555";
        assert_eq!(tag(1, b"content", true, None), md5);
        let keyed = tag(1, b"content", false, None);
        assert_eq!(keyed.len(), 34);
        assert!(keyed.ends_with("-1"));
        assert_eq!(keyed, tag(1, b"content", false, None));
        assert_ne!(keyed, tag(1, b"contenT", false, None));
        assert_ne!(keyed, tag(2, b"content", false, None));
        let sha256 = STANDARD.encode([0xab; 32]);
        let known = tag(1, b"content", false, Some(&sha256));
        assert_eq!(known, format!("{}-1", "ab".repeat(16)));
    }

    #[test]
    fn the_etag_of_parts_is_that_of_s3_where_their_md5s_were_sent() {
        let parts = [hex::encode([1; 16]), hex::encode([2; 16])];
        let mut md5 = Md5::new();
        md5.update(&[1; 16]);
        md5.update(&[2; 16]);
        let wanted = format!("{}-2", hex::encode(md5.finalize()));
        assert_eq!(joined(parts.iter().map(String::as_str)), wanted);
        let other = ["0a-1", "0b-1"];
        assert!(joined(other.into_iter()).ends_with("-2"));
        assert_ne!(
            joined(other.into_iter()),
            joined(["0b-1", "0a-1"].into_iter())
        );
    }

    #[test]
    fn a_hash_in_base64_is_read_to_its_half() {
        let whole: Vec<u8> = (0..32).collect();
        let tag = tag(0, b"", false, Some(&STANDARD.encode(&whole)));
        let (hash, _) = tag.split_once('-').unwrap();
        assert_eq!(hash, hex::encode(&whole[..16]));
    }
}
