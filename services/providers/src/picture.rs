//! A picture as a provider gets it: small, and in the request itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::gather::Input;

/// A red disc on white.
const NOBODYS: &[u8] = include_bytes!("disc.png");
const NOBODYS_SIDE: u32 = 96;

/// Providers read pictures in tiles of this side, each of so many tokens, and have some for the whole.
const TILE_SIDE: u32 = 512;
const TOKENS_A_TILE: usize = 170;
const TOKENS_OF_THE_WHOLE: usize = 85;

/// A picture that is sent. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    media_type: &'static str,
    bytes: Bytes,
    /// Its longer side, at most.
    side: u32,
}

impl Picture {
    /// A JPEG whose sides are `side` at most.
    pub fn jpeg(bytes: impl Into<Bytes>, side: u32) -> Self {
        Self {
            media_type: "image/jpeg",
            bytes: bytes.into(),
            side,
        }
    }

    /// As an address that holds all of it.
    pub(crate) fn data_url(&self) -> String {
        let mut url = format!("data:{};base64,", self.media_type);
        STANDARD.encode_string(&self.bytes, &mut url);
        url
    }
}

impl Input for Picture {
    fn tokens(&self) -> usize {
        let tiles = self.side.div_ceil(TILE_SIDE) as usize;
        TOKENS_OF_THE_WHOLE + TOKENS_A_TILE * tiles * tiles
    }

    fn nobodys() -> Self {
        Self {
            media_type: "image/png",
            bytes: Bytes::from_static(NOBODYS),
            side: NOBODYS_SIDE,
        }
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Picture")
            .field("media_type", &self.media_type)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
