//! The entries of one page of the manifest, and the paths that they stand for.

use std::collections::BTreeSet;

use crate::store::time::Micros;

/// Entries that are right in themselves.
#[derive(Debug)]
pub(crate) struct ManifestPage {
    entries: Vec<NewEntry>,
    /// Paths of the folders that the entries are in, or are, with all above them and the root; in order, so that a parent
    /// comes before its children.
    folders: Vec<String>,
}

/// One line of a manifest page.
#[derive(Clone, Debug)]
pub(crate) enum NewEntry {
    File(NewFile),
    Folder { path: String },
}

/// A file of a manifest page.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) metadata: Option<String>,
    pub(crate) modified_at: Option<Micros>,
}

impl ManifestPage {
    pub(crate) fn new(entries: Vec<NewEntry>) -> Self {
        let mut folders = BTreeSet::from([""]);
        let mut last = "";
        for entry in &entries {
            let folder = entry.folder();
            // Most stand in the folder of the one before.
            if folder != last {
                folders.extend(lineage(folder));
                last = folder;
            }
        }
        let folders = folders.into_iter().map(str::to_owned).collect();
        Self { entries, folders }
    }

    pub(crate) fn entries(&self) -> &[NewEntry] {
        &self.entries
    }

    /// Its files, and where each stands in the page.
    pub(crate) fn files(&self) -> impl Iterator<Item = (usize, &NewFile)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| match entry {
            NewEntry::File(file) => Some((index, file)),
            NewEntry::Folder { .. } => None,
        })
    }

    /// The file at a position.
    pub(crate) fn file_at(&self, index: usize) -> Option<&NewFile> {
        match self.entries.get(index)? {
            NewEntry::File(file) => Some(file),
            NewEntry::Folder { .. } => None,
        }
    }

    /// Paths of its folders: the root first, a parent before its children.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(String::as_str)
    }

    /// Whether a path is that of one of its folders.
    pub(crate) fn has_folder(&self, path: &str) -> bool {
        let folders = &self.folders;
        folders
            .binary_search_by(|folder| folder.as_str().cmp(path))
            .is_ok()
    }

    /// Every path of which it matters whether the batch has a folder there.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        let files = self.files().map(|(_, file)| file.path.as_str());
        self.folders().chain(files)
    }

    /// Every place of which it matters whether the batch has a file there: (path of the folder, name).
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, &str)> {
        self.paths().filter(|path| !path.is_empty()).map(split)
    }
}

impl NewEntry {
    /// Path of the folder that it is in, or is.
    pub(crate) fn folder(&self) -> &str {
        match self {
            Self::File(file) => file.parent(),
            Self::Folder { path } => path,
        }
    }
}

impl NewFile {
    /// Path of its folder; empty for the root.
    pub(crate) fn parent(&self) -> &str {
        split(&self.path).0
    }
}

/// A folder's path and those of all folders above it, without the root.
pub(crate) fn lineage(folder: &str) -> impl Iterator<Item = &str> {
    let ends = folder
        .match_indices('/')
        .map(|(at, _)| at)
        .chain((!folder.is_empty()).then_some(folder.len()));
    ends.map(|end| &folder[..end])
}

/// The path of the folder that a path stands in, and its name there.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
