//! Reads the stage's streams, as much as there is room for.

use std::sync::Arc;
use std::time::Instant;

use caudal_domain::limits::MAX_DISPATCHES_PER_ENTRY;
use caudal_streams::{Entry, Lane, Reader, StreamsError};
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::book::Key;
use crate::core::Core;

/// Entries asked for at once when looking for what a lost answer delivered.
const HELD_PAGE: usize = 128;

/// Reads until shutdown. What was delivered to this consumer without being seen is looked for after each lost answer, and
/// a last time at the end, so that it can be given back.
pub(crate) async fn read(core: Arc<Core>, to_lease: mpsc::Sender<Key>) {
    let mut reader = core.streams.reader(core.stage, &core.consumer());
    let mut paused = core.paused.subscribe();
    let mut backoff = Backoff::new();
    let mut answer_lost = false;
    while wait_for_room(&core, answer_lost).await {
        if answer_lost {
            match take_what_was_delivered(&core, &mut reader, &to_lease).await {
                Ok(()) => answer_lost = false,
                Err(error) => {
                    core.unanswered("read what is held", &error);
                    backoff.wait_unless(&core.shutdown).await;
                }
            }
            continue;
        }
        let room = core.book.room();
        // COUNT is in entries, of at most so many dispatches each.
        let entries = (room / MAX_DISPATCHES_PER_ENTRY).max(1);
        let read = tokio::select! {
            read = reader.read(entries, core.settings.block) => read,
            () = core.shutdown.cancelled() => {
                answer_lost = true;
                break;
            }
            _ = paused.wait_for(|paused| *paused) => {
                answer_lost = true;
                continue;
            }
        };
        match read {
            Ok(read) => {
                backoff = Backoff::new();
                if read.group_created {
                    core.metrics.groups_created.inc();
                    core.reconcile_wanted.notify_one();
                }
                take_in(&core, read.entries, &to_lease).await;
            }
            Err(error) => {
                core.unanswered("read", &error);
                answer_lost = true;
                backoff.wait_unless(&core.shutdown).await;
            }
        }
    }
    if answer_lost && let Err(error) = take_what_was_delivered(&core, &mut reader, &to_lease).await
    {
        core.unanswered("read what is held", &error);
    }
}

/// Waits until something may be read; false at shutdown. A read that is under way when the gate shuts, or the stage is paused, is not broken off, and
/// what an answer that was lost delivered is looked for all the same: what lies here unseen for longer than a lease would
/// count as a kill, and the gate may be shut for hours. The runner gives it back.
async fn wait_for_room(core: &Core, answer_lost: bool) -> bool {
    let mut paused = core.paused.subscribe();
    let mut is_shut = core.gate.is_shut.subscribe();
    let mut stage_paused = core.stage_paused.subscribe();
    loop {
        if core.shutdown.is_cancelled() {
            return false;
        }
        let room_made = core.book.room_made.notified();
        let is_paused = *paused.borrow_and_update();
        let held_up = *is_shut.borrow_and_update() | *stage_paused.borrow_and_update();
        let waits = held_up && !answer_lost;
        if is_paused || waits {
            tokio::select! {
                _ = paused.changed() => {}
                _ = is_shut.changed() => {}
                _ = stage_paused.changed() => {}
                () = core.shutdown.cancelled() => {}
            }
            continue;
        }
        if core.book.room() > 0 {
            return true;
        }
        tokio::select! {
            () = room_made => {}
            _ = paused.changed() => {}
            _ = is_shut.changed() => {}
            _ = stage_paused.changed() => {}
            () = core.shutdown.cancelled() => {}
        }
    }
}

async fn take_in(core: &Core, entries: Vec<Entry>, to_lease: &mpsc::Sender<Key>) {
    let now = Instant::now();
    for entry in entries {
        core.metrics.entries_read.inc();
        for key in core.book.take(entry, now, core.renewal_interval()) {
            // The queue holds all that the book may; the send fails only when the process is ending anyway.
            let _ = to_lease.send(key).await;
        }
    }
    core.metrics
        .held
        .set(i64::try_from(core.book.held()).unwrap_or(i64::MAX));
}

/// Takes in the entries that Redis delivered to this consumer in an answer that was lost. Those already held are known by
/// their ids; one that has been settled meanwhile is leased again, refused, and acknowledged again.
async fn take_what_was_delivered(
    core: &Core,
    reader: &mut Reader,
    to_lease: &mpsc::Sender<Key>,
) -> Result<(), StreamsError> {
    for lane in Lane::ALL {
        let mut after: Option<String> = None;
        loop {
            let entries = reader.held(lane, after.as_deref(), HELD_PAGE).await?;
            let Some(last) = entries.last() else {
                break;
            };
            after = Some(last.id.clone());
            take_in(core, entries, to_lease).await;
        }
    }
    Ok(())
}
