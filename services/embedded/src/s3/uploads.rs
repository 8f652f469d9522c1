//! Multipart uploads: a folder each, a file per part, joined at the end.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use s3s::crypto::{Checksum, Md5};
use s3s::dto::PartNumber;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::{
    Description, Opened, Staged, Store, WriteCondition, from_io, is_absence, open_object,
};

const MAX_PART_NUMBER: PartNumber = 10_000;
/// S3's least size of every part but the last.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
const MD5_BYTES: usize = 16;
/// Uploads nobody completed are cleared away at a start when they are older; whoever resumes does so within a day.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// What an upload will become, kept in its folder.
#[derive(Debug, Serialize, Deserialize)]
struct Upload {
    key: String,
    description: Description,
}

/// One stored part.
#[derive(Debug)]
pub(super) struct StoredPart {
    pub(super) number: PartNumber,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) modified: SystemTime,
}

/// A part as the client names it when it completes.
#[derive(Debug)]
pub(super) struct NamedPart {
    pub(super) number: PartNumber,
    /// Without quotes.
    pub(super) etag: String,
}

impl Store {
    /// Begins an upload; returns its id.
    pub(super) fn create_upload(&self, key: &str, description: Description) -> S3Result<String> {
        let id = Uuid::new_v4().to_string();
        let folder = self.uploads.join(&id);
        fs::create_dir(&folder).map_err(from_io)?;
        let upload = Upload {
            key: key.to_owned(),
            description,
        };
        let text = serde_json::to_vec(&upload).map_err(S3Error::internal_error)?;
        self.write_small(&folder.join("upload.json"), &text)?;
        self.sync_folder_of(&folder)?;
        Ok(id)
    }

