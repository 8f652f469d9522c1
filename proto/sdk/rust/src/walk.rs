//! Walks a folder: files and empty folders, with what cannot be taken reported and never skipped in silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use caudal_domain::RelativePath;

use crate::rules::Rules;

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
    /// Of its content, once it was read.
    pub sha256: Option<[u8; 32]>,
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
    /// The caller's rules leave it out.
    #[error("left out by the rule `{0}`")]
    LeftOut(String),
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
    /// It is not what was announced any more.
    #[error("is not what was announced any more: a new batch takes what it is now")]
    ChangedBefore,
    /// Between the walk and the end of its upload it changed.
    #[error("changed while it was uploaded")]
    Changed,
    /// The batch holds a file of this path that is not this one.
    #[error(
        "is in the batch already with other content: give it another path, or begin a new batch"
    )]
    OtherInBatch,
    /// The batch has what the file was when it was sent.
    #[error(
        "has changed since it was sent: the batch keeps what it was, and a new batch takes what it is now"
    )]
    ChangedSince,
    /// The batch is complete and holds no file of this path.
    #[error("is not in the batch, which takes no new files: begin a new batch for it")]
    NotInBatch,
    /// The batch waits for it and the folder does not have it.
    #[error("is waited for and not in this folder")]
    NotHere,
    /// The gateway refused this entry or its confirmation.
    #[error("was refused: {0}")]
    Refused(String),
    /// The store did not take its bytes.
    #[error("could not be uploaded: {0}")]
    UploadFailed(String),
}

impl NotTaken {
    /// Whether something of the folder's content is missing because of it. Links and what rules leave out are not meant to
    /// be taken.
    #[must_use]
    pub fn is_a_loss(&self) -> bool {
        !matches!(self, Self::SymbolicLink | Self::LeftOut(_))
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
    rules: &Rules,
    mut take: impl FnMut(Found) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    // Each level holds its own folders that are still to be visited, last first.
    let mut waiting: Vec<(PathBuf, String)> = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = waiting.pop() {
        visit(&folder, &prefix, rules, &mut waiting, &mut take)?;
    }
    Ok(())
}

/// What the rules leave out of a folder, before anything is sent. Nothing but names is read.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Paths of the first thousand, those of folders ending in `/`.
    pub first: Vec<String>,
    /// Files left out, those below folders that are left out not counted.
    pub files: u64,
    /// Folders left out with all that is in them.
    pub folders: u64,
}

/// How many of what is left out are kept by name.
const LEFT_OUT_NAMED: usize = 1_000;

/// Looks through the folder for what the rules leave out.
#[must_use]
pub fn left_out(root: &Path, rules: &Rules) -> LeftOut {
    let mut left_out = LeftOut::default();
    let mut waiting = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = waiting.pop() {
        // What cannot be read is told of when the folder is walked.
        let Ok(listing) = fs::read_dir(&folder) else {
            continue;
        };
        let mut entries: Vec<fs::DirEntry> = listing.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut folders = Vec::new();
        for entry in entries {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = join(&prefix, &entry.file_name().to_string_lossy());
            if kind.is_symlink() {
                continue;
            }
            if rules.leaves_out(&path, kind.is_dir()).is_some() {
                let shown = match kind.is_dir() {
                    true => {
                        left_out.folders += 1;
                        format!("{path}/")
                    }
                    false => {
                        left_out.files += 1;
                        path
                    }
                };
                if left_out.first.len() < LEFT_OUT_NAMED {
                    left_out.first.push(shown);
                }
            } else if kind.is_dir() {
                folders.push((entry.path(), path));
            }
        }
        waiting.extend(folders.into_iter().rev());
    }
    left_out
}

fn visit(
    folder: &Path,
    prefix: &str,
    rules: &Rules,
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
        if let Some(rule) = rules.leaves_out(&shown, kind.is_dir()) {
            // A folder whose files are left out is not for that an empty one.
            anything_taken |= !kind.is_dir();
            take(problem(&shown, NotTaken::LeftOut(rule)))?;
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
                    sha256: None,
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
        walk(root, &Rules::none(), |one| {
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
        let ended = walk(root.path(), &Rules::none(), |_| {
            calls += 1;
            Err(Stopped)
        });
        assert_eq!((ended, calls), (Err(Stopped), 1));
    }

    #[test]
    fn what_the_rules_leave_out_is_named_before_and_while_walking_and_is_no_loss() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("build/deep")).unwrap();
        fs::create_dir(root.path().join("src")).unwrap();
        fs::write(root.path().join("build/deep/a.o"), "1").unwrap();
        fs::write(root.path().join("src/a.rs"), "1").unwrap();
        fs::write(root.path().join("src/.DS_Store"), "1").unwrap();
        let rules = Rules::of_folder(root.path(), &["build/".to_owned()], false).unwrap();
        let before = left_out(root.path(), &rules);
        assert_eq!(before.first, ["build/", "src/.DS_Store"]);
        assert_eq!((before.files, before.folders), (1, 1));

        let mut found = Vec::new();
        walk(root.path(), &rules, |one| {
            found.push(one);
            Ok(())
        })
        .unwrap();
        assert_eq!(
            shown(&found),
            [
                "build left out by the rule `build/`",
                "src/.DS_Store left out by the rule `.DS_Store`",
                "src/a.rs 1"
            ]
        );
        assert!(!NotTaken::LeftOut(String::new()).is_a_loss());
    }
}
