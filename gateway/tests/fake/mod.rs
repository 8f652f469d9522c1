//! A gateway between a scripted ledger, an embedded S3 server and a scripted limiter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use caudal_domain::{BatchId, FileRef, Refusal, Target, TenantId, landing_key};
use caudal_gateway::key::ApiKey;
use caudal_gateway::{Deps, Gateway, RunningGateway, Settings};
use caudal_harness::S3;
use caudal_node::leader::LEADER_METADATA;
use caudal_node::scope::{Scope, verify};
use caudal_node::{Channels, LeaderChannel, MAX_ENCODE_BYTES, MeshSecret, ServiceIdentity};
use caudal_objects::ObjectStore;
use caudal_proto::longrunning;
use caudal_proto::longrunning::operations_server::{Operations, OperationsServer};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::mesh::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use caudal_proto::mesh::v1::limiter_service_server::{LimiterService, LimiterServiceServer};
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_server::{BatchService, BatchServiceServer};
use caudal_proto::v1::file_service_server::{FileService, FileServiceServer};
use caudal_proto::v1::operator_service_server::{OperatorService, OperatorServiceServer};
use caudal_proto::v1::tenant_service_server::{TenantService, TenantServiceServer};
use caudal_proto::v1::upload_service_server::{UploadService, UploadServiceServer};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
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
/// Its bytes go in two parts.
pub(crate) const ORDINAL_LARGE: u32 = 7;
const LARGE: i64 = 16 * 1024 * 1024 + 5;
/// Five bytes are promised, with their checksum.
pub(crate) const ORDINAL_DECLARED: u32 = 8;
pub(crate) const ORDINAL_UNKNOWN: u32 = 99;

/// Of "five!".
pub(crate) fn declared_sha256() -> [u8; 32] {
    Sha256::digest("five!").into()
}

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

/// State and detail of a file.
type Value = (i32, u32);

/// A batch as anybody should see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) revision: i64,
    pub(crate) files: BTreeMap<u32, Value>,
    /// Total, processed, failed, cancelled.
    pub(crate) folders: BTreeMap<u32, [u32; 4]>,
    pub(crate) counts: Option<v1::FileCounts>,
}

#[derive(Default)]
struct Script {
    keys: Vec<(String, [u8; 32], mesh::Scope)>,
    door_limits: Option<mesh::DoorLimits>,
    counts_stall: bool,
    /// How many calls are refused for their scope, and with which reason.
    disbelieved: (u32, &'static str),
    forwarded: Vec<Forwarded>,
    confirmed: Vec<(u32, String)>,
    refusal: Option<Refusal>,
    progress: Progress,
    /// All values that a file had, by the revision they came with.
    history: BTreeMap<u32, Vec<(i64, Value)>>,
    changes: Vec<mesh::PackedChanges>,
    oldest: i64,
    erased: bool,
    events: Vec<v1::Event>,
    oldest_event: i64,
    /// The address of the ledger that leads instead.
    stands_by_for: Option<String>,
    /// Calls that were told who leads instead of an answer.
    turned_away: usize,
    reads_of_changes: usize,
    snapshots: usize,
    reads_of_events: usize,
    promises_events: bool,
    /// Bytes added to answers.
    padding: usize,
}

/// A scripted ledger.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Script>>);

async fn serve(ledger: &Ledger, shutdown: &CancellationToken) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let ended = shutdown.clone().cancelled_owned();
    let ledger = ledger.clone();
    let server = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(LedgerServiceServer::new(ledger.clone()))
            .add_service(
                BatchServiceServer::new(ledger.clone()).max_encoding_message_size(MAX_ENCODE_BYTES),
            )
            // No limit: what it sends may be more than the gateway reads.
            .add_service(FileServiceServer::new(ledger.clone()))
            .add_service(OperationsServer::new(ledger.clone()))
            .add_service(OperatorServiceServer::new(ledger.clone()))
            .add_service(TenantServiceServer::new(ledger.clone()))
            .add_service(UploadServiceServer::new(ledger))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended)
            .await
            .unwrap();
    });
    (address, server)
}

