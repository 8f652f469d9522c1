//! What a file is, by its bytes. Its name only chooses among kinds of text, which no bytes tell apart.

use caudal_domain::RelativePath;

use crate::container;
use crate::content::Content;
use crate::text;

/// Nothing is known of these bytes.
pub(crate) const UNKNOWN: &str = "application/octet-stream";
/// There are no bytes.
pub(crate) const EMPTY: &str = "application/x-empty";
const PDF: &str = "application/pdf";
/// A PDF may have other bytes before its signature.
const PDF_SIGNATURE_WITHIN: usize = 1_024;

/// Kinds of text by the ending of a name. Only a content that is text, and says nothing else of itself, becomes one.
const TEXT_BY_ENDING: [(&str, &str); 22] = [
    ("md", "text/markdown"),
    ("markdown", "text/markdown"),
    ("csv", text::CSV),
    ("tsv", "text/tab-separated-values"),
    ("html", text::HTML),
    ("htm", text::HTML),
    ("txt", text::PLAIN),
    ("text", text::PLAIN),
    ("log", text::PLAIN),
    ("css", "text/css"),
    ("js", "text/javascript"),
    ("mjs", "text/javascript"),
    ("ics", "text/calendar"),
    ("vcf", "text/vcard"),
    ("vtt", "text/vtt"),
    ("rst", "text/x-rst"),
    ("tex", "text/x-tex"),
    ("py", "text/x-python"),
    ("rs", "text/x-rust"),
    ("c", "text/x-c"),
    ("sh", "text/x-shellscript"),
    ("yaml", "text/x-yaml"),
];

