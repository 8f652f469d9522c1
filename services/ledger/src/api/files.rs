//! `caudal.v1.FileService`: reads of files, and operations on selections of them. GetArtifact is the gateway's, which presigns.

use std::collections::HashMap;

use caudal_domain::{FileRef, FileState, Language, Outcome, Reason, Refusal, Stage, limits, names};
use caudal_proto::longrunning::Operation;
use caudal_proto::v1::file_service_server::FileService;
use caudal_proto::v1::{
    CancelFilesRequest, CountFilesRequest, CountFilesResponse, CountGrouping, CountedFiles,
    DismissFailuresRequest, File, FileSelector, FileView as View, GetArtifactRequest,
    GetArtifactResponse, GetFileRequest, ListFailuresRequest, ListFailuresResponse,
    ListFileHistoryRequest, ListFileHistoryResponse, ListFilesRequest, ListFilesResponse,
    ReprocessFilesRequest, RetryFilesRequest,
};
use prost::Message;
use sea_orm::DbErr;
use tonic::{Request, Response, Status};

use super::bounds::Bounded;
use super::failure::{Failure, answer};
use super::failures::Failed;
use super::operations::{BulkRequest, Command, Commander, Place};
use super::{Ledger, TenantScope, page_token, within_time};
use crate::select::{Purpose, resolve};
use crate::store::selection::{Grouping, Position, Selection};
use crate::store::work::{self, WorkRow};
use crate::store::{attempts, reads, results, selection};
use crate::wire;
use crate::wire::saturated;

/// Files whose results are read at once: each may have five of 64 KiB.
const FULL_AT_ONCE: usize = 100;
/// Rows read for one page at most: where few match, a page comes back short.
const ROWS_READ_A_PAGE: u32 = 10_000;

#[tonic::async_trait]
impl FileService for Ledger {
    async fn get_file(&self, request: Request<GetFileRequest>) -> Result<Response<File>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let language = language(&request);
            let name = &request.get_ref().name;
            let (batch, ordinal) =
                names::parse_file_name(name).map_err(|error| error.refusal("name"))?;
            scope.check(batch, name)?;
            let file = FileRef::new(scope.tenant, batch, ordinal);
            let rows = work::read(&self.store.reader_of(scope.tenant), &[file]).await?;
            let mut files = self.describe(rows, true, language).await?;
            let file = files.pop().ok_or_else(|| Refusal::not_found(name))?;
            Ok(Response::new(file))
        })
        .await
    }

    async fn list_files(
        &self,
        request: Request<ListFilesRequest>,
    ) -> Result<Response<ListFilesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let language = language(&request);
            let message = request.get_ref();
            let selector = message.selector.clone().unwrap_or_default();
            let chosen = self
                .choose(&scope, "selector", &selector, Purpose::List)
                .await?;
            let size = page_token::size(message.page_size, limits::DEFAULT_PAGE_SIZE)?;
            let pages = self.pages(Some(scope.tenant), message);
            let from = pages.place::<4>()?;
            let from = chosen.batch.zip(from).map(|(batch, from)| Position {
                batch,
                ordinal: u32::from_be_bytes(from),
            });
            let session = self.store.reader_of(scope.tenant);
            let wanted = u32::try_from(size + 1).unwrap_or(u32::MAX);
            let step = selection::next(&session, &chosen, from, ROWS_READ_A_PAGE, wanted).await?;
            let rows = step.rows;
            let mut next = match rows.get(size) {
                Some(row) => Some(row.file.ordinal),
                None => step.next.map(|next| next.ordinal),
            };
            let full = message.view() == View::Full;
            let at_once = if full { FULL_AT_ONCE } else { size };
            let mut room = page_token::Room::default();
            let mut files = Vec::new();
            for rows in rows[..rows.len().min(size)].chunks(at_once) {
                let described = self.describe(rows.to_vec(), full, language).await?;
                let mut described = described.into_iter();
                let beyond = described.find_map(|file| {
                    if room.takes(&file) {
                        files.push(file);
                        None
                    } else {
                        Some(file.ordinal)
                    }
                });
                if beyond.is_some() {
                    next = beyond;
                    break;
                }
            }
            let next_page_token = next
                .map(|next| pages.token_of(&next.to_be_bytes()))
                .unwrap_or_default();
            Ok(Response::new(ListFilesResponse {
                files,
                next_page_token,
            }))
        })
        .await
    }

    async fn count_files(
        &self,
        request: Request<CountFilesRequest>,
    ) -> Result<Response<CountFilesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let grouping = grouping_of(message.group_by)?;
            let selector = message.selector.clone().unwrap_or_default();
            let chosen = self
                .choose(&scope, "selector", &selector, Purpose::Count)
                .await?;
            let session = self.store.reader_of(scope.tenant);
            let counts = within_time(selection::count(&session, &chosen, grouping)).await?;
            Ok(Response::new(counted(counts, grouping)))
        })
        .await
    }

    async fn list_file_history(
        &self,
        request: Request<ListFileHistoryRequest>,
    ) -> Result<Response<ListFileHistoryResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let language = language(&request);
            self.history(&scope, request.get_ref(), language).await
        })
        .await
    }

    async fn list_failures(
        &self,
        request: Request<ListFailuresRequest>,
    ) -> Result<Response<ListFailuresResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let language = language(&request);
            let message = request.get_ref();
            let selector = message.selector.clone().unwrap_or_default();
            let chosen = self
                .choose(&scope, "selector", &selector, Purpose::Failures)
                .await?;
            self.failures(
                Some(scope.tenant),
                Failed::Chosen(&chosen),
                false,
                message,
                language,
            )
            .await
        })
        .await
    }

    async fn retry_files(
        &self,
        request: Request<RetryFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async { self.command("RetryFiles", &request).await }).await
    }

    async fn cancel_files(
        &self,
        request: Request<CancelFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async { self.command("CancelFiles", &request).await }).await
    }

    async fn reprocess_files(
        &self,
        request: Request<ReprocessFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async { self.command("ReprocessFiles", &request).await }).await
    }

    async fn dismiss_failures(
        &self,
        request: Request<DismissFailuresRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async { self.command("DismissFailures", &request).await }).await
    }

    async fn get_artifact(
        &self,
        _request: Request<GetArtifactRequest>,
    ) -> Result<Response<GetArtifactResponse>, Status> {
        Err(Status::unimplemented(
            "the gateway serves GetArtifact; the ledger gives it the key to presign",
        ))
    }
}

