//! Words that callers leave for people: names and notes. They are shown on terminals and in logs, so none may steer one.

use caudal_domain::{Refusal, limits};
use prost_types::FieldMask;

/// Characters in the words left with a pause.
pub(super) const MAX_NOTE_CHARS: usize = 200;

/// A name that may be empty.
pub(super) fn name<'a>(field: &str, words: &'a str) -> Result<&'a str, Refusal> {
    words_of(field, words, limits::MAX_DISPLAY_NAME_CHARS)
}

/// A name that may not.
pub(super) fn some_name<'a>(field: &str, words: &'a str) -> Result<&'a str, Refusal> {
    if words.trim().is_empty() {
        return Err(Refusal::invalid(field, "must not be empty"));
    }
    name(field, words)
}

/// What is to be changed: a mask that names nothing is refused with what it may name.
pub(super) fn update_paths<'a>(
    mask: Option<&'a FieldMask>,
    may_name: &str,
) -> Result<&'a [String], Refusal> {
    match mask {
        Some(mask) if !mask.paths.is_empty() => Ok(&mask.paths),
        _ => Err(Refusal::invalid(
            "update_mask",
            format!("must name what is to be changed: {may_name}"),
        )),
    }
}

/// A note.
pub(super) fn note<'a>(field: &str, words: &'a str) -> Result<&'a str, Refusal> {
    words_of(field, words, MAX_NOTE_CHARS)
}

fn words_of<'a>(field: &str, words: &'a str, most: usize) -> Result<&'a str, Refusal> {
    if words.chars().count() > most {
        let description = format!("has more than {most} characters");
        return Err(Refusal::invalid(field, description));
    }
    if words.chars().any(steers) {
        let description = "has a control character, which could make other words of it on a screen";
        return Err(Refusal::invalid(field, description));
    }
    Ok(words)
}

/// Control characters, ends of lines, and what turns the direction of letters around.
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_steer_a_screen_are_refused_and_letters_of_any_script_are_not() {
        for good in ["Acme, S.A.", "Ñandú & Söhne", "株式会社", "مكتب", "🦦"] {
            assert_eq!(some_name("display_name", good), Ok(good));
        }
        for bad in [
            "a\u{1b}[2Jb",
            "a\nb",
            "a\u{0}",
            "\u{202E}exe",
            "a\u{2028}b",
            "\u{9b}31m",
        ] {
            assert!(name("display_name", bad).is_err(), "{bad:?}");
            assert!(note("note", bad).is_err(), "{bad:?}");
        }
        assert!(some_name("display_name", " ").is_err());
        let long = "x".repeat(limits::MAX_DISPLAY_NAME_CHARS + 1);
        assert!(name("display_name", &long).is_err());
    }
}
