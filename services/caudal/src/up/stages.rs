//! The five stages: how each handler is made, and how its process is started. A new stage is one line in each list.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::Stage;
use caudal_embeddings::{EmbeddingsSettings, EmbeddingsStage};
use caudal_extract_text::ExtractText;
use caudal_image_processing::ImageProcessing;
use caudal_limiter::SlotLimits;
use caudal_metadata::Metadata;
use caudal_node::{Channels, MeshSecret, ServerLimits, ServerParts, ServiceIdentity, Settings};
use caudal_objects::ObjectStore;
use caudal_providers::{EmbeddingProvider, EmbeddingSettings, ProviderPermits, Unlimited};
use caudal_stage::sandbox::{Limits, Sandbox};
use caudal_stage::{
    Dependencies, Handler, SlotSource, Solo, SoloSettings, SoloStage, SoloStart, StageProcess,
    StageSettings,
};
use caudal_streams::{DEFAULT_PREFIX, Names, Streams};
use caudal_upload::Upload;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::up::parts::Part;
use crate::up::permits::LimiterPermits;

/// The running program, whatever has become of its file since.
const THIS_EXECUTABLE: &str = "/proc/self/exe";
/// At the end: how long handlers may take, and after that reports and farewells.
const DRAIN: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(3);

const UPLOAD_SLOTS: usize = 32;
const EMBEDDINGS_SLOTS: usize = 2;
const METADATA_SLOTS: usize = 64;

/// What every stage process is given.
pub(crate) struct Mesh {
    pub(crate) secret: MeshSecret,
    pub(crate) ledger: String,
    pub(crate) limiter: String,
    pub(crate) redis_url: String,
    pub(crate) store: caudal_objects::Settings,
    pub(crate) slots: SlotLimits,
    pub(crate) embeddings: EmbeddingSettings,
}

/// A stage that runs.
pub(crate) struct Started {
    pub(crate) stage: Stage,
    pub(crate) address: String,
    pub(crate) part: Part,
}

/// Starts all of them.
pub(crate) async fn start_all(mesh: &Mesh) -> Result<Vec<Started>, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    let permits = LimiterPermits::new("embeddings", mesh.channel("embeddings", &mesh.limiter)?);
    let embeddings =
        embeddings(mesh.embeddings.clone(), Arc::new(permits)).map_err(Failure::misconfigured)?;
    let sandbox = sandbox().map_err(Failure::broken)?;
    let extract_text = ExtractText::new(&sandbox, caudal_extract_text::Settings::default());
    let images = ImageProcessing::new(&sandbox, caudal_image_processing::Settings::default());
    Ok(vec![
        mesh.start(
            Upload::new(mesh.objects()?),
            StageSettings::fast(UPLOAD_SLOTS),
        )
        .await?,
        mesh.start(extract_text, StageSettings::fast((cores * 2).clamp(8, 32)))
            .await?,
        mesh.start(embeddings, StageSettings::slow(EMBEDDINGS_SLOTS))
            .await?,
        mesh.start(images, StageSettings::slow(cores.clamp(2, 16)))
            .await?,
        mesh.start(Metadata, StageSettings::fast(METADATA_SLOTS))
            .await?,
    ])
}

impl Mesh {
    async fn start<H: Handler>(
        &self,
        handler: H,
        settings: StageSettings,
    ) -> Result<Started, Failure> {
        let stage = handler.version().stage;
        let broken = |error: &dyn std::fmt::Display| {
            Failure::broken(format!("cannot start {stage}: {error}"))
        };
        let slots = self.slots.of(stage);
        let dependencies = Dependencies {
            ledger: self.channel(stage.name(), &self.ledger)?,
            objects: self.objects()?,
            streams: Streams::connect(&self.redis_url, Names::new(DEFAULT_PREFIX))
                .map_err(|error| broken(&error))?,
            limiter: Some(SlotSource {
                channel: self.channel(stage.name(), &self.limiter)?,
                local_share: slots,
            }),
        };
        let settings = StageSettings {
            drain: DRAIN,
            farewell: FAREWELL,
            solo: Some(SoloSettings {
                executable: PathBuf::from(THIS_EXECUTABLE),
                config: serde_json::to_value(SoloConfig::of(&self.store))
                    .map_err(|error| broken(&error))?,
            }),
            ..settings
        };
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|error| broken(&error))?;
        let address = listener.local_addr().map_err(|error| broken(&error))?;
        let stop = CancellationToken::new();
        let server = Settings {
            name: stage.name().to_owned(),
            mesh_secret: self.secret.clone(),
            limits: ServerLimits {
                drain_deadline: FAREWELL,
                ..ServerLimits::default()
            },
        };
        let server = ServerParts::new(server, listener, stop.clone());
        let process = StageProcess::start(handler, settings, dependencies, server)
            .map_err(|error| broken(&error))?;
        Ok(Started {
            stage,
            address: format!("http://{address}"),
            part: Part::new(stage.name(), stop, process.wait()),
        })
    }

    fn objects(&self) -> Result<ObjectStore, Failure> {
        ObjectStore::connect(self.store.clone())
            .map_err(|error| Failure::misconfigured(error.to_string()))
    }

    /// A connection of one service's own, so that it meets the limits it would meet as a process of its own.
    fn channel(&self, service: &str, address: &str) -> Result<caudal_node::MeshChannel, Failure> {
        let channel = Channels::default()
            .channel(address)
            .map_err(|error| Failure::broken(error.to_string()))?;
        Ok(ServiceIdentity::new(service, &self.secret).channel(channel))
    }
}

