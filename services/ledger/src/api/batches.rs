//! `caudal.v1.BatchService`, but for WatchBatch, which is the gateway's.

use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{BatchId, BatchState, Refusal, StageSet, limits, names};
use caudal_node::scope::Role;
use caudal_proto::convert::{batch_state_from_proto, json_from_struct, micros_from_timestamp};
use caudal_proto::v1::batch_service_server::BatchService;
use caudal_proto::v1::{
    AddEntriesRequest, AddEntriesResponse, Batch, CancelBatchRequest, CompleteBatchRequest,
    CreateApiKeyResponse, CreateBatchRequest, CreateUploadTokenRequest, Folder, GetBatchRequest,
    ListBatchesRequest, ListBatchesResponse, ListFoldersRequest, ListFoldersResponse, MissingFiles,
    PauseBatchRequest, Priority, ResumeBatchRequest, Start, UpdateBatchRequest, WatchBatchRequest,
    WatchBatchResponse,
};
use serde_json::json;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::failure::{Failure, answer};
use super::page_token::Pages;
use super::tenancy::key_lifetime;
use super::{Ledger, TenantScope, entries, page_token, request_key, words};
use crate::store::credentials::{Allowance, KeyRow};
use crate::store::progress::Renamed;
use crate::store::time::Micros;
use crate::store::{manifest, reads, tenants};
use crate::wire::{self, StoredOptions};
use crate::writer::audited::{Act, Audited};
use crate::writer::verb::Verb;
use crate::writer::verbs::add_entries::AddEntries;
use crate::writer::verbs::cancel_batch::CancelBatch;
use crate::writer::verbs::complete_batch::CompleteBatch;
use crate::writer::verbs::create_batch::CreateBatch;
use crate::writer::verbs::create_key::CreateKey;
use crate::writer::verbs::set_pause::{NewPause, SetPause};
use crate::writer::verbs::update_batch::UpdateBatch;

