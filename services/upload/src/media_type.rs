//! What a file is, by its bytes. Its name only chooses among kinds of text, which no bytes tell apart.

use caudal_domain::media_type::{
    self, CSV, EMPTY, HTML, JP2, JPEG_2000_DATA, MAIL, PDF, PLAIN, Reading, TextReader, UNKNOWN,
    XLS,
};
use caudal_domain::{RelativePath, text_encoding};
use caudal_objects::ObjectError;

use crate::source::Source;
use crate::text;
use crate::{ole, package};

/// A PDF may have other bytes before its signature.
const PDF_SIGNATURE_WITHIN: usize = 1_024;
/// Beginnings of workbooks from before there were containers: the record and its length.
const OLD_WORKBOOKS: [&[u8]; 4] = [
    b"\x09\0\x04\0",
    b"\x09\x02\x06\0",
    b"\x09\x04\x06\0",
    b"\x09\x08\x08\0",
];

/// JPEG 2000, whatever its brand, and its data without boxes.
const JP2_SIGNATURE: &[u8] = b"\0\0\0\x0cjP  \r\n\x87\n";
const JPEG_2000_SIGNATURE: &[u8] = b"\xff\x4f\xff\x51\0";

/// The media type of a content.
///
/// # Errors
///
/// When a part of it that tells cannot be read from the store.
pub(crate) async fn sniff(source: &Source<'_>, path: &str) -> Result<&'static str, ObjectError> {
    let head = source.content.head.as_slice();
    if head.is_empty() {
        return Ok(EMPTY);
    }
    let is_whole = source.content.whole().is_some();
    if head.starts_with(b"%PDF-") {
        return Ok(PDF);
    }
    // Before the short signatures of binary formats: a text may well begin with "BM".
    if let Some(text) = text::as_clean_utf8(head, is_whole) {
        return Ok(refined(text, is_whole, path));
    }
    let promised = media_type::promised_by(&ending(path)).map(|promised| promised.name);
    if let Some(package) = package::media_type(source, promised).await? {
        return Ok(package);
    }
    if let Some(container) = ole::media_type(source).await? {
        // Who reads what its name promises says that it is damaged.
        let is_promised = |reading| {
            use TextReader::{Doc, OutlookMail, Ppt, Xls};
            matches!(reading, Reading::Text(Doc | Xls | Ppt | OutlookMail))
        };
        let promised = promised.filter(|name| is_promised(media_type::reading(name)));
        let is_unknown = container == media_type::OLE;
        return Ok(promised.filter(|_| is_unknown).unwrap_or(container));
    }
    if contains_pdf_signature(head) {
        return Ok(PDF);
    }
    if head.starts_with(b"\xffWPC") {
        return Ok("application/vnd.wordperfect");
    }
    if head.starts_with(JP2_SIGNATURE) {
        return Ok(JP2);
    }
    if head.starts_with(JPEG_2000_SIGNATURE) {
        return Ok(JPEG_2000_DATA);
    }
    if OLD_WORKBOOKS.iter().any(|begin| head.starts_with(begin)) {
        return Ok(XLS);
    }
    if let Some(kind) = infer::get(head)
        && is_believable(&kind, head)
    {
        return Ok(kind.mime_type());
    }
    if let Some(encoding) = text_encoding::of(head, is_whole) {
        let text = text::decoded(head, encoding);
        return Ok(refined(&text, is_whole, path));
    }
    Ok(UNKNOWN)
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

/// The kind of a text. A plain one may be of a kind that only its name tells, and a table without such a name by its form.
fn refined(text: &str, is_whole: bool, path: &str) -> &'static str {
    let ending = ending(path);
    let promised = media_type::promised_by(&ending);
    let sniffed = text::kind(
        text,
        is_whole,
        promised.is_some_and(|promised| promised.name == MAIL),
    );
    if sniffed != PLAIN {
        return sniffed;
    }
    if let Some(promised) = promised
        && (promised.name == HTML || is_told_by_name(promised.reading))
    {
        return promised.name;
    }
    if text::is_table(text, is_whole) {
        return CSV;
    }
    PLAIN
}

/// Kinds of text whose bytes do not tell them apart.
fn is_told_by_name(reading: Reading) -> bool {
    matches!(
        reading,
        Reading::Text(TextReader::Plain("text" | "csv" | "markdown"))
    )
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
    let promised = media_type::promised_by(&ending)?;
    if sniffed == EMPTY || media_type::keeps_promise(promised, sniffed) {
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
        crate::sniff_bytes(bytes, path)
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
        assert_eq!(of(b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjpx ", "x"), JP2);
        assert_eq!(of(b"\xff\x4f\xff\x51\0\x2f\0\0", "x"), JPEG_2000_DATA);
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
        assert_eq!(differs_from_name(EMPTY, "a.pdf"), None);
    }

    #[test]
    fn a_text_with_a_nul_or_in_any_unicode_encoding_is_text() {
        let mut log = "one line of a log that is long enough\n"
            .repeat(200)
            .into_bytes();
        log[4_000] = 0;
        assert_eq!(of(&log, "nul once.txt"), "text/plain");
        assert_eq!(of(&log, "x"), "text/plain");
        let cyrillic = "Уровень воды в реке высокий.\n".repeat(30);
        let utf_16: Vec<u8> = cyrillic.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(of(&utf_16, "x.txt"), "text/plain");
        let page: Vec<u8> = "<!DOCTYPE html><p>х"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(of(&page, "x"), "text/html");
    }

    #[test]
    fn a_mail_is_told_by_its_headers() {
        let mail =
            b"Received: from a\r\n by b\r\nFrom: Ana <a@b.example>\r\nSubject: x\r\n\r\nwords";
        assert_eq!(of(mail, "x"), "message/rfc822");
        let page = b"From: <Saved>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related;\r\n boundary=x\r\n\r\n";
        assert_eq!(of(page, "x.mht"), "multipart/related");
        assert_eq!(of(b"Subject: short\n\nwords", "x.eml"), "message/rfc822");
        assert_eq!(of(b"Subject: short\n\nwords", "x.txt"), "text/plain");
        assert_eq!(
            of(b"From: Ana\nTo: Bo\n\nDear Bo", "letter.txt"),
            "text/plain"
        );
    }

    #[test]
    fn a_container_of_no_known_kind_is_what_its_name_promises() {
        let damaged = [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), &[0xee; 600]].concat();
        assert_eq!(of(&damaged, "x.doc"), "application/msword");
        assert_eq!(of(&damaged, "x.docx"), "application/x-ole-storage");
        assert_eq!(
            of(b"\x09\x04\x06\0\0\0\x10\0\0\0", "old"),
            "application/vnd.ms-excel"
        );
    }

    #[test]
    fn a_name_that_promises_something_else_is_told_for_every_ending_of_the_table() {
        for (sniffed, path) in [
            ("application/pdf", "a.txt"),
            ("text/html", "a.xls"),
            (
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                "a.doc",
            ),
            ("image/png", "a.svg"),
            ("application/zip", "a.ods"),
        ] {
            assert!(
                differs_from_name(sniffed, path).is_some(),
                "{sniffed} {path}"
            );
        }
        for row in media_type::MEDIA_TYPES {
            for ending in row.endings {
                let path = format!("a.{ending}");
                assert_eq!(differs_from_name(row.name, &path), None);
                assert!(differs_from_name(UNKNOWN, &path).is_some(), "{ending}");
            }
        }
    }
}
