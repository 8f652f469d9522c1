//! Plain text, Markdown, CSV, JSON: read as they stand, in this process.
//!
//! No child is needed here: `encoding_rs` and `chardetng` are safe on any bytes and take time linear in them, and no more
//! than a bounded beginning of the file is read.

use std::fs::File;
use std::io::{self, Read};

use crate::encoding;
use crate::text::{Extracted, Text};

/// The bytes of any encoding that one byte of UTF-8 can come from, at most: ASCII in UTF-32.
const BYTES_PER_TEXT_BYTE: u64 = 4;

/// Reads a text up to `max_text_bytes` of UTF-8.
///
/// # Errors
///
/// When the file cannot be read.
pub(crate) fn read(file: File, max_text_bytes: usize) -> io::Result<(String, Extracted)> {
    let bound = max_text_bytes as u64 * BYTES_PER_TEXT_BYTE;
    let mut bytes = Vec::new();
    let read = file.take(bound + 1).read_to_end(&mut bytes)?;
    let cut = read as u64 > bound;
    let decoded = encoding::decode(&bytes, cut);

    let mut text = Text::bounded(max_text_bytes);
    text.push(&decoded.text);
    if cut {
        text.mark_truncated();
    }
    let (text, mut extracted) = text.finish();
    extracted.encoding = Some(decoded.encoding);
    extracted.replaced = decoded.replaced;
    Ok((text, extracted))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn read_bytes(bytes: &[u8], bound: usize) -> (String, Extracted) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        read(file, bound).unwrap()
    }

    #[test]
    fn every_encoding_becomes_utf_8() {
        let utf_16: Vec<u8> = "\u{feff}El año"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        let (text, extracted) = read_bytes(&utf_16, 1000);
        assert_eq!(text, "El año");
        assert_eq!(extracted.encoding.as_deref(), Some("utf-16be"));
        assert_eq!((extracted.words, extracted.characters), (2, 6));
    }

    #[test]
    fn an_empty_text_has_no_words() {
        let (text, extracted) = read_bytes(b"", 1000);
        assert_eq!(
            (text.as_str(), extracted.words, extracted.truncated),
            ("", 0, false)
        );
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let (text, extracted) = read_bytes("palabra ".repeat(1000).as_bytes(), 100);
        assert_eq!((text.len(), extracted.truncated), (100, true));
    }

    #[test]
    fn any_bytes_at_all_give_valid_text() {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(10_000).collect();
        assert!(read_bytes(&bytes, 100_000).1.characters > 0);
    }
}
