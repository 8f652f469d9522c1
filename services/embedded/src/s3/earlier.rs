//! Folders of the earlier layout, where an object was a file under its key, and an upload a folder of its parts.
//!
//! They are taken in at the start, before anybody is served: what is small is put into the index, what is large is renamed
//! to be one of the files. Each step is named in the index before it is done on the folder, so that the whole can be begun
//! again wherever it was broken off.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::S3Result;
use serde::Deserialize;
use uuid::Uuid;

use super::group::{Content, Group};
use super::record::{Attributes, Place, Record};
use super::store::{FILE_BYTES, Store};
use super::uploads::Upload;

/// Ended every file of that layout.
const MAGIC: &[u8; 8] = b"CAUDAL01";
/// The trailer's fixed end: the length of its JSON (u32, big endian) and the magic.
const TRAILER_END_BYTES: u64 = 12;
const MAX_TRAILER_BYTES: u64 = 64 * 1024;
/// How many files are taken in with one sync, and how many of their bytes are in memory at most.
const AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// The trailer's JSON.
#[derive(Debug, Default, Deserialize)]
struct Description {
    #[serde(default)]
    etag: String,
    #[serde(flatten)]
    attributes: Attributes,
}

/// An upload's `upload.json`.
#[derive(Debug, Deserialize)]
struct EarlierUpload {
    key: String,
    description: Description,
}

/// What a file of that layout becomes.
#[derive(Debug, Clone)]
enum Name {
    Object(String),
    Part(u128, u16),
}

/// A file of that layout, read as far as it is needed.
struct Earlier {
    path: PathBuf,
    name: Name,
    /// Of small ones.
    bytes: Option<Bytes>,
    size: u64,
    modified: SystemTime,
    description: Description,
}

impl Store {
    /// Takes in what is there of the earlier layout. Blocks.
    pub(super) fn take_in_earlier_layout(&self) -> io::Result<()> {
        let [objects, uploads, staging] =
            ["objects", "uploads", "staging"].map(|name| self.root.join(name));
        if ![&objects, &uploads, &staging]
            .iter()
            .any(|old| old.exists())
        {
            return Ok(());
        }
        tracing::info!(
            folder = %self.root.display(),
            "objects of an earlier layout are taken in, which is done once"
        );
        let mut taken = Taken {
            store: self,
            waiting: Vec::new(),
            bytes: 0,
            count: 0,
        };
        if objects.is_dir() {
            taken.objects_of(&objects)?;
        }
        if uploads.is_dir() {
            taken.uploads_of(&uploads)?;
        }
        taken.flush()?;
        let count = taken.count;
        // What is renamed is to be there before its old place is not.
        self.files.sync_all_names()?;
        if staging.is_dir() {
            fs::remove_dir_all(&staging)?;
        }
        for old in [&objects, &uploads] {
            remove_empty(old)?;
        }
        self.disk.sync_folder(&self.root)?;
        tracing::info!(count, "objects and parts were taken in");
        Ok(())
    }
}

struct Taken<'store> {
    store: &'store Store,
    waiting: Vec<Earlier>,
    bytes: usize,
    count: u64,
}

