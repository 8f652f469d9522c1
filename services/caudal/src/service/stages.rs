//! The stages of this executable: a line in [`registered`] makes one a service, alone or in `caudal up`, and a process of
//! its own for a suspect file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::Stage;
use caudal_embeddings::{EmbeddingsSettings, EmbeddingsStage};
use caudal_extract_text::ExtractText;
use caudal_image_processing::{ImageProcessing, ImageProviders};
use caudal_metadata::Metadata;
use caudal_node::{Registry, ServerLimits, ServerParts, Settings};
use caudal_objects::ObjectStore;
use caudal_providers::{
    Captions, EmbeddingProvider, EmbeddingSettings, ImageSettings, PictureVectors, ProviderPermits,
    SettingsError, Unlimited,
};
use caudal_stage::sandbox::{CHILDREN_OF_ONE_HOST, Limits, Parser, Preparation, Sandbox, Walls};
use caudal_stage::{
    AnyHandler, Dependencies, Handler, Provider, SlotSource, Solo, SoloSettings, StageProcess,
    StageSettings,
};
use caudal_streams::{DEFAULT_PREFIX, Names, Streams};
use caudal_upload::Upload;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::provider_limits::ProviderLimits;
use crate::service::parts::Part;
use crate::service::permits::{LimiterPermits, ProviderMetrics};
use crate::service::{Mesh, Started, cannot_start, listen, reached_at};

/// The running program, whatever has become of its file since.
const THIS_EXECUTABLE: &str = "/proc/self/exe";
/// The environment variable that says how many files are read in the children of one parser host.
const CHILDREN_OF_ONE_HOST_VARIABLE: &str = "CAUDAL_CHILDREN_OF_ONE_PARSER_HOST";
/// The environment variable that says whether a stage that reads files does without a wall that this machine does not have.
const REQUIRE_SANDBOX_VARIABLE: &str = "CAUDAL_REQUIRE_SANDBOX";
/// Files that one process embeds at once with a remote provider: while a request is under way, the next is filled by them.
const REMOTE_EMBEDDING_SLOTS: usize = 128;
/// Files of which one process waits for what providers say of them. How many are decoded at once does not follow it.
const SHOWN_PICTURE_SLOTS: usize = 64;
/// A file waits inside its handler for its turn with the provider.
const PROVIDED_WITHIN: Duration = Duration::from_secs(3_600);
/// At the end: how long handlers may take, and after that reports and farewells.
const DRAIN: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(3);

/// How each stage is run here: at which pace, how many files at once by the number of cores, and made of what.
fn registered(stage: Stage) -> Registration {
    match stage {
        Stage::Upload => fast(|_cores| 32, |_| Ok(Upload)),
        Stage::ExtractText => fast(|cores| (2 * cores).clamp(8, 32), extract_text)
            .parses_with(caudal_extract_text::PARSERS)
            .prepares_with(caudal_extract_text::PREPARATIONS),
        // Beside the one that is computed, enough to fill the next; a long text has minutes, and so have those before it.
        Stage::Embeddings => slow(|_cores| 16, embeddings).within(PROVIDED_WITHIN),
        Stage::ImageProcessing => slow(|cores| cores.clamp(2, 16), image_processing)
            .parses_with(caudal_image_processing::PARSERS),
        Stage::Metadata => fast(|_cores| 64, |_| Ok(Metadata)),
    }
}

fn extract_text(_: &Ingredients<'_>) -> Result<ExtractText, Failure> {
    let settings =
        caudal_extract_text::Settings::default().with_pdf_library(|name| std::env::var_os(name));
    Ok(ExtractText::new(&sandbox()?, settings))
}

fn image_processing(with: &Ingredients<'_>) -> Result<ImageProcessing, Failure> {
    let settings = caudal_image_processing::Settings::default();
    let providers = (with.image_providers)()?;
    Ok(ImageProcessing::new(&sandbox()?, settings).with_providers(providers))
}

fn embeddings(with: &Ingredients<'_>) -> Result<EmbeddingsStage, Failure> {
    let settings = EmbeddingsSettings::default();
    Ok(EmbeddingsStage::new((with.embedding_provider)()?, settings))
}

