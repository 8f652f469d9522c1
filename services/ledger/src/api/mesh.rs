//! `caudal.mesh.v1.LedgerService`: what stages and gateways ask.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caudal_domain::{
    BatchId, BatchRef, FileRef, Generation, Outcome, Refusal, Stage, StageSet, StageVersion,
    TenantId, Token, keys, limits, names, plain,
};
use caudal_node::scope::{self, Role, Scope};
use caudal_proto::convert::{
    batch_from_bytes, file_state_to_proto, file_tokens_from_proto, outcome_from_proto,
    reason_from_code, sha256_from_bytes, stage_from_name, stage_version_from_proto,
    warning_from_proto, warning_to_proto,
};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::mesh::v1::ledger_service_server::LedgerService;
use caudal_proto::mesh::v1::{
    CheckCredentialRequest, CheckCredentialResponse, CheckRecordedRequest, CheckRecordedResponse,
    GetArtifactFactsRequest, GetArtifactFactsResponse, GetIssueFactsRequest, GetIssueFactsResponse,
    GetSnapshotRequest, GetSnapshotResponse, Input, InputArtifact, IssueFacts, LeaseRequest,
    LeaseResponse, LeaseVerdict, ListChangesRequest, ListChangesResponse, ListEventsRequest,
    ListEventsResponse, PackedChanges, ProcessWait, ReleaseRequest, ReleaseResponse, RenewRequest,
    RenewResponse, RenewVerdict, Report as ReportMessage, ReportRequest, ReportResponse,
    ReportVerdict, RequestReconcileRequest, RequestReconcileResponse, Work, report,
};
use caudal_proto::v1::{FileColumns, FolderColumns, Snapshot};
use futures::stream::{self, Stream};
use sea_orm::DbErr;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::bounds::{self, Bounded};
use super::failure::{Failure, answer};
use super::{Ledger, TenantScope};
use crate::memory::lease_cache::{Declared, Granted, Inputs};
use crate::settings::TenantLimits;
use crate::store::progress::ProgressRow;
use crate::store::reads;
use crate::store::results::{self, Execution, ResultRow, StoredArtifact, Used};
use crate::store::{changes, credentials, work};
use crate::wire;
use crate::writer::verb::Verb;
use crate::writer::verbs::Held;
use crate::writer::verbs::keep_uploading::KeepUploading;
use crate::writer::verbs::lease::Lease;
use crate::writer::verbs::release::Release;
use crate::writer::verbs::renew::Renew;
use crate::writer::verbs::report::{BadResult, GoodResult, Report, Reported, StageOutcome};

/// So often in its time an upload deadline moves at most: every hour of a day.
const DEADLINE_MOVES: u32 = 24;
/// Changes of one answer, and their bytes.
const MAX_CHANGES: u32 = 256;
const MAX_CHANGES_BYTES: usize = 1 << 20;
/// Rows of one part of a snapshot. A file's columns have at most 10 bytes, a folder's five numbers 25.
const SNAPSHOT_FILES: u32 = 20_000;
const SNAPSHOT_FOLDERS: u32 = 10_000;
const _: () = assert!(SNAPSHOT_FILES as usize * 10 <= limits::MAX_SNAPSHOT_PART_BYTES);
const _: () = assert!(SNAPSHOT_FOLDERS as usize * 25 <= limits::MAX_SNAPSHOT_PART_BYTES);
/// Bytes of a failure's detail.
const MAX_DETAIL_BYTES: usize = 2 << 10;

