//! A real redis-server of the test's own.

use std::process::{Child, Command, Stdio};

use anyhow::Context;
use caudal_embedded::{Launcher, RedisChild, RedisSettings, find_redis_server};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::Port;
use crate::until::{PATIENCE, until};

/// A redis-server on a free port. It ends when dropped.
#[derive(Debug)]
pub struct Redis {
    child: RedisChild,
    _folder: TempDir,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no redis-server on this machine, or it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        let mut settings = RedisSettings::new(folder.path());
        settings.launcher = Launcher::Direct;
        let child = RedisChild::start(settings)
            .await
            .context("redis-server did not start")?;
        Ok(Self {
            child,
            _folder: folder,
        })
    }

    /// Number of its process; none between a death and the restart.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// Where it listens, password included.
    #[must_use]
    pub fn url(&self) -> String {
        self.child.url()
    }

    /// It forgets everything.
    ///
    /// # Errors
    /// When it does not answer so.
    pub async fn flush(&self) -> anyhow::Result<()> {
        let url = self.url();
        let (password, address) = url
            .trim_start_matches("redis://:")
            .trim_end_matches("/0")
            .split_once('@')
            .context("a URL without its password")?;
        let answer = ask(address, &format!("AUTH {password}\r\nFLUSHALL")).await?;
        anyhow::ensure!(answer == ["+OK", "+OK"], "FLUSHALL: {answer:?}");
        Ok(())
    }
}

/// A place for a redis-server that comes and goes: its URL stays the same.
#[derive(Debug)]
pub struct RedisAt {
    port: Port,
    folder: TempDir,
    child: Option<Child>,
}

impl RedisAt {
    /// A place where none runs yet.
    ///
    /// # Errors
    /// When no port is free.
    pub fn reserve() -> anyhow::Result<Self> {
        Ok(Self {
            port: Port::reserve()?,
            folder: TempDir::new().context("no temporary folder")?,
            child: None,
        })
    }

    /// Where it listens while it runs.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Starts a new, empty one here.
    ///
    /// # Errors
    /// When there is no redis-server on this machine, or it does not answer.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.stop();
        let port = self.port.to_string();
        let child = Command::new(find_redis_server(None)?)
            .args(["--port", &port, "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("redis-server did not start")?;
        self.child = Some(child);
        let address = format!("127.0.0.1:{port}");
        until("redis-server to answer", PATIENCE, async || {
            let answer = ask(&address, "PING").await.ok()?;
            (answer == ["+PONG"]).then_some(())
        })
        .await
    }

    /// Ends it as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It is gone either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for RedisAt {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends lines of commands and reads one line of answer to each.
async fn ask(address: &str, commands: &str) -> anyhow::Result<Vec<String>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream
        .write_all(format!("{commands}\r\n").as_bytes())
        .await?;
    let mut answers = Vec::new();
    for _ in commands.lines() {
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        answers.push(answer.trim_end().to_owned());
    }
    Ok(answers)
}
