//! What stores refuse that are stricter than AWS, so that tests find out before their users do.

use http::header::HeaderMap;
use s3s::{S3Result, s3_error};

const CHECKSUM: &str = "x-amz-checksum-";
/// Checksums that every store knows which knows any; the other headers of this beginning say what kind they are.
const KNOWN: [&str; 5] = ["crc32", "crc32c", "sha1", "sha256", "mode"];
/// A checksum that follows the body.
const TRAILER: &str = "x-amz-trailer";

/// Refuses checksums that not all stores take.
pub(super) fn check(headers: &HeaderMap) -> S3Result<()> {
    let mut unknown = headers
        .keys()
        .filter_map(|name| name.as_str().strip_prefix(CHECKSUM))
        .filter(|kind| !KNOWN.contains(kind));
    if let Some(kind) = unknown.next() {
        return Err(s3_error!(
            NotImplemented,
            "Header '{CHECKSUM}{kind}' is not implemented"
        ));
    }
    if headers.contains_key(TRAILER) {
        return Err(s3_error!(
            NotImplemented,
            "Header '{TRAILER}' is not implemented"
        ));
    }
    Ok(())
}
