//! A ledger that does what a test tells it, and remembers what it was asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use caudal_domain::{FileRef, Target, Token, landing_key};
use caudal_proto::convert::file_tokens_from_proto;
use caudal_proto::mesh::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use caudal_proto::mesh::v1::report::Outcome;
use caudal_proto::mesh::v1::*;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};

pub(crate) type Key = (FileRef, Token);
type Answer<T> = Result<Response<T>, Status>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Leased(Key),
    Refused(Key),
    Renewed(Key),
    Stopped(Key),
    Released(Key),
    Done(Key, Box<Done>),
    Failed(Key, String, String),
    Reconcile(String),
    Checked(Key, u32),
}

#[derive(Default)]
pub(crate) struct State {
    /// The path of each file's work tells the handler what to do. A file that is not here is not granted.
    pub(crate) paths: HashMap<Key, String>,
    /// What earlier stages recorded of a file.
    pub(crate) inputs: HashMap<Key, Vec<Input>>,
    pub(crate) suspects: HashSet<Key>,
    /// What files are expected to take.
    pub(crate) expected_us: HashMap<Key, u64>,
    /// Renewals of these are answered with STOP.
    pub(crate) stops: HashSet<Key>,
    /// Calls of these names get no answer.
    pub(crate) away: HashSet<&'static str>,
    /// Reports of these are refused in this way while they are not failures.
    pub(crate) refused_reports: HashMap<Key, Code>,
    /// Reports of these are answered SUPERSEDED.
    pub(crate) superseded: HashSet<Key>,
    /// Results that a reader of the database sees.
    pub(crate) seen: HashSet<Key>,
    pub(crate) lease_ms: u32,
    /// What processes are told that operators set, and what the last of them said.
    pub(crate) set: AttendResponse,
    pub(crate) attended: Option<AttendRequest>,
    pub(crate) calls: Vec<Call>,
    pub(crate) lease_pages: Vec<usize>,
    pub(crate) report_pages: Vec<usize>,
}

#[derive(Clone)]
pub(crate) struct FakeLedger {
    state: Arc<Mutex<State>>,
    pub(crate) address: String,
}

impl FakeLedger {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            lease_ms: 12_000,
            ..State::default()
        };
        let ledger = Self {
            state: Arc::new(Mutex::new(state)),
            address,
        };
        let service = LedgerServiceServer::new(ledger.clone());
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        ledger
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub(crate) fn count(&self, matches: impl Fn(&Call) -> bool) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| matches(call))
            .count()
    }

    fn check(&self, call: &'static str) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.state();
        if state.away.contains(call) {
            return Err(Status::unavailable("the ledger is away"));
        }
        Ok(state)
    }
}

fn keys(files: Option<FileTokens>) -> Vec<Key> {
    file_tokens_from_proto(&files.unwrap(), 4_096).unwrap()
}

