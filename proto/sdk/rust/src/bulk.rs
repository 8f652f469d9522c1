//! Counting files and acting on selections of them; what operators ask.

use std::time::Duration;

use caudal_proto::longrunning;
use caudal_proto::longrunning::operations_client::OperationsClient;
use caudal_proto::v1;
use caudal_proto::v1::operator_service_client::OperatorServiceClient;
use prost::Message;
use tonic::transport::Channel;

use crate::client::{Client, MAX_MESSAGE_BYTES, new_request_id};
use crate::error::ClientError;

/// An act on every file of a selection. A request id is made where one is needed and none is set.
#[derive(Debug, Clone)]
pub enum Bulk {
    /// Retry FAILED files.
    Retry(v1::RetryFilesRequest),
    /// Cancel files that are not final.
    Cancel(v1::CancelFilesRequest),
    /// Take PROCESSED files through the route again.
    Reprocess(v1::ReprocessFilesRequest),
    /// Take dead letters off lists.
    Dismiss(v1::DismissFailuresRequest),
}

/// How far a bulk act is.
#[derive(Debug, Clone)]
pub struct BulkProgress {
    /// Name of the operation; empty when it was only counted.
    pub name: String,
    /// Files counted, done and left alone.
    pub metadata: v1::BulkMetadata,
    /// Whether it has ended.
    pub ended: bool,
    /// Why it ended before its time.
    pub error: Option<String>,
}

impl BulkProgress {
    fn of(operation: longrunning::Operation) -> Result<Self, ClientError> {
        let nonsense = |why: &str| ClientError::Nonsense {
            call: "Operations",
            why: why.to_owned(),
        };
        let metadata = operation
            .metadata
            .ok_or_else(|| nonsense("an operation without metadata"))?;
        let metadata = v1::BulkMetadata::decode(metadata.value.as_slice())
            .map_err(|_| nonsense("metadata that is no BulkMetadata"))?;
        let error = match operation.result {
            Some(longrunning::operation::Result::Error(status)) => Some(status.message),
            _ => None,
        };
        Ok(Self {
            name: operation.name,
            metadata,
            ended: operation.done,
            error,
        })
    }

    /// Files left alone, whatever the reason.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.metadata
            .refused
            .iter()
            .map(|refused| refused.count)
            .sum()
    }
}

macro_rules! unary {
    ($client:expr, $service:ident . $call:ident, $request:expr) => {{
        let client = $client;
        client
            .call($request, |request| {
                let mut service = client.$service();
                async move { service.$call(request).await }
            })
            .await
    }};
}
pub(crate) use unary;

