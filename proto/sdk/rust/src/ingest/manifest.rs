//! Sends the manifest in pages while the walk goes on.

use std::time::Duration;

use caudal_domain::{PageFull, PathLoad};
use caudal_proto::v1;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::Code;

use super::progress::Board;
use super::{IngestError, Waiting};
use crate::client::Client;
use crate::error::{ClientError, RemoteRefusal};
use crate::walk::{Found, FoundFile, NotTaken, Problem};

const ENTRIES_A_PAGE: usize = 1_000;
/// Encoded bytes of a page, well below the largest message.
const BYTES_A_PAGE: usize = 3 * 1024 * 1024;
/// Pages under way at once: while one is answered the ledger works on the next, and takes both in one transaction where it can.
const PAGES_AT_ONCE: usize = 2;
/// How long a page that is not full waits for the walk.
const GATHER_FOR: Duration = Duration::from_millis(50);

/// Sends what the walk finds; hands each file with its ordinal to the uploads. Answers how many files are new in the batch.
pub(super) async fn send(
    client: &Client,
    batch: &str,
    found: mpsc::Receiver<Found>,
    waiting: mpsc::Sender<Waiting>,
    board: &Board,
) -> Result<u32, IngestError> {
    let mut new: u32 = 0;
    let pages = stream::unfold(Pages { found, held: None }, |mut pages| async {
        pages.next().await.map(|page| (page, pages))
    });
    let listed = pages
        .map(|page| send_page(client, batch, page, board))
        .buffered(PAGES_AT_ONCE);
    let mut listed = std::pin::pin!(listed);
    while let Some(listed) = listed.next().await {
        let listed = listed?;
        new = new.saturating_add(listed.new);
        board.update(|progress| {
            let held: u64 = listed.held.iter().sum();
            let held_files = listed.held.len() as u64;
            progress.listed_files += listed.waiting.len() as u64 + held_files;
            progress.unchanged_files += held_files;
            progress.uploaded_files += held_files;
            progress.uploaded_bytes += held;
            progress.confirmed_files += held_files;
        });
        for file in listed.waiting {
            if waiting.send(file).await.is_err() {
                // The uploads ended with an error, which is the one to show.
                return Ok(new);
            }
        }
    }
    Ok(new)
}

/// What became of a page.
#[derive(Debug, Default)]
struct Listed {
    /// Files that the batch did not have before.
    new: u32,
    /// Files whose bytes are to be sent, unless they arrived before.
    waiting: Vec<Waiting>,
    /// Sizes of files whose content the tenant holds.
    held: Vec<u64>,
}

/// Cuts what the walk finds into pages that the gateway takes.
struct Pages {
    found: mpsc::Receiver<Found>,
    /// Found already, and not in the page before because that was full.
    held: Option<Found>,
}

impl Pages {
    async fn next(&mut self) -> Option<Vec<Found>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.found.recv().await?,
        };
        let mut load = PathLoad::default();
        // Any page has room for one.
        let _ = add(&mut load, &first);
        let mut bytes = entry_bytes(&first);
        let mut page = vec![first];
        let full_at = tokio::time::Instant::now() + GATHER_FOR;
        while page.len() < ENTRIES_A_PAGE && bytes < BYTES_A_PAGE {
            match tokio::time::timeout_at(full_at, self.found.recv()).await {
                Ok(Some(next)) => {
                    if add(&mut load, &next).is_err() {
                        self.held = Some(next);
                        break;
                    }
                    bytes += entry_bytes(&next);
                    page.push(next);
                }
                Ok(None) | Err(_) => break,
            }
        }
        Some(page)
    }
}

fn add(load: &mut PathLoad, found: &Found) -> Result<(), PageFull> {
    match found {
        Found::File(file) => load.add_file(&file.path),
        Found::EmptyFolder(path) => load.add_folder(path),
        Found::Problem(_) => Ok(()),
    }
}

