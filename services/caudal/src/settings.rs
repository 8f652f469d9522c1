//! Settings that several commands share, and their checks. Nothing is opened or bound by a check.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caudal_domain::limits::MAX_TUS_LIFETIME;
use caudal_gateway::TusSettings;
use caudal_node::telemetry::{LogFormat, TelemetrySettings};
use caudal_node::{Certificate, MeshTls, ServerLimits};
use caudal_objects::ObjectStore;
use caudal_stage::MAX_LANDING_DELAY;
use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::selector::duration;

pub(crate) const DEFAULT_BUCKET: &str = "caudal";
/// More connections than any process has files.
const MOST_CONNECTIONS: usize = 1_000_000;
pub(crate) const DEFAULT_REGION: &str = "us-east-1";

/// An S3 store.
#[derive(Args)]
pub(crate) struct StoreArguments {
    /// An S3 store of yours, as this machine reaches it
    #[arg(long, env = "CAUDAL_S3_ENDPOINT", value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// The same store, as clients reach it; as this machine does when left out
    #[arg(
        long,
        alias = "public-s3-endpoint",
        env = "CAUDAL_S3_PUBLIC_ENDPOINT",
        value_name = "URL"
    )]
    pub(crate) s3_public_endpoint: Option<String>,
    /// Its bucket; made when it is missing
    #[arg(long, env = "CAUDAL_S3_BUCKET", value_name = "NAME", default_value = DEFAULT_BUCKET)]
    pub(crate) s3_bucket: String,
    /// Its region
    #[arg(long, env = "CAUDAL_S3_REGION", value_name = "NAME", default_value = DEFAULT_REGION)]
    pub(crate) s3_region: String,
    /// Its access key
    #[arg(
        long,
        env = "CAUDAL_S3_ACCESS_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) s3_access_key: Option<String>,
    /// Its secret key
    #[arg(
        long,
        env = "CAUDAL_S3_SECRET_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) s3_secret_key: Option<String>,
    /// A file that holds its secret key
    #[arg(long, env = "CAUDAL_S3_SECRET_KEY_FILE", value_name = "FILE")]
    pub(crate) s3_secret_key_file: Option<PathBuf>,
    /// Certificates to trust beside those of the system, as PEM: for an https store with a CA of your own
    #[arg(long, env = "CAUDAL_S3_CA_FILE", value_name = "FILE")]
    pub(crate) s3_ca_file: Option<PathBuf>,
}

impl StoreArguments {
    /// The store of a service that brings none along, if one is named.
    pub(crate) fn store(&self) -> Result<Option<caudal_objects::Settings>, Failure> {
        let store = self.external()?;
        if store.is_none() && self.public_endpoint().is_some() {
            return Err(Failure::misconfigured(
                "--s3-public-endpoint is another address of the store at --s3-endpoint, which is missing",
            ));
        }
        Ok(store)
    }

    /// Where clients reach the store, where that differs.
    pub(crate) fn public_endpoint(&self) -> Option<String> {
        set(self.s3_public_endpoint.as_deref()).map(str::to_owned)
    }

    /// The store of yours, if one is named.
    pub(crate) fn external(&self) -> Result<Option<caudal_objects::Settings>, Failure> {
        let Some(endpoint) = set(self.s3_endpoint.as_deref()) else {
            return Ok(None);
        };
        let secret_key = secret(
            "s3-secret-key",
            self.s3_secret_key.as_deref(),
            self.s3_secret_key_file.as_deref(),
        )?;
        let access_key = set(self.s3_access_key.as_deref());
        let (Some(access_key), Some(secret_key)) = (access_key, secret_key) else {
            return Err(Failure::misconfigured(
                "--s3-endpoint needs --s3-access-key and --s3-secret-key (or --s3-secret-key-file)",
            ));
        };
        let mut settings =
            caudal_objects::Settings::new(endpoint, &self.s3_bucket, access_key, secret_key);
        settings.region.clone_from(&self.s3_region);
        settings.public_endpoint = self.public_endpoint();
        if let Some(file) = &self.s3_ca_file {
            let pem = std::fs::read(file).map_err(|error| {
                Failure::misconfigured(format!(
                    "--s3-ca-file: cannot read {}: {error}",
                    file.display()
                ))
            })?;
            settings.ca_pem = Some(pem);
        }
        // Connecting opens nothing: it only reads the settings.
        ObjectStore::connect(settings.clone())
            .map_err(|error| Failure::misconfigured(error.to_string()))?;
        Ok(Some(settings))
    }
}

