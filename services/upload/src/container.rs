//! Office documents are zip archives: what is in them is told by the names in the archive's directory, at its end.

/// Signature of an entry in the directory of a zip archive.
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
/// Signature of the end of that directory.
const DIRECTORY_END: &[u8] = b"PK\x05\x06";
/// Signature of an entry itself.
const LOCAL_ENTRY: &[u8] = b"PK\x03\x04";
/// Entries looked at: the parts that tell are among the first of any writer.
const MAX_ENTRIES: usize = 4_096;

pub(crate) const ZIP: &str = "application/zip";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

/// OpenDocument and EPUB say what they are in a first entry that is stored as it is.
const SAID_IN_MIMETYPE: [&str; 6] = [
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
    "application/vnd.oasis.opendocument.graphics",
    "application/vnd.oasis.opendocument.text-template",
    "application/epub+zip",
];

/// The media type of a zip archive by its first and last bytes; none when it is no archive.
pub(crate) fn media_type(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    if !head.starts_with(LOCAL_ENTRY) && !head.starts_with(DIRECTORY_END) {
        return None;
    }
    if let Some(said) = said_in_mimetype(head) {
        return Some(said);
    }
    let mut has_content_types = false;
    let mut document = None;
    for name in names(tail) {
        if name == b"[Content_Types].xml" {
            has_content_types = true;
        } else if name.starts_with(b"word/") {
            document = document.or(Some(DOCX));
        } else if name.starts_with(b"xl/") {
            document = document.or(Some(XLSX));
        } else if name.starts_with(b"ppt/") {
            document = document.or(Some(PPTX));
        }
    }
    Some(document.filter(|_| has_content_types).unwrap_or(ZIP))
}

fn said_in_mimetype(head: &[u8]) -> Option<&'static str> {
    let name_length = usize::from(number16(head, 26)?);
    let extra_length = usize::from(number16(head, 28)?);
    let name = head.get(30..30 + name_length)?;
    if name != b"mimetype" {
        return None;
    }
    let said = head.get(30 + name_length + extra_length..)?;
    // The longest first: the type of a template begins with that of a document.
    let mut known = SAID_IN_MIMETYPE;
    known.sort_by_key(|known| std::cmp::Reverse(known.len()));
    known
        .into_iter()
        .find(|known| said.starts_with(known.as_bytes()))
}

/// Names in the directory, as far as it is within the last bytes. A directory that begins before them is read from its
/// first whole entry on.
fn names(tail: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    let Some(end) = find_last(tail, DIRECTORY_END) else {
        return names;
    };
    let directory_size =
        number32(tail, end + 12).map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
    let begin = end.saturating_sub(directory_size);
    let Some(first) = find_first(&tail[begin..end], DIRECTORY_ENTRY) else {
        return names;
    };
    let mut at = begin + first;
    while names.len() < MAX_ENTRIES && tail[at..end].starts_with(DIRECTORY_ENTRY) {
        let (Some(name), Some(extra), Some(comment)) = (
            number16(tail, at + 28),
            number16(tail, at + 30),
            number16(tail, at + 32),
        ) else {
            return names;
        };
        let name_begins = at + 46;
        let name_ends = name_begins + usize::from(name);
        let Some(name) = tail.get(name_begins..name_ends) else {
            return names;
        };
        names.push(name);
        at = name_ends + usize::from(extra) + usize::from(comment);
        if at > end {
            return names;
        }
    }
    names
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn find_first(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn find_last(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .rposition(|window| window == wanted)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            let stored =
                SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            writer.start_file(*name, stored).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn of(bytes: &[u8]) -> Option<&'static str> {
        media_type(bytes, bytes)
    }

    #[test]
    fn office_documents_are_told_apart_by_the_names_in_the_archive() {
        let types = ("[Content_Types].xml", b"<Types/>".as_slice());
        assert_eq!(
            of(&archive(&[types, ("word/document.xml", b"")])),
            Some(DOCX)
        );
        assert_eq!(
            of(&archive(&[
                ("docProps/app.xml", b""),
                types,
                ("xl/workbook.xml", b"")
            ])),
            Some(XLSX)
        );
        assert_eq!(
            of(&archive(&[types, ("ppt/presentation.xml", b"")])),
            Some(PPTX)
        );
        assert_eq!(
            of(&archive(&[("word/notes.txt", b"no office document")])),
            Some(ZIP)
        );
        assert_eq!(of(&archive(&[])), Some(ZIP));
    }

    #[test]
    fn open_documents_say_what_they_are() {
        let text = "application/vnd.oasis.opendocument.text";
        assert_eq!(
            of(&archive(&[
                ("mimetype", text.as_bytes()),
                ("content.xml", b"")
            ])),
            Some(text)
        );
        let sheet = "application/vnd.oasis.opendocument.spreadsheet";
        assert_eq!(of(&archive(&[("mimetype", sheet.as_bytes())])), Some(sheet));
    }

    #[test]
    fn a_directory_of_which_only_the_end_is_known_is_still_read() {
        let mut entries: Vec<(String, Vec<u8>)> =
            vec![("[Content_Types].xml".to_owned(), Vec::new())];
        entries.extend((0..3_000).map(|number| {
            (
                format!("word/media/picture-with-a-long-name-{number}.png"),
                Vec::new(),
            )
        }));
        entries.push(("[Content_Types].xml.rels".to_owned(), Vec::new()));
        let borrowed: Vec<(&str, &[u8])> = entries
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        let bytes = archive(&borrowed);
        assert_eq!(of(&bytes), Some(DOCX));
        let tail = &bytes[bytes.len() - 10_000..];
        assert_eq!(media_type(&bytes[..1_000], tail), Some(ZIP));
    }

    #[test]
    fn every_cut_and_flipped_archive_is_looked_at_without_a_panic() {
        let bytes = archive(&[("[Content_Types].xml", b"x"), ("word/document.xml", b"y")]);
        for cut in 0..bytes.len() {
            let _ = of(&bytes[..cut]);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0xff;
            let _ = of(&flipped);
        }
    }
}
