//! A private redis-server as a child process: started with a password on a port of its own, restarted when it dies, and
//! never left behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::random_hex;
use crate::redis_program::{Launcher, NoRedisServer, find_redis_server};

/// How long a started redis may take until it answers PING.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const READY_POLL: Duration = Duration::from_millis(10);
/// How long one PING may take.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How many ports are tried at the first start: another program may take one between our choice and redis's bind.
const PORT_ATTEMPTS: u32 = 5;
/// How long redis may take to end after SIGTERM, before SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the first restart; doubles up to [`RESTART_AT_MOST`].
const RESTART_AFTER: Duration = Duration::from_millis(50);
const RESTART_AT_MOST: Duration = Duration::from_secs(5);
/// A redis that lived this long was well: the next restart begins at [`RESTART_AFTER`] again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// The default bound of redis's memory. Streams are bounded by windows, far below it.
const DEFAULT_MAX_MEMORY: u64 = 256 * 1024 * 1024;
/// How much of redis's log an error carries.
const LOG_TAIL_BYTES: u64 = 2_000;
/// The log is emptied at a start when it has grown past this.
const LOG_BYTES: u64 = 1024 * 1024;

/// How to start a redis child.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// The redis-server to run; where absent it is searched ([`find_redis_server`]).
    pub executable: Option<PathBuf>,
    /// Its working folder, where `redis.log` is written; created where missing.
    pub folder: PathBuf,
    /// Redis's `maxmemory` in bytes (256 MiB). Above it redis refuses writes and evicts nothing.
    pub max_memory: u64,
    /// What carries the death signal.
    pub launcher: Launcher,
}

impl RedisSettings {
    /// The defaults, working in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> RedisSettings {
        RedisSettings {
            executable: None,
            folder: folder.into(),
            max_memory: DEFAULT_MAX_MEMORY,
            launcher: Launcher::default(),
        }
    }
}

/// A running redis-server of our own on 127.0.0.1. It keeps nothing on disk (it only dispatches and hints), is restarted
/// on the same port with the same password when it dies, and ends with this value: by [`stop`](RedisChild::stop), by a
/// drop, or when this process dies, even by SIGKILL.
pub struct RedisChild {
    port: u16,
    password: String,
    shared: Arc<Shared>,
    /// The child's death signal fires when the thread that spawned it ends, so one thread spawns and waits.
    keeper: Option<thread::JoinHandle<()>>,
}

