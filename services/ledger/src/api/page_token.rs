//! Page tokens: opaque to callers, and without authority: what they point to is looked up under the caller's scope.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caudal_domain::{Refusal, limits};

/// Encodes where the next page begins.
pub(crate) fn encode(position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// Decodes a token that must hold `N` bytes; `None` for the first page.
pub(crate) fn decode<const N: usize>(token: &str) -> Result<Option<[u8; N]>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    bytes.map(Some).ok_or_else(|| {
        Refusal::invalid(
            "page_token",
            "is not one that this method gave; leave it empty to begin with the first page",
        )
    })
}

/// The size of a page: `default` when 0, at most the limit.
pub(crate) fn size(asked: i32, default: usize) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(limits::MAX_PAGE_SIZE)),
        Err(_) => Err(Refusal::invalid("page_size", "must not be negative")),
    }
}
