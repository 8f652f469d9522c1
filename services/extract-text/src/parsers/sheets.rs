//! Workbooks, old and new: the rows and cells that exist, as the sheet shows them, and neither the grid around them nor the
//! formulas below. The library reads the structure, the text is written here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};

use caudal_stage::sandbox::{ParseFailure, Parsed};
use office_oxide::xls::{self, XlsDocument};
use office_oxide::xlsx::{CellValue, XlsxDocument};
use serde_json::Value;

use super::number_format::{built_in, general, is_plain, shown};
use super::office::{self, internal};
use super::{Request, answer};
use crate::text::Text;

/// The most empty cells in a row that are written between two with content.
const MAX_EMPTY_CELLS: usize = 8;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let document = office::open(&request, input)?;
    let mut sheets = Sheets {
        text: Text::bounded(request.max_text_bytes),
        names: Vec::new(),
        unreadable: 0,
    };
    let mut properties = office::properties(&document);
    if let Some(book) = document.as_xlsx() {
        sheets.new_book(book);
        sheets.unreadable += office::count(book.unreadable_sheets.len())
            + office::count(book.unreadable_sheets_omitted);
    } else if let Some(book) = document.as_xls() {
        input.rewind().map_err(|error| internal(&error))?;
        let formats = Formats::read(input).unwrap_or_default();
        sheets.old_book(book, &formats);
        sheets.unreadable += u32::from(book.truncated());
    }
    let (text, mut extracted) = sheets.text.finish();
    extracted.sheets = sheets.names;
    extracted.unreadable_parts = sheets.unreadable;
    extracted.properties = std::mem::take(&mut properties);
    answer(text, &extracted)
}

struct Sheets {
    text: Text,
    names: Vec<String>,
    unreadable: u32,
}

impl Sheets {
    fn begin(&mut self, name: &str) {
        self.text.begin_page();
        self.text.push(name);
        self.text.end_line();
        self.names.push(name.to_owned());
    }

    /// A row of cells with their columns, from left to right.
    fn row<'a>(&mut self, cells: impl Iterator<Item = (usize, std::borrow::Cow<'a, str>)>) {
        let mut next = 0;
        let mut is_empty = true;
        for (column, shown) in cells {
            let shown = shown.trim();
            if shown.is_empty() || self.text.is_full() {
                continue;
            }
            let gap = column.saturating_sub(next).min(MAX_EMPTY_CELLS);
            for _ in 0..gap + usize::from(!is_empty) {
                self.text.push_char('\t');
            }
            // One line is one row.
            self.text.push(&shown.replace(['\r', '\n', '\t'], " "));
            is_empty = false;
            next = column + 1;
        }
        if !is_empty {
            self.text.push_char('\n');
        }
    }

    fn line(&mut self, words: &str) {
        self.text.end_line();
        self.text.push(words.trim());
        self.text.end_line();
    }

    fn new_book(&mut self, book: &XlsxDocument) {
        for sheet in &book.worksheets {
            if self.text.is_full() {
                return;
            }
            self.begin(&sheet.name);
            for words in &sheet.chart_text {
                self.line(words);
            }
            for row in &sheet.rows {
                let cells = row.cells.iter().map(|cell| {
                    let column = usize::try_from(cell.reference.col).unwrap_or(usize::MAX);
                    (column, new_cell(book, &cell.value, cell.style_index))
                });
                self.row(cells);
            }
            for comment in sheet.comments.iter() {
                let author = comment.author.as_deref().unwrap_or_default();
                self.line(&note(&comment.cell_ref, author, &comment.text));
            }
            for shape in sheet.text_shapes.iter() {
                self.line(&unescaped(&shape.text));
            }
            self.unreadable +=
                u32::from(sheet.damage.is_some()) + u32::from(sheet.comments_truncated);
        }
        for words in &book.chart_text {
            self.line(words);
        }
    }

    fn old_book(&mut self, book: &XlsDocument, formats: &Formats) {
        for sheet in &book.sheets {
            if self.text.is_full() {
                return;
            }
            self.begin(&sheet.name);
            for words in &sheet.chart_text {
                self.line(words);
            }
            for (at, row) in sheet.rows.iter().enumerate() {
                let styles = sheet.xf.get(at);
                let cells = row.iter().enumerate().map(|(column, value)| {
                    let style = styles.and_then(|styles| styles.get(column)).copied();
                    (column, old_cell(value, style, formats))
                });
                self.row(cells);
            }
            for comment in &sheet.comments {
                let place = format!(
                    "{}{}",
                    office_oxide::xlsx::CellRef::col_name(comment.col.into()),
                    u32::from(comment.row) + 1
                );
                let author = comment.author.as_deref().unwrap_or_default();
                self.line(&note(&place, author, &comment.text));
            }
        }
        for words in book.chart_text() {
            self.line(words);
        }
    }
}