pub(super) fn language<T>(request: &Request<T>) -> Language {
    let value = request
        .metadata()
        .get("accept-language")
        .and_then(|value| value.to_str().ok());
    Language::from_accept_language(value.unwrap_or_default())
}

impl Ledger {
    /// An operation of a tenant's member.
    async fn command<T: BulkRequest + Bounded + Message>(
        &self,
        call: &'static str,
        request: &Request<T>,
    ) -> Result<Response<Operation>, Failure> {
        let scope = TenantScope::of(request)?;
        let commander = Commander::member(&scope)?;
        let message = request.get_ref();
        let command = Command::of(message, call, Place::Itself, message)?;
        self.begin(commander, command).await
    }

    /// What a caller's selector chooses. A credential for one batch chooses from that batch only.
    async fn choose(
        &self,
        scope: &TenantScope,
        field: &str,
        selector: &FileSelector,
        purpose: Purpose<'_>,
    ) -> Result<Selection, Failure> {
        if selector.batch.is_empty() {
            if !matches!(purpose, Purpose::List) {
                scope.require_whole_tenant()?;
            }
        } else {
            scope.batch(&format!("{field}.batch"), &selector.batch)?;
        }
        let session = self.store.reader_of(scope.tenant);
        let now = session.now().await?;
        let chosen = resolve(&session, scope.tenant, field, selector, purpose, now).await?;
        Ok(chosen)
    }

    async fn describe(
        &self,
        rows: Vec<WorkRow>,
        full: bool,
        language: Language,
    ) -> Result<Vec<File>, DbErr> {
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        let session = self.store.reader_of(first.file.tenant);
        let generations: Vec<_> = rows.iter().map(|row| (row.file, row.generation)).collect();
        let failed: Vec<FileRef> = rows
            .iter()
            .filter(|row| row.reason.is_some())
            .map(|row| row.file)
            .collect();
        let mut of_files = HashMap::new();
        let mut versions = HashMap::new();
        if full {
            of_files = results::served(&session, &generations).await?;
            versions = crate::store::versions::all(&session)
                .await?
                .into_iter()
                .collect();
        }
        let details = attempts::last(&session, &failed).await?;
        let version_words = |number: u32| {
            versions
                .get(&number)
                .map(caudal_domain::StageVersion::key_string)
                .unwrap_or_default()
        };
        let views = reads::views(&session, rows).await?;
        let mut files = Vec::with_capacity(views.len());
        for view in &views {
            let results = of_files.get(&view.work.file).map(Vec::as_slice);
            let detail = details.get(&view.work.file).map_or("", String::as_str);
            files.push(wire::file(view, results, &version_words, detail, language));
        }
        Ok(files)
    }
}

fn grouping_of(number: i32) -> Result<Grouping, Refusal> {
    Ok(match CountGrouping::try_from(number) {
        Ok(CountGrouping::Unspecified | CountGrouping::None) => Grouping::Nothing,
        Ok(CountGrouping::State) => Grouping::State,
        Ok(CountGrouping::Reason) => Grouping::Reason,
        Ok(CountGrouping::Stage) => Grouping::Stage,
        Ok(CountGrouping::Outcome) => Grouping::Outcome,
        Err(_) => {
            return Err(Refusal::invalid(
                "group_by",
                "is not a value of CountGrouping",
            ));
        }
    })
}

/// Counts on the wire: the most files first.
fn counted(mut counts: Vec<(u16, u64)>, grouping: Grouping) -> CountFilesResponse {
    let total = counts.iter().map(|(_, count)| count).sum();
    counts.sort_unstable_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
    let small = |key: u16| u8::try_from(key).unwrap_or_default();
    let name = |key: u16| match grouping {
        Grouping::Nothing => None,
        Grouping::State => FileState::from_code(small(key)).map(FileState::name),
        Grouping::Reason => Reason::from_number(key).map(Reason::code),
        Grouping::Stage => Stage::from_code(small(key)).map(Stage::name),
        Grouping::Outcome => Outcome::from_code(small(key)).map(Outcome::name),
    };
    let counts = match grouping {
        Grouping::Nothing => Vec::new(),
        _ => counts
            .into_iter()
            .map(|(key, count)| CountedFiles {
                key: name(key).unwrap_or_default().to_owned(),
                count: saturated(count),
            })
            .collect(),
    };
    CountFilesResponse {
        counts,
        total: saturated(total),
    }
}
