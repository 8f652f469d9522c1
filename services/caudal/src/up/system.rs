//! Starts the parts of a system in the order in which they need each other; they are stopped in the other: the gateway
//! first, then the stages, limiter, ledger, Redis, and the object store last.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use caudal_domain::{Stage, shown_address};
use caudal_embedded::{
    DataFolder, OnRequest, RedisChild, RedisSettings, S3Server, S3Settings, Secrets,
};
use caudal_gateway::key::ApiKey;
use caudal_ledger::{Bootstrap, LedgerSettings};
use caudal_limiter::SlotLimits;
use caudal_node::{Channels, MeshSecret, Registry};
use caudal_objects::{InProcess, ObjectStore};
use caudal_proto::mesh::v1::CheckCredentialRequest;
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::service::gateway::GatewayOptions;
use crate::service::parts::{Part, Parts};
use crate::service::serving::{Serving, until_serving};
use crate::service::stages::StageOptions;
use crate::service::{self, DEFAULT_TENANT, Mesh, listen};
use crate::up::plan::{Plan, Redis, S3};

/// A free port of this machine alone.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The line for scripts.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    gateway: String,
    /// `null` when it is not good any more.
    api_key: Option<String>,
    /// The same.
    operator_key: Option<String>,
    s3: String,
    redis: String,
    database: String,
    services: BTreeMap<&'static str, String>,
}

/// Starts everything.
pub(crate) async fn start(plan: Plan) -> Result<Serving, Failure> {
    let listener = listen(plan.listen).await?;
    let folder = DataFolder::open(&plan.data_dir)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let secrets = folder
        .secrets(|| Secrets::random(ApiKey::generate().text(), ApiKey::generate().text()))
        .map_err(|error| Failure::broken(error.to_string()))?;
    let secret = MeshSecret::new(secrets.mesh_secret.as_bytes())
        .map_err(|error| Failure::broken(error.to_string()))?;
    let mut parts = Parts::default();

    let metrics = Registry::new("gateway");
    let store = start_store(plan.s3, &folder, &secrets, &metrics, &mut parts).await?;
    let objects = ObjectStore::connect(store.clone())
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    service::use_store(&objects, &store).await?;
    let redis_url = start_redis(plan.redis, &folder, &mut parts).await?;
    let database_url = plan
        .database_url
        .unwrap_or_else(|| format!("sqlite:{}", folder.ledger().display()));
    let mut settings = LedgerSettings::new(&database_url, &redis_url, secret.clone());
    settings.bootstrap = Some(bootstrap(&secrets)?);
    settings.objects = Some(store.clone());
    let ledger = service::ledger::start(settings, LOOPBACK).await?;
    parts.stop_first(vec![ledger.part]);
    // It lives and dies with all stages.
    let slots = SlotLimits::default().for_one_process();
    let limits = &plan.provider_limits;
    let limiter = service::limiter::start(slots, limits, &secret, (None, None), LOOPBACK).await?;
    parts.stop_first(vec![limiter.part]);

    let mesh = Mesh {
        secret,
        ledger: ledger.address.clone(),
        limiter: limiter.address.clone(),
        redis_url: redis_url.clone(),
        store: store.clone(),
        tls: None,
        metrics_listen: None,
    };
    let mut services = BTreeMap::from([("ledger", ledger.address), ("limiter", limiter.address)]);
    let mut stage_parts = Vec::new();
    for stage in Stage::ALL {
        let options = StageOptions {
            slots: None,
            local_slots: None,
            provider_limits: plan.provider_limits.clone(),
            landing_delay: plan.landing_delay,
            embeddings: plan.embeddings.clone(),
            images: plan.images.clone(),
        };
        let started = service::stages::start(stage, options, &mesh, LOOPBACK).await?;
        services.insert(stage.name(), started.address);
        stage_parts.push(started.part);
    }
    parts.stop_first(stage_parts);

    let options = GatewayOptions {
        tus: plan.tus,
        tls: plan.tls,
        door: Some(plan.door),
        always_land: plan.always_land,
        metrics: Some(metrics),
        ..GatewayOptions::default()
    };
    let mesh = Mesh {
        metrics_listen: plan.metrics_listen,
        ..mesh
    };
    let gateway = service::gateway::start(&mesh, options, listener).await?;
    parts.stop_first(vec![gateway.part]);
    let channels = Channels::default();
    for address in services.values().chain([&gateway.address]) {
        until_serving(address, &channels).await?;
    }
    let first_keys = FirstKeys {
        api_key: still_good(&mesh, secrets.api_key).await?,
        operator_key: still_good(&mesh, secrets.operator_key).await?,
    };
    let words = words_of(&gateway.address, &first_keys);
    let ready = Ready {
        ready: true,
        gateway: gateway.address,
        api_key: first_keys.api_key,
        operator_key: first_keys.operator_key,
        s3: store.endpoint,
        redis: shown_address(&redis_url),
        database: shown_address(&database_url),
        services,
    };
    Ok(Serving {
        parts,
        words,
        // A map of texts can always be written.
        ready_line: serde_json::to_string(&ready).unwrap_or_default(),
        folder: Some(folder),
    })
}

/// The keys that the installation came with, as long as they are good.
struct FirstKeys {
    api_key: Option<String>,
    operator_key: Option<String>,
}

