//! Whether bytes are text, and of which kind.

use std::borrow::Cow;

use caudal_domain::TextEncoding;
use caudal_domain::media_type::{HTML, JSON, JSON_LINES, MAIL, MHTML, PLAIN, RTF, SVG, XHTML, XML};
use caudal_domain::text_encoding::decode_units;
use serde::de::IgnoredAny;

/// Lines that a table without a telling name must have at least, all with the same number of fields.
const MIN_TABLE_LINES: usize = 3;
/// Lines of a table that are looked at.
const MAX_TABLE_LINES: usize = 50;
/// Lines of headers that are looked at.
const MAX_HEADER_LINES: usize = 400;
/// Bytes looked at for the beginning of an HTML or XML document.
const MARKUP_BYTES: usize = 1_024;

/// The beginning of a content as UTF-8, where all of it is (a byte order mark is left out) and no control character is in
/// it.
pub(crate) fn as_clean_utf8(head: &[u8], is_whole: bool) -> Option<&str> {
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

/// The beginning of a content as text. Of the encodings from before Unicode only what is ASCII counts here: markup, names of
/// headers, separators.
pub(crate) fn decoded(head: &[u8], encoding: TextEncoding) -> Cow<'_, str> {
    match encoding {
        TextEncoding::Utf8 | TextEncoding::Legacy => String::from_utf8_lossy(head),
        units => decode_units(head, units)
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .filter(|character| *character != '\u{feff}')
            .collect(),
    }
}

/// The kind of a text by what stands in it. `whole` says that nothing follows, `is_called_mail` that its name promises one.
pub(crate) fn kind(text: &str, whole: bool, is_called_mail: bool) -> &'static str {
    let trimmed = text.trim_start();
    if trimmed.starts_with("{\\rtf") {
        return RTF;
    }
    if let Some(mail) = mail(text, is_called_mail) {
        return mail;
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

/// A mail begins with its headers: lines of a name, a colon and words, continued by lines that begin with a blank.
fn mail(text: &str, is_called_mail: bool) -> Option<&'static str> {
    /// What mails alone have: others begin a letter as well.
    const TELLING: [&str; 6] = [
        "received",
        "return-path",
        "message-id",
        "mime-version",
        "delivered-to",
        "x-mailer",
    ];
    const USUAL: [&str; 5] = ["from", "to", "subject", "date", "content-type"];
    let (mut telling, mut usual) = (0, 0);
    let mut is_page = false;
    let mut lines = text.lines().take(MAX_HEADER_LINES).peekable();
    // The line of a mailbox before a mail.
    lines.next_if(|line| line.starts_with("From ") && !line.contains(": "));
    let mut is_content_type = false;
    for line in lines {
        if line.is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        if !line.starts_with([' ', '\t']) {
            let name = line.split_once(':').map(|(name, _)| name);
            let is_name =
                |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            let name = name.filter(is_name)?;
            telling += usize::from(TELLING.contains(&name));
            usual += usize::from(USUAL.contains(&name));
            is_content_type = name == "content-type";
        }
        is_page |= is_content_type && line.contains("multipart/related");
    }
    let is_mail =
        (telling >= 1 && telling + usual >= 2) || (is_called_mail && usual + telling >= 1);
    let is_saved_page = is_page && text.contains("MIME-Version") && !text.contains("Received:");
    match (is_mail, is_saved_page) {
        (true, true) => Some(MHTML),
        (true, false) => Some(MAIL),
        (false, _) => None,
    }
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
                XHTML
            } else {
                HTML
            });
        }
        if rest.starts_with("<svg") || rest.starts_with("<!doctype svg") {
            return Some(SVG);
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
        (true, _) => Some(XML),
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
