//! The history of one file, merged from what is kept of it.

use caudal_domain::{FileRef, FileState, Language, Outcome, Reason, Refusal, Stage, limits, names};
use caudal_proto::convert::{
    file_state_to_proto, outcome_to_proto, reason_to_proto, timestamp_from_micros,
};
use caudal_proto::v1::{
    self, FileHistoryEntry, ListFileHistoryRequest, ListFileHistoryResponse,
    file_history_entry::What,
};
use sea_orm::DbErr;
use tonic::Response;

use super::failure::Failure;
use super::{Ledger, TenantScope, page_token};
use crate::store::history::{self, Transition};
use crate::store::time::Micros;
use crate::store::{reads, results, work};
use crate::wire;

/// Changes of the batch read for one page: each holds a group's files at most.
const CHANGES_A_PAGE: u32 = 256;

/// A time on the wire, with its tag.
const BYTES_OF_A_TIME: usize = 20;

/// Where a page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Nothing earlier is shown.
    at: i64,
    /// Of what happened at that very time so much was shown.
    shown: u32,
    /// The batch's revision to read changes from.
    revision: u64,
}

impl Place {
    const BYTES: usize = 20;

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(self.at.to_be_bytes());
        bytes.extend(self.shown.to_be_bytes());
        bytes.extend(self.revision.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = bytes;
        Self {
            at: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            shown: u32::from_be_bytes([i, j, k, l]),
            revision: u64::from_be_bytes(rest),
        }
    }
}

/// Something that happened, with what orders it.
struct Happened {
    at: Micros,
    /// Among what one commit recorded: results and attempts before the transitions they led to, the dead letter last.
    rank: u8,
    /// Of a transition.
    revision: Option<u64>,
    what: What,
}

impl Ledger {
    pub(super) async fn history(
        &self,
        scope: &TenantScope,
        message: &ListFileHistoryRequest,
        language: Language,
    ) -> Result<Response<ListFileHistoryResponse>, Failure> {
        let name = &message.name;
        let (batch, ordinal) =
            names::parse_file_name(name).map_err(|error| error.refusal("name"))?;
        scope.check(batch, name)?;
        let size = page_token::size(message.page_size, limits::DEFAULT_PAGE_SIZE)?;
        let pages = self.pages(Some(scope.tenant), message);
        let place = pages.place()?.map(Place::from_bytes).unwrap_or_default();
        let file = FileRef::new(scope.tenant, batch, ordinal);
        let page = self.page_of_history(file, place, size, language).await?;
        let (page, next) = page.ok_or_else(|| Refusal::not_found(name))?;
        let next = next.map(|next| pages.token_of(&next.to_bytes()));
        Ok(Response::new(ListFileHistoryResponse {
            next_page_token: next.unwrap_or_default(),
            ..page
        }))
    }

    async fn page_of_history(
        &self,
        file: FileRef,
        place: Place,
        size: usize,
        language: Language,
    ) -> Result<Option<(ListFileHistoryResponse, Option<Place>)>, DbErr> {
        let session = self.store.reader_of(file.tenant);
        let rows = work::read(&session, &[file]).await?;
        let Some(view) = reads::views(&session, rows).await?.pop() else {
            return Ok(None);
        };
        let stretch = history::transitions(&session, file, place.revision, CHANGES_A_PAGE).await?;
        let until = stretch.read_up_to.map_or(i64::MAX, |(at, _)| at.0);
        let mut happened = self.kept_for_good(file, view.created_at, language).await?;
        for (at, revision, transition) in stretch.transitions {
            if transition.from != 0 {
                happened.push(Happened {
                    at,
                    rank: 2,
                    revision: Some(revision),
                    what: What::Transition(transition_to_proto(transition)),
                });
            }
        }
        happened.retain(|one| (place.at..=until).contains(&one.at.0));
        // Stable: transitions of one time keep the order in which they were recorded.
        happened.sort_by_key(|one| (one.at, one.rank));
        let shown_before = happened
            .iter()
            .take_while(|one| one.at.0 == place.at)
            .count()
            .min(place.shown as usize);
        let rest = happened.split_off(shown_before);
        let mut room = page_token::Room::default();
        let size = rest
            .iter()
            .take(size)
            .take_while(|one| room.takes_bytes(one.what.encoded_len() + BYTES_OF_A_TIME))
            .count();
        let next = next_place(&rest, size, place, stretch.read_up_to);
        let entries = rest.into_iter().take(size).map(|one| FileHistoryEntry {
            time: Some(timestamp_from_micros(one.at.0)),
            what: Some(one.what),
        });
        let page = ListFileHistoryResponse {
            entries: entries.collect(),
            next_page_token: String::new(),
            pruned: history::is_pruned(&session, file).await?,
        };
        Ok(Some((page, next)))
    }

