//! A limiter that grants as many slots as a test says.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use caudal_proto::mesh::v1::limiter_service_server::{LimiterService, LimiterServiceServer};
use caudal_proto::mesh::v1::*;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone, Default)]
pub(crate) struct FakeLimiter {
    pub(crate) slots: Arc<AtomicU32>,
    /// The last that was told of the stage's slots in all.
    pub(crate) stage_limit: Arc<Mutex<Option<u32>>>,
}

impl FakeLimiter {
    /// Its address.
    pub(crate) async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = LimiterServiceServer::new(self.clone());
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        address
    }
}

#[tonic::async_trait]
impl LimiterService for FakeLimiter {
    async fn hold_slots(&self, request: Request<HoldSlotsRequest>) -> Answer<HoldSlotsResponse> {
        let request = request.into_inner();
        assert_eq!(request.stage, "extract-text");
        if request.stage_limit.is_some() {
            *self.stage_limit.lock().unwrap() = request.stage_limit;
        }
        Ok(Response::new(HoldSlotsResponse {
            slots: self.slots.load(Ordering::Relaxed).min(request.want),
            valid_for: Some(prost_types::Duration {
                seconds: 0,
                nanos: 300_000_000,
            }),
            recovering: false,
        }))
    }

    async fn acquire(&self, _: Request<AcquireRequest>) -> Answer<AcquireResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn penalize(&self, _: Request<PenalizeRequest>) -> Answer<PenalizeResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        Err(Status::unimplemented("not asked by stages"))
    }
}
