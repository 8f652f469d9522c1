//! The public services as clients meet them. What the ledger implements is forwarded with the caller's signed scope,
//! language and deadline; presigning and watching are done here.

use std::time::{Duration, SystemTime};

use caudal_domain::limits::MAX_ENTRIES_PER_PAGE;
use caudal_domain::{Refusal, TenantId, parse_batch_name, parse_file_name};
use caudal_objects::ObjectStore;
use caudal_proto::longrunning;
use caudal_proto::longrunning::operations_server::Operations;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_server::BatchService;
use caudal_proto::v1::event_service_server::EventService;
use caudal_proto::v1::file_service_server::FileService;
use caudal_proto::v1::operator_service_server::OperatorService;
use caudal_proto::v1::tenant_service_server::TenantService;
use caudal_proto::v1::upload_service_server::UploadService;
use tonic::{Request, Response, Status};

use crate::auth::{Caller, needs_a_tenant};
use crate::door_limits::{DoorBook, Taken};
use crate::events::{EventStream, Events};
use crate::ledger::{Ledger, passed_on};
use crate::rates::Rates;
use crate::uploads::Uploads;
use crate::watch::{WatchStream, Watches};

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Implements the public services.
#[derive(Clone)]
pub(crate) struct PublicApi {
    pub(crate) ledger: Ledger,
    pub(crate) objects: ObjectStore,
    pub(crate) uploads: Uploads,
    pub(crate) watches: Watches,
    pub(crate) events: Events,
    pub(crate) rates: Rates,
    pub(crate) book: DoorBook,
    pub(crate) download_validity: Duration,
}

/// Sends a unary call on to the ledger and its answer, or its refusal, back.
macro_rules! forward {
    ($api:expr, $service:ident . $call:ident, $request:expr) => {{
        let (metadata, extensions, message) = $request.into_parts();
        let caller = Caller::of(&extensions)?;
        let forwarded =
            $api.ledger
                .forward(&caller.scope, &metadata, message, |ledger, request| {
                    let mut $service = ledger.$service();
                    async move { $service.$call(request).await }
                });
        match forwarded.await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(status) => Err(passed_on(&status)),
        }
    }};
}

impl PublicApi {
    /// A place for one more read that may walk far.
    fn expensive(&self, extensions: &http::Extensions) -> Result<Taken, Status> {
        let tenant = tenant_of(&Caller::of(extensions)?)?;
        self.book.take_read(tenant)
    }
}

fn tenant_of(caller: &Caller) -> Result<TenantId, Status> {
    needs_a_tenant(&caller.scope)?;
    caller
        .scope
        .tenant
        .ok_or_else(|| to_status(&Refusal::internal()))
}

#[tonic::async_trait]
impl BatchService for PublicApi {
    type WatchBatchStream = WatchStream;

    async fn create_batch(
        &self,
        request: Request<v1::CreateBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.create_batch, request)
    }

    async fn get_batch(
        &self,
        request: Request<v1::GetBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.get_batch, request)
    }

    async fn list_batches(
        &self,
        request: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        forward!(self, batches.list_batches, request)
    }

    async fn add_entries(
        &self,
        request: Request<v1::AddEntriesRequest>,
    ) -> Result<Response<v1::AddEntriesResponse>, Status> {
        let entries = request.get_ref().entries.len();
        if !(1..=MAX_ENTRIES_PER_PAGE).contains(&entries) {
            let words = format!("1 to {MAX_ENTRIES_PER_PAGE} are taken at once, {entries} came");
            return Err(to_status(&Refusal::invalid("entries", words)));
        }
        let tenant = tenant_of(&Caller::of(request.extensions())?)?;
        self.rates
            .entries(tenant, u32::try_from(entries).unwrap_or(u32::MAX))
            .await?;
        forward!(self, batches.add_entries, request)
    }

    async fn complete_batch(
        &self,
        request: Request<v1::CompleteBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.complete_batch, request)
    }

    async fn update_batch(
        &self,
        request: Request<v1::UpdateBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.update_batch, request)
    }

    async fn cancel_batch(
        &self,
        request: Request<v1::CancelBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.cancel_batch, request)
    }

    async fn pause_batch(
        &self,
        request: Request<v1::PauseBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.pause_batch, request)
    }

    async fn resume_batch(
        &self,
        request: Request<v1::ResumeBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        forward!(self, batches.resume_batch, request)
    }

    async fn list_folders(
        &self,
        request: Request<v1::ListFoldersRequest>,
    ) -> Result<Response<v1::ListFoldersResponse>, Status> {
        forward!(self, batches.list_folders, request)
    }

    async fn create_upload_token(
        &self,
        request: Request<v1::CreateUploadTokenRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        forward!(self, batches.create_upload_token, request)
    }

    async fn watch_batch(
        &self,
        request: Request<v1::WatchBatchRequest>,
    ) -> Result<Response<Self::WatchBatchStream>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let tenant = tenant_of(&caller)?;
        let batch =
            parse_batch_name(&message.name).map_err(|error| to_status(&error.refusal("name")))?;
        if message.after_revision < 0 {
            return Err(to_status(&Refusal::invalid(
                "after_revision",
                "must be 0 or a revision that you were told",
            )));
        }
        Ok(Response::new(
            self.watches
                .open(caller, tenant, batch, message.after_revision)
                .await?,
        ))
    }
}

