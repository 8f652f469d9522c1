//! Rich Text Format: words between control words. Read byte by byte, without a tree.

use std::collections::HashMap;
use std::fs::File;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use encoding_rs::Encoding;
use serde_json::Value;

use super::{Request, answer, corrupt, read_all};
use crate::text::{Properties, Text};

/// The groups of a group of a group … that are told apart; deeper ones are read as these.
const MAX_DEPTH: usize = 1_000;
/// The longest control word.
const MAX_WORD_BYTES: usize = 32;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let bytes = read_all(input)?;
    let begins = bytes
        .windows(5)
        .take(1_024)
        .position(|window| window == b"{\\rtf")
        .ok_or_else(|| corrupt("it does not begin as Rich Text"))?;
    let mut text = Text::bounded(request.max_text_bytes);
    let found = read(&bytes[begins..], &mut text);
    text.end_line();
    let (text, mut extracted) = text.finish();
    extracted.properties = found.properties;
    extracted.replaced = text.matches(char::REPLACEMENT_CHARACTER).count() as u64;
    if found.is_cut {
        extracted.unreadable_parts = 1;
    }
    answer(text, &extracted)
}

/// What a group does with its words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    Body,
    Skipped,
    /// The table of fonts, each with the characters it is for.
    Fonts,
    Title,
    Author,
}

#[derive(Clone, Copy)]
struct Group {
    destination: Destination,
    /// Of the font; the document's own where it has none.
    encoding: Option<&'static Encoding>,
    /// Characters that stand for one of Unicode to readers that know none.
    fallback: usize,
    hidden: bool,
}

/// What was found beside the words.
pub(super) struct Found {
    pub(super) properties: Properties,
    /// Whether the end of the document is missing.
    is_cut: bool,
}

struct Rtf<'a, 'b> {
    text: &'a mut Text,
    bytes: &'b [u8],
    at: usize,
    groups: Vec<Group>,
    depth: usize,
    encoding: &'static Encoding,
    /// The encodings of the fonts, by their number.
    fonts: HashMap<i64, &'static Encoding>,
    /// The font that the table is at.
    font: i64,
    /// Whether nothing but the beginning of a group has been read of it.
    is_at_start: bool,
    /// Bytes of characters in that encoding that are not decoded yet.
    pending: Vec<u8>,
    /// Of a character above U+FFFF its first half.
    high: Option<u16>,
    skip: usize,
    title: String,
    author: String,
}

/// Reads the words of Rich Text into `text`.
pub(super) fn read(bytes: &[u8], text: &mut Text) -> Found {
    let mut rtf = Rtf {
        text,
        bytes,
        at: 0,
        groups: vec![Group {
            destination: Destination::Body,
            encoding: None,
            fallback: 1,
            hidden: false,
        }],
        depth: 0,
        encoding: encoding_rs::WINDOWS_1252,
        fonts: HashMap::new(),
        font: 0,
        is_at_start: false,
        pending: Vec::new(),
        high: None,
        skip: 0,
        title: String::new(),
        author: String::new(),
    };
    rtf.run();
    // Of a document that was cut the last words wait for a group's end that is missing.
    rtf.flush();
    Found {
        is_cut: rtf.depth > 0,
        properties: Properties {
            title: Properties::tidy(&rtf.title),
            author: Properties::tidy(&rtf.author),
            ..Properties::default()
        },
    }
}

