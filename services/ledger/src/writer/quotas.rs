//! What a tenant may keep, held against what a page of a manifest asks for.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId, limits};

use crate::settings::TenantLimits;
use crate::store::tenancy::Open;
use crate::store::tenants::TenantRow;
use crate::writer::group::Group;

/// When somebody who has as much under way as it may can ask again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a batch holds.
#[derive(Clone, Copy, Default)]
pub(super) struct InBatch {
    pub(super) files: u64,
    pub(super) folders: u64,
}

/// What a page asks of the quotas.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) folders: u64,
}

impl Group<'_> {
    /// What a tenant may keep: its own limits, or the defaults.
    pub(super) fn limits_of(&self, tenant: TenantId) -> Result<TenantLimits, Refusal> {
        let defaults = &self.memory.settings.tenant_limits;
        let own = self.rows.tenant(tenant).map_or("{}", |row| &row.limits);
        TenantLimits::from_json(own, defaults).map_err(|error| {
            tracing::error!(%error, %tenant, "the limits of a tenant cannot be read: it gets no files until they are mended");
            self.memory.metrics.defects.inc();
            Refusal::internal()
        })
    }

    /// A tenant that takes in what its callers bring. A scope of one that is closed lives a moment longer than it.
    pub(super) fn open_tenant(&self, tenant: TenantId) -> Result<&TenantRow, Refusal> {
        let open = |row: &&TenantRow| !row.closed || planted!(ClosedTenantTakesWork);
        self.rows.tenant(tenant).filter(open).ok_or_else(|| {
            Refusal::unauthenticated(
                "the tenant of this credential does not exist any more, or is closed",
            )
        })
    }

    /// Whether a tenant may have one more batch open. Those that another group makes at the same moment are not counted.
    pub(super) fn may_open(&self, tenant: TenantId) -> Result<(), Refusal> {
        let made = self.rows.batches().filter(|(batch, loaded)| {
            batch.tenant == tenant && loaded.made.is_some() && !loaded.row.facts.manifest_complete
        });
        let open = self.opened(tenant, Open::Batches, made.count());
        one_more("open_batches", self.limits_of(tenant)?.open_batches, open)
    }

    /// Whether a tenant may have one more operation under way, in the same way.
    pub(super) fn may_start(&self, tenant: TenantId) -> Result<(), Refusal> {
        let started = self.effects.new_operations.iter();
        let started = started.filter(|row| row.tenant == tenant).count();
        let running = self.opened(tenant, Open::Operations, started);
        // They end by themselves, unlike all that is stored.
        one_more("operations", self.limits_of(tenant)?.operations, running)
            .map_err(|refusal| refusal.with_retry_after(TRY_AGAIN_AFTER))
    }

    fn opened(&self, tenant: TenantId, open: Open, in_group: usize) -> u64 {
        let before = self.loaded.open.get(&(tenant, open));
        before
            .copied()
            .unwrap_or_default()
            .saturating_add(in_group as u64)
    }
}

fn one_more(subject: &str, limit: u64, used: u64) -> Result<(), Refusal> {
    if used < limit {
        return Ok(());
    }
    Err(Refusal::quota_exceeded(subject, limit, used, 1))
}