#[tonic::async_trait]
impl LedgerService for Ledger {
    async fn lease(
        &self,
        request: Request<LeaseRequest>,
    ) -> Result<Response<LeaseResponse>, Status> {
        answer(async {
            let stage = require_service_of(&request, |message| &message.stage)?;
            let message = request.get_ref();
            let held = held_of(message.files.as_ref())?;
            let version = message.stage_version.clone().unwrap_or_default();
            let version = stage_version_from_proto(stage, &version);
            let dimensions = self.stages.dimensions(&version).unwrap_or_default();
            let mut kept = self.leases.grant(&version, &held, Instant::now());
            let unknown: Vec<(FileRef, Token)> = held
                .into_iter()
                .zip(&kept)
                .filter(|(_, kept)| kept.is_none())
                .map(|(held, _)| held)
                .collect();
            let asked = if unknown.is_empty() {
                Vec::new()
            } else {
                self.ask_for_leases(version, unknown).await?
            };
            let mut asked = asked.into_iter();
            let granted: Vec<Option<Arc<Granted>>> = kept
                .iter()
                .map(|kept| match kept {
                    Some((granted, _)) => Some(granted.clone()),
                    None => asked.next().flatten(),
                })
                .collect();
            let inputs = kept.iter_mut().map(|kept| Some(kept.take()?.1));
            let mut works = self.works(&granted, inputs.collect()).await?;
            for work in &mut works {
                work.dimensions = dimensions;
            }
            let verdicts = granted
                .iter()
                .map(|granted| match granted {
                    Some(_) => LeaseVerdict::Granted.into(),
                    None => LeaseVerdict::Superseded.into(),
                })
                .collect();
            let lease_ms = u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX);
            Ok(Response::new(LeaseResponse {
                verdicts,
                works,
                lease_ms,
            }))
        })
        .await
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        answer(async {
            require_service(&request)?;
            let request = request.get_ref();
            if let Some(wait) = &request.wait {
                self.note_wait(&request.process, wait)?;
                let nothing_held = request
                    .files
                    .as_ref()
                    .is_none_or(|files| files.ordinal.is_empty());
                if nothing_held {
                    return Ok(Response::new(RenewResponse::default()));
                }
            }
            let held = held_of(request.files.as_ref())?;
            let begun = match &request.begun {
                Some(begun) => file_tokens_from_proto(begun, limits::MAX_FILES_PER_CALL)
                    .map_err(|error| error.refusal("begun"))?,
                None => Vec::new(),
            };
            let kept = self.ask(Renew { held, begun }).await?;
            let verdict = |kept: bool| {
                if kept {
                    RenewVerdict::Keep
                } else {
                    RenewVerdict::Stop
                }
            };
            Ok(Response::new(RenewResponse {
                verdicts: kept.into_iter().map(|kept| verdict(kept).into()).collect(),
            }))
        })
        .await
    }

    async fn attend(
        &self,
        request: Request<mesh::AttendRequest>,
    ) -> Result<Response<mesh::AttendResponse>, Status> {
        answer(async { Ok(Response::new(self.attended(&request)?)) }).await
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        answer(async {
            require_service(&request)?;
            let held = held_of(request.get_ref().files.as_ref())?;
            self.ask(Release { held }).await?;
            Ok(Response::new(ReleaseResponse {}))
        })
        .await
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        answer(async {
            require_service_of(&request, |message| &message.stage)?;
            let report = report_of(request.into_inner())?;
            let recorded = self.ask(report).await?;
            let verdict = |recorded: bool| {
                if recorded {
                    ReportVerdict::Recorded
                } else {
                    ReportVerdict::Superseded
                }
            };
            let verdicts = recorded
                .into_iter()
                .map(|recorded| verdict(recorded).into())
                .collect();
            Ok(Response::new(ReportResponse { verdicts }))
        })
        .await
    }

    async fn check_recorded(
        &self,
        request: Request<CheckRecordedRequest>,
    ) -> Result<Response<CheckRecordedResponse>, Status> {
        answer(async {
            let stage = require_service_of(&request, |message| &message.stage)?;
            let message = request.get_ref();
            let executions = executions_of(message)?;
            // By a reader: what the writer believes is what is being doubted.
            let found = results::recorded(&self.store.reader(), stage, &executions).await?;
            let recorded = executions.iter().map(|asked| found.contains(asked));
            Ok(Response::new(CheckRecordedResponse {
                recorded: recorded.collect(),
            }))
        })
        .await
    }

    async fn request_reconcile(
        &self,
        request: Request<RequestReconcileRequest>,
    ) -> Result<Response<RequestReconcileResponse>, Status> {
        answer(async {
            require_service(&request)?;
            self.reconcile.notify_one();
            Ok(Response::new(RequestReconcileResponse {}))
        })
        .await
    }

    async fn check_credential(
        &self,
        request: Request<CheckCredentialRequest>,
    ) -> Result<Response<CheckCredentialResponse>, Status> {
        answer(async {
            require_service(&request)?;
            let message = request.get_ref();
            let session = self.store.credentials();
            let presented = credentials::presented(&session, &message.key_id).await?;
            // One answer for unknown, wrong, revoked and expired, and for a row that makes no sense: nothing is learnt by
            // guessing.
            let valid = presented.and_then(|presented| {
                let key = &presented.key;
                let fits =
                    same(&key.secret_sha256, &message.secret_sha256) && key.is_good(presented.now);
                let role = key.role.filter(|role| {
                    let whole = role.has_tenant() == key.tenant.is_some();
                    whole && (*role == Role::Uploader) <= key.batch.is_some()
                })?;
                let open = key.tenant.is_none() || presented.limits.is_some();
                (fits && open).then_some((role, presented))
            });
            let Some((role, presented)) = valid else {
                let refusal = Refusal::unauthenticated(
                    "the API key is not valid; ask an operator for another one",
                );
                return Err(refusal.into());
            };
            let limits = self.door_limits(presented.limits.as_deref())?;
            if !message.only_asked {
                self.key_uses
                    .note(&self.writer, &presented.key, presented.now);
            }
            const MICROS_PER_SECOND: i64 = 1_000_000;
            let key = presented.key;
            let scope = Scope {
                tenant: key.tenant,
                principal: key.name,
                role,
                batch: key.batch,
                key_id: key.id,
            };
            let expires_at = key
                .expires_at
                .map(|at| at.0 / MICROS_PER_SECOND)
                .unwrap_or_default();
            Ok(Response::new(CheckCredentialResponse {
                scope: Some(scope.to_message(expires_at)),
                limits,
            }))
        })
        .await
    }

    async fn get_issue_facts(
        &self,
        request: Request<GetIssueFactsRequest>,
    ) -> Result<Response<GetIssueFactsResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = batch_of(&scope, &message.batch)?;
            let session = self.store.reader_of(scope.tenant);
            let Some(known) = reads::batch(&session, scope.batch_ref(batch)).await? else {
                return Err(Refusal::not_found(&names::batch_name(batch)).into());
            };
            let mut files = if message.ordinals.is_empty() {
                let from = ordinal_after(message.after_ordinal)?;
                self.next_to_issue(&scope, batch, from, message.count)
                    .await?
            } else {
                self.issue_exactly(&scope, batch, &message.ordinals).await?
            };
            self.add_checksums(scope.batch_ref(batch), &mut files)
                .await?;
            self.keep_uploading(&known.0, &files).await?;
            Ok(Response::new(GetIssueFactsResponse { files }))
        })
        .await
    }

    async fn create_tus(
        &self,
        request: Request<mesh::CreateTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        answer(async { Ok(Response::new(self.begin_tus(request).await?)) }).await
    }

    async fn get_tus(
        &self,
        request: Request<mesh::GetTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        answer(async { Ok(Response::new(self.read_tus(request).await?)) }).await
    }

    async fn lock_tus(
        &self,
        request: Request<mesh::LockTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        answer(async { Ok(Response::new(self.take_tus(request).await?)) }).await
    }

    async fn advance_tus(
        &self,
        request: Request<mesh::AdvanceTusRequest>,
    ) -> Result<Response<mesh::TusUpload>, Status> {
        answer(async { Ok(Response::new(self.move_tus(request).await?)) }).await
    }

    async fn end_tus(
        &self,
        request: Request<mesh::EndTusRequest>,
    ) -> Result<Response<mesh::EndTusResponse>, Status> {
        answer(async { Ok(Response::new(self.forget_tus(request).await?)) }).await
    }

    async fn list_due_tus(
        &self,
        request: Request<mesh::ListDueTusRequest>,
    ) -> Result<Response<mesh::ListDueTusResponse>, Status> {
        answer(async { Ok(Response::new(self.due_tus(request).await?)) }).await
    }

    async fn get_artifact_facts(
        &self,
        request: Request<GetArtifactFactsRequest>,
    ) -> Result<Response<GetArtifactFactsResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = batch_of(&scope, &message.batch)?;
            let file = FileRef::new(scope.tenant, batch, message.ordinal);
            let found = self.artifact(file, &message.artifact).await?;
            let name = format!(
                "{}: {}",
                names::file_name(batch, message.ordinal),
                message.artifact
            );
            let found = found.ok_or_else(|| Refusal::not_found(&name))?;
            Ok(Response::new(found))
        })
        .await
    }

    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Result<Response<ListChangesResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = batch_of(&scope, &message.batch)?;
            let after = u64::try_from(message.after_revision).unwrap_or_default();
            let listed = self.changes_after(scope.tenant, batch, after).await?;
            let listed = listed.ok_or_else(|| Refusal::not_found(&names::batch_name(batch)))?;
            Ok(Response::new(listed))
        })
        .await
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let message = request.get_ref();
            let batch = match message.batch.is_empty() {
                true => None,
                false => Some(batch_of(&scope, &message.batch)?),
            };
            if batch.is_none() {
                scope.require_whole_tenant()?;
            }
            if let Some(batch) = batch {
                let session = self.store.reader_of(scope.tenant);
                let known = reads::batch(&session, scope.batch_ref(batch)).await?;
                if known.is_none() {
                    return Err(Refusal::not_found(&names::batch_name(batch)).into());
                }
            }
            let listed = self
                .events_after(scope.tenant, batch, message.after_cursor)
                .await;
            Ok(Response::new(listed?))
        })
        .await
    }

    type GetSnapshotStream =
        Pin<Box<dyn Stream<Item = Result<GetSnapshotResponse, Status>> + Send>>;

    async fn get_snapshot(
        &self,
        request: Request<GetSnapshotRequest>,
    ) -> Result<Response<Self::GetSnapshotStream>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            let batch = batch_of(&scope, &request.get_ref().batch)?;
            let found =
                reads::batch(&self.store.reader_of(scope.tenant), scope.batch_ref(batch)).await?;
            let Some((progress, cold)) = found else {
                return Err(Refusal::not_found(&names::batch_name(batch)).into());
            };
            // The revision is read first: rows that move meanwhile come again with the changes after it, which carry
            // absolute values, so that a snapshot read while it moves converges.
            let head = Snapshot {
                revision: wire::signed(progress.revision),
                batch: Some(scope.shown(wire::batch(&progress, &cold))),
                ..Snapshot::default()
            };
            let reader = SnapshotReader {
                ledger: self.clone(),
                tenant: scope.tenant,
                batch,
                head: Some(head),
                next: NextPart::Files(0),
            };
            let parts = stream::try_unfold(reader, |mut reader| async move {
                let part = reader.part().await.map_err(Failure::from)?;
                Ok(part.map(|snapshot| {
                    (
                        GetSnapshotResponse {
                            snapshot: Some(snapshot),
                        },
                        reader,
                    )
                }))
            });
            let parts: Self::GetSnapshotStream = Box::pin(parts);
            Ok(Response::new(parts))
        })
        .await
    }
}

