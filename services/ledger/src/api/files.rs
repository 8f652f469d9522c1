//! `caudal.v1.FileService`: reads of files. GetArtifact is the gateway's, which presigns.

use std::collections::HashMap;

use caudal_domain::{
    BatchId, FieldViolation, FileRef, Language, Reason, Refusal, Stage, TenantId, limits, names,
};
use caudal_proto::convert::{duration_from_proto, file_state_from_proto, outcome_from_proto};
use caudal_proto::v1::file_service_server::FileService;
use caudal_proto::v1::{
    File, FileSelector, FileView as View, GetArtifactRequest, GetArtifactResponse, GetFileRequest,
    ListFilesRequest, ListFilesResponse,
};
use sea_orm::DbErr;
use tonic::{Request, Response, Status};

use super::{Ledger, TenantScope, messages, page_token, status, unreadable};
use crate::store::reads::{self, FileFilter};
use crate::store::results;
use crate::store::work::{self, WorkRow};

/// Rows read for one page at most: where few match, a page comes back short.
const ROWS_READ_A_PAGE: u32 = 10_000;
/// Rows read in one statement.
const ROWS_A_STATEMENT: u32 = 1_000;

#[tonic::async_trait]
impl FileService for Ledger {
    async fn get_file(&self, request: Request<GetFileRequest>) -> Result<Response<File>, Status> {
        let scope = TenantScope::of(&request)?;
        let language = language(&request);
        let name = &request.get_ref().name;
        let (batch, ordinal) =
            names::parse_file_name(name).map_err(|error| status(&error.refusal("name")))?;
        scope
            .check(batch, name)
            .map_err(|refusal| status(&refusal))?;
        let file = FileRef::new(scope.tenant, batch, ordinal);
        let rows = work::read(&self.store.reader(), &[file])
            .await
            .map_err(|error| unreadable(&error))?;
        let mut files = self
            .describe(rows, true, language)
            .await
            .map_err(|error| unreadable(&error))?;
        files
            .pop()
            .map(Response::new)
            .ok_or_else(|| status(&Refusal::not_found(name)))
    }

    async fn list_files(
        &self,
        request: Request<ListFilesRequest>,
    ) -> Result<Response<ListFilesResponse>, Status> {
        let scope = TenantScope::of(&request)?;
        let language = language(&request);
        let message = request.get_ref();
        let query = self.query(&scope, message).await?;
        let session = self.store.reader();
        let known = reads::batch(&session, scope.tenant, query.batch)
            .await
            .map_err(|error| unreadable(&error))?;
        if known.is_none() {
            return Err(status(&Refusal::not_found(&names::batch_name(query.batch))));
        }
        let (rows, next) = self
            .page(scope.tenant, &query)
            .await
            .map_err(|error| unreadable(&error))?;
        let full = message.view() == View::Full;
        let files = self
            .describe(rows, full, language)
            .await
            .map_err(|error| unreadable(&error))?;
        let next_page_token = next
            .map(|next| page_token::encode(&next.to_be_bytes()))
            .unwrap_or_default();
        Ok(Response::new(ListFilesResponse {
            files,
            next_page_token,
        }))
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

fn language<T>(request: &Request<T>) -> Language {
    let value = request
        .metadata()
        .get("accept-language")
        .and_then(|value| value.to_str().ok());
    Language::from_accept_language(value.unwrap_or_default())
}

/// A page to list.
struct Query {
    batch: BatchId,
    filter: FileFilter,
    ordinals: Vec<u32>,
    from: u32,
    size: usize,
}

impl Ledger {
    async fn query(
        &self,
        scope: &TenantScope,
        message: &ListFilesRequest,
    ) -> Result<Query, Status> {
        let selector = message.selector.clone().unwrap_or_default();
        let batch = scope
            .batch("selector.batch", &selector.batch)
            .map_err(|refusal| status(&refusal))?;
        let parsed = parse_filter(&selector).map_err(|refusal| status(&refusal))?;
        let (mut filter, in_state_for) = parsed;
        let session = self.store.reader();
        if let Some(age) = in_state_for {
            let now = session.now().await.map_err(|error| unreadable(&error))?;
            filter.changed_before = Some(now.minus(age));
        }
        if !selector.folder.is_empty() {
            let (of, folder) = names::parse_folder_name(&selector.folder)
                .map_err(|error| status(&error.refusal("selector.folder")))?;
            if of != batch {
                return Err(status(&Refusal::not_found(&selector.folder)));
            }
            let folders = reads::subtree(&session, scope.tenant, batch, folder, selector.recursive)
                .await
                .map_err(|error| unreadable(&error))?;
            if folders.is_empty() {
                return Err(status(&Refusal::not_found(&selector.folder)));
            }
            filter.folders = Some(folders);
        }
        let from =
            page_token::decode::<4>(&message.page_token).map_err(|refusal| status(&refusal))?;
        let mut ordinals = selector.ordinals;
        ordinals.sort_unstable();
        ordinals.dedup();
        Ok(Query {
            batch,
            filter,
            ordinals,
            from: from.map_or(0, u32::from_be_bytes),
            size: page_token::size(message.page_size, limits::DEFAULT_PAGE_SIZE)
                .map_err(|refusal| status(&refusal))?,
        })
    }

    /// Rows that are chosen, and where the next page begins.
    async fn page(
        &self,
        tenant: TenantId,
        query: &Query,
    ) -> Result<(Vec<WorkRow>, Option<u32>), DbErr> {
        let session = self.store.reader();
        if !query.ordinals.is_empty() {
            let wanted: Vec<FileRef> = query
                .ordinals
                .iter()
                .filter(|ordinal| **ordinal >= query.from)
                .map(|ordinal| FileRef::new(tenant, query.batch, *ordinal))
                .collect();
            let mut rows = work::read(&session, &wanted).await?;
            rows.retain(|row| query.filter.chooses(row));
            rows.sort_by_key(|row| row.file);
            let next = rows.get(query.size).map(|row| row.file.ordinal);
            rows.truncate(query.size);
            return Ok((rows, next));
        }
        let mut chosen = Vec::new();
        let mut from = query.from;
        let mut read = 0;
        while read < ROWS_READ_A_PAGE {
            let rows = work::range(&session, tenant, query.batch, from, ROWS_A_STATEMENT).await?;
            let last_statement = rows.len() < ROWS_A_STATEMENT as usize;
            for row in rows {
                read += 1;
                from = row.file.ordinal.saturating_add(1);
                if query.filter.chooses(&row) {
                    if chosen.len() == query.size {
                        return Ok((chosen, Some(row.file.ordinal)));
                    }
                    chosen.push(row);
                }
            }
            if last_statement {
                return Ok((chosen, None));
            }
        }
        Ok((chosen, Some(from)))
    }

    async fn describe(
        &self,
        rows: Vec<WorkRow>,
        full: bool,
        language: Language,
    ) -> Result<Vec<File>, DbErr> {
        let session = self.store.reader();
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
            versions = results::versions(&session).await?.into_iter().collect();
        }
        let details = results::last_attempts(&session, &failed).await?;
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
            files.push(messages::file(
                view,
                results,
                &version_words,
                detail,
                language,
            ));
        }
        Ok(files)
    }
}

