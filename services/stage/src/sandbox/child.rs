//! The child's side: what it is asked, and how it answers. It is either this executable started anew, or forked by a
//! [`host`](super::host) that has started already; what it gives up and what it does are the same.

use std::any::Any;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use caudal_domain::Reason;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::confine::{Inherited, confine};
use super::{Limits, ParseFailure, Parsed, Parser, Preparation, frame};

/// The exit code of a child that could not begin: a mistake of ours or of this machine, never of the file.
pub(super) const EXIT_COULD_NOT_BEGIN: i32 = 64;

/// The exit code of a forked child that panicked outside of its parser, as a process ends that panics.
const EXIT_PANICKED: i32 = 101;

/// The stack of the thread that parses, in bytes: room for honest nesting. It comes on top of the memory limit.
const PARSER_STACK_BYTES: usize = 64 << 20;

/// What the parent tells the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) limits: Limits,
    pub(super) request: serde_json::Value,
}

/// What a child is asked that reads no file: which walls stand around it.
pub(super) const WALLS: &str = "walls";

#[derive(Clone, Copy)]
enum Asked {
    Parser(Parser),
    Walls,
}

/// What a child can do, by name.
#[derive(Clone, Copy)]
pub(super) struct Abilities<'a> {
    pub(super) parsers: &'a [(&'a str, Parser)],
    pub(super) preparations: &'a [(&'a str, Preparation)],
}

impl Abilities<'_> {
    pub(super) fn prepare(&self, parser: &str, request: &serde_json::Value) -> io::Result<()> {
        let mut preparations = self.preparations.iter();
        match preparations.find(|(known, _)| parser == *known) {
            Some((_, prepare)) => prepare(request),
            None => Ok(()),
        }
    }

    fn parser(&self, name: &str) -> io::Result<Asked> {
        if name == WALLS {
            return Ok(Asked::Walls);
        }
        self.parsers
            .iter()
            .find(|(known, _)| name == *known)
            .map(|(_, parser)| Asked::Parser(*parser))
            .ok_or_else(|| io::Error::other(format!("unknown parser {name}")))
    }
}

/// Serves a child that was started for its file, with what stands behind the argument that says so.
pub(super) fn serve(
    abilities: &Abilities<'_>,
    mut arguments: impl Iterator<Item = OsString>,
) -> io::Result<()> {
    die_with_parent(arguments.next().as_deref())?;
    let parser = arguments
        .next()
        .ok_or_else(|| io::Error::other("no parser named"))?;
    let parser = parser.to_string_lossy();
    let spec = arguments
        .next()
        .ok_or_else(|| io::Error::other("no request"))?;
    let spec: Spec = serde_json::from_slice(spec.as_encoded_bytes())?;
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let result = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    show_as(&parser);
    // Libraries that print must not write into the framed result.
    rustix::stdio::dup2_stdout(io::stderr())?;
    abilities.prepare(&parser, &spec.request)?;
    let parser = abilities.parser(&parser)?;
    answer(parser, spec, Inherited::Nothing, input, result)
}

/// What a forked child gets beside its request.
pub(super) struct Descriptors {
    /// The file, open.
    pub(super) input: OwnedFd,
    /// Where the framed result goes.
    pub(super) result: OwnedFd,
    /// Its standard error.
    pub(super) complaint: OwnedFd,
}

/// What becomes of a process that was just forked by the host with this process id. `prepared` is what came of the host's
/// preparation.
pub(super) fn run_forked(
    abilities: &Abilities<'_>,
    host: u32,
    parser: &str,
    spec: Spec,
    prepared: io::Result<()>,
    descriptors: Descriptors,
) -> ! {
    // It must never unwind into the loop of the host, which it is a copy of.
    let served = catch_unwind(AssertUnwindSafe(|| {
        die_with(host)?;
        show_as(parser);
        let Descriptors {
            input,
            result,
            complaint,
        } = descriptors;
        rustix::stdio::dup2_stderr(&complaint)?;
        rustix::stdio::dup2_stdout(&complaint)?;
        drop(complaint);
        // The control socket of the host was there.
        rustix::stdio::dup2_stdin(&input)?;
        prepared?;
        let parser = abilities.parser(parser)?;
        let (input, result) = (File::from(input), File::from(result));
        answer(parser, spec, Inherited::OfHost, input, result)
    }));
    match served {
        Ok(served) => end(served),
        Err(_) => std::process::exit(EXIT_PANICKED),
    }
}

/// Ends the process as one that has done what it was for, or could not begin.
pub(super) fn end(served: io::Result<()>) -> ! {
    match served {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("sandbox child: {error}");
            std::process::exit(EXIT_COULD_NOT_BEGIN);
        }
    }
}

/// Ends this process when the parent ends that its arguments name.
pub(super) fn die_with_parent(parent: Option<&OsStr>) -> io::Result<()> {
    let parent = parent
        .and_then(OsStr::to_str)
        .and_then(|parent| parent.parse().ok())
        .ok_or_else(|| io::Error::other("no parent named"))?;
    die_with(parent)
}

/// Ends this process when its parent ends, which may have happened before this was said.
fn die_with(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(parent) {
        return Err(io::Error::other("the parent has ended"));
    }
    Ok(())
}

/// Lets the lists of processes name what is parsed, as far as the kernel keeps it: 15 bytes. Nothing depends on it.
fn show_as(parser: &str) {
    if let Ok(name) = CString::new(parser) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Gives up what a parser does not need, parses, and writes what came of it.
fn answer(
    parser: Asked,
    spec: Spec,
    inherited: Inherited,
    input: File,
    result: File,
) -> io::Result<()> {
    let walls = confine(&spec.limits, PARSER_STACK_BYTES as u64, inherited)?;
    let outcome = match parser {
        Asked::Parser(parser) => parse(parser, spec.request, input)?,
        Asked::Walls => Ok(Parsed {
            value: serde_json::to_value(walls)?,
            ..Parsed::default()
        }),
    };
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
