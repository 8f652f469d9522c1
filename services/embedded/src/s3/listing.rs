//! Listings in S3's order (bytes of the whole key), straight from the index.

use std::ops::Bound;
use std::time::SystemTime;

use s3s::S3Result;

use super::failure::trouble;
use super::record::Record;
use super::store::Store;

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
    store.index.read(|reader| {
        let mut page = Vec::new();
        let mut keys = reader.objects_from(beginning(query).as_ref().map(String::as_str))?;
        // One more than asked for, to know whether there is more.
        while page.len() <= query.max {
            let Some(next) = keys.next() else { break };
            let (key, text) = next.map_err(trouble)?;
            let key = key.value();
            let Some(rest) = key.strip_prefix(query.prefix) else {
                break;
            };
            let folder = rest.split_once('/').filter(|_| query.is_folded);
            if let Some((folder, _)) = folder {
                let name = format!("{}{folder}/", query.prefix);
                keys = reader.objects_from(Bound::Included(&after_all_of(&name)))?;
                page.push(Listed::Prefix(name));
                continue;
            }
            let record = Record::decoded(text.value())?;
            page.push(Listed::Object {
                key: key.to_owned(),
                size: record.size,
                modified: record.modified,
                etag: record.etag,
            });
        }
        let is_truncated = page.len() > query.max;
        page.truncate(query.max);
        Ok((page, is_truncated))
    })
}

/// Where the keys of a page begin.
fn beginning(query: &ListQuery<'_>) -> Bound<String> {
    let in_prefix = query.after.strip_prefix(query.prefix);
    if query.after < query.prefix {
        return Bound::Included(query.prefix.to_owned());
    }
    // A folder that was listed as one line is over with all that is in it.
    if query.is_folded && in_prefix.is_some_and(|rest| rest.ends_with('/')) {
        return Bound::Included(after_all_of(query.after));
    }
    Bound::Excluded(query.after.to_owned())
}

/// What comes after all keys that begin with this folder, which ends in a slash.
fn after_all_of(folder: &str) -> String {
    // 0 follows / in ASCII.
    format!("{}0", folder.strip_suffix('/').unwrap_or(folder))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::super::disk::Durability;
    use super::super::group::Content;
    use super::super::record::Attributes;
    use super::super::store::WriteCondition;
    use super::*;
    use bytes::Bytes;

    fn store_with(keys: &[&str]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::ProcessCrash).unwrap();
        let puts: Vec<_> = keys
            .iter()
            .map(|key| {
                let content = Content::Memory(Bytes::from_static(b"bytes"));
                let (etag, attributes) = (String::new(), Attributes::default());
                let condition = WriteCondition::default();
                store.put((*key).to_owned(), content, etag, attributes, condition)
            })
            .collect();
        for put in puts {
            put.wait().unwrap();
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
    fn a_key_may_be_the_folder_of_others() {
        let (_folder, store) = store_with(&["a", "a/", "a/b", "a0"]);
        let page = |is_folded, after| {
            let query = ListQuery {
                after,
                is_folded,
                max: 10,
                ..ListQuery::default()
            };
            let (page, _) = list(&store, &query).unwrap();
            page.iter()
                .map(|listed| listed.name().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(page(false, ""), ["a", "a/", "a/b", "a0"]);
        assert_eq!(page(true, ""), ["a", "a/", "a0"]);
        assert_eq!(page(true, "a/"), ["a0"]);
        assert_eq!(page(true, "a"), ["a/", "a0"]);
    }

    #[test]
    fn ten_thousand_keys_are_listed_whole_and_in_order_whatever_the_page() {
        let keys: Vec<String> = (0..10_000)
            .map(|number| format!("t/{}/{number}", number % 7))
            .collect();
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let (_folder, store) = store_with(&names);
        let mut wanted = keys.clone();
        wanted.sort_unstable();
        for max in [999, 1000, 10_000] {
            let mut all: Vec<String> = Vec::new();
            loop {
                let after = all.last().cloned().unwrap_or_default();
                let query = ListQuery {
                    prefix: "t/",
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
            assert_eq!(all, wanted, "pages of {max}");
        }
    }
}
