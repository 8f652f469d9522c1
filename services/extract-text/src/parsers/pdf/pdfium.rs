//! PDFium, a library of C++: loaded before a child's walls stand, and shown a file nowhere but in a child.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use caudal_stage::sandbox::ParseFailure;
use pdfium_render::prelude::{
    PdfDocument, PdfDocumentMetadataTagType, PdfFormField, PdfPage, PdfPageAnnotation,
    PdfPageAnnotationCommon, PdfPageObjectType, PdfPageObjectsCommon, PdfPageTextChar, Pdfium,
    PdfiumError, PdfiumInternalError,
};

use super::{Drawn, Page, letter};
use crate::parsers::{corrupt, encrypted};
use crate::text::Properties;

/// Objects of a page that are looked at for what they are.
const MAX_OBJECTS: usize = 2_000;
/// Fields of forms and notes on one page whose words are taken.
const MAX_ANNOTATIONS: usize = 2_000;
/// Of the characters of a font, how many in a hundred may be none before all of them are taken for numbers of shapes.
const CONTROL_PERCENT: usize = 10;

/// Where the library was loaded from; nothing where it could not be. A process can have one.
static LOADED: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Loads the library and lets it set itself up, once. One that cannot be loaded is as if there were none, and standard
/// error says so.
pub(super) fn load(path: &Path) -> io::Result<()> {
    let loaded = LOADED.get_or_init(|| match Pdfium::bind_to_library(path) {
        Ok(bindings) => {
            drop(Pdfium::new(bindings));
            Some(path.to_owned())
        }
        Err(error) => {
            eprintln!("PDFium is not used: {error}");
            None
        }
    });
    match loaded {
        Some(loaded) if loaded != path => Err(io::Error::other("another PDFium is loaded already")),
        _ => Ok(()),
    }
}

/// The library, where it was asked for and loaded.
pub(super) fn loaded(asked: Option<&Path>) -> Option<Library> {
    let is_loaded = asked.is_some() && LOADED.get().and_then(Option::as_deref) == asked;
    is_loaded.then(|| Library {
        // Of what was loaded: it looks for nothing where something is.
        pdfium: Pdfium::default(),
    })
}

/// The library in use.
pub(super) struct Library {
    pdfium: Pdfium,
}

impl Library {
    pub(super) fn open<'a>(&'a self, bytes: &'a [u8]) -> Result<Document<'a>, ParseFailure> {
        match self.pdfium.load_pdf_from_byte_slice(bytes, None) {
            Ok(document) => Ok(Document { document }),
            Err(PdfiumError::PdfiumLibraryInternalError(PdfiumInternalError::PasswordError)) => {
                Err(encrypted())
            }
            Err(error) => Err(corrupt(&error)),
        }
    }
}

/// A document that is open.
pub(super) struct Document<'a> {
    document: PdfDocument<'a>,
}

impl Document<'_> {
    pub(super) fn pages(&self) -> u32 {
        u32::try_from(self.document.pages().len()).unwrap_or(0)
    }

    pub(super) fn page(&self, number: u32) -> Result<Page, ParseFailure> {
        let index = i32::try_from(number).map_err(|error| corrupt(&error))?;
        let page = self
            .document
            .pages()
            .get(index)
            .map_err(|error| corrupt(&error))?;
        read(&page).map_err(|error| corrupt(&error))
    }

    pub(super) fn properties(&self) -> Properties {
        let tag = |tag| {
            let found = self.document.metadata().get(tag)?;
            Properties::tidy(found.value())
        };
        let moment = |words: Option<String>| words.map(|words| moment(&words).unwrap_or(words));
        Properties {
            title: tag(PdfDocumentMetadataTagType::Title),
            author: tag(PdfDocumentMetadataTagType::Author),
            created: moment(tag(PdfDocumentMetadataTagType::CreationDate)),
            modified: moment(tag(PdfDocumentMetadataTagType::ModificationDate)),
            language: self
                .document
                .catalog()
                .get_language()
                .ok()
                .and_then(|words| Properties::tidy(&words)),
        }
    }
}

fn read(page: &PdfPage<'_>) -> Result<Page, PdfiumError> {
    let text = page.text()?;
    let characters = text.chars();
    let mut read = Page::default();
    let mut has_controls = false;
    let mut high = None;
    for character in characters.iter() {
        let code = character.unicode_value();
        // A hyphen is told as one too, and says nothing of its font: to look at all fonts is dear.
        has_controls |= is_control(code) && !character.is_hyphen().unwrap_or(false);
        push(code, &character, &mut high, &mut read);
    }
    if has_controls {
        let fonts = fonts_without_letters(characters.iter());
        if !fonts.is_empty() {
            read = Page::default();
            for character in characters.iter() {
                let code = character.unicode_value();
                let is_blank = matches!(code, 0x20 | 0x0a | 0x0d);
                if !is_blank && fonts.contains_key(&character.font_name()) {
                    read.push_unknown();
                } else {
                    push(code, &character, &mut high, &mut read);
                }
            }
        }
    }
    push_annotations(page, &mut read);
    read.drawn = drawn(page, &read);
    Ok(read)
}

