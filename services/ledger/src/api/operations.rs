//! Bulk operations: begun by FileService and OperatorService, followed through `google.longrunning.Operations`.

use std::time::Duration;

use caudal_domain::{Refusal, Stage, TenantId, limits, names};
use caudal_node::scope::{self, Role, Scope};
use caudal_proto::convert::duration_from_proto;
use caudal_proto::longrunning::operations_server::Operations;
use caudal_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use caudal_proto::v1::{
    CancelFilesRequest, DismissFailuresRequest, FileSelector, ReprocessFilesRequest,
    RetryFilesRequest,
};
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::bounds::{self, Bounded};
use super::failure::{Failure, answer};
use super::tenancy::actor_of;
use super::{Ledger, TenantScope, page_token, request_key, within_time};
use crate::select::{Purpose, folded, resolve};
use crate::store::operations::{FileVerb, OperationRow, OperationState, Viewer};
use crate::store::selection::{Grouping, Selection};
use crate::store::{operations, requests, selection};
use crate::wire;
use crate::writer::audited::{Act, Actor, Audited};
use crate::writer::request_key::RequestKey;
use crate::writer::verbs::end_operation::EndOperation;
use crate::writer::verbs::start_operation::StartOperation;

/// What `name` of ListOperations may be.
const COLLECTION: &str = "operations";

/// In whose name a bulk operation is begun, and over whose files.
pub(crate) struct Commander {
    pub(crate) tenant: TenantId,
    pub(crate) actor: Actor,
    /// Everything that it does is written down, and not its cancels alone.
    pub(crate) is_watched: bool,
    pub(crate) by_operator: bool,
}

impl Commander {
    /// A member of the tenant; a credential for one batch commands nothing.
    pub(crate) fn member(scope: &TenantScope) -> Result<Self, Refusal> {
        scope.require_whole_tenant()?;
        Ok(Self {
            tenant: scope.tenant,
            actor: scope.actor.clone(),
            is_watched: scope.role == Role::Admin,
            by_operator: false,
        })
    }
}

/// A bulk operation as a request asks for it.
pub(crate) struct Command {
    pub(crate) verb: FileVerb,
    pub(crate) selector: FileSelector,
    /// Where the selector stands in the request.
    pub(crate) field: &'static str,
    pub(crate) max_count: u32,
    /// `None`: only counted.
    pub(crate) request: Option<RequestKey>,
}

/// Where the request of an operation stands in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the call.
    Itself,
    /// In the field `files`, beside a tenant.
    Beside,
}

/// What the requests of the operations have in common.
pub(crate) trait BulkRequest {
    /// What is to be done.
    fn verb(&self, place: Place) -> Result<FileVerb, Refusal>;
    /// To which files.
    fn selector(&self) -> Option<&FileSelector>;
    /// At most how many, whether they are only counted, and the request id.
    fn bounds(&self) -> (u32, bool, &str);
}

macro_rules! bulk_request {
    ($request:ty, |$this:ident, $place:ident| $verb:expr) => {
        impl BulkRequest for $request {
            fn verb(&self, $place: Place) -> Result<FileVerb, Refusal> {
                let $this = self;
                $verb
            }

            fn selector(&self) -> Option<&FileSelector> {
                self.selector.as_ref()
            }

            fn bounds(&self) -> (u32, bool, &str) {
                (self.max_count, self.validate_only, &self.request_id)
            }
        }
    };
}

bulk_request!(RetryFilesRequest, |request, _place| Ok(FileVerb::Retry {
    skip_backoff: request.skip_backoff
}));
bulk_request!(CancelFilesRequest, |_request, _place| Ok(FileVerb::Cancel));
bulk_request!(ReprocessFilesRequest, |request, place| {
    Ok(FileVerb::Reprocess {
        from: first_stage(&request.from_stage, place)?,
        force: request.force,
    })
});
bulk_request!(DismissFailuresRequest, |_request, _place| Ok(
    FileVerb::Dismiss
));

fn first_stage(name: &str, place: Place) -> Result<Stage, Refusal> {
    if name.is_empty() {
        return Ok(Stage::Upload);
    }
    name.parse().map_err(|error: caudal_domain::UnknownStage| {
        let field = match place {
            Place::Itself => "from_stage",
            Place::Beside => "files.from_stage",
        };
        Refusal::invalid(field, error.to_string())
    })
}

