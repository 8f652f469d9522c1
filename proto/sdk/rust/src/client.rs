//! Typed calls of the public API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_domain::shown_address;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::file_service_client::FileServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::error::{ClientError, is_worth_repeating};
use crate::retry::Backoff;
use crate::tls;

/// Largest message that is sent or taken; the gateway's own limit.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// How long one attempt of a call may take.
    pub attempt_timeout: Duration,
    /// For how long a call is repeated when no answer comes.
    pub patience: Duration,
    /// Language of words in answers: `en` or `es`.
    pub language: String,
    /// Certificates to trust beside those of the system, as PEM: for a gateway or a store whose authority is your own.
    pub ca_file: Option<PathBuf>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(120),
            language: "en".to_owned(),
            ca_file: None,
        }
    }
}

/// A connection to a gateway with one credential. Cheap to clone; connects again by itself.
#[derive(Debug, Clone)]
pub struct Client {
    gateway: String,
    channel: Channel,
    authorization: MetadataValue<Ascii>,
    language: Option<MetadataValue<Ascii>>,
    settings: ClientSettings,
    outage: Option<Outage>,
}

/// Told the words of the trouble when a call is repeated because nothing answers, and nothing when an answer came.
type ToldOfOutage = dyn Fn(Option<&str>) + Send + Sync;

#[derive(Clone)]
struct Outage(Arc<ToldOfOutage>);

