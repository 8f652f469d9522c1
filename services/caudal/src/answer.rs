//! What the command says: its answer on standard output, everything else on standard error. Whoever reads it may have read
//! enough, as `head` has: then the command ends, and that is no failure.

use std::fmt;
use std::io::{self, Write};

/// A line of the answer.
macro_rules! answer {
    ($($words:tt)*) => { crate::answer::line(format_args!($($words)*)) };
}

/// A line for people who look on.
macro_rules! say {
    ($($words:tt)*) => { crate::answer::aside(format_args!($($words)*)) };
}

pub(crate) fn line(words: fmt::Arguments<'_>) {
    text(&format!("{words}\n"));
}

/// The answer, or a part of it.
pub(crate) fn text(words: &str) {
    bytes(words.as_bytes());
}

/// The same, as it stands.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    let Err(error) = written else {
        return;
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    aside(format_args!("error: cannot write the answer: {error}"));
    std::process::exit(1);
}

pub(crate) fn aside(words: fmt::Arguments<'_>) {
    // Nobody reads it; the work goes on.
    let _nobody = writeln!(io::stderr().lock(), "{words}");
}
