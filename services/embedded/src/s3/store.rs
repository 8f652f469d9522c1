//! Objects as files, so that what S3 promises holds by construction.
//!
//! One object is one file: the bytes, then a trailer with its ETag and attributes. A file is written aside and renamed to
//! its name in one step, and never changed afterwards. So bytes and ETag cannot come apart, not even by a crash; whoever
//! has opened an object reads that object to its end, whatever is put meanwhile; and a copy is a second name for the same
//! file. Only conditional writes and the opening of a copy's source need the lock of their key.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::SeekFrom as Next;
use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// A run of so many zeros is left out of a file, which reads as if it were there.
const HOLE_BYTES: usize = 4 * 1024;
/// The longest object key accepted, in bytes; each of its parts must fit a file name (255 bytes).
pub const MAX_KEY_BYTES: usize = 1024;
const MAX_KEY_PART_BYTES: usize = 255;

/// Ends every object file. A file without it was not written by this store.
const MAGIC: &[u8; 8] = b"CAUDAL01";
/// The trailer's fixed end: the length of its JSON (u32, big endian) and the magic.
const TRAILER_END_BYTES: u64 = 12;
/// The longest trailer read; S3 allows 2 KiB of user metadata.
const MAX_TRAILER_BYTES: u64 = 64 * 1024;
/// Locks are shared by keys of the same hash.
const LOCKS: usize = 64;
/// A delete may remove the empty folder that a put has just made; the put makes it again, at most this often.
const RENAME_ATTEMPTS: u32 = 16;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The loss of power: file and folder are synced before the answer.
    #[default]
    PowerLoss,
    /// The death of the process alone; the kernel writes to the disk when it sees fit. Much faster on a slow disk.
    ProcessCrash,
}

/// An object's attributes, kept in its trailer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Description {
    /// Without quotes: the MD5 of the bytes in hex, or of the parts' MD5s with `-COUNT` for a multipart upload.
    pub(super) etag: String,
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

/// An opened object: the bytes are `0..size` of the file, whatever happens to the key afterwards.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    pub(super) description: Description,
}

/// A condition on what a write replaces.
#[derive(Debug, Default)]
pub(super) struct WriteCondition {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

/// The folder. All its methods block.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) objects: PathBuf,
    pub(super) uploads: PathBuf,
    staging: PathBuf,
    staged: AtomicU64,
    locks: Vec<Mutex<()>>,
    durability: Durability,
    /// Whether parts must be of one size.
    pub(super) is_strict: bool,
}

impl Store {
    /// Opens the folder and clears away what writes left unfinished.
    pub(super) fn open(root: &Path, durability: Durability) -> io::Result<Store> {
        let store = Store {
            objects: root.join("objects"),
            uploads: root.join("uploads"),
            staging: root.join("staging"),
            staged: AtomicU64::new(0),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            durability,
            is_strict: false,
        };
        if store.staging.exists() {
            fs::remove_dir_all(&store.staging)?;
        }
        for folder in [&store.objects, &store.uploads, &store.staging] {
            fs::create_dir_all(folder)?;
        }
        Ok(store)
    }

    /// The object under the key, if there is one.
    pub(super) fn find(&self, key: &str) -> S3Result<Option<Opened>> {
        open_object(&self.path_of(key)?).map_err(from_io)
    }