impl Ledger {
    /// What gateways keep of a tenant's limits.
    fn door_limits(&self, own: Option<&str>) -> Result<Option<mesh::DoorLimits>, Refusal> {
        let Some(own) = own else {
            return Ok(None);
        };
        let limits = TenantLimits::from_json(own, &self.tenant_limits).map_err(|error| {
            tracing::error!(%error, "the limits of a tenant cannot be read: it is not let in until they are mended");
            Refusal::internal()
        })?;
        let door = limits.door;
        // 0 says that there is none of its own; a limit of nothing is refused where limits are set.
        let told = |limit: Option<u64>| {
            limit.map_or(0, |limit| u32::try_from(limit).unwrap_or(u32::MAX).max(1))
        };
        Ok(Some(mesh::DoorLimits {
            calls_per_second: told(door.calls_per_second),
            entries_per_second: told(door.entries_per_second),
            streams: told(door.streams),
            expensive_reads: told(door.expensive_reads),
        }))
    }

    async fn ask<V: Verb>(&self, verb: V) -> Result<V::Answer, Failure> {
        Ok(self.writer.ask(verb).await?)
    }

    /// Leases that the writer must grant: files that go PROCESSING, and whatever memory does not know.
    async fn ask_for_leases(
        &self,
        version: StageVersion,
        held: Vec<(FileRef, Token)>,
    ) -> Result<Vec<Option<Arc<Granted>>>, Failure> {
        let lease = Lease {
            version: version.clone(),
            held,
        };
        let granted = self.ask(lease).await?;
        self.leases.noted(&version);
        Ok(granted)
    }