#[tonic::async_trait]
impl FileService for PublicApi {
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::File>, Status> {
        forward!(self, files.get_file, request)
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let _place = self.expensive(request.extensions())?;
        forward!(self, files.list_files, request)
    }

    async fn count_files(
        &self,
        request: Request<v1::CountFilesRequest>,
    ) -> Result<Response<v1::CountFilesResponse>, Status> {
        let _place = self.expensive(request.extensions())?;
        forward!(self, files.count_files, request)
    }

    async fn list_file_history(
        &self,
        request: Request<v1::ListFileHistoryRequest>,
    ) -> Result<Response<v1::ListFileHistoryResponse>, Status> {
        let _place = self.expensive(request.extensions())?;
        forward!(self, files.list_file_history, request)
    }

    async fn list_failures(
        &self,
        request: Request<v1::ListFailuresRequest>,
    ) -> Result<Response<v1::ListFailuresResponse>, Status> {
        let _place = self.expensive(request.extensions())?;
        forward!(self, files.list_failures, request)
    }

    async fn retry_files(
        &self,
        request: Request<v1::RetryFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, files.retry_files, request)
    }

    async fn cancel_files(
        &self,
        request: Request<v1::CancelFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, files.cancel_files, request)
    }

    async fn reprocess_files(
        &self,
        request: Request<v1::ReprocessFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, files.reprocess_files, request)
    }

    async fn dismiss_failures(
        &self,
        request: Request<v1::DismissFailuresRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, files.dismiss_failures, request)
    }

    async fn get_artifact(
        &self,
        request: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<v1::GetArtifactResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let (batch, ordinal) =
            parse_file_name(&message.name).map_err(|error| to_status(&error.refusal("name")))?;
        if message.artifact.is_empty() {
            let words = "name the artifact, as `artifacts` of the file lists it";
            return Err(to_status(&Refusal::invalid("artifact", words)));
        }
        let facts = mesh::GetArtifactFactsRequest {
            batch: batch.as_bytes().to_vec().into(),
            ordinal,
            artifact: message.artifact,
        };
        let facts = self.ledger.call(&caller.scope, facts, |ledger, request| {
            let mut mesh = ledger.mesh();
            async move { mesh.get_artifact_facts(request).await }
        });
        let facts = facts.await.map_err(|status| passed_on(&status))?;

        let expires = SystemTime::now() + self.download_validity;
        let file_name = (!facts.file_name.is_empty()).then_some(facts.file_name.as_str());
        let presigned = self
            .objects
            .presign_get(&facts.key, self.download_validity, file_name)
            .await
            .map_err(|error| {
                tracing::error!(%error, "a download could not be presigned");
                to_status(&Refusal::unavailable(
                    "the download cannot be signed at the moment",
                    TRY_AGAIN_AFTER,
                ))
            })?;
        Ok(Response::new(v1::GetArtifactResponse {
            url: presigned.url,
            expire_time: Some(expires.into()),
            size: facts.size,
            media_type: facts.media_type,
            valid_for: prost_types::Duration::try_from(self.download_validity).ok(),
        }))
    }
}

#[tonic::async_trait]
impl UploadService for PublicApi {
    async fn issue_uploads(
        &self,
        request: Request<v1::IssueUploadsRequest>,
    ) -> Result<Response<v1::IssueUploadsResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let tenant = tenant_of(&caller)?;
        Ok(Response::new(
            self.uploads.issue(&caller.scope, tenant, &message).await?,
        ))
    }

    async fn list_parts(
        &self,
        request: Request<v1::ListPartsRequest>,
    ) -> Result<Response<v1::ListPartsResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let listed = self.uploads.list_parts(&caller.scope, &message);
        Ok(Response::new(listed.await?))
    }

    async fn abort_parts(
        &self,
        request: Request<v1::AbortPartsRequest>,
    ) -> Result<Response<v1::AbortPartsResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let aborted = self.uploads.abort_parts(&caller.scope, &message);
        Ok(Response::new(aborted.await?))
    }

    async fn sign_upload_call(
        &self,
        request: Request<v1::SignUploadCallRequest>,
    ) -> Result<Response<v1::SignUploadCallResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let signed = self.uploads.sign_call(&caller.scope, &message);
        Ok(Response::new(signed.await?))
    }

    async fn confirm_uploads(
        &self,
        request: Request<v1::ConfirmUploadsRequest>,
    ) -> Result<Response<v1::ConfirmUploadsResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let tenant = tenant_of(&caller)?;
        Ok(Response::new(
            self.uploads
                .confirm(&caller.scope, tenant, &metadata, message)
                .await?,
        ))
    }

    async fn leave_out_files(
        &self,
        request: Request<v1::LeaveOutFilesRequest>,
    ) -> Result<Response<v1::LeaveOutFilesResponse>, Status> {
        forward!(self, uploads.leave_out_files, request)
    }
}

