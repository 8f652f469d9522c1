//! Whether bytes are text, and how it is written: one answer for whoever tells types and for whoever reads.
//!
//! Real texts are not clean: a log has a NUL where a machine lost power, a table was pasted together from two encodings. What
//! is text in nearly all of its bytes is text.

use std::collections::BTreeMap;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-8, ASCII among it; a few bytes may be none.
    Utf8,
    /// UTF-16, the low byte first.
    Utf16Le,
    /// UTF-16, the high byte first.
    Utf16Be,
    /// UTF-32, the low byte first.
    Utf32Le,
    /// UTF-32, the high byte first.
    Utf32Be,
    /// One of the encodings of one to four bytes from before Unicode: which one is a guess by its language.
    Legacy,
}

/// Of the characters of a text, at most one in so many is a control character. Among random bytes every ninth is one.
const CHARACTERS_A_CONTROL: usize = 20;
/// The same for the zeros alone in lines that are valid UTF-8 otherwise: some programs write one behind every field.
const CHARACTERS_A_NUL: usize = 6;
/// The same for bytes that are in no Unicode encoding, where less speaks for a text.
const LEGACY_BYTES_A_CONTROL: usize = 100;
/// Of the lines with other characters than ASCII, at least so many in a hundred are valid UTF-8.
const VALID_LINES_PERCENT: usize = 80;
/// Of the characters of UTF-16 or UTF-32 without a mark, at least one in so many is ASCII: a space, a digit, a line end.
const CHARACTERS_AN_ASCII: usize = 100;
/// Of these characters at least so many in a hundred are letters, digits, blanks and the like, of ASCII and one other script.
const USUAL_PERCENT: usize = 90;

/// How the text is written that these bytes are; none where they are no text. Unless they are `whole`, they may end inside
/// a character.
#[must_use]
pub fn of(bytes: &[u8], is_whole: bool) -> Option<TextEncoding> {
    if let Some(marked) = by_mark(bytes) {
        return Some(marked);
    }
    let utf_8 = Utf8Census::of(bytes, is_whole);
    if utf_8.is_text() {
        return Some(TextEncoding::Utf8);
    }
    let units = [
        TextEncoding::Utf16Le,
        TextEncoding::Utf16Be,
        TextEncoding::Utf32Le,
        TextEncoding::Utf32Be,
    ];
    if let Some(found) = units
        .into_iter()
        .find(|encoding| is_text_in_units(bytes, *encoding))
    {
        return Some(found);
    }
    let is_legacy = utf_8.invalid > 0 && utf_8.controls * LEGACY_BYTES_A_CONTROL <= bytes.len();
    is_legacy.then_some(TextEncoding::Legacy)
}

/// By the mark at the beginning, where what follows it is text.
fn by_mark(bytes: &[u8]) -> Option<TextEncoding> {
    let marks: [(&[u8], TextEncoding); 4] = [
        // Before UTF-16, whose mark this one begins with.
        (b"\xff\xfe\0\0", TextEncoding::Utf32Le),
        (b"\0\0\xfe\xff", TextEncoding::Utf32Be),
        (b"\xff\xfe", TextEncoding::Utf16Le),
        (b"\xfe\xff", TextEncoding::Utf16Be),
    ];
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Some(TextEncoding::Utf8);
    }
    marks.into_iter().find_map(|(mark, encoding)| {
        let rest = bytes.strip_prefix(mark)?;
        let census = UnitCensus::of(rest, encoding);
        census.is_mostly_valid().then_some(encoding)
    })
}

/// What bytes are as UTF-8.
#[derive(Default)]
struct Utf8Census {
    characters: usize,
    controls: usize,
    nuls: usize,
    lines: usize,
    invalid: usize,
    /// Lines with characters beyond ASCII, all valid.
    valid_lines: usize,
    /// Lines with bytes that are no UTF-8.
    broken_lines: usize,
}

