//! What a ledger is started with.

use std::collections::HashMap;
use std::time::Duration;

use caudal_domain::{Stage, limits};
use serde::{Deserialize, Serialize};

/// Configuration of a ledger.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// `sqlite:FILE` or `postgres://…`.
    pub database_url: String,
    /// `redis://…`
    pub redis_url: String,
    /// Prefix of every name in Redis.
    pub redis_prefix: String,
    /// Address under which callers reach this ledger; stands in the leadership row.
    pub address: String,
    /// Shared by the services of the mesh: signs and checks scopes.
    pub mesh_secret: caudal_node::scope::MeshSecret,
    /// The certificates of the mesh; without them it speaks without TLS.
    pub tls: Option<caudal_node::MeshTls>,
    /// Where its metrics are shown; beside its calls when left out.
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// The object store, asked for the bytes of files that were given up before they are asked of the client again. Left
    /// out: they are always asked of the client.
    pub objects: Option<caudal_objects::Settings>,
    /// Makes the first tenant and keys, when given.
    pub bootstrap: Option<Bootstrap>,
    /// How many files may be out at once.
    pub windows: DispatchWindows,
    /// Limits of tenants that have none of their own.
    pub tenant_limits: TenantLimits,
    /// How long the leadership lasts unrenewed: another ledger takes over that long after the active one fell silent.
    pub term: Duration,
    /// How long a lease lives without renewal; processes renew after a third of it.
    pub lease: Duration,
    /// How often the reconciler compares rows with streams.
    pub reconcile_every: Duration,
    /// How long a dispatch may be out before the reconciler looks after it.
    pub reconcile_age: Duration,
    /// How long changes are kept for watchers that come back.
    pub keep_changes: Duration,
    /// How long an OPEN batch may lie untouched before the system completes it.
    pub batch_idle: Duration,
    /// How long a batch waits for bytes after a client's last call, before the store is asked for them and what is not there
    /// is given up.
    pub upload_deadline: Duration,
    /// How long after a file was given up the store is asked once more: the last URL has expired by then.
    pub look_again_after: Duration,
    /// How long after its end a batch is looked through for objects that nothing reaches any more.
    pub collect_after: Duration,
    /// How often ended batches are looked for.
    pub collect_every: Duration,
    /// Rows that one group of the writer takes at most.
    pub group_rows: usize,
    /// Verbs that may wait for the writer; beyond it callers wait.
    pub writer_queue: usize,
}

impl LedgerSettings {
    /// The defaults around what cannot be defaulted.
    #[must_use]
    pub fn new(
        database_url: impl Into<String>,
        redis_url: impl Into<String>,
        mesh_secret: caudal_node::scope::MeshSecret,
    ) -> Self {
        Self {
            database_url: database_url.into(),
            redis_url: redis_url.into(),
            redis_prefix: caudal_streams::DEFAULT_PREFIX.to_owned(),
            address: String::new(),
            mesh_secret,
            tls: None,
            metrics_listen: None,
            objects: None,
            bootstrap: None,
            windows: DispatchWindows::default(),
            tenant_limits: TenantLimits::default(),
            term: Duration::from_secs(6),
            lease: limits::LEASE,
            reconcile_every: Duration::from_secs(1),
            reconcile_age: limits::RECONCILE_AGE,
            keep_changes: Duration::from_secs(7 * 24 * 60 * 60),
            batch_idle: limits::BATCH_IDLE_TIMEOUT,
            upload_deadline: limits::UPLOAD_DEADLINE,
            look_again_after: limits::UPLOAD_URL_VALIDITY + limits::UPLOAD_TRANSFER,
            collect_after: limits::UPLOAD_URL_VALIDITY + limits::UPLOAD_TRANSFER,
            collect_every: Duration::from_secs(60),
            group_rows: 2_000,
            writer_queue: 4_096,
        }
    }
}

/// The first tenant and the first keys: what a new installation needs to be used at all.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Name of the tenant.
    pub tenant_name: String,
    /// A key of an admin of that tenant.
    pub api_key: KeyRecord,
    /// An operator's key.
    pub operator_key: KeyRecord,
}

/// What is kept of a key: never its secret.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Stands in the key's text.
    pub id: String,
    /// sha256 of the secret part.
    pub secret_sha256: [u8; 32],
}

/// How many files may be out at once: about two seconds of a stage's work, so that its stream stays short whatever the
/// backlog.
#[derive(Clone, Debug)]
pub struct DispatchWindows {
    /// By stage.
    pub of_stage: HashMap<Stage, u32>,
    /// Of one tenant, over all stages, where it has no limit of its own. As many as all stages take: alone it may fill them.
    pub of_tenant: u32,
}

impl Default for DispatchWindows {
    fn default() -> Self {
        let of_stage: HashMap<Stage, u32> =
            HashMap::from(Stage::ALL.map(|stage| (stage, stage.profile().window)));
        Self {
            of_tenant: of_stage.values().sum(),
            of_stage,
        }
    }
}

impl DispatchWindows {
    /// How many files may be out at a stage; none where nothing is said of it.
    pub(crate) fn of(&self, stage: Stage) -> u32 {
        self.of_stage.get(&stage).copied().unwrap_or_default()
    }

    /// Sets the windows of some stages; one tenant alone may fill them all.
    pub fn set(&mut self, windows: impl IntoIterator<Item = (Stage, u32)>) {
        self.of_stage.extend(windows);
        self.of_tenant = self
            .of_stage
            .values()
            .fold(0, |sum, window| sum.saturating_add(*window));
    }

