//! What a refusal is in the words of HTTP and of the tus protocol.

use axum::response::{IntoResponse as _, Response};
use caudal_proto::status::from_status;
use http::{HeaderValue, StatusCode, header};
use tonic::{Code, Status};

use crate::no_store::STORE_FULL;

/// The tus protocol's own status, of a body with another checksum than it was said to have.
const CHECKSUM_MISMATCH: u16 = 460;

/// The answer to a request that was refused: a status that clients of the protocol act on, and words for people.
pub(super) fn refused(status: &Status) -> Response {
    let refusal = from_status(status);
    let code = http_status(refusal.code, &refusal.reason, refusal.retry_after.is_some());
    let mut response = (code, format!("{}\n", refusal.message)).into_response();
    let headers = response.headers_mut();
    if let Some(after) = refusal.retry_after {
        // Whole seconds, and not at once.
        let seconds = after.as_millis().div_ceil(1000).max(1);
        if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
            headers.insert(header::RETRY_AFTER, seconds);
        }
    }
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn http_status(code: Code, reason: &str, may_come_again: bool) -> StatusCode {
    match (code, reason) {
        (_, "CHECKSUM_MISMATCH") => {
            StatusCode::from_u16(CHECKSUM_MISMATCH).unwrap_or(StatusCode::BAD_REQUEST)
        }
        (_, STORE_FULL) => StatusCode::INSUFFICIENT_STORAGE,
        (_, "TUS_VERSION") => StatusCode::PRECONDITION_FAILED,
        (_, "NO_OFFSET_STREAM") => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (_, "UPLOAD_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        (_, "UPLOAD_EXPIRED") => StatusCode::GONE,
        (_, "UPLOAD_LOCKED" | "UPLOAD_LOCK_LOST") => StatusCode::LOCKED,
        (Code::InvalidArgument, _) => StatusCode::BAD_REQUEST,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::PermissionDenied, _) | (_, "UPLOAD_IS_FINAL") => StatusCode::FORBIDDEN,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted, _) => StatusCode::CONFLICT,
        (Code::ResourceExhausted, _) if may_come_again => StatusCode::TOO_MANY_REQUESTS,
        (Code::ResourceExhausted, _) => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caudal_domain::Refusal;
    use caudal_proto::status::to_status;

    use super::*;

    // Clients of the protocol try again after 423, 429 and 5xx, ask for the offset after 409, and give up after the others.
    #[test]
    fn each_refusal_has_the_status_on_which_clients_do_what_is_right() {
        let second = Duration::from_secs(1);
        let cases = [
            (Refusal::invalid("upload-length", "is missing"), 400),
            (Refusal::unauthenticated("no key"), 401),
            (Refusal::not_found("files/1"), 404),
            (
                Refusal::failed_precondition("OFFSET_DIFFERS", "it is 3"),
                409,
            ),
            (Refusal::failed_precondition("UPLOAD_EXPIRED", "gone"), 410),
            (Refusal::failed_precondition("TUS_VERSION", "1.0.0"), 412),
            (Refusal::quota_exceeded("stored_bytes", 1, 1, 1), 413),
            (
                Refusal::aborted("UPLOAD_LOCKED", "busy").with_retry_after(second),
                423,
            ),
            (Refusal::rate_limited("calls", second), 429),
            (Refusal::aborted("CHECKSUM_MISMATCH", "other bytes"), 460),
            (Refusal::internal(), 500),
            (Refusal::unavailable("not now", second), 503),
            (
                Refusal::unavailable("no room", second).with_reason(STORE_FULL),
                507,
            ),
        ];
        for (refusal, code) in cases {
            let has_time = refusal.retry_after.is_some();
            let response = refused(&to_status(&refusal));
            assert_eq!(response.status().as_u16(), code, "{refusal:?}");
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                has_time
            );
        }
    }
}