    /// What handlers need for the granted files; `inputs` of all of them, as far as they are at hand. Nothing is read for
    /// those whose inputs is kept.
    async fn works(
        &self,
        granted: &[Option<Arc<Granted>>],
        inputs: Vec<Option<Inputs>>,
    ) -> Result<Vec<Work>, DbErr> {
        let (files, mut inputs): (Vec<&Granted>, Vec<Option<Inputs>>) = granted
            .iter()
            .zip(inputs)
            .filter_map(|(granted, inputs)| Some((granted.as_deref()?, inputs)))
            .unzip();
        let pairs: Vec<(FileRef, Token)> = files
            .iter()
            .zip(&inputs)
            .filter(|(_, inputs)| inputs.is_none())
            .map(|(granted, _)| (granted.row.file, granted.row.token))
            .collect();
        let mut kept = self.leases.get(&pairs).into_iter();
        for inputs in inputs.iter_mut().filter(|inputs| inputs.is_none()) {
            *inputs = kept.next().flatten();
        }
        let unknown: Vec<&Granted> = files
            .iter()
            .zip(&inputs)
            .filter(|(_, inputs)| inputs.is_none())
            .map(|(granted, _)| *granted)
            .collect();
        let read = self.read_inputs(&unknown).await?;
        self.leases.learn(unknown.iter().filter_map(|granted| {
            let row = &granted.row;
            Some((row.file, row.token, read.get(&row.file)?.clone()))
        }));
        for (granted, inputs) in files.iter().zip(&mut inputs) {
            if inputs.is_none() {
                *inputs = read.get(&granted.row.file).cloned();
            }
        }
        // The upload stage of a reprocess has no result in its generation yet: its bytes are where they were verified.
        let again: Vec<FileRef> = files
            .iter()
            .filter(|granted| granted.reads_final_object())
            .map(|granted| granted.row.file)
            .collect();
        let session = self.store.reader();
        let verified = results::verified_contents(&session, &again).await?;
        let numbers = inputs
            .iter()
            .flatten()
            .flat_map(|inputs| inputs.results.iter())
            .filter_map(|result| result.version);
        let versions = self.versions.with(&self.store, numbers).await?;
        let words: HashMap<u32, String> = versions
            .iter()
            .map(|(number, version)| (*number, version.to_string()))
            .collect();
        let version_words = |number: u32| words.get(&number).cloned().unwrap_or_default();
        let mut inputs = inputs.into_iter();
        let mut works = Vec::with_capacity(files.len());
        for (index, granted) in granted.iter().enumerate() {
            let Some(granted) = granted else { continue };
            let file = granted.row.file;
            let Some(inputs) = inputs.next().flatten() else {
                return Err(DbErr::Custom(format!("{file} has no row in files")));
            };
            works.push(work_message(
                index,
                granted,
                &inputs,
                verified.get(&file),
                &version_words,
            ));
        }
        Ok(works)
    }

    /// Reads inputs in two statements.
    async fn read_inputs(&self, files: &[&Granted]) -> Result<HashMap<FileRef, Inputs>, DbErr> {
        if files.is_empty() {
            return Ok(HashMap::new());
        }
        let session = self.store.reader();
        let rows = files.iter().map(|granted| granted.row.clone()).collect();
        let with_results: Vec<(FileRef, Generation)> = files
            .iter()
            .filter(|granted| granted.row.stage != Stage::Upload)
            .map(|granted| (granted.row.file, granted.row.generation))
            .collect();
        let mut of_files = results::of_generations(&session, &with_results).await?;
        let mut inputs = HashMap::with_capacity(files.len());
        for view in reads::views(&session, rows).await? {
            let file = view.work.file;
            let declared = Declared {
                path: view.path,
                sha256: view.declared_sha256,
                metadata: view.metadata,
            };
            // A doubled message names a file twice.
            inputs.entry(file).or_insert_with(|| Inputs {
                declared: Arc::new(declared),
                results: Arc::new(
                    of_files
                        .remove(&file)
                        .unwrap_or_default()
                        .into_iter()
                        .map(Arc::new)
                        .collect(),
                ),
            });
        }
        Ok(inputs)
    }

