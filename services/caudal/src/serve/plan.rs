//! What `caudal serve` is to run, read and checked before anything is opened or bound.

use std::net::SocketAddr;

use caudal_domain::Stage;
use caudal_gateway::key::ApiKey;
use caudal_ledger::{Bootstrap, KeyRecord, LedgerSettings};
use caudal_limiter::SlotLimits;
use caudal_node::telemetry::TelemetrySettings;
use caudal_node::{LeaderChannel, MeshSecret, MeshTls};
use caudal_providers::{EmbeddingSettings, ImageSettings, SettingsError};

use crate::failure::Failure;
use crate::provider_limits::ProviderLimits;
use crate::serve::arguments::{ServeArguments, Service};
use crate::service::gateway::{GatewayOptions, warning_of_the_gateway};
use crate::service::ledger::key_record;
use crate::service::stages::StageOptions;
use crate::service::{Mesh, channels_to};
use crate::settings::{check_database_url, check_redis_url, secret, set};

/// The whole plan.
pub(crate) struct Plan {
    pub(crate) service: Service,
    pub(crate) listen: SocketAddr,
    pub(crate) telemetry: TelemetrySettings,
    /// The certificates of the mesh.
    pub(crate) tls: Option<MeshTls>,
    /// Where metrics are shown.
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) work: Work,
}

/// What the service needs, whichever it is.
pub(crate) enum Work {
    Gateway {
        mesh: Mesh,
        options: GatewayOptions,
    },
    Ledger(Box<LedgerSettings>),
    Limiter {
        slots: SlotLimits,
        limits: ProviderLimits,
        secret: MeshSecret,
    },
    Stage {
        stage: Stage,
        mesh: Mesh,
        options: Box<StageOptions>,
    },
}

impl Plan {
    /// What is to be said of an address that other machines reach and no TLS stands behind; nothing where that is in order.
    pub(crate) fn warning(&self) -> Option<String> {
        let address = self.listen;
        if let Work::Gateway { options, .. } = &self.work {
            return warning_of_the_gateway(address, options.tls.is_some());
        }
        if address.ip().is_loopback() {
            return None;
        }
        if self.tls.is_some() {
            return None;
        }
        Some(format!(
            "{} listens on {address}, and services speak with each other without TLS: whoever is in between reads what they say. \
             Give all of them certificates (--mesh-ca, --mesh-cert, --mesh-key), or keep this network to the services",
            self.service.name()
        ))
    }

    /// Reads all of it; `variable` gives what the environment says about providers. Inside a tokio runtime.
    pub(crate) fn of(
        arguments: &ServeArguments,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let service = arguments.service;
        let listen = arguments.listen.unwrap_or_else(|| service.usual_address());
        let work = match service {
            Service::Gateway => Work::Gateway {
                mesh: mesh(arguments)?,
                options: gateway(arguments)?,
            },
            Service::Ledger => Work::Ledger(Box::new(ledger(arguments, listen)?)),
            Service::Limiter => Work::Limiter {
                slots: SlotLimits::default(),
                limits: arguments.provider_limits.limits()?,
                secret: mesh_secret(arguments)?,
            },
            Service::Stage(stage) => Work::Stage {
                stage,
                mesh: mesh(arguments)?,
                options: Box::new(stage_options(stage, arguments, variable)?),
            },
        };
        Ok(Self {
            service,
            listen,
            tls: arguments.mesh_tls.certificates()?,
            metrics_listen: arguments.metrics.metrics_listen,
            telemetry: arguments
                .telemetry
                .of(&format!("caudal-{}", service.name())),
            work,
        })
    }
}

