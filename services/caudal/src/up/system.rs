//! Starts the parts of a system in the order in which they need each other, and stops them in the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use caudal_embedded::{DataFolder, RedisChild, RedisSettings, S3Server, S3Settings, Secrets};
use caudal_gateway::key::ApiKey;
use caudal_gateway::{Deps, Gateway};
use caudal_ledger::{Bootstrap, KeyRecord, Ledger, LedgerSettings};
use caudal_limiter::SlotLimits;
use caudal_node::{Channels, MeshSecret, ServerLimits, ServerParts, ServiceIdentity, Settings};
use caudal_objects::ObjectStore;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::failure::Failure;
use crate::up::parts::{Part, Parts};
use crate::up::plan::{Plan, Redis, S3};
use crate::up::stages::{self, Mesh};

const DEFAULT_TENANT: &str = "default";
/// A free port of this machine alone.
const LOOPBACK: &str = "127.0.0.1:0";
/// How long everything may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long each step of the end may take.
const STEP_PATIENCE: Duration = Duration::from_secs(20);
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// The line for scripts.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    gateway: String,
    api_key: String,
    operator_key: String,
    s3: String,
    redis: String,
    database: String,
    services: BTreeMap<&'static str, String>,
}

/// A system that serves.
pub(crate) struct System {
    parts: Parts,
    ready: Ready,
    /// Held until the end.
    _folder: DataFolder,
}

impl System {
    pub(crate) async fn start(plan: Plan) -> Result<Self, Failure> {
        let listener = listen(plan.listen).await?;
        let folder = DataFolder::open(&plan.data_dir)
            .map_err(|error| Failure::misconfigured(error.to_string()))?;
        let secrets = folder
            .secrets(|| Secrets::random(ApiKey::generate().text(), ApiKey::generate().text()))
            .map_err(|error| Failure::broken(error.to_string()))?;
        let secret = MeshSecret::new(secrets.mesh_secret.as_bytes())
            .map_err(|error| Failure::broken(error.to_string()))?;
        let mut parts = Parts::default();

        let store = start_store(plan.s3, &folder, &secrets, &mut parts).await?;
        let objects = ObjectStore::connect(store.clone())
            .map_err(|error| Failure::misconfigured(error.to_string()))?;
        objects.ensure_bucket().await.map_err(|error| {
            Failure::broken(format!(
                "cannot use bucket {} of {}: {error}",
                store.bucket, store.endpoint
            ))
        })?;
        let redis_url = start_redis(plan.redis, &folder, &mut parts).await?;
        let database_url = plan
            .database_url
            .unwrap_or_else(|| format!("sqlite:{}", folder.ledger().display()));
        let ledger = start_ledger(&database_url, &redis_url, &secret, &secrets, &mut parts).await?;
        let slots = SlotLimits::default().for_one_process();
        let limiter = start_limiter(slots.clone(), &secret, &mut parts).await?;

        let mesh = Mesh {
            secret: secret.clone(),
            ledger: ledger.clone(),
            limiter: limiter.clone(),
            redis_url: redis_url.clone(),
            store: store.clone(),
            slots,
            embeddings: plan.embeddings,
        };
        let mut services =
            BTreeMap::from([("ledger", ledger.clone()), ("limiter", limiter.clone())]);
        let mut stage_parts = Vec::new();
        for started in stages::start_all(&mesh).await? {
            services.insert(started.stage.name(), started.address);
            stage_parts.push(started.part);
        }
        parts.stop_first(stage_parts);

        let gateway = start_gateway(listener, &mesh, objects, &mut parts).await?;
        let addresses = services.values().chain([&gateway]);
        for address in addresses {
            until_serving(address).await?;
        }
        let ready = Ready {
            ready: true,
            gateway,
            api_key: secrets.api_key,
            operator_key: secrets.operator_key,
            s3: store.endpoint,
            redis: redis_url,
            database: database_url,
            services,
        };
        Ok(Self {
            parts,
            ready,
            _folder: folder,
        })
    }

    /// One line of JSON.
    pub(crate) fn ready_line(&self) -> String {
        // A map of texts can always be written.
        serde_json::to_string(&self.ready).unwrap_or_default()
    }

    /// Waits until a part ends that should not; says which and why.
    pub(crate) async fn a_part_ends(&mut self) -> String {
        self.parts.any_ends().await
    }

    /// Drains: the gateway first, then the stages, limiter, ledger, Redis, and the object store last.
    pub(crate) async fn stop(&mut self) {
        self.parts.stop(STEP_PATIENCE).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::misconfigured(format!(
            "cannot listen on {address}: {error}; choose another with --listen"
        ))
    })
}

async fn listen_on_loopback() -> Result<TcpListener, Failure> {
    TcpListener::bind(LOOPBACK)
        .await
        .map_err(|error| Failure::broken(format!("no free port: {error}")))
}

