//! The one client of all measurements: requests as bytes on a connection, so that it costs each server's measurement the same
//! and next to nothing.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PIECE: usize = 256 << 10;
const LARGEST_HEAD: usize = 64 << 10;

/// What a server answered.
pub(crate) struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    /// A header of it.
    pub(crate) fn header(&self, name: &str) -> anyhow::Result<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, value) = found.with_context(|| format!("no {name} in {}", self.head))?;
        Ok(value.trim())
    }
}

/// A request, of which the body may be sent in several strokes.
pub(crate) struct Request {
    stream: TcpStream,
}

impl Request {
    /// Sends the head; `url` is `http://HOST:PORT/…`.
    pub(crate) async fn begin(
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://").context("no http URL")?;
        let (host, path) = rest.split_once('/').context("no path in the URL")?;
        let mut head =
            format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        stream.write_all(head.as_bytes()).await?;
        Ok(Self { stream })
    }

    /// Sends so many bytes of the body: those of `source` over and over.
    pub(crate) async fn send(&mut self, source: &[u8], mut bytes: u64) -> anyhow::Result<()> {
        while bytes > 0 {
            let most = source.len().min(PIECE).min(usize::try_from(bytes)?);
            self.stream.write_all(&source[..most]).await?;
            bytes -= most as u64;
        }
        Ok(())
    }

    /// Waits for an answer with one of the statuses from 200 to 299.
    pub(crate) async fn end(mut self) -> anyhow::Result<Answer> {
        let mut read = Vec::new();
        let head = loop {
            let end = read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break String::from_utf8_lossy(&read[..end]).into_owned();
            }
            ensure!(read.len() < LARGEST_HEAD, "an answer without an end");
            if self.stream.read_buf(&mut read).await? == 0 {
                bail!("the server closed: {}", String::from_utf8_lossy(&read));
            }
        };
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let answer = Answer { status, head };
        ensure!(
            (200..300).contains(&answer.status),
            "{} {}",
            answer.head,
            String::from_utf8_lossy(&read)
        );
        Ok(answer)
    }
}
