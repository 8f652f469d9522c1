//! How a result travels from child to parent: one frame, checked to its last byte, since a child may die while it writes.
//!
//! `CDL1`, a kind byte, then for a failure its reason and detail as JSON; for a result its value as JSON, the number of
//! blobs, each blob's name and bytes; then `DONE`. Every length is a big-endian `u64` before what it counts.

use std::io::{self, Write};

use caudal_domain::Reason;
use serde::{Deserialize, Serialize};

use super::{ParseFailure, Parsed};

const BEGIN: &[u8] = b"CDL1";
const END: &[u8] = b"DONE";
const KIND_PARSED: u8 = 0;
const KIND_FAILED: u8 = 1;

#[derive(Serialize, Deserialize)]
struct FailureOnTheWire {
    reason: String,
    detail: String,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum FrameError {
    #[error("the result ends early")]
    Short,
    #[error("the result is malformed: {0}")]
    Malformed(&'static str),
}

pub(super) fn write(
    out: &mut impl Write,
    outcome: &Result<Parsed, ParseFailure>,
) -> io::Result<()> {
    out.write_all(BEGIN)?;
    match outcome {
        Ok(parsed) => {
            out.write_all(&[KIND_PARSED])?;
            write_counted(out, &serde_json::to_vec(&parsed.value)?)?;
            write_count(out, parsed.blobs.len())?;
            for (name, bytes) in &parsed.blobs {
                write_counted(out, name.as_bytes())?;
                write_counted(out, bytes)?;
            }
        }
        Err(failure) => {
            out.write_all(&[KIND_FAILED])?;
            let failure = FailureOnTheWire {
                reason: failure.reason.code().to_owned(),
                detail: failure.detail.clone(),
            };
            write_counted(out, &serde_json::to_vec(&failure)?)?;
        }
    }
    out.write_all(END)
}

fn write_count(out: &mut impl Write, count: usize) -> io::Result<()> {
    out.write_all(&(count as u64).to_be_bytes())
}

fn write_counted(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_count(out, bytes.len())?;
    out.write_all(bytes)
}

pub(super) fn read(frame: &[u8]) -> Result<Result<Parsed, ParseFailure>, FrameError> {
    let mut rest = Rest(frame);
    if rest.take(BEGIN.len())? != BEGIN {
        return Err(FrameError::Malformed("it does not begin as one"));
    }
    let outcome = match rest.take(1)?[0] {
        KIND_PARSED => Ok(read_parsed(&mut rest)?),
        KIND_FAILED => Err(read_failure(&mut rest)?),
        _ => return Err(FrameError::Malformed("unknown kind")),
    };
    if rest.take(END.len())? != END || !rest.0.is_empty() {
        return Err(FrameError::Malformed("it does not end as one"));
    }
    Ok(outcome)
}

fn read_parsed(rest: &mut Rest<'_>) -> Result<Parsed, FrameError> {
    let value =
        serde_json::from_slice(rest.counted()?).map_err(|_| FrameError::Malformed("the value"))?;
    let count = rest.count()?;
    // Not sized by the count: it is a claim, and each blob takes sixteen bytes of the frame at least.
    let mut blobs = Vec::new();
    for _ in 0..count {
        let name = std::str::from_utf8(rest.counted()?)
            .map_err(|_| FrameError::Malformed("a blob's name"))?
            .to_owned();
        blobs.push((name, rest.counted()?.to_vec()));
    }
    Ok(Parsed { value, blobs })
}

fn read_failure(rest: &mut Rest<'_>) -> Result<ParseFailure, FrameError> {
    let failure: FailureOnTheWire = serde_json::from_slice(rest.counted()?)
        .map_err(|_| FrameError::Malformed("the failure"))?;
    let reason = Reason::from_code(&failure.reason).ok_or(FrameError::Malformed("the reason"))?;
    Ok(ParseFailure {
        reason,
        detail: failure.detail,
    })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn count(&mut self) -> Result<usize, FrameError> {
        let (count, rest) = self.0.split_first_chunk::<8>().ok_or(FrameError::Short)?;
        self.0 = rest;
        usize::try_from(u64::from_be_bytes(*count)).map_err(|_| FrameError::Short)
    }

    fn counted(&mut self) -> Result<&'a [u8], FrameError> {
        let count = self.count()?;
        self.take(count)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(outcome: &Result<Parsed, ParseFailure>) -> Vec<u8> {
        let mut frame = Vec::new();
        write(&mut frame, outcome).unwrap();
        frame
    }

    fn result() -> Result<Parsed, ParseFailure> {
        Ok(Parsed {
            value: serde_json::json!({ "pages": 3 }),
            blobs: vec![
                ("text.txt".to_owned(), b"hello".to_vec()),
                ("empty".to_owned(), Vec::new()),
            ],
        })
    }

    #[test]
    fn a_result_and_a_failure_come_back_as_they_were_written() {
        assert_eq!(read(&written(&result())).unwrap(), result());
        let failure = Err(ParseFailure::new(Reason::CorruptDocument, "no trailer"));
        assert_eq!(read(&written(&failure)).unwrap(), failure);
    }

    #[test]
    fn a_frame_cut_anywhere_or_followed_by_anything_is_refused() {
        let frame = written(&result());
        for length in 0..frame.len() {
            assert!(read(&frame[..length]).is_err(), "cut to {length} bytes");
        }
        let mut longer = frame;
        longer.push(0);
        assert!(read(&longer).is_err());
    }

    #[test]
    fn a_count_that_promises_more_than_there_is_allocates_nothing() {
        let mut frame = BEGIN.to_vec();
        frame.push(KIND_PARSED);
        frame.extend_from_slice(&2u64.to_be_bytes());
        frame.extend_from_slice(b"{}");
        frame.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(read(&frame), Err(FrameError::Short));
    }
}
