//! Untrusted bytes are parsed in a child process with limits of its own.
//!
//! Every parser of foreign formats can be made to allocate without end, loop, recurse until the stack is gone or abort,
//! and none of that can be caught in the process where it happens. So there is a child for each file: it gives up what
//! it does not need (see `confine`), parses the one file it holds open, writes one framed result and ends. Whatever the
//! file does costs that child, and so its own attempt, and nothing else.
//!
//! Children are forked by a parser host (`host`): the running executable, started again as `<executable> parser-host
//! PARENT`, which has its start behind it. Where there is none, a child is the executable started as `<executable>
//! sandbox-child PARENT PARSER SPEC`, which comes to the same and takes longer. A host that is lost with files in hand
//! costs none of them an attempt: they are read again, each in a child that was started so.
//!
//! A service serves both in the first line of `main`, before it starts threads or reads configuration:
//!
//! ```no_run
//! caudal_stage::sandbox::run_child_if_asked(&[]);
//! ```

mod child;
mod confine;
mod entry;
mod frame;
mod host;
mod hosts;
mod input;
mod outputs;
mod passing;
mod spawner;
mod verdict;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use caudal_domain::Reason;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::slot_time;
use child::Spec;
pub use entry::{run_child_if_asked, run_prepared_child_if_asked};
use hosts::{Forked, Host, Hosts, Unforked};
pub use input::{FetchedInput, fetch_input};
use outputs::Outputs;
use passing::Order;
use spawner::Spawner;
use verdict::{End, judge};

/// The first argument by which the executable knows that it is a sandbox child.
pub const CHILD_ARGUMENT: &str = "sandbox-child";

/// The first argument by which the executable knows that it is a parser host.
pub const HOST_ARGUMENT: &str = "parser-host";

/// How many children one parser host has, unless a sandbox is told otherwise.
pub const CHILDREN_OF_ONE_HOST: u32 = 1_000;

/// The longest request, as JSON, that [`Sandbox::parse`] passes on, in bytes. It travels as an argument, and Linux refuses
/// arguments over 128 KiB.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// A parser: reads the open file, answers with a value and named byte blobs. It runs in the child and may use whatever
/// memory and time the [`Limits`] leave it; it may panic. `request` is what the caller of [`Sandbox::parse`] gave.
pub type Parser =
    fn(request: &serde_json::Value, input: &mut std::fs::File) -> Result<Parsed, ParseFailure>;

/// What a parser must have before the walls stand around it, such as a library of the system. It gets the same request, and
/// runs before anything of the file is read; the memory that it maps does not count against the limit. A parser host runs
/// it before each child that it forks, and what it leaves behind is there in all that follow: it does its work once, and
/// leaves no thread.
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

/// The walls around a child beside its [`Limits`], each as far as this kernel, and whoever started this process, let it
/// stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Landlock: no file, no TCP port, no signal to others, as far as the kernel knows these.
    pub files: bool,
    /// seccomp: no system call but those of a list.
    pub calls: bool,
    /// No capability.
    pub capabilities: bool,
    /// Not root.
    pub user: bool,
}

impl Walls {
    /// Each by its name.
    #[must_use]
    pub fn all(self) -> [(&'static str, bool); 4] {
        [
            ("files", self.files),
            ("calls", self.calls),
            ("capabilities", self.capabilities),
            ("user", self.user),
        ]
    }

    /// The names of those that do not stand.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        let missing = self.all().into_iter().filter(|(_, stands)| !stands);
        missing.map(|(name, _)| name).collect()
    }
}

/// What one child may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space beyond what the executable itself maps, in bytes.
    pub memory: u64,
    /// Processor time over all its threads; counted in whole seconds, rounded up. Whoever uses it up is not tried again.
    pub cpu: Duration,
    /// Time from start to end, whatever it does: only so that one which sleeps ends too.
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

/// As many children of a process as it has cores: more would only share them, and each take longer for what its file does not
/// do.
static ONE_EACH_CORE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Arc::new(Semaphore::new(cores))
});

