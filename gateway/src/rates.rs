//! Tier 1 at the door: how many calls and manifest entries a tenant may send a second. The limiter decides, in blocks;
//! while it is away each gateway lets a local share through, so that nothing stops.

use caudal_domain::TenantId;
use caudal_domain::limits::MAX_ENTRIES_PER_PAGE;
use caudal_node::MeshChannel;
use caudal_node::permits::{PermitBlocks, PermitSettings};
use caudal_proto::mesh::v1::PermitKind;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_proto::status::to_status;
use tonic::Status;

use crate::door_limits::DoorBook;

const CALLS_A_BLOCK: u32 = 100;
/// What a tenant may use a second of this gateway while the limiter is away: what all grant together by default.
const LOCAL_CALLS_PER_SECOND: f64 = 200.0;
const ENTRIES_A_BLOCK: u32 = 5 * MAX_ENTRIES_PER_PAGE as u32;
/// Never less than one page: a page is taken whole or not at all.
const LOCAL_ENTRIES_PER_SECOND: f64 = 10.0 * MAX_ENTRIES_PER_PAGE as f64;

/// Permits of tenants.
#[derive(Clone)]
pub(crate) struct Rates {
    calls: PermitBlocks,
    entries: PermitBlocks,
    book: DoorBook,
}

impl Rates {
    pub(crate) fn new(limiter: MeshChannel, book: DoorBook) -> Self {
        let limiter = LimiterServiceClient::new(limiter);
        let calls = PermitSettings {
            kind: PermitKind::Calls,
            block: CALLS_A_BLOCK,
            local_share_per_second: LOCAL_CALLS_PER_SECOND,
            process: String::new(),
        };
        let entries = PermitSettings {
            kind: PermitKind::Entries,
            block: ENTRIES_A_BLOCK,
            local_share_per_second: LOCAL_ENTRIES_PER_SECOND,
            process: String::new(),
        };
        Self {
            calls: PermitBlocks::new(limiter.clone(), calls),
            entries: PermitBlocks::new(limiter, entries),
            book,
        }
    }

    /// One call.
    pub(crate) async fn call(&self, tenant: TenantId) -> Result<(), Status> {
        let own = own(self.book.limits(tenant).calls_per_second);
        self.calls
            .require_at(&tenant.to_string(), 1, "calls", own)
            .await
            .map_err(|refusal| to_status(&refusal))
    }

    /// A page of entries.
    pub(crate) async fn entries(&self, tenant: TenantId, count: u32) -> Result<(), Status> {
        let own = own(self.book.limits(tenant).entries_per_second);
        let granted = self
            .entries
            .require_at(&tenant.to_string(), count, "manifest entries", own)
            .await;
        granted.map_err(|refusal| to_status(&refusal))
    }
}

/// A rate of the tenant's own, if it has one.
fn own(per_second: u32) -> Option<u32> {
    (per_second > 0).then_some(per_second)
}
