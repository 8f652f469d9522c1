//! Where the executable finds out that it was started for a sandbox.

use std::ffi::OsStr;

use super::child::{self, Abilities};
use super::{CHILD_ARGUMENT, HOST_ARGUMENT, Parser, Preparation, host};

/// Serves a sandbox child or a parser host and ends the process, when the arguments ask for one; otherwise returns at once.
/// The first line of `main`: a child must not start threads, read configuration or open anything before it has confined
/// itself, and a host has no thread but one.
pub fn run_child_if_asked(parsers: &[(&str, Parser)]) {
    run_prepared_child_if_asked(parsers, &[]);
}

/// As [`run_child_if_asked`], for parsers of which some are prepared, by their name.
pub fn run_prepared_child_if_asked(
    parsers: &[(&str, Parser)],
    preparations: &[(&str, Preparation)],
) {
    let abilities = Abilities {
        parsers,
        preparations,
    };
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().unwrap_or_default();
    let served = if asked == OsStr::new(CHILD_ARGUMENT) {
        child::serve(&abilities, arguments)
    } else if asked == OsStr::new(HOST_ARGUMENT) {
        child::die_with_parent(arguments.next().as_deref()).and_then(|()| host::serve(&abilities))
    } else {
        return;
    };
    child::end(served)
}
