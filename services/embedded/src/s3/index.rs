//! The index: every key with its record, small objects' bytes, and uploads with their parts, in one redb file.
//!
//! redb is a copy-on-write B-tree: a commit writes new pages and then names them in one sync, so what was not synced is
//! as if it had not been, whichever of its pages reached the disk. A failure of the disk closes it until it is opened
//! again, which is done at once, and again by whoever writes next.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{
    Database, Range, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};
use s3s::S3Result;

use super::disk::Disk;
use super::failure::{as_io, closed, from_io, lost, trouble};
use super::record::Record;

/// Memory for pages, those that were read and those that are being written.
const CACHE_BYTES: usize = 24 * 1024 * 1024;
/// How long one that ends may still have the file, and how often it is looked at.
const LOCKED_WITHIN: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Keys to their records.
pub(super) const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// Bytes that are too many for a record and too few for a file.
pub(super) const BYTES: TableDefinition<u64, &[u8]> = TableDefinition::new("bytes");
/// Files, by how many records share them.
pub(super) const FILES: TableDefinition<u64, u32> = TableDefinition::new("files");
/// Unfinished uploads by their ids.
pub(super) const UPLOADS: TableDefinition<u128, &[u8]> = TableDefinition::new("uploads");
/// Their parts' records.
pub(super) const PARTS: TableDefinition<(u128, u16), &[u8]> = TableDefinition::new("parts");
/// What is known of the store itself.
const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");
/// What ETags are keyed with.
const SECRET: &str = "etag-secret";

/// The open index, or none where it failed and could not be opened again.
pub(super) struct Index {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    database: RwLock<Option<Database>>,
}

impl Index {
    /// Opens the file, made where missing.
    pub(super) fn open(path: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Index> {
        let database = opened(&path, &disk).map_err(as_io)?;
        Ok(Index {
            path,
            disk,
            database: RwLock::new(Some(database)),
        })
    }

    /// What ETags are keyed with: made once for a store.
    pub(super) fn secret(&self) -> S3Result<u64> {
        let transaction = self.begin().map_err(from_io)?;
        let secret = {
            let mut facts = transaction.open_table(FACTS).map_err(trouble)?;
            let known = facts.get(SECRET).map_err(trouble)?;
            match known.map(|secret| secret.value()) {
                Some(secret) => secret,
                None => {
                    let made: u64 = rand::random();
                    facts.insert(SECRET, made).map_err(trouble)?;
                    made
                }
            }
        };
        transaction.commit().map_err(trouble)?;
        Ok(secret)
    }

    /// Reads, all from one moment.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Reader) -> S3Result<T>) -> S3Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        let transaction = database.begin_read().map_err(trouble)?;
        work(&Reader { transaction })
    }

    /// Begins to write; one at a time.
    pub(super) fn begin(&self) -> io::Result<WriteTransaction> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database
            .as_ref()
            .ok_or_else(|| io::Error::other("it is closed"))?;
        database.begin_write().map_err(|error| as_io(error.into()))
    }

    /// Opens the index again after a failure. What a failed commit wrote is there wholly or not at all. No transaction may
    /// be open.
    pub(super) fn reopen(&self) {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = None;
        match opened(&self.path, &self.disk) {
            Ok(again) => *database = Some(again),
            Err(error) => {
                let error = as_io(error);
                tracing::error!(%error, "the index of the object store cannot be opened again yet");
            }
        }
    }

    /// Closes the index in order, so that it need not be looked through when it is opened again.
    pub(super) fn close(&self) {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = None;
    }

    /// Whether it has failed and is not open.
    pub(super) fn is_closed(&self) -> bool {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.is_none()
    }
}

fn opened(path: &Path, disk: &Arc<dyn Disk>) -> Result<Database, redb::Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    lock(&file)?;
    let is_new = file.metadata()?.len() == 0;
    let backend = IndexFile {
        file,
        disk: Arc::clone(disk),
    };
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)?;
    // It was opened, so it can be read; on a full disk no more than that.
    if database.begin_read()?.open_table(PARTS).is_ok() {
        return Ok(database);
    }
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(BYTES)?;
    transaction.open_table(FILES)?;
    transaction.open_table(UPLOADS)?;
    transaction.open_table(PARTS)?;
    transaction.commit()?;
    if let Some(folder) = path.parent().filter(|_| is_new) {
        disk.sync_folder(folder)?;
    }
    Ok(database)
}

