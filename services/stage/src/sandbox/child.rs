//! The child's side: what it is asked, and how it answers.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use caudal_domain::Reason;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::{CHILD_ARGUMENT, Limits, ParseFailure, Parsed, Parser, Preparation, confine, frame};

/// The exit code of a child that could not begin: a mistake of ours or of this machine, never of the file.
pub(super) const EXIT_COULD_NOT_BEGIN: i32 = 64;

/// The stack of the thread that parses, in bytes: room for honest nesting. It comes on top of the memory limit.
const PARSER_STACK_BYTES: usize = 64 << 20;

/// What the parent tells the child in one argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The process id of the parent, to notice that it died before the death signal was set.
    pub(super) parent: u32,
    pub(super) limits: Limits,
    pub(super) request: serde_json::Value,
}

/// Serves a sandbox child and ends the process, when the arguments ask for one; otherwise returns at once. The first line
/// of `main`: a child must not start threads, read configuration or open anything before it has confined itself.
pub fn run_child_if_asked(parsers: &[(&str, Parser)]) {
    run_prepared_child_if_asked(parsers, &[]);
}

/// As [`run_child_if_asked`], for parsers of which some are prepared, by their name.
pub fn run_prepared_child_if_asked(
    parsers: &[(&str, Parser)],
    preparations: &[(&str, Preparation)],
) {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(CHILD_ARGUMENT)) {
        return;
    }
    match serve(parsers, preparations, arguments) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("sandbox child: {error}");
            std::process::exit(EXIT_COULD_NOT_BEGIN);
        }
    }
}

fn serve(
    parsers: &[(&str, Parser)],
    preparations: &[(&str, Preparation)],
    mut arguments: impl Iterator<Item = OsString>,
) -> io::Result<()> {
    let name = arguments
        .next()
        .ok_or_else(|| io::Error::other("no parser named"))?;
    let spec = arguments
        .next()
        .ok_or_else(|| io::Error::other("no request"))?;
    let spec: Spec = serde_json::from_slice(spec.as_encoded_bytes())?;
    let parser = parsers
        .iter()
        .find(|(known, _)| name == *known)
        .map(|(_, parser)| *parser)
        .ok_or_else(|| io::Error::other(format!("unknown parser {}", name.display())))?;

    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(spec.parent) {
        return Err(io::Error::other("the parent has ended"));
    }

    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let result = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Libraries that print must not write into the framed result.
    rustix::stdio::dup2_stdout(io::stderr())?;
    if let Some((_, prepare)) = preparations.iter().find(|(known, _)| name == *known) {
        prepare(&spec.request)?;
    }
    confine::confine(&spec.limits, PARSER_STACK_BYTES as u64)?;

    let outcome = parse(parser, spec.request, input)?;
    let mut result = BufWriter::new(result);
    frame::write(&mut result, &outcome)?;
    result.flush()
}

fn parse(
    parser: Parser,
    request: serde_json::Value,
    mut input: File,
) -> io::Result<Result<Parsed, ParseFailure>> {
    let outcome = std::thread::Builder::new()
        .name("parser".to_owned())
        .stack_size(PARSER_STACK_BYTES)
        .spawn(move || parser(&request, &mut input))?
        .join();
    Ok(outcome.unwrap_or_else(|panic| {
        Err(ParseFailure::new(
            Reason::ParserCrashed,
            format!("the parser panicked: {}", panic_words(panic.as_ref())),
        ))
    }))
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    if let Some(words) = panic.downcast_ref::<&str>() {
        return words;
    }
    panic
        .downcast_ref::<String>()
        .map_or("without words", String::as_str)
}
