//! Frees the landing objects of recorded files. The answer RECORDED alone is no reason to: a database that answered OK and
//! then lost the commit has forgotten where the verified bytes are, and what landed is all that its files can begin from
//! again. So an object waits for a while, and goes when a reader of the database sees the result (protocol 12.4). What is
//! not freed here is left to a collector.

use std::sync::Arc;

use caudal_domain::Generation;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::book::Key;
use crate::core::Core;
use crate::landing::Waiting;

/// Frees what is due until `ended`; what still waits then stays.
pub(crate) async fn free(core: Arc<Core>, ended: CancellationToken) {
    let freeing = async {
        loop {
            core.landings.until_due().await;
            free_what_is_due(&core).await;
        }
    };
    tokio::select! {
        () = freeing => {}
        () = ended.cancelled() => {}
    }
    let objects = core.landings.waiting();
    if objects > 0 {
        tracing::info!(stage = %core.stage, objects, "landing objects stay for the collector");
    }
}

async fn free_what_is_due(core: &Core) {
    loop {
        let page = core.landings.take_due(Instant::now());
        if page.is_empty() {
            return;
        }
        let not_freed = free_page(core, page).await;
        core.landings.put_back(not_freed, Instant::now());
    }
}

/// Deletes what a reader sees; returns the others.
async fn free_page(core: &Core, page: Vec<Waiting>) -> Vec<Waiting> {
    let executions: Vec<(Key, Generation)> = page
        .iter()
        .map(|waiting| (waiting.landed.key, waiting.landed.generation))
        .collect();
    let seen = match core.ledger.check_recorded(core.stage, &executions).await {
        Ok(seen) => seen,
        Err(error) => {
            core.unanswered("check recorded", &error);
            return page;
        }
    };
    let (mut seen_ones, mut others) = (Vec::new(), Vec::new());
    for (waiting, seen) in page.into_iter().zip(seen) {
        if seen {
            seen_ones.push(waiting);
        } else {
            others.push(waiting);
        }
    }
    if !others.is_empty() {
        tracing::error!(stage = %core.stage, files = others.len(),
            "results that were answered RECORDED are not seen in the database: their landing objects are kept");
    }
    let objects: Vec<String> = seen_ones
        .iter()
        .map(|waiting| waiting.landed.object.clone())
        .collect();
    match core.objects.delete_many(&objects).await {
        Ok(()) => core.landings.freed(objects.len()),
        Err(error) => {
            if let Some(times) = core.said_unfreed.next() {
                tracing::warn!(stage = %core.stage, key = error.key(), %error, objects = objects.len(), times,
                    "landing objects are not deleted yet");
            }
            others.append(&mut seen_ones);
        }
    }
    others
}