    /// The object under the key.
    pub(super) fn get(&self, key: &str) -> S3Result<Opened> {
        self.find(key)?.ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// When the store was made.
    pub(super) fn made(&self) -> S3Result<SystemTime> {
        let folder = fs::metadata(&self.objects).map_err(from_io)?;
        folder
            .created()
            .or_else(|_| folder.modified())
            .map_err(from_io)
    }

    /// A new file aside, to become an object.
    pub(super) fn stage(&self) -> S3Result<Staged> {
        let path = self.next_staging_path();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(from_io)?;
        Ok(Staged {
            path: StagedPath(path),
            file,
            size: 0,
        })
    }

    /// Makes a staged file the object under the key, replacing what was there in one step.
    pub(super) fn commit(
        &self,
        staged: Staged,
        description: &Description,
        key: &str,
        condition: &WriteCondition,
    ) -> S3Result<()> {
        let destination = self.path_of(key)?;
        let staged = self.seal(staged, description)?;
        self.place(&staged.path.0, &destination, key, condition)
    }

    /// Writes the trailer and syncs the file.
    pub(super) fn seal(&self, mut staged: Staged, description: &Description) -> S3Result<Staged> {
        let trailer = serde_json::to_vec(description).map_err(S3Error::internal_error)?;
        let length = u32::try_from(trailer.len()).map_err(S3Error::internal_error)?;
        if u64::from(length) > MAX_TRAILER_BYTES {
            return Err(s3_error!(MetadataTooLarge));
        }
        let mut end = trailer;
        end.extend_from_slice(&length.to_be_bytes());
        end.extend_from_slice(MAGIC);
        staged.file.write_all(&end).map_err(from_io)?;
        if self.durability == Durability::PowerLoss {
            staged.file.sync_data().map_err(from_io)?;
        }
        Ok(staged)
    }

    /// Renames a sealed file to a part of an upload, replacing an earlier one of that number.
    pub(super) fn place_part(&self, staged: &Staged, destination: &Path) -> S3Result<()> {
        match fs::rename(&staged.path.0, destination) {
            Ok(()) => self.sync_folder_of(destination),
            // The upload was completed or aborted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(s3_error!(NoSuchUpload)),
            Err(error) => Err(from_io(error)),
        }
    }

    /// Gives the source's bytes a second name. The condition is checked on the very file that is copied. `replaced` are new
    /// attributes; without them the source's are kept. Returns the ETag.
    pub(super) fn copy(
        &self,
        source_key: &str,
        condition: impl Fn(&Opened) -> S3Result<()>,
        replaced: Option<Description>,
        key: &str,
    ) -> S3Result<String> {
        let destination = self.path_of(key)?;
        let source_path = self.path_of(source_key)?;
        let linked = StagedPath(self.next_staging_path());
        let (source, is_linked) = {
            let _guard = self.lock(source_key);
            let source = self.get(source_key)?;
            condition(&source)?;
            let is_linked = replaced.is_none() && fs::hard_link(&source_path, &linked.0).is_ok();
            (source, is_linked)
        };
        let etag = source.description.etag.clone();
        if is_linked {
            self.place(&linked.0, &destination, key, &WriteCondition::default())?;
            return Ok(etag);
        }
        // New attributes need a trailer of their own; and some file systems know no second names.
        let mut staged = self.stage()?;
        staged
            .append_copy(&source.file, 0..source.size)
            .map_err(from_io)?;
        let mut description = replaced.unwrap_or(source.description);
        description.etag.clone_from(&etag);
        self.commit(staged, &description, key, &WriteCondition::default())?;
        Ok(etag)
    }

    /// Removes the object; none there is no error. Folders left empty go with it.
    pub(super) fn delete(&self, key: &str) -> S3Result<()> {
        let path = self.path_of(key)?;
        {
            let _guard = self.lock(key);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if is_absence(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(()),
                Err(error) => return Err(from_io(error)),
            }
        }
        for folder in path.ancestors().skip(1) {
            if folder == self.objects || fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Where the key's object lies.
    fn path_of(&self, key: &str) -> S3Result<PathBuf> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(s3_error!(KeyTooLongError));
        }
        let mut path = self.objects.clone();
        for part in key.split('/') {
            let is_usable = !matches!(part, "" | "." | "..")
                && part.len() <= MAX_KEY_PART_BYTES
                && !part.contains('\0');
            if !is_usable {
                return Err(s3_error!(
                    InvalidArgument,
                    "this store takes keys whose parts are 1 to 255 bytes long and neither . nor .."
                ));
            }
            path.push(part);
        }
        Ok(path)
    }

    fn place(
        &self,
        staged: &Path,
        destination: &Path,
        key: &str,
        condition: &WriteCondition,
    ) -> S3Result<()> {
        {
            let _guard = self.lock(key);
            self.check(key, condition)?;
            self.rename_into(staged, destination)?;
        }
        self.sync_folder_of(destination)
    }

    fn check(&self, key: &str, condition: &WriteCondition) -> S3Result<()> {
        if condition.if_match.is_none() && condition.if_none_match.is_none() {
            return Ok(());
        }
        let existing = self.find(key)?;
        if let Some(wanted) = &condition.if_match {
            // S3 answers 404 to a conditional write on a key without an object.
            let existing = existing.as_ref().ok_or_else(|| s3_error!(NoSuchKey))?;
            if !is_met(wanted, &existing.description.etag) {
                return Err(s3_error!(PreconditionFailed));
            }
        }
        if let (Some(unwanted), Some(existing)) = (&condition.if_none_match, &existing)
            && is_met(unwanted, &existing.description.etag)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(())
    }

    fn rename_into(&self, staged: &Path, destination: &Path) -> S3Result<()> {
        let folder = destination.parent().unwrap_or(&self.objects);
        let mut attempt = 1;
        loop {
            let made = self.create_folders(folder);
            match made.and_then(|()| fs::rename(staged, destination)) {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempt < RENAME_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(from_io(error)),
            }
        }
    }

    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.objects);
        self.create_folders(parent)?;
        match fs::create_dir(folder) {
            Ok(()) if self.durability == Durability::PowerLoss => File::open(parent)?.sync_all(),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Err(_) if !folder.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
            _ => Ok(()),
        }
    }

    /// Writes a file that is not an object, with its folder's entry for it.
    pub(super) fn write_small(&self, path: &Path, text: &[u8]) -> S3Result<()> {
        let mut file = File::create(path).map_err(from_io)?;
        file.write_all(text).map_err(from_io)?;
        if self.durability == Durability::PowerLoss {
            file.sync_all().map_err(from_io)?;
        }
        self.sync_folder_of(path)
    }

    pub(super) fn sync_folder_of(&self, path: &Path) -> S3Result<()> {
        if self.durability == Durability::ProcessCrash {
            return Ok(());
        }
        let Some(folder) = path.parent() else {
            return Ok(());
        };
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Ok(()) => Ok(()),
            // The object was deleted meanwhile, and its folder with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(from_io(error)),
        }
    }

    fn next_staging_path(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.staging.join(number.to_string())
    }

    fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        self.locks[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file aside that is removed with this value unless it was renamed.
#[derive(Debug)]
pub(super) struct Staged {
    path: StagedPath,
    file: File,
    /// Bytes written, without the trailer.
    size: u64,
}

/// Removes the name when dropped. Mostly a rename has moved it away by then; but a rename onto another name of the same
/// file does nothing, by POSIX, and leaves it.
#[derive(Debug)]
struct StagedPath(PathBuf);

impl Drop for StagedPath {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a staged file could not be removed");
            }
            _ => {}
        }
    }
}

