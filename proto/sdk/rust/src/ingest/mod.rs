//! Takes a folder in: walks it, reads each file for its checksum, sends the manifest in pages while walking, uploads in
//! parallel with targets asked for just in time, confirms in pages as bytes land, and completes the batch. What is held in
//! memory is bounded by the channels between these steps, whatever the folder holds.
//!
//! Whatever broke off is gone on with: in a batch that is open the folder is announced again, which changes nothing for
//! what is there, and only what has not arrived is sent; a batch that is complete is asked which bytes it lacks. While
//! gateway or store are silent nothing is given up.

mod attempt;
mod confirm;
mod fill;
mod hash;
mod manifest;
mod note;
mod progress;
mod upload;

use std::path::{Path, PathBuf};

use caudal_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use progress::Board;
use progress::Silent;
pub use progress::{Phase, Problems, Progress};

use crate::client::Client;
use crate::error::ClientError;
use crate::rules::Rules;
use crate::walk::{Found, FoundFile, NotTaken, Problem, Stopped, walk};

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
    /// How often the request of one file may be refused. What the store is in, away, busy, broken or full, counts for nothing.
    pub upload_attempts: u32,
    /// What of the folder is left out.
    pub rules: Rules,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            parallel: 8,
            upload_attempts: 6,
            rules: Rules::none(),
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
    /// Files whose bytes were sent.
    pub sent: u64,
    /// Files whose content the tenant held before.
    pub unchanged: u64,
    /// Files that had arrived before.
    pub arrived: u64,
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
    /// Nothing more goes into the batch.
    #[error("the batch was cancelled: begin a new one")]
    Cancelled,
    /// The batch is complete, and an upload token sees not what it lacks.
    #[error(
        "the batch is complete and takes nothing more with an upload token: ask whoever gave it to you"
    )]
    Complete,
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

/// Takes one folder into one batch.
#[derive(Debug)]
pub struct Ingest {
    client: Client,
    batch: String,
    folder: PathBuf,
    settings: IngestSettings,
    board: Board,
}

impl Ingest {
    /// Prepares; nothing is sent yet. `batch` is the name of a batch: a new one, or one to go on with.
    ///
    /// # Errors
    /// The folder is none or cannot be read.
    pub fn new(
        client: &Client,
        batch: &str,
        folder: &Path,
        settings: IngestSettings,
    ) -> Result<Self, IngestError> {
        check_folder(folder)?;
        let board = Board::new();
        let client = client.tireless({
            let board = board.clone();
            move |words| board.silence(Silent::Gateway, words)
        });
        Ok(Self {
            client,
            batch: batch.to_owned(),
            folder: folder.to_path_buf(),
            settings,
            board,
        })
    }