fn entry_bytes(found: &Found) -> usize {
    const ALL_BUT_THE_PATH: usize = 64;
    match found {
        Found::File(file) => file.path.as_str().len() + ALL_BUT_THE_PATH,
        Found::EmptyFolder(path) => path.as_str().len() + ALL_BUT_THE_PATH,
        Found::Problem(problem) => problem.path.len(),
    }
}

/// Sends one page. Entries that the gateway refuses by name are reported and left out, and the rest is sent again:
/// one bad path must not cost its neighbours.
async fn send_page(
    client: &Client,
    batch: &str,
    mut page: Vec<Found>,
    board: &Board,
) -> Result<Listed, IngestError> {
    loop {
        let entries: Vec<v1::Entry> = page.iter().filter_map(entry).collect();
        if entries.is_empty() {
            return Ok(Listed::default());
        }
        let refused = match client.add_entries(batch, entries).await {
            Ok(answer) => return with_ordinals(page, &answer),
            Err(ClientError::Refused(refused)) => refused,
            Err(other) => return Err(other.into()),
        };
        let bad = entries_named_in(&refused, page.len());
        if bad.is_empty() {
            return Err(ClientError::Refused(refused).into());
        }
        for (index, description) in bad.into_iter().rev() {
            let is_in_the_batch = refused.code == Code::AlreadyExists;
            if let Found::File(file) = &mut page[index]
                && is_in_the_batch
                && file.sha256.take().is_some()
            {
                // Whoever announced it first may have given no checksum.
                continue;
            }
            let (path, bytes) = match page.remove(index) {
                Found::File(file) => (file.path.as_str().to_owned(), Some(file.size)),
                Found::EmptyFolder(path) => (path.as_str().to_owned(), None),
                Found::Problem(problem) => (problem.path, None),
            };
            if let Some(bytes) = bytes {
                board.update(|progress| {
                    progress.found_files -= 1;
                    progress.found_bytes -= bytes;
                });
            }
            let why = match is_in_the_batch {
                true => NotTaken::OtherInBatch,
                false => NotTaken::Refused(description),
            };
            board.report(Problem { path, why });
        }
    }
}

fn entry(found: &Found) -> Option<v1::Entry> {
    let (path, kind) = match found {
        Found::File(file) => (&file.path, v1::entry::Kind::File(file_entry(file))),
        Found::EmptyFolder(path) => (path, v1::entry::Kind::Directory(v1::DirectoryEntry {})),
        Found::Problem(_) => return None,
    };
    Some(v1::Entry {
        path: path.as_str().to_owned(),
        kind: Some(kind),
    })
}

fn file_entry(file: &FoundFile) -> v1::FileEntry {
    v1::FileEntry {
        size: i64::try_from(file.size).unwrap_or(i64::MAX),
        sha256: file.sha256.map_or_else(Vec::new, |sha256| sha256.to_vec()),
        modified_time: file.modified.map(prost_types::Timestamp::from),
        ..v1::FileEntry::default()
    }
}

/// Indexes of the entries that a refusal names as `entries[i]…`, ascending and each once, with what is wrong.
fn entries_named_in(refused: &RemoteRefusal, entries: usize) -> Vec<(usize, String)> {
    if !matches!(refused.code, Code::InvalidArgument | Code::AlreadyExists) {
        return Vec::new();
    }
    let mut named: Vec<(usize, String)> = refused
        .violations
        .iter()
        .filter_map(|violation| {
            let index = violation
                .field
                .strip_prefix("entries[")?
                .split(']')
                .next()?
                .parse()
                .ok()?;
            (index < entries).then(|| (index, violation.description.clone()))
        })
        .collect();
    named.sort_by_key(|(index, _)| *index);
    named.dedup_by_key(|(index, _)| *index);
    named
}

