//! What one stage process tells of itself, and the switches for it alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use caudal_domain::file_name;
use caudal_node::scope::{require_operator, require_service};
use caudal_proto::convert::timestamp_from_micros;
use caudal_proto::mesh::v1::stage_service_server::StageService;
use caudal_proto::mesh::v1::{
    GetStageRequest, GetStageResponse, InFlight, PauseRequest, PauseResponse, ResumeRequest,
    ResumeResponse, SetConcurrencyRequest, SetConcurrencyResponse,
};
use caudal_proto::status::to_status;
use tonic::{Request, Response, Status};

use crate::core::Core;
use crate::gate::{Waiting, micros_of};
use crate::settings::MAX_SLOTS;

/// Files in work that are named in one answer.
const MAX_IN_FLIGHT_TOLD: usize = 1_000;

pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

/// Services of the mesh and operators may ask.
fn check<T>(request: &Request<T>) -> Result<(), Status> {
    if require_service(request).is_ok() {
        return Ok(());
    }
    require_operator(request).map_err(|refusal| to_status(&refusal))?;
    Ok(())
}

fn saturating_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl StageService for Service {
    async fn get_stage(
        &self,
        request: Request<GetStageRequest>,
    ) -> Result<Response<GetStageResponse>, Status> {
        check(&request)?;
        let core = &self.core;
        let mut in_flight = Vec::new();
        for seen in core.book.snapshot(MAX_IN_FLIGHT_TOLD) {
            let (file, token) = seen.key;
            in_flight.push(InFlight {
                file: file_name(file.batch, file.ordinal),
                token: token.get(),
                running: seen.running,
                since: Some(timestamp_from_micros(micros_of(seen.since))),
            });
        }
        Ok(Response::new(GetStageResponse {
            stage: core.stage.name().to_owned(),
            version: core.version.to_string(),
            process: core.process.to_string(),
            slots: saturating_u32(*core.wanted_slots.borrow()),
            granted: saturating_u32(core.allowed_slots()),
            paused: *core.paused.borrow(),
            in_flight,
            last_error: core.last_error(),
            recorded: core.metrics.recorded.since_start(),
            failed: core.metrics.failed.since_start(),
            superseded: core.metrics.superseded.since_start(),
            waiting: core.gate.waiting().as_ref().map(Waiting::to_proto),
            stage_paused: *core.stage_paused.borrow(),
        }))
    }

    async fn pause(
        &self,
        request: Request<PauseRequest>,
    ) -> Result<Response<PauseResponse>, Status> {
        check(&request)?;
        self.core.paused.send_replace(true);
        tracing::info!(stage = %self.core.stage, "paused");
        Ok(Response::new(PauseResponse {}))
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        check(&request)?;
        self.core.paused.send_replace(false);
        tracing::info!(stage = %self.core.stage, "resumed");
        Ok(Response::new(ResumeResponse {}))
    }

    async fn set_concurrency(
        &self,
        request: Request<SetConcurrencyRequest>,
    ) -> Result<Response<SetConcurrencyResponse>, Status> {
        check(&request)?;
        let slots = request.into_inner().slots;
        let wanted = usize::try_from(slots).unwrap_or(usize::MAX);
        if wanted == 0 || wanted > MAX_SLOTS {
            let refusal =
                caudal_domain::Refusal::invalid("slots", format!("must be from 1 to {MAX_SLOTS}"));
            return Err(to_status(&refusal));
        }
        self.core.set_alone.store(true, Ordering::Relaxed);
        self.core.want_slots(wanted);
        tracing::info!(stage = %self.core.stage, slots, "concurrency set");
        Ok(Response::new(SetConcurrencyResponse { slots }))
    }
}
