//! The command line. Every option has a twin in the environment; the command line wins.

use std::net::SocketAddr;
use std::path::PathBuf;

use caudal_domain::StageSet;
use clap::{Args, Parser, Subcommand};

use crate::arguments::{GatewayArguments, OutputArguments, batch_name};
use crate::batches::BatchesArguments;
use crate::bulk::{
    BulkArguments, PauseArguments, PriorityArguments, ReprocessArguments, ResumeArguments,
    RetryArguments,
};
use crate::count::{CountArguments, StuckArguments};
use crate::provider_limits::ProviderLimitArguments;
use crate::selector::MetadataArguments;
use crate::serve::arguments::ServeArguments;
use crate::settings::{
    AlwaysLandArguments, DEFAULT_BUCKET, DEFAULT_REGION, DoorArguments, LandingArguments,
    MetricsArguments, StoreArguments, TelemetryArguments, TlsArguments, TusArguments,
};
use crate::stages::StagesArguments;
use crate::tenants::{
    AuditArguments, KeysArguments, TenantsArguments, TokenArguments, UsageArguments,
};

/// Takes whole folder trees in and runs every file through a pipeline of services.
#[derive(Debug, Parser)]
#[command(name = "caudal", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole system in this process, until SIGTERM or Ctrl-C
    Up(Box<UpArguments>),
    /// Run one service in this process, until SIGTERM or Ctrl-C
    Serve(Box<ServeArguments>),
    /// Take a folder in: upload it, and wait until every file is processed
    Ingest(IngestArguments),
    /// Follow a batch to its end
    Watch(WatchArguments),
    /// List the tenant's batches, newest first
    Batches(BatchesArguments),
    /// List the files of a batch, how each ended and why
    Files(FilesArguments),
    /// Count files, of a batch or of the whole tenant
    Count(CountArguments),
    /// Count the files that have been waiting for long, of all tenants or one (needs an operator's key)
    Stuck(StuckArguments),
    /// Retry failed files
    Retry(RetryArguments),
    /// Cancel a batch, or files that are not final
    Cancel(BulkArguments),
    /// Take processed files through the stages again
    Reprocess(ReprocessArguments),
    /// Take failures off the list; the files stay failed
    Dismiss(BulkArguments),
    /// Hold a batch: nothing more goes out to the stages until it is resumed
    Pause(PauseArguments),
    /// Let a paused batch go on
    Resume(ResumeArguments),
    /// Change what share a batch has among those of its tenant
    Priority(PriorityArguments),
    /// List the stages, pause them and change their size (needs an operator's key)
    Stages(Box<StagesArguments>),
    /// Make, list, change, pause and close tenants (needs an operator's key)
    Tenants(Box<TenantsArguments>),
    /// Make, list, rotate and revoke API keys
    Keys(Box<KeysArguments>),
    /// Make a token with which one batch can be filled, and nothing else
    Token(TokenArguments),
    /// List who did what
    Audit(AuditArguments),
    /// Show what the tenant uses of what it may use
    Usage(UsageArguments),
    /// Sign a header with which grpcurl may make one call of a service behind the gateway, within half a minute
    Scope(ScopeArguments),
    /// Check that the database keeps its promises; a line for each invariant
    Verify(Box<VerifyArguments>),
}

