//! What the index keeps of an object or a part: where its bytes are, how many, and what S3 knows of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// The form of a record; another one is of a later version of this program.
const FORM: u8 = 1;
/// The longest attributes, all together; S3 allows 2 KiB of user metadata.
const MAX_ATTRIBUTES_BYTES: usize = 16 * 1024;

/// What a client said of its object, besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_disposition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<s3s::dto::Metadata>,
}

impl Attributes {
    /// Refuses attributes that are too long to keep.
    pub(super) fn check(&self) -> S3Result<()> {
        let texts = [
            &self.content_type,
            &self.content_encoding,
            &self.content_disposition,
            &self.content_language,
            &self.cache_control,
        ];
        let texts = texts.into_iter().flatten().map(String::len);
        let pairs = self.metadata.iter().flatten();
        let pairs = pairs.map(|(name, value)| name.len() + value.len());
        match texts.chain(pairs).sum::<usize>() > MAX_ATTRIBUTES_BYTES {
            true => Err(s3_error!(MetadataTooLarge)),
            false => Ok(()),
        }
    }
}

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the record itself.
    Here(Bytes),
    /// In the index, under a number of their own.
    Apart(u64),
    /// In the file of that number, which several records may share.
    File(u64),
    /// In parts, of which the list is in the index under that number.
    Parts(u64),
}

/// One object or part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    /// Without quotes; see [`etag`](super::etag).
    pub(super) etag: String,
    pub(super) attributes: Attributes,
}

impl Record {
    /// As it is kept.
    pub(super) fn encoded(&self) -> S3Result<Vec<u8>> {
        let attributes = match self.attributes == Attributes::default() {
            true => Vec::new(),
            false => serde_json::to_vec(&self.attributes).map_err(S3Error::internal_error)?,
        };
        let (tag, number, here) = match &self.place {
            Place::Here(bytes) => (0, 0, bytes.as_ref()),
            Place::Apart(number) => (1, *number, &[][..]),
            Place::File(number) => (2, *number, &[][..]),
            Place::Parts(number) => (3, *number, &[][..]),
        };
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let etag_bytes = u8::try_from(self.etag.len()).map_err(S3Error::internal_error)?;
        let attributes_bytes = u32::try_from(attributes.len()).map_err(S3Error::internal_error)?;
        let mut text = vec![FORM, tag];
        text.extend_from_slice(&number.to_be_bytes());
        text.extend_from_slice(&self.size.to_be_bytes());
        text.extend_from_slice(&nanos.to_be_bytes());
        text.push(etag_bytes);
        text.extend_from_slice(self.etag.as_bytes());
        text.extend_from_slice(&attributes_bytes.to_be_bytes());
        text.extend_from_slice(&attributes);
        text.extend_from_slice(here);
        Ok(text)
    }

    /// Read from what is kept.
    pub(super) fn decoded(text: &[u8]) -> S3Result<Record> {
        read(text).ok_or_else(|| {
            tracing::error!("the object store's index has a record that cannot be read");
            s3_error!(InternalError, "a record of the object store is damaged")
        })
    }
}

fn read(text: &[u8]) -> Option<Record> {
    let mut rest = text;
    let [form, tag] = taken(&mut rest)?;
    if form != FORM {
        return None;
    }
    let number = u64::from_be_bytes(taken(&mut rest)?);
    let size = u64::from_be_bytes(taken(&mut rest)?);
    let nanos = u64::from_be_bytes(taken(&mut rest)?);
    let [etag_bytes] = taken(&mut rest)?;
    let (etag, after) = rest.split_at_checked(etag_bytes.into())?;
    rest = after;
    let attributes_bytes = u32::from_be_bytes(taken(&mut rest)?);
    let (attributes, here) = rest.split_at_checked(attributes_bytes.try_into().ok()?)?;
    Some(Record {
        place: match tag {
            0 => Place::Here(Bytes::copy_from_slice(here)),
            1 => Place::Apart(number),
            2 => Place::File(number),
            3 => Place::Parts(number),
            _ => return None,
        },
        size,
        modified: UNIX_EPOCH + Duration::from_nanos(nanos),
        etag: str::from_utf8(etag).ok()?.to_owned(),
        attributes: match attributes.is_empty() {
            true => Attributes::default(),
            false => serde_json::from_slice(attributes).ok()?,
        },
    })
}

fn taken<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_cut_one_is_not_read() {
        let attributes = Attributes {
            content_type: Some("text/plain".to_owned()),
            metadata: Some([("a".to_owned(), "b".to_owned())].into()),
            ..Attributes::default()
        };
        let places = [
            Place::Here(Bytes::from_static(b"bytes")),
            Place::Apart(7),
            Place::File(u64::MAX),
            Place::Parts(8),
        ];
        for place in places {
            for attributes in [Attributes::default(), attributes.clone()] {
                let record = Record {
                    place: place.clone(),
                    size: 5,
                    modified: UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789),
                    etag: "0123-1".to_owned(),
                    attributes,
                };
                let text = record.encoded().unwrap();
                assert_eq!(Record::decoded(&text).unwrap(), record);
                assert!(Record::decoded(&text[..20]).is_err());
            }
        }
    }
}
