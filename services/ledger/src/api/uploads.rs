//! `caudal.v1.UploadService`: confirmations. Targets are issued by the gateway, which presigns.

use std::collections::HashSet;

use caudal_domain::{Refusal, Target, Violations, limits};
use caudal_proto::v1::upload_service_server::UploadService;
use caudal_proto::v1::{
    AbortPartsRequest, AbortPartsResponse, ConfirmUploadsRequest, ConfirmUploadsResponse,
    IssueUploadsRequest, IssueUploadsResponse, LeaveOutFilesRequest, LeaveOutFilesResponse,
    ListPartsRequest, ListPartsResponse, SignUploadCallRequest, SignUploadCallResponse,
};
use tonic::{Request, Response, Status};

use super::failure::answer;
use super::{Ledger, TenantScope, request_key, words};
use crate::store::work::AT_FINAL_KEY;
use crate::writer::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};
use crate::writer::verbs::leave_out::{LeaveOut, LeftOut};

const PARTS: &str = "the gateway asks the store for parts; the ledger knows of none";
/// Characters of an ETag.
const MAX_ETAG_CHARS: usize = 256;

#[tonic::async_trait]
impl UploadService for Ledger {
    async fn issue_uploads(
        &self,
        _request: Request<IssueUploadsRequest>,
    ) -> Result<Response<IssueUploadsResponse>, Status> {
        Err(Status::unimplemented(
            "the gateway serves IssueUploads; the ledger gives it the facts to presign with",
        ))
    }

    async fn list_parts(
        &self,
        _request: Request<ListPartsRequest>,
    ) -> Result<Response<ListPartsResponse>, Status> {
        Err(Status::unimplemented(PARTS))
    }

    async fn abort_parts(
        &self,
        _request: Request<AbortPartsRequest>,
    ) -> Result<Response<AbortPartsResponse>, Status> {
        Err(Status::unimplemented(PARTS))
    }

    async fn sign_upload_call(
        &self,
        _request: Request<SignUploadCallRequest>,
    ) -> Result<Response<SignUploadCallResponse>, Status> {
        Err(Status::unimplemented(PARTS))
    }

    async fn confirm_uploads(
        &self,
        request: Request<ConfirmUploadsRequest>,
    ) -> Result<Response<ConfirmUploadsResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let mut verb = confirmations(&scope, request.get_ref())?;
            let ordinals = verb.uploads.iter().map(|upload| upload.ordinal).collect();
            verb.foreign = self.foreign_to(&scope, verb.batch, ordinals).await?;
            Ok(Response::new(self.writer.ask(verb).await?))
        })
        .await
    }

    async fn leave_out_files(
        &self,
        request: Request<LeaveOutFilesRequest>,
    ) -> Result<Response<LeaveOutFilesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let mut verb = left_out(&scope, request.get_ref())?;
            let ordinals = verb.files.iter().map(|file| file.ordinal).collect();
            verb.foreign = self.foreign_to(&scope, verb.batch, ordinals).await?;
            Ok(Response::new(self.writer.ask(verb).await?))
        })
        .await
    }
}

fn left_out(scope: &TenantScope, message: &LeaveOutFilesRequest) -> Result<LeaveOut, Refusal> {
    let batch = scope.batch("batch", &message.batch)?;
    let request = request_key("LeaveOutFiles", &message.request_id, message)?;
    if message.files.is_empty() {
        let description = "must name at least one file";
        return Err(Refusal::invalid("files", description));
    }
    let mut wrong = Violations::default();
    let mut seen = HashSet::new();
    let mut files = Vec::with_capacity(message.files.len());
    for (index, one) in message.files.iter().enumerate() {
        if wrong.is_full() {
            break;
        }
        if let Err(description) = words::cause(&one.cause) {
            wrong.add(format!("files[{index}].cause"), description);
        }
        if !seen.insert(one.ordinal) {
            let description = format!("ordinal {} stands twice in this page", one.ordinal);
            wrong.add(format!("files[{index}].ordinal"), description);
        }
        files.push(LeftOut {
            ordinal: one.ordinal,
            cause: one.cause.clone(),
        });
    }
    wrong.into_result()?;
    Ok(LeaveOut {
        batch: scope.batch_ref(batch),
        request,
        files,
        foreign: HashSet::new(),
    })
}

fn confirmations(
    scope: &TenantScope,
    message: &ConfirmUploadsRequest,
) -> Result<ConfirmUploads, Refusal> {
    let batch = scope.batch("batch", &message.batch)?;
    let request = request_key("ConfirmUploads", &message.request_id, message)?;
    let count = message.uploads.len();
    if count == 0 || count > limits::MAX_CONFIRMATIONS_PER_PAGE {
        let description = format!(
            "has {count} uploads; send 1 to {} in a page",
            limits::MAX_CONFIRMATIONS_PER_PAGE
        );
        return Err(Refusal::invalid("uploads", description));
    }
    let mut wrong = Violations::default();
    let mut seen = HashSet::new();
    let mut uploads = Vec::with_capacity(count);
    for (index, upload) in message.uploads.iter().enumerate() {
        if wrong.is_full() {
            break;
        }
        let is_none = upload.etag.is_empty() || upload.etag == AT_FINAL_KEY;
        if is_none || upload.etag.chars().count() > MAX_ETAG_CHARS {
            let description = "must be the ETag that the store answered the upload with";
            wrong.add(format!("uploads[{index}].etag"), description);
        }
        if !seen.insert(upload.ordinal) {
            let description = format!("ordinal {} stands twice in this page", upload.ordinal);
            wrong.add(format!("uploads[{index}].ordinal"), description);
        }
        uploads.push(ConfirmedUpload {
            ordinal: upload.ordinal,
            target: Target::new(upload.target),
            etag: upload.etag.clone(),
        });
    }
    wrong.into_result()?;
    Ok(ConfirmUploads {
        batch: scope.batch_ref(batch),
        request,
        uploads,
        foreign: HashSet::new(),
    })
}