/// The name by which an upload token asks for its batch.
const OWN_BATCH: &str = "batches/-";
const DEFAULT_BATCHES: usize = 50;
/// How long an upload token is good where nothing is said.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
#[tonic::async_trait]
impl BatchService for Ledger {
    async fn create_batch(
        &self,
        request: Request<CreateBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let verb = new_batch(&scope, request.get_ref())?;
            let name = names::batch_name(verb.batch.batch);
            let act = scope.act_of_admin("CreateBatch", &name);
            self.change(Audited { verb, act }).await
        })
        .await
    }

    async fn get_batch(
        &self,
        request: Request<GetBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let name = &request.get_ref().name;
            let own = scope.only.filter(|_| name == OWN_BATCH);
            let batch = match own {
                Some(own) => own,
                None => scope.batch("name", name)?,
            };
            let found =
                reads::batch(&self.store.reader_of(scope.tenant), scope.batch_ref(batch)).await?;
            let (progress, cold) =
                found.ok_or_else(|| Refusal::not_found(&names::batch_name(batch)))?;
            let mut batch = scope.shown(wire::batch(&progress, &cold));
            if !progress.state.is_ended() {
                batch.waits = self.waits_of(progress.key(), progress.stages);
                batch.queue = self.queue_of(progress.key());
                let session = self.store.reader_of(scope.tenant);
                let account = tenants::account(&session, scope.tenant).await?;
                let pause = account.and_then(|account| account.pause);
                if pause.is_some() {
                    // No turn comes before it goes on.
                    batch.queue = None;
                }
                batch.waits.extend(pause.map(|pause| {
                    // The note is for the tenant's own people.
                    let note = Some(pause.note.as_str());
                    let note = note.filter(|note| !note.is_empty() && !scope.knows_one_batch());
                    wire::tenant_waits(note, pause.at)
                }));
            }
            Ok(Response::new(batch))
        })
        .await
    }

    async fn list_batches(
        &self,
        request: Request<ListBatchesRequest>,
    ) -> Result<Response<ListBatchesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let pages = self.pages(Some(scope.tenant), request.get_ref());
            let query = ListQuery::of(&scope, request.get_ref(), &pages)?;
            let limit = u32::try_from(query.size + 1).unwrap_or(u32::MAX);
            let session = self.store.reader_of(scope.tenant);
            let mut rows = reads::batches(
                &session,
                scope.tenant,
                query.before,
                &query.states,
                query.created_after,
                limit,
            )
            .await?;
            let found = rows.len();
            rows.truncate(query.size);
            let mut room = page_token::Room::default();
            let batches: Vec<Batch> = rows
                .iter()
                .map(|(progress, cold)| wire::batch(progress, cold))
                .take_while(|batch| room.takes(batch))
                .collect();
            let last = batches.len().checked_sub(1).and_then(|last| rows.get(last));
            let next_page_token = match last {
                Some((last, _)) if batches.len() < found => pages.token_of(last.batch.as_bytes()),
                _ => String::new(),
            };
            Ok(Response::new(ListBatchesResponse {
                batches,
                next_page_token,
            }))
        })
        .await
    }

    async fn add_entries(
        &self,
        request: Request<AddEntriesRequest>,
    ) -> Result<Response<AddEntriesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let verb = new_entries(&scope, message)?;
            let added = self.writer.ask(verb).await;
            let added = added?;
            Ok(Response::new(added.message()))
        })
        .await
    }

    async fn complete_batch(
        &self,
        request: Request<CompleteBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let act = completion(&scope, message)?;
            let fails_missing = act.missing_fails;
            let act = Audited {
                act: scope.act_of_admin("CompleteBatch", &message.name),
                verb: act,
            };
            let batch = self.change(act).await?;
            if fails_missing {
                self.reconcile.notify_one();
            }
            Ok(batch.map(|batch| scope.shown(batch)))
        })
        .await
    }

    async fn update_batch(
        &self,
        request: Request<UpdateBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let verb = update(&scope, request.get_ref())?;
            let name = batch_name(request.get_ref());
            let act = match verb.changes.priority {
                Some(priority) => Some(Act {
                    detail: json!({"priority": priority}).to_string(),
                    ..scope.act("UpdateBatch", name)
                }),
                None => scope.act_of_admin("UpdateBatch", name),
            };
            self.change(Audited { verb, act }).await
        })
        .await
    }

    async fn cancel_batch(
        &self,
        request: Request<CancelBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let act = Audited {
                act: Some(scope.act("CancelBatch", &message.name)),
                verb: cancellation(&scope, message)?,
            };
            let answer = self.change(act).await?;
            // Its files follow at once.
            self.reconcile.notify_one();
            Ok(answer)
        })
        .await
    }

    async fn pause_batch(
        &self,
        request: Request<PauseBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let act = Act {
                detail: json!({"note": message.note}).to_string(),
                ..scope.act("PauseBatch", &message.name)
            };
            let act = Audited {
                verb: pause(&scope, message)?,
                act: Some(act),
            };
            self.change(act).await
        })
        .await
    }

    async fn resume_batch(
        &self,
        request: Request<ResumeBatchRequest>,
    ) -> Result<Response<Batch>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let act = Audited {
                act: Some(scope.act("ResumeBatch", &request.get_ref().name)),
                verb: resumption(&scope, request.get_ref())?,
            };
            self.change(act).await
        })
        .await
    }

    async fn list_folders(
        &self,
        request: Request<ListFoldersRequest>,
    ) -> Result<Response<ListFoldersResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = scope.batch("parent", &message.parent)?;
            let size = page_token::size(message.page_size, limits::MAX_PAGE_SIZE)?;
            let pages = self.pages(Some(scope.tenant), message);
            let from = pages.place::<4>()?;
            let session = self.store.reader_of(scope.tenant);
            let limit = u32::try_from(size + 1).unwrap_or(u32::MAX);
            let from = from.map_or(0, u32::from_be_bytes);
            let rows =
                manifest::folder_range(&session, scope.batch_ref(batch), from, limit).await?;
            // Every batch has its root, so nothing at all means that there is no such batch.
            if rows.is_empty() && from == 0 {
                return Err(Refusal::not_found(&names::batch_name(batch)).into());
            }
            let mut room = page_token::Room::default();
            let folders: Vec<Folder> = rows
                .iter()
                .take(size)
                .map(|row| wire::folder(batch, row))
                .take_while(|folder| room.takes(folder))
                .collect();
            let next_page_token = match rows.get(folders.len()) {
                Some(next) => pages.token_of(&next.folder.to_be_bytes()),
                None => String::new(),
            };
            Ok(Response::new(ListFoldersResponse {
                folders,
                next_page_token,
            }))
        })
        .await
    }

    async fn create_upload_token(
        &self,
        request: Request<CreateUploadTokenRequest>,
    ) -> Result<Response<CreateApiKeyResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = changed_batch(&scope, "batch", &message.batch)?;
            let lifetime = match &message.lifetime {
                None => DEFAULT_TOKEN_LIFETIME,
                Some(lifetime) => key_lifetime("lifetime", lifetime)?,
            };
            if lifetime > limits::MAX_UPLOAD_TOKEN_LIFETIME {
                return Err(Refusal::invalid("lifetime", "is longer than 30 days").into());
            }
            let may_add = Allowance {
                files: message.max_files,
                bytes: message.max_bytes,
            };
            let made = self.new_secret();
            let detail = serde_json::json!({
                "key": made.name(),
                "lifetime_seconds": lifetime.as_secs(),
                "max_files": may_add.files,
                "max_bytes": may_add.bytes,
            });
            let act = Act {
                detail: detail.to_string(),
                ..scope.act("CreateUploadToken", &message.batch)
            };
            let create = CreateKey {
                asked_in: scope.tenant,
                request: request_key("CreateUploadToken", &message.request_id, message)?,
                key: KeyRow {
                    batch: Some(batch),
                    may_add,
                    ..made.row(Some(scope.tenant), Role::Uploader, "upload token")
                },
                nonce: made.nonce,
                lifetime: Some(lifetime),
                act,
            };
            let answer = self.writer.ask(create).await?;
            Ok(Response::new(self.shown(answer)?))
        })
        .await
    }

    type WatchBatchStream = Empty<Result<WatchBatchResponse, Status>>;

    async fn watch_batch(
        &self,
        _request: Request<WatchBatchRequest>,
    ) -> Result<Response<Self::WatchBatchStream>, Status> {
        Err(Status::unimplemented(
            "the gateway serves WatchBatch; the ledger gives it snapshots and changes",
        ))
    }
}