impl Ledger {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    pub(crate) fn turned_away(&self) -> usize {
        self.script().turned_away
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

    /// From now on the keys of tenants are upload tokens for the batch.
    pub(crate) fn give_tokens(&self) {
        for (_, _, scope) in &mut self.script().keys {
            if scope.role() == mesh::Role::Member {
                scope.role = mesh::Role::Uploader.into();
                scope.batch = BATCH.as_bytes().to_vec().into();
            }
        }
    }

    pub(crate) fn revoke_keys(&self) {
        self.script().keys.clear();
    }

    /// What the tenant may at once, as it is told with its credential.
    pub(crate) fn limit(&self, limits: mesh::DoorLimits) {
        self.script().door_limits = Some(limits);
    }

    /// The scopes of the next calls are refused.
    pub(crate) fn disbelieve(&self, calls: u32, reason: &'static str) {
        self.script().disbelieved = (calls, reason);
    }

    /// Checks a scope as the real one does.
    fn believe(&self, metadata: &MetadataMap) -> Result<Scope, Status> {
        let mut script = self.script();
        let (left, reason) = &mut script.disbelieved;
        if *left > 0 {
            *left -= 1;
            let refusal = Refusal::unauthenticated("the scope is not valid").with_reason(reason);
            return Err(to_status(&refusal));
        }
        drop(script);
        verify(metadata, &mesh_secret()).map_err(|refusal| to_status(&refusal))
    }

    /// Counts of files get no answer.
    pub(crate) fn stall_counts(&self) {
        self.script().counts_stall = true;
    }

    pub(crate) fn erase_batch(&self) {
        self.script().erased = true;
    }

    pub(crate) fn forget_changes_before(&self, revision: i64) {
        self.script().oldest = revision;
    }

    /// One file moves.
    pub(crate) fn commit(&self, revision: i64, ordinal: u32, to: v1::FileState) {
        self.script().progress.revision = revision - 1;
        self.commit_all(&[(ordinal, to as u32, 1)]);
    }

    /// Files move: ordinal, state after, detail. A file may move more than once. Its folder is its ordinal's last digit.
    pub(crate) fn commit_all(&self, moves: &[(u32, u32, u32)]) {
        let mut script = self.script();
        let Script {
            progress,
            history,
            changes,
            ..
        } = &mut *script;
        progress.revision += 1;
        let revision = progress.revision;
        let mut set = mesh::ChangeSet::default();
        for (ordinal, to, detail) in moves {
            let value = (i32::try_from(*to).unwrap(), *detail);
            let before = progress.files.insert(*ordinal, value);
            history.entry(*ordinal).or_default().push((revision, value));
            set.ordinal.push(*ordinal);
            set.from
                .push(before.map_or(0, |(state, _)| u32::try_from(state).unwrap()));
            set.to.push(*to);
            set.stage.push(1);
            set.detail.push(*detail);
            let folder = progress.folders.entry(ordinal % 10).or_default();
            folder[0] += u32::from(before.is_none());
            folder[1] = *detail;
            folder[3] += 1;
        }
        let touched: BTreeSet<u32> = moves.iter().map(|(ordinal, _, _)| ordinal % 10).collect();
        for folder in touched {
            let [total, processed, failed, cancelled] = progress.folders[&folder];
            set.folder.push(folder);
            set.folder_total.push(total);
            set.folder_processed.push(processed);
            set.folder_failed.push(failed);
            set.folder_cancelled.push(cancelled);
        }
        progress.counts = Some(v1::FileCounts {
            total: u32::try_from(progress.files.len()).unwrap(),
            ..Default::default()
        });
        set.batch = Some(v1::Batch {
            run: 1,
            revision,
            counts: progress.counts,
            ..Default::default()
        });
        changes.push(mesh::PackedChanges {
            batch_revision: revision,
            body: set.encode_to_vec().into(),
        });
    }

    pub(crate) fn progress(&self) -> Progress {
        self.script().progress.clone()
    }

