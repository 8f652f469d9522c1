//! Takes a folder in: walks it, sends the manifest in pages while walking, uploads in parallel with targets asked for
//! just in time, confirms in pages as bytes land, and completes the batch. What is held in memory is bounded by the
//! channels between these steps, whatever the folder holds.

mod confirm;
mod manifest;
mod progress;
mod upload;

use std::path::{Path, PathBuf};

use caudal_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use progress::Board;
pub use progress::{Phase, Problems, Progress};

use crate::client::Client;
use crate::error::ClientError;
use crate::walk::{Found, FoundFile, Stopped, walk};

/// Findings of the walk that wait for the manifest: some pages.
const FOUND_WAITING: usize = 4_000;
/// Files of the manifest that wait for upload targets. It also bounds how far the manifest runs ahead of the uploads
/// in memory; files beyond it wait in the folder.
const FILES_WAITING: usize = 4_000;
/// Targets that wait for an uploader: they expire, so few.
const TARGETS_WAITING: usize = 200;
/// Landed files that wait for their confirmation: one page beside the one in flight.
const LANDED_WAITING: usize = 1_000;

/// How a folder is taken in.
#[derive(Debug, Clone)]
pub struct IngestSettings {
    /// Uploads at once, at least 1.
    pub parallel: usize,
    /// Attempts to send the bytes of one file.
    pub upload_attempts: u32,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            parallel: 8,
            upload_attempts: 6,
        }
    }
}

/// What was taken in.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// The batch as of its completion.
    pub batch: v1::Batch,
    /// Files of the manifest.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
    /// What was not taken in, and why.
    pub problems: Problems,
}

/// Why a folder could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// There is no such folder, or it cannot be read.
    #[error("cannot read the folder `{}`: {why}", folder.display())]
    Folder {
        /// As given.
        folder: PathBuf,
        /// What the operating system said, or what it is instead.
        why: String,
    },
    /// A call failed for good.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The uploader could not be set up.
    #[error("cannot set up the uploader: {0}")]
    Uploader(String),
    /// A part of this program failed: a fault of its own.
    #[error("a part of the upload failed: {0}")]
    Internal(String),
}

impl From<JoinError> for IngestError {
    fn from(error: JoinError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// A file of the manifest whose bytes are still here.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) ordinal: u32,
    pub(crate) file: FoundFile,
}

/// Takes one folder into one OPEN batch.
#[derive(Debug)]
pub struct Ingest {
    client: Client,
    batch: String,
    folder: PathBuf,
    settings: IngestSettings,
    board: Board,
}

impl Ingest {
    /// Prepares; nothing is sent yet. `batch` is the name of an OPEN batch.
    ///
    /// # Errors
    /// The folder is none or cannot be read.
    pub fn new(
        client: Client,
        batch: &str,
        folder: &Path,
        settings: IngestSettings,
    ) -> Result<Self, IngestError> {
        check_folder(folder)?;
        Ok(Self {
            client,
            batch: batch.to_owned(),
            folder: folder.to_path_buf(),
            settings,
            board: Board::new(),
        })
    }

    /// How far it is. The receiver always holds the latest value; values in between may be skipped.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.board.subscribe()
    }

    /// Sends everything and completes the batch. Files that were given up end as FAILED, NEVER_ARRIVED.
    ///
    /// # Errors
    /// A call that failed for good. Dropping the future stops all of it; the batch stays OPEN.
    pub async fn run(self) -> Result<Ingested, IngestError> {
        let (found_out, found_in) = mpsc::channel(FOUND_WAITING);
        let (waiting_out, waiting_in) = mpsc::channel(FILES_WAITING);
        let (target_out, target_in) = mpsc::channel(TARGETS_WAITING);
        let (landed_out, landed_in) = mpsc::channel(LANDED_WAITING);

        let walker = tokio::task::spawn_blocking({
            let folder = self.folder.clone();
            let board = self.board.clone();
            move || walk_into(&folder, &found_out, &board)
        });
        let uploader =
            upload::Uploader::new(&self.client, &self.batch, &self.settings, &self.board)?;

        let sent_files = tokio::try_join!(
            manifest::send(
                &self.client,
                &self.batch,
                found_in,
                waiting_out,
                &self.board
            ),
            upload::issue(
                &self.client,
                &self.batch,
                waiting_in,
                target_out,
                &self.board
            ),
            uploader.run(target_in, landed_out),
            confirm::confirm(&self.client, &self.batch, landed_in, &self.board),
        )?
        .0;
        walker.await?;

        self.board
            .update(|progress| progress.phase = Phase::Completing);
        let missing = match self.board.progress().given_up {
            0 => v1::MissingFiles::Wait,
            _ => v1::MissingFiles::Fail,
        };
        let batch = self
            .client
            .complete_batch(&self.batch, missing, sent_files)
            .await?;
        self.board
            .update(|progress| progress.phase = Phase::Completed);
        let progress = self.board.progress();
        Ok(Ingested {
            batch,
            files: sent_files,
            bytes: progress.found_bytes,
            problems: self.board.problems(),
        })
    }
}

/// Whether the folder is there and can be listed, before anything is made for it.
///
/// # Errors
/// It is not, with what it is instead.
pub fn check_folder(folder: &Path) -> Result<(), IngestError> {
    let refused = |why: String| IngestError::Folder {
        folder: folder.to_path_buf(),
        why,
    };
    let metadata = std::fs::metadata(folder).map_err(|error| {
        refused(match error.kind() {
            std::io::ErrorKind::NotFound => "there is none; check the path".to_owned(),
            _ => error.to_string(),
        })
    })?;
    if !metadata.is_dir() {
        return Err(refused(
            "it is not a folder; name the folder that holds it".to_owned(),
        ));
    }
    std::fs::read_dir(folder).map_err(|error| refused(error.to_string()))?;
    Ok(())
}

fn walk_into(folder: &Path, found: &mpsc::Sender<Found>, board: &Board) {
    let ended = walk(folder, |one| {
        match one {
            Found::Problem(problem) => board.report(problem),
            other => {
                if let Found::File(file) = &other {
                    board.update(|progress| {
                        progress.found_files += 1;
                        progress.found_bytes += file.size;
                    });
                }
                found.blocking_send(other).map_err(|_| Stopped)?;
            }
        }
        Ok(())
    });
    if ended.is_ok() {
        board.update(|progress| progress.walked = true);
    }
}
