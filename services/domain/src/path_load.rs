//! How much the paths of one page of a manifest come to: whoever makes a page and whoever takes it count alike.

use std::collections::HashSet;

use crate::limits::{MAX_FOLDERS_PER_PAGE, MAX_PATH_BYTES_PER_PAGE};
use crate::path::RelativePath;

/// The folders that a page implies, and the bytes of its paths. A path names all folders above it, so a thousand deep
/// paths may be as much work as sixty thousand files.
#[derive(Clone, Debug, Default)]
pub struct PathLoad {
    folders: HashSet<String>,
    bytes: usize,
}

/// A page has no room for a path. Any page has room for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFull {
    /// Too many folders.
    #[error("imply more than {MAX_FOLDERS_PER_PAGE} folders: send fewer entries in a page")]
    Folders,
    /// Too long paths.
    #[error(
        "have more than {MAX_PATH_BYTES_PER_PAGE} bytes of paths, those of the folders that they imply included: send fewer entries in a page"
    )]
    Bytes,
}

impl PathLoad {
    /// Adds the path of a file.
    ///
    /// # Errors
    /// There is no room for it; nothing was added.
    pub fn add_file(&mut self, path: &RelativePath) -> Result<(), PageFull> {
        self.add(path.ancestors(), path.as_str().len())
    }

    /// Adds the path of a folder.
    ///
    /// # Errors
    /// There is no room for it; nothing was added.
    pub fn add_folder(&mut self, path: &RelativePath) -> Result<(), PageFull> {
        self.add(path.ancestors().chain([path.as_str()]), 0)
    }

    fn add<'a>(
        &mut self,
        folders: impl Iterator<Item = &'a str>,
        bytes: usize,
    ) -> Result<(), PageFull> {
        let new: Vec<&str> = folders
            .filter(|folder| !self.folders.contains(*folder))
            .collect();
        let bytes = self.bytes + bytes + new.iter().map(|folder| folder.len()).sum::<usize>();
        if self.folders.len() + new.len() > MAX_FOLDERS_PER_PAGE {
            return Err(PageFull::Folders);
        }
        if bytes > MAX_PATH_BYTES_PER_PAGE {
            return Err(PageFull::Bytes);
        }
        self.folders.extend(new.into_iter().map(str::to_owned));
        self.bytes = bytes;
        Ok(())
    }

    /// How many folders there are, without the root.
    #[must_use]
    pub fn folders(&self) -> usize {
        self.folders.len()
    }

    /// Bytes of the paths, each folder's once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use crate::limits::{MAX_PATH_BYTES, MAX_PATH_DEPTH};

    fn path(text: &str) -> RelativePath {
        RelativePath::parse(text).unwrap()
    }

    #[test]
    fn each_folder_counts_once_with_its_whole_path() {
        let mut load = PathLoad::default();
        load.add_file(&path("a/b/c.txt")).unwrap();
        load.add_file(&path("a/b/d.txt")).unwrap();
        load.add_folder(&path("a/e")).unwrap();
        load.add_folder(&path("a")).unwrap();
        assert_eq!(load.folders(), 3);
        assert_eq!(load.bytes(), "a/b/c.txta/b/d.txtaa/ba/e".len());
    }

    #[test]
    fn a_page_is_full_of_folders_or_of_bytes_and_then_takes_what_is_known() {
        let mut load = PathLoad::default();
        for number in 0..MAX_FOLDERS_PER_PAGE {
            load.add_folder(&path(&number.to_string())).unwrap();
        }
        assert_eq!(load.add_folder(&path("one")), Err(PageFull::Folders));
        assert_eq!(load.add_file(&path("one/more")), Err(PageFull::Folders));
        load.add_file(&path("7/more")).unwrap();
        assert_eq!(load.folders(), MAX_FOLDERS_PER_PAGE);

        let mut load = PathLoad::default();
        let long = "x/".repeat(20) + &"y".repeat(200);
        let full = (0..).find_map(|number| load.add_file(&path(&format!("{number}/{long}"))).err());
        assert_eq!(full, Some(PageFull::Folders));
        let longer = vec!["z".repeat(250); 4].join("/");
        let mut load = PathLoad::default();
        let full =
            (0..).find_map(|number| load.add_file(&path(&format!("{number}/{longer}"))).err());
        assert_eq!(full, Some(PageFull::Bytes));
    }

    #[test]
    fn the_longest_and_the_deepest_path_fit_a_page_of_their_own() {
        let deepest = vec!["d"; MAX_PATH_DEPTH].join("/");
        let longest = vec!["l".repeat(15); MAX_PATH_BYTES / 16].join("/");
        for text in [deepest, longest] {
            let mut load = PathLoad::default();
            load.add_file(&path(&text)).unwrap();
        }
    }
}