fn mesh(arguments: &ServeArguments) -> Result<Mesh, Failure> {
    let secret = mesh_secret(arguments)?;
    let tls = arguments.mesh_tls.certificates()?;
    let ledger = set(arguments.ledger.as_deref()).ok_or_else(|| missing(arguments, "ledger"))?;
    check_address("ledger", ledger, tls.as_ref())?;
    let limiter = set(arguments.limiter.as_deref()).ok_or_else(|| missing(arguments, "limiter"))?;
    check_address("limiter", limiter, tls.as_ref())?;
    let redis_url = redis_url(arguments)?;
    let store = arguments
        .store
        .store()?
        .ok_or_else(|| missing(arguments, "s3-endpoint"))?;
    Ok(Mesh {
        secret,
        ledger: ledger.to_owned(),
        limiter: limiter.to_owned(),
        redis_url,
        store,
        tls,
        metrics_listen: arguments.metrics.metrics_listen,
    })
}

fn gateway(arguments: &ServeArguments) -> Result<GatewayOptions, Failure> {
    if let Some(folder) = &arguments.web_dir
        && !folder.is_dir()
    {
        return Err(Failure::misconfigured(format!(
            "--web-dir: there is no folder {}: build the page with `make page`, or leave the setting out",
            folder.display()
        )));
    }
    Ok(GatewayOptions {
        web_dir: arguments.web_dir.clone(),
        allowed_origins: arguments.allowed_origins.clone(),
        trusts_etags: arguments.trust_etags,
        always_land: arguments.always_land.always_land,
        tus: arguments.tus.settings(),
        metrics: None,
        tls: arguments.tls.certificate()?,
        door: Some(arguments.door),
    })
}

fn ledger(arguments: &ServeArguments, listen: SocketAddr) -> Result<LedgerSettings, Failure> {
    let secret = mesh_secret(arguments)?;
    let url = database_url(arguments)?;
    let mut settings = LedgerSettings::new(&url, redis_url(arguments)?, secret);
    settings.bootstrap = bootstrap(arguments)?;
    settings.objects = arguments.store.store()?;
    settings.tls = arguments.mesh_tls.certificates()?;
    settings.metrics_listen = arguments.metrics.metrics_listen;
    settings
        .windows
        .set(arguments.dispatch_windows.iter().copied());
    if let Some(files) = arguments.tenant_window {
        settings.windows.of_tenant = files;
    }
    match set(arguments.advertise.as_deref()) {
        Some(address) => {
            check_address("advertise", address, settings.tls.as_ref())?;
            address.clone_into(&mut settings.address);
        }
        // The callers of a ledger that stands by are sent to the address of the active one.
        None if listen.ip().is_unspecified() && !url.starts_with("sqlite:") => {
            return Err(Failure::misconfigured(format!(
                "a ledger that listens on {listen} needs --advertise (CAUDAL_ADVERTISE): where the other services reach it, such as http://ledger-1:{}",
                listen.port()
            )));
        }
        None => {}
    }
    Ok(settings)
}

fn bootstrap(arguments: &ServeArguments) -> Result<Option<Bootstrap>, Failure> {
    let api_key = key(
        "bootstrap-api-key",
        arguments.bootstrap_api_key.as_deref(),
        arguments.bootstrap_api_key_file.as_deref(),
    )?;
    let operator_key = key(
        "bootstrap-operator-key",
        arguments.bootstrap_operator_key.as_deref(),
        arguments.bootstrap_operator_key_file.as_deref(),
    )?;
    match (api_key, operator_key) {
        (None, None) => Ok(None),
        (Some(api_key), Some(operator_key)) => Ok(Some(Bootstrap {
            tenant_name: arguments.bootstrap_tenant.clone(),
            api_key,
            operator_key,
        })),
        (None, Some(_)) => Err(Failure::misconfigured(
            "--bootstrap-operator-key is given without --bootstrap-api-key: give both, or none",
        )),
        (Some(_), None) => Err(Failure::misconfigured(
            "--bootstrap-api-key is given without --bootstrap-operator-key: give both, or none",
        )),
    }
}

fn key(
    name: &str,
    given: Option<&str>,
    file: Option<&std::path::Path>,
) -> Result<Option<KeyRecord>, Failure> {
    let Some(text) = secret(name, given, file)? else {
        return Ok(None);
    };
    let key: ApiKey = text
        .parse()
        .map_err(|error| Failure::misconfigured(format!("--{name} is no key: {error}")))?;
    Ok(Some(key_record(&key)))
}

