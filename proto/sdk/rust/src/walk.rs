//! Walks a folder: files and empty folders, with what cannot be taken reported and never skipped in silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use caudal_domain::RelativePath;

/// One thing the walk met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A regular file.
    File(FoundFile),
    /// A folder of which nothing else is taken.
    EmptyFolder(RelativePath),
    /// Something that is not taken.
    Problem(Problem),
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it stands in the batch.
    pub path: RelativePath,
    /// Where it stands here.
    pub local: PathBuf,
    /// Bytes, as of the walk.
    pub size: u64,
    /// Time of the last change, where the file system knows it.
    pub modified: Option<SystemTime>,
}

/// Something in the folder that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its path below the folder; bytes that are not UTF-8 are shown as `\u{fffd}`.
    pub path: String,
    /// Why it was not taken.
    pub why: NotTaken,
}

/// Why something was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Links are not followed: they may leave the folder or lead in circles.
    #[error("is a symbolic link, and links are not followed")]
    SymbolicLink,
    /// A socket, pipe or device.
    #[error("is not a regular file")]
    NotARegularFile,
    /// Its name cannot be sent.
    #[error("has a name that is not UTF-8: rename it")]
    NameNotUtf8,
    /// Its path breaks a rule for paths.
    #[error("has a path that is not allowed: {0}")]
    PathNotAllowed(String),
    /// The operating system says no.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Between the walk and its upload it went away.
    #[error("vanished before it was uploaded")]
    Vanished,
    /// Between the walk and the end of its upload it changed.
    #[error("changed while it was uploaded")]
    Changed,
    /// The gateway refused this entry or its confirmation.
    #[error("was refused: {0}")]
    Refused(String),
    /// The store did not take its bytes.
    #[error("could not be uploaded: {0}")]
    UploadFailed(String),
}

impl NotTaken {
    /// Whether something of the folder's content is missing because of it. A link is left out by rule.
    #[must_use]
    pub fn is_a_loss(&self) -> bool {
        !matches!(self, Self::SymbolicLink)
    }
}

/// The receiver went away: the walk ended early.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// Walks the folder, in order of names, and hands each finding to `take`, which may block. A folder's own listing is
/// all that is held in memory.
///
/// # Errors
/// [`Stopped`] as soon as `take` says so.
pub fn walk(
    root: &Path,
    mut take: impl FnMut(Found) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    // Each level holds its own folders that are still to be visited, last first.
    let mut waiting: Vec<(PathBuf, String)> = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = waiting.pop() {
        visit(&folder, &prefix, &mut waiting, &mut take)?;
    }
    Ok(())
}

fn visit(
    folder: &Path,
    prefix: &str,
    waiting: &mut Vec<(PathBuf, String)>,
    take: &mut impl FnMut(Found) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) => return take(problem(prefix, NotTaken::Unreadable(error.to_string()))),
    };
    let mut entries = Vec::new();
    let mut anything_taken = false;
    for entry in listing {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => {
                take(problem(prefix, NotTaken::Unreadable(error.to_string())))?;
                break;
            }
        }
    }
    entries.sort_by_key(fs::DirEntry::file_name);

    let mut folders = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let shown = join(prefix, &name.to_string_lossy());
        let Some(name) = name.to_str() else {
            take(problem(&shown, NotTaken::NameNotUtf8))?;
            continue;
        };
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) => {
                take(problem(&shown, NotTaken::Unreadable(error.to_string())))?;
                continue;
            }
        };
        if kind.is_symlink() {
            take(problem(&shown, NotTaken::SymbolicLink))?;
            continue;
        }
        let path = match RelativePath::parse(&join(prefix, name)) {
            Ok(path) => path,
            Err(error) => {
                take(problem(&shown, NotTaken::PathNotAllowed(error.to_string())))?;
                continue;
            }
        };
        if kind.is_dir() {
            anything_taken = true;
            folders.push((entry.path(), path.as_str().to_owned()));
            continue;
        }
        if !kind.is_file() {
            take(problem(&shown, NotTaken::NotARegularFile))?;
            continue;
        }
        match entry.metadata() {
            Ok(metadata) => {
                anything_taken = true;
                take(Found::File(FoundFile {
                    path,
                    local: entry.path(),
                    size: metadata.len(),
                    modified: metadata.modified().ok(),
                }))?;
            }
            Err(error) => take(problem(&shown, NotTaken::Unreadable(error.to_string())))?,
        }
    }
    waiting.extend(folders.into_iter().rev());

    // The root is no folder of the batch, and its prefix is no path.
    if !anything_taken && let Ok(path) = RelativePath::parse(prefix) {
        take(Found::EmptyFolder(path))?;
    }
    Ok(())
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

