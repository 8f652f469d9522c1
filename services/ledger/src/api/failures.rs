//! FAILED files in groups, for tenants and operators.

use caudal_domain::{Language, TenantId, limits, names};
use caudal_proto::convert::{reason_to_proto, timestamp_from_micros};
use caudal_proto::v1::{self, ListFailuresRequest, ListFailuresResponse};
use sea_orm::DbErr;
use tonic::Response;

use super::failure::Failure;
use super::{Ledger, page_token, within_time};
use crate::store::failures::{self, FailureGroup, Letters};
use crate::store::selection::Selection;
use crate::wire::saturated;

/// Whose failures are grouped.
pub(super) enum Failed<'a> {
    /// Those that a tenant's selector chooses.
    Chosen(&'a Selection),
    /// Those of all tenants.
    All(Letters),
}

impl Ledger {
    pub(super) async fn failures(
        &self,
        whose: Option<TenantId>,
        failed: Failed<'_>,
        for_operators: bool,
        message: &ListFailuresRequest,
        language: Language,
    ) -> Result<Response<ListFailuresResponse>, Failure> {
        let size = page_token::size(message.page_size, limits::DEFAULT_PAGE_SIZE)?;
        let pages = self.pages(whose, message);
        let after = pages.place::<3>()?;
        let mut groups = within_time(self.groups(&failed, after, size)).await?;
        let more = groups.len() > size;
        groups.truncate(size);
        let next_page_token = match groups.last() {
            Some(last) if more => pages.token_of(&place_of(last)),
            _ => String::new(),
        };
        Ok(Response::new(ListFailuresResponse {
            groups: groups
                .iter()
                .map(|group| message_of(group, for_operators, language))
                .collect(),
            next_page_token,
        }))
    }

    /// Groups after a place, one more than asked for if there is one.
    async fn groups(
        &self,
        failed: &Failed<'_>,
        after: Option<[u8; 3]>,
        size: usize,
    ) -> Result<Vec<FailureGroup>, DbErr> {
        let session = match failed {
            Failed::Chosen(chosen) => self.store.reader_of(chosen.tenant),
            Failed::All(_) => self.store.reader(),
        };
        let letters = match failed {
            Failed::Chosen(chosen) => Letters::of(chosen),
            Failed::All(letters) => Some(letters.clone()),
        };
        let mut groups = match (&letters, failed) {
            (Some(letters), _) => failures::groups(&session, letters).await?,
            (None, Failed::Chosen(chosen)) => failures::groups_by_walk(&session, chosen).await?,
            (None, Failed::All(_)) => Vec::new(),
        };
        if let Some(after) = after {
            groups.retain(|group| place_of(group) > after);
        }
        groups.truncate(size + 1);
        if let Some(letters) = &letters {
            for group in groups.iter_mut().take(size) {
                failures::add_samples(&session, letters, group).await?;
            }
        }
        Ok(groups)
    }
}

/// Where a group stands among all.
fn place_of(group: &FailureGroup) -> [u8; 3] {
    let [high, low] = group.reason.number().to_be_bytes();
    [high, low, group.stage.code()]
}

/// What a provider said last is told to operators: it speaks of the installation.
fn message_of(group: &FailureGroup, for_operators: bool, language: Language) -> v1::FailureGroup {
    v1::FailureGroup {
        reason: Some(v1::Reason {
            detail: if for_operators {
                group.detail.clone()
            } else {
                String::new()
            },
            ..reason_to_proto(group.reason, Some(group.stage), "", language)
        }),
        count: saturated(group.count),
        first_time: Some(timestamp_from_micros(group.first.0)),
        last_time: Some(timestamp_from_micros(group.last.0)),
        samples: group
            .samples
            .iter()
            .map(|file| names::file_name(file.batch, file.ordinal))
            .collect(),
    }
}
