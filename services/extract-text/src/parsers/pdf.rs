//! PDF: pages in reading order, separated as pdftotext separates them. PDFium reads them where it is installed; a reader of our
//! own language is asked about pages of which PDFium sees nothing, and about all of them where there is no PDFium.

mod own;
mod pdfium;
mod streams;

use std::fs::File;
use std::io;

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::{Request, answer, read_all};
use crate::text::{Properties, Text};
use own::Own;
use pdfium::Library;

/// Of the characters of a page, how many in a hundred may be without a letter before the page counts as unreadable.
const UNKNOWN_PERCENT: usize = 50;
/// How much of the end of a file is looked at for the mark of its end.
const END_BYTES: usize = 8 << 10;

/// Loads PDFium while files can still be opened.
pub(super) fn prepare(request: &Value) -> io::Result<()> {
    let request = Request::read(request).map_err(io::Error::other)?;
    match &request.pdf_library {
        Some(library) => pdfium::load(library),
        None => Ok(()),
    }
}

/// What is on one page.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    /// Its words. Characters that are no letter that anybody knows are replaced.
    pub(super) text: String,
    /// How many were.
    pub(super) unknown: usize,
    /// What there is beside words.
    pub(super) drawn: Drawn,
}

/// What a page shows, words or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Drawn {
    /// Nothing that the reader understands.
    #[default]
    Nothing,
    /// Pictures or lines, and no words.
    Pictures,
    /// Words among it.
    Words,
}

impl Page {
    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Whether most of it is without a letter: what is left would be no text.
    fn is_unreadable(&self) -> bool {
        let characters = self.text.chars();
        let seen = characters
            .filter(|character| !character.is_whitespace())
            .count();
        self.unknown > 0 && self.unknown * 100 >= seen * UNKNOWN_PERCENT
    }
}

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let bytes = read_all(input)?;
    // A reader takes what comes out of a damaged stream before the damage, and says nothing.
    let is_damaged = is_cut(&bytes) || streams::are_damaged(&bytes);
    match pdfium::loaded(request.pdf_library.as_deref()) {
        Some(library) => with_pdfium(&request, &bytes, is_damaged, &library),
        None => without(&request, bytes, is_damaged),
    }
}

/// A whole file says near its end where its directory is.
fn is_cut(bytes: &[u8]) -> bool {
    let end = &bytes[bytes.len().saturating_sub(END_BYTES)..];
    let has = |mark: &[u8]| end.windows(mark.len()).any(|window| window == mark);
    !has(b"%%EOF") && !has(b"startxref")
}

fn with_pdfium(
    request: &Request,
    bytes: &[u8],
    is_damaged: bool,
    library: &Library,
) -> Result<Parsed, ParseFailure> {
    let document = match library.open(bytes) {
        Ok(document) => document,
        Err(failure) if failure.reason == Reason::EncryptedDocument => return Err(failure),
        // What one reader cannot open the other one may.
        Err(_) => return without(request, bytes.to_vec(), is_damaged),
    };
    let pages = document.pages();
    if pages == 0 {
        return without(request, bytes.to_vec(), is_damaged);
    }
    let mut gathered = Gathered::new(request, pages);
    let mut second = Second::Unasked;
    for number in 0..pages.min(request.max_pages) {
        if gathered.text.is_full() {
            break;
        }
        let page = match document.page(number) {
            Ok(page) if !page.is_blank() => Ok(page),
            // A picture is a picture to every reader.
            Ok(page) if page.drawn == Drawn::Pictures => Ok(page),
            first => second.opinion(bytes, number, first),
        };
        gathered.push(page)?;
    }
    gathered.finish(document.properties(), is_damaged)
}

fn without(request: &Request, bytes: Vec<u8>, is_damaged: bool) -> Result<Parsed, ParseFailure> {
    let own = Own::open(bytes)?;
    let pages = own.pages()?;
    let mut gathered = Gathered::new(request, pages);
    for number in 0..pages.min(request.max_pages) {
        if gathered.text.is_full() {
            break;
        }
        gathered.push(own.page(number))?;
    }
    gathered.finish(Properties::default(), is_damaged)
}

/// The other reader, opened when it is first asked.
enum Second {
    Unasked,
    Open(Box<Own>),
    Absent,
}

impl Second {
    /// What the other reader makes of a page of which the first one saw nothing.
    fn opinion(
        &mut self,
        bytes: &[u8],
        number: u32,
        first: Result<Page, ParseFailure>,
    ) -> Result<Page, ParseFailure> {
        if matches!(self, Self::Unasked) {
            *self = Own::open(bytes.to_vec()).map_or(Self::Absent, |own| Self::Open(Box::new(own)));
        }
        let Self::Open(own) = self else {
            return first;
        };
        match (own.page(number), first) {
            (Ok(page), Err(_)) => Ok(page),
            (Ok(page), Ok(_)) if !page.is_blank() => Ok(page),
            // The first one saw words and could not tell them.
            (_, Ok(first)) if first.drawn == Drawn::Words => Ok(first),
            // Both saw nothing: either nothing is there, or what is there cannot be read.
            (second, Ok(_)) => second,
            (Err(_), first) => first,
        }
    }
}

/// The text of the pages, and what is missing in it.
struct Gathered<'a> {
    request: &'a Request,
    text: Text,
    pages: u32,
    unreadable: u32,
    blank: u32,
    replaced: u64,
    first_failure: Option<ParseFailure>,
}

impl<'a> Gathered<'a> {
    fn new(request: &'a Request, pages: u32) -> Self {
        Self {
            request,
            text: Text::bounded(request.max_text_bytes),
            pages,
            unreadable: 0,
            blank: 0,
            replaced: 0,
            first_failure: None,
        }
    }

    fn push(&mut self, page: Result<Page, ParseFailure>) -> Result<(), ParseFailure> {
        self.text.begin_page();
        match page {
            Ok(page) if page.is_unreadable() => self.unreadable += 1,
            Ok(page) => {
                self.blank += u32::from(page.is_blank() && page.drawn != Drawn::Nothing);
                self.replaced += page.unknown as u64;
                self.text.push(&page.text);
            }
            Err(failure) if failure.reason == Reason::EncryptedDocument => return Err(failure),
            Err(failure) => {
                self.unreadable += 1;
                self.first_failure.get_or_insert(failure);
            }
        }
        Ok(())
    }

    fn finish(mut self, properties: Properties, is_damaged: bool) -> Result<Parsed, ParseFailure> {
        if self.pages > self.request.max_pages {
            self.text.mark_truncated();
        }
        let read = self.pages.min(self.request.max_pages);
        if let Some(failure) = self.first_failure.filter(|_| self.unreadable == read) {
            return Err(failure);
        }
        let (text, mut extracted) = self.text.finish();
        extracted.pages = Some(self.pages);
        extracted.unreadable_pages = self.unreadable;
        extracted.blank_pages = self.blank;
        extracted.replaced = self.replaced;
        // A page of which nothing came out is counted already.
        extracted.unreadable_parts = u32::from(is_damaged && self.unreadable == 0);
        extracted.properties = properties;
        answer(text, &extracted)
    }
}

/// Letters as they are written in text: a PDF may hold the shapes that they take in a word, and two letters as one shape.
fn letter(character: char) -> impl Iterator<Item = char> {
    let is_shape = matches!(character, '\u{fb00}'..='\u{fb06}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}');
    let plain = (!is_shape).then_some(character);
    let shape = is_shape.then_some(character);
    plain.into_iter().chain(shape.into_iter().nfkc())
}