#[tonic::async_trait]
impl LedgerService for FakeLedger {
    async fn lease(&self, request: Request<LeaseRequest>) -> Answer<LeaseResponse> {
        let mut state = self.check("lease")?;
        let mut response = LeaseResponse {
            lease_ms: state.lease_ms,
            ..LeaseResponse::default()
        };
        let keys = keys(request.into_inner().files);
        state.lease_pages.push(keys.len());
        for (index, key) in keys.into_iter().enumerate() {
            let Some(path) = state.paths.get(&key).cloned() else {
                state.calls.push(Call::Refused(key));
                response.verdicts.push(LeaseVerdict::Superseded.into());
                continue;
            };
            state.calls.push(Call::Leased(key));
            response.verdicts.push(LeaseVerdict::Granted.into());
            response.works.push(Work {
                index: index as u32,
                generation: 1,
                path,
                source_key: landing_key(key.0, Target(1)),
                suspect: state.suspects.contains(&key),
                expected_us: state.expected_us.get(&key).copied().unwrap_or(0),
                inputs: state.inputs.get(&key).cloned().unwrap_or_default(),
                ..Work::default()
            });
        }
        Ok(Response::new(response))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Answer<RenewResponse> {
        let mut state = self.check("renew")?;
        let mut verdicts = Vec::new();
        for key in keys(request.into_inner().files) {
            if state.stops.contains(&key) {
                state.calls.push(Call::Stopped(key));
                verdicts.push(RenewVerdict::Stop.into());
            } else {
                state.calls.push(Call::Renewed(key));
                verdicts.push(RenewVerdict::Keep.into());
            }
        }
        Ok(Response::new(RenewResponse { verdicts }))
    }

    async fn attend(&self, request: Request<AttendRequest>) -> Answer<AttendResponse> {
        let mut state = self.check("attend")?;
        state.attended = Some(request.into_inner());
        Ok(Response::new(state.set))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Answer<ReleaseResponse> {
        let mut state = self.check("release")?;
        for key in keys(request.into_inner().files) {
            // Its token moves on: who asks again is refused.
            state.paths.remove(&key);
            state.calls.push(Call::Released(key));
        }
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Answer<ReportResponse> {
        let mut state = self.check("report")?;
        let request = request.into_inner();
        let keys = keys(request.files);
        assert_eq!(keys.len(), request.reports.len());
        let refused = keys.iter().zip(&request.reports).find_map(|(key, report)| {
            let code = state.refused_reports.get(key)?;
            matches!(report.outcome, Some(Outcome::Done(_))).then_some(*code)
        });
        if let Some(code) = refused {
            return Err(Status::new(code, "one of these reports makes no sense"));
        }
        state.report_pages.push(keys.len());
        let mut verdicts = Vec::new();
        for (key, report) in keys.into_iter().zip(request.reports) {
            let verdict = match state.superseded.contains(&key) {
                true => ReportVerdict::Superseded,
                false => ReportVerdict::Recorded,
            };
            verdicts.push(verdict.into());
            let call = match report.outcome.unwrap() {
                Outcome::Done(done) => {
                    state.paths.remove(&key);
                    Call::Done(key, Box::new(done))
                }
                Outcome::Failed(failed) => Call::Failed(key, failed.reason, failed.detail),
            };
            state.calls.push(call);
        }
        Ok(Response::new(ReportResponse { verdicts }))
    }

    async fn check_recorded(
        &self,
        request: Request<CheckRecordedRequest>,
    ) -> Answer<CheckRecordedResponse> {
        let mut state = self.check("check")?;
        let request = request.into_inner();
        assert_eq!(request.stage, "extract-text");
        let mut recorded = Vec::new();
        for (key, generation) in keys(request.files).into_iter().zip(request.generation) {
            state.calls.push(Call::Checked(key, generation));
            recorded.push(state.seen.contains(&key));
        }
        Ok(Response::new(CheckRecordedResponse { recorded }))
    }

    async fn request_reconcile(
        &self,
        request: Request<RequestReconcileRequest>,
    ) -> Answer<RequestReconcileResponse> {
        let stage = request.into_inner().stage;
        self.check("reconcile")?.calls.push(Call::Reconcile(stage));
        Ok(Response::new(RequestReconcileResponse {}))
    }

    async fn check_credential(
        &self,
        _: Request<CheckCredentialRequest>,
    ) -> Answer<CheckCredentialResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn create_tus(
        &self,
        _request: Request<CreateTusRequest>,
    ) -> Result<Response<TusUpload>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn get_tus(
        &self,
        _request: Request<GetTusRequest>,
    ) -> Result<Response<TusUpload>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn lock_tus(
        &self,
        _request: Request<LockTusRequest>,
    ) -> Result<Response<TusUpload>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn advance_tus(
        &self,
        _request: Request<AdvanceTusRequest>,
    ) -> Result<Response<TusUpload>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn end_tus(
        &self,
        _request: Request<EndTusRequest>,
    ) -> Result<Response<EndTusResponse>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn list_due_tus(
        &self,
        _request: Request<ListDueTusRequest>,
    ) -> Result<Response<ListDueTusResponse>, Status> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn get_issue_facts(
        &self,
        _: Request<GetIssueFactsRequest>,
    ) -> Answer<GetIssueFactsResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn get_artifact_facts(
        &self,
        _: Request<GetArtifactFactsRequest>,
    ) -> Answer<GetArtifactFactsResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn list_changes(&self, _: Request<ListChangesRequest>) -> Answer<ListChangesResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn list_events(&self, _: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    type GetSnapshotStream = tokio_stream::Empty<Result<GetSnapshotResponse, Status>>;

    async fn get_snapshot(
        &self,
        _: Request<GetSnapshotRequest>,
    ) -> Answer<Self::GetSnapshotStream> {
        Err(Status::unimplemented("not asked by stages"))
    }
}
