//! The embedded object store, for tests of what speaks to a store.

use anyhow::Context;
use caudal_embedded::{Durability, S3Server, S3Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Port;

/// An S3 server on a free port, with one bucket, that keeps nothing over a power cut and refuses what the strictest
/// stores refuse. It ends when dropped.
pub struct S3 {
    server: S3Server,
    folder: TempDir,
}

impl S3 {
    /// The key id that it takes.
    pub const ACCESS_KEY: &str = "access";
    /// The secret that it takes.
    pub const SECRET: &str = "secret-of-a-test";
    /// Its bucket.
    pub const BUCKET: &str = "caudal";

    /// Starts one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::listen("127.0.0.1:0").await
    }

    /// Starts one at this port: for a client that was there before it.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_at(port: &Port) -> anyhow::Result<Self> {
        Self::listen(&format!("127.0.0.1:{port}")).await
    }

    async fn listen(address: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        let settings = S3Settings {
            durability: Durability::ProcessCrash,
            // What we send is to be taken by every store.
            is_strict: true,
            ..S3Settings::new(folder.path(), Self::ACCESS_KEY, Self::SECRET, Self::BUCKET)
        };
        let listener = TcpListener::bind(address).await?;
        let server = S3Server::start(settings, listener, CancellationToken::new())
            .await
            .context("the object store did not start")?;
        Ok(Self { server, folder })
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// Where it keeps what it keeps.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("S3").finish_non_exhaustive()
    }
}