    /// The first file of which somebody who says to know everything up to a revision has an older value.
    pub(crate) fn outdated(&self, seen: &Progress) -> Option<u32> {
        let script = self.script();
        let is_outdated = |ordinal: &u32, values: &[(i64, Value)]| {
            let newest_due = values
                .iter()
                .rposition(|(revision, _)| *revision <= seen.revision);
            match (seen.files.get(ordinal), newest_due) {
                (None, due) => due.is_some(),
                (Some(value), due) => !values[due.unwrap_or_default()..]
                    .iter()
                    .any(|(_, later)| later == value),
            }
        };
        let mut files = script.history.iter();
        files
            .find(|(ordinal, values)| is_outdated(ordinal, values))
            .map(|(ordinal, _)| *ordinal)
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        self.script().progress = progress;
    }

    /// A failover lost what came after this.
    pub(crate) fn go_back_to(&self, progress: Progress) {
        let mut script = self.script();
        script
            .changes
            .retain(|change| change.batch_revision <= progress.revision);
        script.progress = progress;
    }

    /// How often changes and snapshots were read.
    pub(crate) fn reads(&self) -> (usize, usize) {
        let script = self.script();
        (script.reads_of_changes, script.snapshots)
    }

    pub(crate) fn reads_of_events(&self) -> usize {
        self.script().reads_of_events
    }

    /// Answers get larger by so much.
    pub(crate) fn pad_answers(&self, bytes: usize) {
        self.script().padding = bytes;
    }

    fn padding(&self) -> String {
        "x".repeat(self.script().padding)
    }

    /// From now on there are always more events, and none of them comes.
    pub(crate) fn promise_events(&self) {
        self.script().promises_events = true;
    }

    /// Events happen in a commit.
    pub(crate) fn tell(&self, cursor: i64, count: usize) {
        let event = v1::Event {
            cursor,
            batch: caudal_domain::batch_name(BATCH),
            ..Default::default()
        };
        self.script()
            .events
            .extend(std::iter::repeat_n(event, count));
    }

    pub(crate) fn forget_events_before(&self, cursor: i64) {
        self.script().oldest_event = cursor;
    }

    /// From now on another ledger leads, at this address; or this one again.
    pub(crate) fn stand_by_for(&self, leader: Option<String>) {
        self.script().stands_by_for = leader;
    }

    fn leads(&self) -> Result<(), Status> {
        let Some(leader) = self.script().stands_by_for.clone() else {
            return Ok(());
        };
        self.script().turned_away += 1;
        let refusal =
            Refusal::unavailable("stands by", Duration::from_secs(1)).with_reason("STANDBY");
        let mut status = to_status(&refusal);
        status
            .metadata_mut()
            .insert(LEADER_METADATA, leader.parse().unwrap());
        Err(status)
    }