impl std::fmt::Debug for Outage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Outage").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, so that a wrong address shows at once.
    ///
    /// # Errors
    /// A bad address or key, or nobody answers there.
    pub async fn connect(gateway: &str, api_key: &str) -> Result<Self, ClientError> {
        Self::connect_with(gateway, api_key, ClientSettings::default()).await
    }

    /// Connects with settings.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(
        gateway: &str,
        api_key: &str,
        settings: ClientSettings,
    ) -> Result<Self, ClientError> {
        let mut client = Self::lazy(gateway, api_key, settings)?;
        let unreachable = |error: tonic::transport::Error| ClientError::Unreachable {
            gateway: gateway.to_owned(),
            detail: deepest(&error),
        };
        let endpoint = endpoint(gateway)?;
        client.channel = match client.connector()? {
            None => endpoint.connect().await,
            Some(connector) => endpoint.connect_with_connector(connector).await,
        }
        .map_err(unreachable)?;
        Ok(client)
    }

    /// Connects with the first call: for somebody who waits for a gateway that may be down now.
    ///
    /// # Errors
    /// A bad address or key.
    pub fn lazy(
        gateway: &str,
        api_key: &str,
        settings: ClientSettings,
    ) -> Result<Self, ClientError> {
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {}", api_key.trim())
            .parse()
            .map_err(|_| ClientError::BadKey)?;
        authorization.set_sensitive(true);
        let endpoint = endpoint(gateway)?;
        let channel = match connector(gateway, &settings)? {
            None => endpoint.connect_lazy(),
            Some(connector) => endpoint.connect_with_connector_lazy(connector),
        };
        Ok(Self {
            gateway: gateway.to_owned(),
            channel,
            authorization,
            language: settings.language.parse().ok(),
            settings,
            outage: None,
        })
    }

    /// The same client, which never gives a call up for want of an answer. `told` hears of a trouble each time a call is
    /// to be repeated, and of `None` when one was answered after that.
    #[must_use]
    pub fn tireless(&self, told: impl Fn(Option<&str>) + Send + Sync + 'static) -> Self {
        let mut tireless = self.telling(told);
        tireless.settings.patience = Duration::MAX;
        tireless
    }

    /// The same client with the same patience, which tells what it waits for, as [`Client::tireless`] does.
    #[must_use]
    pub fn telling(&self, told: impl Fn(Option<&str>) + Send + Sync + 'static) -> Self {
        let mut telling = self.clone();
        telling.outage = Some(Outage(Arc::new(told)));
        telling
    }

    fn connector(&self) -> Result<Option<tls::Connector>, ClientError> {
        connector(&self.gateway, &self.settings)
    }

    /// How connections to where bytes go are secured.
    pub(crate) fn tls_config(&self) -> Result<rustls::ClientConfig, ClientError> {
        tls::config(self.settings.ca_file.as_deref())
    }

    /// Address of the gateway.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Makes an empty batch; `display_name`, `priority`, `options` and `metadata` are read.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn create_batch(&self, batch: v1::Batch) -> Result<v1::Batch, ClientError> {
        let request = v1::CreateBatchRequest {
            batch: Some(batch),
            request_id: new_request_id(),
        };
        let send = |mut client: BatchServiceClient<Channel>, request| async move {
            client.create_batch(request).await
        };
        self.call(request, |request| send(self.batches(), request))
            .await
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn get_batch(&self, name: &str) -> Result<v1::Batch, ClientError> {
        let request = v1::GetBatchRequest {
            name: name.to_owned(),
        };
        let send = |mut client: BatchServiceClient<Channel>, request| async move {
            client.get_batch(request).await
        };
        self.call(request, |request| send(self.batches(), request))
            .await
    }

    /// Reads the batch that an upload token is good for.
    ///
    /// # Errors
    /// The credential is a key, which is good for more than one, or another trouble of the call.
    pub async fn own_batch(&self) -> Result<v1::Batch, ClientError> {
        self.get_batch("batches/-").await
    }

    /// Lists a page of batches, newest first.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_batches(
        &self,
        request: v1::ListBatchesRequest,
    ) -> Result<v1::ListBatchesResponse, ClientError> {
        let send = |mut client: BatchServiceClient<Channel>, request| async move {
            client.list_batches(request).await
        };
        self.call(request, |request| send(self.batches(), request))
            .await
    }

    /// Adds a page of the manifest: 1 to 1,000 entries, taken whole or not at all.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn add_entries(
        &self,
        batch: &str,
        entries: Vec<v1::Entry>,
    ) -> Result<v1::AddEntriesResponse, ClientError> {
        let request = v1::AddEntriesRequest {
            batch: batch.to_owned(),
            entries,
            request_id: new_request_id(),
        };
        let send = |mut client: BatchServiceClient<Channel>, request| async move {
            client.add_entries(request).await
        };
        self.call(request, |request| send(self.batches(), request))
            .await
    }

    /// Says that the manifest is whole; `expected_entries` is the number of files sent, 0 for unchecked.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn complete_batch(
        &self,
        name: &str,
        missing: v1::MissingFiles,
        expected_entries: u32,
    ) -> Result<v1::Batch, ClientError> {
        let request = v1::CompleteBatchRequest {
            name: name.to_owned(),
            missing: missing.into(),
            expected_entries,
            request_id: new_request_id(),
        };
        let send = |mut client: BatchServiceClient<Channel>, request| async move {
            client.complete_batch(request).await
        };
        self.call(request, |request| send(self.batches(), request))
            .await
    }

    /// Asks for upload targets of 1 to 200 files, in parts for large ones. They expire: ask just before they are needed.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer. One file's trouble is in its own target.
    pub async fn issue_uploads(
        &self,
        batch: &str,
        ordinals: Vec<u32>,
    ) -> Result<Vec<v1::UploadTarget>, ClientError> {
        let asked = ordinals.len();
        let request = v1::IssueUploadsRequest {
            batch: batch.to_owned(),
            files: Some(v1::issue_uploads_request::Files::Ordinals(v1::Ordinals {
                ordinals,
            })),
            parts: true,
        };
        let send = |mut client: UploadServiceClient<Channel>, request| async move {
            client.issue_uploads(request).await
        };
        let targets = self
            .call(request, |request| send(self.uploads(), request))
            .await?
            .targets;
        if targets.len() != asked {
            let why = format!("{} targets for {asked} files", targets.len());
            return Err(ClientError::Nonsense {
                call: "IssueUploads",
                why,
            });
        }
        Ok(targets)
    }

    /// Says that the bytes of 1 to 1,000 files have landed.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer. One file's trouble is in its own confirmation.
    pub async fn confirm_uploads(
        &self,
        batch: &str,
        uploads: Vec<v1::Uploaded>,
    ) -> Result<Vec<v1::Confirmation>, ClientError> {
        let asked = uploads.len();
        let request = v1::ConfirmUploadsRequest {
            batch: batch.to_owned(),
            uploads,
            request_id: new_request_id(),
        };
        let send = |mut client: UploadServiceClient<Channel>, request| async move {
            client.confirm_uploads(request).await
        };
        let confirmations = self
            .call(request, |request| send(self.uploads(), request))
            .await?
            .confirmations;
        if confirmations.len() != asked {
            let why = format!("{} confirmations for {asked} uploads", confirmations.len());
            return Err(ClientError::Nonsense {
                call: "ConfirmUploads",
                why,
            });
        }
        Ok(confirmations)
    }

    /// Says of 1 to 1,000 files that their bytes will not come, and why.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn leave_out_files(
        &self,
        batch: &str,
        files: Vec<v1::LeftOut>,
    ) -> Result<Vec<v1::LeaveOut>, ClientError> {
        let request = v1::LeaveOutFilesRequest {
            batch: batch.to_owned(),
            files,
            request_id: new_request_id(),
        };
        let send = |mut client: UploadServiceClient<Channel>, request| async move {
            client.leave_out_files(request).await
        };
        let answer = self.call(request, |request| send(self.uploads(), request));
        Ok(answer.await?.files)
    }

    /// Reads a file with its results.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn get_file(&self, name: &str) -> Result<v1::File, ClientError> {
        let request = v1::GetFileRequest {
            name: name.to_owned(),
        };
        let send = |mut client: FileServiceClient<Channel>, request| async move {
            client.get_file(request).await
        };
        self.call(request, |request| send(self.files(), request))
            .await
    }

    /// Lists a page of files. A page may be short or empty and still have a next one.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn list_files(
        &self,
        request: v1::ListFilesRequest,
    ) -> Result<v1::ListFilesResponse, ClientError> {
        let send = |mut client: FileServiceClient<Channel>, request| async move {
            client.list_files(request).await
        };
        self.call(request, |request| send(self.files(), request))
            .await
    }

    /// Asks where to fetch an artifact.
    ///
    /// # Errors
    /// The gateway's refusal, or no answer.
    pub async fn get_artifact(
        &self,
        file: &str,
        artifact: &str,
    ) -> Result<v1::GetArtifactResponse, ClientError> {
        let request = v1::GetArtifactRequest {
            name: file.to_owned(),
            artifact: artifact.to_owned(),
        };
        let send = |mut client: FileServiceClient<Channel>, request| async move {
            client.get_artifact(request).await
        };
        self.call(request, |request| send(self.files(), request))
            .await
    }

    /// Opens one stream of a batch's progress; [`crate::watch::Watch`] keeps one open.
    ///
    /// # Errors
    /// The status as it came: the caller decides whether to try again.
    pub async fn open_watch(
        &self,
        batch: &str,
        after_revision: i64,
    ) -> Result<Streaming<v1::WatchBatchResponse>, Status> {
        let request = v1::WatchBatchRequest {
            name: batch.to_owned(),
            after_revision,
        };
        let mut client = self.batches();
        client
            .watch_batch(self.with_headers(request))
            .await
            .map(Response::into_inner)
    }

    /// Sends the same body until an answer comes that repeating cannot better, or patience ends.
    pub(crate) async fn call<Body, Answer, Sent>(
        &self,
        body: Body,
        send: impl Fn(Request<Body>) -> Sent,
    ) -> Result<Answer, ClientError>
    where
        Body: Clone,
        Sent: Future<Output = Result<Response<Answer>, Status>>,
    {
        // None: a patience without end.
        let give_up_at = Instant::now().checked_add(self.settings.patience);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let mut request = self.with_headers(body.clone());
            request.set_timeout(self.settings.attempt_timeout);
            let status = match send(request).await {
                Ok(response) => {
                    if let (Some(Outage(told)), 1..) = (&self.outage, backoff.attempts()) {
                        told(None);
                    }
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            let Some(asked) = is_worth_repeating(&status) else {
                return Err(ClientError::from_status(&status, &self.gateway));
            };
            let wait = backoff.next_wait().max(asked.unwrap_or_default());
            if give_up_at.is_some_and(|at| Instant::now() + wait > at) {
                return Err(ClientError::from_status(&status, &self.gateway));
            }
            if let Some(Outage(told)) = &self.outage {
                told(Some(
                    &ClientError::from_status(&status, &self.gateway).to_string(),
                ));
            }
            tracing::debug!(code = ?status.code(), message = status.message(), ?wait, "call will be repeated");
            tokio::time::sleep(wait).await;
        }
    }

    fn with_headers<Body>(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        if let Some(language) = &self.language {
            request
                .metadata_mut()
                .insert("accept-language", language.clone());
        }
        request
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn batches(&self) -> BatchServiceClient<Channel> {
        BatchServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn uploads(&self) -> UploadServiceClient<Channel> {
        UploadServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn files(&self) -> FileServiceClient<Channel> {
        FileServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

fn connector(
    gateway: &str,
    settings: &ClientSettings,
) -> Result<Option<tls::Connector>, ClientError> {
    if !gateway.starts_with("https://") {
        return Ok(None);
    }
    tls::connector(settings.ca_file.as_deref(), CONNECT_TIMEOUT).map(Some)
}

fn endpoint(gateway: &str) -> Result<Endpoint, ClientError> {
    let bad = |why: &str| ClientError::BadAddress {
        gateway: shown_address(gateway),
        why: why.to_owned(),
    };
    if !gateway.starts_with("http://") && !gateway.starts_with("https://") {
        return Err(bad("it must begin with http:// or https://"));
    }
    // The rest is shown in many places.
    if gateway.contains('@') {
        return Err(bad(
            "no user and no password belong into it: the API key is given beside it",
        ));
    }
    let endpoint = Endpoint::from_shared(gateway.trim_end_matches('/').to_owned())
        .map_err(|error| bad(&deepest(&error)))?;
    let has_bad_port = |authority: &http::uri::Authority| {
        authority.port_u16().is_none() && authority.as_str() != authority.host()
    };
    if endpoint.uri().authority().is_some_and(has_bad_port) {
        return Err(bad("what stands after the colon is no port"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        deepest = error.to_string();
        source = error.source();
    }
    deepest
}

pub(crate) fn new_request_id() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_a_plain_sentence() {
        let refused = Client::connect("http://127.0.0.1:1", "caudal_x").await;
        let words = refused.map(|_| ()).map_err(|error| error.to_string());
        assert!(words.is_err_and(|words| {
            words.starts_with("cannot reach the gateway at http://127.0.0.1:1 (")
        }));
    }

    #[tokio::test]
    async fn an_address_without_a_scheme_says_what_one_looks_like() {
        let refused = Client::connect("localhost:7410", "caudal_x").await;
        assert!(matches!(refused, Err(ClientError::BadAddress { .. })));
    }

    #[tokio::test]
    async fn a_password_in_an_address_is_refused_and_not_repeated() {
        for gateway in [
            "http://user:secret@127.0.0.1:1",
            "http://u:secret",
            "u:secret@h",
        ] {
            let refused = Client::connect(gateway, "caudal_x").await.map(|_| ());
            let error = refused.err().map(|error| (error.to_string(), error));
            let Some((words, ClientError::BadAddress { .. })) = error else {
                panic!("{gateway} was taken: {error:?}");
            };
            assert!(!words.contains("secret"), "{words}");
        }
    }
}
