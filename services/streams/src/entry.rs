use caudal_domain::{FileRef, Token};
use redis::{FromRedisValue, ParsingError, Value};

use crate::codec;
use crate::lane::Lane;

/// Field of an entry that holds its body.
pub(crate) const BODY_FIELD: &str = "d";

/// One entry of a stage's streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names it among the entries of both streams.
    pub id: String,
    /// Its dispatches. Empty when the body cannot be read: nothing can be worked on, and the database will dispatch again.
    pub files: Vec<(FileRef, Token)>,
    /// The stream that it stands in.
    pub lane: Lane,
    /// When its files were admitted, milliseconds since 1970 by the database's clock; 0 when unknown.
    pub admitted_unix_ms: i64,
}

/// An entry as Redis sends it: its id, and its body unless it was deleted.
pub(crate) struct RawEntry {
    pub(crate) id: String,
    body: Option<Vec<u8>>,
}

impl FromRedisValue for RawEntry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (String, Option<Vec<Vec<u8>>>) = redis::from_redis_value(value)?;
        let mut body = None;
        let mut fields = fields.unwrap_or_default().into_iter();
        while let (Some(name), Some(content)) = (fields.next(), fields.next()) {
            if name == BODY_FIELD.as_bytes() {
                body = Some(content);
            }
        }
        Ok(Self { id, body })
    }
}

impl RawEntry {
    /// The entry, or nothing when it was deleted and only its id is left.
    pub(crate) fn decode_unless_deleted(self, lane: Lane) -> Option<Entry> {
        let body = self.body?;
        match codec::decode(&body) {
            Ok(dispatch) => Some(Entry {
                id: lane.mark(&self.id),
                files: dispatch.files,
                lane,
                admitted_unix_ms: dispatch.admitted_unix_ms,
            }),
            Err(error) => {
                tracing::error!(entry = %self.id, %error, "unreadable entry in a dispatch stream");
                Some(Entry {
                    id: lane.mark(&self.id),
                    files: Vec::new(),
                    lane,
                    admitted_unix_ms: 0,
                })
            }
        }
    }
}

/// Order of two entry ids; an id that is none sorts first.
pub(crate) fn id_key(id: &str) -> (u64, u64) {
    let (milliseconds, number) = id.split_once('-').unwrap_or((id, "0"));
    (
        milliseconds.parse().unwrap_or(0),
        number.parse().unwrap_or(0),
    )
}
