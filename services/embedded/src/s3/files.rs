//! Large objects' bytes: a file each, under a number, in folders that are made once.
//!
//! A file is written whole before any record names it, and never changed afterwards: whoever has opened it reads it to its
//! end. One that no record names is removed at the next start.
//!
//! What is known to be long goes past the page cache: the disk takes it from our memory, and the kernel neither copies it
//! nor looks for pages to keep it in, which is most of what writing a file costs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use s3s::S3Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::disk::Disk;
use super::failure::{from_io, is_absence};
use super::joined::Part;

/// A run of so many zeros is left out of a file, which reads as if it were there.
const HOLE_BYTES: usize = 4 * 1024;
/// What goes past the page cache begins and ends at a multiple of this, in memory and in the file. Disks ask for 512 or
/// for this; where one asks for more, the kernel refuses and the file goes through the cache.
const BLOCK_BYTES: usize = 4 * 1024;
/// How much of a body is held in memory before it is written.
const PIECE_BYTES: usize = 256 * 1024;
/// The same of a file that goes past the page cache, where each write waits for the disk.
const DIRECT_PIECE_BYTES: usize = 512 * 1024;
/// Files that go past the page cache at once; bounds the memory of their larger pieces. The others go through it.
const DIRECT_AT_ONCE: usize = 64;
/// The folders that the files are spread over.
const FOLDERS: u64 = 64;
/// Files that follow each other are in one folder, so that one sync of it does for all that are written at a time.
const RUN: u64 = 256;

/// The folder of the files.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    next: AtomicU64,
    unneeded: mpsc::Sender<PathBuf>,
    pins: Mutex<HashMap<u64, Pin>>,
    direct: Arc<Semaphore>,
}

/// Who still reads a file.
#[derive(Debug, Default)]
struct Pin {
    readers: u32,
    /// No record names it any more: the last reader lets it be removed.
    is_unneeded: bool,
}

impl Files {
    /// Opens the folder, made with its folders where missing.
    pub(super) fn open(root: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Files> {
        // The last is made last.
        if !folder_of(&root, (FOLDERS - 1) * RUN).is_dir() {
            for folder in 0..FOLDERS {
                fs::create_dir_all(folder_of(&root, folder * RUN))?;
            }
            disk.sync_folder(&root)?;
            if let Some(above) = root.parent() {
                disk.sync_folder(above)?;
            }
        }
        let (unneeded, removed) = mpsc::channel::<PathBuf>();
        // Taking a large file apart takes a while, and nobody waits for it.
        std::thread::Builder::new()
            .name("objects-remover".to_owned())
            .spawn(move || removed.iter().for_each(|path| remove(&path)))?;
        Ok(Files {
            root,
            disk,
            next: AtomicU64::new(1),
            unneeded,
            pins: Mutex::default(),
            direct: Arc::new(Semaphore::new(DIRECT_AT_ONCE)),
        })
    }

    /// Removes what no record names, and numbers on after what is named.
    pub(super) fn clear(
        &self,
        last_number: u64,
        is_named: impl Fn(u64) -> S3Result<bool>,
    ) -> S3Result<()> {
        self.next.store(last_number + 1, Ordering::Relaxed);
        for folder in 0..FOLDERS {
            let folder = folder_of(&self.root, folder * RUN);
            for entry in fs::read_dir(folder).map_err(from_io)? {
                let path = entry.map_err(from_io)?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let number = name.and_then(|name| u64::from_str_radix(name, 16).ok());
                match number {
                    Some(number) if is_named(number)? => {}
                    _ => remove(&path),
                }
            }
        }
        Ok(())
    }

    /// When the folder was made.
    pub(super) fn made(&self) -> io::Result<std::time::SystemTime> {
        let facts = fs::metadata(&self.root)?;
        facts.created().or_else(|_| facts.modified())
    }

    /// A number that nothing has.
    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the file of a number is.
    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        folder_of(&self.root, number).join(format!("{number:016x}"))
    }

    /// A file by its number; none where it was removed.
    pub(super) fn find(&self, number: u64) -> io::Result<Option<File>> {
        match File::open(self.path_of(number)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new file, to become an object.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        let number = self.next_number();
        let path = self.path_of(number);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Staged {
            number,
            unkept: Some(path),
            file,
            size: 0,
            direct: None,
        })
    }

    /// The same, to become a long one: past the page cache, where the file system can and few others do.
    pub(super) fn stage_long(&self) -> io::Result<Staged> {
        let mut staged = self.stage()?;
        if let Ok(permit) = Arc::clone(&self.direct).try_acquire_owned() {
            let is_direct = fcntl_getfl(&staged.file)
                .and_then(|flags| fcntl_setfl(&staged.file, flags | OFlags::DIRECT));
            staged.direct = is_direct.ok().map(|()| permit);
        }
        Ok(staged)
    }

    /// Ends a file that is written.
    pub(super) fn seal(&self, staged: &Staged) -> io::Result<()> {
        // A hole at the end is not written, so the length has to be set.
        staged.file.set_len(staged.size)?;
        self.disk.sync_file(&staged.file)
    }

    /// Returns when the names of these files survive what they are to.
    pub(super) fn sync_names(&self, numbers: &[u64]) -> io::Result<()> {
        let mut folders: Vec<PathBuf> = numbers
            .iter()
            .map(|number| folder_of(&self.root, *number))
            .collect();
        folders.sort_unstable();
        folders.dedup();
        folders
            .iter()
            .try_for_each(|folder| self.disk.sync_folder(folder))
    }

    /// Returns when the names of all files do.
    pub(super) fn sync_all_names(&self) -> io::Result<()> {
        (0..FOLDERS)
            .try_for_each(|folder| self.disk.sync_folder(&folder_of(&self.root, folder * RUN)))
    }

