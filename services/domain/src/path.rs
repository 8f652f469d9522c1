//! Where a file stands in the folder tree that was dropped: validated once, at the door.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::limits::{MAX_PATH_BYTES, MAX_PATH_DEPTH, MAX_PATH_PART_BYTES};

/// Why a text is not a path. Each names the rule, and the part of the path that breaks it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing was given.
    #[error("the path is empty")]
    Empty,
    /// It begins with `/`.
    #[error("the path must be relative: it begins with /")]
    Absolute,
    /// It begins with a drive such as `C:`.
    #[error("the path must be relative: {part} is a drive")]
    Drive {
        /// The first part.
        part: String,
    },
    /// A part is empty, as in `a//b` or `a/`.
    #[error("part {position} of the path is empty: two slashes in a row or one at the end")]
    EmptyPart {
        /// Which part, counted from 1.
        position: usize,
    },
    /// A part is `.` or `..`.
    #[error("part {position} of the path is {part}: a path may not point to itself or upwards")]
    DotPart {
        /// Which part, counted from 1.
        position: usize,
        /// `.` or `..`.
        part: String,
    },
    /// A part holds a backslash, which some systems read as a separator.
    #[error("part {part} holds a backslash: separate folders with /")]
    Backslash {
        /// The part.
        part: String,
    },
    /// A part holds NUL, a line break or another control character.
    #[error("part {part} holds the control character U+{code:04X}")]
    ControlCharacter {
        /// The part, the character written as an escape.
        part: String,
        /// The character's number.
        code: u32,
    },
    /// A part is too long.
    #[error("part {part} has {bytes} bytes: at most {MAX_PATH_PART_BYTES} are allowed")]
    PartTooLong {
        /// The beginning of the part.
        part: String,
        /// Its length in bytes of UTF-8, NFC.
        bytes: usize,
    },
    /// The whole path is too long.
    #[error("the path that begins {part} is longer than {MAX_PATH_BYTES} bytes")]
    TooLong {
        /// The beginning of the path.
        part: String,
    },
    /// Too many folders, one in the other.
    #[error("the path has more than {MAX_PATH_DEPTH} parts, the one after is {part}")]
    TooDeep {
        /// The first part that is one too many.
        part: String,
    },
}

impl PathError {
    /// The rule that was broken, `UPPER_SNAKE`, for machines.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Empty => "PATH_EMPTY",
            Self::Absolute => "PATH_ABSOLUTE",
            Self::Drive { .. } => "PATH_DRIVE",
            Self::EmptyPart { .. } => "PATH_EMPTY_PART",
            Self::DotPart { .. } => "PATH_DOT_PART",
            Self::Backslash { .. } => "PATH_BACKSLASH",
            Self::ControlCharacter { .. } => "PATH_CONTROL_CHARACTER",
            Self::PartTooLong { .. } => "PATH_PART_TOO_LONG",
            Self::TooLong { .. } => "PATH_TOO_LONG",
            Self::TooDeep { .. } => "PATH_TOO_DEEP",
        }
    }
}

/// A path that cannot leave its root: relative, NFC, parts separated by `/`, none of them empty, `.` or `..`, no
/// backslash, drive or control character, bounded in length and depth. Two spellings of the same text are one path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativePath(String);

impl RelativePath {
    /// Normalises to NFC and checks every rule; the first one broken is the error.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let normalised = normalise(text)?;
        if normalised.is_empty() {
            return Err(PathError::Empty);
        }
        if normalised.starts_with('/') {
            return Err(PathError::Absolute);
        }
        for (index, part) in normalised.split('/').enumerate() {
            check_part(part, index)?;
        }
        Ok(Self(normalised))
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part: the name of the file or folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The folder it stands in; none when it stands at the root.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The folders it stands in, root-most first: `a`, `a/b` for `a/b/c`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// How many parts it has; 1 at the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.split('/').count()
    }
}

/// Stops as soon as the result is too long, so that no text costs more than a path may.
fn normalise(text: &str) -> Result<String, PathError> {
    let mut normalised = String::with_capacity(text.len().min(MAX_PATH_BYTES));
    for character in text.nfc() {
        if normalised.len() + character.len_utf8() > MAX_PATH_BYTES {
            return Err(PathError::TooLong {
                part: shown(&normalised),
            });
        }
        normalised.push(character);
    }
    Ok(normalised)
}