    async fn issue_exactly(
        &self,
        scope: &TenantScope,
        batch: BatchId,
        ordinals: &[u32],
    ) -> Result<Vec<IssueFacts>, DbErr> {
        let batch = scope.batch_ref(batch);
        let wanted = ordinals.iter().take(limits::MAX_TARGETS_PER_PAGE).copied();
        let wanted: Vec<u32> = wanted.collect();
        let files: Vec<FileRef> = wanted.iter().map(|ordinal| batch.file(*ordinal)).collect();
        let foreign = self.foreign_to(scope, batch, wanted).await?;
        let rows = work::read(&self.store.reader_of(scope.tenant), &files).await?;
        let rows: HashMap<FileRef, work::WorkRow> = rows
            .into_iter()
            .filter(|row| !foreign.contains(&row.file.ordinal))
            .map(|row| (row.file, row))
            .collect();
        let facts = |file: &FileRef| match rows.get(file) {
            Some(row) => issue_facts(row),
            None => IssueFacts {
                ordinal: file.ordinal,
                ..IssueFacts::default()
            },
        };
        Ok(files.iter().map(facts).collect())
    }

    async fn next_to_issue(
        &self,
        scope: &TenantScope,
        batch: BatchId,
        mut from: u32,
        count: u32,
    ) -> Result<Vec<IssueFacts>, DbErr> {
        const ROWS_A_STATEMENT: u32 = 1_000;
        const ROWS_READ: u32 = 20_000;
        let wanted = usize::try_from(count)
            .unwrap_or(0)
            .min(limits::MAX_TARGETS_PER_PAGE);
        let batch = scope.batch_ref(batch);
        let mut found = Vec::new();
        let mut read = 0;
        while found.len() < wanted && read < ROWS_READ {
            let rows = work::range(
                &self.store.reader_of(scope.tenant),
                batch,
                from,
                ROWS_A_STATEMENT,
            )
            .await?;
            let last = rows.len() < ROWS_A_STATEMENT as usize;
            let waiting = rows.iter().filter(|row| row.waits_for_bytes());
            let waiting = waiting.map(|row| row.file.ordinal).collect();
            let foreign = self.foreign_to(scope, batch, waiting).await?;
            for row in rows {
                read += 1;
                from = row.file.ordinal.saturating_add(1);
                let needs_bytes = row.waits_for_bytes() && !foreign.contains(&row.file.ordinal);
                if needs_bytes && found.len() < wanted {
                    found.push(issue_facts(&row));
                }
            }
            if last {
                break;
            }
        }
        Ok(found)
    }

    /// Whoever asks for URLs is sending: the batch waits for its bytes longer, which is noted every hour at most.
    async fn keep_uploading(&self, row: &ProgressRow, files: &[IssueFacts]) -> Result<(), DbErr> {
        use caudal_proto::v1::FileState as S;
        let waits = |facts: &IssueFacts| matches!(facts.state(), S::Pending | S::Uploading);
        if !files.iter().any(waits) || row.facts.cancel_requested {
            return Ok(());
        }
        let time = self.upload_deadline;
        let deadline = self
            .store
            .reader_of(row.key().tenant)
            .now()
            .await?
            .plus(time);
        if deadline.since(row.upload_deadline) < time / DEADLINE_MOVES {
            return Ok(());
        }
        let batch = row.key();
        if let Err(refusal) = self.writer.ask(KeepUploading { batch }).await {
            // It is noted with the next question, and no URL waits for that.
            tracing::debug!(%refusal, "an upload deadline was not moved");
        }
        Ok(())
    }

    /// Adds what was declared of files whose bytes may still come.
    async fn add_checksums(&self, batch: BatchRef, files: &mut [IssueFacts]) -> Result<(), DbErr> {
        use caudal_proto::v1::FileState as S;
        let may_come =
            |facts: &&IssueFacts| matches!(facts.state(), S::Pending | S::Uploading | S::Failed);
        let waiting: Vec<FileRef> = files
            .iter()
            .filter(may_come)
            .map(|facts| batch.file(facts.ordinal))
            .collect();
        let declared =
            reads::declared_checksums(&self.store.reader_of(batch.tenant), waiting.into_iter())
                .await?;
        for facts in files {
            if let Some(sha256) = declared.get(&batch.file(facts.ordinal)) {
                facts.declared_sha256 = Bytes::copy_from_slice(sha256);
            }
        }
        Ok(())
    }

