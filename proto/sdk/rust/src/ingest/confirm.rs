//! Confirms what landed, in pages: while one call is in flight the next page gathers.

use std::time::Duration;

use caudal_domain::limits::MAX_CAUSE_CHARS;
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

/// What became of a file that was to be sent.
#[derive(Debug)]
pub(super) enum Sent {
    Landed(Landed),
    LeftOut(v1::LeftOut),
}

impl Sent {
    /// A file whose bytes will not come.
    pub(super) fn left_out(ordinal: u32, why: &NotTaken) -> Self {
        Self::LeftOut(left_out(ordinal, why))
    }
}

fn left_out(ordinal: u32, why: &NotTaken) -> v1::LeftOut {
    let cause = why.to_string().chars().take(MAX_CAUSE_CHARS).collect();
    v1::LeftOut { ordinal, cause }
}

/// Confirms until nothing lands any more, and tells the batch what was given up, and why.
pub(super) async fn confirm(
    client: &Client,
    batch: &str,
    mut sent: mpsc::Receiver<Sent>,
    board: &Board,
) -> Result<(), IngestError> {
    let mut page = Vec::with_capacity(CONFIRMATIONS_A_PAGE);
    while sent.recv_many(&mut page, CONFIRMATIONS_A_PAGE).await > 0 {
        gather(&mut sent, &mut page).await;
        let mut landed = Vec::new();
        let mut given_up = Vec::new();
        for one in page.drain(..) {
            match one {
                Sent::Landed(one) => landed.push(one),
                Sent::LeftOut(one) => given_up.push(one),
            }
        }
        if !landed.is_empty() {
            given_up.extend(confirm_page(client, batch, landed, board).await?);
        }
        if !given_up.is_empty() {
            client.leave_out_files(batch, given_up).await?;
        }
    }
    Ok(())
}

/// Waits a moment for more: many small files land one by one, and a call for each would meet the tenant's rate.
async fn gather(sent: &mut mpsc::Receiver<Sent>, page: &mut Vec<Sent>) {
    let send_at = tokio::time::Instant::now() + GATHER_FOR;
    while page.len() < CONFIRMATIONS_A_PAGE {
        let room = CONFIRMATIONS_A_PAGE - page.len();
        match tokio::time::timeout_at(send_at, sent.recv_many(page, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Answers what was refused for good.
async fn confirm_page(
    client: &Client,
    batch: &str,
    mut page: Vec<Landed>,
    board: &Board,
) -> Result<Vec<v1::LeftOut>, IngestError> {
    let mut refused = Vec::new();
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
                        let why = NotTaken::Refused(error.message);
                        refused.push(left_out(one.uploaded.ordinal, &why));
                        let path = one.path;
                        board.give_up(Problem { path, why });
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
            return Ok(refused);
        }
        page = again;
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