fn check_part(part: &str, index: usize) -> Result<(), PathError> {
    let position = index + 1;
    if position > MAX_PATH_DEPTH {
        return Err(PathError::TooDeep { part: shown(part) });
    }
    if part.is_empty() {
        return Err(PathError::EmptyPart { position });
    }
    if part == "." || part == ".." {
        return Err(PathError::DotPart {
            position,
            part: part.to_owned(),
        });
    }
    if let Some(control) = part.chars().find(|character| character.is_control()) {
        return Err(PathError::ControlCharacter {
            part: shown(part),
            code: u32::from(control),
        });
    }
    if part.contains('\\') {
        return Err(PathError::Backslash { part: shown(part) });
    }
    if index == 0 && is_drive(part) {
        return Err(PathError::Drive { part: shown(part) });
    }
    if part.len() > MAX_PATH_PART_BYTES {
        return Err(PathError::PartTooLong {
            part: shown(part),
            bytes: part.len(),
        });
    }
    Ok(())
}

/// `C:` and `C:file`, which Windows reads as a place on another drive.
fn is_drive(part: &str) -> bool {
    let bytes = part.as_bytes();
    bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':'
}

/// The beginning of a part, quoted, with what cannot be seen written as an escape.
fn shown(part: &str) -> String {
    const SHOWN_CHARACTERS: usize = 40;
    let mut beginning: String = part.chars().take(SHOWN_CHARACTERS).collect();
    if beginning.len() < part.len() {
        beginning.push('…');
    }
    format!("{beginning:?}")
}

impl TryFrom<String> for RelativePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for RelativePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl From<RelativePath> for String {
    fn from(path: RelativePath) -> Self {
        path.0
    }
}

