//! Objects as S3 promises them, on the index, the files and the one that writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Result, s3_error};

use super::body::Body;
use super::disk::{Disk, Durability, Kernel};
use super::failure::{from_io, lost};
use super::files::{Files, Staged};
use super::group::{Content, Group, Writer, Written};
use super::index::{Index, Reader};
use super::joined;
use super::record::{Attributes, Place, Record};

/// The longest object key accepted, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Larger objects are files; smaller ones are in the index, where they fit a page of 64 KiB.
pub(super) const FILE_BYTES: usize = 60 * 1024;
/// How often a file that a record names may be gone when it is opened: the object was replaced in between.
const OPEN_ATTEMPTS: u32 = 100;

/// An object as it was at one moment; its bytes are there whatever happens to its key afterwards.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) body: Body,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    pub(super) etag: String,
    pub(super) attributes: Attributes,
}

/// A condition on what a write replaces.
#[derive(Debug, Default)]
pub(super) struct WriteCondition {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

/// A condition on what a read or a copy finds.
#[derive(Debug, Default)]
pub(super) struct ReadCondition {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

/// The folder: `index.redb`, and `files` for the large ones.
pub(super) struct Store {
    pub(super) root: PathBuf,
    // Ends before the index is closed.
    pub(super) writer: Writer,
    pub(super) index: Arc<Index>,
    pub(super) files: Arc<Files>,
    pub(super) disk: Arc<dyn Disk>,
    /// What ETags are keyed with.
    pub(super) secret: u64,
    /// Whether parts must be of one size.
    pub(super) is_strict: bool,
}

impl Store {
    /// Opens the folder, takes in what an earlier version left, and clears away what writes left unfinished. Blocks.
    pub(super) fn open(root: &Path, durability: Durability) -> io::Result<Store> {
        Store::on(Arc::new(Kernel(durability)), root)
    }

    /// The same on a certain disk.
    pub(super) fn on(disk: Arc<dyn Disk>, root: &Path) -> io::Result<Store> {
        fs::create_dir_all(root)?;
        let index = Arc::new(Index::open(root.join("index.redb"), Arc::clone(&disk))?);
        let files = Arc::new(Files::open(root.join("files"), Arc::clone(&disk))?);
        let last_number = index.read(Reader::last_number);
        let cleared = last_number.and_then(|last| {
            files.clear(last, |number| index.read(|reader| reader.has_file(number)))
        });
        cleared.map_err(io::Error::other)?;
        let store = Store {
            root: root.to_owned(),
            writer: Writer::start(Arc::clone(&index), Arc::clone(&files))?,
            secret: index.secret().map_err(io::Error::other)?,
            index,
            files,
            disk,
            is_strict: false,
        };
        store.take_in_earlier_layout()?;
        Ok(store)
    }

    /// Writes what is queued and closes the folder, whoever still holds this: all that is asked afterwards fails. Blocks.
    pub(super) fn close(&self) {
        self.writer.end();
        self.index.close();
    }

    /// The object under the key, if there is one.
    pub(super) fn find(&self, key: &str) -> S3Result<Option<Opened>> {
        check_key(key)?;
        self.open_with(|index| {
            index.read(|reader| {
                let Some(record) = reader.object(key)? else {
                    return Ok(None);
                };
                let apart = match record.place {
                    Place::Apart(number) | Place::Parts(number) => Some(reader.bytes(number)?),
                    _ => None,
                };
                Ok(Some((record, apart)))
            })
        })
    }

