//! Words that somebody else wrote, where they are shown: on terminals, on pages and in logs none may steer a screen.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization as _;

/// Control characters, ends of lines, and what turns the direction of letters around.
#[must_use]
pub fn steers_a_screen(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The words, with each letter that steers a screen spelled out: `\u{1b}`.
#[must_use]
pub fn plain(words: &str) -> Cow<'_, str> {
    if !words.chars().any(steers_a_screen) {
        return Cow::Borrowed(words);
    }
    let mut plain = String::with_capacity(words.len() + 16);
    for letter in words.chars() {
        if steers_a_screen(letter) {
            // Writing to a text does not fail.
            let _written = write!(plain, "{}", letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    Cow::Owned(plain)
}

/// What is seen of a name by people: two of which it is the same are called alike, whatever their letters are made of, their
/// case, and the blanks and invisible letters in them.
#[must_use]
pub fn called(name: &str) -> String {
    let seen: String = name
        .nfkc()
        .filter(|letter| !is_invisible(*letter) && !steers_a_screen(*letter))
        .flat_map(char::to_lowercase)
        .collect();
    let parts: Vec<&str> = seen.split_whitespace().collect();
    parts.join(" ").nfkc().collect()
}

/// Letters without a shape of their own (Unicode's format characters, and what fills a place).
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'
            | '\u{1160}'
            | '\u{17B4}'
            | '\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_steer_a_screen_are_spelled_out_and_all_others_stay() {
        assert_eq!(plain("株式会社 مكتب 🦦 é"), "株式会社 مكتب 🦦 é");
        assert!(matches!(plain("as it is"), Cow::Borrowed(_)));
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("\u{202E}exe\u{9b}"), "\\u{202e}exe\\u{9b}");
    }

    #[test]
    fn names_that_look_alike_are_called_alike_and_others_are_not() {
        for alike in [
            " Acme",
            "acme",
            "ACME\u{A0}",
            "Ac\u{200B}me",
            "\u{FEFF}Acme",
            "Ａcme",
        ] {
            assert_eq!(called(alike), "acme", "{alike:?}");
        }
        assert_eq!(
            called("E\u{301}cole  du\u{A0}Nord"),
            called("école du nord")
        );
        assert_ne!(called("acme 1"), called("acme1"));
        assert_eq!(called("\u{200B} \u{A0}"), "");
    }
}
