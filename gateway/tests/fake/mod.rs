//! A gateway between a scripted ledger, an embedded S3 server and a scripted limiter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use caudal_domain::{BatchId, FileRef, Refusal, Target, TenantId, landing_key};
use caudal_embedded::{S3Server, S3Settings};
use caudal_gateway::key::ApiKey;
use caudal_gateway::{Deps, Gateway, RunningGateway, Settings};
use caudal_node::scope::{Scope, verify};
use caudal_node::{Channels, MeshSecret, ServiceIdentity};
use caudal_objects::ObjectStore;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::mesh::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use caudal_proto::mesh::v1::limiter_service_server::{LimiterService, LimiterServiceServer};
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_server::{BatchService, BatchServiceServer};
use caudal_proto::v1::file_service_server::{FileService, FileServiceServer};
use caudal_proto::v1::upload_service_server::{UploadService, UploadServiceServer};
use futures::stream::BoxStream;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub(crate) const TENANT: TenantId = TenantId::from_uuid(Uuid::from_bytes([1; 16]));
pub(crate) const BATCH: BatchId = BatchId::from_uuid(Uuid::from_bytes([2; 16]));
/// Five bytes are promised and have not landed.
pub(crate) const ORDINAL_LANDING: u32 = 4;
pub(crate) const ORDINAL_PROCESSED: u32 = 5;
pub(crate) const ORDINAL_FAILED: u32 = 6;
pub(crate) const ORDINAL_UNKNOWN: u32 = 99;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn mesh_secret() -> MeshSecret {
    MeshSecret::new(SECRET).unwrap()
}

/// A call that reached the ledger in a caller's name.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    pub(crate) scope: Scope,
    pub(crate) language: Option<String>,
    pub(crate) has_authorization: bool,
}

#[derive(Default)]
struct Script {
    keys: Vec<(String, [u8; 32], mesh::Scope)>,
    forwarded: Vec<Forwarded>,
    confirmed: Vec<(u32, String)>,
    refusal: Option<Refusal>,
    changes: Vec<mesh::PackedChanges>,
    oldest: i64,
    erased: bool,
}

/// The scripted ledger.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Script>>);

impl Ledger {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    pub(crate) fn forwarded(&self) -> Vec<Forwarded> {
        self.script().forwarded.clone()
    }

    pub(crate) fn confirmed(&self) -> Vec<(u32, String)> {
        self.script().confirmed.clone()
    }

    pub(crate) fn refuse_entries(&self, refusal: Refusal) {
        self.script().refusal = Some(refusal);
    }

    pub(crate) fn revoke_keys(&self) {
        self.script().keys.clear();
    }

    pub(crate) fn erase_batch(&self) {
        self.script().erased = true;
    }

    pub(crate) fn forget_changes_before(&self, revision: i64) {
        self.script().oldest = revision;
    }