impl Rtf<'_, '_> {
    fn group(&self) -> Group {
        self.groups.last().copied().unwrap_or(Group {
            destination: Destination::Skipped,
            encoding: None,
            fallback: 1,
            hidden: false,
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut Group)) {
        if let Some(group) = self.groups.last_mut() {
            change(group);
        }
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn run(&mut self) {
        while let Some(byte) = self.next() {
            if self.text.is_full() {
                self.depth = 0;
                return;
            }
            let is_at_start = std::mem::replace(&mut self.is_at_start, byte == b'{');
            match byte {
                b'{' => {
                    self.flush();
                    self.skip = 0;
                    self.depth += 1;
                    if self.groups.len() < MAX_DEPTH {
                        self.groups.push(self.group());
                    }
                }
                b'}' => {
                    self.flush();
                    self.skip = 0;
                    self.depth = self.depth.saturating_sub(1);
                    if self.groups.len() > self.depth + 1 {
                        self.groups.pop();
                    }
                    if self.depth == 0 {
                        return;
                    }
                }
                b'\\' => self.control(is_at_start),
                b'\r' | b'\n' => {}
                other => self.byte(other),
            }
        }
    }

    /// A byte of a character, or one that stands for a character that was read already.
    fn byte(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.pending.push(byte);
    }

    /// Decodes what is pending.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.pending);
        let encoding = self.group().encoding.unwrap_or(self.encoding);
        let (words, _) = encoding.decode_without_bom_handling(&bytes);
        self.push(&words);
    }

    fn push(&mut self, words: &str) {
        let group = self.group();
        match group.destination {
            Destination::Body if !group.hidden => self.text.push(words),
            Destination::Title => self.title.push_str(words),
            Destination::Author => self.author.push_str(words),
            Destination::Body | Destination::Skipped | Destination::Fonts => {}
        }
    }

    fn control(&mut self, is_at_start: bool) {
        let Some(first) = self.next() else {
            return;
        };
        if !first.is_ascii_alphabetic() {
            return self.symbol(first, is_at_start);
        }
        let begins = self.at - 1;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_alphabetic)
            && self.at - begins < MAX_WORD_BYTES
        {
            self.at += 1;
        }
        let word = String::from_utf8_lossy(&self.bytes[begins..self.at]).into_owned();
        let begins = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) && self.at - begins < 12 {
            self.at += 1;
        }
        let number = std::str::from_utf8(&self.bytes[begins..self.at])
            .ok()
            .and_then(|digits| digits.parse::<i64>().ok());
        if self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.word(&word, number);
    }

    fn symbol(&mut self, symbol: u8, is_at_start: bool) {
        match symbol {
            b'\'' => {
                let digits = self.bytes.get(self.at..self.at + 2).unwrap_or_default();
                self.at += 2;
                let byte = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                self.byte(byte.unwrap_or(b'?'));
            }
            b'\\' | b'{' | b'}' => self.byte(symbol),
            // What readers that do not know it leave out.
            b'*' if is_at_start => self.change(|group| group.destination = Destination::Skipped),
            b'~' => self.character('\u{a0}'),
            b'_' => self.character('-'),
            b'\r' | b'\n' => self.character('\n'),
            _ => {}
        }
    }

    fn character(&mut self, character: char) {
        self.flush();
        self.push(character.encode_utf8(&mut [0; 4]));
    }

    fn word(&mut self, word: &str, number: Option<i64>) {
        match word {
            "par" | "line" | "row" | "sect" | "page" | "footnote" | "header" | "footer"
            | "headerl" | "headerr" | "headerf" | "footerl" | "footerr" | "footerf" => {
                self.character('\n');
            }
            "tab" | "cell" | "nestcell" => self.character('\t'),
            "emdash" => self.character('—'),
            "endash" => self.character('–'),
            "lquote" => self.character('‘'),
            "rquote" => self.character('’'),
            "ldblquote" => self.character('“'),
            "rdblquote" => self.character('”'),
            "bullet" => self.character('•'),
            "emspace" | "enspace" | "qmspace" => self.character(' '),
            "u" => self.unicode(number.unwrap_or(0)),
            "uc" => {
                let fallback = usize::try_from(number.unwrap_or(1)).unwrap_or(1).min(8);
                self.change(|group| group.fallback = fallback);
            }
            "ansicpg" => {
                if let Some(encoding) = number.and_then(of_code_page) {
                    self.encoding = encoding;
                }
            }
            "mac" => self.encoding = encoding_rs::MACINTOSH,
            "v" => self.hide(number != Some(0)),
            "plain" => self.hide(false),
            "bin" => {
                let bytes = usize::try_from(number.unwrap_or(0)).unwrap_or(0);
                self.at = self.at.saturating_add(bytes);
            }
            "title" => self.begin(Destination::Title),
            "author" => self.begin(Destination::Author),
            "fonttbl" => self.begin(Destination::Fonts),
            "f" => self.font(number.unwrap_or(0)),
            "fcharset" => {
                if let Some(encoding) = number.and_then(of_character_set) {
                    self.fonts.insert(self.font, encoding);
                }
            }
            "colortbl" | "stylesheet" | "listtable" | "listoverridetable" | "revtbl"
            | "rsidtbl" | "generator" | "info" | "pict" | "object" | "themedata"
            | "colorschememapping" | "latentstyles" | "datastore" | "xmlnstbl" | "filetbl"
            | "fldinst" | "mmathPr" | "private" | "nonshppict" | "pntext" | "bkmkstart"
            | "bkmkend" | "operator" | "company" | "category" | "keywords" | "comment"
            | "doccomm" | "subject" | "hlinkbase" | "creatim" | "revtim" | "printim" => {
                self.begin(Destination::Skipped);
            }
            // A shape's words and the result of an object stand in a group that others would leave out.
            "shptxt" | "shprslt" | "result" => self.begin(Destination::Body),
            _ => {}
        }
    }

    fn font(&mut self, number: i64) {
        self.flush();
        if self.group().destination == Destination::Fonts {
            self.font = number;
        }
        let encoding = self.fonts.get(&number).copied();
        self.change(|group| group.encoding = encoding);
    }

    fn hide(&mut self, hidden: bool) {
        self.flush();
        self.change(|group| group.hidden = hidden);
    }

    /// A destination that lies in one that is left out is left out with it, but for what the document says of itself.
    fn begin(&mut self, destination: Destination) {
        self.flush();
        self.change(|group| group.destination = destination);
    }

    fn unicode(&mut self, number: i64) {
        self.flush();
        self.skip = self.group().fallback;
        // Written as a signed number of 16 bits by most.
        let Ok(unit) = u16::try_from(number & 0xffff) else {
            return;
        };
        match (self.high.take(), unit) {
            (_, 0xd800..=0xdbff) => self.high = Some(unit),
            (Some(high), 0xdc00..=0xdfff) => {
                let whole = char::decode_utf16([high, unit]).next().and_then(Result::ok);
                let whole = whole.unwrap_or(char::REPLACEMENT_CHARACTER);
                self.push(whole.encode_utf8(&mut [0; 4]));
            }
            _ => {
                let one = char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
                self.push(one.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

/// The encoding of a font by the number of its characters; none where it has those of the document.
fn of_character_set(number: i64) -> Option<&'static Encoding> {
    let page = match number {
        77 => 10_000,
        128 => 932,
        129 => 949,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        _ => return None,
    };
    of_code_page(page)
}

/// The encoding of a code page of Windows.
pub(super) fn of_code_page(page: i64) -> Option<&'static Encoding> {
    let label = match page {
        65_001 => "utf-8".to_owned(),
        932 => "shift_jis".to_owned(),
        936 => "gbk".to_owned(),
        949 => "euc-kr".to_owned(),
        950 => "big5".to_owned(),
        10_000 => "macintosh".to_owned(),
        20_866 => "koi8-r".to_owned(),
        28_591..=28_606 => format!("iso-8859-{}", page - 28_590),
        other => format!("windows-{other}"),
    };
    Encoding::for_label(label.as_bytes())
}
