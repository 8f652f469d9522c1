//! Multipart uploads: what they will become and their parts are in the index, joined at the end.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3s::dto::PartNumber;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::body::Body;
use super::etag::{Tagger, joined};
use super::failure::from_io;
use super::group::{Content, Group};
use super::index::Reader;
use super::receive::blocking;
use super::record::{Attributes, Record};
use super::store::{FILE_BYTES, Opened, Store, WriteCondition, check_key};

const MAX_PART_NUMBER: PartNumber = 10_000;
/// S3's least size of every part but the last.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
/// Uploads nobody completed are cleared away at a start when they are older; whoever resumes does so within a day.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// What an upload will become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) begun: SystemTime,
    pub(super) attributes: Attributes,
}

/// A part as the client names it when it completes.
#[derive(Debug)]
pub(super) struct NamedPart {
    pub(super) number: PartNumber,
    /// Without quotes.
    pub(super) etag: String,
}

impl Upload {
    /// Read from what is kept; none where it is of another key.
    fn of(text: Option<Vec<u8>>, key: &str) -> S3Result<Upload> {
        let text = text.ok_or_else(|| s3_error!(NoSuchUpload))?;
        let upload: Upload = serde_json::from_slice(&text).map_err(S3Error::internal_error)?;
        match upload.key == key {
            true => Ok(upload),
            false => Err(s3_error!(NoSuchUpload)),
        }
    }

    /// As it is kept.
    pub(super) fn encoded(&self) -> S3Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(S3Error::internal_error)
    }
}

impl Store {
    /// Begins an upload; returns its id.
    pub(super) async fn create_upload(
        &self,
        key: String,
        attributes: Attributes,
    ) -> S3Result<String> {
        check_key(&key)?;
        attributes.check()?;
        let id = Uuid::new_v4();
        let upload = Upload {
            key,
            begun: SystemTime::now(),
            attributes,
        };
        let text = upload.encoded()?;
        let written = self.writer.write(text.len(), move |group| {
            group.check_room()?;
            group.put_upload(id.as_u128(), &text)
        });
        written.outcome().await?;
        Ok(id.to_string())
    }

    /// Uploads whose keys begin so, with when they were begun, by key and then by age.
    pub(super) fn unfinished(&self, prefix: &str) -> S3Result<Vec<(String, String, SystemTime)>> {
        let mut found = Vec::new();
        for (id, text) in self.index.read(Reader::uploads)? {
            let upload: Upload = serde_json::from_slice(&text).map_err(S3Error::internal_error)?;
            if upload.key.starts_with(prefix) {
                found.push((upload.key, Uuid::from_u128(id).to_string(), upload.begun));
            }
        }
        found.sort_by(|(key, id, begun), (other_key, other_id, other_begun)| {
            (key, begun, id).cmp(&(other_key, other_begun, other_id))
        });
        Ok(found)
    }

    /// Makes content the part of that number.
    pub(super) async fn put_part(
        &self,
        id: &str,
        key: String,
        number: PartNumber,
        content: Content,
        etag: String,
    ) -> S3Result<()> {
        let (id, number) = (id_of(id)?, number_of(number)?);
        let written = self.writer.write(content.weight(), move |group| {
            Upload::of(group.upload(id)?, &key)?;
            group.check_room()?;
            let record = group.keep(content, etag, Attributes::default())?;
            group.put_part(id, number, &record)
        });
        written.outcome().await
    }

    /// Makes a range of an opened object a part; returns its ETag.
    pub(super) async fn copy_part(
        self: Arc<Store>,
        id: &str,
        key: String,
        number: PartNumber,
        source: Opened,
        range: Range<u64>,
    ) -> S3Result<String> {
        number_of(number)?;
        let at = id_of(id)?;
        Upload::of(self.index.read(|reader| reader.upload(at))?, &key)?;
        let store = Arc::clone(&self);
        let (content, etag) = blocking(move || store.content_of(&source.body, range)).await?;
        self.put_part(id, key, number, content, etag.clone())
            .await?;
        Ok(etag)
    }

    /// The upload's parts, by number.
    pub(super) fn parts(&self, id: &str, key: &str) -> S3Result<Vec<(u16, Record)>> {
        let id = id_of(id)?;
        self.index.read(|reader| {
            Upload::of(reader.upload(id)?, key)?;
            reader.parts(id)
        })
    }

