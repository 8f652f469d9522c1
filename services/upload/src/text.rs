//! Whether bytes are text, and of which kind.

use serde::de::IgnoredAny;

pub(crate) const PLAIN: &str = "text/plain";
pub(crate) const HTML: &str = "text/html";
pub(crate) const CSV: &str = "text/csv";
const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";

/// Lines that a table without a telling name must have at least, all with the same number of fields.
const MIN_TABLE_LINES: usize = 3;
/// Lines of a table that are looked at.
const MAX_TABLE_LINES: usize = 50;
/// Bytes looked at for the beginning of an HTML or XML document.
const MARKUP_BYTES: usize = 1_024;

/// The beginning of a content as UTF-8, where it is text in UTF-8 (a byte order mark is left out).
pub(crate) fn as_utf8(head: &[u8], is_whole: bool) -> Option<&str> {
    let bytes = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The head may end within a character.
        Err(error) if !is_whole && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = text.chars().all(|character| !is_control(character));
    is_text.then_some(text)
}

fn is_control(character: char) -> bool {
    // ESC begins the colours of terminal logs, FF parts pages.
    character.is_ascii_control() && !matches!(character, '\t' | '\n' | '\r' | '\x0c' | '\x1b')
}

/// Whether these bytes, which are not UTF-8, are text in another encoding.
pub(crate) fn is_in_another_encoding(head: &[u8]) -> bool {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return utf16_without_controls(head, head[0] == 0xff);
    }
    if looks_like_utf16(head) {
        return true;
    }
    // Encodings of one to four bytes a character use no control bytes; hardly any other format does without them.
    !head.is_empty() && head.iter().all(|byte| !is_control(char::from(*byte)))
}

fn utf16_without_controls(head: &[u8], little_endian: bool) -> bool {
    let unit = |pair: &[u8]| {
        if little_endian {
            u16::from_le_bytes([pair[0], pair[1]])
        } else {
            u16::from_be_bytes([pair[0], pair[1]])
        }
    };
    let mut units = head.chunks_exact(2).skip(1).map(unit);
    units.all(|unit| !u8::try_from(unit).is_ok_and(|byte| is_control(char::from(byte))))
}

/// UTF-16 without a byte order mark: mostly characters of one byte, so that every second byte is zero.
fn looks_like_utf16(head: &[u8]) -> bool {
    if head.len() < 4 {
        return false;
    }
    let units = head.len() / 2;
    let zeros_at = |offset: usize| {
        head.iter()
            .skip(offset)
            .step_by(2)
            .filter(|byte| **byte == 0)
            .count()
    };
    let (even, odd) = (zeros_at(0), zeros_at(1));
    let mostly = units * 9 / 10;
    (odd >= mostly && even == 0 && utf16_without_controls(head, true))
        || (even >= mostly && odd == 0 && utf16_without_controls(head, false))
}

/// The kind of a text by what stands in it. `whole` says that nothing follows.
pub(crate) fn kind(text: &str, whole: bool) -> &'static str {
    let trimmed = text.trim_start();
    if trimmed.starts_with("{\\rtf") {
        return "text/rtf";
    }
    if trimmed.starts_with("%!PS") {
        return "application/postscript";
    }
    if trimmed.starts_with("#!") {
        return "text/x-shellscript";
    }
    if trimmed.starts_with('<')
        && let Some(markup) = markup(trimmed)
    {
        return markup;
    }
    if trimmed.starts_with(['{', '['])
        && let Some(json) = json(trimmed, whole)
    {
        return json;
    }
    PLAIN
}

fn markup(text: &str) -> Option<&'static str> {
    let beginning: String = text
        .chars()
        .take(MARKUP_BYTES)
        .collect::<String>()
        .to_ascii_lowercase();
    let mut rest = beginning.as_str();
    // Comments and instructions may stand before the element that tells.
    loop {
        rest = rest.trim_start();
        if rest.starts_with("<!doctype html") || rest.starts_with("<html") {
            return Some(if beginning.starts_with("<?xml") {
                "application/xhtml+xml"
            } else {
                HTML
            });
        }
        if rest.starts_with("<svg") || rest.starts_with("<!doctype svg") {
            return Some("image/svg+xml");
        }
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->")?.1;
        } else if let Some(instruction) = rest.strip_prefix("<?xml") {
            rest = instruction.split_once("?>")?.1;
        } else {
            break;
        }
    }
    let is_fragment = [
        "<head", "<body", "<title", "<table", "<div", "<h1", "<p>", "<p ", "<a ", "<script",
        "<style",
    ]
    .iter()
    .any(|tag| rest.starts_with(tag));
    match (beginning.starts_with("<?xml"), is_fragment) {
        (true, _) => Some("application/xml"),
        (false, true) => Some(HTML),
        (false, false) => None,
    }
}

fn json(text: &str, whole: bool) -> Option<&'static str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut count = 0;
    loop {
        match values.next() {
            Some(Ok(IgnoredAny)) => count += 1,
            None => break,
            // The head ends within a value: that it is well formed so far is all that can be said.
            Some(Err(error)) if error.is_eof() && !whole => break,
            Some(Err(_)) => return None,
        }
    }
    Some(if count > 1 { JSON_LINES } else { JSON })
}

/// Whether a text is a table: lines with one number of fields, two or more, parted by one separator.
pub(crate) fn is_table(text: &str, whole: bool) -> bool {
    [',', ';', '\t']
        .into_iter()
        .any(|separator| is_table_of(text, separator, whole))
}

fn is_table_of(text: &str, separator: char, whole: bool) -> bool {
    let mut lines: Vec<usize> = Vec::new();
    let mut separators = 0;
    let mut quoted = false;
    let mut line_is_empty = true;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            '\n' if !quoted => {
                if !line_is_empty {
                    lines.push(separators);
                }
                separators = 0;
                line_is_empty = true;
                if lines.len() == MAX_TABLE_LINES {
                    break;
                }
                continue;
            }
            '\r' => continue,
            other if other == separator && !quoted => separators += 1,
            _ => {}
        }
        line_is_empty = false;
    }
    if whole && !line_is_empty && !quoted && lines.len() < MAX_TABLE_LINES {
        lines.push(separators);
    }
    let Some(first) = lines.first() else {
        return false;
    };
    lines.len() >= MIN_TABLE_LINES
        && *first >= 1
        && lines.iter().all(|separators| separators == first)
}