/// Two that write to one file would ruin it. One that ends, with a request that is still under way, is waited for.
fn lock(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCKED_WITHIN => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another object store is on this folder"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// The index at one moment.
pub(super) struct Reader {
    transaction: ReadTransaction,
}

impl Reader {
    /// The record of a key.
    pub(super) fn object(&self, key: &str) -> S3Result<Option<Record>> {
        let objects = self.transaction.open_table(OBJECTS).map_err(trouble)?;
        let text = objects.get(key).map_err(trouble)?;
        text.map(|text| Record::decoded(text.value())).transpose()
    }

    /// Bytes apart.
    pub(super) fn bytes(&self, number: u64) -> S3Result<Bytes> {
        let bytes = self.transaction.open_table(BYTES).map_err(trouble)?;
        let found = bytes.get(number).map_err(trouble)?;
        let found = found.ok_or_else(|| lost("the bytes of an object"))?;
        Ok(Bytes::copy_from_slice(found.value()))
    }

    /// Objects in the order of their keys, from one on.
    pub(super) fn objects_from(
        &self,
        from: std::ops::Bound<&str>,
    ) -> S3Result<Range<'static, &'static str, &'static [u8]>> {
        let objects = self.transaction.open_table(OBJECTS).map_err(trouble)?;
        let range = (from, std::ops::Bound::Unbounded);
        objects.range::<&str>(range).map_err(trouble)
    }

    /// An unfinished upload, as it is kept.
    pub(super) fn upload(&self, id: u128) -> S3Result<Option<Vec<u8>>> {
        let uploads = self.transaction.open_table(UPLOADS).map_err(trouble)?;
        let text = uploads.get(id).map_err(trouble)?;
        Ok(text.map(|text| text.value().to_vec()))
    }

    /// All unfinished uploads, as they are kept.
    pub(super) fn uploads(&self) -> S3Result<Vec<(u128, Vec<u8>)>> {
        let uploads = self.transaction.open_table(UPLOADS).map_err(trouble)?;
        let mut found = Vec::new();
        for upload in uploads.iter().map_err(trouble)? {
            let (id, text) = upload.map_err(trouble)?;
            found.push((id.value(), text.value().to_vec()));
        }
        Ok(found)
    }

    /// An upload's parts by their numbers.
    pub(super) fn parts(&self, id: u128) -> S3Result<Vec<(u16, Record)>> {
        let parts = self.transaction.open_table(PARTS).map_err(trouble)?;
        let mut found = Vec::new();
        for part in parts.range((id, 0)..=(id, u16::MAX)).map_err(trouble)? {
            let (at, text) = part.map_err(trouble)?;
            found.push((at.value().1, Record::decoded(text.value())?));
        }
        Ok(found)
    }

    /// Whether any record is in this file.
    pub(super) fn has_file(&self, number: u64) -> S3Result<bool> {
        let files = self.transaction.open_table(FILES).map_err(trouble)?;
        Ok(files.get(number).map_err(trouble)?.is_some())
    }

    /// The largest number that names bytes or a file.
    pub(super) fn last_number(&self) -> S3Result<u64> {
        let bytes = self.transaction.open_table(BYTES).map_err(trouble)?;
        let files = self.transaction.open_table(FILES).map_err(trouble)?;
        let of_bytes = bytes.last().map_err(trouble)?;
        let of_files = files.last().map_err(trouble)?;
        let of_bytes = of_bytes.map_or(0, |(number, _)| number.value());
        let of_files = of_files.map_or(0, |(number, _)| number.value());
        Ok(of_bytes.max(of_files))
    }
}

/// The file of the index, locked as long as it is open.
#[derive(Debug)]
struct IndexFile {
    file: File,
    disk: Arc<dyn Disk>,
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_file(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(&self.file, offset, data)
    }
}
