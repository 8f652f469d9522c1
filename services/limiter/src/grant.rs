//! What a demand for permits is answered with, of whichever kind it is.

use std::time::Duration;

/// Told when a kind has too many keys.
pub(crate) const CROWDED_RETRY: Duration = Duration::from_secs(1);

/// What a demand got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) granted: u32,
    /// Zero when all that was wanted was granted.
    pub(crate) retry_after: Duration,
}
