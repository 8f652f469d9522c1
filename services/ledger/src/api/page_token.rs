//! Pages: how large they are, and the tokens that lead from one to the next. Tokens are opaque to callers, and without
//! authority: what they point to is looked up under the caller's scope. Each is bound to the request it was given for: another
//! filter, another batch or another's token is an error, and no place can be made up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caudal_domain::{Refusal, TenantId, limits};
use caudal_node::scope::{MeshSecret, PAGE_TAG_BYTES};
use caudal_proto::{longrunning, v1};
use prost::Message;

/// A request that is answered in pages.
pub(crate) trait Paged: Message + Clone {
    /// Tells it from others that look alike on the wire.
    const NAME: &'static str;
    /// The token that came with it.
    fn token(&self) -> &str;
    /// All of it but which page of what size is wanted.
    fn unpaged(&self) -> Self;
}

macro_rules! paged {
    ($($module:ident :: $message:ident),* $(,)?) => {
        $(impl Paged for $module::$message {
            const NAME: &'static str = stringify!($message);

            fn token(&self) -> &str {
                &self.page_token
            }

            fn unpaged(&self) -> Self {
                let mut whole = self.clone();
                whole.page_size = 0;
                whole.page_token.clear();
                whole
            }
        })*
    };
}

paged![
    v1::ListBatchesRequest,
    v1::ListFoldersRequest,
    v1::ListFilesRequest,
    v1::ListFileHistoryRequest,
    v1::ListFailuresRequest,
    v1::ListApiKeysRequest,
    v1::ListAuditRequest,
    v1::ListTenantsRequest,
    longrunning::ListOperationsRequest,
];

/// The pages of one request of one caller.
pub(crate) struct Pages<'a> {
    secret: &'a MeshSecret,
    token: &'a str,
    request: Vec<u8>,
}

impl<'a> Pages<'a> {
    /// Of what a request asks for in a tenant, or over all.
    pub(crate) fn of<R: Paged>(
        secret: &'a MeshSecret,
        whose: Option<TenantId>,
        request: &'a R,
    ) -> Self {
        let mut bytes = R::NAME.as_bytes().to_vec();
        bytes.push(0);
        bytes.extend(whose.map_or([0; 16], |tenant| *tenant.as_bytes()));
        bytes.extend(request.unpaged().encode_to_vec());
        Self {
            secret,
            token: request.token(),
            request: bytes,
        }
    }

    /// The token of the page that begins at a place.
    pub(crate) fn token_of(&self, place: &[u8]) -> String {
        let mut token = place.to_vec();
        token.extend(self.secret.page_tag(&self.request, place));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Where the page that is asked for begins, a place of `N` bytes; `None` for the first page.
    pub(crate) fn place<const N: usize>(&self) -> Result<Option<[u8; N]>, Refusal> {
        let Some(place) = self.place_of_any_length()? else {
            return Ok(None);
        };
        let place = <[u8; N]>::try_from(place);
        place.map(Some).map_err(|_| foreign())
    }

    /// The same, of any length.
    pub(crate) fn place_of_any_length(&self) -> Result<Option<Vec<u8>>, Refusal> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let mut place = URL_SAFE_NO_PAD.decode(self.token).map_err(|_| foreign())?;
        let at = place.len().checked_sub(PAGE_TAG_BYTES);
        let tag = place.split_off(at.ok_or_else(foreign)?);
        // What is compared gives nothing away but a place of the caller's own.
        if tag != self.secret.page_tag(&self.request, &place) {
            return Err(foreign());
        }
        Ok(Some(place))
    }
}

/// A token that no page of this request gave.
pub(crate) fn foreign() -> Refusal {
    Refusal::invalid(
        "page_token",
        "is not one that this request gave: leave it empty to begin with the first page, and change nothing else of a request on the way",
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
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_is_good_for_the_request_that_it_was_given_for_and_no_other() {
        let secret = MeshSecret::generate();
        let [one, other] = [1, 2].map(|number| TenantId::from_uuid(Uuid::from_u128(number)));
        let asked = |state: i32, token: &str| v1::ListBatchesRequest {
            states: vec![state],
            page_size: 10,
            page_token: token.to_owned(),
            ..v1::ListBatchesRequest::default()
        };
        let first = asked(1, "");
        let pages = Pages::of(&secret, Some(one), &first);
        assert_eq!(pages.place::<2>().unwrap(), None);
        let token = pages.token_of(&[7, 9]);
        let place = |whose, request: &v1::ListBatchesRequest| {
            Pages::of(&secret, whose, request).place::<2>().ok()
        };
        assert_eq!(place(Some(one), &asked(1, &token)), Some(Some([7, 9])));
        // A page of another size goes on as well.
        let larger = v1::ListBatchesRequest {
            page_size: 99,
            ..asked(1, &token)
        };
        assert_eq!(place(Some(one), &larger), Some(Some([7, 9])));
        for (whose, request) in [
            (Some(other), asked(1, &token)),
            (None, asked(1, &token)),
            (Some(one), asked(2, &token)),
            (Some(one), asked(1, &token[1..])),
            (Some(one), asked(1, "AAAA")),
            (Some(one), asked(1, &URL_SAFE_NO_PAD.encode([7, 9]))),
            (Some(one), asked(1, &format!("{token}AAAA"))),
        ] {
            assert_eq!(place(whose, &request), None, "{request:?}");
        }
        let elsewhere = MeshSecret::generate();
        let request = asked(1, &token);
        assert!(
            Pages::of(&elsewhere, Some(one), &request)
                .place::<2>()
                .is_err()
        );
        let other_call = v1::ListTenantsRequest {
            page_token: Pages::of(&secret, None, &v1::ListTenantsRequest::default()).token_of(&[1]),
            ..v1::ListTenantsRequest::default()
        };
        assert!(Pages::of(&secret, None, &other_call).place::<1>().is_ok());
        let audit = v1::ListAuditRequest {
            page_token: other_call.page_token,
            ..v1::ListAuditRequest::default()
        };
        assert!(Pages::of(&secret, None, &audit).place::<1>().is_err());
    }

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
