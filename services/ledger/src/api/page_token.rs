//! Pages: how large they are, and the tokens that lead from one to the next. Tokens are opaque to callers, and without
//! authority: what they point to is looked up under the caller's scope.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caudal_domain::{Refusal, limits};
use prost::Message;

/// Encodes where the next page begins.
pub(crate) fn encode(position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// Decodes a token that must hold `N` bytes; `None` for the first page.
pub(crate) fn decode<const N: usize>(token: &str) -> Result<Option<[u8; N]>, Refusal> {
    let Some(bytes) = decode_any(token)? else {
        return Ok(None);
    };
    let bytes = <[u8; N]>::try_from(bytes);
    bytes.map(Some).map_err(|_| foreign())
}

/// Decodes a token of any length; `None` for the first page.
pub(crate) fn decode_any(token: &str) -> Result<Option<Vec<u8>>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(token);
    bytes.map(Some).map_err(|_| foreign())
}

/// A token that no page gave.
pub(crate) fn foreign() -> Refusal {
    Refusal::invalid(
        "page_token",
        "is not one that this method gave; leave it empty to begin with the first page",
    )
}

/// The size of a page: `default` when 0, at most the limit.
pub(crate) fn size(asked: i32, default: usize) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(limits::MAX_PAGE_SIZE)),
        Err(_) => Err(Refusal::invalid("page_size", "must not be negative")),
    }
}

/// What a page still has room for. A client may ask for more messages than one answer carries; the page then ends early,
/// and its token leads on.
#[derive(Debug, Default)]
pub(crate) struct Room {
    taken: usize,
}

impl Room {
    /// Takes room for a message, if there is any. The first always has it, for a page that never ends is worse.
    pub(crate) fn takes(&mut self, message: &impl Message) -> bool {
        self.takes_bytes(message.encoded_len())
    }

    /// The same for so many bytes.
    pub(crate) fn takes_bytes(&mut self, bytes: usize) -> bool {
        // Tag and length of a member of the page.
        const AROUND: usize = 8;
        let taken = self.taken.saturating_add(bytes).saturating_add(AROUND);
        let has_room = self.taken == 0 || taken <= limits::MAX_PAGE_BYTES;
        if has_room {
            self.taken = taken;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_its_bytes_are_spent_and_holds_one_thing_at_least() {
        let mut room = Room::default();
        assert!(room.takes_bytes(limits::MAX_PAGE_BYTES * 2));
        assert!(!room.takes_bytes(1));
        let mut room = Room::default();
        let half = limits::MAX_PAGE_BYTES / 2 - 8;
        assert!(room.takes_bytes(half) && room.takes_bytes(half));
        assert!(!room.takes_bytes(0));
        // What fits no more leaves the room to what does.
        let mut room = Room::default();
        assert!(room.takes_bytes(half) && !room.takes_bytes(half * 2) && room.takes_bytes(half));
    }
}