fn note(place: &str, author: &str, words: &str) -> String {
    let words = unescaped(words);
    match author.trim() {
        "" => format!("{place}: {words}"),
        author => format!("{place} ({author}): {words}"),
    }
}

type Shown<'a> = std::borrow::Cow<'a, str>;

fn new_cell<'a>(book: &'a XlsxDocument, value: &'a CellValue, style: Option<u32>) -> Shown<'a> {
    match value {
        CellValue::Empty => "".into(),
        CellValue::String(words) => unescaped(words).into(),
        CellValue::SharedString(index) => {
            let words = book.shared_strings.get(*index).unwrap_or_default();
            unescaped(words).into()
        }
        CellValue::Boolean(true) => "TRUE".into(),
        CellValue::Boolean(false) => "FALSE".into(),
        CellValue::Error(words) => words.as_str().into(),
        CellValue::Date(moment) => moment.to_string().into(),
        CellValue::Number(number) => {
            let styles = book.styles.as_ref().zip(style);
            let code = styles.and_then(|(styles, style)| {
                let own = styles.number_format_override_for(style);
                own.or_else(|| built_in(styles.number_format_id_for(style)?))
            });
            number_under(*number, code, book.workbook.date1904).into()
        }
    }
}

fn old_cell<'a>(value: &'a xls::CellValue, style: Option<u16>, formats: &Formats) -> Shown<'a> {
    let xls::CellValue::Number(number) = value else {
        return value.as_text_cow();
    };
    let code = style.and_then(|style| formats.code(style));
    number_under(*number, code, formats.since_1904).into()
}

fn number_under(number: f64, code: Option<&str>, since_1904: bool) -> String {
    match code.filter(|code| !is_plain(code)) {
        Some(code) => shown(number, code, since_1904),
        None => general(number),
    }
}

/// Text in which characters that XML has no room for are written as `_x000D_`. Those that no text needs are left out.
fn unescaped(words: &str) -> String {
    let mut rest = words;
    let mut plain = String::with_capacity(words.len());
    while let Some(at) = rest.find("_x") {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let code = escape
            .get(2..6)
            .filter(|_| escape.as_bytes().get(6) == Some(&b'_'))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(code) = code else {
            plain.push_str("_x");
            rest = &escape[2..];
            continue;
        };
        plain.extend(char::from_u32(code).filter(|character| !character.is_control()));
        if code == 0x0a {
            plain.push(' ');
        }
        rest = &escape[7..];
    }
    plain.push_str(rest);
    plain
}

/// The formats of an old workbook, which the library keeps to itself.
#[derive(Debug, Default)]
struct Formats {
    codes: HashMap<u16, String>,
    /// The number of the format of each style.
    styles: Vec<u16>,
    since_1904: bool,
}

impl Formats {
    /// From the records at the beginning of the workbook's stream; none where there is no such stream.
    fn read(input: &mut File) -> Option<Self> {
        const MAX_BYTES: u64 = 4 << 20;
        let mut file = cfb::CompoundFile::open(input).ok()?;
        let name = ["/Workbook", "/Book"]
            .into_iter()
            .find(|name| file.is_stream(name))?;
        let mut bytes = Vec::new();
        let stream = file.open_stream(name).ok()?;
        // What was read before a fault is used.
        let _ = stream.take(MAX_BYTES).read_to_end(&mut bytes);
        Some(Self::of_records(&bytes))
    }

