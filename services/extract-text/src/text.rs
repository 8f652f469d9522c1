//! The text that a reader gathers, bounded and clean.

use std::io;

use serde::{Deserialize, Serialize};

/// The page separator, as pdftotext writes it: chunks can be told their page by counting.
pub(crate) const PAGE_BREAK: char = '\u{c}';

/// The most boundaries that are told: facts travel with the file.
const MAX_BOUNDARIES: usize = 1_000;
/// The most attachments whose names are told, and for how long a name or a title is.
const MAX_NAMES: usize = 100;
const MAX_NAME_CHARACTERS: usize = 300;

/// What was taken from a document, beside its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Extracted {
    /// Pages or slides, where the format has them.
    pub(crate) pages: Option<u32>,
    /// Where each page, slide or sheet begins in the text, in bytes; no more than the facts have room for.
    pub(crate) offsets: Vec<u64>,
    /// The names of the sheets.
    pub(crate) sheets: Vec<String>,
    /// The character encoding it was read as, where that was a question.
    pub(crate) encoding: Option<String>,
    /// Words, told apart by white space.
    pub(crate) words: u64,
    /// Characters, white space included.
    pub(crate) characters: u64,
    /// Control characters that were left out.
    pub(crate) controls: u64,
    /// Whether there was more text, or more pages, than the limits allow.
    pub(crate) truncated: bool,
    /// Places where the bytes were no characters of that encoding, or the glyphs of no letter.
    pub(crate) replaced: u64,
    /// Pages that gave no text because they could not be read.
    pub(crate) unreadable_pages: u32,
    /// Pages that gave no text though something is drawn on them.
    pub(crate) blank_pages: u32,
    /// Sheets, slides and other parts that could not be read.
    pub(crate) unreadable_parts: u32,
    /// What is attached and was not read.
    pub(crate) attachments: u32,
    /// The names of these, as far as there is room.
    pub(crate) attachment_names: Vec<String>,
    /// What the document says of itself.
    pub(crate) properties: Properties,
}

/// What a document says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Properties {
    pub(crate) title: Option<String>,
    pub(crate) author: Option<String>,
    pub(crate) created: Option<String>,
    pub(crate) modified: Option<String>,
    pub(crate) language: Option<String>,
}

impl Properties {
    /// A property as it goes into the facts: on one line, of a bounded length, and none where there is nothing in it.
    pub(crate) fn tidy(words: &str) -> Option<String> {
        let line: Vec<&str> = words
            .split(|character: char| character.is_whitespace() || character.is_control())
            .filter(|word| !word.is_empty())
            .collect();
        let line: String = line.join(" ").chars().take(MAX_NAME_CHARACTERS).collect();
        (!line.is_empty()).then_some(line)
    }
}

impl Extracted {
    /// Counts something that is attached and was not read.
    pub(crate) fn push_attachment(&mut self, name: Option<&str>) {
        self.attachments += 1;
        if self.attachment_names.len() < MAX_NAMES {
            let name = name.and_then(Properties::tidy);
            self.attachment_names.push(name.unwrap_or_default());
        }
    }
}

/// Gathers text up to a bound in bytes, without the control characters that no reader wants.
#[derive(Debug)]
pub(crate) struct Text {
    gathered: String,
    bound: usize,
    truncated: bool,
    controls: u64,
    offsets: Vec<u64>,
    /// Bytes written through [`io::Write`] that are not a whole character yet.
    partial: Vec<u8>,
}

