//! PDF, through `pdf_oxide`: pages in reading order, separated as pdftotext separates them.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed};
use pdf_oxide::document::PdfDocument;
use pdf_oxide::error::Error;
use serde_json::Value;

use super::{Request, answer, corrupt, encrypted, read_all};
use crate::text::{PAGE_BREAK, Text};

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let document = PdfDocument::from_bytes(read_all(input)?).map_err(|error| refused(&error))?;
    // Opening tries the empty password, with which most protected files can be read.
    if document.is_encrypted() && !document.is_authenticated() {
        return Err(encrypted());
    }
    let pages =
        u32::try_from(document.page_count().map_err(|error| refused(&error))?).unwrap_or(u32::MAX);
    if pages == 0 {
        return Err(corrupt("it has no page that can be found"));
    }

    let mut text = Text::bounded(request.max_text_bytes);
    let mut unreadable = 0;
    let mut first_error = None;
    for page in 0..pages.min(request.max_pages) {
        if text.is_full() {
            break;
        }
        if page > 0 {
            text.push_char(PAGE_BREAK);
        }
        match read_page(&document, page as usize) {
            Ok(page) => text.push(&page),
            Err(failure) if failure.reason == Reason::EncryptedDocument => return Err(failure),
            Err(failure) => {
                unreadable += 1;
                first_error.get_or_insert(failure);
            }
        }
    }
    if pages > request.max_pages {
        text.mark_truncated();
    }
    if let Some(failure) = first_error.filter(|_| unreadable == pages.min(request.max_pages)) {
        return Err(failure);
    }
    let (text, mut extracted) = text.finish();
    extracted.pages = Some(pages);
    extracted.unreadable_pages = unreadable;
    answer(text, &extracted)
}

/// One page. A page that makes the library panic is one unreadable page, not a lost document.
fn read_page(document: &PdfDocument, page: usize) -> Result<String, ParseFailure> {
    catch_unwind(AssertUnwindSafe(|| document.extract_text(page)))
        .map_err(|_| {
            ParseFailure::new(
                Reason::ParserCrashed,
                format!("page {} made the reader panic", page + 1),
            )
        })?
        .map_err(|error| refused(&error))
}

fn refused(error: &Error) -> ParseFailure {
    match error {
        Error::EncryptedPdf => encrypted(),
        error => corrupt(error),
    }
}
