//! OpenDocument text, spreadsheets, presentations and drawings: one XML part in a zip, read as a stream.

use std::fs::File;
use std::io::BufRead;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::Value;

use super::package::{Package, attribute, malformed, open, part, push_reference};
use super::{Request, answer, corrupt, encrypted};
use crate::text::{Properties, Text};

const CONTENT_PART: &str = "content.xml";
const MANIFEST_PART: &str = "META-INF/manifest.xml";
const META_PART: &str = "meta.xml";

/// The spaces that one `text:s` may stand for: honest documents use it for indentation.
const MAX_REPEATED_SPACES: usize = 100;
/// The most empty cells in a row that are written between two with content.
const MAX_EMPTY_CELLS: usize = 8;
/// How many alike a cell or a row with content may stand for; that there are more is said.
const MAX_REPEATED: usize = 1_000;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let mut package = open(input)?;
    if is_encrypted(&mut package, request.max_unpacked_bytes)? {
        return Err(encrypted());
    }
    // A damaged description costs the description.
    let properties = properties(&mut package, request.max_unpacked_bytes).unwrap_or_default();
    let content = part(&mut package, CONTENT_PART, request.max_unpacked_bytes)?
        .ok_or_else(|| corrupt(&format!("it has no {CONTENT_PART}")))?;
    let mut reading = Content::new(Text::bounded(request.max_text_bytes));
    reading.read(Reader::from_reader(content))?;
    if reading.is_shortened {
        reading.text.mark_truncated();
    }
    let (text, mut extracted) = reading.text.finish();
    extracted.properties = properties;
    if reading.sheets.is_empty() && reading.pages > 0 {
        extracted.pages = Some(reading.pages);
    }
    extracted.sheets = reading.sheets;
    answer(text, &extracted)
}

