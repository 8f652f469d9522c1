//! Untrusted bytes are parsed in a child process with limits of its own.
//!
//! Every parser of foreign formats can be made to allocate without end, loop, recurse until the stack is gone or abort,
//! and none of that can be caught in the process where it happens. So the running executable starts itself again as
//! `<executable> sandbox-child PARSER SPEC`; the child gives up what it does not need (see `confine`), parses the one
//! file it holds open, writes one framed result and ends. Whatever the file does costs that child, and so its own
//! attempt, and nothing else.
//!
//! A service serves its children in the first line of `main`, before it starts threads or reads configuration:
//!
//! ```no_run
//! caudal_stage::sandbox::run_child_if_asked(&[]);
//! ```

mod child;
mod confine;
mod frame;
mod input;
mod spawner;
mod verdict;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::Reason;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use child::Spec;
pub use child::{run_child_if_asked, run_prepared_child_if_asked};
pub use input::{FetchedInput, fetch_input};
use spawner::Spawner;
use verdict::{End, judge};

/// The first argument by which the executable knows that it is a sandbox child.
pub const CHILD_ARGUMENT: &str = "sandbox-child";

/// The longest request, as JSON, that [`Sandbox::parse`] passes on, in bytes. It travels as an argument, and Linux refuses
/// arguments over 128 KiB.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// How much of the end of a child's standard error is kept for the detail of a failure, in bytes.
const COMPLAINT_BYTES: usize = 4 << 10;

/// A parser: reads the open file, answers with a value and named byte blobs. It runs in the child and may use whatever
/// memory and time the [`Limits`] leave it; it may panic. `request` is what the caller of [`Sandbox::parse`] gave.
pub type Parser =
    fn(request: &serde_json::Value, input: &mut std::fs::File) -> Result<Parsed, ParseFailure>;

/// What a parser must have before the walls stand around it, such as a library of the system. It gets the same request, and
/// runs in the child before anything of the file is read; the memory that it maps does not count against the limit.
pub type Preparation = fn(request: &serde_json::Value) -> io::Result<()>;

/// What a parser found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// Facts, as the parser and its caller agreed.
    pub value: serde_json::Value,
    /// Named bytes, in the parser's order: texts, pictures.
    pub blobs: Vec<(String, Vec<u8>)>,
}

/// Why a parser gave up on its file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct ParseFailure {
    /// The catalogue's reason.
    pub reason: Reason,
    /// What was seen, in words for an operator.
    pub detail: String,
}

impl ParseFailure {
    /// A failure for `reason`, with what was seen.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// What one child may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space beyond what the executable itself maps, in bytes.
    pub memory: u64,
    /// Processor time over all its threads; counted in whole seconds, rounded up.
    pub cpu: Duration,
    /// Time from start to end, whatever it does.
    pub wall: Duration,
    /// Bytes of the framed result.
    pub output: u64,
}

impl Default for Limits {
    /// 512 MiB of memory, 30 s of processor time within 90 s, 64 MiB of output.
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(90),
            output: 64 << 20,
        }
    }
}

/// Starts one child for each file and reads its answer. Clones share the thread that starts the children. How many run at
/// once is the caller's: one for each of its slots.
#[derive(Debug, Clone)]
pub struct Sandbox {
    executable: PathBuf,
    limits: Limits,
    spawner: Arc<Spawner>,
}

