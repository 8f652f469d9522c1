//! The limiter.

use std::net::SocketAddr;

use caudal_limiter::SlotLimits;
use caudal_node::{MeshSecret, MeshTls, ServerParts, Settings};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::provider_limits::ProviderLimits;
use crate::service::parts::Part;
use crate::service::{Started, cannot_start, listen, reached_at, short_drain};

pub(crate) async fn start(
    slots: SlotLimits,
    limits: &ProviderLimits,
    secret: &MeshSecret,
    (tls, metrics_listen): (Option<MeshTls>, Option<SocketAddr>),
    address: SocketAddr,
) -> Result<Started, Failure> {
    let broken = |error: &dyn std::fmt::Display| cannot_start("the limiter", error);
    let settings = caudal_limiter::Settings::with_slots(slots)
        .map_err(|error| broken(&error))?
        .limit_providers(limits.named());
    let listener = listen(address).await?;
    let address = listener.local_addr().map_err(|error| broken(&error))?;
    let stop = CancellationToken::new();
    let server = Settings {
        name: "limiter".to_owned(),
        mesh_secret: secret.clone(),
        limits: short_drain(),
    };
    let mut server = ServerParts::new(server, listener, stop.clone());
    server.tls = tls;
    server.metrics_listen = metrics_listen;
    let part = Part::new("the limiter", stop, async move {
        caudal_limiter::serve(&settings, server).await
    });
    Ok(Started {
        address: reached_at(address),
        part,
    })
}
