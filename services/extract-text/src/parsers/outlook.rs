//! A mail as Outlook saves it: a container whose streams are the properties of the mail. What is attached is named and
//! counted, not read.

use std::fs::File;
use std::io::Read;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use cfb::CompoundFile;
use encoding_rs::Encoding;
use serde_json::Value;

use super::rtf::{self, of_code_page};
use super::{Request, answer, corrupt, html};
use crate::encoding;
use crate::text::{Properties, Text};

const SUBJECT: u16 = 0x0037;
const SENDER: u16 = 0x0c1a;
const SENDER_ADDRESS: u16 = 0x0c1f;
const TO: u16 = 0x0e04;
const CC: u16 = 0x0e03;
const BODY: u16 = 0x1000;
const PACKED_RTF: u16 = 0x1009;
const HTML: u16 = 0x1013;
const SENT: u16 = 0x0039;
const DELIVERED: u16 = 0x0e06;
const CODE_PAGE: u16 = 0x3ffd;
const LONG_NAME: u16 = 0x3707;
const SHORT_NAME: u16 = 0x3704;

const ATTACHMENT: &str = "__attach_version1.0_";
/// Where the properties of fixed length begin in their stream, at the top of a mail.
const FIXED_BEGIN: usize = 32;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let file = CompoundFile::open(input).map_err(|error| corrupt(&error))?;
    let mut mail = Mail {
        file,
        bound: request.max_unpacked_bytes,
        encoding: encoding_rs::WINDOWS_1252,
        fixed: Vec::new(),
    };
    mail.fixed = mail.bytes("/__properties_version1.0").unwrap_or_default();
    if let Some(page) = mail.fixed_value(CODE_PAGE) {
        let page = of_code_page(i64::from(page as u32));
        mail.encoding = page.unwrap_or(encoding_rs::WINDOWS_1252);
    }
    let mut text = Text::bounded(request.max_text_bytes);
    let mut line = |name: &str, words: Option<String>| {
        let words = words.as_deref().and_then(Properties::tidy);
        if let Some(words) = &words {
            text.push(&format!("{name}: {words}\n"));
        }
        words
    };
    let sent = mail
        .fixed_value(SENT)
        .or_else(|| mail.fixed_value(DELIVERED));
    let title = line("Subject", mail.words("/", SUBJECT));
    let author = line(
        "From",
        mail.words("/", SENDER)
            .or_else(|| mail.words("/", SENDER_ADDRESS)),
    );
    line("To", mail.words("/", TO));
    line("Cc", mail.words("/", CC));
    let created = line("Date", sent.and_then(moment));
    text.end_paragraph();
    mail.push_body(&mut text);
    text.end_line();
    let attachments = mail.attachments();
    let (text, mut extracted) = text.finish();
    if title.is_none() && extracted.words == 0 && mail.fixed.is_empty() {
        return Err(corrupt("it has none of the properties of a mail"));
    }
    extracted.properties = Properties {
        title,
        author,
        created,
        ..Properties::default()
    };
    for name in attachments {
        extracted.push_attachment(name.as_deref());
    }
    answer(text, &extracted)
}

struct Mail<'a> {
    file: CompoundFile<&'a mut File>,
    bound: u64,
    encoding: &'static Encoding,
    /// The properties of fixed length at the top of the mail.
    fixed: Vec<u8>,
}