    /// One file moves.
    pub(crate) fn commit(&self, revision: i64, ordinal: u32, to: v1::FileState) {
        let set = mesh::ChangeSet {
            ordinal: vec![ordinal],
            from: vec![1],
            to: vec![to as u32],
            stage: vec![1],
            detail: vec![1],
            batch: Some(v1::Batch {
                run: 1,
                revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        let change = mesh::PackedChanges {
            batch_revision: revision,
            body: set.encode_to_vec().into(),
        };
        self.script().changes.push(change);
    }

    /// Checks the scope as the real one does, and notes the call.
    fn admit(&self, metadata: &MetadataMap) -> Result<Scope, Status> {
        let scope = verify(metadata, &mesh_secret()).map_err(|refusal| to_status(&refusal))?;
        self.script().forwarded.push(Forwarded {
            scope: scope.clone(),
            language: metadata
                .get("accept-language")
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            has_authorization: metadata.contains_key("authorization"),
        });
        Ok(scope)
    }

    fn batch_of(&self, batch: &[u8]) -> Result<(), Status> {
        if batch == BATCH.as_bytes() && !self.script().erased {
            return Ok(());
        }
        Err(to_status(&Refusal::not_found("batches/…")))
    }
}

#[tonic::async_trait]
impl LedgerService for Ledger {
    type GetSnapshotStream = BoxStream<'static, Result<mesh::GetSnapshotResponse, Status>>;

    async fn check_credential(
        &self,
        request: Request<mesh::CheckCredentialRequest>,
    ) -> Result<Response<mesh::CheckCredentialResponse>, Status> {
        let scope =
            verify(request.metadata(), &mesh_secret()).map_err(|refusal| to_status(&refusal))?;
        assert_eq!(scope, Scope::service("gateway"));
        let asked = request.into_inner();
        let script = self.script();
        let key = script
            .keys
            .iter()
            .find(|(id, sha256, _)| *id == asked.key_id && sha256[..] == asked.secret_sha256);
        let scope = key
            .map(|(_, _, scope)| scope.clone())
            .ok_or_else(|| Status::unauthenticated("unknown"))?;
        Ok(Response::new(mesh::CheckCredentialResponse {
            scope: Some(scope),
        }))
    }

    async fn get_issue_facts(
        &self,
        request: Request<mesh::GetIssueFactsRequest>,
    ) -> Result<Response<mesh::GetIssueFactsResponse>, Status> {
        let scope =
            verify(request.metadata(), &mesh_secret()).map_err(|refusal| to_status(&refusal))?;
        let asked = request.into_inner();
        self.batch_of(&asked.batch)?;
        let files = asked.ordinals.iter().map(|ordinal| {
            let state = match *ordinal {
                ORDINAL_PROCESSED => v1::FileState::Processed,
                ORDINAL_FAILED => v1::FileState::Failed,
                _ => v1::FileState::Pending,
            };
            let file = FileRef {
                tenant: scope.tenant.unwrap(),
                batch: BATCH,
                ordinal: *ordinal,
            };
            mesh::IssueFacts {
                ordinal: *ordinal,
                exists: *ordinal != ORDINAL_UNKNOWN,
                state: state.into(),
                target: 1,
                landing_key: landing_key(file, Target(1)),
                size: 5,
            }
        });
        Ok(Response::new(mesh::GetIssueFactsResponse {
            files: files.collect(),
        }))
    }

    async fn get_artifact_facts(
        &self,
        request: Request<mesh::GetArtifactFactsRequest>,
    ) -> Result<Response<mesh::GetArtifactFactsResponse>, Status> {
        self.batch_of(&request.into_inner().batch)?;
        Ok(Response::new(mesh::GetArtifactFactsResponse {
            key: "t/artifact".into(),
            size: 5,
            media_type: "text/plain".into(),
            file_name: "a.txt".into(),
        }))
    }

    async fn list_changes(
        &self,
        request: Request<mesh::ListChangesRequest>,
    ) -> Result<Response<mesh::ListChangesResponse>, Status> {
        const PAGE: usize = 64;
        let asked = request.into_inner();
        self.batch_of(&asked.batch)?;
        let script = self.script();
        if asked.after_revision < script.oldest {
            return Ok(Response::new(mesh::ListChangesResponse {
                too_old: true,
                ..Default::default()
            }));
        }
        let news = script
            .changes
            .iter()
            .filter(|change| change.batch_revision > asked.after_revision);
        let changes: Vec<_> = news.take(PAGE).cloned().collect();
        let more = changes.len() == PAGE;
        Ok(Response::new(mesh::ListChangesResponse {
            changes,
            too_old: false,
            more,
        }))
    }

    async fn get_snapshot(
        &self,
        request: Request<mesh::GetSnapshotRequest>,
    ) -> Result<Response<Self::GetSnapshotStream>, Status> {
        self.batch_of(&request.into_inner().batch)?;
        let first = v1::Snapshot {
            revision: 1,
            batch: Some(v1::Batch::default()),
            ..Default::default()
        };
        let last = v1::Snapshot {
            revision: 1,
            last: true,
            ..Default::default()
        };
        let parts = [first, last].map(|part| {
            Ok(mesh::GetSnapshotResponse {
                snapshot: Some(part),
            })
        });
        Ok(Response::new(Box::pin(futures::stream::iter(parts))))
    }

    async fn lease(
        &self,
        _: Request<mesh::LeaseRequest>,
    ) -> Result<Response<mesh::LeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew(
        &self,
        _: Request<mesh::RenewRequest>,
    ) -> Result<Response<mesh::RenewResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn release(
        &self,
        _: Request<mesh::ReleaseRequest>,
    ) -> Result<Response<mesh::ReleaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn report(
        &self,
        _: Request<mesh::ReportRequest>,
    ) -> Result<Response<mesh::ReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_events(
        &self,
        _: Request<mesh::ListEventsRequest>,
    ) -> Result<Response<mesh::ListEventsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn request_reconcile(
        &self,
        _: Request<mesh::RequestReconcileRequest>,
    ) -> Result<Response<mesh::RequestReconcileResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl BatchService for Ledger {
    type WatchBatchStream = BoxStream<'static, Result<v1::WatchBatchResponse, Status>>;

    async fn get_batch(
        &self,
        request: Request<v1::GetBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(v1::Batch {
            name: request.into_inner().name,
            ..Default::default()
        }))
    }

    async fn add_entries(
        &self,
        request: Request<v1::AddEntriesRequest>,
    ) -> Result<Response<v1::AddEntriesResponse>, Status> {
        self.admit(request.metadata())?;
        match &self.script().refusal {
            Some(refusal) => Err(to_status(refusal)),
            None => Ok(Response::new(v1::AddEntriesResponse::default())),
        }
    }

    async fn list_folders(
        &self,
        _: Request<v1::ListFoldersRequest>,
    ) -> Result<Response<v1::ListFoldersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn create_batch(
        &self,
        _: Request<v1::CreateBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_batches(
        &self,
        _: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn complete_batch(
        &self,
        _: Request<v1::CompleteBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_batch(
        &self,
        _: Request<v1::WatchBatchRequest>,
    ) -> Result<Response<Self::WatchBatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl FileService for Ledger {
    async fn get_file(&self, _: Request<v1::GetFileRequest>) -> Result<Response<v1::File>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_files(
        &self,
        _: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_artifact(
        &self,
        _: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<v1::GetArtifactResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl UploadService for Ledger {
    async fn issue_uploads(
        &self,
        _: Request<v1::IssueUploadsRequest>,
    ) -> Result<Response<v1::IssueUploadsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn confirm_uploads(
        &self,
        request: Request<v1::ConfirmUploadsRequest>,
    ) -> Result<Response<v1::ConfirmUploadsResponse>, Status> {
        self.admit(request.metadata())?;
        let mut confirmations = Vec::new();
        for upload in request.into_inner().uploads {
            self.script().confirmed.push((upload.ordinal, upload.etag));
            let state = v1::confirmation::Result::State(v1::FileState::Uploaded.into());
            confirmations.push(v1::Confirmation {
                ordinal: upload.ordinal,
                result: Some(state),
            });
        }
        Ok(Response::new(v1::ConfirmUploadsResponse { confirmations }))
    }
}

struct Limiter(mesh::AcquireResponse);

#[tonic::async_trait]
impl LimiterService for Limiter {
    async fn acquire(
        &self,
        _: Request<mesh::AcquireRequest>,
    ) -> Result<Response<mesh::AcquireResponse>, Status> {
        Ok(Response::new(self.0))
    }

    async fn hold_slots(
        &self,
        _: Request<mesh::HoldSlotsRequest>,
    ) -> Result<Response<mesh::HoldSlotsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn penalize(
        &self,
        _: Request<mesh::PenalizeRequest>,
    ) -> Result<Response<mesh::PenalizeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_status(
        &self,
        _: Request<mesh::GetStatusRequest>,
    ) -> Result<Response<mesh::GetStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Everything around one gateway.
pub(crate) struct World {
    pub(crate) gateway: String,
    pub(crate) ledger: Ledger,
    pub(crate) objects: ObjectStore,
    pub(crate) operator: ApiKey,
    pub(crate) shutdown: CancellationToken,
    /// Where the page would be; the folder is not there.
    pub(crate) web_dir: std::path::PathBuf,
    key: ApiKey,
    running: RunningGateway,
    ledger_server: JoinHandle<()>,
    ledger_shutdown: CancellationToken,
    others: CancellationToken,
    _folder: tempfile::TempDir,
    store: S3Server,
}

impl World {
    /// With a limiter that is away.
    pub(crate) async fn start() -> Self {
        Self::tuned(|_| ()).await
    }

    /// With other settings of the gateway, and a limiter that is away.
    pub(crate) async fn tuned(tune: impl FnOnce(&mut Settings)) -> Self {
        let limiter = "http://127.0.0.1:1".to_owned();
        Self::with(limiter, CancellationToken::new(), tune).await
    }

    /// With a limiter that answers so.
    pub(crate) async fn with_limiter(answer: mesh::AcquireResponse) -> Self {
        let others = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let ended = others.clone().cancelled_owned();
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(LimiterServiceServer::new(Limiter(answer)))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended)
                .await
                .unwrap();
        });
        Self::with(address, others, |_| ()).await
    }

    async fn with(
        limiter: String,
        others: CancellationToken,
        tune: impl FnOnce(&mut Settings),
    ) -> Self {
        let (key, operator) = (ApiKey::generate(), ApiKey::generate());
        let ledger = Ledger::default();
        let scope = |role: mesh::Role, tenant: &[u8]| mesh::Scope {
            tenant: tenant.to_vec().into(),
            principal: "key:test".into(),
            role: role.into(),
            ..Default::default()
        };
        ledger.script().keys = vec![
            (
                key.id().to_owned(),
                key.secret_sha256(),
                scope(mesh::Role::Member, TENANT.as_bytes()),
            ),
            (
                operator.id().to_owned(),
                operator.secret_sha256(),
                scope(mesh::Role::Operator, &[]),
            ),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ledger_address = format!("http://{}", listener.local_addr().unwrap());
        let ledger_shutdown = CancellationToken::new();
        let ledger_server = tokio::spawn({
            let ledger = ledger.clone();
            let ended = ledger_shutdown.clone().cancelled_owned();
            async move {
                tonic::transport::Server::builder()
                    .add_service(LedgerServiceServer::new(ledger.clone()))
                    .add_service(BatchServiceServer::new(ledger.clone()))
                    .add_service(FileServiceServer::new(ledger.clone()))
                    .add_service(UploadServiceServer::new(ledger))
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended)
                    .await
                    .unwrap();
            }
        });

        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = S3Settings::new(folder.path(), "access", "secret", "caudal");
        let store = S3Server::start(settings, listener, others.clone())
            .await
            .unwrap();
        let objects = caudal_objects::Settings::new(store.endpoint(), "caudal", "access", "secret");
        let objects = ObjectStore::connect(objects).unwrap();
        objects.ensure_bucket().await.unwrap();

        let channels = Channels::default();
        let deps = Deps {
            ledger: channels.channel(&ledger_address).unwrap(),
            ledger_for_watches: Channels::default().channel(&ledger_address).unwrap(),
            limiter: ServiceIdentity::new("gateway", &mesh_secret())
                .channel(channels.channel(&limiter).unwrap()),
            objects: objects.clone(),
            redis_url: None,
        };
        let mut settings = Settings::new(mesh_secret());
        settings.watch.poll_interval = Duration::from_millis(50);
        let web_dir = folder.path().join("web");
        settings.web_dir = web_dir.clone();
        tune(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let running = Gateway::start(settings, deps, listener, shutdown.clone())
            .await
            .unwrap();
        Self {
            gateway: format!("http://{}", running.address()),
            ledger,
            objects,
            operator,
            shutdown,
            key,
            running,
            ledger_server,
            ledger_shutdown,
            others,
            _folder: folder,
            store,
            web_dir,
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        Channels::default().channel(&self.gateway).unwrap()
    }

    /// The tenant's credential as a header says it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.key.text())
    }

    pub(crate) fn store_endpoint(&self) -> String {
        self.store.endpoint()
    }

    /// A request of the tenant.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = self.bearer().parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    pub(crate) async fn stop_ledger(&self) {
        self.ledger_shutdown.cancel();
        while !self.ledger_server.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.join().await.unwrap();
        self.others.cancel();
        self.ledger_shutdown.cancel();
        self.ledger_server.abort();
    }
}
