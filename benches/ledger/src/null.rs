//! A stage of the real runtime around a handler that does nothing but wait, where it is asked to, and touches no object: what
//! is left is the cost of the mesh itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use caudal_domain::{Outcome, Reason, Stage, StageVersion};
use caudal_node::{
    Channels, LeaderChannel, MeshSecret, ServerLimits, ServerParts, ServiceIdentity, Settings,
    telemetry,
};
use caudal_objects::ObjectStore;
use caudal_stage::{Dependencies, Done, Failure, Handler, Job, SlotSource, StageProcess};
use caudal_stage::{StageSettings, Usage};
use caudal_streams::{DEFAULT_PREFIX, Names, Streams};
use clap::Parser;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The first argument of a process that is such a stage.
pub(crate) const NULL_STAGE: &str = "null-stage";

const DRAIN: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(3);
/// The ending of a name that is taken for an image's.
pub(crate) const IMAGES_END: &str = "jpg";
/// Longer than a measurement.
const FAILS_FOR: Duration = Duration::from_secs(60 * 60);

/// How a stage process is started.
#[derive(Debug, Parser)]
pub(crate) struct NullStage {
    stage: Stage,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    ledger: String,
    #[arg(long)]
    limiter: String,
    #[arg(long)]
    redis_url: String,
    #[arg(long)]
    mesh_secret: String,
    #[arg(long)]
    slots: usize,
    #[arg(long)]
    prefetch: usize,
    /// Every attempt fails, and may be repeated after [`FAILS_FOR`].
    #[arg(long)]
    fails: bool,
    /// How long it waits for each file
    #[arg(long, default_value_t = 0)]
    wait_ms: u64,
}

/// Reports what takes a file along its route, that of images where its name ends so, and does nothing.
#[derive(Debug, Clone, Copy)]
struct Null {
    stage: Stage,
    fails: bool,
    wait: Duration,
}

impl Handler for Null {
    fn version(&self) -> StageVersion {
        StageVersion::new(self.stage, "null")
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        if self.fails {
            return Err(Failure {
                retry_after: Some(FAILS_FOR),
                ..Failure::new(Reason::StageTimeout, "as it was asked to")
            });
        }
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        let facts = serde_json::json!({});
        Ok(match self.stage {
            Stage::Upload => {
                let mut content = Sha256::new();
                content.update(job.file.batch.as_bytes());
                content.update(job.file.ordinal.to_be_bytes());
                Done {
                    facts,
                    content_sha256: Some(content.finalize().into()),
                    media_type: Some(media_type(&job.path).to_owned()),
                    usage: Usage {
                        bytes: job.declared_size,
                        ..Usage::default()
                    },
                    ..Done::default()
                }
            }
            Stage::ExtractText => Done {
                facts,
                has_text: true,
                ..Done::default()
            },
            Stage::Metadata => Done {
                facts,
                outcome: Some(Outcome::Complete),
                ..Done::default()
            },
            _ => Done {
                facts,
                ..Done::default()
            },
        })
    }
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, IMAGES_END)) => "image/jpeg",
        _ => "text/plain",
    }
}

/// Runs one stage until SIGTERM.
pub(crate) async fn run(arguments: NullStage) -> anyhow::Result<()> {
    let name = arguments.stage.name();
    let _telemetry = telemetry::init(&telemetry::TelemetrySettings {
        service: format!("null-{name}"),
        ..telemetry::TelemetrySettings::default()
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let secret = MeshSecret::new(arguments.mesh_secret.as_bytes())?;
    let identity = ServiceIdentity::new(name, &secret);
    let nowhere = caudal_objects::Settings::new("http://127.0.0.1:9", "none", "none", "none");
    let dependencies = Dependencies {
        ledger: identity.channel(LeaderChannel::new(&Channels::default(), &arguments.ledger)?),
        objects: ObjectStore::connect(nowhere)?,
        streams: Streams::connect(&arguments.redis_url, Names::new(DEFAULT_PREFIX))?,
        limiter: Some(SlotSource {
            channel: identity.channel(Channels::default().channel(&arguments.limiter)?),
            local_share: u32::try_from(arguments.slots)?,
        }),
    };
    let settings = StageSettings {
        prefetch: arguments.prefetch,
        drain: DRAIN,
        farewell: FAREWELL,
        ..StageSettings::fast(arguments.slots)
    };
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    let stop = CancellationToken::new();
    let server = Settings {
        name: name.to_owned(),
        mesh_secret: secret,
        limits: ServerLimits {
            drain_deadline: FAREWELL,
            ..ServerLimits::default()
        },
    };
    let server = ServerParts::new(server, listener, stop.clone());
    let handler = Null {
        stage: arguments.stage,
        fails: arguments.fails,
        wait: Duration::from_millis(arguments.wait_ms),
    };
    let process = StageProcess::start(handler, settings, dependencies, server)?;
    println!("{}", serde_json::json!({"ready": true, "service": name}));
    let waiting = process.wait();
    tokio::pin!(waiting);
    tokio::select! {
        ended = &mut waiting => ended.context("the stage ended by itself"),
        _ = terminate.recv() => {
            stop.cancel();
            Ok(waiting.await?)
        }
    }
}
