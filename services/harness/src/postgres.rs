//! A real Postgres of the test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::Port;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Postgres on a free port, with one empty database. It ends with the process that started it, however that ends.
#[derive(Debug)]
pub struct Postgres {
    port: Port,
    // Held for the life of the server: its thread stops it when this is dropped.
    _stop: mpsc::Sender<()>,
    _folder: TempDir,
}

static SHARED: Mutex<Option<Postgres>> = Mutex::new(None);

impl Postgres {
    /// The URL of a new, empty database on the one server that all tests of this process share.
    ///
    /// # Errors
    /// When Postgres is not installed, or does not start.
    pub fn new_database() -> anyhow::Result<String> {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(Self::start()?);
        }
        let Some(server) = shared.as_ref() else {
            bail!("the server vanished")
        };
        let name = format!("test_{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let made = Command::new(programs()?.join("createdb"))
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-p",
                &server.port.to_string(),
                &name,
            ])
            .output()?;
        ensure!(
            made.status.success(),
            "createdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(format!(
            "postgres://postgres@127.0.0.1:{}/{name}",
            server.port
        ))
    }

    /// Makes a data folder and starts a server on it, which does not wait for the disk.
    ///
    /// # Errors
    /// When Postgres is not installed (`make setup` installs it), or does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&["fsync=off", "max_connections=300"])
    }

    /// Makes a data folder and starts a server on it, with these settings over the defaults of Postgres.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(settings: &[&str]) -> anyhow::Result<Self> {
        let programs = programs()?;
        let folder = TempDir::with_prefix("caudal-postgres-")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let data = folder.path().join("data");
        let made = as_postgres(&programs.join("initdb"))
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .output()
            .context("initdb does not run")?;
        ensure!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = Port::reserve()?;
        let mut server = as_postgres(&programs.join("postgres"));
        server
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?);
        let stop = run_in_a_thread_that_lives(server)?;
        let started = Self {
            port,
            _stop: stop,
            _folder: folder,
        };
        started.wait(&programs)?;
        Ok(started)
    }

    /// Where its database is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn wait(&self, programs: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let ready = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()?;
            if ready.success() {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "postgres did not answer within {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Asks a database; the rows of the answer, columns separated by `|`.
///
/// # Errors
/// When it cannot be reached, or refuses.
pub fn query(url: &str, sql: &str) -> anyhow::Result<Vec<String>> {
    let asked = Command::new(programs()?.join("psql"))
        .args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--dbname",
            url,
        ])
        .args(["--command", sql])
        .output()
        .context("psql does not run")?;
    ensure!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    let text = String::from_utf8_lossy(&asked.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// The newest installed version's folder of programs.
fn programs() -> anyhow::Result<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("Postgres is not installed: run `make setup`")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    versions.sort();
    match versions.pop() {
        Some(bin) => Ok(bin),
        None => bail!("Postgres is not installed: run `make setup`"),
    }
}

/// Postgres refuses root: then it runs as the user that its package made. `setpriv` asks the kernel to end it with the
/// thread that started it.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command
        .arg("--pdeathsig=INT")
        .arg("--")
        .arg(program)
        .current_dir("/");
    command
}

/// The death signal comes when the starting *thread* ends, so the thread lives until it is told to stop.
fn run_in_a_thread_that_lives(mut command: Command) -> anyhow::Result<mpsc::Sender<()>> {
    let (stop, stopped) = mpsc::channel();
    let (started, has_started) = mpsc::channel();
    std::thread::spawn(move || match command.spawn() {
        Ok(mut child) => {
            let _ = started.send(Ok(()));
            let _ = stopped.recv();
            let _ = child.kill();
            let _ = child.wait();
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    });
    has_started
        .recv()
        .context("the thread of postgres ended")?
        .context("postgres does not run")?;
    Ok(stop)
}
