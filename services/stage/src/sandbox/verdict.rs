//! From the way a child ended to the reason that people and the retry policy see.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use caudal_domain::Reason;

use super::child::EXIT_COULD_NOT_BEGIN;
use super::{Limits, Parsed, frame};
use crate::Failure;

/// The longest detail taken from a child's standard error, in bytes.
const MAX_DETAIL_BYTES: usize = 512;

/// How a child's life ended, as the parent saw it.
#[derive(Debug)]
pub(super) enum End {
    /// By itself, or by a signal that was not ours.
    Exited { status: ExitStatus, stdout: Vec<u8> },
    /// Killed by us: it wrote more than it may.
    Flooded,
    /// Killed by us: its wall clock ran out.
    OutOfTime,
    /// Killed by us: nobody wants its answer any more.
    Cancelled,
}

/// `complaint` is the end of the child's standard error, `lived` the time from its start to its end.
pub(super) fn judge(
    end: End,
    complaint: &[u8],
    limits: &Limits,
    lived: Duration,
) -> Result<Parsed, Failure> {
    let (reason, detail) = match end {
        // Nothing of the file was read yet.
        End::Exited { status, .. } if status.code() == Some(EXIT_COULD_NOT_BEGIN) => {
            return Err(Failure::of_parser_host(last_words(complaint)));
        }
        End::Exited { status, stdout } => {
            match verdict(status, &stdout, complaint, limits, lived) {
                Ok(parsed) => return Ok(parsed),
                Err(failure) => failure,
            }
        }
        End::Flooded => (
            Reason::OutputTooLarge,
            format!("the result is larger than {} bytes", limits.output),
        ),
        // It did not use up what its file is given: others had the processor, or it slept.
        End::OutOfTime => (
            Reason::StageTimeout,
            format!("parsing was not over after {} s", limits.wall.as_secs_f32()),
        ),
        End::Cancelled => (Reason::Internal, "parsing was cancelled".to_owned()),
    };
    Err(Failure::new(reason, detail))
}

fn verdict(
    status: ExitStatus,
    stdout: &[u8],
    complaint: &[u8],
    limits: &Limits,
    lived: Duration,
) -> Result<Parsed, (Reason, String)> {
    let words = last_words(complaint);
    if let Some(signal) = status.signal() {
        return Err(killed(signal, &words, limits, lived));
    }
    match status.code() {
        Some(0) => match frame::read(stdout) {
            Ok(outcome) => outcome.map_err(|failure| (failure.reason, failure.detail)),
            Err(error) => Err((Reason::ParserCrashed, format!("{error}; {words}"))),
        },
        code => Err((
            Reason::ParserCrashed,
            format!("the parser ended with code {}; {words}", code.unwrap_or(-1)),
        )),
    }
}

fn killed(signal: i32, words: &str, limits: &Limits, lived: Duration) -> (Reason, String) {
    let out_of_cpu = || {
        format!(
            "parsing used more than {} s of processor time",
            limits.cpu.as_secs_f32()
        )
    };
    match signal {
        libc::SIGXCPU => (Reason::ParserTimeout, out_of_cpu()),
        // A child that outlives SIGXCPU is killed a second later.
        libc::SIGKILL if lived > limits.cpu => (Reason::ParserTimeout, out_of_cpu()),
        libc::SIGABRT if words.contains("memory allocation") => (
            Reason::ParserOutOfMemory,
            format!(
                "parsing needed more than {} MiB; {words}",
                limits.memory >> 20
            ),
        ),
        _ => (
            Reason::ParserCrashed,
            format!("the parser was ended by signal {signal}; {words}"),
        ),
    }
}

/// The last lines of what the child said, on one line and bounded.
fn last_words(complaint: &[u8]) -> String {
    let said = String::from_utf8_lossy(complaint);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"))
        .collect();
    let mut words = lines.join(" / ");
    if words.is_empty() {
        return "it said nothing".to_owned();
    }
    let mut cut = words.len().saturating_sub(MAX_DETAIL_BYTES);
    while !words.is_char_boundary(cut) {
        cut += 1;
    }
    words.drain(..cut);
    words
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Dependency;

    fn failure(raw_status: i32, complaint: &str, lived: Duration) -> Failure {
        let end = End::Exited {
            status: ExitStatus::from_raw(raw_status),
            stdout: Vec::new(),
        };
        judge(end, complaint.as_bytes(), &Limits::default(), lived).unwrap_err()
    }

    fn reason(raw_status: i32, complaint: &str, lived: Duration) -> Reason {
        let failure = failure(raw_status, complaint, lived);
        assert_eq!(failure.waits, None, "the child had begun: {failure}");
        failure.reason
    }

    #[test]
    fn a_child_that_could_not_begin_is_no_failure_of_its_file() {
        let raw_status = EXIT_COULD_NOT_BEGIN << 8;
        let failure = failure(raw_status, "no room for a thread", Duration::ZERO);
        assert_eq!(failure.reason, Reason::Internal);
        let on = failure.waits.map(|wait| wait.on);
        assert_eq!(on, Some(Dependency::ParserHost));
    }

    #[test]
    fn the_way_it_ended_names_the_limit_that_ended_it() {
        let brief = Duration::from_secs(1);
        assert_eq!(reason(libc::SIGXCPU, "", brief), Reason::ParserTimeout);
        assert_eq!(
            reason(libc::SIGKILL, "", Duration::from_secs(40)),
            Reason::ParserTimeout
        );
        assert_eq!(reason(libc::SIGKILL, "", brief), Reason::ParserCrashed);
        assert_eq!(
            reason(libc::SIGABRT, "memory allocation of 9 bytes failed", brief),
            Reason::ParserOutOfMemory
        );
        assert_eq!(
            reason(
                libc::SIGABRT,
                "thread 'parser' has overflowed its stack",
                brief
            ),
            Reason::ParserCrashed
        );
        assert_eq!(reason(libc::SIGSEGV, "", brief), Reason::ParserCrashed);
        assert_eq!(reason(1 << 8, "", brief), Reason::ParserCrashed);
    }

    #[test]
    fn a_child_that_says_nothing_readable_and_ends_well_has_crashed() {
        assert_eq!(reason(0, "", Duration::ZERO), Reason::ParserCrashed);
    }

    #[test]
    fn last_words_are_one_bounded_line() {
        let words = last_words("é\n\n".repeat(2_000).as_bytes());
        assert!(words.len() <= MAX_DETAIL_BYTES && !words.contains('\n'));
    }
}