/// Has one child for each file and reads its answer. Clones share the parser host and the thread that starts processes. All
/// sandboxes of a process have as many children at once as there are cores, and what is asked beyond waits.
#[derive(Debug, Clone)]
pub struct Sandbox {
    executable: PathBuf,
    limits: Limits,
    spawner: Arc<Spawner>,
    hosts: Arc<Hosts>,
    places: Arc<Semaphore>,
}

impl Sandbox {
    /// A sandbox whose children run `executable`, which must call [`run_child_if_asked`] first of all.
    ///
    /// # Errors
    ///
    /// When the thread that starts processes cannot be started.
    pub fn new(executable: PathBuf, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            limits,
            spawner: Arc::new(Spawner::start()?),
            hosts: Arc::new(Hosts::new(executable.clone(), CHILDREN_OF_ONE_HOST)),
            executable,
            places: Arc::clone(&ONE_EACH_CORE),
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

    /// The same sandbox with other limits, sharing the parser host.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self {
            limits,
            ..self.clone()
        }
    }

    /// The same sandbox with parser hosts of its own that have so many children each; with none, every child is a start of
    /// the executable.
    #[must_use]
    pub fn with_children_of_one_host(&self, children: u32) -> Self {
        Self {
            hosts: Arc::new(Hosts::new(self.executable.clone(), children)),
            ..self.clone()
        }
    }

    /// The same sandbox with so many children at once, whatever other sandboxes of this process have.
    #[must_use]
    pub fn with_children_at_once(&self, children: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(children)),
            ..self.clone()
        }
    }

    /// Which walls stand around each child, as one finds that reads nothing.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::parse`].
    pub async fn walls(&self) -> Result<Walls, Failure> {
        let (nothing, cancelled) = (Path::new("/dev/null"), CancellationToken::new());
        let asked = self.parse(child::WALLS, &serde_json::Value::Null, nothing, &cancelled);
        serde_json::from_value(asked.await?.value)
            .map_err(|error| internal(format!("a child does not know its walls: {error}")))
    }

    /// Starts a child that reads nothing, and sees it end.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::parse`]: a wait for the parser host, or for the temp folder, where none can be started.
    pub async fn probe(&self) -> Result<(), Failure> {
        self.walls().await.map(drop)
    }

    /// What each child may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The process id of the parser host that has the next child, where there is one already.
    pub async fn host(&self) -> Option<u32> {
        self.hosts.id().await
    }

    /// Parses the file at `input` in a child, with the parser of that name. The child is killed when `cancelled` fires and
    /// when the returned future is dropped.
    ///
    /// # Errors
    ///
    /// The parser's own [`ParseFailure`]; `ParserOutOfMemory`, `ParserTimeout`, `StageTimeout`, `OutputTooLarge` when a limit ended it,
    /// `ParserCrashed` when it panicked, aborted or was killed; `Internal` when no child could be started or it could not
    /// begin, which is a wait for [`Dependency::ParserHost`](crate::Dependency::ParserHost) or, where that is the cause,
    /// [`Dependency::TempFolder`](crate::Dependency::TempFolder), and on cancellation, where nobody reads the answer.
    pub async fn parse(
        &self,
        parser: &str,
        request: &serde_json::Value,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Parsed, Failure> {
        let order = Order {
            parser: parser.to_owned(),
            spec: Spec {
                limits: self.limits,
                request: request.clone(),
            },
        };
        let place = tokio::select! {
            place = slot_time::waiting(self.places.acquire()) => place,
            () = cancelled.cancelled() => {
                return judge(End::Cancelled, &[], &self.limits, Duration::ZERO);
            }
        };
        // It is never closed.
        let _place = place.map_err(|error| internal(error.to_string()))?;
        if let Some(host) = self.hosts.next(&self.spawner).await {
            let forked = self.in_a_forked_child(&order, host, input, cancelled);
            if let Some(parsed) = forked.await? {
                return parsed;
            }
            if cancelled.is_cancelled() {
                return judge(End::Cancelled, &[], &self.limits, Duration::ZERO);
            }
        }
        self.in_a_started_child(&order, input, cancelled).await
    }

    /// `None` when there was no such child or its host was lost, which is no fault of the file.
    async fn in_a_forked_child(
        &self,
        order: &Order,
        host: Arc<Host>,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Option<Result<Parsed, Failure>>, Failure> {
        let input = open(input)?;
        let order = encoded(order)?;
        let lost = match Forked::start(Arc::clone(&host), &order, &input).await {
            Ok((child, outputs)) => {
                drop(input);
                match self.watch(Child::Forked(child), outputs, cancelled).await {
                    Ok(parsed) => return Ok(Some(parsed)),
                    Err(error) => error,
                }
            }
            Err(Unforked::Lost(error)) => error,
            Err(Unforked::Here(error)) => {
                tracing::debug!(%error, "a sandbox child is started without a parser host");
                return Ok(None);
            }
        };
        self.hosts.give_up(&host, &lost).await;
        Ok(None)
    }

    async fn in_a_started_child(
        &self,
        order: &Order,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Parsed, Failure> {
        let unstarted = |error: io::Error| {
            Failure::of_parser_host(format!("a sandbox child could not be started: {error}"))
        };
        // The folder is empty and stays so: the child can neither create nor open a file.
        let folder = tempfile::tempdir().map_err(|error| Failure::of_temp_folder(&error))?;
        let (outputs, result, complaint) = Outputs::new().map_err(unstarted)?;
        let mut command = Command::new(&self.executable);
        let spec = String::from_utf8(encoded(&order.spec)?)
            .map_err(|error| internal(format!("unwritable request: {error}")))?;
        command
            .arg(CHILD_ARGUMENT)
            .arg(std::process::id().to_string())
            .args([&order.parser, &spec])
            .env_clear()
            .current_dir(folder.path())
            .stdin(Stdio::from(open(input)?))
            .stdout(Stdio::from(result))
            .stderr(Stdio::from(complaint))
            .process_group(0)
            .kill_on_drop(true);
        let process = self.spawner.spawn(command).await.map_err(unstarted)?;
        let child = Child::Started {
            process,
            _folder: folder,
        };
        self.watch(child, outputs, cancelled)
            .await
            .unwrap_or_else(|error| {
                let words = format!("a sandbox child was lost: {error}");
                Err(Failure::of_parser_host(words))
            })
    }

    /// What comes of a child. An error means that this cannot be known.
    async fn watch(
        &self,
        mut child: Child,
        outputs: Outputs,
        cancelled: &CancellationToken,
    ) -> io::Result<Result<Parsed, Failure>> {
        let started = Instant::now();
        let mut complaint = Vec::new();
        let lives = async {
            match outputs.read(self.limits.output, &mut complaint).await? {
                Some(stdout) => Ok(End::Exited {
                    status: child.ended().await?,
                    stdout,
                }),
                None => io::Result::Ok(End::Flooded),
            }
        };
        let ended = tokio::select! {
            () = cancelled.cancelled() => End::Cancelled,
            () = tokio::time::sleep(self.limits.wall) => End::OutOfTime,
            end = lives => end?,
        };
        if !matches!(ended, End::Exited { .. }) {
            child.kill().await?;
        }
        Ok(judge(ended, &complaint, &self.limits, started.elapsed()))
    }
}

/// A child of either kind. Dropped, it is killed.
enum Child {
    Started {
        process: tokio::process::Child,
        _folder: TempDir,
    },
    Forked(Forked),
}

impl Child {
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Started { process, .. } => process.wait().await,
            Self::Forked(forked) => forked.ended().await,
        }
    }

    async fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Started { process, .. } => {
                // An error here means that it has ended meanwhile, and waiting reaps it in both cases.
                let _ = process.start_kill();
                process.wait().await.map(drop)
            }
            Self::Forked(forked) => forked.kill().await,
        }
    }
}

/// It was written a moment ago, and is no wait for a thread that others need.
fn open(input: &Path) -> Result<File, Failure> {
    File::open(input).map_err(|error| Failure::of_temp_folder(&error))
}

fn encoded(request: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let encoded = serde_json::to_vec(request)
        .map_err(|error| internal(format!("unwritable request: {error}")))?;
    if encoded.len() > MAX_REQUEST_BYTES {
        return Err(internal(format!(
            "a request of {} bytes is over {MAX_REQUEST_BYTES}",
            encoded.len()
        )));
    }
    Ok(encoded)
}

fn internal(detail: String) -> Failure {
    Failure::new(Reason::Internal, detail)
}