/// The manifest lists how each part is encrypted, if it is.
fn is_encrypted(package: &mut Package<'_>, bound: u64) -> Result<bool, ParseFailure> {
    let Some(manifest) = part(package, MANIFEST_PART, bound)? else {
        return Ok(false);
    };
    let mut reader = Reader::from_reader(manifest);
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

fn properties(package: &mut Package<'_>, bound: u64) -> Result<Properties, ParseFailure> {
    let mut properties = Properties::default();
    let Some(meta) = part(package, META_PART, bound)? else {
        return Ok(properties);
    };
    let mut reader = Reader::from_reader(meta);
    let mut buffer = Vec::new();
    let mut within = String::new();
    loop {
        buffer.clear();
        match reader
            .read_event_into(&mut buffer)
            .map_err(|error| malformed(&error))?
        {
            Event::Start(tag) => tag.local_name().as_ref().clone_into(&mut within),
            Event::End(_) => within.clear(),
            Event::Text(content) => {
                let words = Properties::tidy(&content.xml_content(XmlVersion::Implicit1_0));
                let place = match within.as_str() {
                    "title" => &mut properties.title,
                    "creator" => &mut properties.author,
                    "creation-date" => &mut properties.created,
                    "date" => &mut properties.modified,
                    "language" => &mut properties.language,
                    _ => continue,
                };
                *place = words.or(place.take());
            }
            Event::Eof => return Ok(properties),
            _ => {}
        }
    }
}

/// The text of the content part as it is read. Depths, so that nothing outside a paragraph is taken and nothing inside a
/// deletion.
struct Content {
    text: Text,
    sheets: Vec<String>,
    pages: u32,
    paragraphs: usize,
    left_out: usize,
    cells: usize,
    /// Empty cells of this row that are not written yet, and may never be.
    empty_cells: usize,
    /// Where the cell that is being read begins, and how often it stands for others.
    cell: (usize, usize),
    /// The same of the row.
    row: (usize, usize),
    /// Whether one of them stands for more than are written.
    is_shortened: bool,
}

impl Content {
    fn new(text: Text) -> Self {
        Self {
            text,
            sheets: Vec::new(),
            pages: 0,
            paragraphs: 0,
            left_out: 0,
            cells: 0,
            empty_cells: 0,
            cell: (0, 1),
            row: (0, 1),
            is_shortened: false,
        }
    }

    fn is_read(&self) -> bool {
        self.paragraphs > 0 && self.left_out == 0
    }

    fn read<R: BufRead>(&mut self, mut reader: Reader<R>) -> Result<(), ParseFailure> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            if self.text.is_full() {
                return Ok(());
            }
            match reader
                .read_event_into(&mut buffer)
                .map_err(|error| malformed(&error))?
            {
                Event::Start(tag) => self.start(&tag),
                Event::Empty(tag) => {
                    self.start(&tag);
                    let name = tag.local_name();
                    self.end(name.as_ref());
                }
                Event::End(tag) => self.end(tag.local_name().as_ref()),
                Event::Text(content) if self.is_read() => {
                    // Line ends inside a paragraph are white space of the XML, not of the text.
                    self.text.push(
                        &content
                            .xml_content(XmlVersion::Implicit1_0)
                            .replace('\n', " "),
                    );
                }
                Event::CData(content) if self.is_read() => {
                    self.text
                        .push(&content.xml_content(XmlVersion::Implicit1_0));
                }
                Event::GeneralRef(reference) if self.is_read() => {
                    push_reference(&reference, &mut self.text);
                }
                Event::Eof => return Ok(()),
                _ => {}
            }
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().as_ref() {
            "p" | "h" => {
                // In a cell or a note that begins within a paragraph.
                if self.cells > 0 && self.text.len() > self.cell.0 {
                    self.text.end_word();
                }
                self.paragraphs += 1;
            }
            "table-cell" | "covered-table-cell" => {
                if self.cells == 0 {
                    self.write_gap();
                    self.cell = (self.text.len(), repeated(tag, "number-columns-repeated"));
                }
                self.cells += 1;
            }
            "table-row" if self.cells == 0 => {
                self.empty_cells = 0;
                self.row = (self.text.len(), repeated(tag, "number-rows-repeated"));
            }
            "tracked-changes" | "annotation" | "annotation-end" | "change-start" => {
                self.left_out += 1;
            }
            // A sheet of a workbook; a table in a text has no such name to tell.
            "spreadsheet" => self.pages = self.pages.max(1),
            "table" if self.pages > 0 && self.cells == 0 && self.paragraphs == 0 => {
                let name = attribute(tag, "name").unwrap_or_default();
                self.text.begin_page();
                self.text.push(&name);
                self.text.end_line();
                self.sheets.push(name);
            }
            "page" => {
                self.pages += 1;
                self.text.begin_page();
            }
            "note-citation" | "note-body" | "notes" => {
                self.text.end_word();
            }
            _ if self.is_read() => self.push_space(tag),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "p" | "h" => {
                self.paragraphs = self.paragraphs.saturating_sub(1);
                if self.left_out > 0 {
                    return;
                }
                if self.cells > 0 || self.paragraphs > 0 {
                    self.text.end_word();
                } else {
                    self.text.end_line();
                }
            }
            "table-cell" | "covered-table-cell" => {
                self.cells = self.cells.saturating_sub(1);
                if self.cells == 0 {
                    self.end_cell();
                }
            }
            "table-row" if self.cells == 0 => {
                self.empty_cells = 0;
                self.text.end_line();
                self.end_row();
            }
            "table" if self.cells == 0 => self.text.end_line(),
            "tracked-changes" | "annotation" | "annotation-end" | "change-start" => {
                self.left_out = self.left_out.saturating_sub(1);
            }
            "note-citation" | "note-body" | "notes" => {
                self.text.end_word();
            }
            _ => {}
        }
    }

    /// A cell with content is followed by a tab, as often as it stands for others alike; an empty one waits for a next one
    /// that is not.
    fn end_cell(&mut self) {
        let (begins, repeated) = self.cell;
        let content = self.text.since(begins).trim().to_owned();
        if content.is_empty() {
            self.empty_cells = self.empty_cells.saturating_add(repeated);
            return;
        }
        self.text.push_char('\t');
        self.repeat(&format!("{content}\t"), repeated);
        self.empty_cells = 0;
    }

    /// A row with content is written as often as it stands for others alike.
    fn end_row(&mut self) {
        let (begins, repeated) = self.row;
        let content = self.text.since(begins).to_owned();
        if !content.trim().is_empty() {
            self.repeat(&content, repeated);
        }
    }

    /// Writes what stands there once already.
    fn repeat(&mut self, content: &str, times: usize) {
        self.is_shortened |= times > MAX_REPEATED;
        for _ in 1..times.min(MAX_REPEATED) {
            if self.text.is_full() {
                return;
            }
            self.text.push(content);
        }
    }

    /// Only rows that have begun have gaps: the tabs are written when the next cell begins, and taken back by nobody, so
    /// they are bounded.
    fn write_gap(&mut self) {
        for _ in 0..std::mem::take(&mut self.empty_cells).min(MAX_EMPTY_CELLS) {
            if self.text.len() > self.row.0 {
                self.text.push_char('\t');
            }
        }
    }

    /// The elements that stand for white space.
    fn push_space(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().as_ref() {
            "tab" => self.text.push_char('\t'),
            "line-break" => self.text.push_char('\n'),
            "s" => {
                let count = attribute(tag, "c");
                let count = count
                    .and_then(|count| count.parse::<usize>().ok())
                    .unwrap_or(1);
                self.text.push(&" ".repeat(count.min(MAX_REPEATED_SPACES)));
            }
            _ => {}
        }
    }
}

/// How many alike an element stands for.
fn repeated(tag: &BytesStart<'_>, name: &str) -> usize {
    let repeated = attribute(tag, name);
    repeated.and_then(|count| count.parse().ok()).unwrap_or(1)
}