async fn start_store(
    plan: S3,
    folder: &DataFolder,
    secrets: &Secrets,
    parts: &mut Parts,
) -> Result<caudal_objects::Settings, Failure> {
    let (bucket, region) = match plan {
        S3::External(settings) => return Ok(*settings),
        S3::Embedded { bucket, region } => (bucket, region),
    };
    let settings = S3Settings::new(
        folder.objects(),
        &secrets.s3_access_key,
        &secrets.s3_secret_key,
        bucket.as_str(),
    );
    let stop = CancellationToken::new();
    let server = S3Server::start(settings, listen_on_loopback().await?, stop.clone())
        .await
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let mut store = caudal_objects::Settings::new(
        server.endpoint(),
        bucket,
        secrets.s3_access_key.as_str(),
        secrets.s3_secret_key.as_str(),
    );
    store.region = region;
    parts.stop_first(vec![Part::new("the object store", stop, async move {
        server.stopped().await;
        Ok::<_, Infallible>(())
    })]);
    Ok(store)
}

async fn start_redis(
    plan: Redis,
    folder: &DataFolder,
    parts: &mut Parts,
) -> Result<String, Failure> {
    let executable = match plan {
        Redis::External { url } => return Ok(url),
        Redis::Private { executable } => executable,
    };
    let settings = RedisSettings {
        executable,
        ..RedisSettings::new(folder.redis())
    };
    let child = RedisChild::start(settings)
        .await
        .map_err(|error| Failure::broken(error.to_string()))?;
    // With the name of the user spelled out: redis-cli takes an empty one for a user of that name.
    let url = child.url().replacen("redis://:", "redis://default:", 1);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    parts.stop_first(vec![Part::new("redis", stop, async move {
        stopped.cancelled().await;
        child.stop().await;
        Ok::<_, Infallible>(())
    })]);
    Ok(url)
}

async fn start_ledger(
    database_url: &str,
    redis_url: &str,
    secret: &MeshSecret,
    secrets: &Secrets,
    parts: &mut Parts,
) -> Result<String, Failure> {
    let mut settings = LedgerSettings::new(database_url, redis_url, secret.clone());
    settings.bootstrap = Some(Bootstrap {
        tenant_name: DEFAULT_TENANT.to_owned(),
        api_key: key_record(&secrets.api_key)?,
        operator_key: key_record(&secrets.operator_key)?,
    });
    let stop = CancellationToken::new();
    let ledger = Ledger::start(settings, listen_on_loopback().await?, stop.clone())
        .await
        .map_err(|error| Failure::broken(format!("cannot start the ledger: {error}")))?;
    let address = format!("http://{}", ledger.address());
    parts.stop_first(vec![Part::new("the ledger", stop, ledger.join())]);
    Ok(address)
}

fn key_record(text: &str) -> Result<KeyRecord, Failure> {
    let key: ApiKey = text.parse().map_err(|error| {
        Failure::broken(format!(
            "secrets.json of the data folder holds a broken key: {error}"
        ))
    })?;
    Ok(KeyRecord {
        id: key.id().to_owned(),
        secret_sha256: key.secret_sha256(),
    })
}

async fn start_limiter(
    slots: SlotLimits,
    secret: &MeshSecret,
    parts: &mut Parts,
) -> Result<String, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::broken(format!("cannot start the limiter: {error}"))
    };
    let settings = caudal_limiter::Settings::with_slots(slots).map_err(|error| broken(&error))?;
    let listener = listen_on_loopback().await?;
    let address = listener.local_addr().map_err(|error| broken(&error))?;
    let stop = CancellationToken::new();
    let server = Settings {
        name: "limiter".to_owned(),
        mesh_secret: secret.clone(),
        limits: short_drain(),
    };
    let server = ServerParts::new(server, listener, stop.clone());
    parts.stop_first(vec![Part::new("the limiter", stop, async move {
        caudal_limiter::serve(&settings, server).await
    })]);
    Ok(format!("http://{address}"))
}

async fn start_gateway(
    listener: TcpListener,
    mesh: &Mesh,
    objects: ObjectStore,
    parts: &mut Parts,
) -> Result<String, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::broken(format!("cannot start the gateway: {error}"))
    };
    let channel = |address: &str| {
        Channels::default()
            .channel(address)
            .map_err(|error| broken(&error))
    };
    let deps = Deps {
        ledger: channel(&mesh.ledger)?,
        ledger_for_watches: channel(&mesh.ledger)?,
        limiter: ServiceIdentity::new("gateway", &mesh.secret).channel(channel(&mesh.limiter)?),
        objects,
        redis_url: Some(mesh.redis_url.clone()),
    };
    let mut settings = caudal_gateway::Settings::new(mesh.secret.clone());
    settings.limits = short_drain();
    let stop = CancellationToken::new();
    let gateway = Gateway::start(settings, deps, listener, stop.clone())
        .await
        .map_err(|error| broken(&error))?;
    let mut address = gateway.address();
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    parts.stop_first(vec![Part::new("the gateway", stop, gateway.join())]);
    Ok(format!("http://{address}"))
}

fn short_drain() -> ServerLimits {
    ServerLimits {
        drain_deadline: DRAIN_DEADLINE,
        ..ServerLimits::default()
    }
}

/// Asks a service's health until it says that it serves.
async fn until_serving(address: &str) -> Result<(), Failure> {
    let channel = Channels::default()
        .channel(address)
        .map_err(|error| Failure::broken(error.to_string()))?;
    let mut health = HealthClient::new(channel);
    let asked = async {
        loop {
            let answer = health.check(HealthCheckRequest::default()).await;
            if answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, asked)
        .await
        .map_err(|_| {
            Failure::broken(format!(
                "the service at {address} did not serve within {} s",
                READY_WITHIN.as_secs()
            ))
        })
}
