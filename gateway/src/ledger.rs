//! How the gateway speaks with the ledger: every call carries a signed scope, and what the ledger refuses is passed
//! on as it is. A call that met a ledger which stands by, or none at all, is sent again for a while: all of them may be,
//! mutations by their request_id, and so callers hardly see one ledger take over from another.

use std::error::Error as _;
use std::time::Duration;

use caudal_domain::Refusal;
use caudal_node::scope::{MeshSecret, SCOPE_NOT_VALID, SCOPE_TOO_OLD, Scope, ScopeSigner};
use caudal_node::{LeaderChannel, MAX_DECODE_BYTES, MAX_ENCODE_BYTES, Rarely, TraceContext};
use caudal_proto::longrunning::operations_client::OperationsClient;
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::status::{from_status, to_status};
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::file_service_client::FileServiceClient;
use caudal_proto::v1::operator_service_client::OperatorServiceClient;
use caudal_proto::v1::tenant_service_client::TenantServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status};

use crate::oversize;

/// Metadata of a caller that goes on to the ledger. Nothing else does: not the credential, and no scope of its own.
/// The trace goes on by itself.
const PASSED_ON: [&str; 2] = ["accept-language", "grpc-timeout"];
/// Said of all calls together.
static UNREACHED: Rarely = Rarely::new();
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Before a call is sent again; doubles up to the longest, less a jitter of half.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A channel on which each call is signed as it goes out.
pub(crate) type Signed = InterceptedService<LeaderChannel, ScopeSigner>;

/// The ledger, as this gateway reaches it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    signed: Signed,
    call_timeout: Duration,
    takeover_patience: Duration,
}

impl Ledger {
    /// A call is given `call_timeout` where the caller set no deadline, and sent again for `takeover_patience`.
    pub(crate) fn new(
        channel: LeaderChannel,
        mesh_secret: MeshSecret,
        call_timeout: Duration,
        takeover_patience: Duration,
    ) -> Self {
        Self {
            signed: InterceptedService::new(channel, ScopeSigner::new(mesh_secret)),
            call_timeout,
            takeover_patience,
        }
    }

    /// A call of the gateway's own, in the name of `scope`.
    pub(crate) async fn call<T, A, C, F>(
        &self,
        scope: &Scope,
        message: T,
        call: C,
    ) -> Result<A, Status>
    where
        T: Clone,
        C: Fn(&Self, Request<T>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let request = |message| {
            let mut request = self.request(scope, message);
            request.set_timeout(self.call_timeout);
            request
        };
        self.answer(message, request, call).await
    }

    /// As [`Ledger::call`], for an answer that may take its time.
    pub(crate) async fn stream<T, A, C, F>(
        &self,
        scope: &Scope,
        message: T,
        call: C,
    ) -> Result<A, Status>
    where
        T: Clone,
        C: Fn(&Self, Request<T>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let request = |message| self.request(scope, message);
        self.answer(message, request, call).await
    }

    /// Sends a caller's request on in the name of `scope`, with its language, deadline and trace.
    pub(crate) async fn forward<T, A, C, F>(
        &self,
        scope: &Scope,
        metadata: &MetadataMap,
        message: T,
        call: C,
    ) -> Result<A, Status>
    where
        T: Clone,
        C: Fn(&Self, Request<T>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let request = |message| {
            let mut request = self.request(scope, message);
            request.set_timeout(self.call_timeout);
            for name in PASSED_ON {
                if let Some(value) = metadata.get(name) {
                    request.metadata_mut().insert(name, value.clone());
                }
            }
            request
        };
        self.answer(message, request, call).await
    }

    fn request<T>(&self, scope: &Scope, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(scope.clone());
        TraceContext::inject(request.metadata_mut());
        request
    }

    /// Sends until a ledger that leads has answered, or patience is over. The caller's deadline cuts it short: the
    /// server gives up the whole call then.
    async fn answer<T, A, C, F>(
        &self,
        message: T,
        request: impl Fn(T) -> Request<T>,
        call: C,
    ) -> Result<A, Status>
    where
        T: Clone,
        C: Fn(&Self, Request<T>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let gives_up_at = Instant::now() + self.takeover_patience;
        let mut longest_pause = FIRST_PAUSE;
        loop {
            let status = match call(self, request(message.clone())).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let pause = longest_pause.mul_f64(1.0 - rand::random::<f64>() / 2.0);
            let again = met_no_leader(&status) || is_refused(&status, SCOPE_TOO_OLD);
            if !again || Instant::now() + pause > gives_up_at {
                return Err(not_believed(&status).unwrap_or(status));
            }
            tracing::debug!(error = %status, "no ledger took the call, sending it again");
            tokio::time::sleep(pause).await;
            longest_pause = (longest_pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) fn mesh(&self) -> LedgerServiceClient<Signed> {
        LedgerServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn batches(&self) -> BatchServiceClient<Signed> {
        BatchServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn files(&self) -> FileServiceClient<Signed> {
        FileServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn operations(&self) -> OperationsClient<Signed> {
        OperationsClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn operator(&self) -> OperatorServiceClient<Signed> {
        OperatorServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn tenants(&self) -> TenantServiceClient<Signed> {
        TenantServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }

    pub(crate) fn uploads(&self) -> UploadServiceClient<Signed> {
        UploadServiceClient::new(self.signed.clone())
            .max_decoding_message_size(MAX_ENCODE_BYTES)
            .max_encoding_message_size(MAX_DECODE_BYTES)
    }
}

/// Whether the call may find a ledger that leads when it is sent again: it met one that stands by, or its connection
/// broke. One that leads and refuses, for want of room for instance, is believed.
fn met_no_leader(status: &Status) -> bool {
    if status.source().is_some() {
        return !is_timeout(status);
    }
    status.code() == Code::Unavailable && from_status(status).reason == "STANDBY"
}

fn is_refused(status: &Status, reason: &str) -> bool {
    status.source().is_none()
        && status.code() == Code::Unauthenticated
        && from_status(status).reason == reason
}

/// The caller's credential was good, and what the gateway signed was not: nothing that the caller could mend.
fn not_believed(status: &Status) -> Option<Status> {
    if !is_refused(status, SCOPE_TOO_OLD) && !is_refused(status, SCOPE_NOT_VALID) {
        return None;
    }
    tracing::error!(
        error = %status,
        "the ledger does not believe this gateway: do both have the same mesh secret, and the right time?"
    );
    Some(to_status(&Refusal::unavailable(
        "the services of this system do not believe one another; its operators can mend that",
        TRY_AGAIN_AFTER,
    )))
}

/// What the caller sees of the ledger's answer: its code, words and google.rpc details unchanged; an answer beyond a limit
/// and a broken connection to it become refusals of the gateway's own.
pub(crate) fn passed_on(status: &Status) -> Status {
    if let Some(refusal) = oversize::of_the_ledger(status) {
        return refusal;
    }
    if oversize::is_unreadable(status) {
        tracing::error!(error = %status, "an answer of the ledger cannot be read");
        return to_status(&Refusal::internal());
    }
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
    if let Some(times) = UNREACHED.next() {
        tracing::warn!(error = %status, times, "the ledger cannot be reached");
    }
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