/// Each handler sets limits of its own on it.
fn sandbox() -> Result<Sandbox, Failure> {
    let limits = Limits {
        memory: 512 << 20,
        cpu: Duration::from_secs(30),
        wall: Duration::from_secs(60),
        output: 16 << 20,
    };
    let children = match std::env::var(CHILDREN_OF_ONE_HOST_VARIABLE) {
        Ok(children) => children.parse().map_err(|_| {
            Failure::misconfigured(format!(
                "{CHILDREN_OF_ONE_HOST_VARIABLE} is no number of children: {children}"
            ))
        })?,
        Err(_) => CHILDREN_OF_ONE_HOST,
    };
    let sandbox = Sandbox::of_this_executable(limits)
        .map_err(|error| Failure::broken(format!("no child processes for parsers: {error}")))?;
    Ok(sandbox.with_children_of_one_host(children))
}

/// Finds out, once, which walls stand around those that read files, and says so: in the log, and in the metrics.
async fn look_at_the_walls(stage: &'static str, metrics: &Registry) -> Result<(), Failure> {
    let is_required = match std::env::var(REQUIRE_SANDBOX_VARIABLE).as_deref() {
        Ok("true" | "1") => true,
        Ok("false" | "0" | "") | Err(_) => false,
        Ok(other) => {
            return Err(Failure::misconfigured(format!(
                "{REQUIRE_SANDBOX_VARIABLE} is true or false, not {other}"
            )));
        }
    };
    let walls = sandbox()?.with_children_of_one_host(0).walls().await;
    let walls = walls.map_err(|failure| {
        Failure::broken(format!("no child process for parsers: {}", failure.detail))
    })?;
    let told = metrics.gauges(
        "sandbox_walls",
        "1 where a wall stands around the processes that read files",
        ["wall"],
    );
    for (wall, stands) in walls.all() {
        told.with([wall]).set(i64::from(stands));
    }
    let missing = walls.missing();
    if missing.is_empty() {
        tracing::info!(
            stage,
            "all walls stand around the processes that read files"
        );
    } else {
        tracing::warn!(
            stage,
            missing = missing.join(", "),
            "walls around the processes that read files are missing on this machine"
        );
    }
    required(walls, is_required)
}

fn required(walls: Walls, is_required: bool) -> Result<(), Failure> {
    let missing = walls.missing();
    if !is_required || missing.is_empty() {
        return Ok(());
    }
    Err(Failure::misconfigured(format!(
        "{REQUIRE_SANDBOX_VARIABLE} is set, and this machine gives the processes that read files no wall of: {}; see docs/operations.md",
        missing.join(", ")
    )))
}

/// What handlers are made of, beside the settings of their crates.
struct Ingredients<'a> {
    embedding_provider: &'a dyn Fn() -> Result<EmbeddingProvider, Failure>,
    image_providers: &'a dyn Fn() -> Result<ImageProviders, Failure>,
}

