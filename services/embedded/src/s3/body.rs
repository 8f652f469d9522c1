//! The bytes of an object that was opened: they are there to their end, whatever happens to its key meanwhile.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use s3s::S3Result;
use s3s::dto::StreamingBlob;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::failure::{from_io, lost};
use super::files::Pinned;
use super::joined::Part;

/// How much of an object is read at a time.
const READ_BYTES: usize = 128 * 1024;

/// The bytes of an opened object.
#[derive(Debug)]
pub(super) enum Body {
    Memory(Bytes),
    /// The first of a file's bytes, as many as the object is long.
    File(File),
    /// One part after the other. Their files are opened when their turn comes.
    Parts {
        parts: Vec<Part>,
        pinned: Pinned,
    },
}

impl Body {
    /// A range of the bytes, as a stream.
    pub(super) async fn stream(self, range: Range<u64>) -> S3Result<StreamingBlob> {
        match self {
            Body::Memory(bytes) => Ok(s3s::Body::from(slice(&bytes, &range)?).into()),
            Body::File(file) => {
                let stream = of_file(file, range).await.map_err(from_io)?;
                Ok(StreamingBlob::wrap(stream))
            }
            Body::Parts { parts, pinned } => {
                let pieces = stream::iter(ranges(parts, range)).then(move |(part, range)| {
                    let found = match part {
                        Part::Here(bytes) => Ok(Found::Bytes(bytes)),
                        Part::File { number, .. } => pinned.open(number).map(Found::File),
                    };
                    async move {
                        match found? {
                            Found::Bytes(bytes) => {
                                let bytes = slice(&bytes, &range).map_err(io::Error::other);
                                Ok::<_, io::Error>(stream::iter([bytes]).left_stream())
                            }
                            Found::File(file) => Ok(of_file(file, range).await?.right_stream()),
                        }
                    }
                });
                Ok(StreamingBlob::wrap(pieces.try_flatten()))
            }
        }
    }

    /// Gives a range of the bytes to `taken`, piece after piece. Blocks.
    pub(super) fn read(
        &self,
        range: Range<u64>,
        mut taken: impl FnMut(&[u8]) -> S3Result<()>,
    ) -> S3Result<()> {
        match self {
            Body::Memory(bytes) => taken(&slice(bytes, &range)?),
            Body::File(file) => read_file(file, range, &mut taken),
            Body::Parts { parts, pinned } => {
                for (part, range) in ranges(parts.clone(), range) {
                    match part {
                        Part::Here(bytes) => taken(&slice(&bytes, &range)?)?,
                        Part::File { number, .. } => {
                            let file = pinned.open(number).map_err(from_io)?;
                            read_file(&file, range, &mut taken)?;
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

/// A part whose turn has come.
enum Found {
    Bytes(Bytes),
    File(File),
}

/// The parts that a range touches, each with its share of the range.
fn ranges(parts: Vec<Part>, range: Range<u64>) -> Vec<(Part, Range<u64>)> {
    let mut begins = 0;
    let mut touched = Vec::new();
    for part in parts {
        let ends = begins + part.size();
        let (from, to) = (range.start.max(begins), range.end.min(ends));
        if from < to {
            touched.push((part, from - begins..to - begins));
        }
        begins = ends;
    }
    touched
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> S3Result<Bytes> {
    let ends = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .filter(|(start, end)| start <= end && *end <= bytes.len());
    let (start, end) = ends.ok_or_else(|| lost("a range of an object"))?;
    Ok(bytes.slice(start..end))
}

async fn of_file(
    file: File,
    range: Range<u64>,
) -> io::Result<ReaderStream<tokio::io::Take<tokio::fs::File>>> {
    let mut file = tokio::fs::File::from_std(file);
    // One read of the file fills one piece.
    file.set_max_buf_size(READ_BYTES);
    if range.start > 0 {
        file.seek(SeekFrom::Start(range.start)).await?;
    }
    let length = range.end - range.start;
    let piece = usize::try_from(length).map_or(READ_BYTES, |length| length.clamp(1, READ_BYTES));
    Ok(ReaderStream::with_capacity(file.take(length), piece))
}

fn read_file(
    file: &File,
    range: Range<u64>,
    taken: &mut impl FnMut(&[u8]) -> S3Result<()>,
) -> S3Result<()> {
    let mut reader = file.try_clone().map_err(from_io)?;
    reader.seek(SeekFrom::Start(range.start)).map_err(from_io)?;
    let mut left = range.end - range.start;
    let mut buffer = vec![0_u8; READ_BYTES];
    while left > 0 {
        let most = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let read = reader.read(&mut buffer[..most]).map_err(from_io)?;
        if read == 0 {
            return Err(from_io(io::ErrorKind::UnexpectedEof.into()));
        }
        taken(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_the_parts_that_have_bytes_of_it() {
        let file = |number| Part::File { number, size: 10 };
        let parts = vec![file(1), file(2), Part::Here(Bytes::from_static(b"end"))];
        let of = |range| ranges(parts.clone(), range);
        assert_eq!(of(0..23).len(), 3);
        assert_eq!(of(10..20), [(file(2), 0..10)]);
        assert_eq!(of(9..11), [(file(1), 9..10), (file(2), 0..1)]);
        assert_eq!(of(21..22)[0].1, 1..2);
        assert!(of(5..5).is_empty());
    }
}
