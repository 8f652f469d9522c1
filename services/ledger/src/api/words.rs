//! Words that callers leave for people: names and notes. They are shown on terminals and in logs, so none may steer one.

use caudal_domain::{Refusal, limits, plain_text, steers_a_screen};
use prost_types::FieldMask;

/// Characters in the words left with a pause.
pub(super) const MAX_NOTE_CHARS: usize = 200;
/// What is wrong with words that steer a screen.
pub(super) const STEERS: &str =
    "has a control character, which could make other words of it on a screen";

/// A name that may be empty.
pub(super) fn name<'a>(field: &str, words: &'a str) -> Result<&'a str, Refusal> {
    words_of(field, words, limits::MAX_DISPLAY_NAME_CHARS)
}

/// The name of a tenant or of a key, without blanks around it: it may not be empty, and not look so either.
pub(super) fn some_name<'a>(field: &str, words: &'a str) -> Result<&'a str, Refusal> {
    let words = words.trim();
    if plain_text::called(words).is_empty() {
        return Err(Refusal::invalid(field, "must not be empty"));
    }
    words_of(field, words, limits::MAX_ACCOUNT_NAME_CHARS)
}

/// Why a file cannot be sent; else what is wrong with it.
pub(super) fn cause(words: &str) -> Result<(), String> {
    if words.trim().is_empty() {
        return Err("must say why the file cannot be sent".to_owned());
    }
    fits(words, limits::MAX_CAUSE_CHARS)
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
    fits(words, most).map_err(|description| Refusal::invalid(field, description))?;
    Ok(words)
}

fn fits(words: &str, most: usize) -> Result<(), String> {
    if words.chars().count() > most {
        return Err(format!("has more than {most} characters"));
    }
    if words.chars().any(steers_a_screen) {
        return Err(STEERS.to_owned());
    }
    Ok(())
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
            assert!(cause(bad).is_err(), "{bad:?}");
        }
        for empty in [" ", "\u{A0}", "\u{200B}"] {
            assert!(some_name("display_name", empty).is_err(), "{empty:?}");
        }
        assert_eq!(some_name("display_name", " Acme\u{A0}"), Ok("Acme"));
        let long = "x".repeat(limits::MAX_DISPLAY_NAME_CHARS + 1);
        assert!(name("display_name", &long).is_err());
        let longest = "x".repeat(limits::MAX_ACCOUNT_NAME_CHARS);
        assert!(some_name("display_name", &longest).is_ok());
        assert!(some_name("display_name", &format!("{longest}x")).is_err());
    }
}