fn parse_filter(
    selector: &FileSelector,
) -> Result<(FileFilter, Option<std::time::Duration>), Refusal> {
    let mut violations = Vec::new();
    let mut filter = FileFilter::default();
    for (index, state) in selector.states.iter().enumerate() {
        match file_state_from_proto(*state) {
            Ok(state) => filter.states.push(state),
            Err(error) => {
                violations.push(FieldViolation::new(
                    format!("selector.states[{index}]"),
                    error.to_string(),
                ));
            }
        }
    }
    for (index, outcome) in selector.outcomes.iter().enumerate() {
        match outcome_from_proto(*outcome) {
            Ok(Some(outcome)) => filter.outcomes.push(outcome),
            Ok(None) => violations.push(FieldViolation::new(
                format!("selector.outcomes[{index}]"),
                "must name an outcome",
            )),
            Err(error) => {
                violations.push(FieldViolation::new(
                    format!("selector.outcomes[{index}]"),
                    error.to_string(),
                ));
            }
        }
    }
    for (index, stage) in selector.stages.iter().enumerate() {
        match stage.parse::<Stage>() {
            Ok(stage) => filter.stages.push(stage),
            Err(error) => {
                violations.push(FieldViolation::new(
                    format!("selector.stages[{index}]"),
                    error.to_string(),
                ));
            }
        }
    }
    for (index, code) in selector.reasons.iter().enumerate() {
        match Reason::from_code(code) {
            Some(reason) => filter.reasons.push(reason),
            None => violations.push(FieldViolation::new(
                format!("selector.reasons[{index}]"),
                format!("`{code}` is not in the catalogue of reasons"),
            )),
        }
    }
    let mut in_state_for = None;
    if let Some(age) = &selector.in_state_for {
        match duration_from_proto(age) {
            Ok(age) => in_state_for = Some(age),
            Err(error) => violations.push(FieldViolation::new(
                "selector.in_state_for",
                error.to_string(),
            )),
        }
    }
    if !selector.path_glob.is_empty() {
        violations.push(FieldViolation::new(
            "selector.path_glob",
            "is not served yet; list by `folder` instead",
        ));
    }
    if selector.ordinals.len() > limits::MAX_ORDINALS_PER_SELECTOR {
        let description = format!(
            "names more than {} files",
            limits::MAX_ORDINALS_PER_SELECTOR
        );
        violations.push(FieldViolation::new("selector.ordinals", description));
    }
    if violations.is_empty() {
        Ok((filter, in_state_for))
    } else {
        Err(Refusal::invalid_fields(violations))
    }
}
