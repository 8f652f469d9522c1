//! Identities and the numbers that only rise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text or byte string that is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text is not a UUID in its 36-character form with hyphens.
    #[error("not a uuid of 36 characters with hyphens")]
    Text,
    /// The bytes are not exactly 16.
    #[error("an id has 16 bytes, not {0}")]
    Length(usize),
}

fn parse_hyphenated(text: &str) -> Result<Uuid, InvalidId> {
    const HYPHENATED_LENGTH: usize = 36;
    if text.len() != HYPHENATED_LENGTH {
        return Err(InvalidId::Text);
    }
    Uuid::try_parse(text).map_err(|_| InvalidId::Text)
}

fn uuid_from_slice(bytes: &[u8]) -> Result<Uuid, InvalidId> {
    Uuid::from_slice(bytes).map_err(|_| InvalidId::Length(bytes.len()))
}

/// Who owns the data: comes from the credential, never from a request field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Uuid);

/// A batch of files. Made as a `UUIDv7`, so that the order of ids is the order of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(Uuid);

impl TenantId {
    /// No tenant: under it the requests of operators are remembered.
    pub const OPERATORS: Self = Self(Uuid::nil());

    /// Wraps a UUID.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID within.
    #[must_use]
    pub const fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// The 16 bytes, big-endian, as databases and messages carry them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads 16 bytes; any other length is [`InvalidId::Length`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        uuid_from_slice(bytes).map(Self)
    }
}

impl BatchId {
    /// Wraps a UUID; who makes a new batch passes a `UUIDv7`.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID within.
    #[must_use]
    pub const fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// The 16 bytes, big-endian, as databases and messages carry them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads 16 bytes; any other length is [`InvalidId::Length`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        uuid_from_slice(bytes).map(Self)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TenantId({self})")
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BatchId({self})")
    }
}

impl FromStr for TenantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_hyphenated(text).map(Self)
    }
}

impl FromStr for BatchId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_hyphenated(text).map(Self)
    }
}

/// The identity of a batch. Ordered as the tables are: tenant, batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchRef {
    /// Whose batch it is.
    pub tenant: TenantId,
    /// Its id.
    pub batch: BatchId,
}

impl BatchRef {
    /// Puts the two parts together.
    #[must_use]
    pub const fn new(tenant: TenantId, batch: BatchId) -> Self {
        Self { tenant, batch }
    }

    /// One of its files.
    #[must_use]
    pub const fn file(self, ordinal: u32) -> FileRef {
        FileRef::new(self.tenant, self.batch, ordinal)
    }
}

impl fmt::Display for BatchRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.tenant, self.batch)
    }
}

/// The identity of a file; there is no other. Ordered as the tables are: tenant, batch, ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Whose file it is.
    pub tenant: TenantId,
    /// The batch it was entered into.
    pub batch: BatchId,
    /// Its number in the manifest of the batch.
    pub ordinal: u32,
}

impl FileRef {
    /// Puts the three parts together.
    #[must_use]
    pub const fn new(tenant: TenantId, batch: BatchId, ordinal: u32) -> Self {
        Self {
            tenant,
            batch,
            ordinal,
        }
    }

    /// The batch it was entered into.
    #[must_use]
    pub const fn batch_ref(self) -> BatchRef {
        BatchRef::new(self.tenant, self.batch)
    }
}

impl fmt::Display for FileRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.tenant, self.batch, self.ordinal)
    }
}

/// The fence: whoever holds a file's current token may act on it, nobody else. It rises in every write that changes who
/// may act, and is never reset. Databases keep it as a signed 64-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

impl Token {
    /// The token of a file that was just entered.
    pub const FIRST: Self = Self(1);

    /// Wraps a number that was read.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The token after this one; the last number stays, it never wraps to a superseded one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How often a file began anew: 1 at first, one more at each reprocess or replay with new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation of a file that was just entered.
    pub const FIRST: Self = Self(1);

    /// Wraps a number that was read.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The generation after this one; never wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a file's landing key: it rises when other bytes are awaited, and never falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Target(pub u32);

impl Target {
    /// The target of a file that was just entered.
    pub const FIRST: Self = Self(1);

    /// Wraps a number that was read.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The target after this one; never wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_round_trip_through_text_bytes_and_json(bytes in any::<[u8; 16]>()) {
            let tenant = TenantId::from_slice(&bytes).unwrap();
            let batch = BatchId::from_slice(&bytes).unwrap();
            prop_assert_eq!(tenant.as_bytes(), &bytes);
            prop_assert_eq!(batch.as_bytes(), &bytes);
            prop_assert_eq!(tenant.to_string().parse::<TenantId>().unwrap(), tenant);
            prop_assert_eq!(batch.to_string().parse::<BatchId>().unwrap(), batch);
            let file = FileRef::new(tenant, batch, 7);
            let json = serde_json::to_string(&file).unwrap();
            prop_assert_eq!(serde_json::from_str::<FileRef>(&json).unwrap(), file);
            prop_assert!(json.contains(&tenant.to_string()));
        }

        #[test]
        fn no_text_makes_an_id_panic(text in any::<String>()) {
            if let Ok(batch) = text.parse::<BatchId>() {
                prop_assert_eq!(batch.to_string(), text.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn other_spellings_and_lengths_are_no_ids() {
        for text in [
            "",
            "0192f0c1a2b37c4d8e5f60718293a4b5",
            "{0192f0c1-a2b3-7c4d-8e5f-60718293a4b5}",
            "urn:uuid:0192f0c1-a2b3-7c4d-8e5f-60718293a4b5",
            "0192f0c1-a2b3-7c4d-8e5f-60718293a4b",
            "0192f0c1-a2b3-7c4d-8e5f-60718293a4bg",
        ] {
            assert_eq!(text.parse::<TenantId>(), Err(InvalidId::Text), "{text}");
        }
        assert_eq!(BatchId::from_slice(&[0; 15]), Err(InvalidId::Length(15)));
    }

    #[test]
    fn numbers_rise_by_one_and_never_wrap() {
        assert_eq!(Token::FIRST.next(), Token(2));
        assert_eq!(Token(u64::MAX).next(), Token(u64::MAX));
        assert_eq!(Generation::FIRST.next().get(), 2);
        assert_eq!(Generation(u32::MAX).next(), Generation(u32::MAX));
        assert_eq!(Target::FIRST.next().get(), 2);
        assert_eq!(Target(u32::MAX).next(), Target(u32::MAX));
    }
}
