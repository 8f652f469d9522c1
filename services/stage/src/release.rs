//! Ends of the way that are not outcomes: giving back, acknowledging, and asking for a reconcile pass.

use std::sync::Arc;

use caudal_domain::limits::MAX_FILES_PER_CALL;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::book::{Key, Phase};
use crate::core::Core;

/// Entries acknowledged in one round trip at most.
const ACKNOWLEDGE_PAGE: usize = 4_096;

/// Gives dispatches back until `keys` ends; their entries are acknowledged once the ledger has taken them.
pub(crate) async fn release(core: Arc<Core>, mut keys: mpsc::Receiver<Key>) {
    let mut page = Vec::new();
    while keys.recv_many(&mut page, MAX_FILES_PER_CALL).await > 0 {
        for key in &page {
            core.book.advance(key, Phase::Answering);
        }
        let mut backoff = Backoff::new();
        loop {
            let answer = tokio::select! {
                answer = core.ledger.release(core.process, &page) => answer,
                () = core.deadline.cancelled() => return,
            };
            match answer {
                Ok(()) => break,
                Err(error) => core.unanswered("release", &error),
            }
            if !backoff.wait_unless(&core.deadline).await {
                return;
            }
        }
        for key in page.drain(..) {
            core.metrics.released.add();
            core.book.settle(&key);
        }
    }
}

/// Acknowledges closed entries, all that have gathered in one round trip, until `ended` and nothing is left.
pub(crate) async fn acknowledge(core: Arc<Core>, ended: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        let last_round = ended.is_cancelled();
        let closed = core.book.entries_closed.notified();
        let ids = core.book.closed_entries(ACKNOWLEDGE_PAGE);
        if ids.is_empty() {
            if last_round {
                return;
            }
            tokio::select! {
                () = closed => {}
                () = ended.cancelled() => {}
            }
            continue;
        }
        while let Err(error) = core.streams.acknowledge(core.stage, &ids).await {
            core.unanswered("acknowledge", &error);
            if !backoff.wait_unless(&core.deadline).await {
                return;
            }
        }
        backoff = Backoff::new();
        core.metrics.entries_acknowledged.inc_by(ids.len() as u64);
        core.metrics
            .held
            .set(i64::try_from(core.book.held()).unwrap_or(i64::MAX));
        core.book.acknowledged(ids.len());
    }
}

/// Asks the ledger for a reconcile pass whenever the stream's group was missing, until shutdown.
pub(crate) async fn ask_for_reconcile(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.reconcile_wanted.notified() => {}
            () = core.shutdown.cancelled() => return,
        }
        let mut backoff = Backoff::new();
        while let Err(error) = core.ledger.request_reconcile(core.stage).await {
            core.unanswered("request reconcile", &error);
            if !backoff.wait_unless(&core.shutdown).await {
                return;
            }
        }
    }
}
