//! Microsoft Office, old and new, through `office_oxide`, which bounds what a small package may unpack to.

use std::fs::File;

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed};
use office_oxide::options::ParseOptions;
use office_oxide::{Document, OfficeError};
use serde_json::Value;

use super::{Request, answer, corrupt, encrypted};
use crate::text::Text;

/// Levels of documents inside a document that are read.
const EMBEDDED_DEPTH: usize = 1;

/// Entries a package may hold: far more than any honest document.
const MAX_PACKAGE_ENTRIES: usize = 20_000;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let format = request
        .format()
        .and_then(crate::format::Format::office)
        .ok_or_else(|| {
            ParseFailure::new(
                Reason::Internal,
                format!("{} is no office format", request.media_type),
            )
        })?;
    let input = input
        .try_clone()
        .map_err(|error| ParseFailure::new(Reason::Internal, format!("the input: {error}")))?;

    let mut options = ParseOptions::default();
    options.limits.package_entries = MAX_PACKAGE_ENTRIES;
    options.limits.package_bytes = request.max_unpacked_bytes;
    options.limits.part_bytes = request.max_unpacked_bytes;
    options.limits.memory_bytes = request.max_unpacked_bytes;
    options.limits.embedded_depth = EMBEDDED_DEPTH;
    options.limits.text_chars = request.max_text_bytes.saturating_add(1);

    let document =
        Document::from_reader_with(input, format, &options).map_err(|error| refused(&error))?;
    let mut text = Text::bounded(request.max_text_bytes);
    // An error is the bound of the text, which the text remembers itself.
    let _ = document.write_plain_text(&mut text);
    let pages = document.as_pptx().map(|slides| slides.slides.len());
    let (text, mut extracted) = text.finish();
    extracted.pages = pages.and_then(|pages| u32::try_from(pages).ok());
    answer(text, &extracted)
}

/// The library names these causes in words only, through six error types of its formats.
fn refused(error: &OfficeError) -> ParseFailure {
    let words = error.to_string();
    let lower = words.to_ascii_lowercase();
    if let OfficeError::Panic(_) = error {
        return ParseFailure::new(Reason::ParserCrashed, words);
    }
    if lower.contains("encrypt") || lower.contains("password") {
        return encrypted();
    }
    if lower.contains("limit exceeded")
        || lower.contains("inflate ratio")
        || lower.contains("compression ratio")
    {
        return ParseFailure::new(Reason::DocumentTooLarge, words);
    }
    corrupt(&words)
}