#[derive(Debug, Args)]
pub(crate) struct IngestArguments {
    /// The folder; files and empty folders below it are taken, links are not followed
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// Stages that run, separated by commas (upload and metadata always do); all when left out
    #[arg(long, env = "CAUDAL_STAGES", value_name = "NAMES", value_delimiter = ',', value_parser = stage_name)]
    pub(crate) stages: Vec<String>,
    /// End when everything is uploaded; do not wait for the processing
    #[arg(long, env = "CAUDAL_NO_WAIT")]
    pub(crate) no_wait: bool,
    /// Uploads at once
    #[arg(long, env = "CAUDAL_PARALLEL", value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
    /// Name of the batch, for people; the folder's when left out
    #[arg(long, env = "CAUDAL_BATCH_NAME", value_name = "WORDS")]
    pub(crate) name: Option<String>,
    /// Send what this batch lacks, from whatever machine: its id, or `batches/ID`
    #[arg(long, env = "CAUDAL_BATCH", value_name = "BATCH", value_parser = batch_name,
          conflicts_with_all = ["new", "name", "stages"])]
    pub(crate) batch: Option<String>,
    /// Begin a new batch, although one of this folder is unfinished
    #[arg(long, env = "CAUDAL_NEW")]
    pub(crate) new: bool,
    /// Leave out what matches, as a line of a .gitignore does; the folder's own .caudalignore is read too
    #[arg(long, env = "CAUDAL_EXCLUDE", value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Take what systems and programs leave in folders too: .DS_Store, Thumbs.db, ~$*, …
    #[arg(long, env = "CAUDAL_EVERYTHING")]
    pub(crate) everything: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// The batch: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: String,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct FilesArguments {
    /// The batch: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: String,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ScopeArguments {
    /// The call that it is for, such as caudal.mesh.v1.StageService/GetStage
    #[arg(value_name = "SERVICE/METHOD")]
    pub(crate) call: String,
    /// The stage that is asked, where it is a call of stages
    #[arg(long, env = "CAUDAL_SCOPE_STAGE", value_name = "STAGE", value_parser = stage_name)]
    pub(crate) stage: Option<String>,
    /// Data folder of a `caudal up`, whose secret signs
    #[arg(
        long,
        env = "CAUDAL_DATA_DIR",
        value_name = "DIR",
        default_value = ".caudal/data"
    )]
    pub(crate) data_dir: PathBuf,
    /// File of the secret that the services of a mesh share
    #[arg(long, env = "CAUDAL_MESH_SECRET_FILE", value_name = "FILE")]
    pub(crate) mesh_secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// Data folder of a `caudal up`
    #[arg(
        long,
        env = "CAUDAL_DATA_DIR",
        value_name = "DIR",
        required_unless_present = "database_url"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// The database: sqlite:… or postgres://…
    #[arg(
        long,
        env = "CAUDAL_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<String>,
    /// The Redis of a running system: its streams are checked too
    #[arg(
        long,
        env = "CAUDAL_REDIS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) redis_url: Option<String>,
    /// The S3 store of a running system: its objects are checked too (those of a stopped one always are)
    #[arg(long, env = "CAUDAL_S3_ENDPOINT", value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// Its bucket
    #[arg(long, env = "CAUDAL_S3_BUCKET", value_name = "NAME", default_value = DEFAULT_BUCKET)]
    pub(crate) s3_bucket: String,
    /// Its region
    #[arg(long, env = "CAUDAL_S3_REGION", value_name = "NAME", default_value = DEFAULT_REGION)]
    pub(crate) s3_region: String,
    /// Its access key; the data folder's when left out
    #[arg(
        long,
        env = "CAUDAL_S3_ACCESS_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) s3_access_key: Option<String>,
    /// Its secret key; the data folder's when left out
    #[arg(
        long,
        env = "CAUDAL_S3_SECRET_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) s3_secret_key: Option<String>,
}

impl std::fmt::Debug for VerifyArguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifyArguments")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

#[derive(Args)]
pub(crate) struct UpArguments {
    /// Where everything is kept; made when it is missing
    #[arg(
        long,
        env = "CAUDAL_DATA_DIR",
        value_name = "DIR",
        default_value = ".caudal/data"
    )]
    pub(crate) data_dir: PathBuf,
    /// Where the gateway listens; port 0 takes a free one
    #[arg(
        long,
        env = "CAUDAL_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7410"
    )]
    pub(crate) listen: SocketAddr,
    /// A database of yours: sqlite:… or postgres://…; the embedded SQLite when left out
    #[arg(
        long,
        env = "CAUDAL_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<String>,
    /// A Redis of yours; a private redis-server when left out
    #[arg(
        long,
        env = "CAUDAL_REDIS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) redis_url: Option<String>,
    /// The redis-server to run privately; searched when left out
    #[arg(long, env = "CAUDAL_REDIS_SERVER", value_name = "PATH")]
    pub(crate) redis_server: Option<PathBuf>,
    /// Where the embedded object store listens; on this machine alone, on a port that the data folder keeps, when left out
    #[arg(long, env = "CAUDAL_S3_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) s3_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) tls: TlsArguments,
    #[command(flatten)]
    pub(crate) door: DoorArguments,
    #[command(flatten)]
    pub(crate) metrics: MetricsArguments,
    #[command(flatten)]
    pub(crate) provider_limits: ProviderLimitArguments,
    #[command(flatten)]
    pub(crate) landing: LandingArguments,
    #[command(flatten)]
    pub(crate) always_land: AlwaysLandArguments,
    #[command(flatten)]
    pub(crate) tus: TusArguments,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,
}