/// The gateway's certificate.
#[derive(Debug, Args)]
pub(crate) struct TlsArguments {
    /// The gateway's certificate and its chain, as PEM: it speaks https then; read again when it is renewed
    #[arg(
        long,
        env = "CAUDAL_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        help_heading = "Gateway"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(
        long,
        env = "CAUDAL_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "Gateway"
    )]
    pub(crate) tls_key: Option<PathBuf>,
}

impl TlsArguments {
    /// The certificate, if there is one.
    pub(crate) fn certificate(&self) -> Result<Option<Certificate>, Failure> {
        let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        Certificate::read(chain, key)
            .map(Some)
            .map_err(|error| Failure::misconfigured(format!("--tls-cert, --tls-key: {error}")))
    }
}

/// What the gateway bears, and where its metrics are.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DoorArguments {
    /// Connections that the gateway has open at once
    #[arg(
        long,
        env = "CAUDAL_CONNECTIONS",
        value_name = "N",
        default_value_t = ServerLimits::default().connections,
        value_parser = connections,
        help_heading = "Gateway"
    )]
    pub(crate) connections: usize,
    /// How many of them of one address, or of one network of IPv6; addresses of this machine have all
    #[arg(
        long,
        env = "CAUDAL_CONNECTIONS_OF_ONE_ADDRESS",
        value_name = "N",
        default_value_t = ServerLimits::default().connections_of_one_peer,
        value_parser = connections,
        help_heading = "Gateway"
    )]
    pub(crate) connections_of_one_address: usize,
}

impl DoorArguments {
    /// Over the limits of a server.
    pub(crate) fn over(self, limits: &ServerLimits) -> ServerLimits {
        ServerLimits {
            connections: self.connections,
            connections_of_one_peer: self.connections_of_one_address.min(self.connections),
            ..limits.clone()
        }
    }
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST_CONNECTIONS).contains(&number) => Ok(number),
        _ => Err(format!("a number from 1 to {MOST_CONNECTIONS}")),
    }
}

/// Where metrics are shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct MetricsArguments {
    /// Where metrics are shown, to everybody who reaches it: /metrics there, and nothing else. Left out: at the gateway to
    /// operators, with their key; at other services beside their calls
    #[arg(long, env = "CAUDAL_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
}

/// The certificates of a mesh over TLS.
#[derive(Debug, Args)]
pub(crate) struct MeshTlsArguments {
    /// The authority whose certificates all services of the mesh show each other, as PEM
    #[arg(
        long,
        env = "CAUDAL_MESH_CA",
        value_name = "FILE",
        requires = "mesh_cert"
    )]
    pub(crate) mesh_ca: Option<PathBuf>,
    /// This service's certificate and its chain, as PEM, with the name of the service as a DNS name; read again when it is
    /// renewed
    #[arg(
        long,
        env = "CAUDAL_MESH_CERT",
        value_name = "FILE",
        requires = "mesh_key"
    )]
    pub(crate) mesh_cert: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(
        long,
        env = "CAUDAL_MESH_KEY",
        value_name = "FILE",
        requires = "mesh_ca"
    )]
    pub(crate) mesh_key: Option<PathBuf>,
}