impl Staged {
    /// Appends bytes; long runs of zeros, as images of disks have, take no room on the disk.
    pub(super) fn append(&mut self, bytes: &[u8]) -> S3Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let is_hole = is_hole(rest);
            let blocks = rest.chunks(HOLE_BYTES);
            let run = blocks.take_while(|block| self::is_hole(block) == is_hole);
            let (run, others) = rest.split_at(run.map(<[u8]>::len).sum());
            if is_hole {
                self.skip(run.len() as u64).map_err(from_io)?;
            } else {
                self.file.write_all(run).map_err(from_io)?;
                self.size += run.len() as u64;
            }
            rest = others;
        }
        Ok(())
    }

    /// Leaves a hole. Something always follows: the trailer at last.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes_forward = i64::try_from(bytes).map_err(io::Error::other)?;
        self.file.seek(SeekFrom::Current(bytes_forward))?;
        self.size += bytes;
        Ok(())
    }

    /// Appends a range of another file, inside the kernel where it can, and its holes as holes.
    pub(super) fn append_copy(
        &mut self,
        source: &File,
        range: std::ops::Range<u64>,
    ) -> io::Result<()> {
        let mut from = source.try_clone()?;
        let mut at = range.start;
        while at < range.end {
            let data = next(source, Next::Data(at))?.unwrap_or(range.end);
            self.skip(data.min(range.end) - at)?;
            at = data.min(range.end);
            let hole = next(source, Next::Hole(at))?.unwrap_or(range.end);
            let wanted = hole.min(range.end) - at;
            from.seek(SeekFrom::Start(at))?;
            let copied = io::copy(&mut (&from).take(wanted), &mut self.file)?;
            if copied != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.size += copied;
            at += copied;
        }
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Whether bytes begin with a block of zeros.
fn is_hole(bytes: &[u8]) -> bool {
    let block = bytes.get(..HOLE_BYTES);
    block.is_some_and(|block| block.iter().all(|byte| *byte == 0))
}

/// Where the next data, or the next hole, of a file begins at this place or after it; none where there is no more.
fn next(file: &File, what: Next) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, what) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens an object or part file and reads its trailer; none when there is no such file.
pub(super) fn open_object(path: &Path) -> io::Result<Option<Opened>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let facts = file.metadata()?;
    if facts.is_dir() {
        return Ok(None);
    }
    let damaged = || {
        let what = format!(
            "{} was not written by this store or is damaged",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let before_end = facts
        .len()
        .checked_sub(TRAILER_END_BYTES)
        .ok_or_else(damaged)?;
    let mut length = [0_u8; 4];
    let mut magic = [0_u8; 8];
    file.read_exact_at(&mut length, before_end)?;
    file.read_exact_at(&mut magic, before_end + 4)?;
    let length = u64::from(u32::from_be_bytes(length));
    if &magic != MAGIC || length > MAX_TRAILER_BYTES {
        return Err(damaged());
    }
    let size = before_end.checked_sub(length).ok_or_else(damaged)?;
    let mut trailer = vec![0_u8; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut trailer, size)?;
    let description = serde_json::from_slice(&trailer).map_err(|_| damaged())?;
    Ok(Some(Opened {
        modified: facts.modified()?,
        file,
        size,
        description,
    }))
}

/// Whether an object of this ETag meets a condition.
pub(super) fn is_met(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => {
            matches!(wanted, ETag::Strong(value) if value == etag)
        }
    }
}

/// Whether the error says that there is no such file.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a client is told about a failure of the file system.
pub(super) fn from_io(error: io::Error) -> S3Error {
    match error.kind() {
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty => s3_error!(
            InvalidArgument,
            "this store cannot keep an object whose key is also the folder of another"
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            tracing::error!(%error, "the object store's disk is full");
            S3Error::with_message(
                S3ErrorCode::ServiceUnavailable,
                "the disk of the object store is full",
            )
        }
        _ => {
            tracing::error!(%error, "the object store's folder failed");
            S3Error::internal_error(error)
        }
    }
}
