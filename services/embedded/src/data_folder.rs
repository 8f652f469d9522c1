//! The folder a one-process system keeps everything in. One process at a time: two would hand the same rows out twice.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::random_hex;

const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// The ports a new folder chooses among for its object store: below those that systems give to outgoing connections, so
/// that none of these sits on it when the store comes back.
const STORE_PORTS: std::ops::Range<u16> = 24_000..30_000;
/// How many of them are tried.
const STORE_PORTS_TRIED: u32 = 200;

/// A data folder, held exclusively until this value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    /// The lock lives as long as this descriptor. It is opened close-on-exec, so no child inherits it.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder where it is missing (readable by its owner alone) and takes its lock.
    ///
    /// # Errors
    /// [`DataFolderError::Held`] names the process that holds the folder; [`DataFolderError::Io`] says what could not be
    /// created or opened.
    pub fn open(path: impl AsRef<Path>) -> Result<DataFolder, DataFolderError> {
        let asked = path.as_ref();
        create_private_folder(asked)?;
        let root = fs::canonicalize(asked).map_err(|error| DataFolderError::io(asked, error))?;
        let lock_path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&lock_path)
            .map_err(|error| DataFolderError::io(&lock_path, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DataFolderError::Held {
                    folder: root,
                    holder: holder(&mut lock),
                });
            }
            Err(errno) => return Err(DataFolderError::io(&lock_path, errno.into())),
        }
        write_holder(&mut lock).map_err(|error| DataFolderError::io(&lock_path, error))?;
        for folder in [root.join("objects"), root.join("redis")] {
            create_private_folder(&folder)?;
        }
        Ok(DataFolder { root, _lock: lock })
    }

    /// The folder itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the embedded S3 server keeps its objects; exists.
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Where the redis child works and logs; exists.
    pub fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    /// Keeps the URL of the private redis-server, with its password, where its owner alone can read it.
    pub fn keep_redis_url(&self, url: &str) -> Result<(), DataFolderError> {
        let path = self.redis().join("url");
        write_whole(&path, url.as_bytes()).map_err(|error| DataFolderError::io(&path, error))
    }

    /// The file of the embedded database; may not exist yet.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.sqlite")
    }

    /// Listens where clients reach the object store of this folder. Port 0 is the folder's own: chosen once and kept, because
    /// URLs that were given out and pages that are open name it. Where another program has taken it meanwhile, the folder
    /// takes a new one. The listener does not block, as an async runtime wants it.
    ///
    /// # Errors
    /// [`DataFolderError::Listen`] for a port that was asked for and is not free, or when there is no free one.
    pub fn store_listener(&self, at: SocketAddr) -> Result<TcpListener, DataFolderError> {
        let refused = |source| DataFolderError::Listen { at, source };
        if at.port() != 0 {
            return bind(at).map_err(refused);
        }
        let path = self.root.join("store-port");
        let kept = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(port) = kept {
            match bind((at.ip(), port).into()) {
                Ok(listener) => return Ok(listener),
                Err(error) => tracing::warn!(
                    port,
                    %error,
                    "the object store's port is taken: it moves to another, and URLs given out before are void"
                ),
            }
        }
        let listener = free_store_port(at.ip()).map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        write_whole(&path, format!("{port}\n").as_bytes())
            .map_err(|error| DataFolderError::io(&path, error))?;
        Ok(listener)
    }

    /// The secrets of this folder: read from `secrets.json`, or made by `make` and written there (readable by the owner
    /// alone) when the folder is opened for the first time.
    ///
    /// # Errors
    /// [`DataFolderError::Io`], or [`DataFolderError::Secrets`] when the file is not what this program wrote.
    pub fn secrets(&self, make: impl FnOnce() -> Secrets) -> Result<Secrets, DataFolderError> {
        let path = self.root.join("secrets.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = make();
                write_secrets(&path, &made).map_err(|error| DataFolderError::io(&path, error))?;
                return Ok(made);
            }
            Err(error) => return Err(DataFolderError::io(&path, error)),
        };
        fs::set_permissions(&path, Permissions::from_mode(PRIVATE_FILE))
            .map_err(|error| DataFolderError::io(&path, error))?;
        serde_json::from_slice(&text).map_err(|source| DataFolderError::Secrets { path, source })
    }
}