/// What a process for one suspect file must know. It travels through a pipe.
#[derive(Serialize, Deserialize)]
struct SoloConfig {
    endpoint: String,
    public_endpoint: Option<String>,
    region: String,
    bucket: String,
    access_key: String,
    secret_key: String,
}

impl SoloConfig {
    fn of(store: &caudal_objects::Settings) -> Self {
        Self {
            endpoint: store.endpoint.clone(),
            public_endpoint: store.public_endpoint.clone(),
            region: store.region.clone(),
            bucket: store.bucket.clone(),
            access_key: store.access_key.clone(),
            secret_key: store.secret_key.clone(),
        }
    }

    fn store(self) -> Result<ObjectStore, String> {
        let mut settings = caudal_objects::Settings::new(
            self.endpoint,
            self.bucket,
            self.access_key,
            self.secret_key,
        );
        settings.region = self.region;
        settings.public_endpoint = self.public_endpoint;
        ObjectStore::connect(settings).map_err(|error| error.to_string())
    }
}

/// When this process was started for one suspect file, handles it and exits.
pub(crate) fn run_solo_if_asked() {
    caudal_stage::run_solo_if_asked(&[
        SoloStage {
            stage: Stage::Upload,
            start: |config| solo(config, |objects| async { Ok(Upload::new(objects)) }),
        },
        SoloStage {
            stage: Stage::ExtractText,
            start: |config| solo(config, |_| solo_extract_text()),
        },
        SoloStage {
            stage: Stage::Embeddings,
            start: |config| solo(config, |_| solo_embeddings()),
        },
        SoloStage {
            stage: Stage::ImageProcessing,
            start: |config| solo(config, |_| solo_images()),
        },
        SoloStage {
            stage: Stage::Metadata,
            start: |config| solo(config, |_| async { Ok(Metadata) }),
        },
    ]);
}

fn solo<H, Made>(
    config: serde_json::Value,
    make: impl FnOnce(ObjectStore) -> Made + Send + 'static,
) -> SoloStart
where
    H: Handler,
    Made: Future<Output = Result<H, String>> + Send,
{
    Box::pin(async move {
        let config: SoloConfig =
            serde_json::from_value(config).map_err(|error| error.to_string())?;
        let store = config.store()?;
        Ok(Solo::new(make(store.clone()).await?, store))
    })
}

async fn solo_extract_text() -> Result<ExtractText, String> {
    Ok(ExtractText::new(
        &sandbox()?,
        caudal_extract_text::Settings::default(),
    ))
}

async fn solo_images() -> Result<ImageProcessing, String> {
    Ok(ImageProcessing::new(
        &sandbox()?,
        caudal_image_processing::Settings::default(),
    ))
}

async fn solo_embeddings() -> Result<EmbeddingsStage, String> {
    let settings = EmbeddingSettings::from_variables(|name| std::env::var(name).ok())
        .map_err(|error| error.to_string())?;
    embeddings(settings, Arc::new(Unlimited))
}

fn embeddings(
    settings: EmbeddingSettings,
    permits: Arc<dyn ProviderPermits>,
) -> Result<EmbeddingsStage, String> {
    let provider = EmbeddingProvider::new(settings, permits).map_err(|error| error.to_string())?;
    Ok(EmbeddingsStage::new(
        provider,
        EmbeddingsSettings::default(),
    ))
}

/// Each handler sets limits of its own on it.
fn sandbox() -> Result<Sandbox, String> {
    let limits = Limits {
        memory: 512 << 20,
        cpu: Duration::from_secs(30),
        wall: Duration::from_secs(60),
        output: 16 << 20,
    };
    Sandbox::of_this_executable(limits)
        .map_err(|error| format!("no child processes for parsers: {error}"))
}
