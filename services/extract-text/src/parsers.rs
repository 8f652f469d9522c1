//! The parsers that run in a sandbox child, one for each family of formats.

mod epub;
mod html;
mod mail;
mod number_format;
mod office;
mod opendocument;
mod outlook;
mod package;
mod pdf;
mod rtf;
mod sheets;
mod slides;
mod svg;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use caudal_domain::{Reason, TextReader, media_type};
use caudal_stage::sandbox::{ParseFailure, Parsed, Parser, Preparation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::Extracted;

/// The blob in which a parser returns the text.
pub(crate) const TEXT_BLOB: &str = "text";

/// Every parser of this stage, by the name under which a sandbox child finds it.
pub const PARSERS: &[(&str, Parser)] = &[
    ("text-of-pdf", pdf::parse),
    ("text-of-office", office::parse),
    ("text-of-sheets", sheets::parse),
    ("text-of-slides", slides::parse),
    ("text-of-locked-office", office::parse_locked),
    ("text-of-opendocument", opendocument::parse),
    ("text-of-epub", epub::parse),
    ("text-of-html", html::parse),
    ("text-of-rtf", rtf::parse),
    ("text-of-mail", mail::parse),
    ("text-of-outlook-mail", outlook::parse),
    ("text-of-svg", svg::parse),
];

/// What of them is prepared before a child has its limits.
pub const PREPARATIONS: &[(&str, Preparation)] = &[("text-of-pdf", pdf::prepare)];

/// The parser of a reader; `None` for plain text, which needs none.
#[must_use]
pub fn parser_for(reader: TextReader) -> Option<&'static str> {
    Some(match reader {
        TextReader::Pdf => "text-of-pdf",
        TextReader::Docx | TextReader::Doc => "text-of-office",
        TextReader::Xlsx | TextReader::Xls => "text-of-sheets",
        TextReader::Pptx | TextReader::Ppt => "text-of-slides",
        TextReader::LockedOffice => "text-of-locked-office",
        TextReader::OpenDocument => "text-of-opendocument",
        TextReader::Epub => "text-of-epub",
        TextReader::Html => "text-of-html",
        TextReader::Rtf => "text-of-rtf",
        TextReader::Mail => "text-of-mail",
        TextReader::OutlookMail => "text-of-outlook-mail",
        TextReader::Svg => "text-of-svg",
        TextReader::Plain(_) => return None,
    })
}

/// What the stage asks of a parser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) media_type: String,
    pub(crate) max_pages: u32,
    pub(crate) max_unpacked_bytes: u64,
    pub(crate) max_text_bytes: usize,
    /// Where PDFium is; none where it is not installed.
    pub(crate) pdf_library: Option<PathBuf>,
}

impl Request {
    fn read(request: &Value) -> Result<Self, ParseFailure> {
        Self::deserialize(request)
            .map_err(|error| ParseFailure::new(Reason::Internal, format!("request: {error}")))
    }

    pub(crate) fn reader(&self) -> Option<TextReader> {
        media_type::text_reader(&self.media_type)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_of_the_table_has_a_parser_and_every_parser_a_reader() {
        for reader in TextReader::ALL {
            let parser = parser_for(reader);
            let is_plain = matches!(reader, TextReader::Plain(_));
            assert_eq!(parser.is_none(), is_plain, "{reader:?}");
            let is_known = |parser: &str| PARSERS.iter().any(|(name, _)| *name == parser);
            assert!(parser.is_none_or(is_known), "{reader:?}");
        }
        for (name, _) in PARSERS {
            let mut readers = TextReader::ALL.into_iter();
            assert!(
                readers.any(|reader| parser_for(reader) == Some(name)),
                "nothing is ever handed to {name}"
            );
        }
    }
}
