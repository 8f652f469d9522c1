//! What the store asks of the disk, in one place: what is written, what is synced and when, and what room there is.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The loss of power: all of it is synced before the answer.
    #[default]
    PowerLoss,
    /// The death of the process alone; the kernel writes to the disk when it sees fit. Much faster on a slow disk.
    ProcessCrash,
}

/// The disk. Tests put another in its place that forgets or refuses.
pub(super) trait Disk: Debug + Send + Sync + 'static {
    /// Writes into the file of the index.
    fn write(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Returns when what was written to the file survives what the store promises to survive.
    fn sync_file(&self, file: &File) -> io::Result<()>;

    /// The same of the names in a folder.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Bytes that may still be written where the folder is.
    fn free(&self, folder: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(folder)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

/// The disk as the kernel gives it.
#[derive(Debug)]
pub(super) struct Kernel(pub(super) Durability);

impl Disk for Kernel {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        match self.0 {
            Durability::PowerLoss => file.sync_data(),
            Durability::ProcessCrash => Ok(()),
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match self.0 {
            Durability::PowerLoss => File::open(folder)?.sync_all(),
            Durability::ProcessCrash => Ok(()),
        }
    }
}
