//! What an attempt to send a file came to, as the store answered it: what the store is in, or what it says of this file.

use ::http::StatusCode;

use crate::walk::NotTaken;

/// Codes of stores for bytes that do not have the checksum that came with them: S3's, and that of MinIO.
const OTHER_CONTENT: [&str; 2] = ["BadDigest", "XAmzContentChecksumMismatch"];

/// Codes of stores for what no request of this installation gets past: the bucket, the keys, the clock, and no room.
const REFUSES_EVERYONE: [&str; 14] = [
    "NoSuchBucket",
    "InvalidBucketName",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "AccountProblem",
    "AllAccessDisabled",
    "InvalidSecurity",
    "RequestTimeTooSkewed",
    "SlowDown",
    "ServiceUnavailable",
    "QuotaExceeded",
    "InsufficientStorage",
    "XMinioStorageFull",
];

/// Why an attempt failed.
pub(super) enum Attempt {
    /// The store takes nothing, or says nothing: it will later.
    Silent(String),
    /// The store may be elsewhere by now, and takes nothing where it was.
    SilentThere(String),
    /// It answered, and the same may go well later.
    Again(String),
    /// The target is of no use any more: the next attempt needs another.
    NeedsTarget(String),
    /// It will never go well.
    Never(NotTaken),
}

/// What an answer of the store that is not good says of it, or of this file's request.
pub(super) fn attempt_of(status: StatusCode, words: &[u8]) -> Attempt {
    let trouble = store_words(status, words);
    let code = store_code(words).unwrap_or_default();
    match status.as_u16() {
        // Busy, broken or full.
        408 | 429 | 500.. => Attempt::Silent(trouble),
        // Whoever asks is told the same: it needs the operator, who may give the gateway other keys or another bucket.
        _ if REFUSES_EVERYONE.contains(&code.as_str()) => Attempt::SilentThere(trouble),
        // The URL expired, or an upload that is over is no place for its parts any more.
        403 | 404 => Attempt::NeedsTarget(trouble),
        // The file is what it was: these bytes did not come as they were sent.
        400 if OTHER_CONTENT.contains(&code.as_str()) => Attempt::Again(trouble),
        _ => Attempt::Never(NotTaken::UploadFailed(trouble)),
    }
}

fn store_code(body: &[u8]) -> Option<String> {
    let body = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(code.to_owned())
}

fn store_words(status: StatusCode, body: &[u8]) -> String {
    match store_code(body) {
        Some(code) => format!("the store answered {} ({code})", status.as_u16()),
        None => format!("the store answered {}", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn what_the_store_says_of_itself_is_told_apart_from_what_it_says_of_a_request() {
        let attempt = |status: u16, code: &str| {
            let words = format!("<Error><Code>{code}</Code></Error>");
            attempt_of(StatusCode::from_u16(status).unwrap(), words.as_bytes())
        };
        for status in [408, 429, 500, 502, 503, 504, 507] {
            assert!(matches!(attempt(status, ""), Attempt::Silent(_)));
        }
        for (status, code) in [
            (403, "InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch"),
            (404, "NoSuchBucket"),
            (403, "QuotaExceeded"),
        ] {
            assert!(
                matches!(attempt(status, code), Attempt::SilentThere(_)),
                "{code}"
            );
        }
        for (status, code) in [(403, "AccessDenied"), (404, "NoSuchUpload")] {
            assert!(
                matches!(attempt(status, code), Attempt::NeedsTarget(_)),
                "{code}"
            );
        }
        assert!(matches!(attempt(400, "BadDigest"), Attempt::Again(_)));
        assert!(matches!(attempt(413, "EntityTooLarge"), Attempt::Never(_)));
    }

    #[test]
    fn the_stores_code_is_shown_without_its_xml() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code></Error>";
        assert_eq!(
            store_words(StatusCode::SERVICE_UNAVAILABLE, body),
            "the store answered 503 (SlowDown)"
        );
    }
}
