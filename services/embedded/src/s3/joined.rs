//! Objects that were sent in parts: a list of the parts' bytes in their order. Nothing is copied to make them one.

use bytes::{Buf as _, Bytes};
use s3s::{S3Result, s3_error};

/// Where the bytes of a part are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// In the list itself: a last part may be small.
    Here(Bytes),
    /// In the file of that number, the first so many of its bytes.
    File { number: u64, size: u64 },
}

impl Part {
    pub(super) fn size(&self) -> u64 {
        match self {
            Part::Here(bytes) => bytes.len() as u64,
            Part::File { size, .. } => *size,
        }
    }
}

/// The list, as it is kept.
pub(super) fn encoded(parts: &[Part]) -> Vec<u8> {
    let mut text = Vec::new();
    for part in parts {
        let (number, here) = match part {
            Part::Here(bytes) => (0, bytes.as_ref()),
            Part::File { number, .. } => (*number, &[][..]),
        };
        text.extend_from_slice(&number.to_be_bytes());
        text.extend_from_slice(&part.size().to_be_bytes());
        text.extend_from_slice(here);
    }
    text
}

/// Read from what is kept.
pub(super) fn decoded(text: &Bytes) -> S3Result<Vec<Part>> {
    let mut rest = text.clone();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let part = first(&mut rest).ok_or_else(|| {
            tracing::error!("the object store's index has a list of parts that cannot be read");
            s3_error!(InternalError, "a list of the object store is damaged")
        })?;
        parts.push(part);
    }
    Ok(parts)
}

fn first(rest: &mut Bytes) -> Option<Part> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    let (size, _) = after.split_first_chunk::<8>()?;
    let (number, size) = (u64::from_be_bytes(*number), u64::from_be_bytes(*size));
    rest.advance(16);
    // Files are numbered from 1 on.
    if number != 0 {
        return Some(Part::File { number, size });
    }
    let size = usize::try_from(size).ok()?;
    (size <= rest.len()).then(|| Part::Here(rest.split_to(size)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_a_cut_one_is_not_read() {
        let file = |number| Part::File {
            number,
            size: u64::MAX / 2,
        };
        let parts = vec![
            file(1),
            file(u64::MAX),
            Part::Here(Bytes::from_static(b"end")),
        ];
        let text = Bytes::from(encoded(&parts));
        assert_eq!(decoded(&text).unwrap(), parts);
        for cut in [1, 15, 17, text.len() - 1] {
            assert!(decoded(&text.slice(..cut)).is_err(), "{cut}");
        }
    }
}