fn stage_options(
    stage: Stage,
    arguments: &ServeArguments,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<StageOptions, Failure> {
    let wrong = |error: SettingsError| Failure::misconfigured(error.to_string());
    let (mut embeddings, mut images) = (EmbeddingSettings::None, ImageSettings::default());
    match stage {
        Stage::Embeddings => {
            embeddings = EmbeddingSettings::from_variables(variable).map_err(wrong)?;
        }
        Stage::ImageProcessing => {
            images = ImageSettings::from_variables(variable).map_err(wrong)?;
        }
        Stage::Upload | Stage::ExtractText | Stage::Metadata => {}
    }
    Ok(StageOptions {
        slots: arguments
            .slots
            .and_then(|slots| usize::try_from(slots).ok()),
        local_slots: arguments.local_slots,
        provider_limits: arguments.provider_limits.limits()?,
        landing_delay: arguments.landing.landing_delay,
        embeddings,
        images,
    })
}

fn mesh_secret(arguments: &ServeArguments) -> Result<MeshSecret, Failure> {
    let text = secret(
        "mesh-secret",
        arguments.mesh_secret.as_deref(),
        arguments.mesh_secret_file.as_deref(),
    )?;
    let text = text.ok_or_else(|| {
        Failure::misconfigured(format!(
            "serve {} needs the secret that all services share: make one with `openssl rand -hex 32`, and give the file that holds it with --mesh-secret-file or CAUDAL_MESH_SECRET_FILE",
            arguments.service.name()
        ))
    })?;
    MeshSecret::new(text.as_bytes())
        .map_err(|error| Failure::misconfigured(format!("--mesh-secret: {error}")))
}

fn redis_url(arguments: &ServeArguments) -> Result<String, Failure> {
    let url = secret(
        "redis-url",
        arguments.redis_url.as_deref(),
        arguments.redis_url_file.as_deref(),
    )?;
    let url = url.ok_or_else(|| missing(arguments, "redis-url"))?;
    check_redis_url(&url)?;
    Ok(url)
}

fn database_url(arguments: &ServeArguments) -> Result<String, Failure> {
    let url = secret(
        "database-url",
        arguments.database_url.as_deref(),
        arguments.database_url_file.as_deref(),
    )?;
    let url = url.ok_or_else(|| missing(arguments, "database-url"))?;
    check_database_url(&url)?;
    Ok(url)
}

fn check_address(name: &str, addresses: &str, tls: Option<&MeshTls>) -> Result<(), Failure> {
    // Connects with its first call, and there is none.
    let channels = channels_to("ledger", tls)?;
    LeaderChannel::new(&channels, addresses)
        .map(drop)
        .map_err(|error| Failure::misconfigured(format!("--{name}: {error}")))
}

/// What a service cannot do without.
fn missing(arguments: &ServeArguments, name: &str) -> Failure {
    let service = arguments.service.name();
    let variable = name.to_uppercase().replace('-', "_");
    Failure::misconfigured(format!(
        "serve {service} needs --{name}: give it as a flag, as CAUDAL_{variable} in the environment, or as `{name}` in the file of --config"
    ))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const MESH: [&str; 14] = [
        "--mesh-secret",
        SECRET,
        "--ledger",
        "http://127.0.0.1:7411,http://127.0.0.1:7421",
        "--limiter",
        "http://127.0.0.1:7412",
        "--redis-url",
        "redis://127.0.0.1:6379",
        "--s3-endpoint",
        "http://127.0.0.1:9000",
        "--s3-access-key",
        "a",
        "--s3-secret-key",
        "s",
    ];

    fn plan(service: &str, arguments: &[&str]) -> Result<Plan, String> {
        let line = ["caudal", "serve", service]
            .into_iter()
            .chain(arguments.iter().copied());
        let Command::Serve(arguments) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not serve")
        };
        Plan::of(&arguments, |_| None).map_err(|failure| format!("{failure:?}"))
    }

    fn without(setting: &str) -> Vec<&'static str> {
        let mut mesh = MESH.to_vec();
        let at = mesh.iter().position(|flag| *flag == setting).unwrap();
        mesh.drain(at..at + 2);
        mesh
    }

    #[tokio::test]
    async fn an_address_that_others_reach_without_tls_is_warned_of() {
        let warned = |service, address| {
            let arguments = [&MESH[..], &["--listen", address]].concat();
            plan(service, &arguments).unwrap().warning()
        };
        for service in ["gateway", "upload"] {
            assert_eq!(warned(service, "127.0.0.1:0"), None);
            let words = warned(service, "0.0.0.0:0").unwrap();
            assert!(words.contains("without TLS"), "{words}");
        }
    }

    #[tokio::test]
    async fn every_service_names_what_it_misses() {
        for service in ["gateway", "upload", "embeddings", "metadata"] {
            assert!(plan(service, &MESH).is_ok(), "{service}");
            for missing in [
                "--mesh-secret",
                "--ledger",
                "--limiter",
                "--redis-url",
                "--s3-endpoint",
            ] {
                let words = plan(service, &without(missing)).err().unwrap();
                assert!(words.contains(missing), "{service}: {words}");
            }
        }
        assert!(plan("limiter", &["--mesh-secret", SECRET]).is_ok());
        let words = plan("ledger", &without("--redis-url")).err().unwrap();
        assert!(
            words.contains("--database-url") || words.contains("--redis-url"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn wrong_settings_are_refused_by_their_name_and_secrets_not_repeated() {
        let key = ApiKey::generate().text();
        let ledger = |arguments: &[&str]| {
            let base = [
                "--mesh-secret",
                SECRET,
                "--redis-url",
                "redis://127.0.0.1:6379",
            ];
            let arguments: Vec<&str> = base.iter().chain(arguments).copied().collect();
            plan("ledger", &arguments).map(drop)
        };
        assert_eq!(ledger(&["--database-url", "sqlite:a.sqlite"]), Ok(()));
        let postgres = ["--database-url", "postgres://db/caudal"];
        let on_all = [postgres[0], postgres[1], "--listen", "0.0.0.0:7411"];
        assert_eq!(ledger(&postgres), Ok(()));
        for (arguments, named) in [
            (
                vec!["--database-url", "mysql://u:hidden@h"],
                "--database-url",
            ),
            (on_all.to_vec(), "--advertise"),
            (
                [&postgres[..], &["--advertise", "https://x"]].concat(),
                "--advertise",
            ),
            (
                [&postgres[..], &["--bootstrap-api-key", &key]].concat(),
                "--bootstrap-operator-key",
            ),
            (
                [&postgres[..], &["--bootstrap-api-key", "hidden"]].concat(),
                "--bootstrap-api-key",
            ),
        ] {
            let words = ledger(&arguments).unwrap_err();
            assert!(words.contains(named), "{words}");
            assert!(
                !words.contains("hidden") && !words.contains(&key),
                "{words}"
            );
        }
        for (setting, wrong) in [
            ("--mesh-secret", "hidden"),
            ("--ledger", "https://hidden.example"),
            ("--redis-url", "http://hidden"),
            ("--s3-endpoint", "127.0.0.1:9000"),
        ] {
            let mut arguments = without(setting);
            arguments.extend([setting, wrong]);
            let words = plan("upload", &arguments).err().unwrap();
            assert!(
                words.contains(setting) || words.contains("endpoint"),
                "{words}"
            );
            assert!(
                setting == "--ledger" || !words.contains("hidden"),
                "{words}"
            );
        }
        let mut no_page = MESH.to_vec();
        no_page.extend(["--web-dir", "/nowhere"]);
        assert!(
            plan("gateway", &no_page)
                .err()
                .unwrap()
                .contains("--web-dir")
        );
    }
}
