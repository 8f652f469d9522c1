//! How the gateway speaks with the ledger: every call carries a signed scope, and what the ledger refuses is passed
//! on as it is.

use std::error::Error as _;
use std::time::Duration;

use caudal_domain::Refusal;
use caudal_node::scope::{self, MeshSecret, Scope};
use caudal_node::{MAX_DECODE_BYTES, MAX_ENCODE_BYTES, TraceContext};
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::status::to_status;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::file_service_client::FileServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Metadata of a caller that goes on to the ledger. Nothing else does: not the credential, and no scope of its own.
/// The trace goes on by itself.
const PASSED_ON: [&str; 2] = ["accept-language", "grpc-timeout"];
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The ledger, as this gateway reaches it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    channel: Channel,
    mesh_secret: MeshSecret,
    call_timeout: Duration,
}

impl Ledger {
    pub(crate) fn new(channel: Channel, mesh_secret: MeshSecret, call_timeout: Duration) -> Self {
        Self {
            channel,
            mesh_secret,
            call_timeout,
        }
    }

    /// A call of the gateway's own, in the name of `scope`.
    pub(crate) fn call<T>(&self, scope: &Scope, message: T) -> Request<T> {
        let mut request = self.stream(scope, message);
        request.set_timeout(self.call_timeout);
        request
    }

    /// As [`Ledger::call`], for an answer that may take its time.
    pub(crate) fn stream<T>(&self, scope: &Scope, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let signed = scope::sign(scope, &self.mesh_secret);
        request.metadata_mut().insert(scope::SCOPE_METADATA, signed);
        TraceContext::inject(request.metadata_mut());
        request
    }

    /// A caller's request, to be sent on in the name of `scope`, with its language, deadline and trace.
    pub(crate) fn onward<T>(
        &self,
        scope: &Scope,
        metadata: &MetadataMap,
        message: T,
    ) -> Request<T> {
        let mut request = self.call(scope, message);
        for name in PASSED_ON {
            if let Some(value) = metadata.get(name) {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        request
    }

    pub(crate) fn mesh(&self) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn batches(&self) -> BatchServiceClient<Channel> {
        BatchServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn files(&self) -> FileServiceClient<Channel> {
        FileServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn uploads(&self) -> UploadServiceClient<Channel> {
        UploadServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }
}

/// What the caller sees of the ledger's answer: its code, words and google.rpc details unchanged; a broken connection
/// to it becomes a refusal of the gateway's own.
pub(crate) fn passed_on(status: &Status) -> Status {
    if status.source().is_none() {
        return Status::with_details(
            status.code(),
            status.message(),
            status.details().to_vec().into(),
        );
    }
    if is_timeout(status) {
        return Status::deadline_exceeded(
            "the ledger did not answer in time: repeat with the same request_id",
        );
    }
    tracing::warn!(error = %status, "the ledger cannot be reached");
    to_status(&Refusal::unavailable(
        "the ledger cannot be reached at the moment: repeat with the same request_id",
        TRY_AGAIN_AFTER,
    ))
}

fn is_timeout(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}