impl Page {
    fn push_unknown(&mut self) {
        self.text.push(char::REPLACEMENT_CHARACTER);
        self.unknown += 1;
    }
}

/// Control characters are the numbers of shapes in fonts that say nothing of letters.
fn is_control(code: u32) -> bool {
    matches!(code, 1..=8 | 0x0b | 0x0c | 0x0e..=0x1f | 0x7f..=0x9f)
}

fn push(code: u32, character: &PdfPageTextChar<'_>, high: &mut Option<u32>, read: &mut Page) {
    match code {
        0x0d => {}
        // A hyphen at the end of a line parts a word that goes on.
        2 | 0xfffe | 0xad if character.is_hyphen().unwrap_or(false) => {}
        0xd800..=0xdbff => *high = Some(code),
        0xdc00..=0xdfff => {
            let whole = high
                .take()
                .map(|high| 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00));
            match whole.and_then(char::from_u32) {
                Some(whole) => read.text.push(whole),
                None => read.push_unknown(),
            }
        }
        0 | 0xfffe | 0xffff => read.push_unknown(),
        code if is_control(code) => read.push_unknown(),
        code => match char::from_u32(code) {
            Some(char::REPLACEMENT_CHARACTER) | None => read.push_unknown(),
            Some(plain) => read.text.extend(letter(plain)),
        },
    }
}

/// The fonts of which so many characters are none that all of them must be numbers of shapes.
fn fonts_without_letters<'a>(
    characters: impl Iterator<Item = PdfPageTextChar<'a>>,
) -> HashMap<String, (usize, usize)> {
    let mut fonts: HashMap<String, (usize, usize)> = HashMap::new();
    for character in characters {
        let code = character.unicode_value();
        if matches!(code, 0x20 | 0x0a | 0x0d) || character.is_hyphen().unwrap_or(false) {
            continue;
        }
        let (controls, all) = fonts.entry(character.font_name()).or_default();
        *controls += usize::from(is_control(code));
        *all += 1;
    }
    fonts.retain(|_, (controls, all)| *controls * 100 >= *all * CONTROL_PERCENT);
    fonts
}

/// What is filled into forms, and notes that stand on the page: they are drawn over it.
fn push_annotations(page: &PdfPage<'_>, read: &mut Page) {
    for annotation in page.annotations().iter().take(MAX_ANNOTATIONS) {
        let words = match &annotation {
            PdfPageAnnotation::Widget(widget) => match widget.form_field() {
                Some(PdfFormField::Text(field)) => field.value(),
                Some(PdfFormField::ComboBox(field)) => field.value(),
                _ => None,
            },
            PdfPageAnnotation::FreeText(note) => note.contents(),
            _ => None,
        };
        let words = words.unwrap_or_default();
        let words = words.trim();
        if !words.is_empty() {
            if !read.text.is_empty() && !read.text.ends_with('\n') {
                read.text.push('\n');
            }
            read.text.push_str(&words.replace('\r', "\n"));
        }
    }
}

fn drawn(page: &PdfPage<'_>, read: &Page) -> Drawn {
    if !read.text.trim().is_empty() {
        return Drawn::Words;
    }
    let mut found = Drawn::Nothing;
    for object in page.objects().iter().take(MAX_OBJECTS) {
        match object.object_type() {
            PdfPageObjectType::Text => return Drawn::Words,
            _ => found = Drawn::Pictures,
        }
    }
    found
}

/// `D:20260314092653+01'00'` as others write it.
fn moment(words: &str) -> Option<String> {
    let digits = words.strip_prefix("D:").unwrap_or(words);
    let part = |from: usize, to: usize, otherwise: &str| {
        let part = digits.get(from..to).unwrap_or(otherwise);
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.to_owned())
    };
    let (year, month, day) = (part(0, 4, "")?, part(4, 6, "01")?, part(6, 8, "01")?);
    if year.len() != 4 {
        return None;
    }
    let (hour, minute, second) = (part(8, 10, "00")?, part(10, 12, "00")?, part(12, 14, "00")?);
    let zone: Vec<&str> = digits
        .get(14..)
        .unwrap_or_default()
        .split('\'')
        .filter(|part| !part.is_empty())
        .collect();
    let zone = match zone.as_slice() {
        [hours, minutes, ..] if hours.starts_with(['+', '-']) => format!("{hours}:{minutes}"),
        [hours] if hours.starts_with(['+', '-']) && hours.len() == 3 => format!("{hours}:00"),
        [first, ..] if first.starts_with('Z') => "Z".to_owned(),
        _ => String::new(),
    };
    Some(format!(
        "{year}-{month}-{day}T{hour}:{minute}:{second}{zone}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_told_as_others_write_them() {
        for (words, expected) in [
            ("D:20260314092653+01'00'", Some("2026-03-14T09:26:53+01:00")),
            ("D:20260314092653Z", Some("2026-03-14T09:26:53Z")),
            ("D:20260314092653Z00'00'", Some("2026-03-14T09:26:53Z")),
            ("20260314", Some("2026-03-14T00:00:00")),
            ("D:2026", Some("2026-01-01T00:00:00")),
            ("spring", None),
            ("", None),
        ] {
            assert_eq!(moment(words).as_deref(), expected, "{words}");
        }
    }
}