/// Whether the tenant may keep files of these sizes too. The sizes are a client's: each is looked at before it is added, and
/// no sum passes what the database can keep.
pub(super) fn within_quotas(
    limits: &TenantLimits,
    tenant: &TenantRow,
    in_batch: InBatch,
    sizes: impl Iterator<Item = u64>,
    new_folders: u64,
) -> Result<Asked, Refusal> {
    const MOST_KEPT: u64 = i64::MAX as u64;
    let mut asked = Asked {
        files: 0,
        bytes: 0,
        folders: new_folders,
    };
    for size in sizes {
        if size > limits.file_bytes {
            return Err(Refusal::quota_exceeded(
                "file_bytes",
                limits.file_bytes,
                0,
                size,
            ));
        }
        asked.files = asked.files.saturating_add(1);
        asked.bytes = asked.bytes.saturating_add(size);
    }
    let files_per_batch = limits
        .files_per_batch
        .min(limits::MAX_FILES_PER_BATCH.into());
    let folders_per_batch = limits::MAX_FOLDERS_PER_BATCH.into();
    for (subject, limit, used, more) in [
        (
            "files_per_batch",
            files_per_batch,
            in_batch.files,
            asked.files,
        ),
        (
            "folders_per_batch",
            folders_per_batch,
            in_batch.folders,
            new_folders,
        ),
        ("files", limits.files, tenant.used_files, asked.files),
        (
            "folders",
            limits.folders,
            tenant.used_folders,
            asked.folders,
        ),
        (
            "stored_bytes",
            limits.stored_bytes,
            tenant.used_bytes,
            asked.bytes,
        ),
    ] {
        let fits = used
            .checked_add(more)
            .is_some_and(|sum| sum <= limit.min(MOST_KEPT));
        if more > 0 && !fits && !planted!(LimitIgnored) {
            return Err(Refusal::quota_exceeded(subject, limit, used, more));
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::TenantId;

    use super::*;

    fn tenant(used_files: u64, used_bytes: u64) -> TenantRow {
        TenantRow {
            used_bytes,
            used_files,
            ..TenantRow::new(TenantId::from_uuid(uuid::Uuid::nil()), String::new(), 1)
        }
    }

    fn full(limits: &TenantLimits, tenant: &TenantRow, sizes: &[u64]) -> String {
        let in_batch = InBatch::default();
        let refusal =
            within_quotas(limits, tenant, in_batch, sizes.iter().copied(), 0).unwrap_err();
        refusal.quota[0].subject.clone()
    }

    #[test]
    fn no_size_that_a_client_names_overflows_a_quota() {
        let limits = TenantLimits::default();
        let none = tenant(0, 0);
        assert_eq!(full(&limits, &none, &[i64::MAX as u64; 3]), "file_bytes");
        assert_eq!(full(&limits, &none, &[u64::MAX; 3]), "file_bytes");
        let boundless = TenantLimits {
            stored_bytes: u64::MAX,
            files: u64::MAX,
            files_per_batch: u64::MAX,
            file_bytes: u64::MAX,
            ..TenantLimits::default()
        };
        assert_eq!(full(&boundless, &none, &[u64::MAX; 3]), "stored_bytes");
        let nearly = tenant(0, i64::MAX as u64 - 1);
        assert_eq!(full(&boundless, &nearly, &[2]), "stored_bytes");
        let most = tenant(u64::MAX, 0);
        assert_eq!(full(&boundless, &most, &[0]), "files");
        let fits = within_quotas(&boundless, &nearly, InBatch::default(), [1].into_iter(), 0);
        assert_eq!(
            fits.unwrap(),
            Asked {
                files: 1,
                bytes: 1,
                folders: 0
            }
        );
    }

    #[test]
    fn a_batch_has_so_many_files_and_folders_and_no_more_whatever_a_tenant_may_keep() {
        let boundless = TenantLimits {
            files_per_batch: u64::MAX,
            ..TenantLimits::default()
        };
        let none = tenant(0, 0);
        let subject = |in_batch: InBatch, sizes: &[u64], folders: u64| {
            let sizes = sizes.iter().copied();
            let refusal = within_quotas(&boundless, &none, in_batch, sizes, folders);
            refusal
                .err()
                .map(|refusal| refusal.quota[0].subject.clone())
        };
        let filled = InBatch {
            files: limits::MAX_FILES_PER_BATCH.into(),
            folders: limits::MAX_FOLDERS_PER_BATCH.into(),
        };
        assert_eq!(subject(filled, &[1], 0).as_deref(), Some("files_per_batch"));
        assert_eq!(
            subject(filled, &[], 1).as_deref(),
            Some("folders_per_batch")
        );
        // A page of what is known already asks for nothing.
        assert_eq!(subject(filled, &[], 0), None);
    }
}
