//! Suspect files. A file that was being worked on when a process died may be what killed it, so its whole handler runs in
//! a process of its own: the running executable starts itself again as `<executable> solo-handler`, reads one job from
//! its standard input, and writes the end of it to its standard output. Should it die, the living worker reports that as
//! a failure of this file, and nobody else's work is lost.

use std::io::{Read, Write};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use caudal_domain::{FileRef, Reason, Stage, StageVersion, Token};
use caudal_objects::ObjectStore;
use caudal_proto::mesh::v1::Work;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::any_handler::AnyHandler;
use crate::failure::Failure;
use crate::handler::{Done, Handler};
use crate::settings::SoloSettings;
use crate::timeout::end_in_time;
use crate::wire::{JobParts, job_from_work};

/// The first argument by which the executable knows that it is to handle one file alone.
pub const SOLO_ARGUMENT: &str = "solo-handler";

/// Longest answer of such a process: what a result may hold, and room for the rest of it.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Longest request: a lease's work in hexadecimal, and the configuration.
const MAX_REQUEST_BYTES: u64 = 8 << 20;

/// A handler, and the store that its job works with.
#[derive(Debug)]
pub struct Solo {
    /// The handler.
    pub handler: AnyHandler,
    /// The object store.
    pub objects: ObjectStore,
}

/// What the process is told.
#[derive(Serialize, Deserialize)]
struct Request {
    stage: Stage,
    file: FileRef,
    token: Token,
    nonce: String,
    /// The lease's work, encoded, in hexadecimal.
    work: String,
    timeout: Duration,
    parent: u32,
    config: serde_json::Value,
}

/// What the process answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Box<Done>),
    Failure(Failure),
}

/// Runs the handler of a suspect file in a process of its own, and takes its end for the handler's.
pub(crate) async fn run_alone(
    settings: &SoloSettings,
    version: &StageVersion,
    work: &Work,
    parts: &JobParts,
    timeout: Duration,
) -> Result<Done, Failure> {
    let request = Request {
        stage: version.stage,
        file: parts.file,
        token: parts.token,
        nonce: parts.nonce.clone(),
        work: hex::encode(work.encode_to_vec()),
        timeout,
        parent: std::process::id(),
        config: settings.config.clone(),
    };
    let words = |what: &str, error: &dyn std::fmt::Display| {
        format!("the process of a suspect file: {what}: {error}")
    };
    let request = serde_json::to_vec(&request)
        .map_err(|error| Failure::new(Reason::Internal, words("request", &error)))?;
    let mut child = Command::new(&settings.executable)
        .arg(SOLO_ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // Dropped with this future, when the handler is stopped or outlives its time.
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::of_parser_host(words("start", &error)))?;
    let answer = tokio::select! {
        answer = talk(&mut child, &request) => answer,
        () = parts.cancelled.cancelled() => return Err(Failure::new(Reason::Internal, "cancelled")),
    };
    let (status, answer) =
        answer.map_err(|error| Failure::of_parser_host(words("talk", &error)))?;
    judge(status, &answer)
}

/// Starts such a process for no file, and sees it end.
pub(crate) async fn probe(settings: &SoloSettings) -> Result<(), Failure> {
    let started = Command::new(&settings.executable)
        .arg(SOLO_ARGUMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // It says that it was asked nothing.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    match started.await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::of_parser_host(format!(
            "the process of a suspect file: start: {error}"
        ))),
    }
}

async fn talk(child: &mut Child, request: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A process that died before it read everything is judged by its status.
        let _ = stdin.write_all(request).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_ANSWER_BYTES + 1)
            .read_to_end(&mut answer)
            .await?;
    }
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        child.start_kill()?;
    }
    Ok((child.wait().await?, answer))
}

fn judge(status: ExitStatus, answer: &[u8]) -> Result<Done, Failure> {
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        return Err(Failure::new(
            Reason::OutputTooLarge,
            format!("the result has more than {MAX_ANSWER_BYTES} bytes"),
        ));
    }
    if !status.success() {
        return Err(Failure::new(
            Reason::WorkerLost,
            format!("the process of this file alone ended by itself: {status}"),
        ));
    }
    match serde_json::from_slice(answer) {
        Ok(Answer::Done(done)) => Ok(*done),
        Ok(Answer::Failure(failure)) => Err(failure),
        Err(error) => Err(Failure::new(
            Reason::WorkerLost,
            format!("the process of this file alone gave no readable answer: {error}"),
        )),
    }
}

/// When the first argument says so, handles the one file on standard input, answers on standard output and ends the process;
/// else does nothing. `make` gives the handler of a stage, from [`SoloSettings::config`], or says in words why not; it runs
/// inside a tokio runtime. Call this at the beginning of `main`, after [`crate::sandbox::run_child_if_asked`] and before
/// anything is started or written to standard output.
pub fn run_solo_if_asked(make: impl FnOnce(Stage, serde_json::Value) -> Result<Solo, String>) {
    if std::env::args_os()
        .nth(1)
        .is_none_or(|argument| argument != SOLO_ARGUMENT)
    {
        return;
    }
    let code = match serve_one(make) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Lost with the process otherwise; the parent passes standard error on.
            let _ = writeln!(std::io::stderr(), "solo-handler: {error}");
            ExitCode::FAILURE
        }
    };
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

fn serve_one(
    make: impl FnOnce(Stage, serde_json::Value) -> Result<Solo, String>,
) -> Result<(), String> {
    die_with_parent()?;
    let mut bytes = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_REQUEST_BYTES)
        .read_to_end(&mut bytes);
    read.map_err(|error| format!("the request cannot be read: {error}"))?;
    let request: Request = serde_json::from_slice(&bytes)
        .map_err(|error| format!("the request makes no sense: {error}"))?;
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
        != Some(request.parent)
    {
        return Err("the worker has ended".to_owned());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of_parser_host(format!("no runtime: {error}")));
    let ended = runtime.and_then(|runtime| runtime.block_on(handle(make, request)));
    let answer = match ended {
        Ok(done) => Answer::Done(Box::new(done)),
        Err(failure) => Answer::Failure(failure),
    };
    let answer = serde_json::to_vec(&answer)
        .map_err(|error| format!("the answer cannot be written: {error}"))?;
    std::io::stdout()
        .lock()
        .write_all(&answer)
        .map_err(|error| format!("the answer cannot be sent: {error}"))
}

async fn handle(
    make: impl FnOnce(Stage, serde_json::Value) -> Result<Solo, String>,
    request: Request,
) -> Result<Done, Failure> {
    let fault = |detail: String| Failure::new(Reason::Internal, detail);
    // The living worker has started with the same: it is this moment that does not let it.
    let solo = make(request.stage, request.config)
        .map_err(|error| Failure::of_parser_host(format!("the handler cannot start: {error}")))?;
    let work = hex::decode(&request.work).map_err(|error| fault(format!("work: {error}")))?;
    let work = Work::decode(work.as_slice()).map_err(|error| fault(format!("work: {error}")))?;
    let cancelled = CancellationToken::new();
    let parts = JobParts {
        file: request.file,
        token: request.token,
        nonce: request.nonce,
        objects: solo.objects.clone(),
        cancelled: cancelled.clone(),
    };
    let job = job_from_work(work, &solo.handler.version(), parts)?;
    end_in_time(solo.handler.handle(job), &cancelled, request.timeout).await
}

fn die_with_parent() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| format!("no death signal: {error}"))
}
