//! Publishes committed dispatches on the stage streams (protocol 3). The database holds them until Redis has accepted
//! them; a doubled message is harmless, because it carries a token.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use caudal_domain::Stage;
use caudal_streams::{Publisher, decode, encode};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::LedgerMetrics;
use crate::settings::DispatchWindows;
use crate::store::changes::OutboxRow;

/// Outbox rows kept in memory; what comes beyond is left to the sweep. The windows bound what can be out at all.
const HELD_ROWS: usize = 8_192;
/// Outbox rows published in one round trip.
const PAGE_ROWS: usize = 64;
/// Wait after Redis refused or did not answer: doubled up to the cap.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Book {
    pending: VecDeque<OutboxRow>,
    held: HashSet<u64>,
    relayed: Vec<u64>,
}

/// Gives rows to the relay, and takes back the ids of those that Redis accepted.
#[derive(Clone, Default)]
pub(crate) struct RelayHandle {
    book: Arc<Mutex<Book>>,
    work: Arc<Notify>,
}

impl RelayHandle {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes rows that are committed. A row that is held already is not taken twice.
    pub(crate) fn publish(&self, rows: Vec<OutboxRow>) {
        if rows.is_empty() {
            return;
        }
        let mut book = self.book();
        for row in rows {
            if book.held.len() >= HELD_ROWS {
                tracing::warn!("the relay is full; the sweep publishes what it has no room for");
                break;
            }
            if book.held.insert(row.id) {
                book.pending.push_back(row);
            }
        }
        drop(book);
        self.work.notify_one();
    }

    /// Ids that Redis accepted: the next group deletes them.
    pub(crate) fn take_relayed(&self) -> Vec<u64> {
        let mut book = self.book();
        let relayed = std::mem::take(&mut book.relayed);
        for id in &relayed {
            book.held.remove(id);
        }
        relayed
    }

    /// The group that was to delete them was not committed.
    pub(crate) fn give_back(&self, relayed: Vec<u64>) {
        let mut book = self.book();
        book.held.extend(relayed.iter().copied());
        book.relayed.extend(relayed);
    }

    pub(crate) fn has_relayed(&self) -> bool {
        !self.book().relayed.is_empty()
    }

    fn take_page(&self) -> Vec<OutboxRow> {
        let mut book = self.book();
        let count = book.pending.len().min(PAGE_ROWS);
        book.pending.drain(..count).collect()
    }

    fn settle(&self, accepted: impl IntoIterator<Item = u64>, refused: Vec<OutboxRow>) {
        let mut book = self.book();
        book.relayed.extend(accepted);
        for row in refused.into_iter().rev() {
            book.pending.push_front(row);
        }
    }
}

/// Publishes until `shutdown`. What is not published by then stays in the database.
pub(crate) async fn run(
    handle: RelayHandle,
    publisher: Publisher,
    windows: DispatchWindows,
    metrics: LedgerMetrics,
    shutdown: CancellationToken,
) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let page = handle.take_page();
        if page.is_empty() {
            tokio::select! {
                // What was given before the end is tried once more.
                biased;
                () = handle.work.notified() => continue,
                () = shutdown.cancelled() => return,
            }
        }
        let refused = publish_page(&handle, &publisher, &windows, &metrics, page).await;
        if !refused {
            backoff = FIRST_BACKOFF;
            continue;
        }
        metrics.relay_failures.inc();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// Publishes a page; whether anything of it must be tried again.
async fn publish_page(
    handle: &RelayHandle,
    publisher: &Publisher,
    windows: &DispatchWindows,
    metrics: &LedgerMetrics,
    page: Vec<OutboxRow>,
) -> bool {
    let mut entries: Vec<(Stage, Bytes)> = Vec::new();
    let mut owners = Vec::new();
    for (position, row) in page.iter().enumerate() {
        match entries_of(row, windows.packed(row.stage)) {
            Ok(bodies) => {
                for body in bodies {
                    entries.push((row.stage, body));
                    owners.push(position);
                }
            }
            // Cannot happen to a row that this program wrote; the reconciler sends its files out anew.
            Err(error) => {
                tracing::error!(%error, row = row.id, "an outbox row cannot be read; it is dropped");
            }
        }
    }
    let answers = match publisher.publish(&entries).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::warn!(%error, rows = page.len(), "publishing dispatches failed; they are tried again");
            handle.settle([], page);
            return true;
        }
    };
    let mut failed = HashSet::new();
    for (owner, answer) in owners.into_iter().zip(answers) {
        match answer {
            Ok(_) => {
                metrics.relayed.inc();
            }
            Err(error) => {
                tracing::warn!(%error, "Redis did not take a dispatch; it is tried again");
                failed.insert(owner);
            }
        }
    }
    let (refused, accepted): (Vec<_>, Vec<_>) = page
        .into_iter()
        .enumerate()
        .partition(|(position, _)| failed.contains(position));
    let refused: Vec<OutboxRow> = refused.into_iter().map(|(_, row)| row).collect();
    let any_refused = !refused.is_empty();
    handle.settle(accepted.into_iter().map(|(_, row)| row.id), refused);
    any_refused
}

fn entries_of(row: &OutboxRow, size: usize) -> Result<Vec<Bytes>, caudal_streams::DecodeError> {
    let dispatch = decode(&row.body)?;
    if dispatch.files.len() <= size {
        return Ok(vec![Bytes::copy_from_slice(&row.body)]);
    }
    Ok(dispatch
        .files
        .chunks(size)
        .map(|files| encode(files, dispatch.admitted_unix_ms))
        .collect())
}
