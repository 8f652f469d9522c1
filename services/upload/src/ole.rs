//! The container of the old office formats: what is in it is told by the names of its streams.

use std::collections::HashSet;

use caudal_domain::media_type::{DOC, LOCKED_OFFICE, MSG, OLE, PPT, XLS};
use caudal_objects::ObjectError;

use crate::source::Source;

const SIGNATURE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";
/// Sectors of the directory that are read: some two thousand streams.
const MAX_DIRECTORY_SECTORS: usize = 512;
/// Sectors of the table of tables that are followed: enough for files of gigabytes.
const MAX_TABLE_SECTORS: usize = 512;
const ENTRY_BYTES: usize = 128;
/// How many sectors of the table of sectors stand in the header.
const TABLES_IN_HEADER: usize = 109;
/// No sector, and the end of a chain, and all that is no sector's number.
const LAST_SECTOR: u32 = 0xffff_fff9;
const NO_ENTRY: u32 = 0xffff_ffff;

/// The streams that tell, the most telling first: a workbook may hold a document, and a lock hides what it locks.
const TOLD_BY: [(&str, &str); 10] = [
    ("encryptedpackage", LOCKED_OFFICE),
    ("encryptioninfo", LOCKED_OFFICE),
    ("worddocument", DOC),
    ("workbook", XLS),
    ("book", XLS),
    ("powerpoint document", PPT),
    ("pp97_dualstorage", PPT),
    ("__properties_version1.0", MSG),
    ("__nameid_version1.0", MSG),
    ("visiodocument", "application/vnd.visio"),
];

/// The type of such a container; none when it is none.
pub(crate) async fn media_type(source: &Source<'_>) -> Result<Option<&'static str>, ObjectError> {
    let head = source.content.head.as_slice();
    if !head.starts_with(SIGNATURE) {
        return Ok(None);
    }
    let names = names(source).await?;
    let told = TOLD_BY
        .iter()
        .find(|(stream, _)| names.iter().any(|name| name == stream));
    Ok(Some(told.map_or(OLE, |(_, media_type)| media_type)))
}

struct Entry {
    name: String,
    left: u32,
    right: u32,
    child: u32,
}

/// The names at the top of the container, lower case; all of them where its tree is damaged.
async fn names(source: &Source<'_>) -> Result<Vec<String>, ObjectError> {
    let entries = directory(source).await?;
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    let mut open = vec![entries.first().map_or(NO_ENTRY, |root| root.child)];
    while let Some(at) = open.pop() {
        let index = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(entry) = entries.get(index).filter(|_| seen.insert(at)) else {
            continue;
        };
        names.push(entry.name.clone());
        open.extend([entry.left, entry.right]);
    }
    if names.is_empty() {
        names = entries.into_iter().map(|entry| entry.name).collect();
    }
    Ok(names)
}

async fn directory(source: &Source<'_>) -> Result<Vec<Entry>, ObjectError> {
    let head = source.content.head.as_slice();
    let mut entries = Vec::new();
    let shift = number16(head, 30).unwrap_or(0);
    let (Some(first), 7..=16) = (number32(head, 48), shift) else {
        return Ok(entries);
    };
    let sector_bytes = 1_usize << shift;
    let place = |sector: u32| (u64::from(sector) + 1) << shift;
    let tables = tables(source, sector_bytes).await?;
    let mut sector = first;
    let mut seen = HashSet::new();
    while sector < LAST_SECTOR && seen.len() < MAX_DIRECTORY_SECTORS && seen.insert(sector) {
        let bytes = source.read_at(place(sector), sector_bytes).await?;
        entries.extend(bytes.chunks_exact(ENTRY_BYTES).map(entry));
        let numbers_a_table = sector_bytes / 4;
        let index = usize::try_from(sector).unwrap_or(usize::MAX);
        let Some(table) = tables.get(index / numbers_a_table) else {
            break;
        };
        let at = place(*table) + (index % numbers_a_table * 4) as u64;
        let next = source.read_at(at, 4).await?;
        sector = number32(&next, 0).unwrap_or(NO_ENTRY);
    }
    Ok(entries)
}

/// The sectors that hold the table of sectors, in its order.
async fn tables(source: &Source<'_>, sector_bytes: usize) -> Result<Vec<u32>, ObjectError> {
    let head = source.content.head.as_slice();
    let mut tables: Vec<u32> = (0..TABLES_IN_HEADER)
        .map_while(|index| number32(head, 76 + index * 4))
        .take_while(|sector| *sector < LAST_SECTOR)
        .collect();
    let mut sector = number32(head, 68).unwrap_or(NO_ENTRY);
    let mut seen = HashSet::new();
    while sector < LAST_SECTOR && seen.len() < MAX_TABLE_SECTORS && seen.insert(sector) {
        let at = (u64::from(sector) + 1) * sector_bytes as u64;
        let bytes = source.read_at(at, sector_bytes).await?;
        let count = sector_bytes / 4 - 1;
        let listed = (0..count).map_while(|index| number32(&bytes, index * 4));
        tables.extend(listed.take_while(|sector| *sector < LAST_SECTOR));
        sector = number32(&bytes, count * 4).unwrap_or(NO_ENTRY);
    }
    Ok(tables)
}

fn entry(bytes: &[u8]) -> Entry {
    let length = usize::from(number16(bytes, 64).unwrap_or(0));
    let units = bytes[..length.saturating_sub(2).min(64)]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let name: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    let number = |at| number32(bytes, at).unwrap_or(NO_ENTRY);
    Entry {
        name: name.to_lowercase(),
        left: number(68),
        right: number(72),
        child: number(76),
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Cursor, Write};

    use futures::executor::block_on;

    use super::*;
    use crate::content::Content;

    /// A container with these streams.
    fn container(streams: &[&str]) -> Vec<u8> {
        let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
        for stream in streams {
            if let Some((storage, _)) = stream.rsplit_once('/') {
                file.create_storage_all(storage).unwrap();
            }
            let mut stream = file.create_stream(stream).unwrap();
            stream.write_all(&[7; 5_000]).unwrap();
        }
        file.flush().unwrap();
        file.into_inner().into_inner()
    }

    fn of(bytes: &[u8]) -> Option<&'static str> {
        let content = Content::of(bytes);
        let source = Source {
            content: &content,
            store: None,
        };
        block_on(media_type(&source)).unwrap()
    }

    #[test]
    fn the_streams_at_the_top_tell_what_a_container_is() {
        for (streams, expected) in [
            (&["WordDocument", "1Table"][..], DOC),
            (&["Workbook"], XLS),
            (&["Book", "Ctls"], XLS),
            (&["PowerPoint Document", "Pictures"], PPT),
            (&["EncryptionInfo", "EncryptedPackage"], LOCKED_OFFICE),
            (&["__properties_version1.0", "__substg1.0_0037001F"], MSG),
            (&["Contents"], OLE),
            (&["ObjectPool/_1/WordDocument", "Workbook"], XLS),
            (&["ObjectPool/_1/Workbook", "Contents"], OLE),
        ] {
            assert_eq!(of(&container(streams)), Some(expected), "{streams:?}");
        }
        assert_eq!(of(b"no container"), None);
    }

    #[test]
    fn every_cut_and_flipped_container_is_looked_at_without_a_panic() {
        let bytes = container(&["WordDocument", "a", "b", "c", "d"]);
        for cut in (0..bytes.len()).step_by(7) {
            let _ = of(&bytes[..cut]);
        }
        for at in (0..512).chain(bytes.len() - 1_024..bytes.len()) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = of(&flipped);
        }
    }
}
