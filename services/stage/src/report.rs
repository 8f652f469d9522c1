//! Reports outcomes: they gather while one report is on its way.

use std::collections::VecDeque;
use std::sync::Arc;

use caudal_domain::Reason;
use caudal_proto::mesh::v1::report::Outcome;
use caudal_proto::mesh::v1::{Report, ReportVerdict};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;

use crate::backoff::Backoff;
use crate::book::Key;
use crate::core::Core;
use crate::failure::Failure;
use crate::landing::Landed;
use crate::wire::failure_to_proto;

/// Outcomes in one call at most.
const REPORT_PAGE: usize = 2_048;
/// Bytes of outcomes in one call at most, half of what a message may hold.
const REPORT_BYTES: usize = caudal_domain::limits::MAX_MESSAGE_BYTES / 2;

/// The end of one execution.
pub(crate) struct Ended {
    pub(crate) key: Key,
    pub(crate) report: Report,
    /// To be freed some time after it is recorded.
    pub(crate) landed: Option<Landed>,
    /// The ledger refused this report once: what is sent now says so instead of the outcome.
    pub(crate) refused_once: bool,
}

/// Reports until `ended` closes, then until nothing is left or the deadline.
pub(crate) async fn report(core: Arc<Core>, mut ended: mpsc::Receiver<Ended>) {
    let mut gathered: VecDeque<Ended> = VecDeque::new();
    loop {
        if gathered.is_empty() {
            match ended.recv().await {
                Some(first) => gathered.push_back(first),
                None => return,
            }
        }
        while gathered.len() < REPORT_PAGE
            && let Ok(next) = ended.try_recv()
        {
            gathered.push_back(next);
        }
        let page = next_page(&mut gathered);
        if !report_page(&core, page).await {
            return;
        }
    }
}

fn next_page(gathered: &mut VecDeque<Ended>) -> Vec<Ended> {
    let mut page = Vec::new();
    let mut bytes = 0;
    while page.len() < REPORT_PAGE
        && let Some(next) = gathered.front()
    {
        bytes += next.report.encoded_len();
        if bytes > REPORT_BYTES && !page.is_empty() {
            break;
        }
        page.extend(gathered.pop_front());
    }
    page
}

/// Reports a page until it is answered; false when the deadline came first. A page that the ledger refuses is halved until
/// the refused outcome stands alone; that one is then reported as a fault of the system.
async fn report_page(core: &Core, page: Vec<Ended>) -> bool {
    let mut pages = vec![page];
    while let Some(mut page) = pages.pop() {
        let mut backoff = Backoff::new();
        loop {
            let keys: Vec<Key> = page.iter().map(|ended| ended.key).collect();
            let reports = page.iter().map(|ended| ended.report.clone()).collect();
            let answer = tokio::select! {
                answer = core.ledger.report(&core.version, core.process, core.allowed_slots(), &keys, reports) => answer,
                () = core.deadline.cancelled() => return false,
            };
            match answer {
                Ok(verdicts) => {
                    for (ended, verdict) in page.into_iter().zip(verdicts) {
                        take_verdict(core, ended, verdict);
                    }
                    break;
                }
                Err(error) if is_refusal(&error) && page.len() > 1 => {
                    let rest = page.split_off(page.len() / 2);
                    pages.push(rest);
                    pages.push(page);
                    break;
                }
                Err(error) if is_refusal(&error) => {
                    let Some(refused) = page.pop() else {
                        break;
                    };
                    tracing::error!(stage = %core.stage, file = ?refused.key.0, %error, "the ledger refuses a report");
                    core.set_last_error(format!("report refused: {error}"));
                    if refused.refused_once {
                        core.book.abandon(&refused.key);
                        break;
                    }
                    let failure = Failure::new(
                        Reason::Internal,
                        format!("the report was refused: {}", error.message()),
                    );
                    let failed = Outcome::Failed(failure_to_proto(&failure, String::new()));
                    page.push(Ended {
                        key: refused.key,
                        report: Report {
                            outcome: Some(failed),
                            took_us: refused.report.took_us,
                        },
                        landed: None,
                        refused_once: true,
                    });
                }
                Err(error) => {
                    core.unanswered("report", &error);
                    if !backoff.wait_unless(&core.deadline).await {
                        return false;
                    }
                }
            }
        }
    }
    true
}

/// Whether the ledger has read the call and will never take it. INTERNAL is what it answers to what it cannot decide: whoever
/// repeats that brings it to the next ledger too.
fn is_refusal(error: &tonic::Status) -> bool {
    matches!(
        error.code(),
        Code::InvalidArgument | Code::OutOfRange | Code::Internal
    )
}

fn take_verdict(core: &Core, ended: Ended, verdict: i32) {
    let recorded = verdict == ReportVerdict::Recorded as i32;
    match (&ended.report.outcome, recorded) {
        (_, false) => core.metrics.superseded.add(),
        (Some(Outcome::Failed(_)), true) => core.metrics.failed.add(),
        (_, true) => core.metrics.recorded.add(),
    }
    core.book.settle(&ended.key);
    if recorded && let Some(landed) = ended.landed {
        core.landings.add(landed, Instant::now());
    }
}