impl Ledger {
    /// Asks a verb that answers with the batch it changed.
    async fn change<V: Verb<Answer = Batch>>(&self, verb: V) -> Result<Response<Batch>, Failure> {
        Ok(Response::new(self.writer.ask(verb).await?))
    }
}

fn batch_name(message: &UpdateBatchRequest) -> &str {
    message.batch.as_ref().map_or("", |batch| &batch.name)
}

/// The batch that a credential for the whole tenant may change.
fn changed_batch(scope: &TenantScope, field: &str, name: &str) -> Result<BatchId, Refusal> {
    let batch = scope.batch(field, name)?;
    scope.require_whole_tenant()?;
    Ok(batch)
}

fn update(scope: &TenantScope, message: &UpdateBatchRequest) -> Result<UpdateBatch, Refusal> {
    let batch = message.batch.clone().unwrap_or_default();
    let mut verb = UpdateBatch {
        batch: scope.batch_ref(changed_batch(scope, "batch.name", &batch.name)?),
        request: request_key("UpdateBatch", &message.request_id, message)?,
        changes: Renamed::default(),
    };
    let paths = words::update_paths(
        message.update_mask.as_ref(),
        "`priority`, `display_name` or `metadata`",
    )?;
    for (index, path) in paths.iter().enumerate() {
        match path.as_str() {
            "display_name" => {
                verb.changes.name = Some(display_name(&batch.display_name)?.to_owned());
            }
            "priority" => verb.changes.priority = Some(priority(batch.priority)?),
            "metadata" => {
                verb.changes.metadata =
                    Some(batch.metadata.as_ref().map(metadata_text).transpose()?);
            }
            _ => {
                let words = format!(
                    "`{path}` cannot be changed: `priority`, `display_name` and `metadata` can"
                );
                return Err(Refusal::invalid(
                    format!("update_mask.paths[{index}]"),
                    words,
                ));
            }
        }
    }
    Ok(verb)
}