fn problem(path: &str, why: NotTaken) -> Found {
    let path = if path.is_empty() {
        ".".to_owned()
    } else {
        path.to_owned()
    };
    Found::Problem(Problem { path, why })
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn everything(root: &Path) -> Vec<Found> {
        let mut found = Vec::new();
        walk(root, |one| {
            found.push(one);
            Ok(())
        })
        .unwrap();
        found
    }

    fn shown(found: &[Found]) -> Vec<String> {
        found
            .iter()
            .map(|one| match one {
                Found::File(file) => format!("{} {}", file.path.as_str(), file.size),
                Found::EmptyFolder(path) => format!("{}/", path.as_str()),
                Found::Problem(problem) => format!("{} {}", problem.path, problem.why),
            })
            .collect()
    }

    #[test]
    fn files_come_with_their_sizes_and_empty_folders_by_themselves() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/deep/er")).unwrap();
        fs::create_dir_all(root.path().join("empty/inner")).unwrap();
        fs::write(root.path().join("z.txt"), "zz").unwrap();
        fs::write(root.path().join("b/deep/er/x"), "xxx").unwrap();
        assert_eq!(
            shown(&everything(root.path())),
            ["z.txt 2", "b/deep/er/x 3", "empty/inner/"]
        );
    }

    #[test]
    fn an_empty_root_is_no_folder_of_the_batch() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(everything(root.path()), []);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_reported_and_never_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("a/loop")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("out")).unwrap();
        let found = everything(root.path());
        let link = NotTaken::SymbolicLink;
        assert!(!link.is_a_loss());
        assert_eq!(
            shown(&found),
            [
                format!("out {link}"),
                format!("a/loop {link}"),
                "a/".to_owned()
            ]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_that_is_not_utf8_is_reported_and_the_rest_is_taken() {
        use std::os::unix::ffi::OsStrExt as _;
        let root = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"bad\xff.txt");
        fs::write(root.path().join(name), "1").unwrap();
        fs::write(root.path().join("good.txt"), "1").unwrap();
        let found = everything(root.path());
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Found::Problem(Problem {
                path: "bad\u{fffd}.txt".to_owned(),
                why: NotTaken::NameNotUtf8
            })
        );
    }

    #[test]
    fn names_are_sent_composed() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cafe\u{301}.txt"), "1").unwrap();
        assert_eq!(shown(&everything(root.path())), ["caf\u{e9}.txt 1"]);
    }

    #[test]
    fn a_path_that_breaks_a_rule_is_reported() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a\nb"), "1").unwrap();
        let found = everything(root.path());
        assert!(matches!(
            &found[..],
            [Found::Problem(Problem {
                why: NotTaken::PathNotAllowed(_),
                ..
            })]
        ));
    }

    #[test]
    fn the_walk_ends_as_soon_as_nobody_listens() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "1").unwrap();
        fs::write(root.path().join("b"), "1").unwrap();
        let mut calls = 0;
        let ended = walk(root.path(), |_| {
            calls += 1;
            Err(Stopped)
        });
        assert_eq!((ended, calls), (Err(Stopped), 1));
    }
}
