//! The parsers that run in a sandbox child, one for each family of formats.

mod html;
mod office;
mod opendocument;
mod pdf;

use std::fs::File;
use std::io::{self, Read};

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed, Parser};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::Format;
use crate::text::{Extracted, Text};

/// The blob in which a parser returns the text.
pub(crate) const TEXT_BLOB: &str = "text";

/// Every parser of this stage, by the name under which a sandbox child finds it.
pub const PARSERS: &[(&str, Parser)] = &[
    ("text-of-pdf", pdf::parse),
    ("text-of-office", office::parse),
    ("text-of-opendocument", opendocument::parse),
    ("text-of-html", html::parse),
];

/// The parser for a format; `None` for text, which needs none.
pub(crate) fn parser_for(format: Format) -> Option<&'static str> {
    Some(match format {
        Format::Pdf => "text-of-pdf",
        Format::OpenDocument => "text-of-opendocument",
        Format::Html => "text-of-html",
        Format::Docx | Format::Xlsx | Format::Pptx | Format::Doc | Format::Xls | Format::Ppt => {
            "text-of-office"
        }
        Format::Text(_) => return None,
    })
}

/// What the stage asks of a parser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) media_type: String,
    pub(crate) max_pages: u32,
    pub(crate) max_unpacked_bytes: u64,
    pub(crate) max_text_bytes: usize,
}

impl Request {
    fn read(request: &Value) -> Result<Self, ParseFailure> {
        Self::deserialize(request)
            .map_err(|error| ParseFailure::new(Reason::Internal, format!("request: {error}")))
    }

    fn format(&self) -> Option<Format> {
        Format::of(&self.media_type)
    }
}

fn answer(text: String, extracted: &Extracted) -> Result<Parsed, ParseFailure> {
    let value = serde_json::to_value(extracted)
        .map_err(|error| ParseFailure::new(Reason::Internal, format!("answer: {error}")))?;
    Ok(Parsed {
        value,
        blobs: vec![(TEXT_BLOB.to_owned(), text.into_bytes())],
    })
}

fn finish(text: Text) -> Result<Parsed, ParseFailure> {
    let (text, extracted) = text.finish();
    answer(text, &extracted)
}

fn corrupt(detail: &(impl ToString + ?Sized)) -> ParseFailure {
    ParseFailure::new(Reason::CorruptDocument, detail.to_string())
}

fn encrypted() -> ParseFailure {
    ParseFailure::new(
        Reason::EncryptedDocument,
        "the document asks for a password",
    )
}

fn read_all(input: &mut File) -> Result<Vec<u8>, ParseFailure> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error: io::Error| {
        ParseFailure::new(Reason::Internal, format!("the input: {error}"))
    })?;
    Ok(bytes)
}