    /// How many dispatches one entry of a stage's stream carries: what its row says, and more where it has a wider window
    /// than its row says, for then it is faster. Four entries at least share a narrow one.
    pub(crate) fn packed(&self, stage: Stage) -> usize {
        let usual = stage.profile();
        let window = self.of_stage.get(&stage).copied().unwrap_or(usual.window);
        let wider = usize::try_from(window / usual.window).unwrap_or(1).max(1);
        let quarter = usize::try_from(window / 4).unwrap_or(usize::MAX);
        (usual.pack * wider)
            .min(quarter)
            .clamp(1, limits::MAX_DISPATCHES_PER_ENTRY)
    }
}

/// What a tenant may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Bytes, over all batches.
    pub stored_bytes: u64,
    /// Files, over all batches.
    pub files: u64,
    /// Folders, over all batches.
    pub folders: u64,
    /// Files of one batch.
    pub files_per_batch: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Batches that are OPEN at once.
    pub open_batches: u64,
    /// Bulk operations that run at once.
    pub operations: u64,
    /// What gateways keep.
    pub door: DoorLimits,
}

/// The limits of a tenant that gateways keep. `None`: it has none of its own, and the gateways and the limiter have theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorLimits {
    /// Manifest entries a second.
    pub entries_per_second: Option<u64>,
    /// Calls a second.
    pub calls_per_second: Option<u64>,
    /// Streams at once, at each gateway.
    pub streams: Option<u64>,
    /// Expensive reads at once, at each gateway.
    pub expensive_reads: Option<u64>,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            stored_bytes: 1 << 50,
            files: 1 << 40,
            folders: 1 << 40,
            files_per_batch: u64::from(limits::MAX_FILES_PER_BATCH),
            file_bytes: limits::MAX_FILE_BYTES,
            open_batches: limits::OPEN_BATCHES,
            operations: limits::RUNNING_OPERATIONS,
            door: DoorLimits::default(),
        }
    }
}

/// The members of a tenant's own limits; absent ones mean the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OwnLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stored_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folders: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files_per_batch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entries_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calls_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_batches: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) streams: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expensive_reads: Option<u64>,
    /// Over the installation's window of a tenant, and kept by the dispatcher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dispatched_files: Option<u64>,
}

impl OwnLimits {
    /// As they stand in a tenant's row.
    ///
    /// # Errors
    /// What stands there cannot be read: the defaults may be more than the tenant was given.
    pub(crate) fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The same, to be stored.
    pub(crate) fn to_json(self) -> String {
        serde_json::to_string(&self).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Over the defaults.
    pub(crate) fn over(self, defaults: &TenantLimits) -> TenantLimits {
        let door = defaults.door;
        TenantLimits {
            stored_bytes: self.stored_bytes.unwrap_or(defaults.stored_bytes),
            files: self.files.unwrap_or(defaults.files),
            folders: self.folders.unwrap_or(defaults.folders),
            files_per_batch: self.files_per_batch.unwrap_or(defaults.files_per_batch),
            file_bytes: self.file_bytes.unwrap_or(defaults.file_bytes),
            open_batches: self.open_batches.unwrap_or(defaults.open_batches),
            operations: self.operations.unwrap_or(defaults.operations),
            door: DoorLimits {
                entries_per_second: self.entries_per_second.or(door.entries_per_second),
                calls_per_second: self.calls_per_second.or(door.calls_per_second),
                streams: self.streams.or(door.streams),
                expensive_reads: self.expensive_reads.or(door.expensive_reads),
            },
        }
    }
}

impl TenantLimits {
    /// A tenant's own limits, as they stand in its row, over the defaults.
    ///
    /// # Errors
    /// What stands there cannot be read: the defaults may be more than the tenant was given.
    pub(crate) fn from_json(text: &str, defaults: &Self) -> Result<Self, serde_json::Error> {
        Ok(OwnLimits::from_json(text)?.over(defaults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_read_are_not_taken_for_the_defaults() {
        let defaults = TenantLimits::default();
        let none = TenantLimits::from_json("{}", &defaults);
        assert_eq!(none.map(|limits| limits.files).ok(), Some(defaults.files));
        assert!(TenantLimits::from_json("{\"files\": \"ten\"}", &defaults).is_err());
        assert!(TenantLimits::from_json("", &defaults).is_err());
    }

    #[test]
    fn a_wider_window_packs_more_files_into_a_message_and_lets_a_tenant_fill_it() {
        let mut windows = DispatchWindows::default();
        assert_eq!(windows.packed(Stage::Upload), 16);
        assert_eq!(windows.packed(Stage::Embeddings), 1);
        windows.set([
            (Stage::Embeddings, 1_024),
            (Stage::Upload, 1_000_000),
            (Stage::ExtractText, 8),
            (Stage::Metadata, 1),
        ]);
        assert_eq!(windows.packed(Stage::Embeddings), 4);
        assert_eq!(
            windows.packed(Stage::Upload),
            limits::MAX_DISPATCHES_PER_ENTRY
        );
        assert_eq!(windows.packed(Stage::ExtractText), 2);
        assert_eq!(windows.packed(Stage::Metadata), 1);
        let all: u32 = windows.of_stage.values().sum();
        assert_eq!(windows.of_tenant, all);
    }
}
