//! A server with two small services on a free port.

use std::sync::Arc;
use std::time::Duration;

use caudal_harness::PATIENCE;
use caudal_node::{
    Channels, MAX_DECODE_BYTES, MeshChannel, MeshSecret, MeshTls, ScopeGuard, Server, ServerLimits,
    ServerParts,
};
use caudal_node::{ServiceIdentity, Settings, TraceContext, scope};
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_proto::mesh::v1::limiter_service_server::{LimiterService, LimiterServiceServer};
use caudal_proto::mesh::v1::stage_service_client::StageServiceClient;
use caudal_proto::mesh::v1::stage_service_server::{StageService, StageServiceServer};
use caudal_proto::mesh::v1::{
    AcquireRequest, AcquireResponse, GetStageRequest, GetStageResponse, GetStatusRequest,
    GetStatusResponse, HoldSlotsRequest, HoldSlotsResponse, PauseRequest, PauseResponse,
    PenalizeRequest, PenalizeResponse, ResumeRequest, ResumeResponse, SetConcurrencyRequest,
    SetConcurrencyResponse,
};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

/// Tells the trace it is called in; panics, and is slow, when asked to.
#[derive(Debug)]
pub(crate) struct FakeStage {
    /// Counts the slow calls that have begun.
    begun: watch::Sender<usize>,
}

#[tonic::async_trait]
impl StageService for FakeStage {
    async fn get_stage(
        &self,
        request: Request<GetStageRequest>,
    ) -> Result<Response<GetStageResponse>, Status> {
        let process = scope::of(&request)
            .map(|scope| scope.principal.clone())
            .unwrap_or_default();
        let version = TraceContext::current()
            .map(|trace| trace.header())
            .unwrap_or_default();
        Ok(Response::new(GetStageResponse {
            process,
            version,
            ..GetStageResponse::default()
        }))
    }

    async fn pause(
        &self,
        _request: Request<PauseRequest>,
    ) -> Result<Response<PauseResponse>, Status> {
        panic!("this handler always panics");
    }

    async fn resume(
        &self,
        _request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        self.begun.send_modify(|begun| *begun += 1);
        std::future::pending().await
    }

    async fn set_concurrency(
        &self,
        request: Request<SetConcurrencyRequest>,
    ) -> Result<Response<SetConcurrencyResponse>, Status> {
        let slots = request.into_inner().slots;
        self.begun.send_modify(|begun| *begun += 1);
        tokio::time::sleep(Duration::from_millis(u64::from(slots))).await;
        Ok(Response::new(SetConcurrencyResponse { slots }))
    }
}

/// Grants what it was told to, and remembers what it was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeLimiter {
    pub(crate) state: Arc<Mutex<FakeState>>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    pub(crate) slots: u32,
    pub(crate) valid_for: Duration,
    pub(crate) permits: u32,
    pub(crate) asked_slots: Vec<HoldSlotsRequest>,
    pub(crate) asked_permits: Vec<AcquireRequest>,
    pub(crate) penalties: Vec<String>,
}

#[tonic::async_trait]
impl LimiterService for FakeLimiter {
    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let granted = state.permits.min(request.block);
        state.permits -= granted;
        state.asked_permits.push(request);
        Ok(Response::new(AcquireResponse {
            granted,
            valid_for: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
            retry_after: Some(prost_types::Duration {
                seconds: 0,
                nanos: 20_000_000,
            }),
            ..AcquireResponse::default()
        }))
    }

    async fn hold_slots(
        &self,
        request: Request<HoldSlotsRequest>,
    ) -> Result<Response<HoldSlotsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let slots = state.slots.min(request.want);
        state.asked_slots.push(request);
        let valid_for = Some(caudal_proto::convert::duration_to_proto(state.valid_for));
        Ok(Response::new(HoldSlotsResponse {
            slots,
            valid_for,
            recovering: false,
        }))
    }

    async fn penalize(
        &self,
        request: Request<PenalizeRequest>,
    ) -> Result<Response<PenalizeResponse>, Status> {
        self.state
            .lock()
            .unwrap()
            .penalties
            .push(request.into_inner().provider);
        Ok(Response::new(PenalizeResponse {}))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse::default()))
    }
}

/// A running server; it ends with the value.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) secret: MeshSecret,
    pub(crate) shutdown: CancellationToken,
    pub(crate) health: caudal_node::Health,
    pub(crate) task: JoinHandle<()>,
    begun: watch::Receiver<usize>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub(crate) async fn start(limits: ServerLimits) -> Self {
        Self::start_with(
            limits,
            FakeLimiter::default(),
            MeshSecret::generate(),
            "127.0.0.1:0",
        )
        .await
    }

    pub(crate) async fn start_with(
        limits: ServerLimits,
        limiter: FakeLimiter,
        secret: MeshSecret,
        address: &str,
    ) -> Self {
        Self::start_parts(limits, limiter, secret, address, |_| {}).await
    }

    pub(crate) async fn start_with_tls(tls: MeshTls) -> Self {
        Self::start_where(|parts| parts.tls = Some(tls)).await
    }

    /// With parts that a test has a word in.
    pub(crate) async fn start_where(change: impl FnOnce(&mut ServerParts)) -> Self {
        let (limiter, secret) = (FakeLimiter::default(), MeshSecret::generate());
        let limits = ServerLimits::default();
        Self::start_parts(limits, limiter, secret, "127.0.0.1:0", change).await
    }

    async fn start_parts(
        limits: ServerLimits,
        limiter: FakeLimiter,
        secret: MeshSecret,
        address: &str,
        change: impl FnOnce(&mut ServerParts),
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let settings = Settings {
            name: "fake".to_owned(),
            mesh_secret: secret.clone(),
            limits,
        };
        let mut parts = ServerParts::new(settings, listener, shutdown.clone());
        change(&mut parts);
        let health = parts.health.clone();
        let (calls, begun) = watch::channel(0);
        let stage = InterceptedService::new(
            StageServiceServer::new(FakeStage { begun: calls }),
            ScopeGuard::services_only(secret.clone(), "upload"),
        );
        let limiter =
            LimiterServiceServer::new(limiter).max_decoding_message_size(MAX_DECODE_BYTES);
        let page = axum::Router::new()
            .route("/hello", axum::routing::get(|| async { "hello" }))
            .fallback(|| async { (axum::http::StatusCode::NOT_FOUND, "no such page") });
        let server = Server::builder("fake")
            .parts(parts)
            .routes(Routes::new(stage).add_service(limiter))
            .file_descriptor_set(caudal_proto::FILE_DESCRIPTOR_SET)
            .http(page);
        let task = tokio::spawn(async move { server.serve().await.unwrap() });
        Self {
            address,
            secret,
            shutdown,
            health,
            task,
            begun,
        }
    }

    /// Waits until a slow call is under way.
    pub(crate) async fn slow_call(&self) {
        let mut begun = self.begun.clone();
        let begun = begun.wait_for(|begun| *begun > 0);
        tokio::time::timeout(PATIENCE, begun)
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) fn channel(&self) -> MeshChannel {
        let channel = Channels::default().channel(&self.address).unwrap();
        ServiceIdentity::new("operator", &self.secret)
            .at("upload")
            .channel(channel)
    }

    pub(crate) fn stage(&self) -> StageServiceClient<MeshChannel> {
        StageServiceClient::new(self.channel())
    }

    pub(crate) fn limiter(&self) -> LimiterServiceClient<MeshChannel> {
        LimiterServiceClient::new(self.channel()).max_encoding_message_size(64 * 1024 * 1024)
    }
}