    /// Removes a file that no record names any more, some time soon: when nobody reads it.
    pub(super) fn discard(&self, number: u64) {
        if let Some(pin) = self.pins().get_mut(&number) {
            pin.is_unneeded = true;
            return;
        }
        // At the end of the process it is left to the next start.
        self.unneeded.send(self.path_of(number)).ok();
    }

    /// Keeps the files of these parts, whether a record names them or not, until this ends.
    pub(super) fn pin(files: &Arc<Files>, parts: &[Part]) -> Pinned {
        let numbers = parts.iter().filter_map(|part| match part {
            Part::File { number, .. } => Some(*number),
            Part::Here(_) => None,
        });
        let numbers: Vec<u64> = numbers.collect();
        let mut pins = files.pins();
        for number in &numbers {
            pins.entry(*number).or_default().readers += 1;
        }
        drop(pins);
        Pinned {
            files: Arc::clone(files),
            numbers,
        }
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<u64, Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unpin(&self, numbers: &[u64]) {
        let mut pins = self.pins();
        for number in numbers {
            let Some(pin) = pins.get_mut(number) else {
                continue;
            };
            pin.readers -= 1;
            if pin.readers > 0 {
                continue;
            }
            if pins.remove(number).is_some_and(|pin| pin.is_unneeded) {
                self.unneeded.send(self.path_of(*number)).ok();
            }
        }
    }

    /// Bytes that may still be written.
    pub(super) fn free(&self) -> io::Result<u64> {
        self.disk.free(&self.root)
    }
}

fn folder_of(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{:02x}", number / RUN % FOLDERS))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a file of the object store could not be removed");
        }
        _ => {}
    }
}

/// Files that stay as long as this does.
#[derive(Debug)]
pub(super) struct Pinned {
    files: Arc<Files>,
    numbers: Vec<u64>,
}

impl Pinned {
    /// Opens one of them.
    pub(super) fn open(&self, number: u64) -> io::Result<File> {
        File::open(self.files.path_of(number))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.files.unpin(&self.numbers);
    }
}

/// Some bytes of a body, one after the other, so in memory that they can go past the page cache.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Vec<u8>,
    begins: usize,
    most: usize,
}

impl Piece {
    /// An empty one for what comes to no file, or to one that goes through the cache.
    pub(super) fn new() -> Piece {
        Piece {
            bytes: Vec::new(),
            begins: 0,
            most: PIECE_BYTES,
        }
    }

    fn direct() -> Piece {
        let mut bytes = Vec::<u8>::with_capacity(DIRECT_PIECE_BYTES + BLOCK_BYTES);
        let begins = bytes.as_ptr().align_offset(BLOCK_BYTES);
        // Only a compiler that runs at compile time does not know where its memory is.
        let begins = if begins < BLOCK_BYTES { begins } else { 0 };
        bytes.resize(begins, 0);
        Piece {
            bytes,
            begins,
            most: DIRECT_PIECE_BYTES,
        }
    }

    /// Takes as many of the bytes as there is room for, and gives back the others.
    #[must_use]
    pub(super) fn fill<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        let room = self.most - self.filled().len();
        let (taken, rest) = bytes.split_at(room.min(bytes.len()));
        self.bytes.extend_from_slice(taken);
        rest
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled().len() == self.most
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.begins..]
    }

    /// What it holds, for itself.
    pub(super) fn taken(self) -> Vec<u8> {
        debug_assert_eq!(self.begins, 0);
        self.bytes
    }

    /// Empties it; its memory is used again.
    fn clear(&mut self) {
        self.bytes.truncate(self.begins);
    }
}

/// A file that is removed with this value unless it was kept.
#[derive(Debug)]
pub(super) struct Staged {
    number: u64,
    unkept: Option<PathBuf>,
    file: File,
    size: u64,
    /// Held as long as it goes past the page cache.
    direct: Option<OwnedSemaphorePermit>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.unkept {
            remove(path);
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
            if !is_hole {
                self.write(run).map_err(from_io)?;
            }
            self.size += run.len() as u64;
            rest = others;
        }
        Ok(())
    }

    /// Appends a piece and empties it.
    pub(super) fn append_piece(&mut self, piece: &mut Piece) -> S3Result<()> {
        self.append(piece.filled())?;
        piece.clear();
        Ok(())
    }

    /// An empty piece as this file likes them.
    pub(super) fn piece(&self) -> Piece {
        match self.direct {
            Some(_) => Piece::direct(),
            None => Piece::new(),
        }
    }

    /// Writes bytes at the end: whole blocks past the cache, and from the first that is none on through it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        if self.direct.is_some() {
            let is_aligned = self.size.is_multiple_of(BLOCK_BYTES as u64)
                && bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
            if is_aligned {
                let blocks = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
                match self.file.write_all_at(&bytes[..blocks], self.size) {
                    Ok(()) => written = blocks,
                    // It wants larger blocks, or wrote half of one.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(error) => return Err(error),
                }
            }
            if written < bytes.len() {
                let flags = fcntl_getfl(&self.file)?;
                fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
                self.direct = None;
            }
        }
        let at = self.size + written as u64;
        self.file.write_all_at(&bytes[written..], at)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Lets the file stay; its number.
    pub(super) fn kept(mut self) -> u64 {
        self.unkept = None;
        self.number
    }
}

/// Whether bytes begin with a block of zeros.
fn is_hole(bytes: &[u8]) -> bool {
    let block = bytes.get(..HOLE_BYTES);
    block.is_some_and(|block| block.iter().all(|byte| *byte == 0))
}