impl Text {
    pub(crate) fn bounded(bytes: usize) -> Self {
        Self {
            gathered: String::new(),
            bound: bytes,
            truncated: false,
            controls: 0,
            offsets: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// Whether nothing more fits: a reader may stop.
    pub(crate) fn is_full(&self) -> bool {
        self.truncated
    }

    pub(crate) fn push(&mut self, text: &str) {
        for character in text.chars() {
            self.push_char(character);
            if self.truncated {
                return;
            }
        }
    }

    pub(crate) fn push_char(&mut self, character: char) {
        let unwanted = character.is_control() && !matches!(character, '\n' | '\t' | PAGE_BREAK);
        if unwanted || self.truncated {
            // Half of a line end of other systems is nothing that was lost.
            self.controls += u64::from(unwanted && !self.truncated && character != '\r');
            return;
        }
        if self.gathered.len() + character.len_utf8() > self.bound {
            self.truncated = true;
            return;
        }
        self.gathered.push(character);
    }

    /// Begins a new line unless one has just begun.
    pub(crate) fn end_line(&mut self) {
        if !self.gathered.is_empty() && !self.gathered.ends_with(['\n', PAGE_BREAK]) {
            self.push_char('\n');
        }
    }

    /// Begins a page, a slide or a sheet: behind a page break where it is not the first.
    pub(crate) fn begin_page(&mut self) {
        if !self.offsets.is_empty() || !self.gathered.is_empty() {
            self.push_char(PAGE_BREAK);
        }
        if self.offsets.len() < MAX_BOUNDARIES && !self.truncated {
            self.offsets.push(self.gathered.len() as u64);
        }
    }

    /// Leaves an empty line before what follows, unless nothing has been gathered.
    pub(crate) fn end_paragraph(&mut self) {
        self.end_line();
        if !self.gathered.is_empty()
            && !self.gathered.ends_with("\n\n")
            && !self.gathered.ends_with(PAGE_BREAK)
        {
            self.push_char('\n');
        }
    }

    /// Parts what was gathered from what follows by a blank, unless one is there.
    pub(crate) fn end_word(&mut self) {
        if !self.gathered.is_empty() && !self.gathered.ends_with(char::is_whitespace) {
            self.push_char(' ');
        }
    }

    /// As [`push`](Self::push), every run of white space as one blank, and none at the beginning of a line.
    pub(crate) fn push_collapsed(&mut self, text: &str) {
        for character in text.chars() {
            if character.is_whitespace() {
                self.end_word();
            } else {
                self.push_char(character);
            }
        }
    }

    /// What has been gathered behind so many bytes.
    pub(crate) fn since(&self, begins: usize) -> &str {
        self.gathered.get(begins..).unwrap_or_default()
    }

    /// How much has been gathered, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.gathered.len()
    }

    /// Marks that the reader itself left something out.
    pub(crate) fn mark_truncated(&mut self) {
        self.truncated = true;
    }

    /// The text and its counts.
    pub(crate) fn finish(mut self) -> (String, Extracted) {
        if !self.partial.is_empty() {
            self.push_char(char::REPLACEMENT_CHARACTER);
        }
        let extracted = Extracted {
            words: self.gathered.split_whitespace().count() as u64,
            characters: self.gathered.chars().count() as u64,
            truncated: self.truncated,
            controls: self.controls,
            offsets: self.offsets,
            ..Extracted::default()
        };
        (self.gathered, extracted)
    }
}

/// For libraries that write. Ends with an error when the bound is reached, so that they stop.
impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.partial);
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.push(text);
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.push(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.partial = after.to_vec();
                        break;
                    };
                    self.push_char(char::REPLACEMENT_CHARACTER);
                    rest = &after[broken..];
                }
            }
        }
        if self.is_full() {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the text is as long as it may be",
            ));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_says_so() {
        let mut text = Text::bounded(5);
        text.push("añbñc");
        assert!(text.is_full());
        let (text, extracted) = text.finish();
        assert_eq!(text, "añb");
        assert_eq!(
            (extracted.words, extracted.characters, extracted.truncated),
            (1, 3, true)
        );
    }

    #[test]
    fn control_characters_are_left_out() {
        let mut text = Text::bounded(100);
        text.push("a\0b\u{1b}c\r\nd\te");
        assert_eq!(text.finish().0, "abc\nd\te");
    }

    #[test]
    fn characters_split_between_writes_come_through_whole() {
        let mut text = Text::bounded(100);
        for byte in "día €".as_bytes() {
            text.write_all(&[*byte]).unwrap();
        }
        text.write_all(&[0xff, b'!']).unwrap();
        assert_eq!(text.finish().0, "día €\u{fffd}!");
    }

    #[test]
    fn a_writer_is_told_to_stop_when_the_text_is_full() {
        let mut text = Text::bounded(3);
        assert!(text.write_all(b"abc").is_ok());
        assert!(text.write_all(b"d").is_err());
    }
}
