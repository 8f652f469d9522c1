//! A page of the manifest, made valid: every error of the page is listed, or the page is ready for the writer.

use std::collections::HashMap;

use caudal_domain::{PathLoad, Refusal, RelativePath, Violations, limits};
use caudal_proto::convert::{json_from_struct, micros_from_timestamp, sha256_from_bytes};
use caudal_proto::v1;

use crate::store::time::Micros;
use crate::writer::manifest_page::{ManifestPage, NewEntry, NewFile};

/// Checks a page; it, and what its paths come to.
pub(super) fn parse(entries: &[v1::Entry]) -> Result<(ManifestPage, PathLoad), Refusal> {
    if entries.is_empty() || entries.len() > limits::MAX_ENTRIES_PER_PAGE {
        let description = format!(
            "has {} entries; send 1 to {} in a page",
            entries.len(),
            limits::MAX_ENTRIES_PER_PAGE
        );
        return Err(Refusal::invalid("entries", description));
    }
    let mut wrong = Violations::default();
    let mut parsed = Vec::with_capacity(entries.len());
    let mut paths = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        if wrong.is_full() {
            break;
        }
        match parse_entry(entry) {
            Ok((path, new)) => {
                paths.push((index, path, matches!(new, NewEntry::File(_))));
                parsed.push(new);
            }
            Err((field, description)) => {
                wrong.add(format!("entries[{index}].{field}"), description);
            }
        }
    }
    let load = load_of(&paths)?;
    clashes(&paths, &mut wrong);
    wrong.sort_by_key(|violation| entry_index(&violation.field));
    wrong.into_result()?;
    Ok((ManifestPage::new(parsed), load))
}

/// What the paths come to; a page of too much is refused before it is looked through.
fn load_of(paths: &[(usize, RelativePath, bool)]) -> Result<PathLoad, Refusal> {
    let mut load = PathLoad::default();
    for (_, path, is_file) in paths {
        let added = if *is_file {
            load.add_file(path)
        } else {
            load.add_folder(path)
        };
        added.map_err(|full| Refusal::invalid("entries", full.to_string()))?;
    }
    Ok(load)
}

fn entry_index(field: &str) -> usize {
    let digits = field
        .trim_start_matches("entries[")
        .split(']')
        .next()
        .unwrap_or_default();
    digits.parse().unwrap_or(usize::MAX)
}

type FieldError = (&'static str, String);

fn parse_entry(entry: &v1::Entry) -> Result<(RelativePath, NewEntry), FieldError> {
    let path = RelativePath::parse(&entry.path).map_err(|error| ("path", error.to_string()))?;
    match &entry.kind {
        Some(v1::entry::Kind::File(file)) => {
            let new = parse_file(&path, file)?;
            Ok((path, NewEntry::File(new)))
        }
        Some(v1::entry::Kind::Directory(_)) => {
            let folder = path.as_str().to_owned();
            Ok((path, NewEntry::Folder { path: folder }))
        }
        None => Err((
            "kind",
            "say whether it is a `file` or a `directory`".to_owned(),
        )),
    }
}

fn parse_file(path: &RelativePath, file: &v1::FileEntry) -> Result<NewFile, FieldError> {
    let size =
        u64::try_from(file.size).map_err(|_| ("file.size", "must not be negative".to_owned()))?;
    if size > limits::MAX_FILE_BYTES {
        let description = format!(
            "FILE_TOO_LARGE: {size} bytes; a file has at most {} (5 TiB), what a store holds as one object: split it, or leave it out",
            limits::MAX_FILE_BYTES
        );
        return Err(("file.size", description));
    }
    let sha256 =
        sha256_from_bytes(&file.sha256).map_err(|error| ("file.sha256", error.to_string()))?;
    let metadata = match &file.metadata {
        Some(metadata) => {
            let object =
                json_from_struct(metadata).map_err(|error| ("file.metadata", error.to_string()))?;
            let text = serde_json::Value::Object(object).to_string();
            if text.len() > limits::MAX_ENTRY_METADATA_BYTES {
                let description = format!(
                    "has {} bytes as JSON; at most {} are kept",
                    text.len(),
                    limits::MAX_ENTRY_METADATA_BYTES
                );
                return Err(("file.metadata", description));
            }
            Some(text)
        }
        None => None,
    };
    let modified_at = match &file.modified_time {
        Some(time) => {
            let micros = micros_from_timestamp(time)
                .map_err(|error| ("file.modified_time", error.to_string()))?;
            Some(Micros(micros))
        }
        None => None,
    };
    Ok(NewFile {
        path: path.as_str().to_owned(),
        size,
        sha256,
        metadata,
        modified_at,
    })
}

/// Paths that stand twice in the page, or as a file and a folder.
fn clashes(paths: &[(usize, RelativePath, bool)], wrong: &mut Violations) {
    let mut files: HashMap<&str, usize> = HashMap::new();
    for (index, path, is_file) in paths {
        if !is_file {
            continue;
        }
        if let Some(first) = files.insert(path.as_str(), *index) {
            let description = format!(
                "`{}` stands in entries[{first}] and entries[{index}]: every path once (names are compared in Unicode form NFC)",
                path.as_str()
            );
            wrong.add(format!("entries[{index}].path"), description);
        }
    }
    for (index, path, is_file) in paths {
        let itself = (!is_file).then_some(path.as_str());
        for folder in path.ancestors().chain(itself) {
            if wrong.is_full() {
                return;
            }
            if let Some(file) = files.get(folder) {
                let description = format!(
                    "`{folder}` is a folder here and a file in entries[{file}]: a path is a file or a folder"
                );
                wrong.add(format!("entries[{index}].path"), description);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn file(path: &str) -> v1::Entry {
        let file = v1::FileEntry {
            size: 1,
            ..v1::FileEntry::default()
        };
        v1::Entry {
            path: path.to_owned(),
            kind: Some(v1::entry::Kind::File(file)),
        }
    }

    #[test]
    fn every_error_of_a_page_is_listed_with_its_line() {
        let refusal = parse(&[
            file("../up"),
            file("a"),
            file("a"),
            file("a/b"),
            file("fine"),
        ])
        .unwrap_err();
        let fields: Vec<&str> = refusal
            .violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            ["entries[0].path", "entries[2].path", "entries[3].path"]
        );
        assert!(
            refusal.violations[1]
                .description
                .contains("entries[1] and entries[2]")
        );
    }

    #[test]
    fn names_that_differ_only_in_unicode_form_are_one_path() {
        assert!(parse(&[file("cafe\u{301}"), file("caf\u{e9}")]).is_err());
    }

    #[test]
    fn an_empty_page_is_refused() {
        assert_eq!(parse(&[]).unwrap_err().violations[0].field, "entries");
    }
}
