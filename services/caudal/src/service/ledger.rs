//! The ledger, and the lock on its SQLite file.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use caudal_gateway::key::ApiKey;
use caudal_ledger::{KeyRecord, Ledger, LedgerSettings};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::service::parts::Part;
use crate::service::{Started, cannot_start, listen, reached_at};

/// Its owner reads and writes it, and nobody else.
const PRIVATE_FILE: u32 = 0o600;

/// Starts it; it leads, or stands by while another does.
pub(crate) async fn start(
    settings: LedgerSettings,
    address: SocketAddr,
) -> Result<Started, Failure> {
    let database = hold_database(&settings.database_url)?;
    let listener = listen(address).await?;
    let stop = CancellationToken::new();
    let ledger = Ledger::start(settings, listener, stop.clone())
        .await
        .map_err(|error| cannot_start("the ledger", &error))?;
    Ok(Started {
        address: reached_at(ledger.address()),
        part: Part::new("the ledger", stop, async move {
            let ended = ledger.join().await;
            drop(database);
            ended
        }),
    })
}

/// What is kept of a key whose text is known.
pub(crate) fn key_record(key: &ApiKey) -> KeyRecord {
    KeyRecord {
        id: key.id().to_owned(),
        secret_sha256: key.secret_sha256(),
    }
}

/// A SQLite file has one ledger, which leads without asking anybody: a second one is kept off by a lock beside the file,
/// held until the process ends. A Postgres has as many ledgers as wanted.
fn hold_database(url: &str) -> Result<Option<File>, Failure> {
    let Some(database) = sqlite_file(url) else {
        return Ok(None);
    };
    let mut path = database.clone().into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::misconfigured(format!("cannot use {}: {error}", path.display()))
    };
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| cannot(&error))?;
    match lock.try_lock() {
        Ok(()) => {
            make_private(&database).map_err(|error| {
                Failure::misconfigured(format!("cannot use {}: {error}", database.display()))
            })?;
            Ok(Some(lock))
        }
        Err(TryLockError::WouldBlock) => Err(Failure::misconfigured(format!(
            "another ledger works on {}: stop it, or give this one a database of its own; several ledgers need Postgres",
            database.display()
        ))),
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

/// Makes a database that is not there yet, for its owner alone: what stands beside it later is as private as itself.
fn make_private(database: &Path) -> std::io::Result<()> {
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(database);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

fn sqlite_file(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    (path != ":memory:").then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_new_sqlite_file_is_for_its_owner_alone_and_an_old_one_is_left_as_it_is() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.sqlite");
        let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        let url = format!("sqlite:{}", file.display());
        drop(hold_database(&url).unwrap());
        assert_eq!(mode(), PRIVATE_FILE);
        std::fs::write(&file, "rows").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        drop(hold_database(&url).unwrap());
        assert_eq!((mode(), std::fs::read(&file).unwrap().len()), (0o640, 4));
    }

    // Protocol 9: two that write to one database would hand the same rows out twice.
    #[test]
    fn a_sqlite_file_has_one_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.sqlite");
        let url = format!("sqlite:{}", file.display());
        let first = hold_database(&url).unwrap();
        let same = format!("sqlite://{}?mode=rwc", file.display());
        assert!(hold_database(&same).is_err());
        drop(first);
        assert!(hold_database(&same).unwrap().is_some());
        assert!(hold_database("postgres://db/caudal").unwrap().is_none());
        assert!(hold_database("sqlite::memory:").unwrap().is_none());
    }
}
