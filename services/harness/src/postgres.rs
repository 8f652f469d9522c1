//! A real Postgres of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Port, SmallDisk};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Postgres on a free port, with one empty database. It ends with the process that started it, however that ends.
#[derive(Debug)]
pub struct Postgres {
    port: Port,
    // Held for the life of the server: its thread stops it when this is dropped.
    _stop: mpsc::Sender<()>,
}

/// Runs a server whose data nobody needs after it, and deletes its folder when it has ended: a test that is killed deletes
/// nothing itself. It is stopped by TERM: whatever a shell starts in the background ignores INT from the beginning, and no
/// shell can trap a signal that it ignored when it began.
const SUPERVISOR: &str = r#"
folder=$1
shift
trap 'kill -QUIT "$!"' INT TERM
"$@" 2>"$folder/log" &
wait "$!"
wait "$!"
rm -rf "$folder"
"#;

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
        run(Command::new(programs()?.join("createdb")).args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &server.port.to_string(),
            &name,
        ]))?;
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
        let folder = new_folder()?;
        run(as_postgres(Path::new("cp"))
            .arg("-a")
            .arg(template(&programs)?)
            .arg(folder.join("data")))?;
        let port = Port::reserve()?;
        let mut server = as_postgres(Path::new("sh"));
        server
            .args(["-c", SUPERVISOR, "sh"])
            .arg(&folder)
            .arg(programs.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
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
            .stderr(Stdio::null());
        let stop = run_in_a_thread_that_lives(server)?;
        let started = Self { port, _stop: stop };
        until_ready(&started.port, &programs)?;
        Ok(started)
    }

    /// Where its database is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// A Postgres whose log of changes is on a small disk. One that finds no room for it stops itself, as Postgres does, until
/// somebody starts it again.
#[derive(Debug)]
pub struct PostgresOnDisk {
    disk: SmallDisk,
    port: Port,
    server: Option<Child>,
}

/// As [`SUPERVISOR`], of a server whose folder goes with its disk.
const SUPERVISOR_ON_DISK: &str = r#"
trap 'kill -QUIT "$!"' INT TERM
"$@" &
wait "$!"
wait "$!"
"#;

impl PostgresOnDisk {
    /// Makes a data folder on the disk, and starts a server on it.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start(disk: SmallDisk) -> anyhow::Result<Self> {
        let mut initdb = as_postgres(&programs()?.join("initdb"));
        initdb
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            // Small pieces of the log, so that it soon wants another one.
            .args(["--no-sync", "--wal-segsize=1", "--pgdata"])
            .arg(disk.beside().join("data"))
            .arg("--waldir")
            .arg(disk.path().join("log"));
        run(&mut disk.on_it(&initdb))?;
        let mut started = Self {
            disk,
            port: Port::reserve()?,
            server: None,
        };
        started.restart()?;
        Ok(started)
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &SmallDisk {
        &self.disk
    }

    /// Where its database is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Whether the server runs.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(match &mut self.server {
            Some(server) => server.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Starts the server again, whether or not it has stopped.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        let settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // No piece is used again.
            "checkpoint_timeout=1d",
            "max_wal_size=1GB",
            "min_wal_size=2MB",
        ];
        let programs = programs()?;
        let mut server = as_postgres(Path::new("sh"));
        server
            .args(["-c", SUPERVISOR_ON_DISK, "sh"])
            .arg(programs.join("postgres"))
            .arg("-D")
            .arg(self.disk.beside().join("data"))
            .args(["-p", &self.port.to_string()])
            .args(settings.iter().flat_map(|setting| ["-c", setting]));
        let server = self
            .disk
            .on_it(&server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.server = Some(server);
        until_ready(&self.port, &programs)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            // One that has ended by itself is not there any more.
            let _ = kill_process(Pid::from_child(&server), Signal::TERM);
            server.wait()?;
        }
        Ok(())
    }
}

impl Drop for PostgresOnDisk {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn until_ready(port: &Port, programs: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let ready = Command::new(programs.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
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

/// Asks a database; the rows of the answer, columns separated by `|`.
///
/// # Errors
/// When it cannot be reached, or refuses.
pub fn query(url: &str, sql: &str) -> anyhow::Result<Vec<String>> {
    let text = run(Command::new(programs()?.join("psql"))
        .args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--dbname",
            url,
        ])
        .args(["--command", sql]))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Runs a program to its end, and what it says. One that fails is an error in its own words.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let ended = command
        .output()
        .with_context(|| format!("{command:?} does not run"))?;
    ensure!(
        ended.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(String::from_utf8(ended.stdout)?)
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

/// A new folder of the user who runs Postgres, who will delete it.
fn new_folder() -> anyhow::Result<PathBuf> {
    let made = run(as_postgres(Path::new("mktemp"))
        .args(["-d", "-p"])
        .arg(std::env::temp_dir())
        .arg("caudal-postgres-XXXXXXXX"))?;
    Ok(PathBuf::from(made.trim_end()))
}

/// A data folder as initdb makes it, kept among the temporary files: making one takes a second, copying it a tenth.
fn template(programs: &Path) -> anyhow::Result<PathBuf> {
    let version = programs.parent().and_then(Path::file_name);
    let name = format!(
        "caudal-postgres-template-{}-{}",
        version.unwrap_or_default().display(),
        rustix::process::geteuid()
    );
    let template = std::env::temp_dir().join(name);
    if template.is_dir() {
        return Ok(template);
    }
    let folder = new_folder()?;
    let data = folder.join("data");
    run(as_postgres(&programs.join("initdb"))
        .args([
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-sync",
            "--pgdata",
        ])
        .arg(&data))?;
    // Another test may have been sooner: then theirs stays.
    let renamed = std::fs::rename(&data, &template);
    std::fs::remove_dir_all(&folder)?;
    ensure!(template.is_dir(), "the template was not kept: {renamed:?}");
    Ok(template)
}

/// Postgres refuses root: then it runs as the user that its package made. `setpriv` asks the kernel to end it with the
/// thread that started it.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command
        .arg("--pdeathsig=TERM")
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
            let pid = Pid::from_child(&child);
            let _ = kill_process(pid, Signal::TERM);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_server_ends_with_its_test_even_where_a_shell_began_it_in_the_background() {
        // It says that it runs, and ends at QUIT, as Postgres does.
        const SERVER: &str = r#"
import signal, sys
signal.signal(signal.SIGQUIT, lambda *_: sys.exit())
print("runs", file=sys.stderr, flush=True)
signal.pause()
"#;
        let folder = tempfile::tempdir().unwrap().keep();
        let mut shell = Command::new("sh")
            .args(["-c", r#"trap '' INT; exec sh -c "$0" sh "$@""#, SUPERVISOR])
            .arg(&folder)
            .args(["python3", "-c", SERVER])
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::fs::read(folder.join("log"))
            .unwrap_or_default()
            .is_empty()
        {
            assert!(begun.elapsed() < PATIENCE, "it never ran");
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&shell), Signal::TERM).unwrap();
        shell.wait().unwrap();
        assert!(!folder.exists());
    }
}
