//! Whether a JPEG has all its data. The decoder fills what is missing with grey and calls it a picture.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use caudal_domain::Reason;
use caudal_stage::sandbox::ParseFailure;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

const MARKER: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
/// What rows are filled with before they are decoded.
const GREY: u8 = 128;
/// Frames of pictures that come in several passes.
const PROGRESSIVE: [u8; 4] = [0xc2, 0xc6, 0xca, 0xce];
/// More than a decoder reads ahead of what it needs.
const READ_AHEAD_BYTES: usize = 16;
/// So many zeros in a row are nothing that a scan writes: a disk or a network did.
const HOLE_BYTES: usize = 64;

/// What the scans of a JPEG look like from outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Whether the end of the image is marked somewhere behind its first scan. What follows it, such as the film of a
    /// moving photograph, does not matter.
    pub(crate) is_closed: bool,
    /// Whether a part of it was written over with zeros.
    pub(crate) has_hole: bool,
}

/// Looks at the scans without decoding them.
///
/// # Errors
///
/// When the input cannot be read.
pub(crate) fn scan(mut input: impl BufRead) -> io::Result<Scan> {
    let mut scan = Scan::default();
    match look(&mut input, &mut scan) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(scan),
    }
}

fn look(input: &mut impl BufRead, scan: &mut Scan) -> io::Result<()> {
    // Segments are stepped over by their length: the thumbnail that a camera leaves in one has an end of its own.
    loop {
        while byte(input)? != MARKER {}
        let mut kind = MARKER;
        while kind == MARKER {
            kind = byte(input)?;
        }
        match kind {
            START_OF_SCAN => break,
            END_OF_IMAGE => {
                scan.is_closed = true;
                return Ok(());
            }
            // The start, restarts, stuffing and a reserved one have no length.
            0 | 1 | 0xd0..=START_OF_IMAGE => {}
            _ => {
                let length = u64::from(u16::from_be_bytes([byte(input)?, byte(input)?]));
                let rest = length.saturating_sub(2);
                if io::copy(&mut Read::take(&mut *input, rest), &mut io::sink())? < rest {
                    return Ok(());
                }
            }
        }
    }
    let mut previous = 0;
    let mut zeros = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        for current in buffer {
            if previous == MARKER && *current == END_OF_IMAGE {
                scan.is_closed = true;
                return Ok(());
            }
            zeros = if *current == 0 { zeros + 1 } else { 0 };
            scan.has_hole |= zeros >= HOLE_BYTES;
            previous = *current;
        }
        let read = buffer.len();
        input.consume(read);
    }
}

fn byte(input: &mut impl BufRead) -> io::Result<u8> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// What is known of the scans without decoding them.
struct Scans {
    are_progressive: bool,
    /// Where the end marker behind the first scan is.
    end: Option<usize>,
}

impl Scans {
    /// None where there is no scan.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut at = 2;
        let mut are_progressive = false;
        loop {
            let [MARKER, kind, high, low] = *bytes.get(at..at + 4)? else {
                at += 1;
                continue;
            };
            match kind {
                START_OF_SCAN => break,
                0xff => at += 1,
                0 | 1 | 0xd0..=END_OF_IMAGE => at += 2,
                _ => {
                    are_progressive |= PROGRESSIVE.contains(&kind);
                    at += 2 + usize::from(u16::from_be_bytes([high, low]));
                }
            }
        }
        let end = [MARKER, END_OF_IMAGE];
        let found = bytes[at..].windows(2).position(|pair| pair == end);
        Some(Self {
            are_progressive,
            end: found.map(|found| at + found),
        })
    }
}

/// The share of rows that a decoder does not come to which overlooks nothing; none where it finds all of its data.
pub(crate) fn missing_rows(
    input: &mut (impl Read + io::Seek),
) -> Result<Option<f64>, ParseFailure> {
    let failed = |error: io::Error| ParseFailure::new(Reason::Internal, error.to_string());
    input.rewind().map_err(failed)?;
    let mut bytes = Vec::new();
    BufReader::new(input)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    // Behind an end marker the decoder reads zeros for as long as it likes; behind the end of the bytes it complains. What
    // it reads ahead of the last row is no sign of anything.
    let Some(scans) = Scans::of(&bytes) else {
        return Ok(None);
    };
    // Of one that comes in several passes over the whole picture nothing is missing that could be counted in rows.
    if scans.are_progressive {
        return Ok(None);
    }
    if let Some(end) = scans.end {
        bytes.truncate(end);
    }
    bytes.extend_from_slice(&[0; READ_AHEAD_BYTES]);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&bytes), options);
    if decoder.decode_headers().is_err() {
        return Ok(None);
    }
    let (Some(size), Some((_, height))) = (decoder.output_buffer_size(), decoder.dimensions())
    else {
        return Ok(None);
    };
    let mut rows = vec![GREY; size];
    if decoder.decode_into(&mut rows).is_ok() {
        return Ok(None);
    }
    let row_bytes = (size / height.max(1)).max(1);
    let untouched = rows
        .rchunks_exact(row_bytes)
        .take_while(|row| row.iter().all(|byte| *byte == GREY))
        .count();
    Ok(Some(untouched as f64 / height.max(1) as f64))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WITH_A_THUMBNAIL: &[u8] =
        b"\xff\xd8\xff\xe1\x00\x08\xff\xd8\xff\xd9AB\xff\xda\x00\x04\x00\x00data\xff\x00more\xff\xd9film";

    #[test]
    fn the_end_counts_behind_the_scan_only() {
        let whole = Scan {
            is_closed: true,
            has_hole: false,
        };
        assert_eq!(scan(WITH_A_THUMBNAIL).unwrap(), whole);
        let end = WITH_A_THUMBNAIL.len() - b"\xd9film".len();
        for length in 0..end {
            let cut = scan(&WITH_A_THUMBNAIL[..length]).unwrap();
            assert!(!cut.is_closed, "cut to {length}");
        }
    }

    #[test]
    fn zeros_in_a_scan_are_a_hole_in_it() {
        let begin = b"\xff\xd8\xff\xda\x00\x04\x00\x00data".as_slice();
        let bytes = [begin, &[0; HOLE_BYTES], b"\xff\xd9"].concat();
        assert!(scan(bytes.as_slice()).unwrap().has_hole);
        let bytes = [begin, &[0; HOLE_BYTES - 1], b"\xff\xd9"].concat();
        assert!(!scan(bytes.as_slice()).unwrap().has_hole);
    }
}