impl Taken<'_> {
    fn objects_of(&mut self, root: &Path) -> io::Result<()> {
        let mut folders = vec![(root.to_owned(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                // The layout had none of them.
                let Some(name) = name.to_str() else { continue };
                let key = format!("{prefix}{name}");
                if entry.file_type()?.is_dir() {
                    folders.push((entry.path(), format!("{key}/")));
                } else {
                    self.take(entry.path(), Name::Object(key))?;
                }
            }
        }
        Ok(())
    }

    fn uploads_of(&mut self, root: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root)? {
            let folder = entry?.path();
            let name = folder.file_name().and_then(|name| name.to_str());
            let id = name.and_then(|name| Uuid::parse_str(name).ok());
            let about = folder.join("upload.json");
            let text = fs::read(&about);
            let upload = text
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok());
            let (Some(id), Some(upload)) = (id, upload) else {
                // It was being made or removed.
                remove_all(&folder)?;
                continue;
            };
            let EarlierUpload { key, description } = upload;
            let id = id.as_u128();
            let kept = Upload {
                key,
                begun: fs::metadata(&about)?.modified()?,
                attributes: description.attributes,
            };
            let text = kept.encoded().map_err(io::Error::other)?;
            self.written(move |group| group.put_upload(id, &text))?;
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let number = name.and_then(|name| name.strip_prefix("part-"));
                if let Some(number) = number.and_then(|number| number.parse().ok()) {
                    self.take(path, Name::Part(id, number))?;
                }
            }
            self.flush()?;
            remove_all(&folder)?;
        }
        Ok(())
    }

    /// Takes a file in, some time before the next flush ends.
    fn take(&mut self, path: PathBuf, name: Name) -> io::Result<()> {
        match read(path, name) {
            Ok(earlier) => {
                self.bytes += earlier.bytes.as_ref().map_or(0, Bytes::len);
                self.waiting.push(earlier);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "a file stays where it is");
            }
            Err(error) => return Err(error),
        }
        if self.waiting.len() >= AT_ONCE || self.bytes >= BYTES_AT_ONCE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        self.count += waiting.len() as u64;
        let named = self.written(move |group| {
            let mut named = Vec::with_capacity(waiting.len());
            for earlier in waiting {
                let path = earlier.path.clone();
                let place = named_in(group, earlier)?;
                named.push((path, place));
            }
            Ok(named)
        })?;
        for (path, place) in named {
            match place {
                Place::File(number) if self.store.files.find(number)?.is_none() => {
                    fs::rename(&path, self.store.files.path_of(number))?;
                }
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    fn written<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Group<'_>) -> S3Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let written = self.store.writer.write(0, work);
        written.wait().map_err(io::Error::other)
    }
}

/// Names an earlier file in the index; one that was named before it was broken off keeps its place.
fn named_in(group: &mut Group<'_>, earlier: Earlier) -> S3Result<Place> {
    let known = match &earlier.name {
        Name::Object(key) => group.object(key)?,
        Name::Part(id, number) => group.part(*id, *number)?,
    };
    if let Some(known) = known {
        return Ok(known.place);
    }
    let Description { etag, attributes } = earlier.description;
    let record = match earlier.bytes {
        Some(bytes) => {
            let record = group.keep(Content::Memory(bytes), etag, attributes)?;
            Record {
                modified: earlier.modified,
                ..record
            }
        }
        None => Record {
            place: Place::File(group.name_next_file()?),
            size: earlier.size,
            modified: earlier.modified,
            etag,
            attributes,
        },
    };
    match earlier.name {
        Name::Object(key) => group.put_object(&key, &record)?,
        Name::Part(id, number) => group.put_part(id, number, &record)?,
    }
    Ok(record.place)
}

