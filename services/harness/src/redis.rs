//! A real redis-server of the test's own.

use anyhow::Context;
use caudal_embedded::{Launcher, RedisChild, RedisSettings};
use tempfile::TempDir;

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
}
