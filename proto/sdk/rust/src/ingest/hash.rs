//! Reads each file once before it is announced: what its checksum is, and whether it can be read at all. Content that the
//! tenant holds is not sent then, and a file that cannot be read is not announced.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use caudal_domain::limits::MAX_FILE_BYTES;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::progress::Board;
use crate::walk::{Found, FoundFile, NotTaken, Problem};

const READ_BYTES: usize = 256 * 1024;
/// Files read at once at most.
const MOST_AT_ONCE: usize = 8;

/// Reads what the walk found, in its order.
pub(super) async fn hash(found: mpsc::Receiver<Found>, hashed: mpsc::Sender<Found>, board: &Board) {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let read = futures::stream::unfold(found, |mut found| async {
        found.recv().await.map(|one| (one, found))
    })
    .map(read)
    .buffered(at_once.min(MOST_AT_ONCE));
    let mut read = std::pin::pin!(read);
    while let Some(one) = read.next().await {
        match one {
            Read::Good(found) => {
                if hashed.send(found).await.is_err() {
                    return;
                }
            }
            Read::Bad(problem, size) => {
                board.update(|progress| {
                    progress.found_files -= 1;
                    progress.found_bytes -= size;
                });
                board.report(problem);
            }
        }
    }
}

enum Read {
    Good(Found),
    Bad(Problem, u64),
}

async fn read(found: Found) -> Read {
    let Found::File(mut file) = found else {
        return Read::Good(found);
    };
    if file.size > MAX_FILE_BYTES {
        // The gateway refuses it by name, and reading it first would take hours.
        return Read::Good(Found::File(file));
    }
    let local = file.local.clone();
    let size = file.size;
    let read = tokio::task::spawn_blocking(move || sha256_of(&local, size)).await;
    let why = match read {
        Ok(Ok(sha256)) => {
            // One that grew or shrank meanwhile is told of when its bytes are sent.
            file.sha256 = sha256;
            return Read::Good(Found::File(file));
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => NotTaken::Vanished,
        Ok(Err(error)) => NotTaken::Unreadable(error.to_string()),
        Err(error) => NotTaken::Unreadable(error.to_string()),
    };
    let FoundFile { path, size, .. } = file;
    let path = path.as_str().to_owned();
    Read::Bad(Problem { path, why }, size)
}

/// The checksum of a file that has this size; none where it has another.
fn sha256_of(path: &Path, size: u64) -> io::Result<Option<[u8; 32]>> {
    let mut file = fs::File::open(path)?.take(size + 1);
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES) + 1)];
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        total += read as u64;
    }
    Ok((total == size).then(|| sha256.finalize().into()))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_domain::RelativePath;

    #[tokio::test]
    async fn files_keep_their_order_and_one_that_cannot_be_read_is_not_announced() {
        let folder = tempfile::tempdir().unwrap();
        let (out, found) = mpsc::channel(10);
        let (hashed, mut read) = mpsc::channel(10);
        let board = Board::new();
        for (name, text) in [
            ("a", Some("abc")),
            ("b", None),
            ("c", Some("")),
            ("d", Some("grew")),
        ] {
            let local = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&local, text).unwrap();
            }
            let size = if name == "d" {
                3
            } else {
                text.map_or(1, str::len) as u64
            };
            board.update(|progress| {
                progress.found_files += 1;
                progress.found_bytes += size;
            });
            out.send(Found::File(FoundFile {
                path: RelativePath::parse(name).unwrap(),
                local,
                size,
                modified: None,
                sha256: None,
            }))
            .await
            .unwrap();
        }
        drop(out);
        hash(found, hashed, &board).await;
        let mut files = Vec::new();
        while let Some(Found::File(file)) = read.recv().await {
            let sum = file.sha256.map(|sum| sum[..3].to_vec());
            files.push((file.path.as_str().to_owned(), sum));
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(files[0].1.as_deref(), Some(&[0xba, 0x78, 0x16][..]));
        assert_eq!(files[1].1.as_deref(), Some(&[0xe3, 0xb0, 0xc4][..]));
        assert_eq!(files[2].1, None);
        assert_eq!(board.progress().found_files, 3);
        assert_eq!(board.problems().first[0].why, NotTaken::Vanished);
    }

    #[tokio::test]
    async fn a_file_that_no_store_takes_is_not_read_before_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("huge");
        let huge = fs::File::create(&local).unwrap();
        // Not a byte of it is on the disk.
        huge.set_len(MAX_FILE_BYTES + 1).unwrap_or_default();
        let file = FoundFile {
            path: RelativePath::parse("huge").unwrap(),
            local,
            size: MAX_FILE_BYTES + 1,
            modified: None,
            sha256: None,
        };
        let Read::Good(Found::File(file)) = read(Found::File(file)).await else {
            panic!("it is for the gateway to refuse");
        };
        assert_eq!(file.sha256, None);
    }
}
