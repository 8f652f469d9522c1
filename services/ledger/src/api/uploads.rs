//! `caudal.v1.UploadService`: confirmations. Targets are issued by the gateway, which presigns.

use std::collections::HashSet;

use caudal_domain::{Refusal, Target, Violations, limits};
use caudal_proto::v1::upload_service_server::UploadService;
use caudal_proto::v1::{
    ConfirmUploadsRequest, ConfirmUploadsResponse, IssueUploadsRequest, IssueUploadsResponse,
};
use tonic::{Request, Response, Status};

use super::failure::answer;
use super::{Ledger, TenantScope, request_key};
use crate::store::work::AT_FINAL_KEY;
use crate::writer::verbs::confirm_uploads::{ConfirmUploads, ConfirmedUpload};

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

    async fn confirm_uploads(
        &self,
        request: Request<ConfirmUploadsRequest>,
    ) -> Result<Response<ConfirmUploadsResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let act = confirmations(&scope, request.get_ref())?;
            Ok(Response::new(self.writer.ask(act).await?))
        })
        .await
    }
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
    })
}