fn with_ordinals(page: Vec<Found>, answer: &v1::AddEntriesResponse) -> Result<Listed, IngestError> {
    let already_held: std::collections::HashSet<usize> = answer
        .already_held
        .iter()
        .map(|index| *index as usize)
        .collect();
    let mut listed = Listed {
        new: answer.new_count,
        ..Listed::default()
    };
    let mut given = answer.ordinals.iter().copied();
    let mut dense = answer.first_ordinal..;
    for (index, found) in page.into_iter().enumerate() {
        let Found::File(file) = found else { continue };
        let ordinal = if answer.ordinals.is_empty() {
            dense.next()
        } else {
            given.next()
        };
        let ordinal = ordinal.ok_or_else(|| ClientError::Nonsense {
            call: "AddEntries",
            why: "fewer ordinals than file entries".to_owned(),
        })?;
        if already_held.contains(&index) {
            listed.held.push(file.size);
        } else {
            listed.waiting.push(Waiting { ordinal, file });
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_domain::{Refusal, RelativePath};
    use caudal_proto::status::{from_status, to_status};

    fn file(path: &str) -> Found {
        Found::File(FoundFile {
            path: RelativePath::parse(path).unwrap(),
            local: path.into(),
            size: 1,
            modified: None,
            sha256: None,
        })
    }

    fn ordinals(listed: &Listed) -> Vec<(u32, &str)> {
        listed
            .waiting
            .iter()
            .map(|waiting| (waiting.ordinal, waiting.file.path.as_str()))
            .collect()
    }

    #[tokio::test]
    async fn a_tree_of_deep_folders_is_cut_into_pages_that_the_gateway_takes() {
        let down = ["down"; 10].join("/");
        let (out, found) = mpsc::channel(2_000);
        for number in 0..1_000 {
            out.send(file(&format!("{number}/{down}/file.txt")))
                .await
                .unwrap();
        }
        out.send(Found::EmptyFolder(RelativePath::parse("a/b").unwrap()))
            .await
            .unwrap();
        drop(out);
        let mut pages = Pages { found, held: None };
        let mut sizes = Vec::new();
        let mut paths = Vec::new();
        while let Some(page) = pages.next().await {
            let mut load = PathLoad::default();
            for found in &page {
                add(&mut load, found).unwrap();
                paths.extend(entry(found).map(|entry| entry.path));
            }
            sizes.push(page.len());
        }
        // Eleven folders each.
        assert_eq!(sizes, [363, 363, 275]);
        assert_eq!(paths.len(), 1_001);
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 1_001);
    }

    #[test]
    fn dense_ordinals_skip_folders() {
        let page = vec![
            file("a"),
            Found::EmptyFolder(RelativePath::parse("b").unwrap()),
            file("c"),
        ];
        let answer = v1::AddEntriesResponse {
            first_ordinal: 7,
            new_count: 2,
            ..Default::default()
        };
        assert_eq!(
            ordinals(&with_ordinals(page, &answer).unwrap()),
            [(7, "a"), (8, "c")]
        );
    }

    #[test]
    fn held_files_are_not_uploaded() {
        let answer = v1::AddEntriesResponse {
            ordinals: vec![4, 9],
            already_held: vec![0],
            ..Default::default()
        };
        let listed = with_ordinals(vec![file("a"), file("b")], &answer).unwrap();
        assert_eq!(ordinals(&listed), [(9, "b")]);
        assert_eq!(listed.held, [1]);
    }

    #[test]
    fn a_refusal_names_each_bad_entry_once() {
        let refusal = Refusal::invalid("entries[2].path", "twice")
            .with_violation("entries[0].path", "bad")
            .with_violation("entries[2].file", "again")
            .with_violation("batch", "elsewhere")
            .with_violation("entries[9].path", "beyond");
        let refused = from_status(&to_status(&refusal));
        assert_eq!(
            entries_named_in(&refused, 3),
            [(0, "bad".to_owned()), (2, "twice".to_owned())]
        );
    }
}