    /// Joins the named parts into the object; returns its ETag. A repetition after the answer was lost is answered again.
    pub(super) async fn complete_upload(
        &self,
        id: &str,
        key: String,
        named: Vec<NamedPart>,
        condition: WriteCondition,
    ) -> S3Result<String> {
        if named.is_empty() {
            return Err(s3_error!(
                MalformedXML,
                "an upload is completed with one part at least"
            ));
        }
        if !named.is_sorted_by(|one, next| one.number < next.number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let etag = joined(named.iter().map(|part| part.etag.as_str()));
        let at = id_of(id)?;
        let stored = match self.parts(id, &key) {
            Ok(stored) => stored,
            Err(error) => {
                let existing = self.index.read(|reader| reader.object(&key))?;
                let is_done = existing.is_some_and(|object| object.etag == etag);
                return if is_done { Ok(etag) } else { Err(error) };
            }
        };
        let parts = self.chosen(stored, &named)?;
        let joined_etag = etag.clone();
        let written = self.writer.write(0, move |group| {
            let upload = Upload::of(group.upload(at)?, &key)?;
            for (number, part) in &parts {
                if group.part(at, *number)?.as_ref() != Some(part) {
                    return Err(s3_error!(InvalidPart));
                }
            }
            group.check_room()?;
            condition.check(group, &key)?;
            // One part becomes the object as it is.
            let place = match &parts[..] {
                [(_, only)] => group.shared(&only.place)?,
                parts => group.joined(parts.iter().map(|(_, part)| part))?,
            };
            let record = Record {
                place,
                size: parts.iter().map(|(_, part)| part.size).sum(),
                modified: SystemTime::now(),
                etag: joined_etag,
                attributes: upload.attributes,
            };
            group.put_object(&key, &record)?;
            group.remove_upload(at)
        });
        written.outcome().await?;
        Ok(etag)
    }

    /// Forgets the upload and its parts.
    pub(super) async fn abort_upload(&self, id: &str, key: String) -> S3Result<()> {
        let id = id_of(id)?;
        let written = self.writer.write(0, move |group| {
            Upload::of(group.upload(id)?, &key)?;
            group.remove_upload(id)
        });
        written.outcome().await
    }

    /// Forgets uploads nobody has touched for a week. Blocks.
    pub(super) fn clear_abandoned_uploads(&self) -> S3Result<()> {
        let now = SystemTime::now();
        let is_old = |touched: SystemTime| {
            now.duration_since(touched)
                .is_ok_and(|age| age > ABANDONED_AFTER)
        };
        for (id, text) in self.index.read(Reader::uploads)? {
            let upload: Upload = serde_json::from_slice(&text).map_err(S3Error::internal_error)?;
            let parts = self.index.read(|reader| reader.parts(id))?;
            if is_old(upload.begun) && parts.iter().all(|(_, part)| is_old(part.modified)) {
                let written = self
                    .writer
                    .write(0, move |group: &mut Group<'_>| group.remove_upload(id));
                written.wait()?;
            }
        }
        Ok(())
    }

    /// The stored parts that are named, in their order.
    fn chosen(
        &self,
        stored: Vec<(u16, Record)>,
        named: &[NamedPart],
    ) -> S3Result<Vec<(u16, Record)>> {
        let mut stored = stored.into_iter();
        let mut chosen: Vec<(u16, Record)> = Vec::with_capacity(named.len());
        for (index, part) in named.iter().enumerate() {
            let number = number_of(part.number)?;
            let (number, record) = stored
                .find(|(stored, _)| *stored == number)
                .filter(|(_, record)| record.etag == part.etag)
                .ok_or_else(|| s3_error!(InvalidPart))?;
            let is_last = index + 1 == named.len();
            if record.size < MIN_PART_BYTES && !is_last {
                return Err(s3_error!(EntityTooSmall));
            }
            let first_size = chosen.first().map_or(record.size, |(_, first)| first.size);
            let is_unequal = match is_last {
                true => record.size > first_size,
                false => record.size != first_size,
            };
            if self.is_strict && is_unequal {
                return Err(s3_error!(
                    InvalidPart,
                    "All non-trailing parts must have the same length."
                ));
            }
            chosen.push((number, record));
        }
        Ok(chosen)
    }

    /// A range of an opened object as new content, with its ETag.
    fn content_of(&self, body: &Body, range: Range<u64>) -> S3Result<(Content, String)> {
        let mut tagger = Tagger::new(self.secret, false, false);
        let content = if range.end - range.start <= FILE_BYTES as u64 {
            let mut copied = Vec::new();
            body.read(range, |bytes| {
                copied.extend_from_slice(bytes);
                Ok(())
            })?;
            tagger.update(&copied);
            Content::Memory(copied.into())
        } else {
            let mut staged = self.stage()?;
            body.read(range, |bytes| {
                tagger.update(bytes);
                staged.append(bytes)
            })?;
            self.files.seal(&staged).map_err(from_io)?;
            Content::Staged(staged)
        };
        Ok((content, tagger.finished(None).0))
    }
}

fn id_of(id: &str) -> S3Result<u128> {
    let id = Uuid::parse_str(id).map_err(|_| s3_error!(NoSuchUpload))?;
    Ok(id.as_u128())
}

fn number_of(number: PartNumber) -> S3Result<u16> {
    let refused = || s3_error!(InvalidArgument, "part numbers are 1 to 10000");
    if !(1..=MAX_PART_NUMBER).contains(&number) {
        return Err(refused());
    }
    u16::try_from(number).map_err(|_| refused())
}
