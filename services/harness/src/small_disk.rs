//! A disk that a test can fill: a small file system in memory, seen by the programs that are started on it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Mounts the disk where nobody else sees it, says that it is there, and holds it for as long as somebody listens.
const HOLD: &str = r#"
set -e
mount -t tmpfs -o mode=0777 tmpfs "$2"
mkdir "$2/small"
mkdir -m 0777 "$2/beside"
mount -t tmpfs -o size="$1",mode=0777 tmpfs "$2/small"
echo mounted
exec cat
"#;
/// Filled piece by piece, the last ones small.
const PIECES: [usize; 3] = [1 << 20, 1 << 12, 1];

/// A small disk. It goes with what is on it when this is dropped, or when the test dies.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    mount: tempfile::TempDir,
    path: PathBuf,
}

impl SmallDisk {
    /// Makes one of so many bytes. `None` where this machine lets nobody mount anything, which is said.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn new(bytes: u64) -> anyhow::Result<Option<Self>> {
        let mount = tempfile::tempdir()?;
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let mut holder = command
            .args(["sh", "-c", HOLD, "sh", &bytes.to_string()])
            .arg(mount.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare does not run")?;
        let mut said = [0; 8];
        let mut stdout = holder.stdout.take().context("no standard output")?;
        if stdout.read_exact(&mut said).is_err() {
            holder.wait()?;
            println!("passed over: this machine does not let a test mount a small disk");
            return Ok(None);
        }
        let path = mount.path().join("small");
        Ok(Some(Self {
            holder,
            mount,
            path,
        }))
    }

    /// Where programs that run on it find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder beside it that is never full, for what must not be on it.
    #[must_use]
    pub fn beside(&self) -> PathBuf {
        self.mount.path().join("beside")
    }

    /// The same place as everybody else sees it.
    fn seen_from_outside(&self) -> PathBuf {
        let seen = format!("/proc/{}/root", self.holder.id());
        let path = self.path().strip_prefix("/").unwrap_or(self.path());
        Path::new(&seen).join(path)
    }

    /// The same command, on this disk.
    #[must_use]
    pub fn on_it(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if !rustix::process::geteuid().is_root() {
            inside.args(["--user", "--preserve-credentials"]);
        }
        inside
            .arg("--wdns=/")
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Takes all the room there is.
    ///
    /// # Errors
    /// When the disk fails in another way.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        for size in PIECES {
            let piece = vec![0; size];
            loop {
                match filler.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn free(&self) -> anyhow::Result<()> {
        let filler = self.filler();
        ensure!(filler.exists(), "it was not filled");
        std::fs::remove_file(filler)?;
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.seen_from_outside().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
