//! What Microsoft Office wrote, old and new, opened through `office_oxide`, which bounds what a small package may unpack to;
//! and the text of documents.

use std::collections::HashSet;
use std::fs::File;

use caudal_domain::{Reason, TextReader};
use caudal_stage::sandbox::{ParseFailure, Parsed};
use office_oxide::options::ParseOptions;
use office_oxide::{Document, DocumentFormat, OfficeError};
use serde_json::Value;

use super::{Request, answer, corrupt, encrypted};
use crate::text::{Properties, Text};

/// Levels of documents inside a document that are read.
const EMBEDDED_DEPTH: usize = 1;

/// Entries a package may hold: far more than any honest document.
const MAX_PACKAGE_ENTRIES: usize = 20_000;

/// The text of a document.
pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let document = open(&request, input)?;
    let mut text = Text::bounded(request.max_text_bytes);
    // The library tells what it left out among the words; here that is a warning.
    let notices: HashSet<String> = notices(&document);
    let labels = labels(&document);
    let mut too_deep = 0;
    for line in document.plain_text().lines() {
        if notices.contains(line.trim()) {
            continue;
        }
        if is_told_too_deep(line.trim()) {
            too_deep += 1;
            continue;
        }
        // Who said it stands before a comment, as on slides; that it is one is a word of the library.
        let mut labelled = labels.iter();
        let comment =
            labelled.find_map(|(label, author)| Some((author, line.strip_prefix(label)?)));
        match comment {
            Some((author, words)) => {
                text.push(author);
                text.push(words);
            }
            None => text.push(line),
        }
        text.push_char('\n');
    }
    let (text, mut extracted) = text.finish();
    let lost = document.as_docx().map_or(0, |document| {
        count(document.unreadable_parts.len()) + count(document.unreadable_parts_omitted)
    });
    extracted.unreadable_parts = lost + too_deep;
    extracted.properties = properties(&document);
    answer(text, &extracted)
}

/// Whether the library says in a line that a table or a box lies too deep in others to be read.
fn is_told_too_deep(line: &str) -> bool {
    let begins = ["[nested table", "[text box nested"];
    let mut begins = begins.iter();
    begins.any(|begin| line.starts_with(begin)) && line.ends_with("document truncated]")
}

/// A document under a password is only opened to say so.
pub(super) fn parse_locked(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    Err(encrypted())
}

/// What the library writes before the comments of each author, and what stands there instead.
fn labels(document: &Document) -> Vec<(String, String)> {
    let comments = document
        .as_docx()
        .map_or(&[][..], |document| &document.comments);
    let authors: HashSet<Option<&str>> = comments
        .iter()
        .map(|comment| comment.author.as_deref())
        .collect();
    let label = |author: Option<&str>| match author {
        None => ("Comment: ".to_owned(), String::new()),
        Some(author) if author.trim().is_empty() => {
            (format!("Comment ({author}): "), String::new())
        }
        Some(author) => (format!("Comment ({author}): "), format!("{author}: ")),
    };
    authors.into_iter().map(label).collect()
}

/// The lines that the library writes about what it could not read.
fn notices(document: &Document) -> HashSet<String> {
    let lost = document.as_docx().map(|document| {
        let parts = document.unreadable_parts.iter();
        let omitted = document.unreadable_parts_omitted;
        parts
            .map(|part| format!("[skipped unreadable part {part}]"))
            .chain([format!("[and {omitted} more unreadable parts not listed]")])
            .map(|line| {
                line.chars()
                    .map(|character| {
                        if character.is_control() {
                            ' '
                        } else {
                            character
                        }
                    })
                    .collect()
            })
            .collect()
    });
    lost.unwrap_or_default()
}

/// Opens a document with bounds that are ours.
pub(super) fn open(request: &Request, input: &mut File) -> Result<Document, ParseFailure> {
    let format = request.reader().and_then(format).ok_or_else(|| {
        ParseFailure::new(
            Reason::Internal,
            format!("{} is no office format", request.media_type),
        )
    })?;
    let input = input.try_clone().map_err(|error| internal(&error))?;
    let mut options = ParseOptions::default();
    options.limits.package_entries = MAX_PACKAGE_ENTRIES;
    options.limits.package_bytes = request.max_unpacked_bytes;
    options.limits.part_bytes = request.max_unpacked_bytes;
    options.limits.memory_bytes = request.max_unpacked_bytes;
    options.limits.embedded_depth = EMBEDDED_DEPTH;
    // The bound of the text is kept where the text is gathered; the library would cut it without a word that can be told
    // from others.
    options.limits.text_chars = usize::try_from(request.max_unpacked_bytes).unwrap_or(usize::MAX);
    // What else of it is opened in this child has the same bounds.
    options.limits.apply();
    Document::from_reader_with(input, format, &options).map_err(|error| refused(&error))
}

fn format(reader: TextReader) -> Option<DocumentFormat> {
    Some(match reader {
        TextReader::Docx => DocumentFormat::Docx,
        TextReader::Xlsx => DocumentFormat::Xlsx,
        TextReader::Pptx => DocumentFormat::Pptx,
        TextReader::Doc => DocumentFormat::Doc,
        TextReader::Xls => DocumentFormat::Xls,
        TextReader::Ppt => DocumentFormat::Ppt,
        _ => return None,
    })
}

/// What the document says of itself.
pub(super) fn properties(document: &Document) -> Properties {
    let tidy = |words: &Option<String>| words.as_deref().and_then(Properties::tidy);
    let new = document
        .as_docx()
        .map(|document| &document.core_properties)
        .or_else(|| document.as_xlsx().map(|book| &book.core_properties))
        .or_else(|| document.as_pptx().map(|slides| &slides.core_properties));
    if let Some(Some(found)) = new {
        return Properties {
            title: tidy(&found.title),
            author: tidy(&found.creator),
            created: tidy(&found.created),
            modified: tidy(&found.modified),
            language: tidy(&found.language),
        };
    }
    let old = document
        .as_doc()
        .map(office_oxide::doc::DocDocument::summary_properties)
        .or_else(|| {
            document
                .as_xls()
                .map(office_oxide::xls::XlsDocument::summary_properties)
        })
        .or_else(|| {
            document
                .as_ppt()
                .map(office_oxide::ppt::PptDocument::summary_properties)
        });
    let Some(Some(found)) = old else {
        return Properties::default();
    };
    Properties {
        title: tidy(&found.title),
        author: tidy(&found.author),
        created: tidy(&found.created),
        modified: tidy(&found.modified),
        language: None,
    }
}

/// A count as it is told.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn internal(error: &dyn std::error::Error) -> ParseFailure {
    ParseFailure::new(Reason::Internal, format!("the input: {error}"))
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
