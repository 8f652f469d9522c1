//! Tier-3 permits for a provider, from the limiter.

use std::time::Duration;

use caudal_node::MeshChannel;
use caudal_node::permits::{Permit, PermitBlocks, PermitSettings};
use caudal_proto::mesh::v1::PermitKind;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_providers::{Permitted, ProviderPermits, Throttled};
use tokio_util::task::TaskTracker;

/// What this process may use a second while the limiter is away: eight of them together stay below what it grants to all.
const LOCAL_REQUESTS_PER_SECOND: u32 = 5;
const LOCAL_TOKENS_PER_SECOND: u32 = 2_000;
const REQUESTS_A_BLOCK: u32 = 10;
const TOKENS_A_BLOCK: u32 = 20_000;
/// A shorter wait happens here; a longer one sends the file back to wait where waiting costs nothing.
const LONGEST_WAIT_HERE: Duration = Duration::from_secs(5);

/// Permits of one provider.
pub(crate) struct LimiterPermits {
    provider: String,
    requests: PermitBlocks,
    tokens: PermitBlocks,
    tasks: TaskTracker,
}

impl LimiterPermits {
    pub(crate) fn new(provider: impl Into<String>, limiter: MeshChannel) -> Self {
        let limiter = LimiterServiceClient::new(limiter);
        let requests = PermitSettings {
            kind: PermitKind::ProviderRequests,
            block: REQUESTS_A_BLOCK,
            local_share_per_second: LOCAL_REQUESTS_PER_SECOND,
        };
        let tokens = PermitSettings {
            kind: PermitKind::ProviderTokens,
            block: TOKENS_A_BLOCK,
            local_share_per_second: LOCAL_TOKENS_PER_SECOND,
        };
        Self {
            provider: provider.into(),
            requests: PermitBlocks::new(limiter.clone(), requests),
            tokens: PermitBlocks::new(limiter, tokens),
            tasks: TaskTracker::new(),
        }
    }

    async fn take(&self, permits: &PermitBlocks, mut count: u32) -> Result<(), Throttled> {
        let give_up_at = tokio::time::Instant::now() + LONGEST_WAIT_HERE;
        while count > 0 {
            // More than a block is never granted at once.
            let piece = count.min(TOKENS_A_BLOCK);
            match permits.try_acquire(&self.provider, piece).await {
                Permit::Granted => count -= piece,
                Permit::NotYet(wait) if tokio::time::Instant::now() + wait < give_up_at => {
                    tokio::time::sleep(wait).await;
                }
                Permit::NotYet(wait) => return Err(Throttled { retry_after: wait }),
            }
        }
        Ok(())
    }
}

impl ProviderPermits for LimiterPermits {
    fn acquire(&self, requests: u32, tokens: u64) -> Permitted<'_> {
        Box::pin(async move {
            self.take(&self.requests, requests).await?;
            self.take(&self.tokens, u32::try_from(tokens).unwrap_or(u32::MAX))
                .await
        })
    }

    fn slow_down(&self, pause: Duration) {
        let requests = self.requests.clone();
        let provider = self.provider.clone();
        self.tasks
            .spawn(async move { requests.penalize(&provider, pause).await });
    }
}