impl std::fmt::Debug for UpArguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UpArguments")
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

fn stage_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    StageSet::parse([name]).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use clap::CommandFactory as _;

    const ID: &str = "0190b5a2-0000-7000-8000-000000000001";

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["caudal"].iter().chain(arguments))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_twin_in_the_environment() {
        for command in Cli::command().get_subcommands() {
            for argument in command
                .get_arguments()
                .filter(|argument| !argument.is_positional())
            {
                if argument.get_id() == "help" {
                    continue;
                }
                let twin = argument
                    .get_env()
                    .and_then(std::ffi::OsStr::to_str)
                    .unwrap_or_default();
                assert!(
                    twin.starts_with("CAUDAL_"),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn a_batch_is_named_by_its_id_or_its_name() {
        for text in [ID.to_owned(), format!("batches/{ID}")] {
            let cli = parse(&["watch", &text, "--api-key", "k"]).unwrap();
            let Command::Watch(watch) = cli.command else {
                panic!("not a watch")
            };
            assert_eq!(watch.batch, format!("batches/{ID}"));
        }
        assert!(parse(&["watch", "nonsense", "--api-key", "k"]).is_err());
    }

    #[test]
    fn files_are_listed_and_counted_by_their_metadata() {
        let filter = ["--where", "river=Paraná", "--where", "site.level=3.5"];
        for command in ["files", "count"] {
            let all = [&[command, ID, "--api-key", "k"][..], &filter[..]].concat();
            let matches = match parse(&all).unwrap().command {
                Command::Files(files) => files.metadata.matches,
                Command::Count(count) => count.selector.selector().metadata,
                _ => panic!("neither files nor count"),
            };
            let paths: Vec<&[String]> = matches.iter().map(|one| one.path.as_slice()).collect();
            assert_eq!(paths, [vec!["river"], vec!["site", "level"]]);
        }
        // What the server asks for: metadata are read of one batch.
        let whole_tenant = [&["count", "--api-key", "k"][..], &filter[..]].concat();
        assert!(parse(&whole_tenant).is_err());
    }

    #[test]
    fn stages_are_checked_before_anything_is_sent() {
        let cli = parse(&[
            "ingest",
            "d",
            "--api-key",
            "k",
            "--stages",
            "upload,metadata",
        ])
        .unwrap();
        let Command::Ingest(ingest) = cli.command else {
            panic!("not an ingest")
        };
        assert_eq!(ingest.stages, ["upload", "metadata"]);
        let words = parse(&["ingest", "d", "--api-key", "k", "--stages", "ocr"])
            .unwrap_err()
            .to_string();
        assert!(words.contains("ocr"), "{words}");
    }

    #[test]
    fn secrets_are_not_shown_when_arguments_are_logged() {
        let cli = parse(&["files", ID, "--api-key", "caudal_secret"]).unwrap();
        assert!(!format!("{cli:?}").contains("caudal_secret"));
        for setting in [
            "--mesh-secret",
            "--bootstrap-api-key",
            "--bootstrap-operator-key",
            "--database-url",
            "--redis-url",
            "--s3-secret-key",
        ] {
            let cli = parse(&["serve", "ledger", setting, "caudal_secret"]).unwrap();
            assert!(!format!("{cli:?}").contains("caudal_secret"), "{setting}");
        }
    }
}
