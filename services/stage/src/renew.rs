//! Keeps the leases of everything held, and stops what is no longer wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::limits::MAX_FILES_PER_CALL;
use caudal_proto::mesh::v1::{ProcessWait, RenewVerdict};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// Looks at the book in one renewal interval: a lease is renewed at most this part of the interval late.
const LOOKS_AN_INTERVAL: u32 = 4;
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// Renews until `ended`: also during a drain, for what still runs or waits for an answer.
pub(crate) async fn renew(core: Arc<Core>, ended: CancellationToken) {
    loop {
        let interval = core.renewal_interval();
        tokio::select! {
            () = tokio::time::sleep((interval / LOOKS_AN_INTERVAL).max(SHORTEST_LOOK)) => {}
            () = ended.cancelled() => return,
        }
        let asked_at = Instant::now();
        let due = core.book.due(asked_at, MAX_FILES_PER_CALL);
        let waiting = core.gate.waiting();
        if due.held.is_empty() && waiting.is_none() {
            continue;
        }
        let wait = waiting.map(|waiting| ProcessWait {
            stage: core.stage.name().to_owned(),
            waiting: Some(waiting.to_proto()),
        });
        let answer = tokio::select! {
            answer = core.ledger.renew(core.process, &due, wait, interval) => answer,
            () = ended.cancelled() => return,
        };
        match answer {
            Ok(verdicts) => {
                for (key, verdict) in due.held.iter().zip(verdicts) {
                    if verdict == RenewVerdict::Stop as i32 {
                        core.metrics.renew_stops.inc();
                        core.book.stop(key);
                    } else {
                        core.metrics.renewals.inc();
                        core.book.renewed(key, asked_at + interval);
                    }
                }
            }
            // They stay due, so the next look asks again.
            Err(error) => core.unanswered("renew", &error),
        }
    }
}