/// What the endings of names promise, for kinds that their bytes do tell.
const PROMISED_BY_ENDING: [(&str, &str); 16] = [
    ("pdf", PDF),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("bmp", "image/bmp"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    (
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    (
        "pptx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("json", "application/json"),
    ("zip", container::ZIP),
    ("mp4", "video/mp4"),
];

/// The media type of a content.
pub(crate) fn sniff(content: &Content, path: &str) -> &'static str {
    let head = content.head.as_slice();
    if head.is_empty() {
        return EMPTY;
    }
    let is_whole = content.whole().is_some();
    if head.starts_with(b"%PDF-") {
        return PDF;
    }
    // Before the short signatures of binary formats: a text may well begin with "BM".
    if let Some(text) = text::as_utf8(head, is_whole) {
        return refined(text::kind(text, is_whole), text, is_whole, path);
    }
    if let Some(container) = container::media_type(head, &content.tail) {
        return container;
    }
    if contains_pdf_signature(head) {
        return PDF;
    }
    if let Some(kind) = infer::get(head)
        && is_believable(&kind, head)
    {
        return kind.mime_type();
    }
    if text::is_in_another_encoding(head) {
        return refined(text::PLAIN, "", is_whole, path);
    }
    UNKNOWN
}

fn contains_pdf_signature(head: &[u8]) -> bool {
    let looked_at = &head[..head.len().min(PDF_SIGNATURE_WITHIN)];
    looked_at.windows(5).any(|window| window == b"%PDF-")
}

/// Kinds of text are told elsewhere, and two letters alone make no bitmap: its header has four zero bytes.
fn is_believable(kind: &infer::Type, head: &[u8]) -> bool {
    match kind.matcher_type() {
        infer::MatcherType::Text => false,
        _ if kind.mime_type() == "image/bmp" => head.get(6..10) == Some(&[0; 4]),
        _ => true,
    }
}

/// A plain text may be of a kind that only its name tells, and a table without such a name by its form.
fn refined(sniffed: &'static str, text: &str, is_whole: bool, path: &str) -> &'static str {
    if sniffed != text::PLAIN {
        return sniffed;
    }
    let ending = ending(path);
    if let Some((_, by_ending)) = TEXT_BY_ENDING.iter().find(|(known, _)| *known == ending) {
        return by_ending;
    }
    if text::is_table(text, is_whole) {
        return text::CSV;
    }
    text::PLAIN
}

/// The ending of a name, lower case; empty when it has none.
fn ending(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => ending.to_ascii_lowercase(),
        _ => String::new(),
    }
}

/// In words, when the name promises another type than the bytes are.
pub(crate) fn differs_from_name(sniffed: &str, path: &str) -> Option<String> {
    let ending = ending(path);
    let (_, promised) = PROMISED_BY_ENDING
        .iter()
        .find(|(known, _)| *known == ending)?;
    if *promised == sniffed || (ending == "json" && sniffed == "application/x-ndjson") {
        return None;
    }
    let name = RelativePath::parse(path)
        .map(|path| path.name().to_owned())
        .unwrap_or_default();
    Some(format!(
        "{name} is called .{ending}, but its content is {sniffed}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8], path: &str) -> &'static str {
        sniff(&Content::of(bytes), path)
    }

    #[test]
    fn the_bytes_say_what_a_file_is_and_the_name_does_not() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01";
        assert_eq!(of(png, "report.pdf"), "image/png");
        assert_eq!(
            of(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", "a.png"),
            "image/jpeg"
        );
        assert_eq!(of(b"GIF89a\x01\0\x01\0\0\0", "x"), "image/gif");
        assert_eq!(of(b"RIFF\x24\0\0\0WEBPVP8 ", "x"), "image/webp");
        assert_eq!(of(b"II*\0\x08\0\0\0\0\0", "x"), "image/tiff");
        assert_eq!(
            of(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0", "x"),
            "image/bmp"
        );
        assert_eq!(of(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "holiday.png"), PDF);
        assert_eq!(of(b"\0\0junk%PDF-1.4", "x"), PDF);
        assert_eq!(of(b"\0\x01\x02\x03nothing known\0", "x.docx"), UNKNOWN);
        assert_eq!(of(b"", "a.txt"), EMPTY);
    }

    #[test]
    fn a_text_that_begins_like_a_bitmap_is_text() {
        assert_eq!(of(b"BMW is a maker of cars.", "cars"), "text/plain");
        assert_eq!(of(b"BM\xfcller war hier", "x"), "text/plain");
    }

    #[test]
    fn text_is_text_in_any_encoding() {
        assert_eq!(of("Grüße aus Köln".as_bytes(), "x"), "text/plain");
        assert_eq!(of(b"\xef\xbb\xbfwith a mark", "x"), "text/plain");
        assert_eq!(of(b"Gr\xfc\xdfe aus K\xf6ln", "x"), "text/plain");
        assert_eq!(of(b"\xff\xfeh\0e\0l\0l\0o\0", "x"), "text/plain");
        assert_eq!(of(b"h\0e\0l\0l\0o\0 \0t\0h\0e\0r\0e\0", "x"), "text/plain");
        assert_eq!(
            of(b"\x93\xfa\x96\x7b\x8c\xea\x82\xcc\x95\xb6\x8f\xcd", "x"),
            "text/plain"
        );
        assert_eq!(of(b"\x1b[31mred\x1b[0m\n", "build.log"), "text/plain");
    }

    #[test]
    fn a_character_cut_at_the_end_of_the_head_is_no_other_encoding() {
        let mut long = "ñ".repeat(crate::content::HEAD_BYTES);
        long.insert(0, 'x');
        assert_eq!(of(long.as_bytes(), "x.md"), "text/markdown");
    }

    #[test]
    fn markup_and_json_are_told_by_their_content() {
        assert_eq!(of(b"<!-- old --><!DOCTYPE html><p>x", "x.txt"), "text/html");
        assert_eq!(of(b"\n <html lang=en>", "x"), "text/html");
        assert_eq!(
            of(b"<?xml version='1.0'?><html xmlns='x'>", "x"),
            "application/xhtml+xml"
        );
        assert_eq!(of(b"<?xml version='1.0'?><feed/>", "x"), "application/xml");
        assert_eq!(of(b"<svg xmlns='x'/>", "x"), "image/svg+xml");
        assert_eq!(of(b"{\"a\": [1, 2]}", "x.txt"), "application/json");
        assert_eq!(of(b"{\"a\":1}\n{\"a\":2}\n", "x"), "application/x-ndjson");
        assert_eq!(
            of(b"[link](https://example.org) and text", "x.md"),
            "text/markdown"
        );
        assert_eq!(of(b"{\"a\": broken", "x.json"), "text/plain");
        let long = format!("[{}1]", "123456789,".repeat(10_000));
        assert_eq!(of(long.as_bytes(), "x"), "application/json");
        assert_eq!(of(b"{\\rtf1 hello}", "x"), "text/rtf");
    }

    #[test]
    fn the_name_chooses_among_kinds_of_text_only() {
        assert_eq!(of(b"# Title\n\ntext", "notes.MD"), "text/markdown");
        assert_eq!(of(b"# Title\n\ntext", "notes.md/readme"), "text/plain");
        assert_eq!(of(b"a fragment of <b>text</b>", "x.html"), "text/html");
        assert_eq!(of(b"name;city\nAna;Lima\n", "people.csv"), "text/csv");
        assert_eq!(of(b"plain words", "picture.png"), "text/plain");
        assert_eq!(of(b"plain words", ".md"), "text/plain");
    }

    #[test]
    fn a_table_is_told_by_its_form_where_the_name_says_nothing() {
        assert_eq!(of(b"id,name\n1,Ana\n2,\"Bo, jr\"\n", "export"), "text/csv");
        assert_eq!(of(b"id,name\n1,Ana\n2,Bo\n", "export.txt"), "text/plain");
        assert_eq!(
            of(b"Dear Ana,\nhello, and more, too\nbye\n", "letter"),
            "text/plain"
        );
    }

    #[test]
    fn a_name_that_promises_something_else_is_told() {
        let words = differs_from_name("image/png", "in/report.pdf").unwrap_or_default();
        assert_eq!(
            words,
            "report.pdf is called .pdf, but its content is image/png"
        );
        assert_eq!(differs_from_name("image/jpeg", "a.JPG"), None);
        assert_eq!(differs_from_name("text/plain", "a.md"), None);
    }
}
