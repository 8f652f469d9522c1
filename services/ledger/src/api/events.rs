//! Recorded changes as readable events.

use std::collections::{BTreeSet, HashMap};

use caudal_domain::{BatchId, FileRef, FileState, Outcome, Reason, Stage, TenantId, limits, names};
use caudal_proto::convert::{file_state_to_proto, outcome_to_proto, timestamp_from_micros};
use caudal_proto::mesh::v1::{ChangeSet, ListEventsResponse};
use caudal_proto::v1::{BatchChange, Event, FileChange, event};
use prost::Message;
use sea_orm::DbErr;

use super::{Ledger, page_token};
use crate::store::changes::{self, RecordedChange};
use crate::store::{reads, work};
use crate::wire;

/// Changes read for one answer: one has a group's files at most.
const CHANGES_A_PAGE: u32 = 64;

impl Ledger {
    /// Events of a tenant after a cursor; below zero: none, only where the end is.
    pub(super) async fn events_after(
        &self,
        tenant: TenantId,
        batch: Option<BatchId>,
        after: i64,
    ) -> Result<ListEventsResponse, DbErr> {
        let session = self.store.reader_of(tenant);
        let (newest, oldest) = changes::tenant_revisions(&session, tenant).await?;
        let Ok(after) = u64::try_from(after) else {
            return Ok(ListEventsResponse {
                cursor: wire::signed(newest),
                ..ListEventsResponse::default()
            });
        };
        let pruned = after > 0 && oldest.is_some_and(|oldest| after + 1 < oldest);
        if pruned || after > newest {
            return Ok(ListEventsResponse {
                too_old: true,
                ..ListEventsResponse::default()
            });
        }
        let rows =
            changes::tenant_changes_after(&session, tenant, batch, after, CHANGES_A_PAGE).await?;
        let mut more = rows.len() == CHANGES_A_PAGE as usize;
        let mut taken: Vec<(RecordedChange, ChangeSet)> = Vec::new();
        let mut count = 0;
        for row in rows {
            let changes = ChangeSet::decode(row.body.as_slice())
                .map_err(|error| DbErr::Custom(format!("a change cannot be read: {error}")))?;
            let events = changes.ordinal.len() + 1;
            if count > 0 && count + events > limits::MAX_EVENTS_PER_MESSAGE {
                more = true;
                break;
            }
            count += events;
            taken.push((row, changes));
        }
        let paths = self.paths(tenant, &taken).await?;
        let mut events = Vec::with_capacity(count);
        let mut room = page_token::Room::default();
        let mut last = None;
        for (row, changes) in &taken {
            let told = events_of(tenant, row, changes, &paths);
            if !room.takes_bytes(told.iter().map(Message::encoded_len).sum()) {
                more = true;
                break;
            }
            events.extend(told);
            last = Some(row.revision);
        }
        // Nothing more of this batch: what other batches did up to here is of no interest either.
        let cursor = match last {
            Some(last) if more || batch.is_none() => last,
            _ => newest,
        };
        Ok(ListEventsResponse {
            events,
            cursor: wire::signed(cursor),
            too_old: false,
            more,
        })
    }

    async fn paths(
        &self,
        tenant: TenantId,
        taken: &[(RecordedChange, ChangeSet)],
    ) -> Result<HashMap<FileRef, String>, DbErr> {
        let mut files = BTreeSet::new();
        for (row, changes) in taken {
            files.extend(
                changes
                    .ordinal
                    .iter()
                    .map(|ordinal| FileRef::new(tenant, row.batch, *ordinal)),
            );
        }
        let files: Vec<FileRef> = files.into_iter().collect();
        let session = self.store.reader_of(tenant);
        let rows = work::read(&session, &files).await?;
        let views = reads::views(&session, rows).await?;
        Ok(views
            .into_iter()
            .map(|view| (view.work.file, view.path))
            .collect())
    }
}

fn events_of(
    tenant: TenantId,
    row: &RecordedChange,
    changes: &ChangeSet,
    paths: &HashMap<FileRef, String>,
) -> Vec<Event> {
    let event = |what| Event {
        cursor: wire::signed(row.revision),
        batch: names::batch_name(row.batch),
        revision: wire::signed(row.batch_revision),
        time: Some(timestamp_from_micros(row.at.0)),
        what: Some(what),
    };
    let mut events = Vec::with_capacity(changes.ordinal.len() + 1);
    for (index, ordinal) in changes.ordinal.iter().enumerate() {
        let number = |column: &[u32]| column.get(index).copied().unwrap_or_default();
        let state = |code: u32| u8::try_from(code).ok().and_then(FileState::from_code);
        let to = state(number(&changes.to));
        let detail = number(&changes.detail);
        let reason = (to == Some(FileState::Failed))
            .then(|| u16::try_from(detail).ok().and_then(Reason::from_number))
            .flatten();
        let outcome = (to == Some(FileState::Processed))
            .then(|| u8::try_from(detail).ok().and_then(Outcome::from_code))
            .flatten();
        let stage = u8::try_from(number(&changes.stage))
            .ok()
            .and_then(Stage::from_code);
        let file = FileRef::new(tenant, row.batch, *ordinal);
        let proto_state =
            |state: Option<FileState>| state.map(file_state_to_proto).unwrap_or_default().into();
        events.push(event(event::What::File(FileChange {
            name: names::file_name(row.batch, *ordinal),
            path: paths.get(&file).cloned().unwrap_or_default(),
            from: proto_state(state(number(&changes.from))),
            to: proto_state(to),
            stage: stage
                .map(|stage| stage.name().to_owned())
                .unwrap_or_default(),
            reason: reason
                .map(|reason| reason.code().to_owned())
                .unwrap_or_default(),
            outcome: outcome_to_proto(outcome).into(),
        })));
    }
    if let Some(batch) = &changes.batch {
        events.push(event(event::What::Change(BatchChange {
            state: batch.state,
            run: batch.run,
            counts: batch.counts,
        })));
    }
    events
}
