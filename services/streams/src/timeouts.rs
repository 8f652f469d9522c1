//! How long Redis is waited for.

use std::time::Duration;

/// Longest wait for a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
