//! What the reconciler concludes from rows and streams (protocol 8). It reads neither.

use std::collections::BTreeMap;
use std::time::Duration;

use caudal_domain::{FileRef, FileState, Stage, Token};
use caudal_streams::{Standing, StreamView};
use rustc_hash::FxHashMap;

use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::writer::verbs::look_up::LookedUp;
use crate::writer::verbs::repair::{KillCause, Repair};

/// The dispatches that stand in the stream of a stage.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// For how long each has been with a process; `None`: nobody has read it yet.
    idle: FxHashMap<(FileRef, Token), Option<Duration>>,
    /// There was more than could be looked at.
    truncated: bool,
}

impl Messages {
    pub(crate) fn of(view: &StreamView) -> Self {
        let mut messages = Self {
            idle: FxHashMap::default(),
            truncated: view.truncated,
        };
        for entry in &view.entries {
            let idle = match view.standing(&entry.id) {
                Standing::Undelivered => None,
                Standing::Pending(pending) => Some(pending.idle),
                Standing::Spent => continue,
            };
            messages.add(&entry.files, idle);
        }
        messages
    }

    /// An entry. Of two messages with one token the livelier decides.
    pub(crate) fn add(&mut self, files: &[(FileRef, Token)], idle: Option<Duration>) {
        for pair in files {
            let known = self.idle.entry(*pair).or_insert(idle);
            *known = match (*known, idle) {
                (Some(known), Some(idle)) => Some(known.min(idle)),
                _ => None,
            };
        }
    }
}

/// Dispatched rows that are old enough, and whose dispatch stands in no outbox row (protocol 8.1): with Redis full,
/// each pass would otherwise send everything out again and the outbox would grow without bound.
pub(crate) fn candidates(looked: &LookedUp, age: Duration) -> Vec<WorkRow> {
    let old = looked.now.minus(age);
    let is_candidate = |row: &&WorkRow| {
        row.dispatched_at.is_some_and(|at| {
            let oldest = looked.oldest_outbox.get(&row.stage);
            let published = oldest.is_none_or(|oldest| at < *oldest) || planted!(OutboxNotAsked);
            at < old && published
        })
    };
    looked.rows.iter().filter(is_candidate).cloned().collect()
}

/// What is to be done with each candidate (protocol 8.2, 8.3).
pub(crate) fn judge(
    candidates: &[WorkRow],
    messages: &BTreeMap<Stage, Messages>,
    now: Micros,
    lease: Duration,
) -> Repair {
    let none = Messages::default();
    let mut repairs = Repair::default();
    for row in candidates {
        let pair = (row.file, row.token);
        if let Some(until) = row.lease_until.filter(|_| !planted!(LiveLeaseRedispatched)) {
            if until < now || planted!(LiveLeaseKilled) {
                let (file, token) = pair;
                repairs.kill.push((file, token, KillCause::LeaseExpired));
            }
            continue;
        }
        let messages = messages.get(&row.stage).unwrap_or(&none);
        match messages.idle.get(&pair) {
            None if messages.truncated => {}
            None => repairs.redispatch.push(pair),
            Some(Some(idle)) if *idle >= lease => {
                // One that is still QUEUED was never leased: it is lost, and nobody is to blame.
                if row.state == FileState::Queued {
                    repairs.redispatch.push(pair);
                } else {
                    let (file, token) = pair;
                    repairs.kill.push((file, token, KillCause::NeverRenewed));
                }
            }
            Some(_) => {}
        }
    }
    repairs
}

/// Whether nobody may act on any dispatch of an entry any more (protocol 8.4). `current` are the tokens of files that are out.
pub(crate) fn is_superseded(
    files: &[(FileRef, Token)],
    current: &FxHashMap<FileRef, Token>,
) -> bool {
    let is_old = |(file, token): &(FileRef, Token)| current.get(file) != Some(token);
    files.iter().all(is_old)
}
