//! Packages are zip archives: what is in them is told by the parts in the archive's directory, at its end, and by the part
//! that lists the types of the others.

use std::io::Read;

use caudal_domain::media_type::{self, DOCX, EPUB, ODT, PPTX, XLSB, XLSX, ZIP};
use caudal_objects::ObjectError;

use crate::source::Source;

/// Signature of an entry in the directory of a zip archive.
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
/// Signature of the end of that directory.
const DIRECTORY_END: &[u8] = b"PK\x05\x06";
/// Signature of an entry itself.
const LOCAL_ENTRY: &[u8] = b"PK\x03\x04";
/// The most of a directory that is read: some hundred thousand parts.
const MAX_DIRECTORY_BYTES: u64 = 8 << 20;
/// The most that is read of the part that tells, as it is stored and unpacked.
const MAX_PART_BYTES: usize = 1 << 20;

/// What the list of types calls the main part of each kind of package: documents, templates and those with macros.
const MAIN_PARTS: [(&str, &str); 8] = [
    ("wordprocessingml.document.main+xml", DOCX),
    ("wordprocessingml.template.main+xml", DOCX),
    ("ms-word.", DOCX),
    ("ms-excel.sheet.binary.", XLSB),
    ("spreadsheetml.", XLSX),
    ("ms-excel.", XLSX),
    ("presentationml.", PPTX),
    ("ms-powerpoint.", PPTX),
];

/// The type of a zip archive; none when it is none. A package without a readable directory is what its name promises: who
/// reads it says that it is damaged.
pub(crate) async fn media_type(
    source: &Source<'_>,
    promised: Option<&'static str>,
) -> Result<Option<&'static str>, ObjectError> {
    let head = source.content.head.as_slice();
    if !head.starts_with(LOCAL_ENTRY) && !head.starts_with(DIRECTORY_END) {
        return Ok(None);
    }
    if let Some(said) = said_in_mimetype(head) {
        return Ok(Some(said));
    }
    let directory = directory(source).await?;
    let parts = parts(&directory);
    if parts.is_empty() && head.starts_with(LOCAL_ENTRY) {
        return Ok(Some(
            promised.filter(|name| is_package(name)).unwrap_or(ZIP),
        ));
    }
    let part = |name: &str| parts.iter().find(|part| part.name == name);
    if let Some(said) = part("mimetype") {
        let said = unpacked(source, said).await?;
        if let Some(known) = known_package(said.trim_ascii()) {
            return Ok(Some(known));
        }
    }
    if let Some(manifest) = part("meta-inf/manifest.xml") {
        let manifest = unpacked(source, manifest).await?;
        if let Some(known) = said_in_manifest(&manifest) {
            return Ok(Some(known));
        }
    }
    if let Some(types) = part("[content_types].xml") {
        let types = unpacked(source, types).await?;
        let types = String::from_utf8_lossy(&types).to_lowercase();
        let main = types
            .split("contenttype=")
            .filter(|told| told.split(['"', '\'']).nth(1).is_some_and(is_main))
            .find_map(main_part);
        return Ok(Some(main.or_else(|| by_folder(&parts)).unwrap_or(ZIP)));
    }
    if part("meta-inf/container.xml").is_some() {
        return Ok(Some(EPUB));
    }
    Ok(Some(ZIP))
}

fn is_main(content_type: &str) -> bool {
    content_type.ends_with(".main+xml") || content_type.ends_with(".main")
}

fn main_part(told: &str) -> Option<&'static str> {
    let content_type = told.split(['"', '\'']).nth(1)?;
    let (_, media_type) = MAIN_PARTS
        .iter()
        .find(|(main, _)| content_type.contains(main))?;
    Some(media_type)
}

/// By the folder that holds the parts, for packages whose list of types says nothing that is known.
fn by_folder(parts: &[Part]) -> Option<&'static str> {
    let folders = [("word/", DOCX), ("xl/", XLSX), ("ppt/", PPTX)];
    parts.iter().find_map(|part| {
        let (_, media_type) = folders
            .iter()
            .find(|(folder, _)| part.name.starts_with(folder))?;
        Some(*media_type)
    })
}

/// Whether a type is a zip archive inside.
fn is_package(name: &str) -> bool {
    [DOCX, XLSX, XLSB, PPTX, EPUB].contains(&name) || is_open_document(name)
}

fn is_open_document(name: &str) -> bool {
    name.starts_with("application/vnd.oasis.opendocument.")
}

/// The type of a package with this name, as the table spells it.
fn known_package(said: &[u8]) -> Option<&'static str> {
    let known = media_type::MEDIA_TYPES.iter().map(|row| row.name);
    known
        .filter(|name| is_package(name))
        .find(|name| name.as_bytes() == said)
}

