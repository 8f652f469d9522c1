//! `caudal verify`: checks that the database keeps its promises, and that streams and objects agree with it.

use std::path::Path;
use std::process::ExitCode;

use caudal_embedded::{DataFolder, DataFolderError, S3Server, S3Settings, Secrets};
use caudal_ledger::{Invariant, VerifyReport};
use caudal_objects::ObjectStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::answer;
use crate::cli::VerifyArguments;
use crate::failure::{Failure, status};
use crate::settings::{check_database_url, check_redis_url};

/// Where the objects are looked at.
struct Objects {
    store: ObjectStore,
    /// The embedded server, started for the check alone, and the folder that is held meanwhile.
    _embedded: Option<(S3Server, DataFolder)>,
}

pub(crate) async fn run(arguments: VerifyArguments) -> Result<ExitCode, Failure> {
    let database_url = match (&arguments.database_url, &arguments.data_dir) {
        (Some(url), _) => url.clone(),
        (None, Some(folder)) => database_in(folder)?,
        (None, None) => return Err(Failure::misconfigured("give --data-dir or --database-url")),
    };
    check_database_url(&database_url)?;
    if let Some(url) = &arguments.redis_url {
        check_redis_url(url)?;
    }
    let shutdown = CancellationToken::new();
    let objects = objects(&arguments, &shutdown).await?;
    let store = objects.as_ref().map(|objects| &objects.store);
    let report = caudal_ledger::verify(&database_url, arguments.redis_url.as_deref(), store)
        .await
        .map_err(|error| Failure::broken(error.to_string()))?;
    shutdown.cancel();
    answer::text(&words(&report));
    Ok(status(report.holds()))
}

fn database_in(folder: &Path) -> Result<String, Failure> {
    let file = folder.join("ledger.sqlite");
    if !file.is_file() {
        let words = format!(
            "there is no database in {}: is it the data folder of a `caudal up`?",
            folder.display()
        );
        return Err(Failure::misconfigured(words));
    }
    Ok(format!("sqlite:{}", file.display()))
}

async fn objects(
    arguments: &VerifyArguments,
    shutdown: &CancellationToken,
) -> Result<Option<Objects>, Failure> {
    let secrets = arguments
        .data_dir
        .as_deref()
        .map(read_secrets)
        .transpose()?;
    if let Some(endpoint) = &arguments.s3_endpoint {
        let key = |given: &Option<String>, of: fn(&Secrets) -> &String| {
            given
                .clone()
                .or_else(|| secrets.as_ref().map(|secrets| of(secrets).clone()))
        };
        let access_key = key(&arguments.s3_access_key, |secrets| &secrets.s3_access_key);
        let secret_key = key(&arguments.s3_secret_key, |secrets| &secrets.s3_secret_key);
        let (Some(access_key), Some(secret_key)) = (access_key, secret_key) else {
            return Err(Failure::misconfigured(
                "--s3-endpoint needs --s3-access-key and --s3-secret-key",
            ));
        };
        let mut settings =
            caudal_objects::Settings::new(endpoint, &arguments.s3_bucket, access_key, secret_key);
        settings.region.clone_from(&arguments.s3_region);
        return Ok(Some(Objects {
            store: connect(settings)?,
            _embedded: None,
        }));
    }
    let (Some(folder), Some(secrets)) = (&arguments.data_dir, secrets) else {
        return Ok(None);
    };
    let folder = match DataFolder::open(folder) {
        Ok(folder) => folder,
        Err(DataFolderError::Held { .. }) => {
            say!(
                "the system is running: give the addresses it printed as --s3-endpoint and --redis-url to have them checked too"
            );
            return Ok(None);
        }
        Err(error) => return Err(Failure::broken(error.to_string())),
    };
    let settings = S3Settings::new(
        folder.objects(),
        &secrets.s3_access_key,
        &secrets.s3_secret_key,
        &arguments.s3_bucket,
    );
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| Failure::broken(error.to_string()))?;
    let server = S3Server::start(settings, listener, shutdown.clone())
        .await
        .map_err(|error| Failure::broken(error.to_string()))?;
    let settings = caudal_objects::Settings::new(
        server.endpoint(),
        &arguments.s3_bucket,
        secrets.s3_access_key,
        secrets.s3_secret_key,
    );
    Ok(Some(Objects {
        store: connect(settings)?,
        _embedded: Some((server, folder)),
    }))
}

fn connect(settings: caudal_objects::Settings) -> Result<ObjectStore, Failure> {
    ObjectStore::connect(settings).map_err(|error| Failure::misconfigured(error.to_string()))
}

pub(crate) fn read_secrets(folder: &Path) -> Result<Secrets, Failure> {
    let path = folder.join("secrets.json");
    let read = |error: &dyn std::fmt::Display| {
        Failure::misconfigured(format!("cannot read {}: {error}", path.display()))
    };
    let text = std::fs::read(&path).map_err(|error| read(&error))?;
    serde_json::from_slice(&text).map_err(|error| read(&error))
}

fn words(report: &VerifyReport) -> String {
    let mut text = format!("{} batches, {} files\n", report.batches, report.files);
    for invariant in Invariant::ALL {
        let name = invariant.name();
        let line = match (
            report.broken.get(&invariant),
            report.checked.get(&invariant),
        ) {
            (Some(broken), _) => format!("{name:<14} BROKEN {broken} times\n"),
            (None, Some(checked)) => format!("{name:<14} holds, checked on {checked}\n"),
            (None, None) => format!("{name:<14} not checked\n"),
        };
        text.push_str(&line);
        let violations = report
            .violations
            .iter()
            .filter(|violation| violation.invariant == invariant);
        for violation in violations {
            text.push_str(&format!("  {}\n", violation.words));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_ledger::Violation;

    #[test]
    fn every_invariant_has_its_line_and_a_broken_one_its_violations() {
        let mut report = VerifyReport {
            batches: 1,
            files: 3,
            ..VerifyReport::default()
        };
        report.checked.insert(Invariant::Terminal, 3);
        report.broken.insert(Invariant::Counters, 1);
        report.violations.push(Violation {
            invariant: Invariant::Counters,
            words: "batches/x counts 3 processed, there are 2".into(),
        });
        let text = words(&report);
        assert_eq!(text.lines().count(), 1 + Invariant::ALL.len() + 1);
        assert!(
            text.contains("I1 terminal    holds, checked on 3"),
            "{text}"
        );
        assert!(
            text.contains("I4 counters    BROKEN 1 times\n  batches/x"),
            "{text}"
        );
        assert!(text.contains("I6 bytes       not checked"), "{text}");
    }
}
