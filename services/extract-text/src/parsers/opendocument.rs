//! OpenDocument text, spreadsheets and presentations: one XML part in a zip, read as a stream.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed};
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::Value;
use zip::ZipArchive;
use zip::result::ZipError;

use super::{Request, corrupt, encrypted, finish};
use crate::text::Text;

const CONTENT_PART: &str = "content.xml";
const MANIFEST_PART: &str = "META-INF/manifest.xml";

/// The spaces that one `text:s` may stand for: honest documents use it for indentation.
const MAX_REPEATED_SPACES: usize = 100;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let mut archive = ZipArchive::new(BufReader::new(input)).map_err(|error| refused(&error))?;
    if is_encrypted(&mut archive, request.max_unpacked_bytes)? {
        return Err(encrypted());
    }
    let part = archive
        .by_name(CONTENT_PART)
        .map_err(|error| refused(&error))?;
    let mut text = Text::bounded(request.max_text_bytes);
    read_content(
        BufReader::new(Bounded {
            inner: part,
            left: request.max_unpacked_bytes,
        }),
        &mut text,
    )?;
    finish(text)
}

/// The manifest lists how each part is encrypted, if it is.
fn is_encrypted(
    archive: &mut ZipArchive<BufReader<&mut File>>,
    bound: u64,
) -> Result<bool, ParseFailure> {
    let manifest = match archive.by_name(MANIFEST_PART) {
        Ok(manifest) => manifest,
        Err(ZipError::FileNotFound) => return Ok(false),
        Err(error) => return Err(refused(&error)),
    };
    let mut reader = Reader::from_reader(BufReader::new(Bounded {
        inner: manifest,
        left: bound,
    }));
    let mut buffer = Vec::new();
    loop {
        match reader
            .read_event_into(&mut buffer)
            .map_err(|error| malformed(&error))?
        {
            Event::Start(tag) | Event::Empty(tag)
                if tag.local_name().as_ref() == "encryption-data" =>
            {
                return Ok(true);
            }
            Event::Eof => return Ok(false),
            _ => buffer.clear(),
        }
    }
}

fn read_content(part: impl BufRead, text: &mut Text) -> Result<(), ParseFailure> {
    let mut reader = Reader::from_reader(part);
    let mut buffer = Vec::new();
    // Depths, so that nothing outside a paragraph is taken and nothing inside a deletion.
    let mut paragraphs = 0_usize;
    let mut left_out = 0_usize;
    let mut cells = 0_usize;
    loop {
        buffer.clear();
        if text.is_full() {
            return Ok(());
        }
        match reader
            .read_event_into(&mut buffer)
            .map_err(|error| malformed(&error))?
        {
            Event::Start(tag) => match tag.local_name().as_ref() {
                "p" | "h" => paragraphs += 1,
                "table-cell" => cells += 1,
                "tracked-changes" | "annotation" => left_out += 1,
                _ if paragraphs > 0 && left_out == 0 => push_space(&tag, text),
                _ => {}
            },
            Event::Empty(tag) => match tag.local_name().as_ref() {
                "table-cell" => text.push_char('\t'),
                "p" | "h" if left_out == 0 && cells == 0 => text.end_line(),
                _ if paragraphs > 0 && left_out == 0 => push_space(&tag, text),
                _ => {}
            },
            Event::End(tag) => match tag.local_name().as_ref() {
                "p" | "h" => {
                    paragraphs = paragraphs.saturating_sub(1);
                    match (left_out, cells) {
                        (0, 0) => text.end_line(),
                        (0, _) => text.push_char(' '),
                        _ => {}
                    }
                }
                "table-cell" => {
                    cells = cells.saturating_sub(1);
                    text.push_char('\t');
                }
                "table-row" | "table" => text.end_line(),
                "tracked-changes" | "annotation" => left_out = left_out.saturating_sub(1),
                _ => {}
            },
            Event::Text(content) if paragraphs > 0 && left_out == 0 => {
                // Line ends inside a paragraph are white space of the XML, not of the text.
                text.push(
                    &content
                        .xml_content(XmlVersion::Implicit1_0)
                        .replace('\n', " "),
                );
            }
            Event::CData(content) if paragraphs > 0 && left_out == 0 => {
                text.push(&content.xml_content(XmlVersion::Implicit1_0));
            }
            Event::GeneralRef(reference) if paragraphs > 0 && left_out == 0 => {
                push_reference(&reference, text);
            }
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

/// The elements that stand for white space.
fn push_space(tag: &BytesStart<'_>, text: &mut Text) {
    match tag.local_name().as_ref() {
        "tab" => text.push_char('\t'),
        "line-break" => text.push_char('\n'),
        "s" => {
            let count = tag
                .attributes()
                .flatten()
                .find(|attribute| attribute.key.local_name().as_ref() == "c");
            let count = count
                .and_then(|attribute| attribute.value.parse::<usize>().ok())
                .unwrap_or(1);
            text.push(&" ".repeat(count.min(MAX_REPEATED_SPACES)));
        }
        _ => {}
    }
}

/// The five entities of XML and character references; others cannot be defined here and stand for nothing.
fn push_reference(reference: &BytesRef<'_>, text: &mut Text) {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        text.push_char(character);
        return;
    }
    if let Some(known) = quick_xml::escape::resolve_predefined_entity(reference) {
        text.push(known);
    }
}

/// Reads no more than it may: what a zip entry claims to unpack to is only a claim.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it unpacks to more than is allowed",
            )
        })?;
        Ok(read)
    }
}

fn malformed(error: &quick_xml::Error) -> ParseFailure {
    if let quick_xml::Error::Io(cause) = error
        && cause.kind() == io::ErrorKind::FileTooLarge
    {
        return ParseFailure::new(Reason::DocumentTooLarge, cause.to_string());
    }
    corrupt(error)
}

fn refused(error: &ZipError) -> ParseFailure {
    match error {
        ZipError::InvalidPassword => encrypted(),
        ZipError::UnsupportedArchive(words) if *words == ZipError::PASSWORD_REQUIRED => encrypted(),
        error => corrupt(error),
    }
}