    async fn artifact(
        &self,
        file: FileRef,
        name: &str,
    ) -> Result<Option<GetArtifactFactsResponse>, DbErr> {
        let Some((stage, name)) = name.split_once('/') else {
            return Ok(None);
        };
        let Ok(stage) = stage.parse::<Stage>() else {
            return Ok(None);
        };
        let session = self.store.reader_of(file.tenant);
        let rows = work::read(&session, &[file]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let generation = row.generation;
        let results = results::served(&session, &[(file, generation)]).await?;
        let views = reads::views(&session, rows).await?;
        let Some(result) = results
            .get(&file)
            .and_then(|results| results.iter().find(|result| result.stage == stage))
        else {
            return Ok(None);
        };
        let Some(artifact) = result
            .artifacts
            .iter()
            .find(|artifact| artifact.name == name)
        else {
            return Ok(None);
        };
        let base = views
            .first()
            .map_or("", |view| view.path.rsplit('/').next().unwrap_or_default());
        let file_name = if stage == Stage::Upload {
            base.to_owned()
        } else {
            format!("{base}.{}", artifact.name)
        };
        Ok(Some(GetArtifactFactsResponse {
            key: artifact_key(result, artifact),
            size: wire::signed(artifact.size),
            media_type: artifact.media_type.clone(),
            file_name,
        }))
    }

    async fn changes_after(
        &self,
        tenant: TenantId,
        batch: BatchId,
        after: u64,
    ) -> Result<Option<ListChangesResponse>, DbErr> {
        let session = self.store.reader_of(tenant);
        let rows =
            changes::after(&session, BatchRef::new(tenant, batch), after, MAX_CHANGES).await?;
        let gap = rows.first().map(|(revision, _)| *revision != after + 1);
        if gap == Some(true) {
            return Ok(Some(ListChangesResponse {
                too_old: true,
                ..ListChangesResponse::default()
            }));
        }
        if rows.is_empty() {
            let Some((progress, _)) = reads::batch(&session, BatchRef::new(tenant, batch)).await?
            else {
                return Ok(None);
            };
            // Ahead of the database (a restored backup), or behind what is kept.
            let caught_up = progress.revision == after
                || !changes::after(&session, BatchRef::new(tenant, batch), after, 1)
                    .await?
                    .is_empty();
            return Ok(Some(ListChangesResponse {
                too_old: !caught_up,
                ..ListChangesResponse::default()
            }));
        }
        let full_page = rows.len() == MAX_CHANGES as usize;
        let mut bytes = 0;
        let mut listed = Vec::with_capacity(rows.len());
        for (revision, body) in rows {
            bytes += body.len();
            if bytes > MAX_CHANGES_BYTES && !listed.is_empty() {
                return Ok(Some(ListChangesResponse {
                    changes: listed,
                    too_old: false,
                    more: true,
                }));
            }
            listed.push(PackedChanges {
                batch_revision: wire::signed(revision),
                body: body.into(),
            });
        }
        Ok(Some(ListChangesResponse {
            changes: listed,
            too_old: false,
            more: full_page,
        }))
    }
}

/// Where a snapshot goes on.
enum NextPart {
    /// Files from this ordinal on.
    Files(u32),
    /// Folders from this number on.
    Folders(u32),
    End,
}

/// Reads a snapshot part by part, as its reader takes them: nothing waits in between.
struct SnapshotReader {
    ledger: Ledger,
    tenant: TenantId,
    batch: BatchId,
    /// The first part, still without rows; what follows repeats only its revision.
    head: Option<Snapshot>,
    next: NextPart,
}

impl SnapshotReader {
    async fn part(&mut self) -> Result<Option<Snapshot>, DbErr> {
        let session = self.ledger.store.reader_of(self.tenant);
        let mut part = self.head.take().unwrap_or_default();
        self.head = Some(Snapshot {
            revision: part.revision,
            ..Snapshot::default()
        });
        match self.next {
            NextPart::Files(from) => {
                let rows =
                    reads::snapshot_files(&session, self.tenant, self.batch, from, SNAPSHOT_FILES)
                        .await?;
                self.next = match rows.last() {
                    Some(last) if rows.len() == SNAPSHOT_FILES as usize => {
                        NextPart::Files(last.ordinal.saturating_add(1))
                    }
                    _ => NextPart::Folders(0),
                };
                part.files = file_columns(&rows);
            }
            NextPart::Folders(from) => {
                let rows = reads::snapshot_folders(
                    &session,
                    self.tenant,
                    self.batch,
                    from,
                    SNAPSHOT_FOLDERS,
                )
                .await?;
                self.next = match rows.last() {
                    Some(last) if rows.len() == SNAPSHOT_FOLDERS as usize => {
                        NextPart::Folders(last[0].saturating_add(1))
                    }
                    _ => NextPart::End,
                };
                part.folders = Some(folder_columns(&rows));
                part.last = matches!(self.next, NextPart::End);
            }
            NextPart::End => return Ok(None),
        }
        Ok(Some(part))
    }
}

/// The ordinal after one that a client named, -1 for the first; what is no ordinal leads nowhere.
fn ordinal_after(ordinal: i64) -> Result<u32, Refusal> {
    ordinal
        .checked_add(1)
        .and_then(|next| u32::try_from(next).ok())
        .ok_or_else(|| {
            let words = format!(
                "{ordinal} is no ordinal: name one that a file has, or begin from the start"
            );
            Refusal::invalid("after_ordinal", words)
        })
}

/// That a service calls, and that its request holds no more than it may.
fn require_service<T: Bounded>(request: &Request<T>) -> Result<(), Refusal> {
    scope::require_service(request).and_then(|_| bounds::check(request.get_ref()))
}

/// The same, and that it is the service of the stage that it names.
pub(super) fn require_service_of<T: Bounded>(
    request: &Request<T>,
    named: fn(&T) -> &String,
) -> Result<Stage, Refusal> {
    require_service(request)?;
    let stage = stage_of(named(request.get_ref()))?;
    scope::require_service_of(request, stage)?;
    Ok(stage)
}

fn stage_of(name: &str) -> Result<Stage, Refusal> {
    name.parse()
        .map_err(|error: caudal_domain::UnknownStage| Refusal::invalid("stage", error.to_string()))
}

impl Ledger {
    fn note_wait(&self, process: &str, wait: &ProcessWait) -> Result<(), Refusal> {
        let stage = stage_from_name(&wait.stage).map_err(|error| error.refusal("wait.stage"))?;
        let process = process_of(process)?;
        let mut waiting = wait.waiting.clone().unwrap_or_default();
        waiting.detail = plain(&waiting.detail).into_owned();
        self.waits.told(stage, process, waiting, Instant::now());
        Ok(())
    }
}

pub(super) fn process_of(process: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(process)
        .map_err(|_| Refusal::invalid("process", "must be the UUID of the process"))
}

fn held_of(files: Option<&caudal_proto::mesh::v1::FileTokens>) -> Result<Held, Refusal> {
    let files = files.ok_or_else(|| Refusal::invalid("files", "names no files"))?;
    file_tokens_from_proto(files, limits::MAX_FILES_PER_CALL)
        .map_err(|error| error.refusal("files"))
}

fn executions_of(message: &CheckRecordedRequest) -> Result<Vec<Execution>, Failure> {
    let held = held_of(message.files.as_ref())?;
    if held.len() != message.generation.len() {
        let description = format!(
            "has {} generations for {} files",
            message.generation.len(),
            held.len()
        );
        return Err(Refusal::invalid("generation", description).into());
    }
    let generations = message.generation.iter().copied().map(Generation::new);
    let executions = held.into_iter().zip(generations);
    Ok(executions
        .map(|((file, token), generation)| (file, generation, token))
        .collect())
}

fn batch_of(scope: &TenantScope, bytes: &[u8]) -> Result<BatchId, Failure> {
    let batch = batch_from_bytes(bytes).map_err(|error| error.refusal("batch"))?;
    scope.check(batch, &names::batch_name(batch))?;
    Ok(batch)
}

/// Compares in a time that does not depend on where they differ.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |differ, (left, right)| differ | (left ^ right))
            == 0
}

