//! What `caudal up` is to run, read and checked before anything is opened or bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use caudal_gateway::TusSettings;
use caudal_node::Certificate;
use caudal_node::telemetry::TelemetrySettings;
use caudal_providers::{EmbeddingSettings, ImageSettings};

use crate::cli::UpArguments;
use crate::failure::Failure;
use crate::provider_limits::ProviderLimits;
use crate::service::gateway::warning_of_the_gateway;
use crate::settings::{DoorArguments, check_database_url, check_redis_url};

/// Where the embedded store listens: on this machine alone, on the port of its data folder.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The whole plan.
pub(crate) struct Plan {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) database_url: Option<String>,
    pub(crate) redis: Redis,
    pub(crate) s3: S3,
    pub(crate) embeddings: EmbeddingSettings,
    pub(crate) images: ImageSettings,
    pub(crate) provider_limits: ProviderLimits,
    pub(crate) landing_delay: Duration,
    pub(crate) always_land: bool,
    pub(crate) tus: TusSettings,
    pub(crate) tls: Option<Certificate>,
    pub(crate) door: DoorArguments,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) telemetry: TelemetrySettings,
}

pub(crate) enum Redis {
    Private { executable: Option<PathBuf> },
    External { url: String },
}

pub(crate) enum S3 {
    Embedded {
        bucket: String,
        region: String,
        listen: SocketAddr,
        public_endpoint: Option<String>,
    },
    External(Box<caudal_objects::Settings>),
}

impl Plan {
    /// What is to be said of an address that other machines reach and no TLS stands behind; nothing where that is in order.
    pub(crate) fn warning(&self) -> Option<String> {
        warning_of_the_gateway(self.listen, self.tls.is_some())
    }

    /// Reads all of it.
    pub(crate) fn of(arguments: &UpArguments) -> Result<Self, Failure> {
        if let Some(url) = &arguments.database_url {
            check_database_url(url)?;
        }
        let redis = match &arguments.redis_url {
            Some(url) => {
                check_redis_url(url)?;
                Redis::External { url: url.clone() }
            }
            None => Redis::Private {
                executable: arguments.redis_server.clone(),
            },
        };
        let s3 = match arguments.store.external()? {
            Some(_) if arguments.s3_listen.is_some() => {
                return Err(Failure::misconfigured(
                    "--s3-listen is for the embedded store, and --s3-endpoint names another: leave one out",
                ));
            }
            Some(settings) => S3::External(Box::new(settings)),
            None => S3::Embedded {
                bucket: arguments.store.s3_bucket.clone(),
                region: arguments.store.s3_region.clone(),
                listen: arguments.s3_listen.unwrap_or(LOOPBACK),
                public_endpoint: arguments.store.public_endpoint(),
            },
        };
        Ok(Self {
            data_dir: arguments.data_dir.clone(),
            listen: arguments.listen,
            database_url: arguments.database_url.clone(),
            redis,
            s3,
            embeddings: EmbeddingSettings::from_variables(|name| std::env::var(name).ok())
                .map_err(|error| Failure::misconfigured(error.to_string()))?,
            images: ImageSettings::from_variables(|name| std::env::var(name).ok())
                .map_err(|error| Failure::misconfigured(error.to_string()))?,
            provider_limits: arguments.provider_limits.limits()?,
            landing_delay: arguments.landing.landing_delay,
            always_land: arguments.always_land.always_land,
            tus: arguments.tus.settings(),
            tls: arguments.tls.certificate()?,
            door: arguments.door,
            metrics_listen: arguments.metrics.metrics_listen,
            telemetry: arguments.telemetry.of("caudal"),
        })
    }
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

    fn plan(arguments: &[&str]) -> Result<Plan, Failure> {
        let cli = Cli::try_parse_from(["caudal", "up"].iter().chain(arguments)).unwrap();
        let Command::Up(arguments) = cli.command else {
            panic!("not up")
        };
        Plan::of(&arguments)
    }

    #[tokio::test]
    async fn alone_it_brings_everything_along() {
        let plan = plan(&[]).unwrap();
        assert!(matches!(plan.redis, Redis::Private { .. }));
        assert!(matches!(plan.s3, S3::Embedded { .. }));
        assert_eq!(plan.database_url, None);
    }

    #[tokio::test]
    async fn an_address_that_others_reach_without_tls_is_warned_of() {
        assert_eq!(plan(&[]).unwrap().warning(), None);
        let words = plan(&["--listen", "0.0.0.0:7410"]).unwrap().warning();
        assert!(words.unwrap().contains("without TLS"));
    }

    #[tokio::test]
    async fn wrong_addresses_are_refused_before_anything_starts() {
        for wrong in [
            ["--database-url", "mysql://db"],
            ["--redis-url", "http://127.0.0.1:6379"],
        ] {
            assert!(plan(&wrong).is_err(), "{wrong:?}");
        }
        let keys = ["--s3-access-key", "a", "--s3-secret-key", "s"];
        assert!(plan(&["--s3-endpoint", "http://127.0.0.1:9000"]).is_err());
        let mut store = vec!["--s3-endpoint", "127.0.0.1:9000"];
        store.extend(keys);
        assert!(plan(&store).is_err());
        store[1] = "http://127.0.0.1:9000";
        assert!(plan(&store).is_ok());
        store.extend(["--s3-listen", "127.0.0.1:9001"]);
        assert!(plan(&store).is_err());
    }

    #[tokio::test]
    async fn the_embedded_store_may_be_given_an_address() {
        let given = plan(&[
            "--s3-listen",
            "0.0.0.0:9001",
            "--s3-public-endpoint",
            "https://objects.example",
        ]);
        let S3::Embedded {
            listen,
            public_endpoint,
            ..
        } = given.unwrap().s3
        else {
            panic!("not embedded")
        };
        assert_eq!(listen.to_string(), "0.0.0.0:9001");
        assert_eq!(public_endpoint.as_deref(), Some("https://objects.example"));
    }
}
