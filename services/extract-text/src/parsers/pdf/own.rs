//! The reader of our own language, through `pdf_oxide`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use caudal_domain::Reason;
use caudal_stage::sandbox::ParseFailure;
use pdf_oxide::document::PdfDocument;
use pdf_oxide::error::Error;

use super::{Drawn, Page};
use crate::parsers::{corrupt, encrypted};

/// A document that is open.
pub(super) struct Own {
    document: PdfDocument,
}

impl Own {
    pub(super) fn open(bytes: Vec<u8>) -> Result<Self, ParseFailure> {
        guarded("opening it", || {
            let document = PdfDocument::from_bytes(bytes).map_err(|error| refused(&error))?;
            // Opening tries the empty password, with which most protected files can be read.
            if document.is_encrypted() && !document.is_authenticated() {
                return Err(encrypted());
            }
            Ok(Self { document })
        })
    }

    pub(super) fn pages(&self) -> Result<u32, ParseFailure> {
        let pages = guarded("counting its pages", || {
            self.document.page_count().map_err(|error| refused(&error))
        })?;
        if pages == 0 {
            return Err(corrupt("it has no page that can be found"));
        }
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// One page. A page that makes the library panic is one unreadable page, not a lost document; so is one whose content
    /// would write words of which none came out.
    pub(super) fn page(&self, number: u32) -> Result<Page, ParseFailure> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let read = || -> Result<Page, Error> {
            let text = self.document.extract_text(index)?;
            let unknown = text.matches(char::REPLACEMENT_CHARACTER).count();
            if !text.trim().is_empty() {
                return Ok(Page {
                    text,
                    unknown,
                    drawn: Drawn::Words,
                });
            }
            let content = self.document.get_page_content_data(index)?;
            Ok(Page {
                drawn: drawn(&content),
                ..Page::default()
            })
        };
        let page = catch_unwind(AssertUnwindSafe(read))
            .map_err(|_| {
                ParseFailure::new(
                    Reason::ParserCrashed,
                    format!("page {} made the reader panic", number + 1),
                )
            })?
            .map_err(|error| refused(&error))?;
        if page.text.is_empty() && page.drawn == Drawn::Words {
            return Err(corrupt(&format!(
                "page {} writes words and none of them can be read",
                number + 1
            )));
        }
        Ok(page)
    }
}

/// The library panics at bytes that no document has: it is damaged then.
fn guarded<T>(
    what: &str,
    read: impl FnOnce() -> Result<T, ParseFailure>,
) -> Result<T, ParseFailure> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt(&format!("{what} made the reader panic"))))
}

/// What a content would draw, by its operators. Bytes without any are a content that is damaged.
fn drawn(content: &[u8]) -> Drawn {
    let mut words = content
        .split(|byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'[' | b']' | b'(' | b')' | b'<' | b'>')
        })
        .filter(|word| !word.is_empty());
    let mut strings = content.windows(2);
    let has_strings = strings.any(|pair| match pair[0] {
        b'(' => !matches!(pair[1], b')' | b' '),
        b'<' => pair[1].is_ascii_hexdigit(),
        _ => false,
    });
    let mut found = Drawn::Nothing;
    let mut has_any = false;
    for word in words.by_ref() {
        has_any = true;
        match word {
            b"Tj" | b"TJ" | b"'" | b"\"" if has_strings => return Drawn::Words,
            b"Do" | b"f" | b"F" | b"f*" | b"S" | b"s" | b"B" | b"b" | b"sh" | b"BI" => {
                found = Drawn::Pictures;
            }
            _ => {}
        }
    }
    let is_known = |word: &[u8]| {
        matches!(
            word,
            b"q" | b"Q"
                | b"cm"
                | b"re"
                | b"W"
                | b"n"
                | b"gs"
                | b"BMC"
                | b"EMC"
                | b"BDC"
                | b"BT"
                | b"ET"
        )
    };
    let mut again = content.split(u8::is_ascii_whitespace);
    if found == Drawn::Nothing && has_any && !again.any(is_known) {
        return Drawn::Words;
    }
    found
}

fn refused(error: &Error) -> ParseFailure {
    match error {
        Error::EncryptedPdf => encrypted(),
        error => corrupt(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Found by random changes: the library cuts the header of an object in the middle of a letter.
    #[test]
    fn a_document_that_makes_the_library_panic_is_damaged() {
        let mut bytes = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n".to_vec();
        bytes.extend_from_slice(b"2\xe60 obj\n<< /Type /Pages /Kids [] /Count 0 >>\nendobj\n");
        let table = bytes.len();
        bytes.extend_from_slice(
            b"xref\n0 3\n0000000000 65535 f \n0000000009 00000 n \n0000000058 00000 n \n",
        );
        let trailer = format!("trailer\n<< /Size 3 /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n");
        bytes.extend_from_slice(trailer.as_bytes());
        let opened = Own::open(bytes).and_then(|own| own.pages());
        let reason = opened.err().map(|failure| failure.reason);
        assert_eq!(reason, Some(Reason::CorruptDocument));
    }
}