fn issue_facts(row: &work::WorkRow) -> IssueFacts {
    IssueFacts {
        ordinal: row.file.ordinal,
        exists: true,
        state: file_state_to_proto(row.state).into(),
        target: row.target.get(),
        landing_key: keys::landing_key(row.file, row.target),
        size: wire::signed(row.size),
        // Read apart, from the manifest.
        declared_sha256: Bytes::new(),
    }
}

/// The key of an artifact: a stage's own below its execution's prefix, the upload stage's original at its final key.
fn artifact_key(result: &ResultRow, artifact: &StoredArtifact) -> String {
    let maker = result.maker();
    match (result.stage, result.content) {
        (Stage::Upload, Some(content)) => keys::final_key(maker.file, &content),
        _ => keys::artifact_key(
            maker.file,
            maker.generation,
            result.stage,
            maker.token,
            &maker.nonce,
            &artifact.name,
        ),
    }
}

fn work_message(
    index: usize,
    granted: &Granted,
    inputs: &Inputs,
    verified: Option<&ResultRow>,
    version_words: &dyn Fn(u32) -> String,
) -> Work {
    let row = &granted.row;
    let Inputs { declared, results } = inputs;
    let upload = results
        .iter()
        .find(|result| result.stage == Stage::Upload)
        .map(AsRef::as_ref)
        .or(verified);
    let content = upload.and_then(|upload| upload.content);
    let final_key = upload
        .zip(content)
        .map(|(upload, content)| keys::final_key(upload.maker().file, &content))
        .unwrap_or_default();
    Work {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        generation: row.generation.get(),
        source_key: match row.stage {
            Stage::Upload if granted.reads_final_object() => final_key.clone(),
            Stage::Upload => keys::landing_key(row.file, row.target),
            _ => String::new(),
        },
        final_key,
        etag: row
            .etag
            .clone()
            .filter(|_| !granted.reads_final_object())
            .unwrap_or_default(),
        declared_size: wire::signed(row.size),
        declared_sha256: declared.sha256.clone().map(Bytes::from).unwrap_or_default(),
        content_sha256: content
            .map(|content| Bytes::copy_from_slice(&content))
            .unwrap_or_default(),
        path: declared.path.clone(),
        media_type: upload
            .and_then(|upload| upload.media_type.clone())
            .unwrap_or_default(),
        suspect: row.kills > 0,
        expected_us: granted.expected.unsigned_abs(),
        dimensions: 0,
        inputs: results
            .iter()
            .map(|result| input(result, version_words))
            .collect(),
        entry_metadata: declared
            .metadata
            .clone()
            .map(|text| Bytes::from(text.into_bytes()))
            .unwrap_or_default(),
        stages: if granted.stages == StageSet::all() {
            Vec::new()
        } else {
            wire::stage_names(granted.stages)
        },
    }
}

fn input(result: &ResultRow, version_words: &dyn Fn(u32) -> String) -> Input {
    let artifact = |artifact: &StoredArtifact| InputArtifact {
        name: artifact.name.clone(),
        key: artifact_key(result, artifact),
        size: wire::signed(artifact.size),
        media_type: artifact.media_type.clone(),
    };
    Input {
        stage: result.stage.name().to_owned(),
        artifacts: result.artifacts.iter().map(artifact).collect(),
        facts: Bytes::copy_from_slice(result.facts.as_bytes()),
        warnings: result.warnings.iter().map(warning_to_proto).collect(),
        version: result.version.map(version_words).unwrap_or_default(),
        skipped: result.skipped,
        usage: Some(wire::usage(result)),
    }
}

fn report_of(message: ReportRequest) -> Result<Report, Failure> {
    let stage = stage_of(&message.stage)?;
    let held = held_of(message.files.as_ref())?;
    if held.len() != message.reports.len() {
        let description = format!(
            "has {} reports for {} files",
            message.reports.len(),
            held.len()
        );
        return Err(Refusal::invalid("reports", description).into());
    }
    let version = message.stage_version.unwrap_or_default();
    let slots = match message.slots {
        0 => None,
        slots => Some((process_of(&message.process)?, slots)),
    };
    let mut reported = Vec::with_capacity(held.len());
    for (index, ((file, token), report)) in held.into_iter().zip(message.reports).enumerate() {
        let took = (report.took_us > 0).then(|| report.took_us.into());
        let outcome = outcome_of(stage, report)
            .map_err(|refusal| Refusal::invalid(format!("reports[{index}]"), refusal))?;
        reported.push(Reported {
            file,
            token,
            outcome,
            took,
        });
    }
    Ok(Report {
        stage,
        version: stage_version_from_proto(stage, &version),
        slots,
        reported,
    })
}

