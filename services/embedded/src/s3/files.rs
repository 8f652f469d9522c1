//! Large objects' bytes: a file each, under a number, in folders that are made once.
//!
//! A file is written whole before any record names it, and never changed afterwards: whoever has opened it reads it to its
//! end. One that no record names is removed at the next start.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rustix::fs::SeekFrom as Next;
use s3s::S3Result;

use super::disk::Disk;
use super::failure::{from_io, is_absence};

/// A run of so many zeros is left out of a file, which reads as if it were there.
const HOLE_BYTES: usize = 4 * 1024;
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
        })
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

    /// Removes a file that no record names any more, some time soon.
    pub(super) fn discard(&self, number: u64) {
        // At the end of the process it is left to the next start.
        self.unneeded.send(self.path_of(number)).ok();
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

/// A file that is removed with this value unless it was kept.
#[derive(Debug)]
pub(super) struct Staged {
    number: u64,
    unkept: Option<PathBuf>,
    file: File,
    size: u64,
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

    /// Leaves a hole.
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
            if at == range.end {
                break;
            }
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

/// Where the next data, or the next hole, of a file begins at this place or after it; none where there is no more.
fn next(file: &File, what: Next) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, what) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