impl MeshTlsArguments {
    /// The certificates, if there are any.
    pub(crate) fn certificates(&self) -> Result<Option<MeshTls>, Failure> {
        let (Some(authority), Some(chain), Some(key)) =
            (&self.mesh_ca, &self.mesh_cert, &self.mesh_key)
        else {
            return Ok(None);
        };
        MeshTls::read(authority, chain, key)
            .map(Some)
            .map_err(|error| {
                Failure::misconfigured(format!("--mesh-ca, --mesh-cert, --mesh-key: {error}"))
            })
    }
}

/// Whether the gateway lets bytes go straight to where they stay.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct AlwaysLandArguments {
    /// Have all uploaded bytes read before they stay, also where the store verifies the checksums that clients declare
    #[arg(
        long,
        env = "CAUDAL_ALWAYS_LAND",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub(crate) always_land: bool,
}

/// What the upload stage keeps.
#[derive(Debug, Args)]
pub(crate) struct LandingArguments {
    /// How long uploaded bytes are kept where they landed, after their copy was recorded
    #[arg(
        long,
        env = "CAUDAL_LANDING_DELAY",
        value_name = "TIME",
        default_value = "5s",
        value_parser = landing_delay
    )]
    pub(crate) landing_delay: Duration,
}

fn landing_delay(text: &str) -> Result<Duration, String> {
    let delay = duration(text)?;
    if delay > MAX_LANDING_DELAY {
        return Err(format!(
            "landing objects are kept for {} s at most",
            MAX_LANDING_DELAY.as_secs()
        ));
    }
    Ok(delay)
}

/// What the gateway gives to uploads by the tus protocol.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TusArguments {
    /// How long an upload by the tus protocol may rest before it is given up
    #[arg(
        long,
        env = "CAUDAL_TUS_LIFETIME",
        value_name = "TIME",
        default_value = "24h",
        value_parser = tus_lifetime
    )]
    tus_lifetime: Duration,
    /// Memory that all such uploads of one gateway may hold together, in MiB
    #[arg(
        long,
        env = "CAUDAL_TUS_MEMORY",
        value_name = "MIB",
        default_value_t = 512,
        value_parser = clap::value_parser!(u64).range(64..=65_536)
    )]
    tus_memory: u64,
}

impl TusArguments {
    /// As the gateway takes them.
    pub(crate) fn settings(self) -> TusSettings {
        TusSettings {
            lifetime: self.tus_lifetime,
            memory: self.tus_memory << 20,
        }
    }
}

fn tus_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime.is_zero() || lifetime > MAX_TUS_LIFETIME {
        return Err(format!(
            "an upload may rest for more than nothing and {} h at most",
            MAX_TUS_LIFETIME.as_secs() / 3600
        ));
    }
    Ok(lifetime)
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLines {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs and traces.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArguments {
    /// What is logged on standard error: a level, or targets with levels
    #[arg(
        long,
        env = "CAUDAL_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(crate) log: String,
    /// How log lines look
    #[arg(long, env = "CAUDAL_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogLines,
    /// Where traces go, by OTLP over gRPC; nowhere when left out
    #[arg(long, env = "CAUDAL_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Share of files whose traces are kept, 0 to 1
    #[arg(
        long,
        env = "CAUDAL_TRACE_RATIO",
        value_name = "SHARE",
        default_value_t = 0.01
    )]
    pub(crate) trace_ratio: f64,
}

impl TelemetryArguments {
    /// The settings of a process of this name.
    pub(crate) fn of(&self, process: &str) -> TelemetrySettings {
        TelemetrySettings {
            service: process.to_owned(),
            format: match self.log_format {
                LogLines::Text => LogFormat::Text,
                LogLines::Json => LogFormat::Json,
            },
            filter: self.log.clone(),
            otlp_endpoint: set(self.otlp_endpoint.as_deref()).map(str::to_owned),
            sample_ratio: self.trace_ratio,
        }
    }
}

