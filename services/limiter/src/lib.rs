//! The three tiers of backpressure: rates of tenants, on governor; worker slots of stages; and budgets of external providers,
//! whose rate falls and rises again with what they say. Rates are granted in blocks, so that a file costs no call of its own;
//! slots are leases that expire by silence. Nothing here is stored: after a restart the buckets of tenants are full and those
//! of providers empty, and slots are learned from what their holders announce.

mod budgets;
mod grant;
mod metrics;
mod rates;
mod service;
mod settings;
mod slots;

use caudal_node::{MeshSecret, Registry, ScopeGuard, ServeError, Server, ServerParts, callers};
use caudal_proto::mesh::v1::limiter_service_server::LimiterServiceServer;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

pub use settings::{DefaultRates, InvalidSettings, ProviderLimit, Rate, Settings, SlotLimits};

/// Requests and answers of the limiter are small.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The limiter. Clones share its state.
#[derive(Debug, Clone)]
pub struct Limiter {
    service: service::Service,
}

impl Limiter {
    /// With no slot held. Its metrics go into `metrics`.
    #[must_use]
    pub fn new(settings: &Settings, metrics: &Registry) -> Self {
        Self {
            service: service::Service::new(settings, metrics),
        }
    }

    /// Its gRPC service, open to services of the mesh only.
    #[must_use]
    pub fn routes(&self, secret: MeshSecret) -> Routes {
        let server = LimiterServiceServer::new(self.service.clone())
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(caudal_node::MAX_ENCODE_BYTES);
        Routes::new(InterceptedService::new(
            server,
            ScopeGuard::services_only(secret, callers::LIMITER),
        ))
    }
}

/// Serves the limiter until shutdown.
///
/// # Errors
/// When the server cannot begin.
pub async fn serve(settings: &Settings, parts: ServerParts) -> Result<(), ServeError> {
    let limiter = Limiter::new(settings, &parts.metrics);
    let routes = limiter.routes(parts.settings.mesh_secret.clone());
    Server::builder("limiter")
        .parts(parts)
        .routes(routes)
        .file_descriptor_set(caudal_proto::FILE_DESCRIPTOR_SET)
        .serve()
        .await
}