    /// Uploads whose keys begin so, with when they were begun, by key and then by age.
    pub(super) fn unfinished(&self, prefix: &str) -> S3Result<Vec<(String, String, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.uploads).map_err(from_io)? {
            let entry = entry.map_err(from_io)?;
            let name = entry.file_name();
            let description = entry.path().join("upload.json");
            // One that is being made or has just ended is passed over.
            let (Some(id), Ok(text), Ok(facts)) = (
                name.to_str(),
                fs::read(&description),
                fs::metadata(&description),
            ) else {
                continue;
            };
            let Ok(upload) = serde_json::from_slice::<Upload>(&text) else {
                continue;
            };
            if upload.key.starts_with(prefix) {
                let begun = facts.modified().map_err(from_io)?;
                found.push((upload.key, id.to_owned(), begun));
            }
        }
        found.sort_by(|(key, id, begun), (other_key, other_id, other_begun)| {
            (key, begun, id).cmp(&(other_key, other_begun, other_id))
        });
        Ok(found)
    }

    /// Makes a staged file the part of that number; returns its ETag.
    pub(super) fn put_part(
        &self,
        id: &str,
        key: &str,
        number: PartNumber,
        staged: Staged,
        md5: [u8; MD5_BYTES],
    ) -> S3Result<String> {
        let destination = self.part_path(id, key, number)?;
        let etag = hex::encode(md5);
        let description = Description {
            etag: etag.clone(),
            ..Description::default()
        };
        let staged = self.seal(staged, &description)?;
        self.place_part(&staged, &destination)?;
        Ok(etag)
    }

    /// Makes a range of an object a part. The condition is checked on the very file that is read.
    pub(super) fn copy_part(
        &self,
        id: &str,
        key: &str,
        number: PartNumber,
        source: &Opened,
        range: Range<u64>,
    ) -> S3Result<String> {
        self.part_path(id, key, number)?;
        let mut staged = self.stage()?;
        let mut md5 = Md5::new();
        let wanted = range.end - range.start;
        let mut reader = source.file.try_clone().map_err(from_io)?;
        reader.seek(SeekFrom::Start(range.start)).map_err(from_io)?;
        let mut reader = reader.take(wanted);
        let mut buffer = vec![0_u8; COPY_BUFFER_BYTES];
        loop {
            let read = reader.read(&mut buffer).map_err(from_io)?;
            if read == 0 {
                break;
            }
            md5.update(&buffer[..read]);
            staged.append(&buffer[..read])?;
        }
        if staged.size() != wanted {
            return Err(S3Error::internal_error(io::Error::from(
                io::ErrorKind::UnexpectedEof,
            )));
        }
        self.put_part(id, key, number, staged, md5.finalize())
    }

    /// The upload's parts, by number.
    pub(super) fn parts(&self, id: &str, key: &str) -> S3Result<Vec<StoredPart>> {
        let folder = self.upload_folder(id, key)?;
        let mut parts = Vec::new();
        for entry in fs::read_dir(&folder).map_err(from_io)? {
            let entry = entry.map_err(from_io)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("part-"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            let Some(part) = open_object(&entry.path()).map_err(from_io)? else {
                continue;
            };
            parts.push(StoredPart {
                number,
                size: part.size,
                etag: part.description.etag,
                modified: part.modified,
            });
        }
        parts.sort_unstable_by_key(|part| part.number);
        Ok(parts)
    }

    /// Joins the named parts into the object; returns its ETag. A repetition after the answer was lost is answered again.
    pub(super) fn complete_upload(
        &self,
        id: &str,
        key: &str,
        named: &[NamedPart],
        condition: &WriteCondition,
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
        let etag = joined_etag(named)?;
        let upload = match self.upload(id, key) {
            Ok(upload) => upload,
            Err(error) => {
                let is_done = self
                    .find(key)?
                    .is_some_and(|object| object.description.etag == etag);
                return if is_done { Ok(etag) } else { Err(error) };
            }
        };
        let mut staged = self.stage()?;
        let mut first_size = None;
        for (index, part) in named.iter().enumerate() {
            let stored = open_object(&self.part_path(id, key, part.number)?)
                .map_err(from_io)?
                .filter(|stored| stored.description.etag == part.etag)
                .ok_or_else(|| s3_error!(InvalidPart))?;
            let is_last = index + 1 == named.len();
            if stored.size < MIN_PART_BYTES && !is_last {
                return Err(s3_error!(EntityTooSmall));
            }
            let first_size = *first_size.get_or_insert(stored.size);
            let is_unequal = match is_last {
                true => stored.size > first_size,
                false => stored.size != first_size,
            };
            if self.is_strict && is_unequal {
                return Err(s3_error!(
                    InvalidPart,
                    "All non-trailing parts must have the same length."
                ));
            }
            staged
                .append_copy(&stored.file, 0..stored.size)
                .map_err(from_io)?;
        }
        let description = Description {
            etag: etag.clone(),
            ..upload.description
        };
        self.commit(staged, &description, key, condition)?;
        self.remove_upload(id)?;
        Ok(etag)
    }

    /// Forgets the upload and its parts.
    pub(super) fn abort_upload(&self, id: &str, key: &str) -> S3Result<()> {
        self.upload_folder(id, key)?;
        self.remove_upload(id)
    }

    /// Forgets uploads nobody has touched for a week.
    pub(super) fn clear_abandoned_uploads(&self) -> io::Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.uploads)? {
            let entry = entry?;
            let touched = entry.metadata()?.modified()?;
            if now
                .duration_since(touched)
                .is_ok_and(|age| age > ABANDONED_AFTER)
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn remove_upload(&self, id: &str) -> S3Result<()> {
        match fs::remove_dir_all(self.uploads.join(id)) {
            Err(error) if !is_absence(&error) => Err(from_io(error)),
            _ => Ok(()),
        }
    }

    fn upload(&self, id: &str, key: &str) -> S3Result<Upload> {
        // The id is a part of a path, so it must be one of ours.
        let id = Uuid::parse_str(id).map_err(|_| s3_error!(NoSuchUpload))?;
        let path = self.uploads.join(id.to_string()).join("upload.json");
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if is_absence(&error) => return Err(s3_error!(NoSuchUpload)),
            Err(error) => return Err(from_io(error)),
        };
        let upload: Upload = serde_json::from_slice(&text).map_err(S3Error::internal_error)?;
        if upload.key != key {
            return Err(s3_error!(NoSuchUpload));
        }
        Ok(upload)
    }

    fn upload_folder(&self, id: &str, key: &str) -> S3Result<PathBuf> {
        self.upload(id, key)?;
        Ok(self.uploads.join(id))
    }

    fn part_path(&self, id: &str, key: &str, number: PartNumber) -> S3Result<PathBuf> {
        if !(1..=MAX_PART_NUMBER).contains(&number) {
            return Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000"));
        }
        Ok(self.upload_folder(id, key)?.join(format!("part-{number}")))
    }
}

/// S3's ETag of a multipart upload: the MD5 of the parts' MD5s, and their count.
fn joined_etag(parts: &[NamedPart]) -> S3Result<String> {
    let mut md5 = Md5::new();
    for part in parts {
        let mut raw = [0_u8; MD5_BYTES];
        hex::decode_to_slice(&part.etag, &mut raw).map_err(|_| s3_error!(InvalidPart))?;
        md5.update(&raw);
    }
    Ok(format!("{}-{}", hex::encode(md5.finalize()), parts.len()))
}
