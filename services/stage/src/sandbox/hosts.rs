//! The stage's side of its parser host: one at a time, started when the first file needs it, replaced after a number of
//! children, and again when it is lost.
//!
//! All children of one host have the addresses of its memory in common. A parser that was led to tell them would tell
//! them for the others too, so a host has a bounded number of children.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use caudal_node::Rarely;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child as Process, Command};
use tokio::sync::Mutex;

use super::HOST_ARGUMENT;
use super::host::MAX_CHILDREN;
use super::outputs::Outputs;
use super::passing::{self, ENDED, STARTED};
use super::spawner::Spawner;

/// How long a host may take to fork, its own start included, before it counts as lost.
const FORKED_WITHIN: Duration = Duration::from_secs(10);
/// After a host was lost, how long children are started without one.
const WITHOUT_A_HOST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Hosts {
    executable: PathBuf,
    /// How many children each has; with none, there is no host.
    children_each: u32,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    host: Option<Arc<Host>>,
    /// Children that it was asked for.
    asked: u32,
    not_before: Option<Instant>,
    said: Rarely,
}

/// One host. Dropped with the last of its children, which ends it.
#[derive(Debug)]
pub(super) struct Host {
    control: OwnedFd,
    children: AtomicUsize,
    process: std::sync::Mutex<Process>,
    /// Where it and its children stand: empty.
    _folder: TempDir,
}

impl Hosts {
    pub(super) fn new(executable: PathBuf, children_each: u32) -> Self {
        Self {
            executable,
            children_each,
            now: Mutex::default(),
        }
    }

    /// The host for the next child; none where a child has to be started without.
    pub(super) async fn next(&self, spawner: &Spawner) -> Option<Arc<Host>> {
        if self.children_each == 0 {
            return None;
        }
        let mut now = self.now.lock().await;
        if now.asked >= self.children_each {
            // Those that it has still keep it.
            now.host = None;
        }
        if now.host.is_none() {
            if now.not_before.is_some_and(|then| Instant::now() < then) {
                return None;
            }
            match self.start(spawner).await {
                Ok(host) => {
                    now.host = Some(Arc::new(host));
                    now.asked = 0;
                }
                Err(error) => {
                    if let Some(times) = now.said.next() {
                        tracing::warn!(%error, times, "no parser host could be started");
                    }
                    now.not_before = Some(Instant::now() + WITHOUT_A_HOST);
                    return None;
                }
            }
        }
        let host = now.host.clone()?;
        if host.children.load(Ordering::Relaxed) >= MAX_CHILDREN {
            return None;
        }
        now.asked += 1;
        Some(host)
    }

    /// The process id of the one that there is.
    pub(super) async fn id(&self) -> Option<u32> {
        let now = self.now.lock().await;
        let process = now.host.as_ref()?.process.lock().ok()?;
        process.id()
    }

    async fn start(&self, spawner: &Spawner) -> io::Result<Host> {
        let (control, its_control) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(&self.executable);
        command
            .arg(HOST_ARGUMENT)
            .arg(OsString::from(std::process::id().to_string()))
            .env_clear()
            .current_dir(folder.path())
            .stdin(Stdio::from(its_control))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // What is typed to stop the service in its terminal is not for files under way.
            .process_group(0)
            .kill_on_drop(true);
        Ok(Host {
            control,
            children: AtomicUsize::new(0),
            process: std::sync::Mutex::new(spawner.spawn(command).await?),
            _folder: folder,
        })
    }

    /// Ends a host that did not do as it should, if that was not done already.
    pub(super) async fn give_up(&self, host: &Arc<Host>, error: &io::Error) {
        if let Ok(mut process) = host.process.lock() {
            let _ = process.start_kill();
        }
        let mut now = self.now.lock().await;
        if now.host.as_ref().is_some_and(|now| Arc::ptr_eq(now, host)) {
            if let Some(times) = now.said.next() {
                tracing::warn!(%error, times, "the parser host is lost; its files are read again");
            }
            now.host = None;
            now.not_before = Some(Instant::now() + WITHOUT_A_HOST);
        }
    }
}

/// Why there is no forked child.
#[derive(Debug)]
pub(super) enum Unforked {
    /// The host is gone, or does nothing.
    Lost(io::Error),
    /// For reasons of this moment: the host has enough to do, or there are no descriptors left.
    Here(io::Error),
}

/// A child that was forked by a host.
#[derive(Debug)]
pub(super) struct Forked {
    host: Arc<Host>,
    answers: UnixStream,
}

impl Drop for Forked {
    /// The stream of answers closes with it, whereupon the host kills the child.
    fn drop(&mut self) {
        self.host.children.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Forked {
    /// Asks the host for a child that reads `input`.
    pub(super) async fn start(
        host: Arc<Host>,
        order: &[u8],
        input: &File,
    ) -> Result<(Self, Outputs), Unforked> {
        let (outputs, result, complaint) = Outputs::new().map_err(Unforked::Here)?;
        let (answers, its_answers) = StdUnixStream::pair().map_err(Unforked::Here)?;
        answers.set_nonblocking(true).map_err(Unforked::Here)?;
        let answers = UnixStream::from_std(answers).map_err(Unforked::Here)?;
        let sent = passing::send(
            &host.control,
            order,
            [
                input.as_fd(),
                result.as_fd(),
                complaint.as_fd(),
                its_answers.as_fd(),
            ],
        );
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected => Unforked::Lost(error),
            _ => Unforked::Here(error),
        })?;
        host.children.fetch_add(1, Ordering::Relaxed);
        let mut forked = Self { host, answers };
        drop((result, complaint, its_answers));
        match tokio::time::timeout(FORKED_WITHIN, forked.answers.read_u8()).await {
            Ok(Ok(STARTED)) => Ok((forked, outputs)),
            Ok(Ok(_)) => Err(Unforked::Here(io::Error::other("it could not fork"))),
            Ok(Err(error)) => Err(Unforked::Lost(error)),
            Err(_) => Err(Unforked::Lost(io::Error::other("it does not fork in time"))),
        }
    }

    /// How it ended. An error means that the host is lost, and the child with it.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let mut answer = [0; 5];
        self.answers.read_exact(&mut answer).await?;
        let [ENDED, status @ ..] = answer else {
            return Err(io::Error::other("an unknown answer"));
        };
        Ok(ExitStatus::from_raw(i32::from_be_bytes(status)))
    }

    /// Has it killed, and waits until that is done.
    pub(super) async fn kill(&mut self) -> io::Result<()> {
        let killed = async {
            self.answers.shutdown().await?;
            self.ended().await
        };
        tokio::time::timeout(FORKED_WITHIN, killed)
            .await
            .map_err(|_| io::Error::other("it does not end a child in time"))??;
        Ok(())
    }
}