    fn of_records(bytes: &[u8]) -> Self {
        const END: u16 = 0x000a;
        const DATES: u16 = 0x0022;
        const STYLE: u16 = 0x00e0;
        const FORMAT: u16 = 0x041e;
        const BEGINNING: u16 = 0x0809;
        const UNICODE: u16 = 0x0600;
        let mut formats = Self::default();
        let mut is_unicode = true;
        let mut rest = bytes;
        while let [kind_low, kind_high, low, high, after @ ..] = rest {
            let kind = u16::from_le_bytes([*kind_low, *kind_high]);
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let Some(record) = after.get(..length) else {
                break;
            };
            let number = |at: usize| {
                let pair = record.get(at..at + 2)?;
                Some(u16::from_le_bytes([pair[0], pair[1]]))
            };
            match kind {
                BEGINNING => is_unicode = number(0) == Some(UNICODE),
                DATES => formats.since_1904 = number(0) == Some(1),
                STYLE => formats.styles.push(number(2).unwrap_or(0)),
                FORMAT => {
                    if let (Some(id), Some(code)) = (number(0), code_of(record, is_unicode)) {
                        formats.codes.insert(id, code);
                    }
                }
                // The sheets follow.
                END => break,
                _ => {}
            }
            rest = &after[length..];
        }
        formats
    }

    fn code(&self, style: u16) -> Option<&str> {
        let id = *self.styles.get(usize::from(style))?;
        let own = self.codes.get(&id).map(String::as_str);
        own.or_else(|| built_in(id.into()))
    }
}

/// The code in a record: a length, and characters of one byte or of two.
fn code_of(record: &[u8], is_unicode: bool) -> Option<String> {
    if !is_unicode {
        let length = usize::from(*record.get(2)?);
        let bytes = record.get(3..3 + length)?;
        return Some(bytes.iter().map(|byte| char::from(*byte)).collect());
    }
    let length = usize::from(u16::from_le_bytes([*record.get(2)?, *record.get(3)?]));
    if record.get(4)? & 1 == 0 {
        let bytes = record.get(5..5 + length)?;
        return Some(bytes.iter().map(|byte| char::from(*byte)).collect());
    }
    let units: Vec<u16> = record
        .get(5..5 + length * 2)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_xml_has_no_room_for_are_left_out() {
        assert_eq!(unescaped("one_x000D_two"), "onetwo");
        assert_eq!(unescaped("one_x000A_two"), "one two");
        assert_eq!(unescaped("_x0041_ and _x005F_x000D_"), "A and _x000D_");
        assert_eq!(unescaped("_xylophone_x12é_"), "_xylophone_x12é_");
    }

    #[test]
    fn the_formats_of_an_old_workbook_are_read_from_its_records() {
        let record = |kind: u16, data: &[u8]| {
            let length = u16::try_from(data.len()).unwrap_or(0);
            [&kind.to_le_bytes()[..], &length.to_le_bytes(), data].concat()
        };
        let bytes = [
            record(0x0809, &[0, 6, 5, 0]),
            record(0x0022, &[1, 0]),
            record(0x041e, b"\xa4\0\x05\0\0# ?/?"),
            record(0x041e, b"\xa5\0\x01\0\x01\xac\x20"),
            record(0x00e0, &[0, 0, 0xa4, 0]),
            record(0x00e0, &[0, 0, 9, 0]),
            record(0x000a, &[]),
        ]
        .concat();
        let formats = Formats::of_records(&bytes);
        assert!(formats.since_1904);
        assert_eq!(formats.code(0), Some("# ?/?"));
        assert_eq!(formats.code(1), Some("0%"));
        assert_eq!(formats.codes.get(&0xa5).map(String::as_str), Some("€"));
        for cut in 0..bytes.len() {
            let _ = Formats::of_records(&bytes[..cut]);
        }
    }
}