/// OpenDocument and EPUB say what they are in a first entry that is stored as it is.
fn said_in_mimetype(head: &[u8]) -> Option<&'static str> {
    let name_length = usize::from(number16(head, 26)?);
    let extra_length = usize::from(number16(head, 28)?);
    let name = head.get(30..30 + name_length)?;
    if name != b"mimetype" || number16(head, 8)? != 0 {
        return None;
    }
    let length = usize::try_from(number32(head, 18)?).ok()?;
    let said = head.get(30 + name_length + extra_length..)?;
    if let Some(known) = said.get(..length).and_then(known_package) {
        return Some(known);
    }
    // Written in one pass, its length stands behind it. The longest first: the type of a template begins with that of a
    // document.
    let mut known: Vec<&'static str> = media_type::MEDIA_TYPES
        .iter()
        .map(|row| row.name)
        .filter(|name| is_package(name))
        .collect();
    known.sort_by_key(|known| std::cmp::Reverse(known.len()));
    known
        .into_iter()
        .find(|known| length == 0 && said.starts_with(known.as_bytes()))
}

/// The manifest of an OpenDocument package gives the whole of it a type.
fn said_in_manifest(manifest: &[u8]) -> Option<&'static str> {
    let manifest = String::from_utf8_lossy(manifest);
    let whole = manifest
        .split("<")
        .find(|tag| tag.contains("full-path=\"/\"") || tag.contains("full-path='/'"))?;
    let (_, said) = whole.split_once("media-type=")?;
    let said = said.split(['"', '\'']).nth(1)?;
    if said.is_empty() {
        return None;
    }
    known_package(said.as_bytes()).or_else(|| is_open_document(said).then_some(ODT))
}

/// A part of a package.
struct Part {
    /// Its name, lower case and with slashes, as some writers do not spell it.
    name: String,
    /// Where it begins in the archive.
    at: u64,
    stored_bytes: u64,
    is_packed: bool,
}

/// The directory, or the first of it.
async fn directory(source: &Source<'_>) -> Result<Vec<u8>, ObjectError> {
    let tail = source.tail().await?;
    let tail = tail.as_ref();
    let Some(end) = find_last(tail, DIRECTORY_END) else {
        return Ok(Vec::new());
    };
    let directory_ends = source.content.size - tail.len() as u64 + end as u64;
    let told = u64::from(number32(tail, end + 12).unwrap_or(0));
    let begins = directory_ends.saturating_sub(told);
    let length = usize::try_from(told.min(MAX_DIRECTORY_BYTES).min(directory_ends)).unwrap_or(0);
    let bytes = source.read_at(begins, length).await?;
    // Other things may stand between the directory and its end, such as a longer form of that end.
    if bytes.starts_with(DIRECTORY_ENTRY) {
        return Ok(bytes.into_owned());
    }
    let at = u64::from(number32(tail, end + 16).unwrap_or(0));
    let bytes = source.read_at(at, length).await?;
    if bytes.starts_with(DIRECTORY_ENTRY) {
        return Ok(bytes.into_owned());
    }
    let first = find_first(&tail[..end], DIRECTORY_ENTRY);
    Ok(first.map_or_else(Vec::new, |first| tail[first..end].to_vec()))
}

fn parts(directory: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while directory
        .get(at..)
        .is_some_and(|rest| rest.starts_with(DIRECTORY_ENTRY))
    {
        let Some((part, next)) = part(directory, at) else {
            break;
        };
        parts.push(part);
        at = next;
    }
    parts
}

fn part(directory: &[u8], at: usize) -> Option<(Part, usize)> {
    let name_begins = at + 46;
    let name_ends = name_begins + usize::from(number16(directory, at + 28)?);
    let name = directory.get(name_begins..name_ends)?;
    let name = String::from_utf8_lossy(name)
        .to_lowercase()
        .replace('\\', "/");
    let extra = usize::from(number16(directory, at + 30)?);
    let comment = usize::from(number16(directory, at + 32)?);
    let part = Part {
        name: name.trim_start_matches('/').to_owned(),
        at: number32(directory, at + 42)?.into(),
        stored_bytes: number32(directory, at + 20)?.into(),
        is_packed: number16(directory, at + 10)? != 0,
    };
    Some((part, name_ends + extra + comment))
}

