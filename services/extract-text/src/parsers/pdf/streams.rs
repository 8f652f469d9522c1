//! Whether the contents of pages unpack to their end. They are looked for in the bytes and not through the directory, so that
//! it does not matter which reader reads them.

use flate2::{Decompress, FlushDecompress, Status};
use memchr::memmem;

/// How much is unpacked in all, in bytes: the contents of thousands of pages.
const MAX_UNPACKED_BYTES: u64 = 64 << 20;
/// How far before a stream its dictionary is looked for.
const DICTIONARY_BYTES: usize = 2 << 10;
/// What the dictionaries of other streams have: pictures, fonts, colours, tables.
const NO_CONTENT: [&[u8]; 12] = [
    b"/Type",
    b"/Subtype",
    b"/Length1",
    b"/Length2",
    b"/FunctionType",
    b"/ShadingType",
    b"/DecodeParms",
    b"/N ",
    b"/Alternate",
    b"ASCII",
    b"LZW",
    b"RunLength",
];

/// Whether the data of a content is damaged: whatever stands behind the damage is lost. Of a locked file nothing is said.
pub(super) fn are_damaged(bytes: &[u8]) -> bool {
    if memmem::find(bytes, b"/Encrypt").is_some() {
        return false;
    }
    let mut left = MAX_UNPACKED_BYTES;
    let mut unpacked = vec![0; 64 << 10];
    contents(bytes).any(|content| is_damaged(content, &mut unpacked, &mut left))
}

/// The packed contents of a file.
fn contents(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    memmem::find_iter(bytes, b"stream").filter_map(|at| {
        let before = &bytes[at.saturating_sub(DICTIONARY_BYTES)..at];
        let dictionary = &before[memmem::rfind(before, b" obj")?..];
        let is_packed = dictionary.trim_ascii_end().ends_with(b">>")
            && memmem::find(dictionary, b"/FlateDecode").is_some();
        let is_content = |other: &&[u8]| memmem::find(dictionary, other).is_none();
        if !is_packed || !NO_CONTENT.iter().all(is_content) {
            return None;
        }
        let rest = &bytes[at + b"stream".len()..];
        let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
        let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        Some(&rest[..memmem::find(rest, b"endstream")?])
    })
}

fn is_damaged(content: &[u8], unpacked: &mut [u8], left: &mut u64) -> bool {
    let mut inflater = Decompress::new(true);
    loop {
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let rest = usize::try_from(read)
            .ok()
            .and_then(|read| content.get(read..))
            .unwrap_or_default();
        match inflater.decompress(rest, unpacked, FlushDecompress::None) {
            // A checksum that is wrong, or a length that is some bytes short, costs no word.
            Ok(Status::StreamEnd) | Err(_) if inflater.total_in() + 8 >= content.len() as u64 => {
                return false;
            }
            Err(_) => return true,
            Ok(_) => {}
        }
        let made = inflater.total_out() - written;
        *left = left.saturating_sub(made);
        let is_over = made == 0 && inflater.total_in() == read;
        if is_over || *left == 0 {
            return false;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(dictionary: &str, content: &[u8]) -> Vec<u8> {
        let begin = format!(
            "%PDF-1.7\n5 0 obj\n<< {dictionary} /Length {} >>\nstream\n",
            content.len()
        );
        [begin.as_bytes(), content, b"\nendstream\nendobj\n"].concat()
    }

    #[test]
    fn a_content_that_does_not_unpack_to_its_end_is_damaged() {
        let mut state = 7_u32;
        let words: String = (0..2_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                format!("({state:x}) Tj ")
            })
            .collect();
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(words.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let flate = "/Filter /FlateDecode";
        assert!(!are_damaged(&file(flate, &packed)));
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 60]
            .copy_from_slice(&std::array::from_fn::<u8, 60, _>(|byte| byte as u8));
        assert!(are_damaged(&file(flate, &damaged)));
        // Whose words are those of nobody.
        assert!(!are_damaged(&file(
            "/Filter /FlateDecode /Subtype /Image",
            &damaged
        )));
        assert!(!are_damaged(&file("/Filter /DCTDecode", &damaged)));
        let locked = [
            file(flate, &damaged),
            b"trailer << /Encrypt 9 0 R >>".to_vec(),
        ]
        .concat();
        assert!(!are_damaged(&locked));
        // The last bytes are a checksum.
        let mut summed = packed.clone();
        let last = summed.len() - 1;
        summed[last] ^= 0xff;
        assert!(!are_damaged(&file(flate, &summed)));
        for cut in (0..file(flate, &packed).len()).step_by(97) {
            let _ = are_damaged(&file(flate, &packed)[..cut]);
        }
    }
}
