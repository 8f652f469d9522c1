//! Listings in S3's order (bytes of the whole key), reading only the folders a page needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use s3s::S3Result;

use super::store::{Store, from_io, is_absence, open_object};

/// What a page shall hold.
#[derive(Debug, Default)]
pub(super) struct ListQuery<'a> {
    pub(super) prefix: &'a str,
    /// Keys after this one; empty for all.
    pub(super) after: &'a str,
    /// Whether keys are folded at the next `/` after the prefix.
    pub(super) is_folded: bool,
    pub(super) max: usize,
}

/// One line of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Object {
        key: String,
        size: u64,
        modified: SystemTime,
        etag: String,
    },
    Prefix(String),
}

impl Listed {
    pub(super) fn name(&self) -> &str {
        match self {
            Listed::Object { key, .. } => key,
            Listed::Prefix(prefix) => prefix,
        }
    }
}

/// A page, and whether there is more after it.
pub(super) fn list(store: &Store, query: &ListQuery<'_>) -> S3Result<(Vec<Listed>, bool)> {
    if query.max == 0 {
        return Ok((Vec::new(), false));
    }
    let within = query
        .prefix
        .rfind('/')
        .map_or("", |slash| &query.prefix[..=slash]);
    let Some(folder) = folder_of(&store.objects, within) else {
        return Ok((Vec::new(), false));
    };
    let mut page = Vec::new();
    // One more than asked for, to know whether there is more.
    walk(&folder, within, query, &mut page).map_err(from_io)?;
    let is_truncated = page.len() > query.max;
    page.truncate(query.max);
    Ok((page, is_truncated))
}

fn folder_of(objects: &Path, prefix: &str) -> Option<PathBuf> {
    let mut folder = objects.to_owned();
    for part in prefix.split('/').filter(|part| !part.is_empty()) {
        if matches!(part, "." | "..") || part.contains('\0') {
            return None;
        }
        folder.push(part);
    }
    Some(folder)
}

/// Adds the folder's keys to the page in order, until it is one longer than asked for.
fn walk(
    folder: &Path,
    key_prefix: &str,
    query: &ListQuery<'_>,
    page: &mut Vec<Listed>,
) -> io::Result<()> {
    for (name, is_folder) in sorted_entries(folder, key_prefix)? {
        if page.len() > query.max {
            return Ok(());
        }
        if is_folder {
            if !name.starts_with(query.prefix) && !query.prefix.starts_with(&name) {
                continue;
            }
            let is_wholly_before = name.as_str() <= query.after && !query.after.starts_with(&name);
            if is_wholly_before {
                continue;
            }
            let path = folder.join(&name[key_prefix.len()..]);
            if !query.is_folded || query.prefix.starts_with(&name) {
                walk(&path, &name, query, page)?;
            } else if name.as_str() != query.after {
                page.push(Listed::Prefix(name));
            }
            continue;
        }
        if !name.starts_with(query.prefix) || name.as_str() <= query.after {
            continue;
        }
        // Deleted since the folder was read: it is not listed.
        if let Some(object) = open_object(&folder.join(&name[key_prefix.len()..]))? {
            page.push(Listed::Object {
                key: name,
                size: object.size,
                modified: object.modified,
                etag: object.description.etag,
            });
        }
    }
    Ok(())
}

/// Whole keys, and folders ending in `/`, so that byte order of the names is the order of the keys below them.
fn sorted_entries(folder: &Path, key_prefix: &str) -> io::Result<Vec<(String, bool)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_folder = entry.file_type()?.is_dir();
        let end = if is_folder { "/" } else { "" };
        names.push((format!("{key_prefix}{name}{end}"), is_folder));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::super::store::{Description, Durability, WriteCondition};
    use super::*;

    fn store_with(keys: &[&str]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::ProcessCrash).unwrap();
        for key in keys {
            let staged = store.stage().unwrap();
            store
                .commit(
                    staged,
                    &Description::default(),
                    key,
                    &WriteCondition::default(),
                )
                .unwrap();
        }
        (folder, store)
    }

    fn names(page: &[Listed]) -> Vec<&str> {
        page.iter().map(Listed::name).collect()
    }

    #[test]
    fn pages_follow_each_other_in_byte_order_without_gap_or_repetition() {
        let mut keys = vec![
            "a-b/1", "a.b", "a/1", "a/2/x", "a0", "b/1", "b/1.x/y", "ä/1",
        ];
        let (_folder, store) = store_with(&keys);
        keys.sort_unstable();
        for max in 1..=keys.len() {
            let mut all: Vec<String> = Vec::new();
            loop {
                let after = all.last().cloned().unwrap_or_default();
                let query = ListQuery {
                    after: &after,
                    max,
                    ..ListQuery::default()
                };
                let (page, is_truncated) = list(&store, &query).unwrap();
                all.extend(page.iter().map(|listed| listed.name().to_owned()));
                if !is_truncated {
                    break;
                }
            }
            assert_eq!(all, keys, "pages of {max}");
        }
    }

    #[test]
    fn a_prefix_need_not_end_at_a_folder_and_folding_names_each_folder_once() {
        let (_folder, store) = store_with(&["t/10/a", "t/1/a", "t/1/b", "t/2", "u"]);
        let query = ListQuery {
            prefix: "t/1",
            max: 10,
            ..ListQuery::default()
        };
        let (page, _) = list(&store, &query).unwrap();
        assert_eq!(names(&page), ["t/1/a", "t/1/b", "t/10/a"]);

        let query = ListQuery {
            prefix: "t/",
            is_folded: true,
            max: 2,
            ..ListQuery::default()
        };
        let (page, is_truncated) = list(&store, &query).unwrap();
        assert_eq!((names(&page), is_truncated), (vec!["t/1/", "t/10/"], true));
        let query = ListQuery {
            after: "t/10/",
            ..query
        };
        let (page, is_truncated) = list(&store, &query).unwrap();
        assert_eq!((names(&page), is_truncated), (vec!["t/2"], false));
    }

    #[test]
    fn a_prefix_cannot_leave_the_folder() {
        let (_folder, store) = store_with(&["a"]);
        let query = ListQuery {
            prefix: "../",
            max: 10,
            ..ListQuery::default()
        };
        assert_eq!(list(&store, &query).unwrap(), (Vec::new(), false));
    }
}