/// Parsers of untrusted bytes by name, each run in a child process with limits.
type Parsers = &'static [(&'static str, Parser)];
/// What some of them need before the child has its limits.
type Preparations = &'static [(&'static str, Preparation)];
type Make = Box<dyn Fn(&Ingredients<'_>) -> Result<AnyHandler, Failure>>;

/// How one stage is run.
struct Registration {
    settings: fn(usize) -> StageSettings,
    /// The longest time of one file, where it is not the usual one.
    within: Option<Duration>,
    usual_slots: fn(usize) -> usize,
    make: Make,
    parsers: Parsers,
    preparations: Preparations,
}

/// A stage whose files take milliseconds.
fn fast<H: Handler>(
    usual_slots: fn(usize) -> usize,
    make: fn(&Ingredients<'_>) -> Result<H, Failure>,
) -> Registration {
    Registration {
        settings: StageSettings::fast,
        within: None,
        usual_slots,
        make: Box::new(move |with| make(with).map(AnyHandler::new)),
        parsers: &[],
        preparations: &[],
    }
}

/// A stage whose files take a tenth of a second or more.
fn slow<H: Handler>(
    usual_slots: fn(usize) -> usize,
    make: fn(&Ingredients<'_>) -> Result<H, Failure>,
) -> Registration {
    Registration {
        settings: StageSettings::slow,
        ..fast(usual_slots, make)
    }
}

impl Registration {
    fn parses_with(self, parsers: Parsers) -> Self {
        Self { parsers, ..self }
    }

    fn within(self, longest: Duration) -> Self {
        Self {
            within: Some(longest),
            ..self
        }
    }

    fn prepares_with(self, preparations: Preparations) -> Self {
        Self {
            preparations,
            ..self
        }
    }
}

/// How one stage process works.
pub(crate) struct StageOptions {
    /// Files handled at once; the stage's usual number when left out.
    pub(crate) slots: Option<usize>,
    /// How many of them while the limiter is away; all when left out.
    pub(crate) local_slots: Option<u32>,
    /// What each provider may be asked, for the time before the limiter was reached.
    pub(crate) provider_limits: ProviderLimits,
    /// How long after its result was recorded a landing object may be freed. Looked at by the upload stage only.
    pub(crate) landing_delay: Duration,
    /// Looked at by the embeddings stage only.
    pub(crate) embeddings: EmbeddingSettings,
    /// Looked at by the image-processing stage only.
    pub(crate) images: ImageSettings,
}

/// Starts the process of one stage.
pub(crate) async fn start(
    stage: Stage,
    options: StageOptions,
    mesh: &Mesh,
    address: SocketAddr,
) -> Result<Started, Failure> {
    let name = stage.name();
    let broken = |error: &dyn std::fmt::Display| cannot_start(name, error);
    let registered = registered(stage);
    let metrics = Registry::new(name);
    let answers = ProviderMetrics::new(&metrics);
    let permits = |provider: Provider| -> Result<Arc<dyn ProviderPermits>, Failure> {
        let limit = options.provider_limits.of(provider);
        let limiter = mesh.limiter_for(name)?;
        let permits = LimiterPermits::new(provider, limit, limiter, answers.clone());
        Ok(Arc::new(permits))
    };
    let handler = (registered.make)(&Ingredients {
        embedding_provider: &|| {
            embedding_provider(options.embeddings.clone(), permits(Provider::Embedding)?)
        },
        image_providers: &|| image_providers(options.images.clone(), permits),
    })?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    let shows_pictures = stage == Stage::ImageProcessing && options.images.is_any();
    let usual_slots = match (stage, &options.embeddings) {
        (Stage::Embeddings, EmbeddingSettings::OpenAi(_)) => REMOTE_EMBEDDING_SLOTS,
        _ if shows_pictures => SHOWN_PICTURE_SLOTS,
        _ => (registered.usual_slots)(cores),
    };
    let within = registered
        .within
        .or(shows_pictures.then_some(PROVIDED_WITHIN));
    let slots = options.slots.unwrap_or(usual_slots);
    let usual = (registered.settings)(slots);
    let settings = StageSettings {
        drain: DRAIN,
        farewell: FAREWELL,
        solo: Some(SoloSettings {
            executable: PathBuf::from(THIS_EXECUTABLE),
            config: serde_json::to_value(SoloConfig::of(&mesh.store))
                .map_err(|error| broken(&error))?,
        }),
        landing_delay: options.landing_delay,
        handler_timeout: within.unwrap_or(usual.handler_timeout),
        ..usual
    };
    let all_slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let dependencies = Dependencies {
        ledger: mesh.ledger_for(name)?,
        objects: mesh.objects()?,
        streams: Streams::connect(&mesh.redis_url, Names::new(DEFAULT_PREFIX))
            .map_err(|error| broken(&error))?,
        limiter: Some(SlotSource {
            channel: mesh.limiter_for(name)?,
            local_share: options.local_slots.unwrap_or(all_slots),
        }),
    };
    let listener = listen(address).await?;
    let address = listener.local_addr().map_err(|error| broken(&error))?;
    let stop = CancellationToken::new();
    let server = Settings {
        name: name.to_owned(),
        mesh_secret: mesh.secret.clone(),
        limits: ServerLimits {
            drain_deadline: FAREWELL,
            ..ServerLimits::default()
        },
    };
    let mut server = ServerParts::new(server, listener, stop.clone());
    server.metrics = metrics;
    server.tls = mesh.tls.clone();
    server.metrics_listen = mesh.metrics_listen;
    if !registered.parsers.is_empty() {
        look_at_the_walls(name, &server.metrics).await?;
    }
    let process = StageProcess::start(handler, settings, dependencies, server)
        .map_err(|error| broken(&error))?;
    Ok(Started {
        address: reached_at(address),
        part: Part::new(name, stop, process.wait()),
    })
}

fn embedding_provider(
    settings: EmbeddingSettings,
    permits: Arc<dyn ProviderPermits>,
) -> Result<EmbeddingProvider, Failure> {
    EmbeddingProvider::new(settings, permits)
        .map_err(|error| Failure::misconfigured(error.to_string()))
}

/// What pictures are shown to, each with the budget that `permits` gives.
fn image_providers(
    settings: ImageSettings,
    permits: impl Fn(Provider) -> Result<Arc<dyn ProviderPermits>, Failure>,
) -> Result<ImageProviders, Failure> {
    let wrong = |provider: Provider, error: &SettingsError| {
        Failure::misconfigured(format!("the {}: {error}", provider.words()))
    };
    let captions = settings.captions.map(|captions| {
        let provider = Provider::Caption;
        Captions::new(captions, permits(provider)?).map_err(|error| wrong(provider, &error))
    });
    let vectors = settings.vectors.map(|vectors| {
        let provider = Provider::ImageEmbedding;
        PictureVectors::new(vectors, permits(provider)?).map_err(|error| wrong(provider, &error))
    });
    Ok(ImageProviders::new(
        captions.transpose()?,
        vectors.transpose()?,
    ))
}

/// When this process was started to parse the bytes of one file, or to handle one suspect file, does it and exits.
pub(crate) fn run_as_child_if_asked() {
    let parsers: Vec<(&str, Parser)> = Stage::ALL
        .into_iter()
        .flat_map(|stage| registered(stage).parsers)
        .copied()
        .collect();
    let preparations: Vec<(&str, Preparation)> = Stage::ALL
        .into_iter()
        .flat_map(|stage| registered(stage).preparations)
        .copied()
        .collect();
    caudal_stage::sandbox::run_prepared_child_if_asked(&parsers, &preparations);
    caudal_stage::run_solo_if_asked(|stage, config| {
        solo(stage, config).map_err(|failure| failure.to_string())
    });
}

fn solo(stage: Stage, config: serde_json::Value) -> Result<Solo, Failure> {
    let config: SoloConfig =
        serde_json::from_value(config).map_err(|error| Failure::broken(error.to_string()))?;
    let objects = config.store()?;
    let handler = (registered(stage).make)(&Ingredients {
        embedding_provider: &|| {
            let settings = EmbeddingSettings::from_variables(|name| std::env::var(name).ok())
                .map_err(|error| Failure::misconfigured(error.to_string()))?;
            embedding_provider(settings, Arc::new(Unlimited))
        },
        image_providers: &|| {
            let settings = ImageSettings::from_variables(|name| std::env::var(name).ok())
                .map_err(|error| Failure::misconfigured(error.to_string()))?;
            image_providers(settings, |_| Ok(Arc::new(Unlimited)))
        },
    })?;
    Ok(Solo { handler, objects })
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
    ca_pem: Option<Vec<u8>>,
    trusts_network: bool,
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
            ca_pem: store.ca_pem.clone(),
            trusts_network: store.trusts_network,
        }
    }

    fn store(self) -> Result<ObjectStore, Failure> {
        let mut settings = caudal_objects::Settings::new(
            self.endpoint,
            self.bucket,
            self.access_key,
            self.secret_key,
        );
        settings.region = self.region;
        settings.public_endpoint = self.public_endpoint;
        settings.ca_pem = self.ca_pem;
        settings.trusts_network = self.trusts_network;
        ObjectStore::connect(settings).map_err(|error| Failure::misconfigured(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_wall_that_is_missing_keeps_a_stage_from_starting_where_it_is_required() {
        let all = Walls {
            files: true,
            calls: true,
            capabilities: true,
            user: true,
        };
        let some = Walls {
            files: false,
            ..all
        };
        assert!(required(all, true).is_ok() && required(some, false).is_ok());
        let refused = required(some, true).unwrap_err().to_string();
        assert!(refused.contains("no wall of: files"), "{refused}");
    }

    #[tokio::test]
    async fn each_stage_is_served_by_a_handler_of_its_own() {
        let ingredients = Ingredients {
            embedding_provider: &|| {
                embedding_provider(EmbeddingSettings::None, Arc::new(Unlimited))
            },
            image_providers: &|| Ok(ImageProviders::default()),
        };
        for stage in Stage::ALL {
            let handler = (registered(stage).make)(&ingredients).unwrap();
            assert_eq!(handler.version().stage, stage);
        }
    }
}