impl AsRef<str> for RelativePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use std::path::{Component, Path};

    use proptest::prelude::*;
    use unicode_normalization::is_nfc;

    use super::*;

    /// Pieces that break rules or look alike, mixed with any text.
    fn hostile_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("/".to_owned()),
            Just("//".to_owned()),
            Just("\\".to_owned()),
            Just("C:".to_owned()),
            Just("\u{212A}:".to_owned()),
            Just("\0".to_owned()),
            Just("\n".to_owned()),
            Just("e\u{301}".to_owned()),
            Just("\u{202E}".to_owned()),
            Just("\u{2024}\u{2024}".to_owned()),
            Just("\u{FF0F}".to_owned()),
            Just("a".to_owned()),
            Just("a".repeat(300)),
            Just("d/".repeat(70)),
            "[a-z]{1,8}",
            any::<String>(),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        match RelativePath::parse(text) {
            Ok(path) => check_accepted(&path),
            Err(error) => check_refused(text, &error),
        }
    }

    fn check_accepted(path: &RelativePath) -> Result<(), TestCaseError> {
        let text = path.as_str();
        prop_assert_eq!(&RelativePath::parse(text).unwrap(), path);
        prop_assert!(is_nfc(text));
        prop_assert!(text.len() <= MAX_PATH_BYTES);
        prop_assert!(path.depth() <= MAX_PATH_DEPTH);
        for part in text.split('/') {
            prop_assert!(!matches!(part, "" | "." | ".."));
            prop_assert!(part.len() <= MAX_PATH_PART_BYTES);
            prop_assert!(!part.contains('\\') && !part.chars().any(char::is_control));
        }
        let joined = Path::new("/root").join(text);
        prop_assert!(joined.starts_with("/root"));
        let below = joined.strip_prefix("/root").unwrap();
        prop_assert!(
            below
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
        );
        prop_assert_eq!(below.components().count(), path.depth());
        prop_assert_eq!(path.ancestors().count() + 1, path.depth());
        prop_assert_eq!(path.ancestors().last(), path.parent());
        let rebuilt = match path.parent() {
            Some(parent) => format!("{parent}/{}", path.name()),
            None => path.name().to_owned(),
        };
        prop_assert_eq!(rebuilt, text);
        for ancestor in path.ancestors() {
            let ancestor_path = RelativePath::parse(ancestor).unwrap();
            prop_assert_eq!(ancestor_path.as_str(), ancestor);
        }
        let json = serde_json::to_string(path).unwrap();
        prop_assert_eq!(&serde_json::from_str::<RelativePath>(&json).unwrap(), path);
        Ok(())
    }

    /// The rule that the error names is really broken, and the part it names is there.
    fn check_refused(text: &str, error: &PathError) -> Result<(), TestCaseError> {
        let normalised: String = text.nfc().collect();
        let parts: Vec<&str> = normalised.split('/').collect();
        match error {
            PathError::Empty => prop_assert!(text.is_empty()),
            PathError::Absolute => prop_assert!(normalised.starts_with('/')),
            PathError::Drive { part } => {
                prop_assert!(is_drive(parts[0]));
                prop_assert_eq!(part, &shown(parts[0]));
            }
            PathError::EmptyPart { position } => prop_assert_eq!(parts[position - 1], ""),
            PathError::DotPart { position, part } => {
                prop_assert_eq!(parts[position - 1], part.as_str());
                prop_assert!(part == "." || part == "..");
            }
            PathError::Backslash { part } => {
                prop_assert!(parts.iter().any(|p| p.contains('\\') && &shown(p) == part));
            }
            PathError::ControlCharacter { part, code } => {
                let control = char::from_u32(*code).unwrap();
                prop_assert!(
                    parts
                        .iter()
                        .any(|p| p.contains(control) && &shown(p) == part)
                );
            }
            PathError::PartTooLong { part, bytes } => {
                prop_assert!(*bytes > MAX_PATH_PART_BYTES);
                prop_assert!(parts.iter().any(|p| p.len() == *bytes && &shown(p) == part));
            }
            PathError::TooLong { .. } => prop_assert!(normalised.len() > MAX_PATH_BYTES),
            PathError::TooDeep { part } => {
                prop_assert!(parts.len() > MAX_PATH_DEPTH);
                prop_assert_eq!(part, &shown(parts[MAX_PATH_DEPTH]));
            }
        }
        prop_assert!(error.rule().starts_with("PATH_"));
        let told = error.to_string();
        prop_assert!(!told.is_empty() && !told.chars().any(char::is_control));
        prop_assert!(told.len() < 1000);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_text_is_refused_by_a_named_rule_or_is_a_path_that_cannot_leave_its_root(
            text in any::<String>()
        ) {
            check(&text)?;
        }

        #[test]
        fn hostile_text_is_refused_by_a_named_rule_or_is_a_path_that_cannot_leave_its_root(
            text in hostile_path()
        ) {
            check(&text)?;
        }

        #[test]
        fn two_spellings_of_one_text_are_one_path(text in "[a-zé\u{1100}-\u{1112}가-힣ÅåñÑ]{1,40}") {
            let composed: String = text.nfc().collect();
            let decomposed: String = text.nfd().collect();
            prop_assert_eq!(
                RelativePath::parse(&composed),
                RelativePath::parse(&decomposed)
            );
        }
    }

    #[test]
    fn each_rule_names_itself_and_the_part() {
        let long_part = "x".repeat(256);
        let long_path = ["y".repeat(200).as_str(); 6].join("/");
        let deep_path = ["z"; 65].join("/");
        for (text, rule, told) in [
            ("", "PATH_EMPTY", "the path is empty"),
            ("/etc/passwd", "PATH_ABSOLUTE", "begins with /"),
            ("C:/x", "PATH_DRIVE", "\"C:\" is a drive"),
            ("\u{212A}:x", "PATH_DRIVE", "\"K:x\" is a drive"),
            ("a//b", "PATH_EMPTY_PART", "part 2 "),
            ("a/b/", "PATH_EMPTY_PART", "part 3 "),
            ("a/../b", "PATH_DOT_PART", "part 2 of the path is .."),
            ("./a", "PATH_DOT_PART", "part 1 of the path is ."),
            ("a/b\\c", "PATH_BACKSLASH", "\"b\\\\c\""),
            ("a/b\0c", "PATH_CONTROL_CHARACTER", "U+0000"),
            ("a\u{85}", "PATH_CONTROL_CHARACTER", "U+0085"),
            (&long_part, "PATH_PART_TOO_LONG", "has 256 bytes"),
            (&long_path, "PATH_TOO_LONG", "longer than 1024 bytes"),
            (&deep_path, "PATH_TOO_DEEP", "more than 64 parts"),
        ] {
            let error = RelativePath::parse(text).unwrap_err();
            assert_eq!(error.rule(), rule, "{text:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn ordinary_names_of_people_are_paths() {
        for text in [
            "informe final (v2).pdf",
            "Año 2026/Größe & Maß/день.txt",
            "...hidden/..name/.git",
            "日本語/😀.png",
            "ab:c/c:d",
            " leading and trailing ",
        ] {
            assert_eq!(RelativePath::parse(text).unwrap().as_str(), text);
        }
        let path = RelativePath::parse("a/b/c.txt").unwrap();
        assert_eq!(path.name(), "c.txt");
        assert_eq!(path.parent(), Some("a/b"));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(path.depth(), 3);
        assert_eq!(RelativePath::parse("c").unwrap().parent(), None);
    }

    #[test]
    fn what_is_exactly_at_a_bound_is_a_path() {
        assert!(RelativePath::parse(&"x".repeat(MAX_PATH_PART_BYTES)).is_ok());
        assert!(RelativePath::parse(&["z"; MAX_PATH_DEPTH].join("/")).is_ok());
        let longest = [
            "y".repeat(255),
            "y".repeat(255),
            "y".repeat(255),
            "y".repeat(255),
            "y".to_owned(),
        ];
        assert!(RelativePath::parse(&longest[..4].join("/")).is_ok());
        assert!(RelativePath::parse(&longest.join("/")).is_err());
    }
}