/// The content of a part, or the first of it; nothing where it cannot be unpacked.
async fn unpacked(source: &Source<'_>, part: &Part) -> Result<Vec<u8>, ObjectError> {
    let entry = source.read_at(part.at, 30).await?;
    let (Some(name), Some(extra)) = (number16(&entry, 26), number16(&entry, 28)) else {
        return Ok(Vec::new());
    };
    let begins = part.at + 30 + u64::from(name) + u64::from(extra);
    let length = usize::try_from(part.stored_bytes)
        .unwrap_or(usize::MAX)
        .min(MAX_PART_BYTES);
    let stored = source.read_at(begins, length).await?;
    if !part.is_packed {
        return Ok(stored.into_owned());
    }
    let mut content = Vec::new();
    // What was unpacked before a fault is enough, or it is not.
    let _ = flate2::read::DeflateDecoder::new(&*stored)
        .take(MAX_PART_BYTES as u64)
        .read_to_end(&mut content);
    Ok(content)
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
    use std::io::{Cursor, Write};

    use futures::executor::block_on;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::content::Content;

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
        of_name(bytes, None)
    }

    fn of_name(bytes: &[u8], promised: Option<&'static str>) -> Option<&'static str> {
        let content = Content::of(bytes);
        let source = Source {
            content: &content,
            store: None,
        };
        block_on(media_type(&source, promised)).unwrap()
    }

    fn types(main: &str) -> Vec<u8> {
        format!("<Types><Default Extension='xml' ContentType='application/xml'/><Override PartName='/x' ContentType=\"application/{main}\"/></Types>")
            .into_bytes()
    }

    const TYPES: &str = "[Content_Types].xml";

    #[test]
    fn office_documents_are_told_apart_by_the_type_of_their_main_part() {
        for (main, expected) in [
            (
                "vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml",
                DOCX,
            ),
            ("vnd.ms-word.document.macroEnabled.main+xml", DOCX),
            (
                "vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml",
                XLSX,
            ),
            ("vnd.ms-excel.sheet.macroEnabled.main+xml", XLSX),
            ("vnd.ms-excel.sheet.binary.macroEnabled.main", XLSB),
            (
                "vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml",
                PPTX,
            ),
            ("vnd.ms-powerpoint.presentation.macroEnabled.main+xml", PPTX),
        ] {
            let types = types(main);
            // Wherever the main part is, in whatever order, however the list is spelled.
            for name in [TYPES, "[content_types].xml"] {
                let package = archive(&[
                    ("main.xml", b""),
                    ("docProps\\app.xml", b""),
                    (name, &types),
                ]);
                assert_eq!(of(&package), Some(expected), "{main}");
            }
        }
        let bare = ("[Content_Types].xml", b"<Types/>".as_slice());
        assert_eq!(of(&archive(&[bare, ("xl/workbook.xml", b"")])), Some(XLSX));
        assert_eq!(
            of(&archive(&[("word/notes.txt", b"no office document")])),
            Some(ZIP)
        );
        assert_eq!(of(&archive(&[])), Some(ZIP));
        assert_eq!(of(b"no archive"), None);
    }

    #[test]
    fn open_documents_say_what_they_are_in_any_order() {
        let text = "application/vnd.oasis.opendocument.text";
        let sheet = "application/vnd.oasis.opendocument.spreadsheet";
        let first = [
            ("mimetype", text.as_bytes()),
            ("content.xml", b"".as_slice()),
        ];
        assert_eq!(of(&archive(&first)), Some(text));
        assert_eq!(of(&archive(&[("mimetype", sheet.as_bytes())])), Some(sheet));
        let last = [
            ("content.xml", b"".as_slice()),
            ("mimetype", text.as_bytes()),
        ];
        assert_eq!(of(&archive(&last)), Some(text));
        let manifest = format!(
            "<m:manifest><m:file-entry m:full-path=\"/\" m:media-type=\"{sheet}\"/><m:file-entry m:full-path=\"content.xml\" m:media-type=\"text/xml\"/></m:manifest>"
        );
        let without = [("META-INF/manifest.xml", manifest.as_bytes())];
        assert_eq!(of(&archive(&without)), Some(sheet));
        let book = [
            ("OEBPS/a.xhtml", b"".as_slice()),
            ("META-INF/container.xml", b""),
        ];
        assert_eq!(of(&archive(&book)), Some(EPUB));
    }

    #[test]
    fn a_directory_longer_than_what_is_kept_of_the_end_is_read() {
        let types = types("vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml");
        let mut entries: Vec<(String, Vec<u8>)> = vec![(TYPES.to_owned(), types)];
        entries.extend((0..6_000).map(|number| {
            (
                format!("word/media/a-picture-with-quite-a-long-name-{number:040}.png"),
                Vec::new(),
            )
        }));
        let borrowed: Vec<(&str, &[u8])> = entries
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        let bytes = archive(&borrowed);
        let directory = block_on(directory(&Source {
            content: &Content::whole_of(&bytes),
            store: None,
        }))
        .unwrap();
        assert!(directory.len() > crate::content::TAIL_BYTES);
        assert_eq!(parts(&directory).len(), 6_001);
    }

    #[test]
    fn an_archive_without_a_directory_is_what_its_name_promises() {
        let whole = archive(&[(TYPES, b"<Types/>"), ("word/document.xml", b"words")]);
        let cut = &whole[..whole.len() / 2];
        assert_eq!(of_name(cut, Some(DOCX)), Some(DOCX));
        assert_eq!(of_name(cut, Some(ZIP)), Some(ZIP));
        assert_eq!(of_name(cut, Some("text/plain")), Some(ZIP));
        assert_eq!(of_name(cut, None), Some(ZIP));
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