/// The key, unless it was revoked or replaced, or its tenant closed.
async fn still_good(mesh: &Mesh, text: String) -> Result<Option<String>, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::broken(format!(
            "cannot tell whether the first keys are good: {error}"
        ))
    };
    let key = text.parse::<ApiKey>().map_err(|error| broken(&error))?;
    let asked = CheckCredentialRequest {
        key_id: key.id().to_owned(),
        secret_sha256: key.secret_sha256().to_vec().into(),
        only_asked: true,
    };
    let mut ledger = LedgerServiceClient::new(mesh.ledger_for("gateway")?);
    match ledger.check_credential(asked).await {
        Ok(_) => Ok(Some(text)),
        Err(status) if status.code() == tonic::Code::Unauthenticated => Ok(None),
        Err(status) => Err(broken(&status.message())),
    }
}

/// What a person reads: where the page is, and with what it opens.
fn words_of(gateway: &str, keys: &FirstKeys) -> String {
    let page = match &keys.api_key {
        Some(key) => format!("{gateway}/#key={key}"),
        None => gateway.to_owned(),
    };
    let api_key = match &keys.api_key {
        Some(key) => format!("{key}  (an admin's of the first tenant)"),
        None => "the first one is not good any more: use the one that replaced it, or have an operator make one by\n  \
                                 `caudal keys create NAME --role admin --tenant TENANT`"
            .to_owned(),
    };
    let operator = match &keys.operator_key {
        Some(key) => key.clone(),
        None => "the first one is not good any more: use the one that replaced it".to_owned(),
    };
    let key = keys.api_key.as_deref().unwrap_or("KEY");
    format!(
        "Caudal is up; Ctrl-C ends it, and nothing is lost.\n\n  \
         page            {page}\n  \
         gateway         {gateway}\n  \
         API key         {api_key}\n  \
         operator's key  {operator}\n\n\
         Whoever has a key may use it: keep this to yourself. Send a folder with\n  \
         caudal ingest FOLDER --gateway {gateway} --api-key {key}\n",
    )
}

async fn start_store(
    plan: S3,
    folder: &DataFolder,
    secrets: &Secrets,
    metrics: &Registry,
    parts: &mut Parts,
) -> Result<caudal_objects::Settings, Failure> {
    let (bucket, region, at, public_endpoint) = match plan {
        S3::External(settings) => return Ok(*settings),
        S3::Embedded {
            bucket,
            region,
            listen,
            public_endpoint,
        } => (bucket, region, listen, public_endpoint),
    };
    let listener = folder
        .store_listener(at)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|error| Failure::broken(format!("cannot start the object store: {error}")))?;
    let settings = S3Settings {
        on_request: counted_by(metrics),
        ..S3Settings::new(
            folder.objects(),
            &secrets.s3_access_key,
            &secrets.s3_secret_key,
            bucket.as_str(),
        )
    };
    let stop = CancellationToken::new();
    let server = S3Server::start(settings, listener, stop.clone())
        .await
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let mut store = caudal_objects::Settings::new(
        server.endpoint(),
        bucket,
        secrets.s3_access_key.as_str(),
        secrets.s3_secret_key.as_str(),
    );
    store.region = region;
    store.public_endpoint = public_endpoint;
    // It is this process that listens, and nothing leaves the machine on the way to it.
    store.trusts_network = true;
    store.in_process = Some(InProcess::new(server.door()));
    ObjectStore::connect(store.clone())
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    parts.stop_first(vec![Part::new("the object store", stop, async move {
        server.stopped().await;
        Ok::<_, Infallible>(())
    })]);
    Ok(store)
}

/// Counts the store's requests by method.
fn counted_by(metrics: &Registry) -> OnRequest {
    let requests = metrics.counters(
        "embedded_store_requests",
        "Requests that the embedded object store took",
        ["method"],
    );
    let methods = ["GET", "HEAD", "PUT", "POST", "DELETE"];
    let known = methods.map(|method| (method, requests.with([method])));
    OnRequest::tell(move |came| {
        if let Some((_, counter)) = known.iter().find(|(method, _)| *method == came) {
            counter.inc();
        }
    })
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
    folder
        .keep_redis_url(&url)
        .map_err(|error| Failure::broken(error.to_string()))?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    parts.stop_first(vec![Part::new("redis", stop, async move {
        stopped.cancelled().await;
        child.stop().await;
        Ok::<_, Infallible>(())
    })]);
    Ok(url)
}

fn bootstrap(secrets: &Secrets) -> Result<Bootstrap, Failure> {
    let record = |text: &str| {
        text.parse::<ApiKey>()
            .map(|key| service::ledger::key_record(&key))
            .map_err(|error| {
                Failure::broken(format!(
                    "secrets.json of the data folder holds a broken key: {error}"
                ))
            })
    };
    Ok(Bootstrap {
        tenant_name: DEFAULT_TENANT.to_owned(),
        api_key: record(&secrets.api_key)?,
        operator_key: record(&secrets.operator_key)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_not_good_any_more_are_not_shown() {
        let keys = FirstKeys {
            api_key: Some("caudal_a".to_owned()),
            operator_key: Some("caudal_o".to_owned()),
        };
        let words = words_of("http://h", &keys);
        assert!(words.contains("http://h/#key=caudal_a") && words.contains("caudal_o"));
        let none = FirstKeys {
            api_key: None,
            operator_key: None,
        };
        let words = words_of("http://h", &none);
        assert_eq!(words.matches("not good any more").count(), 2, "{words}");
        assert!(!words.contains("#key="), "{words}");
    }
}