    /// The object under the key.
    pub(super) fn get(&self, key: &str) -> S3Result<Opened> {
        self.find(key)?.ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// What is known of the object under the key.
    pub(super) fn head(&self, key: &str) -> S3Result<Record> {
        check_key(key)?;
        let found = self.index.read(|reader| reader.object(key))?;
        found.ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Opens what a record names; `read` is asked again when its file was removed in between.
    pub(super) fn open_with(
        &self,
        read: impl Fn(&Index) -> S3Result<Option<(Record, Option<Bytes>)>>,
    ) -> S3Result<Option<Opened>> {
        for _ in 0..OPEN_ATTEMPTS {
            let Some((record, apart)) = read(&self.index)? else {
                return Ok(None);
            };
            let body = match (record.place, apart) {
                (Place::Here(bytes), _) | (Place::Apart(_), Some(bytes)) => Body::Memory(bytes),
                (Place::Apart(_) | Place::Parts(_), None) => {
                    return Err(lost("the bytes of an object"));
                }
                (Place::Parts(number), Some(list)) => {
                    let parts = joined::decoded(&list)?;
                    let pinned = Files::pin(&self.files, &parts);
                    // Whoever replaced it before the files were pinned may have removed them.
                    let again = read(&self.index)?.map(|(record, _)| record.place);
                    if again != Some(Place::Parts(number)) {
                        continue;
                    }
                    Body::Parts { parts, pinned }
                }
                (Place::File(number), _) => {
                    let Some(file) = self.files.find(number).map_err(from_io)? else {
                        continue;
                    };
                    Body::File(file)
                }
            };
            return Ok(Some(Opened {
                body,
                size: record.size,
                modified: record.modified,
                etag: record.etag,
                attributes: record.attributes,
            }));
        }
        Err(lost("the file of an object"))
    }

    /// When the store was made.
    pub(super) fn made(&self) -> S3Result<SystemTime> {
        self.files.made().map_err(from_io)
    }

    /// A new file, to become an object.
    pub(super) fn stage(&self) -> S3Result<Staged> {
        self.files.stage().map_err(from_io)
    }

    /// A new file, to become a long object.
    pub(super) fn stage_long(&self) -> S3Result<Staged> {
        self.files.stage_long().map_err(from_io)
    }

    /// Makes content the object under the key, replacing what was there in one step.
    pub(super) fn put(
        &self,
        key: String,
        content: Content,
        etag: String,
        attributes: Attributes,
        condition: WriteCondition,
    ) -> Written<()> {
        let bytes = content.weight();
        self.writer.write(bytes, move |group| {
            check_key(&key)?;
            attributes.check()?;
            group.check_room()?;
            condition.check(group, &key)?;
            let record = group.keep(content, etag, attributes)?;
            group.put_object(&key, &record)
        })
    }

    /// Gives the source's bytes a second name. The condition is checked on the very bytes that are copied. `replaced` are
    /// new attributes; without them the source's are kept. Answers with the ETag.
    pub(super) fn copy(
        &self,
        source: String,
        condition: ReadCondition,
        replaced: Option<Attributes>,
        key: String,
    ) -> Written<String> {
        // What is copied is not known yet; few copies are of bytes at all.
        self.writer.write(0, move |group| {
            check_key(&source)?;
            check_key(&key)?;
            replaced.as_ref().map_or(Ok(()), Attributes::check)?;
            let source = group.object(&source)?;
            let source = source.ok_or_else(|| s3_error!(NoSuchKey))?;
            condition.check_source(&source.etag)?;
            group.check_room()?;
            let copied = Record {
                place: group.shared(&source.place)?,
                modified: SystemTime::now(),
                attributes: replaced.unwrap_or(source.attributes),
                ..source
            };
            group.put_object(&key, &copied)?;
            Ok(copied.etag)
        })
    }

    /// Removes the objects, all in one group; none there is no error. Answers with those that could not be removed.
    pub(super) fn delete(&self, keys: Vec<String>) -> Written<Vec<(String, S3Result<()>)>> {
        self.writer.write(0, move |group| {
            let removed = keys.into_iter().map(|key| {
                let outcome = check_key(&key).and_then(|()| group.remove_object(&key));
                (key, outcome)
            });
            Ok(removed.collect())
        })
    }
}

impl WriteCondition {
    /// Checks what a write to the key would replace.
    pub(super) fn check(&self, group: &Group<'_>, key: &str) -> S3Result<()> {
        if self.if_match.is_none() && self.if_none_match.is_none() {
            return Ok(());
        }
        let existing = group.object(key)?;
        if let Some(wanted) = &self.if_match {
            // S3 answers 404 to a conditional write on a key without an object.
            let existing = existing.as_ref().ok_or_else(|| s3_error!(NoSuchKey))?;
            if !is_met(wanted, &existing.etag) {
                return Err(s3_error!(PreconditionFailed));
            }
        }
        if let (Some(unwanted), Some(existing)) = (&self.if_none_match, &existing)
            && is_met(unwanted, &existing.etag)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(())
    }
}

impl ReadCondition {
    /// Of a read: 412 when the ETag is not the asked one, 304 when the client has it already.
    pub(super) fn check_read(&self, etag: &str) -> S3Result<()> {
        if self.is_refused_by(etag) {
            return Err(s3_error!(PreconditionFailed));
        }
        if self.is_held(etag) {
            return Err(s3_error!(NotModified));
        }
        Ok(())
    }

    /// Of a copy's source: 412 for both.
    pub(super) fn check_source(&self, etag: &str) -> S3Result<()> {
        if self.is_refused_by(etag) || self.is_held(etag) {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(())
    }

    fn is_refused_by(&self, etag: &str) -> bool {
        let wanted = self.if_match.as_ref();
        wanted.is_some_and(|wanted| !is_met(wanted, etag))
    }

    fn is_held(&self, etag: &str) -> bool {
        let held = self.if_none_match.as_ref();
        held.is_some_and(|held| is_met(held, etag))
    }
}

/// Refuses keys that S3 refuses.
pub(super) fn check_key(key: &str) -> S3Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(s3_error!(KeyTooLongError));
    }
    Ok(())
}

/// Whether an object of this ETag meets a condition.
fn is_met(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => {
            matches!(wanted, ETag::Strong(value) if value == etag)
        }
    }
}
