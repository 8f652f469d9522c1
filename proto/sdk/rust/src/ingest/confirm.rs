//! Confirms what landed, in pages: while one call is in flight the next page gathers.

use std::time::Duration;

use caudal_proto::status::from_parts;
use caudal_proto::v1;
use caudal_proto::v1::confirmation::Result as Answer;
use tokio::sync::mpsc;

use super::IngestError;
use super::progress::{Board, Silent};
use crate::client::Client;
use crate::retry::Backoff;
use crate::walk::{NotTaken, Problem};

const CONFIRMATIONS_A_PAGE: usize = 1_000;
/// How long a page that is not full waits for more.
const GATHER_FOR: Duration = Duration::from_millis(20);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A file whose bytes are in the store.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    pub(super) uploaded: v1::Uploaded,
    pub(super) path: String,
}

/// Confirms until nothing lands any more.
pub(super) async fn confirm(
    client: &Client,
    batch: &str,
    mut landed: mpsc::Receiver<Landed>,
    board: &Board,
) -> Result<(), IngestError> {
    let mut page = Vec::with_capacity(CONFIRMATIONS_A_PAGE);
    while landed.recv_many(&mut page, CONFIRMATIONS_A_PAGE).await > 0 {
        gather(&mut landed, &mut page).await;
        confirm_page(client, batch, std::mem::take(&mut page), board).await?;
    }
    Ok(())
}

/// Waits a moment for more: many small files land one by one, and a call for each would meet the tenant's rate.
async fn gather(landed: &mut mpsc::Receiver<Landed>, page: &mut Vec<Landed>) {
    let send_at = tokio::time::Instant::now() + GATHER_FOR;
    while page.len() < CONFIRMATIONS_A_PAGE {
        let room = CONFIRMATIONS_A_PAGE - page.len();
        match tokio::time::timeout_at(send_at, landed.recv_many(page, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn confirm_page(
    client: &Client,
    batch: &str,
    mut page: Vec<Landed>,
    board: &Board,
) -> Result<(), IngestError> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let uploads = page.iter().map(|one| one.uploaded.clone()).collect();
        let confirmations = client.confirm_uploads(batch, uploads).await?;
        let mut again = Vec::new();
        let mut confirmed: u64 = 0;
        for (one, confirmation) in page.into_iter().zip(confirmations) {
            match confirmation.result {
                Some(Answer::Error(error)) => {
                    if from_parts(&error).is_retryable() {
                        board.silence(Silent::Store, Some(&error.message));
                        again.push(one);
                    } else {
                        board.give_up(Problem {
                            path: one.path,
                            why: NotTaken::Refused(error.message),
                        });
                    }
                }
                Some(Answer::State(_)) | None => confirmed += 1,
            }
        }
        board.update(|progress| progress.confirmed_files += confirmed);
        if again.is_empty() {
            if backoff.attempts() > 0 {
                board.silence(Silent::Store, None);
            }
            return Ok(());
        }
        page = again;
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
