//! The text of an API key: `caudal_<id>_<secret><crc32>`.
//!
//! The id is looked up; of the secret only its sha256 ever leaves the gateway. The eight hexadecimal digits at the end
//! are the CRC-32 of `<id>_<secret>`: a key that was cut or mistyped is told from one that is unknown without asking
//! anybody, and scanners for leaked keys find few false ones.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

const PREFIX: &str = "caudal_";
const CRC_CHARS: usize = 8;
const MAX_ID_CHARS: usize = 32;
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 32..=128;
/// Random bytes of a new id and a new secret, both written in hexadecimal.
const NEW_ID_BYTES: usize = 8;
const NEW_SECRET_BYTES: usize = 32;

/// A whole API key. Its `Debug` shows the id only; [`ApiKey::text`] is for showing it once.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: String,
    secret: String,
}

/// Why a text is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it does not look like caudal_<id>_<secret>")]
    NotAKey,
    /// Its last digits do not fit the rest.
    #[error("a part of it is missing or mistyped")]
    Damaged,
}

impl ApiKey {
    /// A new key of the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut id = [0_u8; NEW_ID_BYTES];
        let mut secret = [0_u8; NEW_SECRET_BYTES];
        rand::RngExt::fill(&mut rand::rng(), &mut id[..]);
        rand::RngExt::fill(&mut rand::rng(), &mut secret[..]);
        Self {
            id: hex::encode(id),
            secret: hex::encode(secret),
        }
    }

    /// A new id, of the operating system's randomness.
    #[must_use]
    pub fn new_id() -> String {
        hex::encode(rand::random::<[u8; NEW_ID_BYTES]>())
    }

    /// The key with this id, one of [`ApiKey::new_id`], and these random bytes for a secret.
    #[must_use]
    pub fn of(id: &str, secret: &[u8; NEW_SECRET_BYTES]) -> Self {
        Self {
            id: id.to_owned(),
            secret: hex::encode(secret),
        }
    }

    /// What is looked up.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is compared.
    #[must_use]
    pub fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }

    /// The whole key, secret included.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{PREFIX}{}_{}{:08x}",
            self.id,
            self.secret,
            checksum(&self.id, &self.secret)
        )
    }
}

impl FromStr for ApiKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(PREFIX).ok_or(KeyError::NotAKey)?;
        if !rest.is_ascii() {
            return Err(KeyError::Damaged);
        }
        let (id, tail) = rest.split_once('_').ok_or(KeyError::Damaged)?;
        let secret_chars = tail.len().checked_sub(CRC_CHARS).ok_or(KeyError::Damaged)?;
        let (secret, crc) = tail.split_at(secret_chars);
        let id_is_fine = (1..=MAX_ID_CHARS).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let secret_is_fine = SECRET_CHARS.contains(&secret.len())
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let crc_fits = u32::from_str_radix(crc, 16) == Ok(checksum(id, secret));
        if !id_is_fine || !secret_is_fine || !crc_fits {
            return Err(KeyError::Damaged);
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiKey({PREFIX}{}_…)", self.id)
    }
}

fn checksum(id: &str, secret: &str) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(id.as_bytes());
    crc.update(b"_");
    crc.update(secret.as_bytes());
    crc.finalize()
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = ApiKey::generate();
        let again: ApiKey = key.text().parse().unwrap();
        assert_eq!(again, key);
        assert_eq!(again.secret_sha256(), key.secret_sha256());
        assert_ne!(ApiKey::generate(), key);
    }

    #[test]
    fn any_single_wrong_or_missing_character_is_seen() {
        let text = ApiKey::generate().text();
        for index in 0..text.len() {
            let mut wrong: Vec<char> = text.chars().collect();
            wrong[index] = if wrong[index] == 'f' { 'e' } else { 'f' };
            let wrong: String = wrong.into_iter().collect();
            assert!(wrong.parse::<ApiKey>().is_err(), "{wrong}");
            let mut cut = text.clone();
            cut.remove(index);
            // Removing one of two equal neighbours changes nothing but the length, which the CRC sees too.
            assert!(cut.parse::<ApiKey>().is_err(), "{cut}");
        }
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in [
            "",
            "Bearer x",
            "caudal_",
            "caudal__",
            "caudal_x",
            "caudal_a_b",
            "caudal_é_ééééééééééééé",
        ] {
            assert!(text.parse::<ApiKey>().is_err(), "{text}");
        }
        assert_eq!("sk-123".parse::<ApiKey>(), Err(KeyError::NotAKey));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = ApiKey::generate();
        let shown = format!("{key:?}");
        assert!(shown.contains(key.id()) && !shown.contains(&key.secret));
    }
}
