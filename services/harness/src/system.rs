//! The whole system as people run it: `caudal up` as a process, driven by its own command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{Port, SmallDisk};

/// How long the system may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `caudal up`.
#[derive(Debug)]
pub struct System {
    binary: PathBuf,
    data: PathBuf,
    port: Port,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    disk: Option<SmallDisk>,
    child: Option<Child>,
    ready: Value,
}

impl System {
    /// Starts one on a data folder, on a port that it keeps over restarts.
    ///
    /// # Errors
    /// When it does not become ready; with the end of its log.
    pub fn start(binary: &Path, data: &Path, options: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(binary, data, options, &[])
    }

    /// The same, with more environment.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_in(
        binary: &Path,
        data: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_at(binary, data, options, environment, None)
    }

    /// Starts one whose data folder is on a small disk.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_on(disk: SmallDisk, binary: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let data = disk.path().join("data");
        Self::start_at(binary, &data, options, &[], Some(disk))
    }

    fn start_at(
        binary: &Path,
        data: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
        disk: Option<SmallDisk>,
    ) -> anyhow::Result<Self> {
        let port = Port::reserve()?;
        let mut system = Self {
            binary: binary.to_owned(),
            data: data.to_owned(),
            port,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            disk,
            child: None,
            ready: Value::Null,
        };
        system.launch()?;
        Ok(system)
    }

    /// Never on a disk that may be full.
    fn log(&self) -> PathBuf {
        let data = match &self.disk {
            Some(disk) => disk.path(),
            None => self.data.as_path(),
        };
        data.with_extension("log")
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = Command::new(&self.binary);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.options)
            .envs(self.environment.iter().cloned());
        let mut child = self
            .on_its_disk(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("`caudal up` does not run")?;
        let stdout = child.stdout.take().context("no standard output")?;
        self.child = Some(child);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        let line = receiver
            .recv_timeout(PATIENCE)
            .context("not ready in time")??;
        self.ready = serde_json::from_str(&line)
            .with_context(|| format!("no ready line; log: {}", self.tail()))?;
        Ok(())
    }

    fn on_its_disk(&self, command: Command) -> Command {
        match &self.disk {
            Some(disk) => disk.on_it(&command),
            None => command,
        }
    }

    /// The disk that its data folder is on, where it was started on a small one.
    #[must_use]
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it has logged so far.
    #[must_use]
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn tail(&self) -> String {
        let text = self.logged();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A member of the ready line.
    #[must_use]
    pub fn ready(&self, member: &str) -> String {
        self.ready[member].as_str().unwrap_or_default().to_owned()
    }

    /// Where one of its services is.
    #[must_use]
    pub fn service(&self, name: &str) -> String {
        self.ready["services"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        // With a disk of its own the process in between is this one's child.
        self.child.as_ref().map(Child::id)
    }

    /// Runs the caudal command against this system.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn caudal(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// The caudal command against this system, not run yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            // It may need to know of a store of its own.
            .envs(self.environment.iter().cloned())
            .env("CAUDAL_GATEWAY", self.ready("gateway"))
            .env("CAUDAL_API_KEY", self.ready("api_key"));
        let mut command = self.on_its_disk(command);
        command.stdin(Stdio::null());
        command
    }

    /// Ends it as the kernel does.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_ref().context("it does not run")?;
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.ended()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                anyhow::bail!("it did not end within {PATIENCE:?}; log: {}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it cleanly and checks every invariant, the bytes included.
    ///
    /// # Errors
    /// When it does not exit with 0, or something does not hold.
    pub fn verify(mut self) -> anyhow::Result<()> {
        let status = self.stop()?;
        ensure!(status.success(), "SIGTERM: {status}; log: {}", self.tail());
        let mut arguments = vec!["verify", "--data-dir", self.data.to_str().context("path")?];
        if let Some(at) = self
            .options
            .iter()
            .position(|option| option == "--database-url")
        {
            arguments.extend(["--database-url", self.options[at + 1].as_str()]);
        }
        let checked = self.caudal(&arguments)?;
        let words = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(
            checked.status.success(),
            "{words}{}",
            String::from_utf8_lossy(&checked.stderr)
        );
        ensure!(
            words.contains("I6") && !words.contains("I6 bytes       not checked"),
            "bytes unchecked: {words}"
        );
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