/// What the parts of a one-process system prove themselves to each other with. Printed nowhere: `Debug` hides it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    /// Signs scopes between the services: 64 hex digits.
    pub mesh_secret: String,
    /// The embedded S3 server's access key.
    pub s3_access_key: String,
    /// The embedded S3 server's secret key.
    pub s3_secret_key: String,
    /// The first tenant's API key, as its user types it.
    pub api_key: String,
    /// The operator's key, as its user types it.
    pub operator_key: String,
}

impl Secrets {
    /// New random secrets around the two keys, whose form the gateway decides.
    pub fn random(api_key: String, operator_key: String) -> Secrets {
        Secrets {
            mesh_secret: random_hex(32),
            s3_access_key: format!("CAUDAL{}", random_hex(7).to_uppercase()),
            s3_secret_key: random_hex(20),
            api_key,
            operator_key,
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Why a data folder could not be opened.
#[derive(Debug, Error)]
pub enum DataFolderError {
    /// Another process works in the folder.
    #[error(
        "the data folder {} is in use by {}: stop that process or choose another folder",
        folder.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The folder asked for.
        folder: PathBuf,
        /// The process that holds it, where it has written its number.
        holder: Option<u32>,
    },
    /// The file system refused.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The object store cannot listen there.
    #[error("the object store cannot listen on {at}: {source}; choose another with --s3-listen")]
    Listen {
        /// The address asked for.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// `secrets.json` cannot be read.
    #[error("{} is not a file of secrets of this version: {source}", path.display())]
    Secrets {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl DataFolderError {
    fn io(path: &Path, source: io::Error) -> Self {
        DataFolderError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

fn create_private_folder(path: &Path) -> Result<(), DataFolderError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)
        .map_err(|error| DataFolderError::io(path, error))
}

fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn write_secrets(path: &Path, secrets: &Secrets) -> io::Result<()> {
    write_whole(path, &serde_json::to_vec_pretty(secrets)?)
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn free_store_port(ip: IpAddr) -> io::Result<TcpListener> {
    for _ in 0..STORE_PORTS_TRIED {
        let port = rand::RngExt::random_range(&mut rand::rng(), STORE_PORTS);
        if let Ok(listener) = bind((ip, port).into()) {
            return Ok(listener);
        }
    }
    bind((ip, 0).into())
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_second_opener_is_refused_and_told_who_holds_the_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let first = DataFolder::open(&path).unwrap();
        let refused = DataFolder::open(&path).unwrap_err();
        assert!(
            matches!(refused, DataFolderError::Held { holder: Some(pid), .. } if pid == std::process::id()),
            "{refused}"
        );
        drop(first);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn the_folder_and_its_secrets_are_readable_by_their_owner_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(temporary.path().join("deep/data")).unwrap();
        folder
            .secrets(|| Secrets::random("a".to_owned(), "o".to_owned()))
            .unwrap();
        assert_eq!(mode(folder.root()), 0o700);
        assert_eq!(mode(&folder.objects()), 0o700);
        assert_eq!(mode(&folder.root().join("secrets.json")), 0o600);
    }

    #[test]
    fn secrets_are_made_once_and_read_ever_after() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(temporary.path()).unwrap();
        let made = folder
            .secrets(|| Secrets::random("key".to_owned(), "operator".to_owned()))
            .unwrap();
        let read = folder.secrets(|| unreachable!("they exist")).unwrap();
        assert_eq!(made.mesh_secret, read.mesh_secret);
        assert_eq!(read.api_key, "key");
        assert!(!format!("{read:?}").contains(&read.s3_secret_key));
    }

    #[test]
    fn the_store_listens_where_it_did_before() {
        let temporary = tempfile::tempdir().unwrap();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = |folder: &DataFolder| folder.store_listener(anywhere).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let folder = DataFolder::open(temporary.path()).unwrap();
        let first = listen(&folder);
        let kept = port(&first);
        drop((first, folder));
        let folder = DataFolder::open(temporary.path()).unwrap();
        assert_eq!(port(&listen(&folder)), kept);

        // Another program is there now: the folder moves, and stays where it moved.
        let other = TcpListener::bind(("127.0.0.1", kept)).unwrap();
        let moved = port(&listen(&folder));
        assert_ne!(moved, kept);
        drop(other);
        assert_eq!(port(&listen(&folder)), moved);
    }

    #[test]
    fn a_port_that_was_asked_for_is_taken_or_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(temporary.path()).unwrap();
        let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let refused = folder.store_listener(other.local_addr().unwrap());
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("--s3-listen"), "{words}");
    }
}