impl Sandbox {
    /// A sandbox whose children run `executable`, which must call [`run_child_if_asked`] first of all.
    ///
    /// # Errors
    ///
    /// When the thread that starts the children cannot be started.
    pub fn new(executable: PathBuf, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            executable,
            limits,
            spawner: Arc::new(Spawner::start()?),
        })
    }

    /// A sandbox whose children run the executable of this process: the very image that runs, even when the file it was
    /// started from has been replaced since.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::new`].
    pub fn of_this_executable(limits: Limits) -> io::Result<Self> {
        Self::new(PathBuf::from("/proc/self/exe"), limits)
    }

    /// The same sandbox with other limits, sharing the thread that starts the children.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self {
            executable: self.executable.clone(),
            limits,
            spawner: Arc::clone(&self.spawner),
        }
    }

    /// What each child may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Parses the file at `input` in a child, with the parser of that name. The child is killed when `cancelled` fires and
    /// when the returned future is dropped.
    ///
    /// # Errors
    ///
    /// The parser's own [`ParseFailure`]; `ParserOutOfMemory`, `ParserTimeout`, `OutputTooLarge` when a limit ended it,
    /// `ParserCrashed` when it panicked, aborted or was killed; `Internal` when no child could be started, when it does not
    /// know the parser, and on cancellation, where nobody reads the answer.
    pub async fn parse(
        &self,
        parser: &str,
        request: &serde_json::Value,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Parsed, Failure> {
        // The folder is empty and stays so: the child can neither create nor open a file.
        let folder = tempfile::tempdir()
            .map_err(|error| internal(format!("no folder for a sandbox child: {error}")))?;
        let command = self.command(parser, request, input, folder.path()).await?;
        let started = Instant::now();
        let mut child =
            self.spawner.spawn(command).await.map_err(|error| {
                internal(format!("a sandbox child could not be started: {error}"))
            })?;

        let mut complaint = Vec::new();
        let ended = tokio::select! {
            () = cancelled.cancelled() => End::Cancelled,
            () = tokio::time::sleep(self.limits.wall) => End::OutOfTime,
            end = read_to_end_of_life(&mut child, self.limits.output, &mut complaint) => end
                .map_err(|error| internal(format!("a sandbox child could not be read: {error}")))?,
        };
        if !matches!(ended, End::Exited { .. }) {
            // An error here means that it has ended meanwhile, and waiting reaps it in both cases.
            let _ = child.start_kill();
            child.wait().await.map_err(|error| {
                internal(format!("a sandbox child could not be reaped: {error}"))
            })?;
        }
        judge(ended, &complaint, &self.limits, started.elapsed())
    }

    async fn command(
        &self,
        parser: &str,
        request: &serde_json::Value,
        input: &Path,
        folder: &Path,
    ) -> Result<Command, Failure> {
        let input = tokio::fs::File::open(input).await.map_err(|error| {
            internal(format!(
                "the input of a sandbox child could not be opened: {error}"
            ))
        })?;
        let spec = Spec {
            parent: std::process::id(),
            limits: self.limits,
            request: request.clone(),
        };
        let spec = serde_json::to_string(&spec)
            .map_err(|error| internal(format!("unwritable request: {error}")))?;
        if spec.len() > MAX_REQUEST_BYTES {
            return Err(internal(format!(
                "a request of {} bytes is over {MAX_REQUEST_BYTES}",
                spec.len()
            )));
        }
        let mut command = Command::new(&self.executable);
        command
            .args([CHILD_ARGUMENT, parser, &spec])
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::from(input.into_std().await))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Reads both of the child's outputs until it closes them, then waits for its end. `complaint` receives the end of its
/// standard error, also when this future is dropped halfway.
async fn read_to_end_of_life(
    child: &mut Child,
    bound: u64,
    complaint: &mut Vec<u8>,
) -> io::Result<End> {
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("its outputs are not piped"));
    };
    let result = async {
        let mut bytes = Vec::new();
        stdout
            .take(bound.saturating_add(1))
            .read_to_end(&mut bytes)
            .await?;
        if bytes.len() as u64 > bound {
            Err(ReadError::Flood)
        } else {
            Ok(bytes)
        }
    };
    let result = tokio::try_join!(result, keep_the_end(&mut stderr, complaint));
    match result {
        Ok((stdout, ())) => Ok(End::Exited {
            status: child.wait().await?,
            stdout,
        }),
        Err(ReadError::Flood) => Ok(End::Flooded),
        Err(ReadError::Io(error)) => Err(error),
    }
}

enum ReadError {
    Flood,
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads everything, so that a talkative child never blocks, and keeps the last [`COMPLAINT_BYTES`]: a panic and a failed
/// allocation are what a process says last.
async fn keep_the_end(
    stderr: &mut (impl AsyncRead + Unpin),
    complaint: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let mut chunk = [0; COMPLAINT_BYTES];
    loop {
        let read = stderr.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        complaint.extend_from_slice(&chunk[..read]);
        let surplus = complaint.len().saturating_sub(COMPLAINT_BYTES);
        complaint.drain(..surplus);
    }
}

fn internal(detail: String) -> Failure {
    Failure::new(Reason::Internal, detail)
}