impl Command {
    /// What a request asks for. `call` is the name of the RPC, `whole` its whole message.
    pub(crate) fn of(
        request: &impl BulkRequest,
        call: &'static str,
        place: Place,
        whole: &impl Message,
    ) -> Result<Self, Refusal> {
        let (max_count, validate_only, request_id) = request.bounds();
        Ok(Self {
            verb: request.verb(place)?,
            selector: request.selector().map(folded).unwrap_or_default(),
            field: match place {
                Place::Itself => "selector",
                Place::Beside => "files.selector",
            },
            max_count,
            request: if validate_only {
                None
            } else {
                Some(request_key(call, request_id, whole)?)
            },
        })
    }
}

impl Ledger {
    /// Counts what a command chooses and, unless it only asks for that, begins the operation.
    pub(super) async fn begin(
        &self,
        commander: Commander,
        command: Command,
    ) -> Result<Response<Operation>, Failure> {
        let tenant = commander.tenant;
        if let Some(request) = &command.request
            && let Some(first) = self.first_answer(tenant, request).await?
        {
            return Ok(Response::new(first));
        }
        let session = self.store.reader();
        let now = session.now().await?;
        let chosen = resolve(
            &session,
            tenant,
            command.field,
            &command.selector,
            Purpose::Act(&command.verb),
            now,
        )
        .await?;
        let matched = self.matched(&chosen).await?;
        let most = u64::from(command.max_count);
        if most > 0 && matched > most {
            return Err(too_many(matched, most).into());
        }
        let Some(request) = command.request else {
            let row = OperationRow {
                tenant,
                id: Uuid::nil(),
                verb: command.verb,
                selector: command.selector.encode_to_vec(),
                state: OperationState::Succeeded,
                cursor: None,
                matched,
                max_count: most,
                done: 0,
                refused: std::collections::BTreeMap::new(),
                requested_by: commander.actor.words.clone(),
                by_operator: commander.by_operator,
                created_at: now,
                updated_at: now,
                ended_at: Some(now),
            };
            let counted = Operation {
                name: String::new(),
                ..wire::operation(&row)
            };
            return Ok(Response::new(counted));
        };
        let id = Uuid::now_v7();
        let is_written = commander.is_watched || matches!(command.verb, FileVerb::Cancel);
        let act = is_written.then(|| Act {
            id: Uuid::now_v7(),
            actor: commander.actor.clone(),
            tenant: Some(tenant),
            call: call_of(command.verb),
            target: names::operation_name(id),
            detail: serde_json::json!({
                "batch": command.selector.batch,
                "matched": matched,
            })
            .to_string(),
        });
        let start = StartOperation {
            tenant,
            id,
            request,
            verb: command.verb,
            selector: command.selector.encode_to_vec(),
            matched,
            max_count: most,
            requested_by: commander.actor.words,
            by_operator: commander.by_operator,
        };
        match self.writer.ask(Audited { verb: start, act }).await {
            Ok(operation) => {
                self.operations.started.notify_one();
                Ok(Response::new(operation))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The answer to the same request before: files are not counted again, for they may have moved since.
    async fn first_answer(
        &self,
        tenant: TenantId,
        request: &RequestKey,
    ) -> Result<Option<Operation>, Failure> {
        let first = requests::answered(&self.store.reader_of(tenant), (tenant, request.id)).await?;
        Ok(first
            .filter(|first| first.method == request.method && first.body_hash == request.body_hash)
            .and_then(|first| Operation::decode(first.answer.as_slice()).ok()))
    }

    async fn matched(&self, chosen: &Selection) -> Result<u64, Failure> {
        let session = self.store.reader_of(chosen.tenant);
        let counts = within_time(selection::count(&session, chosen, Grouping::Nothing)).await?;
        Ok(counts.iter().map(|(_, count)| count).sum())
    }

    async fn operation(&self, viewer: Viewer, name: &str) -> Result<OperationRow, Failure> {
        let id = names::parse_operation_name(name).map_err(|error| error.refusal("name"))?;
        let found = operations::get(&self.store.reader(), viewer, id).await?;
        Ok(found.ok_or_else(|| Refusal::not_found(name))?)
    }
}

/// The name of the call that begins it.
fn call_of(verb: FileVerb) -> &'static str {
    match verb {
        FileVerb::Retry { .. } => "RetryFiles",
        FileVerb::Cancel => "CancelFiles",
        FileVerb::Reprocess { .. } => "ReprocessFiles",
        FileVerb::Dismiss => "DismissFailures",
    }
}

fn too_many(matched: u64, most: u64) -> Refusal {
    let message = format!(
        "{matched} files are chosen, more than the {most} that `max_count` allows: choose fewer, or raise it"
    );
    Refusal::failed_precondition("MAX_COUNT_EXCEEDED", message)
        .with_metadata("count", matched.to_string())
        .with_metadata("max_count", most.to_string())
}

/// Whose operations a caller sees, once it is known that the request holds no more than it may.
fn viewer<T: Bounded>(request: &Request<T>) -> Result<Viewer, Failure> {
    let caller: &Scope = scope::of(request)?;
    if caller.role == Role::Operator {
        bounds::check(request.get_ref())?;
        return Ok(Viewer::Operator);
    }
    let scope = TenantScope::of(request)?;
    scope.require_whole_tenant()?;
    Ok(Viewer::Tenant(scope.tenant))
}

#[tonic::async_trait]
impl Operations for Ledger {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        answer(async {
            let viewer = viewer(&request)?;
            let message = request.get_ref();
            if !message.filter.is_empty() {
                let words = "is not served: list all and choose among them";
                return Err(Refusal::invalid("filter", words).into());
            }
            if !["", COLLECTION].contains(&message.name.as_str()) {
                let words = "must be `operations`, or empty";
                return Err(Refusal::invalid("name", words).into());
            }
            let size = page_token::size(message.page_size, limits::DEFAULT_PAGE_SIZE)?;
            let whose = match viewer {
                Viewer::Tenant(tenant) => Some(tenant),
                Viewer::Operator => None,
            };
            let pages = self.pages(whose, message);
            let before = pages.place::<16>()?;
            let limit = u32::try_from(size + 1).unwrap_or(u32::MAX);
            let before = before.map(Uuid::from_bytes);
            let mut rows = operations::list(&self.store.reader(), viewer, before, limit).await?;
            let found = rows.len();
            rows.truncate(size);
            let mut room = page_token::Room::default();
            let listed: Vec<Operation> = rows
                .iter()
                .map(wire::operation)
                .take_while(|operation| room.takes(operation))
                .collect();
            let last = listed.len().checked_sub(1).and_then(|last| rows.get(last));
            let next_page_token = match last {
                Some(last) if listed.len() < found => pages.token_of(last.id.as_bytes()),
                _ => String::new(),
            };
            Ok(Response::new(ListOperationsResponse {
                operations: listed,
                next_page_token,
                unreachable: Vec::new(),
            }))
        })
        .await
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let viewer = viewer(&request)?;
            let row = self.operation(viewer, &request.get_ref().name).await?;
            Ok(Response::new(wire::operation(&row)))
        })
        .await
    }

    async fn delete_operation(
        &self,
        _request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(
            "operations are deleted by the system a week after their end; CancelOperation stops one",
        ))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        answer(async {
            let viewer = viewer(&request)?;
            let row = self.operation(viewer, &request.get_ref().name).await?;
            let end = EndOperation {
                tenant: row.tenant,
                operation: row.id,
                state: OperationState::Cancelled,
            };
            let act = Act {
                id: Uuid::now_v7(),
                actor: actor_of(&request)?,
                tenant: Some(row.tenant),
                call: "CancelOperation",
                target: request.get_ref().name.clone(),
                detail: String::new(),
            };
            let end = Audited {
                verb: end,
                act: Some(act),
            };
            match self.writer.ask(end).await {
                Ok(()) => {
                    self.operations.progressed.send_replace(());
                    Ok(Response::new(()))
                }
                Err(refusal) => Err(refusal.into()),
            }
        })
        .await
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let viewer = viewer(&request)?;
            let message = request.get_ref();
            let asked = match &message.timeout {
                Some(timeout) => duration_from_proto(timeout)
                    .map_err(|error| Refusal::invalid("timeout", error.to_string()))?,
                None => Duration::MAX,
            };
            let until = tokio::time::Instant::now() + asked.min(limits::MAX_OPERATION_WAIT);
            let mut moved = self.operations.progressed.subscribe();
            loop {
                let row = self.operation(viewer, &message.name).await?;
                if row.state != OperationState::Running {
                    return Ok(Response::new(wire::operation(&row)));
                }
                let waited = tokio::time::timeout_at(until, moved.changed()).await;
                if !matches!(waited, Ok(Ok(()))) {
                    let row = self.operation(viewer, &message.name).await?;
                    return Ok(Response::new(wire::operation(&row)));
                }
            }
        })
        .await
    }
}