/// Facts as they are kept: JSON, for what is none would undo the whole group, without U+0000, which no database keeps in it.
fn facts_of(sent: &[u8]) -> Result<String, String> {
    const NUL: &str = "\\u0000";
    if sent.is_empty() {
        return Ok("{}".to_owned());
    }
    let text = std::str::from_utf8(sent).map_err(|_| "facts are not UTF-8".to_owned())?;
    let mut facts: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("facts are not JSON: {error}"))?;
    if !text.contains(NUL) {
        return Ok(text.to_owned());
    }
    replace_nul(&mut facts);
    Ok(facts.to_string())
}

fn replace_nul(value: &mut serde_json::Value) {
    use serde_json::Value;
    let replaced = |text: &str| text.replace('\0', "\u{FFFD}");
    match value {
        Value::String(text) => *text = replaced(text),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(object) => {
            let members = std::mem::take(object).into_iter();
            *object = members
                .map(|(name, mut value)| {
                    replace_nul(&mut value);
                    (replaced(&name), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn outcome_of(stage: Stage, message: ReportMessage) -> Result<StageOutcome, String> {
    match message.outcome {
        Some(report::Outcome::Done(done)) => {
            let outcome = outcome_from_proto(done.outcome).map_err(|error| error.to_string())?;
            let content =
                sha256_from_bytes(&done.content_sha256).map_err(|error| error.to_string())?;
            if stage == Stage::Upload && content.is_none() {
                return Err("the upload stage must say the content's sha256".to_owned());
            }
            let outcome = match (stage, outcome) {
                (Stage::Metadata, None) => {
                    return Err("the metadata stage must say the outcome".to_owned());
                }
                (Stage::Metadata, outcome) => outcome,
                _ => None::<Outcome>,
            };
            let facts = facts_of(&done.facts)?;
            let usage = done.usage.unwrap_or_default();
            let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
            let artifact = |artifact: caudal_proto::mesh::v1::WrittenArtifact| StoredArtifact {
                name: artifact.name,
                size: unsigned(artifact.size),
                media_type: artifact.media_type,
            };
            let warnings: Result<Vec<_>, _> =
                done.warnings.iter().map(warning_from_proto).collect();
            Ok(Ok(GoodResult {
                artifacts: done.artifacts.into_iter().map(artifact).collect(),
                nonce: done.nonce,
                facts,
                content,
                media_type: (!done.media_type.is_empty()).then_some(done.media_type),
                has_text: done.has_text,
                warnings: warnings.map_err(|error| error.to_string())?,
                used: Used {
                    bytes: unsigned(usage.bytes),
                    pages: unsigned(usage.pages),
                    tokens: unsigned(usage.tokens),
                    calls: unsigned(usage.provider_calls),
                },
                outcome,
                dimensions: (done.dimensions > 0).then_some(done.dimensions),
            }))
        }
        Some(report::Outcome::Failed(failed)) => Ok(Err(BadResult {
            reason: reason_from_code(&failed.reason).map_err(|error| error.to_string())?,
            detail: cut(&failed.detail),
            trace_id: failed.trace_id,
            retry_after: (failed.retry_after_ms > 0)
                .then(|| Duration::from_millis(u64::from(failed.retry_after_ms))),
        })),
        None => Err("says neither done nor failed".to_owned()),
    }
}

/// What is kept of a detail: it may hold what a file or a provider said, and is shown to people.
fn cut(detail: &str) -> String {
    let mut detail = plain(detail).into_owned();
    if detail.len() > MAX_DETAIL_BYTES {
        let end = (0..=MAX_DETAIL_BYTES)
            .rev()
            .find(|end| detail.is_char_boundary(*end))
            .unwrap_or(0);
        detail.truncate(end);
    }
    detail
}

/// Dense columns as long as no file was erased, deltas otherwise.
fn file_columns(rows: &[reads::SnapshotRow]) -> Option<FileColumns> {
    let first = rows.first()?.ordinal;
    let dense = rows
        .iter()
        .zip(first..)
        .all(|(row, expected)| row.ordinal == expected);
    let mut columns = FileColumns {
        first_ordinal: first,
        ..FileColumns::default()
    };
    let mut before = first;
    for row in rows {
        if !dense {
            columns.ordinal_delta.push(row.ordinal - before);
            before = row.ordinal;
        }
        columns.state.push(file_state_to_proto(row.state).into());
        columns.detail.push(row.detail);
    }
    Some(columns)
}

fn folder_columns(rows: &[[u32; 5]]) -> FolderColumns {
    let mut columns = FolderColumns::default();
    let mut before = 0;
    for [folder, total, processed, failed, cancelled] in rows {
        columns.ordinal_delta.push(folder - before);
        before = *folder;
        columns.total.push(*total);
        columns.processed.push(*processed);
        columns.failed.push(*failed);
        columns.cancelled.push(*cancelled);
    }
    columns
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