fn cancellation(scope: &TenantScope, message: &CancelBatchRequest) -> Result<CancelBatch, Refusal> {
    Ok(CancelBatch {
        batch: scope.batch_ref(changed_batch(scope, "name", &message.name)?),
        request: request_key("CancelBatch", &message.request_id, message)?,
    })
}

fn pause(scope: &TenantScope, message: &PauseBatchRequest) -> Result<SetPause, Refusal> {
    let note = words::note("note", &message.note)?;
    Ok(SetPause {
        batch: scope.batch_ref(changed_batch(scope, "name", &message.name)?),
        request: request_key("PauseBatch", &message.request_id, message)?,
        pause: Some(NewPause {
            who: scope.principal.clone(),
            note: note.to_owned(),
        }),
    })
}

fn resumption(scope: &TenantScope, message: &ResumeBatchRequest) -> Result<SetPause, Refusal> {
    Ok(SetPause {
        batch: scope.batch_ref(changed_batch(scope, "name", &message.name)?),
        request: request_key("ResumeBatch", &message.request_id, message)?,
        pause: None,
    })
}

fn display_name(name: &str) -> Result<&str, Refusal> {
    words::name("batch.display_name", name)
}

/// The number of a priority; NORMAL where none is said.
fn priority(number: i32) -> Result<u32, Refusal> {
    let priority = match Priority::try_from(number) {
        Ok(Priority::Unspecified) => Priority::Normal,
        Ok(priority) => priority,
        Err(_) => {
            return Err(Refusal::invalid(
                "batch.priority",
                "is not a value of Priority",
            ));
        }
    };
    Ok(u32::try_from(i32::from(priority)).unwrap_or_default())
}

fn new_batch(scope: &TenantScope, message: &CreateBatchRequest) -> Result<CreateBatch, Refusal> {
    scope.require_whole_tenant()?;
    let request = request_key("CreateBatch", &message.request_id, message)?;
    let batch = message.batch.clone().unwrap_or_default();
    if !batch.name.is_empty() {
        return Err(Refusal::invalid(
            "batch.name",
            "is given by the system; leave it empty",
        ));
    }
    display_name(&batch.display_name)?;
    let options = batch.options.clone().unwrap_or_default();
    let stages = StageSet::parse(&options.stages)
        .map_err(|error| Refusal::invalid("batch.options.stages", error.to_string()))?;
    let start = Start::try_from(options.start)
        .map_err(|_| Refusal::invalid("batch.options.start", "is not a value of Start"))?;
    let stored = StoredOptions {
        stages: wire::stage_names(stages),
        start: if start == Start::Unspecified {
            Start::WhenUploaded.into()
        } else {
            start.into()
        },
    };
    Ok(CreateBatch {
        batch: scope.batch_ref(BatchId::from_uuid(Uuid::now_v7())),
        request,
        name: batch.display_name,
        options: serde_json::to_string(&stored).map_err(|_| Refusal::internal())?,
        metadata: batch.metadata.as_ref().map(metadata_text).transpose()?,
        priority: priority(batch.priority)?,
        stages,
        starts_when_completed: start == Start::WhenCompleted,
        created_by: scope.principal.clone(),
    })
}