impl Client {
    /// Counts the chosen files.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn count_files(
        &self,
        selector: v1::FileSelector,
        group_by: v1::CountGrouping,
    ) -> Result<v1::CountFilesResponse, ClientError> {
        let request = v1::CountFilesRequest {
            selector: Some(selector),
            group_by: group_by.into(),
        };
        unary!(self, files.count_files, request)
    }

    /// Lists a page of what happened to a file.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_file_history(
        &self,
        request: v1::ListFileHistoryRequest,
    ) -> Result<v1::ListFileHistoryResponse, ClientError> {
        unary!(self, files.list_file_history, request)
    }

    /// Lists a page of failures in groups.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_failures(
        &self,
        request: v1::ListFailuresRequest,
    ) -> Result<v1::ListFailuresResponse, ClientError> {
        unary!(self, files.list_failures, request)
    }

    /// Begins an act on the chosen files, or only counts them; `tenant` is for operators.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn begin(
        &self,
        mut act: Bulk,
        tenant: Option<&str>,
    ) -> Result<BulkProgress, ClientError> {
        act.give_request_id();
        let operation = match tenant {
            None => match act {
                Bulk::Retry(request) => unary!(self, files.retry_files, request),
                Bulk::Cancel(request) => unary!(self, files.cancel_files, request),
                Bulk::Reprocess(request) => unary!(self, files.reprocess_files, request),
                Bulk::Dismiss(request) => unary!(self, files.dismiss_failures, request),
            },
            Some(tenant) => self.begin_for(act, tenant.to_owned()).await,
        }?;
        BulkProgress::of(operation)
    }

    async fn begin_for(
        &self,
        act: Bulk,
        tenant: String,
    ) -> Result<longrunning::Operation, ClientError> {
        match act {
            Bulk::Retry(files) => {
                let request = v1::OperatorServiceRetryFilesRequest {
                    tenant,
                    files: Some(files),
                };
                unary!(self, operator.retry_files, request)
            }
            Bulk::Cancel(files) => {
                let request = v1::OperatorServiceCancelFilesRequest {
                    tenant,
                    files: Some(files),
                };
                unary!(self, operator.cancel_files, request)
            }
            Bulk::Reprocess(files) => {
                let request = v1::OperatorServiceReprocessFilesRequest {
                    tenant,
                    files: Some(files),
                };
                unary!(self, operator.reprocess_files, request)
            }
            Bulk::Dismiss(files) => {
                let request = v1::OperatorServiceDismissFailuresRequest {
                    tenant,
                    files: Some(files),
                };
                unary!(self, operator.dismiss_failures, request)
            }
        }
    }

    /// Waits until an act has ended, for `timeout` at most, and says how far it is.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn wait_operation(
        &self,
        name: &str,
        timeout: Duration,
    ) -> Result<BulkProgress, ClientError> {
        let request = longrunning::WaitOperationRequest {
            name: name.to_owned(),
            timeout: Some(caudal_proto::convert::duration_to_proto(timeout)),
        };
        let operation = unary!(self, operations.wait_operation, request)?;
        BulkProgress::of(operation)
    }

    /// Stops an act; what it has done stays done.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn cancel_operation(&self, name: &str) -> Result<(), ClientError> {
        let request = longrunning::CancelOperationRequest {
            name: name.to_owned(),
        };
        unary!(self, operations.cancel_operation, request)
    }

    /// Counts files that have been in a state for some time, over all tenants or one. For operators.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn count_aged(
        &self,
        request: v1::CountAgedRequest,
    ) -> Result<v1::CountAgedResponse, ClientError> {
        unary!(self, operator.count_aged, request)
    }

    /// What waits at each stage. For operators.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_stages(&self) -> Result<v1::ListStagesResponse, ClientError> {
        unary!(self, operator.list_stages, v1::ListStagesRequest {})
    }

    /// Changes what is set for a stage: the paths of `update_mask`, with the values in `stage`.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn update_stage(
        &self,
        stage: v1::Stage,
        update_mask: Vec<String>,
    ) -> Result<v1::Stage, ClientError> {
        let request = v1::UpdateStageRequest {
            stage: Some(stage),
            update_mask: Some(prost_types::FieldMask { paths: update_mask }),
            request_id: new_request_id(),
        };
        unary!(self, operator.update_stage, request)
    }

    /// Changes a batch: of `batch` only what `paths` names is read.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn update_batch(
        &self,
        batch: v1::Batch,
        paths: &[&str],
    ) -> Result<v1::Batch, ClientError> {
        let request = v1::UpdateBatchRequest {
            batch: Some(batch),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            request_id: new_request_id(),
        };
        unary!(self, batches.update_batch, request)
    }

    /// Cancels a batch, for good.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn cancel_batch(&self, name: &str) -> Result<v1::Batch, ClientError> {
        let request = v1::CancelBatchRequest {
            name: name.to_owned(),
            request_id: new_request_id(),
        };
        unary!(self, batches.cancel_batch, request)
    }

    /// Holds a batch until it is resumed.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn pause_batch(&self, name: &str, note: &str) -> Result<v1::Batch, ClientError> {
        let request = v1::PauseBatchRequest {
            name: name.to_owned(),
            note: note.to_owned(),
            request_id: new_request_id(),
        };
        unary!(self, batches.pause_batch, request)
    }

    /// Lets a paused batch go on.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn resume_batch(&self, name: &str) -> Result<v1::Batch, ClientError> {
        let request = v1::ResumeBatchRequest {
            name: name.to_owned(),
            request_id: new_request_id(),
        };
        unary!(self, batches.resume_batch, request)
    }

    fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

impl Bulk {
    fn give_request_id(&mut self) {
        let (validate_only, request_id) = match self {
            Self::Retry(request) => (request.validate_only, &mut request.request_id),
            Self::Cancel(request) => (request.validate_only, &mut request.request_id),
            Self::Reprocess(request) => (request.validate_only, &mut request.request_id),
            Self::Dismiss(request) => (request.validate_only, &mut request.request_id),
        };
        if request_id.is_empty() && !validate_only {
            *request_id = new_request_id();
        }
    }
}