impl RedisChild {
    /// Starts redis-server and returns when it answers PING.
    ///
    /// # Errors
    /// [`RedisError::Missing`] with the remedy where there is no redis-server; [`RedisError::NotStarted`] with what its log
    /// says; [`RedisError::Io`].
    pub async fn start(settings: RedisSettings) -> Result<RedisChild, RedisError> {
        let program = find_redis_server(settings.executable.as_deref())?;
        std::fs::create_dir_all(&settings.folder)?;
        let plan = Plan {
            program,
            settings,
            password: random_hex(24),
        };
        let password = plan.password.clone();
        let shared = Arc::new(Shared::default());
        let (tell_ready, ready) = oneshot::channel();
        let keeper = thread::Builder::new()
            .name("redis-child".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || keep(&plan, &shared, tell_ready)
            })?;
        // Built before the wait, so that a caller who gives up waiting ends the child by the drop.
        let mut child = RedisChild {
            port: 0,
            password,
            shared,
            keeper: Some(keeper),
        };
        let started = ready.await.unwrap_or_else(|_| {
            Err(RedisError::NotStarted {
                detail: "its keeper ended".to_owned(),
            })
        });
        child.port = started?;
        tracing::info!(port = child.port, pid = child.pid(), "redis started");
        Ok(child)
    }

    /// `redis://:PASSWORD@127.0.0.1:PORT/0`; the same for the whole life of this value. Holds the password: not for logs.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", self.password, self.port)
    }

    /// The process id of the redis-server that runs now; none between a death and the restart.
    pub fn pid(&self) -> Option<u32> {
        let pid = self.shared.lock().pid?;
        u32::try_from(pid.as_raw_nonzero().get()).ok()
    }

    /// How often redis was restarted because it had died.
    pub fn restarts(&self) -> u64 {
        self.shared.lock().restarts
    }

    /// Ends redis: SIGTERM, and SIGKILL after five seconds. Returns when the process is gone.
    pub async fn stop(self) {
        // Waiting blocks, so it is done off the runtime's own threads; its outcome is the drop itself.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for RedisChild {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl std::fmt::Debug for RedisChild {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RedisChild")
            .field("port", &self.port)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// Why there is no redis.
#[derive(Debug, Error)]
pub enum RedisError {
    /// No redis-server on this machine.
    #[error(transparent)]
    Missing(#[from] NoRedisServer),
    /// It ended, or did not answer in time.
    #[error("redis-server did not start: {detail}")]
    NotStarted {
        /// What its log says, or what was waited for.
        detail: String,
    },
    /// The system refused.
    #[error("cannot start redis-server: {0}")]
    Io(#[from] io::Error),
}

struct Plan {
    program: PathBuf,
    settings: RedisSettings,
    password: String,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Set while the process exists and is not reaped, so a signal sent under the lock cannot hit another process.
    pid: Option<Pid>,
    stopping: bool,
    restarts: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGTERM now, SIGKILL when the process is still there after [`STOP_WITHIN`].
    fn end(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.changed.notify_all();
        signal(&state, Signal::TERM);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, STOP_WITHIN, |state| state.pid.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        signal(&state, Signal::KILL);
    }

    /// Waits before a restart; true when there shall be none.
    fn is_stopped_within(&self, wait: Duration) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), wait, |state| !state.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        state.stopping
    }
}

fn signal(state: &State, signal: Signal) {
    if let Some(pid) = state.pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::warn!(%error, "redis could not be signalled");
    }
}

/// The life of the keeper's thread: start, say so, wait for the end, restart; until told to stop.
fn keep(plan: &Plan, shared: &Shared, tell_ready: oneshot::Sender<Result<u16, RedisError>>) {
    let (mut child, port) = match start_first(plan, shared) {
        Ok(started) => started,
        Err(error) => {
            let _ = tell_ready.send(Err(error));
            return;
        }
    };
    if tell_ready.send(Ok(port)).is_err() {
        shared.lock().stopping = true;
        terminate(&mut child, shared);
        return;
    }
    let mut backoff = RESTART_AFTER;
    loop {
        let began = Instant::now();
        wait_for_end(&mut child, shared);
        if began.elapsed() >= WELL_AFTER {
            backoff = RESTART_AFTER;
        }
        child = loop {
            if shared.lock().stopping {
                return;
            }
            tracing::warn!(port, wait = ?backoff, "redis died, starting it again");
            if shared.is_stopped_within(backoff) {
                return;
            }
            backoff = (backoff * 2).min(RESTART_AT_MOST);
            match start_on(plan, shared, port) {
                Ok(child) => break child,
                Err(error) => tracing::error!(port, %error, "redis could not be started again"),
            }
        };
        let mut state = shared.lock();
        state.restarts += 1;
        tracing::info!(port, restarts = state.restarts, "redis started again");
    }
}