    /// What does not stand in the changes, or is known without them.
    async fn kept_for_good(
        &self,
        file: FileRef,
        created_at: Micros,
        language: Language,
    ) -> Result<Vec<Happened>, DbErr> {
        let session = self.store.reader_of(file.tenant);
        let mut happened = vec![Happened {
            at: created_at,
            rank: 0,
            revision: None,
            what: What::Transition(transition_to_proto(Transition {
                from: 0,
                to: FileState::Pending.code().into(),
                stage: Stage::Upload.code().into(),
                detail: 0,
            })),
        }];
        let found = results::of_file(&session, file).await?;
        let versions: std::collections::HashMap<_, _> = if found.is_empty() {
            std::collections::HashMap::new()
        } else {
            crate::store::versions::all(&session)
                .await?
                .into_iter()
                .collect()
        };
        let words = |number: u32| {
            versions
                .get(&number)
                .map(caudal_domain::StageVersion::key_string)
                .unwrap_or_default()
        };
        for row in &found {
            happened.push(Happened {
                at: row.at,
                rank: 0,
                revision: None,
                what: What::Result(v1::RecordedResult {
                    generation: row.generation.get(),
                    result: Some(wire::stage_result(row, &words)),
                }),
            });
        }
        for row in history::attempts_of(&session, file).await? {
            happened.push(Happened {
                at: row.ended_at,
                rank: 1,
                revision: None,
                what: What::Attempt(v1::FailedAttempt {
                    reason: Some(reason_to_proto(
                        row.reason,
                        Some(row.stage),
                        &row.detail,
                        language,
                    )),
                    trace_id: row.trace_id,
                }),
            });
        }
        if let Some(letter) = history::letter_of(&session, file).await? {
            happened.push(Happened {
                at: letter.at,
                rank: 3,
                revision: None,
                what: What::DeadLetter(v1::DeadLetter {
                    reason: Some(reason_to_proto(
                        letter.reason,
                        Some(letter.stage),
                        &letter.detail,
                        language,
                    )),
                    dismiss_time: letter.dismissed_at.map(|at| timestamp_from_micros(at.0)),
                }),
            });
        }
        Ok(happened)
    }
}

/// Where the page after `size` of `rest` begins; `None`: there is none.
fn next_place(
    rest: &[Happened],
    size: usize,
    place: Place,
    read_up_to: Option<(Micros, u64)>,
) -> Option<Place> {
    let (at, revision) = match (rest.get(size), read_up_to) {
        (Some(next), _) if next.at.0 == place.at => (place.at, place.revision),
        (Some(next), read_up_to) => {
            // What was shown of that very time is read again, for it is counted.
            let from_then_on = rest.iter().filter(|one| one.at >= next.at);
            let first = from_then_on.filter_map(|one| one.revision).min();
            let end = read_up_to.map(|(_, revision)| revision);
            let last = rest.iter().filter_map(|one| one.revision).max();
            let revision = first.or(end).or(last).unwrap_or(place.revision);
            (next.at.0, revision)
        }
        (None, Some((at, revision))) => (at.0, revision),
        (None, None) => return None,
    };
    let at_that_time = rest.iter().take(size).filter(|one| one.at.0 == at).count();
    let before = if at == place.at { place.shown } else { 0 };
    Some(Place {
        at,
        shown: before.saturating_add(u32::try_from(at_that_time).unwrap_or(u32::MAX)),
        revision,
    })
}

fn transition_to_proto(transition: Transition) -> v1::FileTransition {
    let small = |number: u32| u8::try_from(number).ok();
    let state = |number: u32| {
        small(number)
            .and_then(FileState::from_code)
            .map(file_state_to_proto)
            .unwrap_or_default()
    };
    let to = small(transition.to).and_then(FileState::from_code);
    let outcome = (to == Some(FileState::Processed))
        .then(|| small(transition.detail).and_then(Outcome::from_code))
        .flatten();
    let reason = (to == Some(FileState::Failed))
        .then(|| {
            u16::try_from(transition.detail)
                .ok()
                .and_then(Reason::from_number)
        })
        .flatten();
    let stage = small(transition.stage).and_then(Stage::from_code);
    v1::FileTransition {
        from: state(transition.from).into(),
        to: state(transition.to).into(),
        stage: stage.map_or_else(String::new, |stage| stage.name().to_owned()),
        outcome: outcome_to_proto(outcome).into(),
        reason: reason.map_or_else(String::new, |reason| reason.code().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_page_token_reads_back() {
        let place = Place {
            at: -7,
            shown: 3,
            revision: u64::MAX,
        };
        let bytes = place.to_bytes().try_into().unwrap();
        assert_eq!(Place::from_bytes(bytes), place);
    }
}
