//! The services of a system, each started by one function: `caudal up` calls all of them, `caudal serve` calls one.

pub(crate) mod gateway;
pub(crate) mod ledger;
pub(crate) mod limiter;
pub(crate) mod open_files;
pub(crate) mod parts;
mod permits;
pub(crate) mod serving;
pub(crate) mod stages;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use caudal_node::channels::ChannelSettings;
use caudal_node::{
    Channels, LeaderChannel, MeshChannel, MeshSecret, MeshTls, ServerLimits, ServiceIdentity,
};
use caudal_objects::{ObjectError, ObjectStore};
use tokio::net::TcpListener;

use crate::failure::Failure;
use crate::service::parts::Part;

/// The tenant that a new installation has.
pub(crate) const DEFAULT_TENANT: &str = "default";
/// How long calls in flight may take at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// What a service finds the others with.
pub(crate) struct Mesh {
    pub(crate) secret: MeshSecret,
    /// Address of the ledger, or of several separated by commas.
    pub(crate) ledger: String,
    pub(crate) limiter: String,
    pub(crate) redis_url: String,
    pub(crate) store: caudal_objects::Settings,
    /// The certificates of the mesh.
    pub(crate) tls: Option<MeshTls>,
    /// Where the one service of this process shows its metrics.
    pub(crate) metrics_listen: Option<SocketAddr>,
}

impl Mesh {
    pub(crate) fn objects(&self) -> Result<ObjectStore, Failure> {
        ObjectStore::connect(self.store.clone())
            .map_err(|error| Failure::misconfigured(error.to_string()))
    }

    /// The active ledger, on connections of this one caller.
    fn ledger(&self) -> Result<LeaderChannel, Failure> {
        let channels = channels_to("ledger", self.tls.as_ref())?;
        LeaderChannel::new(&channels, &self.ledger)
            .map_err(|error| Failure::misconfigured(format!("--ledger: {error}")))
    }

    /// The ledger as `service` calls it.
    pub(crate) fn ledger_for(&self, service: &str) -> Result<MeshChannel, Failure> {
        Ok(ServiceIdentity::new(service, &self.secret).channel(self.ledger()?))
    }

    /// The limiter as `service` calls it.
    fn limiter_for(&self, service: &str) -> Result<MeshChannel, Failure> {
        let channel = channels_to("limiter", self.tls.as_ref())?
            .channel(&self.limiter)
            .map_err(|error| Failure::misconfigured(format!("--limiter: {error}")))?;
        Ok(ServiceIdentity::new(service, &self.secret).channel(channel))
    }
}

/// Connections to a service, of the caller's own, so that in one process it meets the limits that it would meet alone.
pub(crate) fn channels_to(service: &str, tls: Option<&MeshTls>) -> Result<Channels, Failure> {
    let tls = tls
        .map(|tls| tls.to(service))
        .transpose()
        .map_err(|error| Failure::broken(format!("no TLS to {service}: {error}")))?;
    Ok(Channels::new(ChannelSettings {
        tls,
        ..ChannelSettings::default()
    }))
}

/// A service that was started.
pub(crate) struct Started {
    /// Where it listens, as this machine reaches it.
    pub(crate) address: String,
    pub(crate) part: Part,
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::misconfigured(format!(
            "cannot listen on {address}: {error}; choose another with --listen"
        ))
    })
}

/// How this machine reaches what listens there.
fn reached_at(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{address}")
}

fn cannot_start(service: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::broken(format!("cannot start {service}: {error}"))
}

fn short_drain() -> ServerLimits {
    ServerLimits {
        drain_deadline: DRAIN_DEADLINE,
        ..ServerLimits::default()
    }
}

/// A store that is away now may come later, and whoever runs it may allow nobody to make buckets: that stops nothing. A
/// bucket that is not there, or keys that are refused, would leave every file waiting: that is an error of this process.
pub(crate) async fn use_store(
    store: &ObjectStore,
    settings: &caudal_objects::Settings,
) -> Result<(), Failure> {
    let made = store.ensure_bucket().await;
    // Whoever may not look at the bucket may still be allowed to write into it.
    let Err(error) = (match made {
        Ok(()) => Ok(()),
        Err(_) => {
            store
                .probe(&format!("probe/start/{}", std::process::id()))
                .await
        }
    }) else {
        return Ok(());
    };
    let (bucket, endpoint) = (&settings.bucket, &settings.endpoint);
    if let ObjectError::Refused { .. } = &error {
        return Err(Failure::misconfigured(format!(
            "the object store at {endpoint} does not take bucket {bucket} with this access key: {error}; \
             check --s3-bucket, --s3-access-key and its secret key, or make the bucket"
        )));
    }
    tracing::warn!(bucket, endpoint, %error, "the object store cannot be used now, files wait for it");
    Ok(())
}