fn read(path: PathBuf, name: Name) -> io::Result<Earlier> {
    let file = File::open(&path)?;
    let facts = file.metadata()?;
    let damaged = || {
        let what = format!(
            "{} was not written by this store or is damaged",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let before_end = facts.len().checked_sub(TRAILER_END_BYTES);
    let before_end = before_end.ok_or_else(damaged)?;
    let mut length = [0_u8; 4];
    let mut magic = [0_u8; 8];
    file.read_exact_at(&mut length, before_end)?;
    file.read_exact_at(&mut magic, before_end + 4)?;
    let length = u64::from(u32::from_be_bytes(length));
    if &magic != MAGIC || length > MAX_TRAILER_BYTES {
        return Err(damaged());
    }
    let size = before_end.checked_sub(length).ok_or_else(damaged)?;
    let piece = |from: u64, bytes: u64| -> io::Result<Vec<u8>> {
        let mut piece = vec![0_u8; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut piece, from)?;
        Ok(piece)
    };
    let description = serde_json::from_slice(&piece(size, length)?).map_err(|_| damaged())?;
    let is_small = size <= FILE_BYTES as u64;
    let bytes = is_small.then(|| piece(0, size)).transpose()?;
    Ok(Earlier {
        bytes: bytes.map(Bytes::from),
        size,
        modified: facts.modified()?,
        description,
        path,
        name,
    })
}

/// Removes a folder with the folders in it, unless there is a file left.
fn remove_empty(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match folder.is_dir() {
        true => fs::remove_dir_all(folder),
        false => fs::remove_file(folder),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::super::disk::Durability;
    use super::*;

    fn earlier(path: &Path, bytes: &[u8], etag: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let trailer = format!(r#"{{"etag":"{etag}","content_type":"text/plain"}}"#);
        let length = u32::try_from(trailer.len()).unwrap().to_be_bytes();
        let file = [bytes, trailer.as_bytes(), &length, MAGIC].concat();
        fs::write(path, file).unwrap();
    }

    fn check(store: &Store, key: &str, bytes: &[u8], etag: &str) {
        let opened = store.get(key).unwrap();
        let mut read = Vec::new();
        let taken = |bytes: &[u8]| {
            read.extend_from_slice(bytes);
            Ok(())
        };
        opened.body.read(0..opened.size, taken).unwrap();
        assert!(read == bytes, "{key}");
        assert_eq!(opened.etag, etag);
        assert_eq!(
            opened.attributes.content_type.as_deref(),
            Some("text/plain")
        );
    }

    #[tokio::test]
    async fn a_folder_of_the_earlier_layout_is_taken_in_and_can_be_again_where_it_broke_off() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let open = || {
            let root = root.to_owned();
            let store = move || Store::open(&root, Durability::PowerLoss).unwrap();
            tokio::task::spawn_blocking(store)
        };
        let large = vec![7; FILE_BYTES + 1];
        let objects = root.join("objects");
        earlier(&objects.join("t/small"), b"small", "e1");
        earlier(&objects.join("t/deep/large"), &large, "e2");
        fs::hard_link(objects.join("t/deep/large"), objects.join("copy")).unwrap();
        fs::write(objects.join("not-ours"), "too short").unwrap();
        fs::create_dir_all(root.join("staging")).unwrap();
        fs::write(root.join("staging/7"), "left").unwrap();
        let id = Uuid::new_v4();
        let upload = root.join("uploads").join(id.to_string());
        earlier(&upload.join("part-2"), &large, "p2");
        let about = r#"{"key":"up","description":{"etag":"","content_type":"text/plain"}}"#;
        fs::write(upload.join("upload.json"), about).unwrap();
        fs::create_dir_all(root.join("uploads/being-made")).unwrap();

        let store = open().await.unwrap();
        check(&store, "t/small", b"small", "e1");
        check(&store, "t/deep/large", &large, "e2");
        check(&store, "copy", &large, "e2");
        let parts = store.parts(&id.to_string(), "up").unwrap();
        assert_eq!(parts[0].0, 2);
        assert_eq!(
            (parts[0].1.size, parts[0].1.etag.as_str()),
            (large.len() as u64, "p2")
        );
        assert!(!root.join("uploads").exists() && !root.join("staging").exists());
        // What is not ours is not touched.
        let left: Vec<_> = fs::read_dir(&objects).unwrap().collect();
        assert_eq!(left.len(), 1);

        // As if it had broken off: a large one named and not renamed, a small one named and not removed.
        let place = store.head("t/deep/large").unwrap().place;
        let Place::File(number) = place else {
            panic!("{place:?}");
        };
        let path = store.files.path_of(number);
        drop(store);
        fs::create_dir_all(objects.join("t/deep")).unwrap();
        fs::rename(path, objects.join("t/deep/large")).unwrap();
        earlier(&objects.join("t/small"), b"stale", "e0");
        let store = open().await.unwrap();
        check(&store, "t/small", b"small", "e1");
        check(&store, "t/deep/large", &large, "e2");
        check(&store, "copy", &large, "e2");
        assert!(!objects.join("t").exists());
    }
}