    /// Checks the scope as the real one does, and notes the call.
    fn admit(&self, metadata: &MetadataMap) -> Result<Scope, Status> {
        let scope = self.believe(metadata)?;
        self.leads()?;
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
        self.leads()?;
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
        let scope = self.believe(request.metadata())?;
        assert_eq!(scope, Scope::service("gateway"));
        self.leads()?;
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
            limits: script.door_limits,
        }))
    }

    async fn create_tus(
        &self,
        _request: Request<mesh::CreateTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn get_tus(
        &self,
        _request: Request<mesh::GetTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn lock_tus(
        &self,
        _request: Request<mesh::LockTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn advance_tus(
        &self,
        _request: Request<mesh::AdvanceTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn end_tus(
        &self,
        _request: Request<mesh::EndTusRequest>,
    ) -> Result<Response<mesh::EndTusResponse>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn list_due_tus(
        &self,
        _request: Request<mesh::ListDueTusRequest>,
    ) -> Result<Response<mesh::ListDueTusResponse>, Status> {
        Err(Status::unimplemented(
            "the tests of uploads in pieces run against the whole system",
        ))
    }

    async fn get_issue_facts(
        &self,
        request: Request<mesh::GetIssueFactsRequest>,
    ) -> Result<Response<mesh::GetIssueFactsResponse>, Status> {
        let scope = self.believe(request.metadata())?;
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
                exists: *ordinal != ORDINAL_UNKNOWN && scope.tenant == Some(TENANT),
                state: state.into(),
                target: 1,
                landing_key: landing_key(file, Target(1)),
                declared_sha256: match *ordinal {
                    ORDINAL_DECLARED => declared_sha256().to_vec().into(),
                    _ => Vec::new().into(),
                },
                size: if *ordinal == ORDINAL_LARGE { LARGE } else { 5 },
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
        const PAGE_BYTES: usize = 1024 * 1024;
        let asked = request.into_inner();
        self.batch_of(&asked.batch)?;
        let mut script = self.script();
        script.reads_of_changes += 1;
        if asked.after_revision < script.oldest {
            return Ok(Response::new(mesh::ListChangesResponse {
                too_old: true,
                ..Default::default()
            }));
        }
        let mut news = script
            .changes
            .iter()
            .filter(|change| change.batch_revision > asked.after_revision);
        let mut changes = Vec::new();
        let mut bytes = 0;
        for change in news.by_ref() {
            bytes += change.body.len();
            changes.push(change.clone());
            if changes.len() == 64 || bytes >= PAGE_BYTES {
                break;
            }
        }
        let more = news.next().is_some();
        Ok(Response::new(mesh::ListChangesResponse {
            changes,
            too_old: false,
            more,
        }))
    }

    /// As the real one: the revision is read first, and the rows may be newer.
    async fn get_snapshot(
        &self,
        request: Request<mesh::GetSnapshotRequest>,
    ) -> Result<Response<Self::GetSnapshotStream>, Status> {
        self.batch_of(&request.into_inner().batch)?;
        self.script().snapshots += 1;
        let progress = self.progress();
        let revision = progress.revision;
        let head = v1::Snapshot {
            revision,
            batch: Some(v1::Batch {
                revision,
                display_name: self.padding(),
                counts: progress.counts,
                ..Default::default()
            }),
            ..Default::default()
        };
        let ledger = self.clone();
        let rows = async move {
            tokio::task::yield_now().await;
            let progress = ledger.progress();
            let mut files = v1::FileColumns::default();
            let mut before = 0;
            for (ordinal, (state, detail)) in &progress.files {
                files.ordinal_delta.push(ordinal - before);
                files.state.push(*state);
                files.detail.push(*detail);
                before = *ordinal;
            }
            let mut folders = v1::FolderColumns::default();
            let mut before = 0;
            for (ordinal, [total, processed, failed, cancelled]) in &progress.folders {
                folders.ordinal_delta.push(ordinal - before);
                folders.total.push(*total);
                folders.processed.push(*processed);
                folders.failed.push(*failed);
                folders.cancelled.push(*cancelled);
                before = *ordinal;
            }
            v1::Snapshot {
                revision,
                files: Some(files),
                folders: Some(folders),
                last: true,
                ..Default::default()
            }
        };
        let parts = futures::stream::once(async { head }).chain(futures::stream::once(rows));
        let parts = parts.map(|part| {
            Ok(mesh::GetSnapshotResponse {
                snapshot: Some(part),
            })
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn lease(
        &self,
        _: Request<mesh::LeaseRequest>,
    ) -> Result<Response<mesh::LeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn attend(
        &self,
        _: Request<mesh::AttendRequest>,
    ) -> Result<Response<mesh::AttendResponse>, Status> {
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
        request: Request<mesh::ListEventsRequest>,
    ) -> Result<Response<mesh::ListEventsResponse>, Status> {
        self.leads()?;
        let asked = request.into_inner();
        if !asked.batch.is_empty() {
            self.batch_of(&asked.batch)?;
        }
        let mut script = self.script();
        script.reads_of_events += 1;
        let newest = script.events.last().map_or(0, |event| event.cursor);
        let mut answer = mesh::ListEventsResponse {
            cursor: newest,
            more: script.promises_events,
            ..Default::default()
        };
        let after = asked.after_cursor;
        if after < 0 {
            return Ok(Response::new(answer));
        }
        answer.too_old = (after > 0 && after + 1 < script.oldest_event) || after > newest;
        if !answer.too_old {
            let news = script.events.iter().filter(|event| event.cursor > after);
            answer.events = news.cloned().collect();
        }
        Ok(Response::new(answer))
    }

    async fn check_recorded(
        &self,
        _: Request<mesh::CheckRecordedRequest>,
    ) -> Result<Response<mesh::CheckRecordedResponse>, Status> {
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
        self.batch_of(BATCH.as_bytes())?;
        Ok(Response::new(v1::Batch {
            name: request.into_inner().name,
            display_name: self.padding(),
            revision: self.progress().revision,
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

    async fn update_batch(
        &self,
        request: Request<v1::UpdateBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn cancel_batch(
        &self,
        request: Request<v1::CancelBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn pause_batch(
        &self,
        request: Request<v1::PauseBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn resume_batch(
        &self,
        request: Request<v1::ResumeBatchRequest>,
    ) -> Result<Response<v1::Batch>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn create_upload_token(
        &self,
        request: Request<v1::CreateUploadTokenRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
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

    async fn count_files(
        &self,
        request: Request<v1::CountFilesRequest>,
    ) -> Result<Response<v1::CountFilesResponse>, Status> {
        self.admit(request.metadata())?;
        if self.script().counts_stall {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Default::default()))
    }

    async fn list_file_history(
        &self,
        request: Request<v1::ListFileHistoryRequest>,
    ) -> Result<Response<v1::ListFileHistoryResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_failures(
        &self,
        request: Request<v1::ListFailuresRequest>,
    ) -> Result<Response<v1::ListFailuresResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(v1::ListFailuresResponse {
            next_page_token: self.padding(),
            ..Default::default()
        }))
    }

    async fn retry_files(
        &self,
        request: Request<v1::RetryFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn cancel_files(
        &self,
        request: Request<v1::CancelFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn reprocess_files(
        &self,
        request: Request<v1::ReprocessFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn dismiss_failures(
        &self,
        request: Request<v1::DismissFailuresRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
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

    async fn list_parts(
        &self,
        _: Request<v1::ListPartsRequest>,
    ) -> Result<Response<v1::ListPartsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn abort_parts(
        &self,
        _: Request<v1::AbortPartsRequest>,
    ) -> Result<Response<v1::AbortPartsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn sign_upload_call(
        &self,
        _: Request<v1::SignUploadCallRequest>,
    ) -> Result<Response<v1::SignUploadCallResponse>, Status> {
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

    async fn leave_out_files(
        &self,
        _: Request<v1::LeaveOutFilesRequest>,
    ) -> Result<Response<v1::LeaveOutFilesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl OperatorService for Ledger {
    async fn count_aged(
        &self,
        request: Request<v1::CountAgedRequest>,
    ) -> Result<Response<v1::CountAgedResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_stages(
        &self,
        request: Request<v1::ListStagesRequest>,
    ) -> Result<Response<v1::ListStagesResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn update_stage(
        &self,
        request: Request<v1::UpdateStageRequest>,
    ) -> Result<Response<v1::Stage>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_failures(
        &self,
        request: Request<v1::OperatorServiceListFailuresRequest>,
    ) -> Result<Response<v1::ListFailuresResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn retry_files(
        &self,
        request: Request<v1::OperatorServiceRetryFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn cancel_files(
        &self,
        request: Request<v1::OperatorServiceCancelFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn reprocess_files(
        &self,
        request: Request<v1::OperatorServiceReprocessFilesRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn dismiss_failures(
        &self,
        request: Request<v1::OperatorServiceDismissFailuresRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn close_tenant(
        &self,
        request: Request<v1::CloseTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn create_api_key(
        &self,
        request: Request<v1::OperatorServiceCreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::OperatorServiceListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::OperatorServiceRevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::OperatorServiceRotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_audit(
        &self,
        request: Request<v1::OperatorServiceListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl TenantService for Ledger {
    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::TenantUsage>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl Operations for Ledger {
    async fn list_operations(
        &self,
        request: Request<longrunning::ListOperationsRequest>,
    ) -> Result<Response<longrunning::ListOperationsResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn get_operation(
        &self,
        request: Request<longrunning::GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
    }

    async fn delete_operation(
        &self,
        request: Request<longrunning::DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(()))
    }

    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<longrunning::WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(Default::default()))
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
    /// Knows the same keys, and leads once it is told to.
    pub(crate) standby: Ledger,
    pub(crate) standby_address: String,
    pub(crate) objects: ObjectStore,
    pub(crate) operator: ApiKey,
    /// Of another tenant.
    pub(crate) stranger: ApiKey,
    pub(crate) shutdown: CancellationToken,
    /// Where the page would be; the folder is not there.
    pub(crate) web_dir: std::path::PathBuf,
    pub(crate) key: ApiKey,
    running: RunningGateway,
    ledger_server: JoinHandle<()>,
    ledger_shutdown: CancellationToken,
    others: CancellationToken,
    _folder: tempfile::TempDir,
    store: S3,
}

impl World {
    /// With a limiter that is away.
    pub(crate) async fn start() -> Self {
        Self::tuned(|_| ()).await
    }

    /// With other settings of the gateway, and a limiter that is away.
    pub(crate) async fn tuned(tune: impl FnOnce(&mut Settings)) -> Self {
        let limiter = "http://127.0.0.1:1".to_owned();
        Self::with(limiter, None, CancellationToken::new(), tune).await
    }

    /// With hints from a Redis.
    pub(crate) async fn hinted(redis_url: String, tune: impl FnOnce(&mut Settings)) -> Self {
        let limiter = "http://127.0.0.1:1".to_owned();
        Self::with(limiter, Some(redis_url), CancellationToken::new(), tune).await
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
        Self::with(address, None, others, |_| ()).await
    }

    async fn with(
        limiter: String,
        redis_url: Option<String>,
        others: CancellationToken,
        tune: impl FnOnce(&mut Settings),
    ) -> Self {
        let (key, operator) = (ApiKey::generate(), ApiKey::generate());
        let stranger = ApiKey::generate();
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
            (
                stranger.id().to_owned(),
                stranger.secret_sha256(),
                scope(mesh::Role::Member, &[9; 16]),
            ),
        ];
        ledger.script().progress.revision = 1;
        let ledger_shutdown = CancellationToken::new();
        let (ledger_address, ledger_server) = serve(&ledger, &ledger_shutdown).await;
        let standby = Ledger::default();
        let (standby_address, _) = serve(&standby, &others).await;
        standby.script().keys = ledger.script().keys.clone();
        standby.stand_by_for(Some(ledger_address.clone()));

        let folder = tempfile::tempdir().unwrap();
        let store = S3::start().await.unwrap();
        let objects =
            caudal_objects::Settings::new(store.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
        let objects = ObjectStore::connect(objects).unwrap();
        objects.ensure_bucket().await.unwrap();

        let channels = Channels::default();
        // The one that stands by comes first.
        let ledgers = format!("{standby_address},{ledger_address}");
        let deps = Deps {
            ledger: LeaderChannel::new(&channels, &ledgers).unwrap(),
            ledger_for_watches: LeaderChannel::new(&Channels::default(), &ledgers).unwrap(),
            limiter: ServiceIdentity::new("gateway", &mesh_secret())
                .channel(channels.channel(&limiter).unwrap()),
            objects: objects.clone(),
            redis_url,
        };
        let mut settings = Settings::new(mesh_secret());
        settings.takeover_patience = Duration::from_millis(500);
        settings.watch.poll_interval = Duration::from_millis(50);
        settings.watch.credential_check_interval = Duration::from_millis(50);
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
            standby,
            standby_address,
            objects,
            operator,
            stranger,
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

    /// A connection whose reader buffers little.
    pub(crate) fn narrow_channel(&self) -> Channel {
        Channel::from_shared(self.gateway.clone())
            .unwrap()
            .initial_stream_window_size(1024)
            .connect_lazy()
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