    /// How far it is. The receiver always holds the latest value; values in between may be skipped.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.board.subscribe()
    }

    /// Sends what the batch does not have yet and completes it. Files that were given up end as FAILED, LEFT_OUT_BY_CLIENT,
    /// with the cause; files of the batch that the folder does not have as NEVER_ARRIVED.
    ///
    /// # Errors
    /// A call that failed for good. Dropping the future stops all of it; the batch stays as it is, to go on with.
    pub async fn run(self) -> Result<Ingested, IngestError> {
        let batch = self.client.get_batch(&self.batch).await?;
        let counts = batch.counts.unwrap_or_default();
        let is_open = batch.state() == v1::BatchState::Open;
        if batch.cancelling || batch.state() == v1::BatchState::Cancelled {
            return Err(IngestError::Cancelled);
        }
        let new = match is_open {
            true => self.send_folder().await?,
            false => self.fill().await?,
        };
        let was_begun = counts.total > 0;
        if was_begun && is_open {
            self.report_what_is_not_here().await?;
        }
        self.board
            .update(|progress| progress.phase = Phase::Completing);
        note::keep(&self.client, &batch, &self.board.problems()).await;
        let missing = match self.board.progress().given_up {
            0 => v1::MissingFiles::Wait,
            _ => v1::MissingFiles::Fail,
        };
        let expected = if was_begun { 0 } else { new };
        let batch = self
            .client
            .complete_batch(&self.batch, missing, expected)
            .await?;
        self.board
            .update(|progress| progress.phase = Phase::Completed);
        let progress = self.board.progress();
        Ok(Ingested {
            files: batch.counts.unwrap_or_default().total,
            batch,
            bytes: progress.found_bytes,
            sent: progress
                .confirmed_files
                .saturating_sub(progress.unchanged_files + progress.arrived_files),
            unchanged: progress.unchanged_files,
            arrived: progress.arrived_files,
            problems: self.board.problems(),
        })
    }

    /// Announces the folder to an OPEN batch and sends what has not arrived. Answers how many files are new in it.
    async fn send_folder(&self) -> Result<u32, IngestError> {
        let (found_out, found_in) = mpsc::channel(FOUND_WAITING);
        let (hashed_out, hashed_in) = mpsc::channel(FOUND_WAITING);
        let (waiting_out, waiting_in) = mpsc::channel(FILES_WAITING);
        let walker = self.walker(found_out);
        let (client, batch, board) = (&self.client, &self.batch, &self.board);
        let ((), new, ()) = tokio::try_join!(
            async {
                hash::hash(found_in, hashed_out, board).await;
                Ok(())
            },
            manifest::send(client, batch, hashed_in, waiting_out, board),
            self.send_waiting(waiting_in),
        )?;
        walker.await?;
        Ok(new)
    }

    /// Sends what a complete batch lacks.
    async fn fill(&self) -> Result<u32, IngestError> {
        let (found_out, found_in) = mpsc::channel(FOUND_WAITING);
        let (hashed_out, hashed_in) = mpsc::channel(FOUND_WAITING);
        let (waiting_out, waiting_in) = mpsc::channel(FILES_WAITING);
        let holds = match fill::holds(&self.client, &self.batch).await {
            Err(IngestError::Client(error)) if error.is_denied() => {
                return Err(IngestError::Complete);
            }
            holds => holds?,
        };
        let walker = self.walker(found_out);
        let board = &self.board;
        tokio::try_join!(
            async {
                hash::hash(found_in, hashed_out, board).await;
                Ok(())
            },
            fill::choose(holds, hashed_in, waiting_out, board),
            self.send_waiting(waiting_in),
        )?;
        walker.await?;
        Ok(0)
    }

    /// Sends the bytes of files that have an ordinal, and confirms them.
    async fn send_waiting(&self, waiting: mpsc::Receiver<Waiting>) -> Result<(), IngestError> {
        let (target_out, target_in) = mpsc::channel(TARGETS_WAITING);
        let (sent_out, sent_in) = mpsc::channel(LANDED_WAITING);
        let (client, batch, board) = (&self.client, &self.batch, &self.board);
        let uploader = upload::Uploader::new(client, batch, &self.settings, board)?;
        tokio::try_join!(
            upload::issue(client, batch, waiting, target_out, sent_out.clone(), board),
            uploader.run(target_in, sent_out),
            confirm::confirm(client, batch, sent_in, board),
        )?;
        Ok(())
    }

    fn walker(&self, found: mpsc::Sender<Found>) -> tokio::task::JoinHandle<()> {
        let folder = self.folder.clone();
        let rules = self.settings.rules.clone();
        let board = self.board.clone();
        tokio::task::spawn_blocking(move || walk_into(&folder, &rules, &found, &board))
    }

    /// Files that an earlier run announced and that neither run could send.
    async fn report_what_is_not_here(&self) -> Result<(), IngestError> {
        let told: std::collections::HashSet<String> = self
            .board
            .problems()
            .first
            .into_iter()
            .map(|problem| problem.path)
            .collect();
        let lacking = [v1::FileState::Pending, v1::FileState::Uploading];
        let reported = fill::each(&self.client, &self.batch, &lacking, |file| {
            let path = file.path;
            match told.contains(&path) {
                // Whoever waits for it would wait for ever: it is not what was announced.
                true => self.board.update(|progress| progress.given_up += 1),
                false => self.board.give_up(Problem {
                    path,
                    why: NotTaken::NotHere,
                }),
            }
        })
        .await;
        match reported {
            // What others announced is not for an upload token.
            Err(IngestError::Client(error)) if error.is_denied() => Ok(()),
            reported => reported,
        }
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

fn walk_into(folder: &Path, rules: &Rules, found: &mpsc::Sender<Found>, board: &Board) {
    let ended = walk(folder, rules, |one| {
        match one {
            Found::Problem(problem) if matches!(problem.why, NotTaken::LeftOut(_)) => {
                board.leave_out(problem);
            }
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