#[tonic::async_trait]
impl EventService for PublicApi {
    type WatchEventsStream = EventStream;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let tenant = tenant_of(&caller)?;
        Ok(Response::new(
            self.events.open(caller, tenant, &message).await?,
        ))
    }
}

/// The role is checked at the door, and by the ledger again.
#[tonic::async_trait]
impl OperatorService for PublicApi {
    async fn count_aged(
        &self,
        request: Request<v1::CountAgedRequest>,
    ) -> Result<Response<v1::CountAgedResponse>, Status> {
        forward!(self, operator.count_aged, request)
    }

    async fn list_stages(
        &self,
        request: Request<v1::ListStagesRequest>,
    ) -> Result<Response<v1::ListStagesResponse>, Status> {
        forward!(self, operator.list_stages, request)
    }

    async fn update_stage(
        &self,
        request: Request<v1::UpdateStageRequest>,
    ) -> Result<Response<v1::Stage>, Status> {
        forward!(self, operator.update_stage, request)
    }

    async fn list_failures(
        &self,
        request: Request<v1::OperatorServiceListFailuresRequest>,
    ) -> Result<Response<v1::ListFailuresResponse>, Status> {
        forward!(self, operator.list_failures, request)
    }

    async fn retry_files(
        &self,
        request: Request<v1::OperatorServiceRetryFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operator.retry_files, request)
    }

    async fn cancel_files(
        &self,
        request: Request<v1::OperatorServiceCancelFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operator.cancel_files, request)
    }

    async fn reprocess_files(
        &self,
        request: Request<v1::OperatorServiceReprocessFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operator.reprocess_files, request)
    }

    async fn dismiss_failures(
        &self,
        request: Request<v1::OperatorServiceDismissFailuresRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operator.dismiss_failures, request)
    }

    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        forward!(self, operator.create_tenant, request)
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        forward!(self, operator.get_tenant, request)
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        forward!(self, operator.list_tenants, request)
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        forward!(self, operator.update_tenant, request)
    }

    async fn close_tenant(
        &self,
        request: Request<v1::CloseTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        forward!(self, operator.close_tenant, request)
    }

    async fn create_api_key(
        &self,
        request: Request<v1::OperatorServiceCreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        forward!(self, operator.create_api_key, request)
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::OperatorServiceListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        forward!(self, operator.list_api_keys, request)
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::OperatorServiceRevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        forward!(self, operator.revoke_api_key, request)
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::OperatorServiceRotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        forward!(self, operator.rotate_api_key, request)
    }

    async fn list_audit(
        &self,
        request: Request<v1::OperatorServiceListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        forward!(self, operator.list_audit, request)
    }
}

#[tonic::async_trait]
impl TenantService for PublicApi {
    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::TenantUsage>, Status> {
        forward!(self, tenants.get_usage, request)
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        forward!(self, tenants.create_api_key, request)
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        forward!(self, tenants.list_api_keys, request)
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        forward!(self, tenants.revoke_api_key, request)
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        forward!(self, tenants.rotate_api_key, request)
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        forward!(self, tenants.list_audit, request)
    }
}

#[tonic::async_trait]
impl Operations for PublicApi {
    async fn list_operations(
        &self,
        request: Request<longrunning::ListOperationsRequest>,
    ) -> Result<Response<longrunning::ListOperationsResponse>, Status> {
        forward!(self, operations.list_operations, request)
    }

    async fn get_operation(
        &self,
        request: Request<longrunning::GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operations.get_operation, request)
    }

    async fn delete_operation(
        &self,
        request: Request<longrunning::DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        forward!(self, operations.delete_operation, request)
    }

    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        forward!(self, operations.cancel_operation, request)
    }

    async fn wait_operation(
        &self,
        request: Request<longrunning::WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        forward!(self, operations.wait_operation, request)
    }
}
