//! Text in whatever encoding it comes.

use caudal_domain::TextEncoding;
use caudal_domain::text_encoding::{self, decode_units};
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// The longest prefix of an HTML file that may declare its encoding, by the HTML standard.
const META_PREFIX_BYTES: usize = 1024;

/// A text and how it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) text: String,
    /// The name of the encoding, lower case.
    pub(crate) encoding: String,
    /// Places where the bytes were no character.
    pub(crate) replaced: u64,
}

/// The text of these bytes: by a mark at their beginning, else UTF-8 where they are that in nearly all lines, else UTF-16 or
/// UTF-32 by their zero bytes, else the most likely legacy encoding. `cut` says that they are the beginning of a longer text.
pub(crate) fn decode(bytes: &[u8], cut: bool) -> Decoded {
    match text_encoding::of(bytes, !cut) {
        Some(TextEncoding::Utf8) => decode_as(UTF_8, bytes, cut),
        Some(TextEncoding::Utf16Le) => decode_in_units(bytes, TextEncoding::Utf16Le, "utf-16le"),
        Some(TextEncoding::Utf16Be) => decode_in_units(bytes, TextEncoding::Utf16Be, "utf-16be"),
        Some(TextEncoding::Utf32Le) => decode_in_units(bytes, TextEncoding::Utf32Le, "utf-32le"),
        Some(TextEncoding::Utf32Be) => decode_in_units(bytes, TextEncoding::Utf32Be, "utf-32be"),
        Some(TextEncoding::Legacy) | None => {
            let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
            detector.feed(bytes, !cut);
            decode_as(detector.guess(None, Utf8Detection::Deny), bytes, cut)
        }
    }
}

/// As [`decode`], but an HTML file may say what it is. A mark at its beginning counts more, as in a browser, and so do bytes
/// that are valid UTF-8 where one of the encodings of one byte is declared: hardly a text in these is.
pub(crate) fn decode_html(bytes: &[u8], cut: bool) -> Decoded {
    if Encoding::for_bom(bytes).is_some() {
        return decode(bytes, cut);
    }
    match declared(bytes) {
        // Whoever wrote "UTF-16" wrote it in ASCII, so it is not.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => decode(bytes, cut),
        Some(encoding) if encoding.is_single_byte() && is_other_utf_8(bytes, cut) => {
            decode_as(UTF_8, bytes, cut)
        }
        Some(encoding) => decode_as(encoding, bytes, cut),
        None => decode(bytes, cut),
    }
}

/// What the beginning of a page says of itself: `charset=` of HTML, `encoding=` of XML.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let prefix =
        String::from_utf8_lossy(&bytes[..bytes.len().min(META_PREFIX_BYTES)]).to_ascii_lowercase();
    let in_xml = prefix
        .trim_start()
        .strip_prefix("<?xml")
        .and_then(|rest| rest.split_once("?>"))
        .and_then(|(instruction, _)| instruction.split_once("encoding="));
    let (_, rest) = in_xml.or_else(|| prefix.split_once("charset="))?;
    let rest = rest.trim_start_matches(['"', '\'', ' ']);
    let label = rest.split(['"', '\'', ' ', ';', '>', '/', '?']).next()?;
    Encoding::for_label(label.as_bytes())
}

/// Whether bytes are valid UTF-8 and not only ASCII.
fn is_other_utf_8(bytes: &[u8], cut: bool) -> bool {
    let is_valid = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => cut && error.error_len().is_none(),
    };
    is_valid && !bytes.is_ascii()
}

fn decode_as(encoding: &'static Encoding, bytes: &[u8], cut: bool) -> Decoded {
    let (text, broken) = encoding.decode_with_bom_removal(bytes);
    let replaced = if !broken {
        0
    } else if encoding == UTF_8 {
        let chunks = bytes.utf8_chunks();
        chunks.filter(|chunk| !chunk.invalid().is_empty()).count()
    } else {
        text.matches(char::REPLACEMENT_CHARACTER).count().max(1)
    };
    Decoded {
        text: text.into_owned(),
        encoding: encoding.name().to_ascii_lowercase(),
        // A text cut inside a character ends in a replacement that nobody needs to hear of.
        replaced: (replaced as u64).saturating_sub(u64::from(cut)),
    }
}

fn decode_in_units(bytes: &[u8], encoding: TextEncoding, name: &str) -> Decoded {
    let mut replaced = 0;
    let text: String = decode_units(bytes, encoding)
        .map(|character| {
            replaced += u64::from(character.is_none());
            character.unwrap_or(char::REPLACEMENT_CHARACTER)
        })
        .collect();
    Decoded {
        text: text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned(),
        encoding: name.to_owned(),
        replaced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> String {
        decode(bytes, false).encoding
    }

    #[test]
    fn marks_utf_8_utf_16_and_utf_32_are_told_apart() {
        assert_eq!(name(b"\xef\xbb\xbfhola"), "utf-8");
        assert_eq!(name(b"\xff\xfeh\0o\0"), "utf-16le");
        assert_eq!(name("mañana".as_bytes()), "utf-8");
        assert_eq!(name(b"h\0o\0l\0a\0"), "utf-16le");
        assert_eq!(name(b"\0h\0o\0l\0a"), "utf-16be");
        assert_eq!(name(b"\xff\xfe\0\0h\0\0\0i\0\0\0"), "utf-32le");
        assert_eq!(name(b"\0\0\0h\0\0\0i"), "utf-32be");
        assert_eq!(name(b""), "utf-8");
        assert_eq!(decode(b"\xff\xfeh\0o\0", false).text, "ho");
    }

    #[test]
    fn a_text_cut_inside_a_character_is_still_utf_8() {
        let text = "mañ".as_bytes();
        assert_eq!(decode(&text[..3], true).encoding, "utf-8");
        assert_eq!(decode(&text[..3], true).replaced, 0);
        assert_ne!(decode(&text[..3], false).encoding, "utf-8");
    }

    #[test]
    fn one_line_in_another_encoding_is_replaced_and_the_others_are_not() {
        let mut bytes = "el río y la señal\n".repeat(20).into_bytes();
        bytes.extend_from_slice(b"una l\xednea\n");
        let decoded = decode(&bytes, false);
        assert_eq!((decoded.encoding.as_str(), decoded.replaced), ("utf-8", 1));
        assert!(decoded.text.contains("río") && decoded.text.contains("l\u{fffd}nea"));
    }

    #[test]
    fn legacy_encodings_are_guessed() {
        let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。");
        assert_eq!(name(&shift_jis), "shift_jis");
        let (windows_1252, _, _) =
            encoding_rs::WINDOWS_1252.encode("El niño comió una piña en la montaña.");
        assert_eq!(name(&windows_1252), "windows-1252");
    }

    #[test]
    fn a_page_may_declare_its_encoding_and_its_bytes_may_know_better() {
        let html = |page: &[u8]| decode_html(page, false).encoding;
        let page = b"<html><head><meta charset=\"iso-8859-2\"></head>";
        assert_eq!(html(page), "iso-8859-2");
        assert_eq!(html(b"<meta charset=utf-16>"), "utf-8");
        assert_eq!(html(b"<p>plain"), "utf-8");
        assert_eq!(html("<meta charset=iso-8859-1><p>río".as_bytes()), "utf-8");
        assert_eq!(html(b"<meta charset=iso-8859-1><p>r\xedo"), "windows-1252");
        assert_eq!(
            html(b"<?xml version='1.0' encoding='windows-1251'?><p>\xcf"),
            "windows-1251"
        );
    }
}