fn start_first(plan: &Plan, shared: &Shared) -> Result<(Child, u16), RedisError> {
    let mut attempt = 1;
    loop {
        let port = free_port()?;
        match start_on(plan, shared, port) {
            Ok(child) => return Ok((child, port)),
            Err(error) if attempt == PORT_ATTEMPTS || shared.lock().stopping => return Err(error),
            // Only another program on the port is worth another port.
            Err(RedisError::NotStarted { detail }) if detail.contains("Address already in use") => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Starts redis on the port and waits until it answers; leaves no process behind when it fails.
fn start_on(plan: &Plan, shared: &Shared, port: u16) -> Result<Child, RedisError> {
    let log_path = plan.settings.folder.join("redis.log");
    let log = open_log(&log_path)?;
    let log_begins = log.metadata()?.len();
    let mut command = plan.settings.launcher.command(&plan.program);
    command
        .current_dir(&plan.settings.folder)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal goes to the whole process group: the parent decides when redis ends.
        .process_group(0);
    // The child needs none of our environment, which may hold secrets.
    command.env_clear();
    for name in ["PATH", "LD_LIBRARY_PATH", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = {
        let mut state = shared.lock();
        if state.stopping {
            return Err(not_started("it was told to stop"));
        }
        let child = command.spawn()?;
        state.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        child
    };
    // The password travels through the pipe alone: arguments can be read by everybody on the machine.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| {
        stdin.write_all(configuration(plan, port).as_bytes())
    });
    let ready = match written {
        // A program that ended before it read: how it ended, and its log, say more than the pipe does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(RedisError::Io(error)),
        _ => wait_until_ready(&child, port, &plan.password),
    };
    let Err(error) = ready else {
        return Ok(child);
    };
    terminate(&mut child, shared);
    let logged = log_tail(&log_path, log_begins);
    if logged.is_empty() {
        return Err(error);
    }
    Err(RedisError::NotStarted { detail: logged })
}

fn configuration(plan: &Plan, port: u16) -> String {
    let max_memory = plan.settings.max_memory;
    let password = &plan.password;
    // Nothing is saved: what redis knows can be rebuilt from the database, and a stale copy could not be trusted.
    // Nothing is evicted: an evicted stream is lost work, a refused write is backpressure.
    format!(
        "bind 127.0.0.1\n\
         port {port}\n\
         protected-mode yes\n\
         requirepass {password}\n\
         daemonize no\n\
         databases 1\n\
         loglevel warning\n\
         logfile \"\"\n\
         save \"\"\n\
         appendonly no\n\
         maxmemory {max_memory}\n\
         maxmemory-policy noeviction\n\
         tcp-keepalive 60\n"
    )
}

fn wait_until_ready(child: &Child, port: u16, password: &str) -> Result<(), RedisError> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if is_ended(child)? {
            return Err(not_started("it ended at once"));
        }
        if ping(port, password).is_ok() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(not_started("it did not answer PING in time"));
        }
        thread::sleep(READY_POLL);
    }
}

fn not_started(detail: &str) -> RedisError {
    RedisError::NotStarted {
        detail: detail.to_owned(),
    }
}

/// Asks with the password, so that a stranger on the port is not taken for ours.
fn ping(port: u16, password: &str) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PING_TIMEOUT)?;
    stream.set_read_timeout(Some(PING_TIMEOUT))?;
    stream.set_write_timeout(Some(PING_TIMEOUT))?;
    write!(stream, "AUTH {password}\r\nPING\r\n")?;
    let mut answer = [0_u8; 12];
    stream.read_exact(&mut answer)?;
    if &answer == b"+OK\r\n+PONG\r\n" {
        return Ok(());
    }
    Err(io::Error::other("not ready"))
}

fn process_id(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("no process id"))
}

fn is_ended(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(process_id(child)?), options)?.is_some())
}

/// Waits for the end without reaping, then reaps under the lock: until then the process id is still ours to signal.
fn wait_for_end(child: &mut Child, shared: &Shared) {
    if let Ok(pid) = process_id(child) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
    }
    let mut state = shared.lock();
    match child.wait() {
        Ok(status) => tracing::debug!(%status, "redis ended"),
        Err(error) => tracing::warn!(%error, "redis could not be waited for"),
    }
    state.pid = None;
    shared.changed.notify_all();
}

fn terminate(child: &mut Child, shared: &Shared) {
    if let Err(error) = child.kill() {
        tracing::debug!(%error, "redis could not be killed");
    }
    wait_for_end(child, shared);
}

fn open_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if log.metadata()?.len() > LOG_BYTES {
        log.set_len(0)?;
    }
    Ok(log)
}

fn log_tail(path: &Path, begins: u64) -> String {
    let read = || -> io::Result<String> {
        let mut log = File::open(path)?;
        let ends = log.metadata()?.len();
        log.seek(SeekFrom::Start(
            begins.max(ends.saturating_sub(LOG_TAIL_BYTES)),
        ))?;
        let mut tail = Vec::new();
        log.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).trim().to_owned())
    };
    read().unwrap_or_default()
}
