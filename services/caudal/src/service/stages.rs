//! The five stages: how each handler is made, and how its process is started. A new stage is one arm here and one line
//! below.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::Stage;
use caudal_embeddings::{EmbeddingsSettings, EmbeddingsStage};
use caudal_extract_text::ExtractText;
use caudal_image_processing::ImageProcessing;
use caudal_metadata::Metadata;
use caudal_node::{ServerLimits, ServerParts, Settings};
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
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::service::parts::Part;
use crate::service::permits::LimiterPermits;
use crate::service::{Mesh, Started, cannot_start, listen, reached_at};

/// The running program, whatever has become of its file since.
const THIS_EXECUTABLE: &str = "/proc/self/exe";
/// At the end: how long handlers may take, and after that reports and farewells.
const DRAIN: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(3);

const UPLOAD_SLOTS: usize = 32;
const EMBEDDINGS_SLOTS: usize = 2;
const METADATA_SLOTS: usize = 64;

/// How one stage process works.
pub(crate) struct StageOptions {
    /// Files handled at once; the stage's usual number when left out.
    pub(crate) slots: Option<usize>,
    /// How many of them while the limiter is away; all when left out.
    pub(crate) local_slots: Option<u32>,
    /// How long after its result was recorded a landing object may be freed. Looked at by the upload stage only.
    pub(crate) landing_delay: Duration,
    /// Looked at by the embeddings stage only.
    pub(crate) embeddings: EmbeddingSettings,
}

/// Starts the process of one stage.
pub(crate) async fn start(
    stage: Stage,
    options: StageOptions,
    mesh: &Mesh,
    address: SocketAddr,
) -> Result<Started, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    let start = Start {
        stage,
        local_slots: options.local_slots,
        mesh,
        address,
    };
    let slots = |usual| options.slots.unwrap_or(usual);
    match stage {
        Stage::Upload => {
            let settings = StageSettings {
                landing_delay: options.landing_delay,
                ..StageSettings::fast(slots(UPLOAD_SLOTS))
            };
            start.process(Upload, settings).await
        }
        Stage::ExtractText => {
            let sandbox = sandbox().map_err(Failure::broken)?;
            let extract_text = ExtractText::new(&sandbox, caudal_extract_text::Settings::default());
            let usual = (cores * 2).clamp(8, 32);
            start
                .process(extract_text, StageSettings::fast(slots(usual)))
                .await
        }
        Stage::Embeddings => {
            let permits = LimiterPermits::new(stage.name(), mesh.limiter_for(stage.name())?);
            let embeddings = embeddings(options.embeddings, Arc::new(permits))
                .map_err(Failure::misconfigured)?;
            start
                .process(embeddings, StageSettings::slow(slots(EMBEDDINGS_SLOTS)))
                .await
        }
        Stage::ImageProcessing => {
            let sandbox = sandbox().map_err(Failure::broken)?;
            let images =
                ImageProcessing::new(&sandbox, caudal_image_processing::Settings::default());
            let usual = cores.clamp(2, 16);
            start
                .process(images, StageSettings::slow(slots(usual)))
                .await
        }
        Stage::Metadata => {
            start
                .process(Metadata, StageSettings::fast(slots(METADATA_SLOTS)))
                .await
        }
    }
}

/// What is the same for every stage.
struct Start<'a> {
    stage: Stage,
    local_slots: Option<u32>,
    mesh: &'a Mesh,
    address: SocketAddr,
}

impl Start<'_> {
    async fn process<H: Handler>(
        self,
        handler: H,
        settings: StageSettings,
    ) -> Result<Started, Failure> {
        let name = self.stage.name();
        let broken = |error: &dyn std::fmt::Display| cannot_start(name, error);
        let slots = u32::try_from(settings.slots).unwrap_or(u32::MAX);
        let dependencies = Dependencies {
            ledger: self.mesh.ledger_for(name)?,
            objects: self.mesh.objects()?,
            streams: Streams::connect(&self.mesh.redis_url, Names::new(DEFAULT_PREFIX))
                .map_err(|error| broken(&error))?,
            limiter: Some(SlotSource {
                channel: self.mesh.limiter_for(name)?,
                local_share: self.local_slots.unwrap_or(slots),
            }),
        };
        let settings = StageSettings {
            drain: DRAIN,
            farewell: FAREWELL,
            solo: Some(SoloSettings {
                executable: PathBuf::from(THIS_EXECUTABLE),
                config: serde_json::to_value(SoloConfig::of(&self.mesh.store))
                    .map_err(|error| broken(&error))?,
            }),
            ..settings
        };
        let listener = listen(self.address).await?;
        let address = listener.local_addr().map_err(|error| broken(&error))?;
        let stop = CancellationToken::new();
        let server = Settings {
            name: name.to_owned(),
            mesh_secret: self.mesh.secret.clone(),
            limits: ServerLimits {
                drain_deadline: FAREWELL,
                ..ServerLimits::default()
            },
        };
        let server = ServerParts::new(server, listener, stop.clone());
        let process = StageProcess::start(handler, settings, dependencies, server)
            .map_err(|error| broken(&error))?;
        Ok(Started {
            address: reached_at(address),
            part: Part::new(name, stop, process.wait()),
        })
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
            start: |config| solo(config, |_| async { Ok(Upload) }),
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
