//! What of a folder is left out by rule: names that systems and programs leave behind, the lines of a `.caudalignore` at
//! its top, and patterns of the caller. Whatever is left out is told of by name.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The list that all clients share.
const LEFT_BEHIND: &str = include_str!("../../left-out.txt");
/// The file of rules that a folder may have at its top, in the form of a `.gitignore`.
pub const RULES_FILE: &str = ".caudalignore";
/// The largest file of rules that is read.
const MAX_RULES_BYTES: u64 = 1024 * 1024;

/// What is left out.
#[derive(Debug, Clone)]
pub struct Rules {
    left_behind: Gitignore,
    own: Gitignore,
}

/// A rule that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A pattern breaks the form.
    #[error("`{pattern}` is no pattern of what to leave out: {why}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file of rules cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Rules {
    /// Leaves nothing out.
    #[must_use]
    pub fn none() -> Self {
        Self {
            left_behind: Gitignore::empty(),
            own: Gitignore::empty(),
        }
    }

    /// The rules for a folder: those of its own `.caudalignore`, then `exclude`, patterns of the same form; and unless
    /// `everything` is wanted what systems and programs leave behind.
    ///
    /// # Errors
    /// A pattern or the file is not what it should be.
    pub fn of_folder(
        folder: &Path,
        exclude: &[String],
        everything: bool,
    ) -> Result<Self, RulesError> {
        // Paths are given relative to the folder, so the patterns' own root is nowhere.
        let mut own = GitignoreBuilder::new("");
        let file = folder.join(RULES_FILE);
        for line in lines_of(&file)? {
            add(&mut own, &line)?;
        }
        for pattern in exclude {
            add(&mut own, pattern)?;
        }
        let mut left_behind = GitignoreBuilder::new("");
        left_behind
            .case_insensitive(true)
            .map_err(|error| pattern_error("", &error))?;
        if !everything {
            for line in LEFT_BEHIND.lines() {
                add(&mut left_behind, line)?;
            }
        }
        let built =
            |builder: &GitignoreBuilder| builder.build().map_err(|error| pattern_error("", &error));
        Ok(Self {
            left_behind: built(&left_behind)?,
            own: built(&own)?,
        })
    }

    /// The rule that leaves this out, if there is one. `path` is below the folder, its parts joined by `/`; folders above
    /// it have been asked for before.
    #[must_use]
    pub fn leaves_out(&self, path: &str, is_folder: bool) -> Option<String> {
        match self.own.matched(path, is_folder) {
            ignore::Match::Ignore(glob) => return Some(glob.original().to_owned()),
            ignore::Match::Whitelist(_) => return None,
            ignore::Match::None => {}
        }
        // What is left behind are files; a folder of such a name is somebody's.
        let name = path.rsplit('/').next().unwrap_or(path);
        match self.left_behind.matched(name, false) {
            ignore::Match::Ignore(glob) if !is_folder => Some(glob.original().to_owned()),
            _ => None,
        }
    }
}

/// Whether this rule is one of the list of what systems and programs leave behind.
pub(crate) fn is_of_the_list(rule: &str) -> bool {
    LEFT_BEHIND.lines().any(|line| line == rule)
}

fn add(builder: &mut GitignoreBuilder, line: &str) -> Result<(), RulesError> {
    builder
        .add_line(None, line)
        .map(|_| ())
        .map_err(|error| pattern_error(line, &error))
}

fn pattern_error(pattern: &str, error: &ignore::Error) -> RulesError {
    RulesError::Pattern {
        pattern: pattern.to_owned(),
        why: error.to_string(),
    }
}

fn lines_of(file: &Path) -> Result<Vec<String>, RulesError> {
    let refused = |why: String| RulesError::File {
        path: file.to_path_buf(),
        why,
    };
    match std::fs::symlink_metadata(file) {
        // Links are not followed, here as elsewhere.
        Ok(found) if !found.is_file() => return Ok(Vec::new()),
        Ok(found) if found.len() > MAX_RULES_BYTES => {
            return Err(refused(format!(
                "it is {} bytes; rules have at most {MAX_RULES_BYTES}",
                found.len()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(error.to_string())),
    }
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn rules(file: Option<&str>, exclude: &[&str], everything: bool) -> Rules {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(folder.path().join(RULES_FILE), text).unwrap();
        }
        let exclude: Vec<String> = exclude
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect();
        Rules::of_folder(folder.path(), &exclude, everything).unwrap()
    }

    #[test]
    fn what_systems_and_programs_leave_behind_is_told_by_the_list_that_the_page_has_too() {
        let rules = rules(None, &[], false);
        for name in [
            ".DS_Store",
            "thumbs.DB",
            "desktop.ini",
            "~$plan.docx",
            "._photo.jpg",
            ".~lock.plan.odt#",
        ] {
            assert!(
                rules.leaves_out(&format!("a/b/{name}"), false).is_some(),
                "{name}"
            );
        }
        for name in [
            "DS_Store",
            "xThumbs.db",
            "desktop.ini.txt",
            "$plan.docx",
            ".gitignore",
            ".~lock.plan.odt",
            "~",
        ] {
            assert_eq!(rules.leaves_out(name, false), None, "{name}");
        }
        assert_eq!(rules.leaves_out("Thumbs.db", true), None, "a folder");
    }

    #[test]
    fn everything_is_taken_where_that_is_wanted() {
        let rules = rules(None, &[], true);
        assert_eq!(rules.leaves_out(".DS_Store", false), None);
    }

    #[test]
    fn patterns_of_the_folder_and_of_the_caller_are_as_in_a_gitignore() {
        let rules = rules(
            Some("# ours\n\n*.tmp\n!keep.tmp\n!~$wanted.docx\n/build/\ndocs/**/draft-?.md\n"),
            &["node_modules/"],
            false,
        );
        for (path, is_folder) in [
            ("a.tmp", false),
            ("deep/er/b.tmp", false),
            ("build", true),
            ("docs/x/y/draft-1.md", false),
            ("web/node_modules", true),
        ] {
            assert!(rules.leaves_out(path, is_folder).is_some(), "{path}");
        }
        for (path, is_folder) in [
            ("keep.tmp", false),
            ("~$wanted.docx", false),
            ("web/build", true),
            ("build", false),
            ("draft-1.md", false),
            ("node_modules", false),
        ] {
            assert_eq!(rules.leaves_out(path, is_folder), None, "{path}");
        }
        assert_eq!(
            rules.leaves_out("x/a.tmp", false).as_deref(),
            Some("*.tmp"),
            "the rule is named"
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_with_its_words() {
        let refused = Rules::of_folder(Path::new("/nowhere"), &["[z-a]".to_owned()], false);
        assert!(refused.unwrap_err().to_string().contains("`[z-a]`"));
    }
}
