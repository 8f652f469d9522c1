//! What kind of content a file has: it decides which stages the file goes through.

use serde::{Deserialize, Serialize};

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

const DOCUMENT_TYPES: [&str; 10] = [
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/vnd.oasis.opendocument.text",
    "application/json",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "application/csv",
];

const IMAGE_TYPES: [&str; 7] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/bmp",
    "image/x-ms-bmp",
    "image/tiff",
];

/// Text that is markup of a program's own rather than something to read.
const TEXT_TYPES_NOT_READ: [&str; 1] = ["text/rtf"];

impl MediaKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Document, Self::Image, Self::Other];

    /// The kind of a media type; case and parameters (`; charset=…`) do not matter. Everything under `text/` is a
    /// document, an image of a format that is not decoded is `Other`.
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        let essence = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let essence = essence.as_str();
        if TEXT_TYPES_NOT_READ.contains(&essence) {
            return Self::Other;
        }
        if essence.starts_with("text/") || DOCUMENT_TYPES.contains(&essence) {
            return Self::Document;
        }
        if IMAGE_TYPES.contains(&essence) {
            return Self::Image;
        }
        Self::Other
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
            ("image/svg+xml", MediaKind::Other),
            ("image/heic", MediaKind::Other),
            ("text/rtf", MediaKind::Other),
            ("application/octet-stream", MediaKind::Other),
            ("", MediaKind::Other),
            (";;", MediaKind::Other),
        ] {
            assert_eq!(MediaKind::of(media_type), kind, "{media_type}");
        }
    }
}
