//! What `caudal up` is to run, read and checked before anything is opened or bound.

use std::net::SocketAddr;
use std::path::PathBuf;

use caudal_node::telemetry::TelemetrySettings;
use caudal_objects::ObjectStore;
use caudal_providers::EmbeddingSettings;

use crate::cli::UpArguments;
use crate::failure::Failure;

/// The whole plan.
pub(crate) struct Plan {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) database_url: Option<String>,
    pub(crate) redis: Redis,
    pub(crate) s3: S3,
    pub(crate) embeddings: EmbeddingSettings,
    pub(crate) telemetry: TelemetrySettings,
}

pub(crate) enum Redis {
    Private { executable: Option<PathBuf> },
    External { url: String },
}

pub(crate) enum S3 {
    Embedded { bucket: String, region: String },
    External(Box<caudal_objects::Settings>),
}

impl Plan {
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
        Ok(Self {
            data_dir: arguments.data_dir.clone(),
            listen: arguments.listen,
            database_url: arguments.database_url.clone(),
            redis,
            s3: s3(arguments)?,
            embeddings: EmbeddingSettings::from_variables(|name| std::env::var(name).ok())
                .map_err(|error| Failure::misconfigured(error.to_string()))?,
            telemetry: TelemetrySettings {
                filter: arguments.log.clone(),
                ..TelemetrySettings::default()
            },
        })
    }
}

fn check_database_url(url: &str) -> Result<(), Failure> {
    let is_known = ["sqlite:", "postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    if is_known {
        return Ok(());
    }
    Err(Failure::misconfigured(
        "the database URL must begin with sqlite: or postgres://",
    ))
}

fn check_redis_url(url: &str) -> Result<(), Failure> {
    // Connects with its first command, and there is none. The words never repeat the URL: it may hold a password.
    caudal_streams::Streams::connect(
        url,
        caudal_streams::Names::new(caudal_streams::DEFAULT_PREFIX),
    )
    .map(drop)
    .map_err(|error| Failure::misconfigured(format!("the Redis URL cannot be used: {error}")))
}

fn s3(arguments: &UpArguments) -> Result<S3, Failure> {
    let Some(endpoint) = &arguments.s3_endpoint else {
        return Ok(S3::Embedded {
            bucket: arguments.s3_bucket.clone(),
            region: arguments.s3_region.clone(),
        });
    };
    let (Some(access_key), Some(secret_key)) = (&arguments.s3_access_key, &arguments.s3_secret_key)
    else {
        return Err(Failure::misconfigured(
            "--s3-endpoint needs --s3-access-key and --s3-secret-key",
        ));
    };
    let mut settings =
        caudal_objects::Settings::new(endpoint, &arguments.s3_bucket, access_key, secret_key);
    settings.region.clone_from(&arguments.s3_region);
    settings
        .public_endpoint
        .clone_from(&arguments.s3_public_endpoint);
    // Connecting opens nothing: it only reads the settings.
    ObjectStore::connect(settings.clone())
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    Ok(S3::External(Box::new(settings)))
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
    async fn wrong_addresses_are_refused_before_anything_starts() {
        for wrong in [
            ["--database-url", "mysql://db"],
            ["--redis-url", "http://127.0.0.1:6379"],
        ] {
            assert!(plan(&wrong).is_err(), "{wrong:?}");
        }
        let keys = ["--s3-access-key", "a", "--s3-secret-key", "s"];
        let mut store = vec!["--s3-endpoint", "127.0.0.1:9000"];
        store.extend(keys);
        assert!(plan(&store).is_err());
        store[1] = "http://127.0.0.1:9000";
        assert!(plan(&store).is_ok());
    }
}
