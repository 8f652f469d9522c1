//! What a client is told about failures of the disk and of the index.

use std::io;

use caudal_node::Rarely;
use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

/// The code that clients take for a lack of room.
pub(super) const FULL: &str = "InsufficientStorage";
/// Every request is refused while it lasts.
static SAID_FULL: Rarely = Rarely::new();

/// Whether the error says that there is no such file.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a client is told about a failure of the file system.
pub(super) fn from_io(error: io::Error) -> S3Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            if let Some(times) = SAID_FULL.next() {
                tracing::error!(%error, times, "the object store's disk is full");
            }
            let code = S3ErrorCode::Custom(FULL.into());
            let mut full = S3Error::with_message(code, "the disk of the object store is full");
            // Clients that know no 507 come again after this one.
            full.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
            full
        }
        _ => {
            tracing::error!(%error, "the object store's folder failed");
            S3Error::internal_error(error)
        }
    }
}

/// What a client is told about a failure of the index.
pub(super) fn trouble(error: impl Into<redb::Error>) -> S3Error {
    from_io(as_io(error.into()))
}

/// What a client is told while the index is not open: it may be the disk that is full.
pub(super) fn closed() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::ServiceUnavailable,
        "the index of the object store is closed after a failure of its disk",
    )
}

/// Something that the index refers to is not there.
pub(super) fn lost(what: &str) -> S3Error {
    let words = format!("the object store has lost {what}");
    from_io(io::Error::new(io::ErrorKind::InvalidData, words))
}

pub(super) fn as_io(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
