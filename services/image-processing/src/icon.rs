//! Icons: a directory of pictures, each a BMP without its first header or a whole PNG. The decoder of icons takes only those PNGs
//! that have an alpha channel of eight bits; browsers and systems show any, and so they are read as what they are.

use std::io::{Read, Seek, SeekFrom};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const HEADER_BYTES: usize = 6;
const ENTRY_BYTES: usize = 16;
/// More pictures than any icon has.
const MOST_ENTRIES: u16 = 1_024;
/// A picture of an icon has 256 pixels a side at most.
const MOST_BYTES: u32 = 4 << 20;

/// The best picture of the icon, by depth and then by size, where it is a PNG.
pub(crate) fn png(input: &mut (impl Read + Seek)) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header).ok()?;
    let count = u16::from_le_bytes([header[4], header[5]]).min(MOST_ENTRIES);
    let mut best = None;
    for _ in 0..count {
        let mut entry = [0; ENTRY_BYTES];
        input.read_exact(&mut entry).ok()?;
        // A side of 0 is one of 256.
        let side = |byte: u8| u32::from(byte.wrapping_sub(1)) + 1;
        let depth = u16::from_le_bytes([entry[6], entry[7]]);
        let score = (depth, side(entry[0]) * side(entry[1]));
        let number = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        let place = (number(8), number(12));
        if best.is_none_or(|(known, _)| score > known) {
            best = Some((score, place));
        }
    }
    let (_, (length, offset)) = best?;
    input.seek(SeekFrom::Start(offset.into())).ok()?;
    let mut bytes = Vec::new();
    let bound = u64::from(length.min(MOST_BYTES));
    input.take(bound).read_to_end(&mut bytes).ok()?;
    bytes.starts_with(SIGNATURE).then_some(bytes)
}
