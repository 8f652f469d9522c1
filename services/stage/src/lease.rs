//! Asks the ledger for what was read: one call for all that has gathered.

use std::sync::Arc;

use caudal_proto::mesh::v1::{LeaseResponse, LeaseVerdict, Work};
use caudal_streams::Lane;
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::book::{Key, Phase};
use crate::core::Core;

/// Dispatches asked for in one call at most. The answer carries the inputs of each, and must fit into a message.
const LEASE_PAGE: usize = 256;

/// A dispatch that may be worked on.
pub(crate) struct Leased {
    pub(crate) key: Key,
    /// Boxed: it is handed on some times before it is run.
    pub(crate) work: Box<Work>,
    /// How it came.
    pub(crate) lane: Lane,
}

/// Leases until `keys` ends. At shutdown what has no answer yet is given back.
pub(crate) async fn lease(
    core: Arc<Core>,
    mut keys: mpsc::Receiver<Key>,
    to_run: mpsc::Sender<Leased>,
    to_release: mpsc::Sender<Key>,
) {
    let mut page_size = LEASE_PAGE;
    let mut page = Vec::new();
    while keys.recv_many(&mut page, LEASE_PAGE).await > 0 {
        let mut waiting = std::mem::take(&mut page);
        let mut backoff = Backoff::new();
        while !waiting.is_empty() {
            if core.shutdown.is_cancelled() {
                for key in waiting.drain(..) {
                    let _ = to_release.send(key).await;
                }
                break;
            }
            let asked = &waiting[..waiting.len().min(page_size)];
            let answer = tokio::select! {
                answer = core.ledger.lease(&core.version, core.process, asked) => answer,
                () = core.shutdown.cancelled() => continue,
            };
            match answer {
                Ok(response) => {
                    let answered = asked.len();
                    take_answer(&core, asked, response, &to_run).await;
                    waiting.drain(..answered);
                    backoff = Backoff::new();
                    page_size = (page_size * 2).min(LEASE_PAGE);
                }
                Err(error) => {
                    core.unanswered("lease", &error);
                    // An answer may also be missing because it does not fit into a message.
                    page_size = (page_size / 2).max(1);
                    backoff.wait_unless(&core.shutdown).await;
                }
            }
        }
    }
}

/// The link has checked that there is a verdict for each dispatch and a work for each that is granted.
async fn take_answer(
    core: &Core,
    asked: &[Key],
    response: LeaseResponse,
    to_run: &mpsc::Sender<Leased>,
) {
    core.set_lease(response.lease_ms);
    let mut works = response.works.into_iter();
    for (key, verdict) in asked.iter().zip(&response.verdicts) {
        if *verdict != LeaseVerdict::Granted as i32 {
            core.metrics.not_granted.add();
            core.book.settle(key);
            continue;
        }
        let Some(work) = works.next() else {
            continue;
        };
        core.metrics.leases.inc();
        if core.book.advance(key, Phase::Waiting).is_some() {
            let work = Box::new(work);
            let lane = core.book.lane(key);
            let _ = to_run
                .send(Leased {
                    key: *key,
                    work,
                    lane,
                })
                .await;
        }
    }
}
