//! The settings of `caudal serve`: flags, each with a twin in the environment and in the file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use caudal_domain::Stage;
use caudal_gateway::AllowedOrigins;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::provider_limits::ProviderLimitArguments;
use crate::settings::{
    AlwaysLandArguments, DoorArguments, LandingArguments, MeshTlsArguments, MetricsArguments,
    StoreArguments, TelemetryArguments, TlsArguments, TusArguments,
};

const GATEWAY: &str = "Gateway";
const LEDGER: &str = "Ledger";
const STAGES: &str = "Stages";

/// A service that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Gateway,
    Ledger,
    Limiter,
    Stage(Stage),
}

impl Service {
    const BESIDE_STAGES: [Self; 3] = [Self::Gateway, Self::Ledger, Self::Limiter];

    pub(crate) const ALL: [Self; Self::BESIDE_STAGES.len() + Stage::ALL.len()] = {
        let beside = Self::BESIDE_STAGES;
        let mut all = [Self::Gateway; Self::BESIDE_STAGES.len() + Stage::ALL.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = if at < beside.len() {
                beside[at]
            } else {
                Self::Stage(Stage::ALL[at - beside.len()])
            };
            at += 1;
        }
        all
    };

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Ledger => "ledger",
            Self::Limiter => "limiter",
            Self::Stage(stage) => stage.name(),
        }
    }

    /// A port of its own on this machine alone.
    pub(crate) fn usual_address(self) -> SocketAddr {
        let port = match self {
            Self::Gateway => 7410,
            Self::Ledger => 7411,
            Self::Limiter => 7412,
            Self::Stage(stage) => stage.profile().port,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

impl ValueEnum for Service {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

#[derive(Args)]
pub(crate) struct ServeArguments {
    /// The service
    #[arg(value_name = "SERVICE", value_enum)]
    pub(crate) service: Service,
    /// A TOML file of settings: the names of the flags below, those of one service under [service.NAME]. The environment
    /// is over it, flags are over both
    #[arg(long, env = "CAUDAL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where it listens; port 0 takes a free one. Left out: 127.0.0.1, 7410 for the gateway, the ports after it for the
    /// others in the order above
    #[arg(long, env = "CAUDAL_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The secret that all services of the mesh share, 32 characters at least
    #[arg(
        long,
        env = "CAUDAL_MESH_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub(crate) mesh_secret: Option<String>,
    /// A file that holds it
    #[arg(long, env = "CAUDAL_MESH_SECRET_FILE", value_name = "FILE")]
    pub(crate) mesh_secret_file: Option<PathBuf>,
    /// Address of the ledger; of several, separated by commas, the active one is followed
    #[arg(long, env = "CAUDAL_LEDGER", value_name = "URLS")]
    pub(crate) ledger: Option<String>,
    /// Address of the limiter
    #[arg(long, env = "CAUDAL_LIMITER", value_name = "URL")]
    pub(crate) limiter: Option<String>,
    /// The Redis that all services share
    #[arg(
        long,
        env = "CAUDAL_REDIS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) redis_url: Option<String>,
    /// A file that holds its URL
    #[arg(long, env = "CAUDAL_REDIS_URL_FILE", value_name = "FILE")]
    pub(crate) redis_url_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// The database: sqlite:… or postgres://…
    #[arg(
        long,
        env = "CAUDAL_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        help_heading = LEDGER
    )]
    pub(crate) database_url: Option<String>,
    /// A file that holds its URL
    #[arg(long, env = "CAUDAL_DATABASE_URL_FILE", value_name = "FILE", help_heading = LEDGER)]
    pub(crate) database_url_file: Option<PathBuf>,
    /// Where the other services reach this ledger; where it listens when left out
    #[arg(long, env = "CAUDAL_ADVERTISE", value_name = "URL", help_heading = LEDGER)]
    pub(crate) advertise: Option<String>,
    /// How many files may be out at a stage at once, such as upload=4096,embeddings=128; those left out keep their
    /// default. All ledgers of one database should have the same
    #[arg(
        long,
        env = "CAUDAL_DISPATCH_WINDOWS",
        value_name = "STAGE=N",
        value_delimiter = ',',
        value_parser = dispatch_window,
        help_heading = LEDGER
    )]
    pub(crate) dispatch_windows: Vec<(Stage, u32)>,
    /// How many files of one tenant may be out at once, over all stages, where it has no limit of its own; as many as all
    /// stages take when left out. All ledgers of one database should have the same
    #[arg(
        long,
        env = "CAUDAL_TENANT_WINDOW",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = LEDGER
    )]
    pub(crate) tenant_window: Option<u32>,
    /// Name of the first tenant, made where the keys below are given
    #[arg(
        long,
        env = "CAUDAL_BOOTSTRAP_TENANT",
        value_name = "NAME",
        default_value = crate::service::DEFAULT_TENANT,
        help_heading = LEDGER
    )]
    pub(crate) bootstrap_tenant: String,
    /// An API key of that tenant, its whole text
    #[arg(
        long,
        env = "CAUDAL_BOOTSTRAP_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = LEDGER
    )]
    pub(crate) bootstrap_api_key: Option<String>,
    /// A file that holds it
    #[arg(long, env = "CAUDAL_BOOTSTRAP_API_KEY_FILE", value_name = "FILE", help_heading = LEDGER)]
    pub(crate) bootstrap_api_key_file: Option<PathBuf>,
    /// A key of the operator, its whole text
    #[arg(
        long,
        env = "CAUDAL_BOOTSTRAP_OPERATOR_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = LEDGER
    )]
    pub(crate) bootstrap_operator_key: Option<String>,
    /// A file that holds it
    #[arg(
        long,
        env = "CAUDAL_BOOTSTRAP_OPERATOR_KEY_FILE",
        value_name = "FILE",
        help_heading = LEDGER
    )]
    pub(crate) bootstrap_operator_key_file: Option<PathBuf>,
    /// Folder of the built page; gateway/web/dist below the working folder when left out
    #[arg(long, env = "CAUDAL_WEB_DIR", value_name = "DIR", help_heading = GATEWAY)]
    pub(crate) web_dir: Option<PathBuf>,
    /// Whose pages may call: origins separated by commas, or *
    #[arg(
        long,
        env = "CAUDAL_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        help_heading = GATEWAY
    )]
    pub(crate) allowed_origins: Option<AllowedOrigins>,
    /// Take the ETag that a client tells for what landed, without asking the store for each file
    #[arg(
        long,
        env = "CAUDAL_TRUST_ETAGS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        help_heading = GATEWAY
    )]
    pub(crate) trust_etags: bool,
    #[command(flatten)]
    pub(crate) always_land: AlwaysLandArguments,
    #[command(flatten)]
    pub(crate) tus: TusArguments,
    #[command(flatten)]
    pub(crate) tls: TlsArguments,
    #[command(flatten)]
    pub(crate) door: DoorArguments,
    #[command(flatten)]
    pub(crate) mesh_tls: MeshTlsArguments,
    #[command(flatten)]
    pub(crate) metrics: MetricsArguments,
    /// Files that it handles at once; the limiter may grant fewer
    #[arg(
        long,
        env = "CAUDAL_SLOTS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=caudal_stage::MAX_SLOTS as i64),
        help_heading = STAGES
    )]
    pub(crate) slots: Option<u32>,
    /// How many of them while the limiter is away: this process's share of what the stage may use; all when left out
    #[arg(
        long,
        env = "CAUDAL_LOCAL_SLOTS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=caudal_stage::MAX_SLOTS as i64),
        help_heading = STAGES
    )]
    pub(crate) local_slots: Option<u32>,
    #[command(flatten)]
    pub(crate) provider_limits: ProviderLimitArguments,
    #[command(flatten)]
    pub(crate) landing: LandingArguments,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,
}

/// One of `--dispatch-windows`.
fn dispatch_window(text: &str) -> Result<(Stage, u32), String> {
    let (stage, window) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not STAGE=N"))?;
    let stage = stage
        .parse()
        .map_err(|_| format!("there is no stage `{stage}`"))?;
    match window.parse() {
        Ok(window) if window > 0 => Ok((stage, window)),
        _ => Err(format!("`{window}` is no number of files above 0")),
    }
}

impl std::fmt::Debug for ServeArguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ServeArguments")
            .field("service", &self.service)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}
