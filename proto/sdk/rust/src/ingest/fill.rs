//! Brings a complete batch the bytes that it lacks: it takes no new files, so it is asked what it holds, and the folder is
//! compared with that by path and size.

use std::collections::HashMap;

use caudal_domain::Reason;
use caudal_proto::v1;
use tokio::sync::mpsc;

use super::progress::Board;
use super::{IngestError, Waiting};
use crate::client::Client;
use crate::walk::{Found, FoundFile, NotTaken, Problem};

const FILES_A_PAGE: i32 = 1_000;

/// A file of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    ordinal: u32,
    size: u64,
    /// Of its content, once that has arrived.
    sha256: Option<[u8; 32]>,
    lacks_bytes: bool,
}

impl Held {
    /// Whether this is the file that has arrived.
    fn is(&self, file: &FoundFile) -> bool {
        let is_other = |(held, found)| held != found;
        self.size == file.size && !self.sha256.zip(file.sha256).is_some_and(is_other)
    }
}

/// Every file of the batch, by its path. This is held in memory: some hundred bytes a file.
pub(super) async fn holds(
    client: &Client,
    batch: &str,
) -> Result<HashMap<String, Held>, IngestError> {
    let mut holds = HashMap::new();
    each(client, batch, &[], |file| {
        let held = Held {
            ordinal: file.ordinal,
            size: u64::try_from(file.size).unwrap_or_default(),
            sha256: file.sha256.as_slice().try_into().ok(),
            lacks_bytes: lacks_bytes(&file),
        };
        holds.insert(file.path, held);
    })
    .await?;
    Ok(holds)
}

fn lacks_bytes(file: &v1::File) -> bool {
    match file.state() {
        v1::FileState::Pending | v1::FileState::Uploading => true,
        v1::FileState::Failed => file
            .reason
            .as_ref()
            .is_some_and(|reason| Reason::from_code(&reason.code).is_some_and(Reason::needs_bytes)),
        _ => false,
    }
}

/// Hands each file of the batch in one of the states (in any, when there are none) to `take`.
pub(super) async fn each(
    client: &Client,
    batch: &str,
    states: &[v1::FileState],
    mut take: impl FnMut(v1::File),
) -> Result<(), IngestError> {
    let selector = v1::FileSelector {
        batch: batch.to_owned(),
        states: states.iter().map(|state| i32::from(*state)).collect(),
        ..v1::FileSelector::default()
    };
    let mut request = v1::ListFilesRequest {
        selector: Some(selector),
        page_size: FILES_A_PAGE,
        page_token: String::new(),
        view: v1::FileView::Basic.into(),
    };
    loop {
        let page = client.list_files(request.clone()).await?;
        page.files.into_iter().for_each(&mut take);
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

/// Hands what the batch lacks of what the walk finds to the uploads.
pub(super) async fn choose(
    mut holds: HashMap<String, Held>,
    mut found: mpsc::Receiver<Found>,
    waiting: mpsc::Sender<Waiting>,
    board: &Board,
) -> Result<(), IngestError> {
    while let Some(one) = found.recv().await {
        // Folders hold no bytes.
        let Found::File(file) = one else { continue };
        let path = file.path.as_str().to_owned();
        let why = match holds.remove(&path) {
            None => NotTaken::NotInBatch,
            Some(held) if !held.lacks_bytes && held.is(&file) => {
                arrived(board, &file);
                continue;
            }
            Some(held) if !held.lacks_bytes => NotTaken::ChangedSince,
            Some(held) if held.size != file.size => {
                not_sent(board, &file);
                board.give_up(Problem {
                    path,
                    why: NotTaken::OtherInBatch,
                });
                continue;
            }
            Some(held) => {
                let ordinal = held.ordinal;
                if waiting.send(Waiting { ordinal, file }).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        not_sent(board, &file);
        board.report(Problem { path, why });
    }
    for (path, _) in holds.into_iter().filter(|(_, held)| held.lacks_bytes) {
        let why = NotTaken::NotHere;
        board.give_up(Problem { path, why });
    }
    Ok(())
}

fn arrived(board: &Board, file: &FoundFile) {
    board.update(|progress| {
        progress.uploaded_files += 1;
        progress.uploaded_bytes += file.size;
        progress.confirmed_files += 1;
        progress.arrived_files += 1;
    });
}

fn not_sent(board: &Board, file: &FoundFile) {
    board.update(|progress| {
        progress.found_files -= 1;
        progress.found_bytes -= file.size;
    });
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_domain::RelativePath;

    fn found(path: &str, size: u64) -> Found {
        Found::File(FoundFile {
            path: RelativePath::parse(path).unwrap(),
            local: path.into(),
            size,
            modified: None,
            sha256: None,
        })
    }

    #[tokio::test]
    async fn only_what_the_batch_lacks_is_sent_and_everything_else_is_named() {
        let held = |ordinal, lacks_bytes| Held {
            ordinal,
            size: 5,
            sha256: Some([1; 32]),
            lacks_bytes,
        };
        let holds = HashMap::from([
            ("arrived".to_owned(), held(0, false)),
            ("lacks".to_owned(), held(1, true)),
            ("grown".to_owned(), held(2, true)),
            ("gone".to_owned(), held(3, true)),
            ("gone and arrived".to_owned(), held(4, false)),
            ("longer since".to_owned(), held(5, false)),
            ("other since".to_owned(), held(6, false)),
        ]);
        let (out, input) = mpsc::channel(10);
        let (waiting, mut chosen) = mpsc::channel(10);
        let board = Board::new();
        let walked = [
            ("arrived", 5, 1),
            ("lacks", 5, 1),
            ("grown", 6, 1),
            ("new", 5, 1),
            ("longer since", 7, 1),
            ("other since", 5, 2),
        ];
        for (path, size, content) in walked {
            board.update(|progress| {
                progress.found_files += 1;
                progress.found_bytes += size;
            });
            let Found::File(file) = found(path, size) else {
                panic!("a file is a file");
            };
            let sha256 = Some([content; 32]);
            out.send(Found::File(FoundFile { sha256, ..file }))
                .await
                .unwrap();
        }
        drop(out);
        choose(holds, input, waiting, &board).await.unwrap();
        assert_eq!(chosen.recv().await.unwrap().ordinal, 1);
        assert!(chosen.recv().await.is_none());
        let problems: Vec<(String, NotTaken)> = board
            .problems()
            .first
            .into_iter()
            .map(|problem| (problem.path, problem.why))
            .collect();
        assert_eq!(
            problems,
            [
                ("grown".to_owned(), NotTaken::OtherInBatch),
                ("new".to_owned(), NotTaken::NotInBatch),
                ("longer since".to_owned(), NotTaken::ChangedSince),
                ("other since".to_owned(), NotTaken::ChangedSince),
                ("gone".to_owned(), NotTaken::NotHere),
            ]
        );
        let progress = board.progress();
        assert_eq!((progress.arrived_files, progress.given_up), (1, 2));
        assert_eq!((progress.found_files, progress.found_bytes), (2, 10));
    }
}
