//! Publishes committed dispatches on the stage streams (protocol 3). The database holds them until Redis has accepted
//! them; a doubled message is harmless, because it carries a token.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use caudal_domain::Stage;
use caudal_node::Rarely;
use caudal_streams::{DecodeError, Lane, Publisher, decode, encode};
use tokio_util::sync::CancellationToken;

use crate::memory::relay_queue::RelayQueue;
use crate::metrics::LedgerMetrics;
use crate::settings::DispatchWindows;
use crate::store::outbox::OutboxRow;

/// Wait after Redis refused or did not answer: doubled up to the cap.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Publishes until `shutdown`. What is not published by then stays in the database.
pub(crate) async fn run(
    queue: RelayQueue,
    publisher: Publisher,
    windows: DispatchWindows,
    metrics: LedgerMetrics,
    shutdown: CancellationToken,
) {
    let mut backoff = FIRST_BACKOFF;
    let said = Rarely::default();
    loop {
        let page = queue.take_page();
        if page.is_empty() {
            tokio::select! {
                // What was given before the end is tried once more.
                biased;
                () = queue.given() => continue,
                () = shutdown.cancelled() => return,
            }
        }
        let rows = page.len();
        let Some(why) = publish_page(&queue, &publisher, &windows, &metrics, page).await else {
            backoff = FIRST_BACKOFF;
            continue;
        };
        metrics.relay_failures.inc();
        if let Some(times) = said.next() {
            tracing::warn!(
                error = why,
                rows,
                times,
                "Redis does not take dispatches; they are tried again"
            );
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// Publishes a page; why something of it must be tried again.
async fn publish_page(
    queue: &RelayQueue,
    publisher: &Publisher,
    windows: &DispatchWindows,
    metrics: &LedgerMetrics,
    page: Vec<OutboxRow>,
) -> Option<String> {
    let mut entries: Vec<(Stage, Lane, Bytes)> = Vec::new();
    let mut owners = Vec::new();
    for (position, row) in page.iter().enumerate() {
        match entries_of(row, windows.packed(row.stage)) {
            Ok((lane, bodies)) => {
                for body in bodies {
                    entries.push((row.stage, lane, body));
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
            queue.settle([], page);
            return Some(error.to_string());
        }
    };
    let (mut failed, mut why) = (HashSet::new(), None);
    for (owner, answer) in owners.into_iter().zip(answers) {
        match answer {
            Ok(_) => {
                metrics.relayed.inc();
            }
            Err(error) => {
                why.get_or_insert_with(|| error.to_string());
                failed.insert(owner);
            }
        }
    }
    let (refused, accepted): (Vec<_>, Vec<_>) = page
        .into_iter()
        .enumerate()
        .partition(|(position, _)| failed.contains(position));
    let refused: Vec<OutboxRow> = refused.into_iter().map(|(_, row)| row).collect();
    queue.settle(accepted.into_iter().map(|(_, row)| row.id), refused);
    why
}

fn entries_of(row: &OutboxRow, size: usize) -> Result<(Lane, Vec<Bytes>), DecodeError> {
    let dispatch = decode(&row.body)?;
    let (lane, at) = (dispatch.lane, dispatch.admitted_unix_ms);
    if dispatch.files.len() <= size {
        return Ok((lane, vec![Bytes::copy_from_slice(&row.body)]));
    }
    let pieces = dispatch.files.chunks(size);
    Ok((lane, pieces.map(|files| encode(files, lane, at)).collect()))
}
