//! LimiterService: checks requests, and answers from rates and slots.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::{Refusal, Stage, TenantId};
use caudal_node::Registry;
use caudal_proto::convert::{duration_from_proto, duration_to_proto, stage_from_name};
use caudal_proto::mesh::v1::limiter_service_server::LimiterService;
use caudal_proto::mesh::v1::{
    AcquireRequest, AcquireResponse, GetStatusRequest, GetStatusResponse, HoldSlotsRequest,
    HoldSlotsResponse, PenalizeRequest, PenalizeResponse, PermitKind, StageSlots,
};
use caudal_proto::status::to_status;
use governor::clock::DefaultClock;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::budgets::{Demand, LONGEST_PENALTY, is_of_providers};
use crate::metrics::Metrics;
use crate::rates::Rates;
use crate::settings::Settings;
use crate::slots::Slots;

/// Characters of the name of a process or provider.
const MAX_NAME_CHARACTERS: usize = 64;

/// The state behind the gRPC service. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    rates: Arc<Rates>,
    slots: Arc<Mutex<Slots>>,
    permit_validity: Duration,
    metrics: Metrics,
}

impl Service {
    pub(crate) fn new(settings: &Settings, registry: &Registry) -> Self {
        Self {
            rates: Arc::new(Rates::new(
                &settings.rates,
                &settings.own_rates,
                DefaultClock::default(),
            )),
            slots: Arc::new(Mutex::new(Slots::new(
                settings.slots.clone(),
                Instant::now(),
            ))),
            permit_validity: settings.permit_validity,
            metrics: Metrics::new(registry),
        }
    }

    fn acquire_permits(&self, request: &AcquireRequest) -> Result<AcquireResponse, Refusal> {
        let kind = checked_kind(request)?;
        if request.want == 0 {
            return Err(Refusal::invalid("want", "must be at least 1"));
        }
        let no_kind = || Refusal::invalid("kind", "names no kind of permit");
        let valid_for = Some(duration_to_proto(self.permit_validity));
        if is_of_providers(kind) {
            if !request.process.is_empty() {
                check_name("process", &request.process)?;
            }
            let demand = Demand {
                kind,
                provider: &request.key,
                want: request.want,
                block: request.block,
                process: &request.process,
                local_fraction: request.local_fraction,
                spent_away: request.spent_away,
            };
            let found = self
                .rates
                .acquire_of_provider(&demand)
                .ok_or_else(no_kind)?;
            self.metrics
                .permits(kind, request.want, found.grant.granted);
            self.metrics
                .provider_rate(kind, &request.key, found.per_second);
            return Ok(AcquireResponse {
                granted: found.grant.granted,
                valid_for,
                retry_after: (!found.grant.retry_after.is_zero())
                    .then(|| duration_to_proto(found.grant.retry_after)),
                per_second: found.per_second,
                local_fraction: found.local_fraction,
                paused: found.paused,
            });
        }
        let grant = self
            .rates
            .acquire_at(
                kind,
                &request.key,
                request.want,
                request.block,
                request.per_second,
            )
            .ok_or_else(no_kind)?;
        self.metrics.permits(kind, request.want, grant.granted);
        Ok(AcquireResponse {
            granted: grant.granted,
            valid_for,
            retry_after: (!grant.retry_after.is_zero())
                .then(|| duration_to_proto(grant.retry_after)),
            ..AcquireResponse::default()
        })
    }

    fn hold(&self, request: &HoldSlotsRequest) -> Result<HoldSlotsResponse, Refusal> {
        let stage: Stage =
            stage_from_name(&request.stage).map_err(|error| error.refusal("stage"))?;
        check_name("process", &request.process)?;
        let now = Instant::now();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = request.stage_limit {
            slots.limit(stage, limit);
        }
        let held = slots.hold(stage, &request.process, request.want, request.have, now)?;
        self.metrics.slots(&slots.sums(now));
        Ok(HoldSlotsResponse {
            slots: held.slots,
            valid_for: Some(duration_to_proto(held.valid_for)),
            recovering: held.recovering,
        })
    }

    fn penalize_provider(&self, request: &PenalizeRequest) -> Result<PenalizeResponse, Refusal> {
        check_name("provider", &request.provider)?;
        let retry_after = request
            .retry_after
            .as_ref()
            .ok_or_else(|| Refusal::invalid("retry_after", "is missing"))?;
        let retry_after =
            duration_from_proto(retry_after).map_err(|error| error.refusal("retry_after"))?;
        if retry_after > LONGEST_PENALTY {
            tracing::warn!(
                provider = request.provider,
                ?retry_after,
                "a penalty was cut to an hour"
            );
        }
        if self.rates.penalize(&request.provider, retry_after) {
            tracing::info!(
                provider = request.provider,
                ?retry_after,
                "a provider wants fewer requests: its rate is halved, and grows back within a minute"
            );
        }
        self.metrics.penalty(&request.provider);
        for kind in [PermitKind::ProviderRequests, PermitKind::ProviderTokens] {
            if let Some((_, present, _)) = self.rates.present(kind, &request.provider) {
                self.metrics.provider_rate(kind, &request.provider, present);
            }
        }
        Ok(PenalizeResponse {})
    }

    fn status(&self) -> GetStatusResponse {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = slots.sums(Instant::now());
        self.metrics.slots(&sums);
        let total_held = sums.iter().map(|sum| sum.held).sum();
        let stages = sums.into_iter().map(|sum| StageSlots {
            stage: sum.stage.name().to_owned(),
            limit: sum.limit,
            held: sum.held,
            processes: sum.processes,
        });
        GetStatusResponse {
            stages: stages.collect(),
            rates: self.rates.status(),
            total_limit: slots.total(),
            total_held,
        }
    }
}

fn checked_kind(request: &AcquireRequest) -> Result<PermitKind, Refusal> {
    let kind = PermitKind::try_from(request.kind).map_err(|_| {
        Refusal::invalid("kind", format!("{} names no kind of permit", request.kind))
    })?;
    match kind {
        PermitKind::Unspecified => Err(Refusal::invalid("kind", "is missing")),
        PermitKind::Calls | PermitKind::Entries => {
            let tenant: Result<TenantId, _> = request.key.parse();
            tenant
                .map_err(|error| Refusal::invalid("key", format!("must be a tenant: {error}")))?;
            Ok(kind)
        }
        PermitKind::ProviderRequests | PermitKind::ProviderTokens => {
            check_name("key", &request.key)?;
            Ok(kind)
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME_CHARACTERS || name.chars().any(char::is_control) {
        let rule =
            format!("must have from 1 to {MAX_NAME_CHARACTERS} characters, no control characters");
        return Err(Refusal::invalid(field, rule));
    }
    Ok(())
}

fn answer<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result
        .map(Response::new)
        .map_err(|refusal| to_status(&refusal))
}

#[tonic::async_trait]
impl LimiterService for Service {
    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        answer(self.acquire_permits(request.get_ref()))
    }

    async fn hold_slots(
        &self,
        request: Request<HoldSlotsRequest>,
    ) -> Result<Response<HoldSlotsResponse>, Status> {
        answer(self.hold(request.get_ref()))
    }

    async fn penalize(
        &self,
        request: Request<PenalizeRequest>,
    ) -> Result<Response<PenalizeResponse>, Status> {
        answer(self.penalize_provider(request.get_ref()))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }
}