/// An empty setting is none: so a variable can be passed on whether it is set or not.
pub(crate) fn set(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// A secret that is given as it is, or by the file that holds it. No error repeats it.
pub(crate) fn secret(
    name: &str,
    given: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<String>, Failure> {
    let given = set(given);
    let file = file.filter(|file| !file.as_os_str().is_empty());
    let Some(file) = file else {
        return Ok(given.map(str::to_owned));
    };
    if given.is_some() {
        return Err(Failure::misconfigured(format!(
            "--{name} and --{name}-file are both set, by flags, environment or file: leave one out"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::misconfigured(format!(
            "--{name}-file: cannot read {}: {error}",
            file.display()
        ))
    })?;
    match set(Some(&text)) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Failure::misconfigured(format!(
            "--{name}-file: {} is empty",
            file.display()
        ))),
    }
}

pub(crate) fn check_database_url(url: &str) -> Result<(), Failure> {
    caudal_ledger::check_database_url(url)
        .map_err(|error| Failure::misconfigured(format!("--database-url: {error}")))
}

pub(crate) fn check_redis_url(url: &str) -> Result<(), Failure> {
    // Connects with its first command, and there is none. The words never repeat the URL: it may hold a password.
    caudal_streams::Streams::connect(
        url,
        caudal_streams::Names::new(caudal_streams::DEFAULT_PREFIX),
    )
    .map(drop)
    .map_err(|error| Failure::misconfigured(format!("--redis-url cannot be used: {error}")))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn an_address_of_a_database_that_is_none_is_refused_without_its_password() {
        for url in [
            "sqlite:a.sqlite",
            "postgres://u:p%40@h:5/db",
            "postgresql://h/db",
        ] {
            assert!(check_database_url(url).is_ok(), "{url}");
        }
        for url in [
            "mysql://u:secret@h/db",
            "postgres://u:secret@:bad:port/x",
            "postgres://u:#secret@h/db",
            "postgres://u:12/secret@h/db",
            "postgres://u:?secret@h/db",
            "postgresql://u:secret@h:99999/db",
            "u:secret@h/db",
        ] {
            let words = check_database_url(url).unwrap_err().to_string();
            assert!(words.starts_with("--database-url"), "{words}");
            assert!(!words.contains("secret"), "{words}");
        }
    }

    #[test]
    fn a_landing_delay_has_a_unit_a_usual_value_and_a_bound() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            landing: LandingArguments,
        }
        let delay = |flags: &[&str]| {
            let line = ["caudal"].iter().chain(flags);
            let alone = Alone::try_parse_from(line).map_err(|error| error.to_string())?;
            Ok::<_, String>(alone.landing.landing_delay)
        };
        assert_eq!(delay(&[]), Ok(caudal_stage::LANDING_DELAY));
        assert_eq!(delay(&["--landing-delay", "1h"]), Ok(MAX_LANDING_DELAY));
        let words = delay(&["--landing-delay", "61m"]).unwrap_err();
        assert!(
            words.contains("--landing-delay") && words.contains("3600"),
            "{words}"
        );
        assert!(delay(&["--landing-delay", "5"]).is_err());
    }

    #[test]
    fn a_secret_comes_from_one_place_and_is_never_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "from a file\n").unwrap();
        let read = |given, file| secret("mesh-secret", given, file);
        assert_eq!(read(None, None).unwrap(), None);
        assert_eq!(read(Some(" given "), None).unwrap().unwrap(), "given");
        assert_eq!(read(Some(""), Some(&file)).unwrap().unwrap(), "from a file");
        let both = read(Some("given"), Some(&file)).unwrap_err();
        assert!(!format!("{both:?}").contains("given"), "{both:?}");
        std::fs::write(&file, "\n").unwrap();
        assert!(read(None, Some(&file)).is_err());
        assert!(read(None, Some(&folder.path().join("none"))).is_err());
    }
}
