//! How many pages a TIFF has: its directories, one after another.

use std::io::{BufRead, Seek, SeekFrom};

/// Directories that are followed.
const MAX_PAGES: u32 = 10_000;
/// The field that says what a directory is for, and its bit for a smaller copy of another picture.
const SUBFILE: u16 = 254;
const IS_A_COPY: u32 = 1;

/// The pages of a TIFF, without smaller copies of them. As far as they can be told: at least one.
pub(crate) fn pages(mut input: impl BufRead + Seek) -> u32 {
    let mut pages = 0;
    let mut seen = std::collections::HashSet::new();
    let _ = follow(&mut input, |at, is_page| {
        pages += u32::from(is_page);
        seen.insert(at) && pages < MAX_PAGES
    });
    pages.max(1)
}

fn follow(
    input: &mut (impl BufRead + Seek),
    mut found: impl FnMut(u64, bool) -> bool,
) -> std::io::Result<()> {
    let mut order = [0; 2];
    input.read_exact(&mut order)?;
    let mut numbers = Numbers {
        input,
        is_little: &order == b"II",
    };
    let is_big = numbers.next(2)? == 43;
    if is_big {
        numbers.next(4)?;
    }
    let mut at = numbers.next(if is_big { 8 } else { 4 })?;
    while at != 0 {
        numbers.input.seek(SeekFrom::Start(at))?;
        let fields = numbers
            .next(if is_big { 8 } else { 2 })?
            .min(u64::from(u16::MAX));
        let mut is_page = true;
        for _ in 0..fields {
            let tag = numbers.next(2)?;
            numbers.next(2)?;
            numbers.next(if is_big { 8 } else { 4 })?;
            let value = numbers.next(4)?;
            if is_big {
                numbers.next(4)?;
            }
            if tag == u64::from(SUBFILE) && value & u64::from(IS_A_COPY) != 0 {
                is_page = false;
            }
        }
        if !found(at, is_page) {
            return Ok(());
        }
        at = numbers.next(if is_big { 8 } else { 4 })?;
    }
    Ok(())
}

struct Numbers<'a, R> {
    input: &'a mut R,
    is_little: bool,
}

impl<R: BufRead> Numbers<'_, R> {
    /// A number of so many bytes, at most eight.
    fn next(&mut self, bytes: usize) -> std::io::Result<u64> {
        let mut read = [0; 8];
        let read = &mut read[..bytes];
        self.input.read_exact(read)?;
        if self.is_little {
            read.reverse();
        }
        Ok(read
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Directories of one field each, which says what they are for.
    fn tiff(subfiles: &[u32]) -> Vec<u8> {
        let mut bytes = b"MM\0*\0\0\0\x08".to_vec();
        for (index, subfile) in subfiles.iter().enumerate() {
            let next = 8 + (index as u32 + 1) * 18;
            let next = if index + 1 == subfiles.len() { 0 } else { next };
            bytes.extend_from_slice(&[0, 1, 0, 254, 0, 4, 0, 0, 0, 1]);
            bytes.extend_from_slice(&subfile.to_be_bytes());
            bytes.extend_from_slice(&next.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn pages_are_counted_without_smaller_copies_and_without_end() {
        assert_eq!(pages(Cursor::new(tiff(&[0]))), 1);
        assert_eq!(pages(Cursor::new(tiff(&[2, 2, 2]))), 3);
        assert_eq!(pages(Cursor::new(tiff(&[0, 1]))), 1);
        let mut circle = tiff(&[0, 0]);
        let end = circle.len();
        circle[end - 1] = 8;
        assert!(pages(Cursor::new(circle)) <= 4);
        let whole = tiff(&[0, 0, 0]);
        for cut in 0..whole.len() {
            assert!(pages(Cursor::new(&whole[..cut])) >= 1);
        }
    }
}
