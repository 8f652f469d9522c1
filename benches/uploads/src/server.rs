//! Servers that are measured, each a process of its own, and what the kernel says that they used.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Ticks of the kernel's CPU times, a second.
const TICKS: f64 = 100.0;

/// A running server. It ends when dropped.
pub(crate) struct Server {
    child: Child,
    /// Its first line.
    pub(crate) said: String,
}

impl Server {
    /// Starts one, and waits for its first line.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let output = child.stdout.take().context("no output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        ensure!(
            !said.is_empty(),
            "{command:?} said nothing, see {}",
            log.display()
        );
        Ok(Self { child, said })
    }

    fn stat(&self) -> anyhow::Result<Vec<String>> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, after_name) = stat.rsplit_once(") ").context("/proc/PID/stat")?;
        Ok(after_name.split(' ').map(str::to_owned).collect())
    }

    /// CPU seconds that it has used.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = self.stat()?;
        let ticks = |field: usize| -> anyhow::Result<f64> { Ok(stat[field].parse()?) };
        // Fields 14 and 15 of proc(5), of which the first two are cut off.
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }

    /// MiB that it holds.
    pub(crate) fn memory(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line
            .and_then(|line| line.trim().split(' ').next())
            .context("VmRSS")?
            .parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// `caudal up` on a data folder.
pub(crate) struct System {
    pub(crate) server: Server,
    pub(crate) gateway: String,
    pub(crate) key: String,
}

impl System {
    pub(crate) fn start(binary: &Path, data: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data);
        let server = Server::start(&mut command, &data.with_extension("log"))?;
        let ready: Value = serde_json::from_str(&server.said).context("the ready line")?;
        let member = |name: &str| {
            let value = ready[name].as_str().map(str::to_owned);
            value.with_context(|| format!("no {name} in the ready line"))
        };
        Ok(Self {
            gateway: member("gateway")?,
            key: member("api_key")?,
            server,
        })
    }
}
