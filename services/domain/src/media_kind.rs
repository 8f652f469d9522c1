//! What kind of content a file has: it decides which stages the file goes through.

use serde::{Deserialize, Serialize};

use crate::media_type::{Reading, reading};

/// What kind of content a file has, by its sniffed media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MediaKind {
    /// Its text can be read.
    Document,
    /// It can be decoded as an image.
    Image,
    /// It is stored, and nothing else.
    Other,
}

impl MediaKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Document, Self::Image, Self::Other];

    /// The kind of a media type, by the table of types; case and parameters (`; charset=…`) do not matter.
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        match reading(media_type) {
            Reading::Text(_) => Self::Document,
            Reading::Picture => Self::Image,
            Reading::Stored => Self::Other,
        }
    }

    /// The name, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Document => "DOCUMENT",
            Self::Image => "IMAGE",
            Self::Other => "OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_type_whatever_its_case_and_parameters() {
        for (media_type, kind) in [
            ("text/plain; charset=iso-8859-1", MediaKind::Document),
            ("Text/CSV", MediaKind::Document),
            ("text/markdown", MediaKind::Document),
            ("application/JSON", MediaKind::Document),
            ("image/JPEG", MediaKind::Image),
            ("image/svg+xml", MediaKind::Document),
            ("image/heic", MediaKind::Other),
            ("application/msword", MediaKind::Document),
            ("application/octet-stream", MediaKind::Other),
            ("", MediaKind::Other),
            (";;", MediaKind::Other),
        ] {
            assert_eq!(MediaKind::of(media_type), kind, "{media_type}");
        }
    }
}
