//! Ledger, gateway, limiter and the check of invariants as the product's binary starts them, without the libraries of its
//! stages: this program is built sooner, which is what counts while one tunes the ledger.

use std::net::SocketAddr;

use anyhow::ensure;
use caudal_domain::Stage;
use caudal_gateway::key::ApiKey;
use caudal_gateway::{Deps, Gateway};
use caudal_ledger::{Bootstrap, KeyRecord, Ledger, LedgerSettings};
use caudal_limiter::SlotLimits;
use caudal_node::{
    Channels, LeaderChannel, MeshSecret, ServerLimits, ServerParts, ServiceIdentity, Settings,
    telemetry,
};
use caudal_objects::ObjectStore;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The first argument of a process that is such a service.
pub(crate) const SLIM: &str = "slim";

/// Which service, and what it needs.
#[derive(Debug, Parser)]
pub(crate) struct Slim {
    service: String,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    mesh_secret: String,
    #[arg(long)]
    ledger: String,
    #[arg(long)]
    limiter: String,
    #[arg(long)]
    redis_url: String,
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    api_key: String,
    #[arg(long)]
    operator_key: String,
    #[arg(long)]
    window: Option<u32>,
}

/// Runs one service until SIGTERM.
pub(crate) async fn run(arguments: Slim) -> anyhow::Result<()> {
    let name = arguments.service.as_str();
    let _telemetry = telemetry::init(&telemetry::TelemetrySettings {
        service: format!("slim-{name}"),
        ..telemetry::TelemetrySettings::default()
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(arguments.listen).await?;
    let stop = CancellationToken::new();
    let ended: std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>> = match name {
        "ledger" => {
            let ledger = Ledger::start(ledger(&arguments)?, listener, stop.clone()).await?;
            Box::pin(async { Ok(ledger.join().await?) })
        }
        "gateway" => {
            let (settings, deps) = gateway(&arguments)?;
            let gateway = Gateway::start(settings, deps, listener, stop.clone()).await?;
            Box::pin(async { Ok(gateway.join().await?) })
        }
        _ => {
            let settings = caudal_limiter::Settings::with_slots(SlotLimits::default())?;
            let server = Settings {
                name: "limiter".to_owned(),
                mesh_secret: secret(&arguments)?,
                limits: ServerLimits::default(),
            };
            let server = ServerParts::new(server, listener, stop.clone());
            Box::pin(async move { Ok(caudal_limiter::serve(&settings, server).await?) })
        }
    };
    println!("{}", serde_json::json!({"ready": true, "service": name}));
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => ended,
        _ = terminate.recv() => {
            stop.cancel();
            ended.await
        }
    }
}

fn secret(arguments: &Slim) -> anyhow::Result<MeshSecret> {
    Ok(MeshSecret::new(arguments.mesh_secret.as_bytes())?)
}

fn ledger(arguments: &Slim) -> anyhow::Result<LedgerSettings> {
    let record = |text: &str| -> anyhow::Result<KeyRecord> {
        let key: ApiKey = text.parse()?;
        Ok(KeyRecord {
            id: key.id().to_owned(),
            secret_sha256: key.secret_sha256(),
        })
    };
    let mut settings = LedgerSettings::new(
        &arguments.database_url,
        &arguments.redis_url,
        secret(arguments)?,
    );
    if let Some(window) = arguments.window {
        settings
            .windows
            .set(Stage::ALL.map(|stage| (stage, window)));
    }
    settings.bootstrap = Some(Bootstrap {
        tenant_name: "default".to_owned(),
        api_key: record(&arguments.api_key)?,
        operator_key: record(&arguments.operator_key)?,
    });
    Ok(settings)
}

fn gateway(arguments: &Slim) -> anyhow::Result<(caudal_gateway::Settings, Deps)> {
    let secret = secret(arguments)?;
    let ledger = || LeaderChannel::new(&Channels::default(), &arguments.ledger);
    let limiter = Channels::default().channel(&arguments.limiter)?;
    let nowhere = caudal_objects::Settings::new("http://127.0.0.1:9", "none", "none", "none");
    let deps = Deps {
        ledger: ledger()?,
        ledger_for_watches: ledger()?,
        limiter: ServiceIdentity::new("gateway", &secret).channel(limiter),
        objects: ObjectStore::connect(nowhere)?,
        redis_url: Some(arguments.redis_url.clone()),
    };
    let mut settings = caudal_gateway::Settings::new(secret);
    // Nothing ever landed in the store that is nowhere.
    settings.trusts_etags = true;
    Ok((settings, deps))
}

/// Checks every invariant, as `caudal verify` does.
pub(crate) async fn verify(
    database_url: &str,
    redis_url: Option<&str>,
    files: u32,
) -> anyhow::Result<()> {
    let report = caudal_ledger::verify(database_url, redis_url, None).await?;
    let words: Vec<&str> = report
        .violations
        .iter()
        .map(|violation| violation.words.as_str())
        .take(5)
        .collect();
    ensure!(report.holds(), "{}", words.join("; "));
    ensure!(
        report.files == u64::from(files),
        "there should be {files} files, not {}",
        report.files
    );
    Ok(())
}