impl Utf8Census {
    fn of(bytes: &[u8], is_whole: bool) -> Self {
        let mut census = Self::default();
        let (mut has_other, mut is_broken) = (false, false);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for character in chunk.valid().chars() {
                census.characters += 1;
                census.controls += usize::from(is_unwanted(character));
                census.nuls += usize::from(character == '\0');
                census.lines += usize::from(character == '\n');
                has_other |= !character.is_ascii();
                if character == '\n' {
                    census.end_line(&mut has_other, &mut is_broken);
                }
            }
            let is_cut = !is_whole && chunks.peek().is_none() && chunk.invalid().len() < 4;
            if !chunk.invalid().is_empty() && !is_cut {
                census.invalid += 1;
                is_broken = true;
            }
        }
        census.end_line(&mut has_other, &mut is_broken);
        census
    }

    fn end_line(&mut self, has_other: &mut bool, is_broken: &mut bool) {
        self.broken_lines += usize::from(*is_broken);
        self.valid_lines += usize::from(*has_other && !*is_broken);
        (*has_other, *is_broken) = (false, false);
    }

    fn is_text(&self) -> bool {
        let lines = self.valid_lines + self.broken_lines;
        let is_valid = self.invalid == 0 || self.valid_lines * 100 >= lines * VALID_LINES_PERCENT;
        let has_lines_with_nuls =
            self.invalid == 0 && self.lines > 0 && self.nuls * CHARACTERS_A_NUL <= self.characters;
        let nuls = if has_lines_with_nuls { self.nuls } else { 0 };
        is_valid && (self.controls - nuls) * CHARACTERS_A_CONTROL <= self.characters
    }
}

/// What bytes are as characters of two or four bytes.
#[derive(Default)]
struct UnitCensus {
    characters: usize,
    ascii: usize,
    /// Of each other script, by the place of its characters.
    scripts: BTreeMap<u32, usize>,
    controls: usize,
    invalid: usize,
}

impl UnitCensus {
    fn of(bytes: &[u8], encoding: TextEncoding) -> Self {
        let mut census = Self::default();
        for character in decode_units(bytes, encoding) {
            census.characters += 1;
            let Some(character) = character else {
                census.invalid += 1;
                continue;
            };
            if is_unwanted(character) {
                census.controls += 1;
                continue;
            }
            census.ascii += usize::from(character.is_ascii());
            if !character.is_ascii() && is_usual(character) {
                *census.scripts.entry(script(character)).or_default() += 1;
            }
        }
        census
    }

    fn is_mostly_valid(&self) -> bool {
        (self.controls + self.invalid) * CHARACTERS_A_CONTROL <= self.characters
    }
}

fn is_text_in_units(bytes: &[u8], encoding: TextEncoding) -> bool {
    let census = UnitCensus::of(bytes, encoding);
    census.characters >= 2
        && census.is_mostly_valid()
        && census.ascii * CHARACTERS_AN_ASCII >= census.characters
        && (census.ascii + census.scripts.values().max().unwrap_or(&0)) * 100
            >= census.characters * USUAL_PERCENT
}

/// The characters that bytes are in an encoding of two or four bytes a unit; none for each that is no character. A unit that
/// is cut at the end is left out.
pub fn decode_units(
    bytes: &[u8],
    encoding: TextEncoding,
) -> Box<dyn Iterator<Item = Option<char>> + '_> {
    let pairs = |make: fn([u8; 2]) -> u16| {
        let units = bytes
            .chunks_exact(2)
            .map(move |pair| make([pair[0], pair[1]]));
        char::decode_utf16(units).map(Result::ok)
    };
    let fours = |make: fn([u8; 4]) -> u32| {
        let units = bytes.chunks_exact(4);
        units.map(move |four| char::from_u32(make([four[0], four[1], four[2], four[3]])))
    };
    match encoding {
        TextEncoding::Utf16Le => Box::new(pairs(u16::from_le_bytes)),
        TextEncoding::Utf16Be => Box::new(pairs(u16::from_be_bytes)),
        TextEncoding::Utf32Le => Box::new(fours(u32::from_le_bytes)),
        TextEncoding::Utf32Be => Box::new(fours(u32::from_be_bytes)),
        TextEncoding::Utf8 | TextEncoding::Legacy => Box::new(std::iter::empty()),
    }
}

/// A control character that texts do without. ESC begins the colours of terminal logs, FF parts pages.
fn is_unwanted(character: char) -> bool {
    character.is_control() && !matches!(character, '\t' | '\n' | '\r' | '\x0c' | '\x1b' | '\u{85}')
}

