//! The gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use caudal_gateway::{AllowedOrigins, Deps, Gateway, TusSettings};
use caudal_node::{Certificate, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::service::parts::Part;
use crate::service::{Mesh, Started, cannot_start, reached_at, short_drain};
use crate::settings::DoorArguments;

/// How it works.
#[derive(Default)]
pub(crate) struct GatewayOptions {
    /// Folder of the built page; the usual one when left out.
    pub(crate) web_dir: Option<PathBuf>,
    /// Whose pages may call; all when left out.
    pub(crate) allowed_origins: Option<AllowedOrigins>,
    /// Whether an ETag that a client tells needs no question to the store.
    pub(crate) trusts_etags: bool,
    /// Whether bytes land and are read before they stay, whatever the store verifies.
    pub(crate) always_land: bool,
    /// How it serves uploads by the tus protocol.
    pub(crate) tus: TusSettings,
    /// What it shows to speak https.
    pub(crate) tls: Option<Certificate>,
    /// Where it registers its metrics; a registry of its own when left out.
    pub(crate) metrics: Option<Registry>,
    /// What it bears, where that is not the usual.
    pub(crate) door: Option<DoorArguments>,
}

/// What is to be said of a gateway's address that other machines reach and no TLS stands behind.
pub(crate) fn warning_of_the_gateway(address: SocketAddr, has_tls: bool) -> Option<String> {
    (!has_tls && !address.ip().is_loopback()).then(|| {
        format!(
            "the gateway listens on {address} without TLS: API keys are read by whoever is in between. \
             Give it --tls-cert and --tls-key, or put a proxy with a certificate before it"
        )
    })
}

/// Starts it.
pub(crate) async fn start(
    mesh: &Mesh,
    options: GatewayOptions,
    listener: TcpListener,
) -> Result<Started, Failure> {
    let broken = |error: &dyn std::fmt::Display| cannot_start("the gateway", error);
    let deps = Deps {
        ledger: mesh.ledger()?,
        ledger_for_watches: mesh.ledger()?,
        limiter: mesh.limiter_for("gateway")?,
        objects: mesh.objects()?,
        redis_url: Some(mesh.redis_url.clone()),
    };
    let mut settings = caudal_gateway::Settings::new(mesh.secret.clone());
    settings.limits = match options.door {
        Some(door) => door.over(&short_drain()),
        None => short_drain(),
    };
    if let Some(metrics) = options.metrics {
        settings.metrics = metrics;
    }
    settings.metrics_listen = mesh.metrics_listen;
    if let Some(folder) = options.web_dir {
        settings.web_dir = folder;
    }
    if let Some(origins) = options.allowed_origins {
        settings.allowed_origins = origins;
    }
    settings.trusts_etags = options.trusts_etags;
    settings.uses_final_keys = !options.always_land;
    settings.tus = options.tus;
    let is_secure = options.tls.is_some();
    settings.tls = options.tls;
    let stop = CancellationToken::new();
    let gateway = Gateway::start(settings, deps, listener, stop.clone())
        .await
        .map_err(|error| broken(&error))?;
    Ok(Started {
        address: match is_secure {
            true => reached_at(gateway.address()).replacen("http://", "https://", 1),
            false => reached_at(gateway.address()),
        },
        part: Part::new("the gateway", stop, gateway.join()),
    })
}
