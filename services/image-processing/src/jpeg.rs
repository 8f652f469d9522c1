//! Whether a JPEG has all its data. The decoder fills what is missing with grey and calls it a picture.

use std::io::{self, BufRead, ErrorKind};

const MARKER: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Whether the end of the image is marked somewhere behind its first scan. What follows it, such as the film of a moving
/// photograph, does not matter.
///
/// # Errors
///
/// When the input cannot be read.
pub(crate) fn is_whole(mut input: impl BufRead) -> io::Result<bool> {
    match scan_is_closed(&mut input) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        known => known,
    }
}

fn scan_is_closed(input: &mut impl BufRead) -> io::Result<bool> {
    // Segments are stepped over by their length: the thumbnail that a camera leaves in one has an end of its own.
    loop {
        while byte(input)? != MARKER {}
        let mut kind = MARKER;
        while kind == MARKER {
            kind = byte(input)?;
        }
        match kind {
            START_OF_SCAN => break,
            END_OF_IMAGE => return Ok(true),
            // The start, restarts, stuffing and a reserved one have no length.
            0 | 1 | 0xd0..=START_OF_IMAGE => {}
            _ => {
                let length = u64::from(u16::from_be_bytes([byte(input)?, byte(input)?]));
                let rest = length.saturating_sub(2);
                if io::copy(&mut io::Read::take(&mut *input, rest), &mut io::sink())? < rest {
                    return Ok(false);
                }
            }
        }
    }
    let mut previous = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        for current in buffer {
            if previous == MARKER && *current == END_OF_IMAGE {
                return Ok(true);
            }
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

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WITH_A_THUMBNAIL: &[u8] =
        b"\xff\xd8\xff\xe1\x00\x08\xff\xd8\xff\xd9AB\xff\xda\x00\x04\x00\x00data\xff\x00more\xff\xd9film";

    #[test]
    fn the_end_counts_behind_the_scan_only() {
        assert!(is_whole(WITH_A_THUMBNAIL).unwrap());
        let end = WITH_A_THUMBNAIL.len() - b"\xd9film".len();
        for length in 0..end {
            assert!(
                !is_whole(&WITH_A_THUMBNAIL[..length]).unwrap(),
                "cut to {length}"
            );
        }
    }
}