impl Mail<'_> {
    fn bytes(&mut self, path: &str) -> Option<Vec<u8>> {
        let stream = self.file.open_stream(path).ok()?;
        let mut bytes = Vec::new();
        stream.take(self.bound).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A property of words, in Unicode or in the mail's own encoding.
    fn words(&mut self, folder: &str, id: u16) -> Option<String> {
        if let Some(bytes) = self.bytes(&format!("{folder}__substg1.0_{id:04X}001F")) {
            return Some(
                encoding_rs::UTF_16LE
                    .decode_without_bom_handling(&bytes)
                    .0
                    .into_owned(),
            );
        }
        let bytes = self.bytes(&format!("{folder}__substg1.0_{id:04X}001E"))?;
        Some(
            self.encoding
                .decode_without_bom_handling(&bytes)
                .0
                .into_owned(),
        )
    }

    fn fixed_value(&self, id: u16) -> Option<u64> {
        let entries = self.fixed.get(FIXED_BEGIN..)?.chunks_exact(16);
        let mut values = entries.filter_map(|entry| {
            let found = u16::from_le_bytes([entry[2], entry[3]]);
            let value = <[u8; 8]>::try_from(entry.get(8..16)?).ok()?;
            (found == id).then(|| u64::from_le_bytes(value))
        });
        values.next()
    }

    /// The body as plain words, else as a page, else as Rich Text.
    fn push_body(&mut self, text: &mut Text) {
        if let Some(words) = self
            .words("/", BODY)
            .filter(|words| !words.trim().is_empty())
        {
            for line in words.lines() {
                text.push(line);
                text.push_char('\n');
            }
            return;
        }
        let page = self
            .bytes(&format!("/__substg1.0_{HTML:04X}0102"))
            .map(|bytes| encoding::decode_html(&bytes, false).text)
            .or_else(|| self.words("/", HTML));
        if let Some(page) = page {
            html::render(&page, false, text);
            return;
        }
        let packed = self.bytes(&format!("/__substg1.0_{PACKED_RTF:04X}0102"));
        if let Some(rich) = packed.and_then(|packed| unpacked(&packed, self.bound)) {
            rtf::read(&rich, text);
        }
    }

    fn attachments(&mut self) -> Vec<Option<String>> {
        let folders: Vec<String> = self
            .file
            .read_root_storage()
            .filter(|entry| entry.is_storage() && entry.name().starts_with(ATTACHMENT))
            .map(|entry| entry.name().to_owned())
            .collect();
        folders
            .into_iter()
            .map(|folder| {
                let folder = format!("/{folder}/");
                let long = self.words(&folder, LONG_NAME);
                long.or_else(|| self.words(&folder, SHORT_NAME))
            })
            .collect()
    }
}

/// A time of Windows, hundreds of nanoseconds since 1601, as others write it.
fn moment(ticks: u64) -> Option<String> {
    const TICKS_A_SECOND: u64 = 10_000_000;
    const SECONDS_TO_1970: u64 = 11_644_473_600;
    let seconds = (ticks / TICKS_A_SECOND).checked_sub(SECONDS_TO_1970)?;
    let date = mail_parser::DateTime::from_timestamp(i64::try_from(seconds).ok()?);
    Some(date.to_rfc3339())
}

/// The words that packed Rich Text begins with having read, by its specification (MS-OXRTFCP).
const DICTIONARY: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";

/// Unpacks Rich Text, at most `bound` bytes of it.
fn unpacked(packed: &[u8], bound: u64) -> Option<Vec<u8>> {
    const RING: usize = 4_096;
    let body = packed.get(16..)?;
    if packed.get(8..12) == Some(b"MELA") {
        return Some(body.to_vec());
    }
    let bound = usize::try_from(bound).unwrap_or(usize::MAX);
    let mut ring = [b' '; RING];
    ring[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
    let mut write = DICTIONARY.len();
    let mut found = Vec::new();
    let mut bytes = body.iter().copied();
    'all: while let Some(control) = bytes.next() {
        for bit in 0..8 {
            if control >> bit & 1 == 0 {
                let Some(literal) = bytes.next() else {
                    break 'all;
                };
                found.push(literal);
                ring[write] = literal;
                write = (write + 1) % RING;
                continue;
            }
            let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
                break 'all;
            };
            let reference = usize::from(u16::from_be_bytes([high, low]));
            let (offset, length) = (reference >> 4, (reference & 0xf) + 2);
            if offset == write || found.len() > bound {
                break 'all;
            }
            for step in 0..length {
                let byte = ring[(offset + step) % RING];
                found.push(byte);
                ring[write] = byte;
                write = (write + 1) % RING;
            }
        }
    }
    Some(found)
}
