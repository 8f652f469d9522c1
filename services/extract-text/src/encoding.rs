//! Text in whatever encoding it comes.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// How much of a file is looked at to tell UTF-16 without a byte order mark.
const UTF_16_SAMPLE_BYTES: usize = 4 << 10;

/// The longest prefix of an HTML file that may declare its encoding, by the HTML standard.
const META_PREFIX_BYTES: usize = 1024;

/// The encoding of a text: its byte order mark, else UTF-8 if it is valid as such, else UTF-16 by its zero bytes, else the
/// most likely legacy encoding. `cut` says that the bytes are the beginning of a longer text.
pub(crate) fn detect(bytes: &[u8], cut: bool) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    if is_utf_8(bytes, cut) {
        return UTF_8;
    }
    if let Some(encoding) = utf_16_without_mark(bytes) {
        return encoding;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, !cut);
    detector.guess(None, Utf8Detection::Deny)
}

/// As [`detect`], but an HTML file may say what it is. A mark at its beginning counts more, as in a browser.
pub(crate) fn detect_html(bytes: &[u8], cut: bool) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    let prefix =
        String::from_utf8_lossy(&bytes[..bytes.len().min(META_PREFIX_BYTES)]).to_ascii_lowercase();
    let declared = prefix.split_once("charset=").map(|(_, rest)| {
        let rest = rest.trim_start_matches(['"', '\'', ' ']);
        rest.split(['"', '\'', ' ', ';', '>', '/'])
            .next()
            .unwrap_or_default()
    });
    match declared.and_then(|label| Encoding::for_label(label.as_bytes())) {
        // Whoever wrote "UTF-16" wrote it in ASCII, so it is not.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => UTF_8,
        Some(encoding) => encoding,
        None => detect(bytes, cut),
    }
}

fn is_utf_8(bytes: &[u8], cut: bool) -> bool {
    if bytes
        .iter()
        .take(UTF_16_SAMPLE_BYTES)
        .any(|byte| *byte == 0)
    {
        // Valid, but no text: UTF-16 of ASCII text looks like this.
        return utf_16_without_mark(bytes).is_none() && std::str::from_utf8(bytes).is_ok();
    }
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => cut && error.error_len().is_none(),
    }
}

/// Text in UTF-16 has zero bytes in every other place wherever it is Latin, and nearly none in the places between.
fn utf_16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(UTF_16_SAMPLE_BYTES)];
    let zeros = |first: usize| {
        sample
            .iter()
            .skip(first)
            .step_by(2)
            .filter(|byte| **byte == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    let many = sample.len() / 5;
    let few = sample.len() / 50;
    if odd > many && even <= few {
        return Some(UTF_16LE);
    }
    if even > many && odd <= few {
        return Some(UTF_16BE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_utf_8_and_utf_16_are_told_apart() {
        assert_eq!(detect(b"\xef\xbb\xbfhola", false), UTF_8);
        assert_eq!(detect(b"\xff\xfeh\0o\0", false), UTF_16LE);
        assert_eq!(detect("mañana".as_bytes(), false), UTF_8);
        assert_eq!(detect(b"h\0o\0l\0a\0", false), UTF_16LE);
        assert_eq!(detect(b"\0h\0o\0l\0a", false), UTF_16BE);
        assert_eq!(detect(b"", false), UTF_8);
    }

    #[test]
    fn a_text_cut_inside_a_character_is_still_utf_8() {
        let text = "mañ".as_bytes();
        assert_eq!(detect(&text[..3], true), UTF_8);
        assert_ne!(detect(&text[..3], false), UTF_8);
    }

    #[test]
    fn legacy_encodings_are_guessed() {
        let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。");
        assert_eq!(detect(&shift_jis, false), encoding_rs::SHIFT_JIS);
        let (windows_1252, _, _) =
            encoding_rs::WINDOWS_1252.encode("El niño comió una piña en la montaña.");
        assert_eq!(detect(&windows_1252, false), encoding_rs::WINDOWS_1252);
    }

    #[test]
    fn a_page_may_declare_its_encoding() {
        let page = b"<html><head><meta charset=\"iso-8859-2\"></head>";
        assert_eq!(detect_html(page, false), encoding_rs::ISO_8859_2);
        assert_eq!(detect_html(b"<meta charset=utf-16>", false), UTF_8);
        assert_eq!(detect_html(b"<p>plain", false), UTF_8);
    }
}