/// A number for the script of a character: blocks of Unicode that are written together have one.
fn script(character: char) -> u32 {
    match u32::from(character) {
        // Chinese and Japanese, with their marks.
        0x3000..=0x31ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0xff00..=0xffef => 0x4e00,
        0x1100..=0x11ff | 0xac00..=0xd7af => 0xac00,
        0x80..=0x24f | 0x300..=0x36f | 0x1e00..=0x1eff | 0x2000..=0x206f => 0x80,
        0x600..=0x77f | 0xfb50..=0xfdff | 0xfe70..=0xfeff => 0x600,
        0x370..=0x3ff | 0x1f00..=0x1fff => 0x370,
        other => other >> 8 << 8,
    }
}

/// Letters and digits of any script, blanks, and the marks between them.
fn is_usual(character: char) -> bool {
    character.is_alphanumeric()
        || character.is_whitespace()
        || character.is_ascii_graphic()
        || matches!(character, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{e31}'..='\u{e4e}'
            | '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}' | '\u{fe30}'..='\u{fe4f}'
            | '\u{ff00}'..='\u{ff65}' | '\u{feff}' | '\u{ab}' | '\u{bb}' | '\u{b0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str, encoding: TextEncoding) -> Vec<u8> {
        match encoding {
            TextEncoding::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            TextEncoding::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            TextEncoding::Utf32Le => text
                .chars()
                .flat_map(|character| u32::from(character).to_le_bytes())
                .collect(),
            TextEncoding::Utf32Be => text
                .chars()
                .flat_map(|character| u32::from(character).to_be_bytes())
                .collect(),
            TextEncoding::Utf8 | TextEncoding::Legacy => text.as_bytes().to_vec(),
        }
    }

    const ALL: [TextEncoding; 5] = [
        TextEncoding::Utf8,
        TextEncoding::Utf16Le,
        TextEncoding::Utf16Be,
        TextEncoding::Utf32Le,
        TextEncoding::Utf32Be,
    ];

    #[test]
    fn text_of_every_script_is_told_with_and_without_a_mark() {
        for text in [
            "Plain words of a plain language.",
            "Уровень воды в реке высокий, слово ТУРУХТАН.\n",
            "El año, la señal, el niño",
            "水位は高い。\n川の水。\n",
            "ระดับน้ำในแม่น้ำสูง 3 เมตร\n",
            "مستوى الماء في النهر مرتفع\n",
        ] {
            for encoding in ALL {
                let bytes = units(text, encoding);
                assert_eq!(of(&bytes, true), Some(encoding), "{text}");
                let marked = units(&format!("\u{feff}{text}"), encoding);
                assert_eq!(of(&marked, true), Some(encoding), "{text} with a mark");
            }
        }
    }

    #[test]
    fn a_few_nuls_and_controls_do_not_make_a_text_binary() {
        let mut text = "one line of a log that is long enough\n"
            .repeat(100)
            .into_bytes();
        text[700] = 0;
        text[1_300] = 7;
        assert_eq!(of(&text, true), Some(TextEncoding::Utf8));
        let fields = b"1,Ana\n2,B\0o\n".repeat(40);
        assert_eq!(of(&fields, true), Some(TextEncoding::Utf8));
        let latin = [b"a\xf1o de la se\xf1al\n".repeat(30), b"\0".to_vec()].concat();
        assert_eq!(of(&latin, true), Some(TextEncoding::Legacy));
        assert_eq!(of(b"\0\x01\x02\x03nothing known\0", true), None);
        let noise: Vec<u8> = (0..4_096_u32)
            .map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        assert_eq!(of(&noise, true), None);
    }

    #[test]
    fn utf_8_that_is_valid_in_nearly_all_lines_stays_utf_8() {
        let mut text = "el río y la señal\n".repeat(20).into_bytes();
        text.extend_from_slice(b"una l\xednea en otra codificaci\xf3n\n");
        assert_eq!(of(&text, true), Some(TextEncoding::Utf8));
        assert_eq!(
            of("una línea válida\n".as_bytes().repeat(2).as_slice(), true),
            Some(TextEncoding::Utf8)
        );
        let mostly_latin = [b"a\xf1o\n".repeat(9), "año\n".as_bytes().to_vec()].concat();
        assert_eq!(of(&mostly_latin, true), Some(TextEncoding::Legacy));
    }

    #[test]
    fn a_text_cut_inside_a_character_is_still_utf_8() {
        let text = "mañ".as_bytes();
        assert_eq!(of(&text[..3], false), Some(TextEncoding::Utf8));
        assert_eq!(of(&text[..3], true), Some(TextEncoding::Legacy));
    }
}