fn metadata_text(metadata: &prost_types::Struct) -> Result<String, Refusal> {
    let object = json_from_struct(metadata)
        .map_err(|error| Refusal::invalid("batch.metadata", error.to_string()))?;
    let text = serde_json::Value::Object(object).to_string();
    if text.len() > limits::MAX_BATCH_METADATA_BYTES {
        let description = format!(
            "has {} bytes as JSON; at most {} are kept",
            text.len(),
            limits::MAX_BATCH_METADATA_BYTES
        );
        return Err(Refusal::invalid("batch.metadata", description));
    }
    Ok(text)
}

fn new_entries(scope: &TenantScope, message: &AddEntriesRequest) -> Result<AddEntries, Refusal> {
    let batch = scope.batch("batch", &message.batch)?;
    let request = request_key("AddEntries", &message.request_id, message)?;
    let (page, load) = entries::parse(&message.entries)?;
    Ok(AddEntries {
        batch: scope.batch_ref(batch),
        request,
        knows_one_batch: scope.knows_one_batch(),
        token: scope.token().map(str::to_owned),
        page: Arc::new(page),
        folders: load.folders(),
        path_bytes: load.bytes(),
    })
}

fn completion(
    scope: &TenantScope,
    message: &CompleteBatchRequest,
) -> Result<CompleteBatch, Refusal> {
    let batch = scope.batch("name", &message.name)?;
    let missing = MissingFiles::try_from(message.missing)
        .map_err(|_| Refusal::invalid("missing", "is not a value of MissingFiles"))?;
    Ok(CompleteBatch {
        batch: scope.batch_ref(batch),
        request: request_key("CompleteBatch", &message.request_id, message)?,
        // Whoever comes with a token does not say of the files of others that they will not come.
        missing_fails: missing == MissingFiles::Fail && scope.token().is_none(),
        expected_entries: message.expected_entries,
    })
}

struct ListQuery {
    before: Option<BatchId>,
    states: Vec<BatchState>,
    created_after: Option<Micros>,
    size: usize,
}

impl ListQuery {
    fn of(
        scope: &TenantScope,
        message: &ListBatchesRequest,
        pages: &Pages<'_>,
    ) -> Result<Self, Refusal> {
        scope.require_whole_tenant()?;
        let position = pages.place::<16>()?;
        let mut states = Vec::new();
        for (index, state) in message.states.iter().enumerate() {
            let state = batch_state_from_proto(*state)
                .map_err(|error| error.refusal(&format!("states[{index}]")))?;
            states.push(state);
        }
        let created_after = match &message.created_after {
            Some(time) => Some(Micros(
                micros_from_timestamp(time).map_err(|error| error.refusal("created_after"))?,
            )),
            None => None,
        };
        Ok(Self {
            before: position.map(|bytes| BatchId::from_uuid(Uuid::from_bytes(bytes))),
            states,
            created_after,
            size: page_token::size(message.page_size, DEFAULT_BATCHES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::TenantId;

    use super::*;
    use crate::writer::audited::Actor;

    #[test]
    fn a_token_completes_and_gives_up_no_file_of_another() {
        let batch = BatchId::from_uuid(Uuid::from_u128(1));
        let scope = |role, only| TenantScope {
            tenant: TenantId::from_uuid(Uuid::nil()),
            principal: "key".to_owned(),
            role,
            actor: Actor {
                words: "key".to_owned(),
                key_id: "key".to_owned(),
            },
            only,
        };
        let message = CompleteBatchRequest {
            name: names::batch_name(batch),
            request_id: Uuid::nil().to_string(),
            missing: MissingFiles::Fail.into(),
            ..CompleteBatchRequest::default()
        };
        let by_member = completion(&scope(Role::Member, None), &message).unwrap();
        assert!(by_member.missing_fails);
        let by_token = completion(&scope(Role::Uploader, Some(batch)), &message).unwrap();
        assert!(!by_token.missing_fails);
    }
}
