//! Tier-3 permits for a provider, from the limiter.

use std::time::Duration;

use caudal_limiter::{ProviderLimit, Rate};
use caudal_node::metrics::{Counter, Labelled};
use caudal_node::permits::{PermitBlocks, PermitSettings};
use caudal_node::{MeshChannel, Registry};
use caudal_proto::mesh::v1::PermitKind;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_providers::{Permitted, ProviderAnswer, ProviderPermits, Throttled};
use caudal_stage::Provider;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// What this process may use a second before it ever reached the limiter: eight of them together stay below what it grants to
/// all.
const LOCAL_REQUESTS_PER_SECOND: f64 = 5.0;
const LOCAL_TOKENS_PER_SECOND: f64 = 2_000.0;
const LOCAL_SHARES: f64 = 8.0;
const REQUESTS_A_BLOCK: u32 = 10;
const TOKENS_A_BLOCK: u32 = 20_000;
/// A pause that the provider asked for is waited out here when it is shorter; a longer one sends the file back to wait where
/// waiting costs nothing.
const LONGEST_PAUSE_HERE: Duration = Duration::from_secs(5);
/// So long a request waits here for its turn within the limits. What it has got by then is kept for the next.
const LONGEST_WAIT_HERE: Duration = Duration::from_secs(300);

/// Permits of one provider.
pub(crate) struct LimiterPermits {
    provider: Provider,
    requests: PermitBlocks,
    tokens: PermitBlocks,
    /// What is there of the request whose turn it is, which it has to itself: so one request is put together at a time, and
    /// what it got before it gave up or was dropped is not lost.
    kept: Mutex<Kept>,
    metrics: ProviderMetrics,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Kept {
    requests: u32,
    tokens: u32,
}

/// What is counted of providers.
#[derive(Debug, Clone)]
pub(crate) struct ProviderMetrics {
    answers: Labelled<Counter, 2>,
    refused: Labelled<Counter, 2>,
}

impl ProviderMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            answers: registry.counters(
                "provider_answers",
                "What providers answered to requests, by provider and answer",
                ["provider", "answer"],
            ),
            refused: registry.counters(
                "provider_permits_refused",
                "Requests that went back to wait because a limit of their provider left no room, by provider and limit",
                ["provider", "limit"],
            ),
        }
    }
}

impl LimiterPermits {
    pub(crate) fn new(
        provider: Provider,
        limit: ProviderLimit,
        limiter: MeshChannel,
        metrics: ProviderMetrics,
    ) -> Self {
        let limiter = LimiterServiceClient::new(limiter);
        let process = uuid::Uuid::new_v4().to_string();
        let share =
            |rate: Option<Rate>, usual| rate.map_or(usual, |rate| rate.per_second() / LOCAL_SHARES);
        let requests = PermitSettings {
            kind: PermitKind::ProviderRequests,
            block: REQUESTS_A_BLOCK,
            local_share_per_second: share(limit.requests, LOCAL_REQUESTS_PER_SECOND),
            process: process.clone(),
        };
        let tokens = PermitSettings {
            kind: PermitKind::ProviderTokens,
            block: TOKENS_A_BLOCK,
            local_share_per_second: share(limit.tokens, LOCAL_TOKENS_PER_SECOND),
            process,
        };
        Self {
            provider,
            requests: PermitBlocks::new(limiter.clone(), requests),
            tokens: PermitBlocks::new(limiter, tokens),
            kept: Mutex::default(),
            metrics,
            tasks: TaskTracker::new(),
        }
    }

    /// Adds to what is kept until it is `count`.
    async fn gather(
        &self,
        permits: &PermitBlocks,
        kept: &mut u32,
        count: u32,
        give_up_at: Instant,
    ) -> Result<(), Throttled> {
        while *kept < count {
            let taken = permits.take(self.provider.name(), count - *kept).await;
            *kept += taken.count;
            if taken.count > 0 {
                continue;
            }
            let is_long_pause = taken.paused && taken.wait > LONGEST_PAUSE_HERE;
            if is_long_pause || Instant::now() + taken.wait > give_up_at {
                return Err(Throttled {
                    retry_after: taken.wait,
                });
            }
            tokio::time::sleep(taken.wait).await;
        }
        Ok(())
    }

    async fn take(&self, requests: u32, tokens: u32) -> Result<(), Throttled> {
        let give_up_at = Instant::now() + LONGEST_WAIT_HERE;
        let turn = tokio::time::timeout_at(give_up_at, self.kept.lock()).await;
        let refused = |limit| {
            let labels = [self.provider.name(), limit];
            self.metrics.refused.with(labels).inc();
        };
        let Ok(mut kept) = turn else {
            refused("turn");
            return Err(Throttled {
                retry_after: LONGEST_PAUSE_HERE,
            });
        };
        let kept = &mut *kept;
        self.gather(&self.tokens, &mut kept.tokens, tokens, give_up_at)
            .await
            .inspect_err(|_| refused("tokens"))?;
        self.gather(&self.requests, &mut kept.requests, requests, give_up_at)
            .await
            .inspect_err(|_| refused("requests"))?;
        kept.tokens -= tokens;
        kept.requests -= requests;
        Ok(())
    }
}

impl ProviderPermits for LimiterPermits {
    fn acquire(&self, requests: u32, tokens: u64) -> Permitted<'_> {
        Box::pin(self.take(requests, u32::try_from(tokens).unwrap_or(u32::MAX)))
    }

    fn slow_down(&self, pause: Duration) {
        let requests = self.requests.clone();
        let provider = self.provider.name();
        self.tasks
            .spawn(async move { requests.penalize(provider, pause).await });
    }

    fn answered(&self, answer: ProviderAnswer) {
        let labels = [self.provider.name(), answer.name()];
        self.metrics.answers.with(labels).inc();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use caudal_limiter::{Settings, SlotLimits};
    use caudal_node::{Channels, MeshSecret, ServerLimits, ServerParts, ServiceIdentity};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Permits of a provider that may be sent ten tokens a second, by a limiter that has just begun.
    async fn permits() -> LimiterPermits {
        let provider = Provider::Embedding;
        let limit = ProviderLimit {
            tokens: Some(Rate::try_new("tokens", 10.0, 10).unwrap()),
            ..ProviderLimit::default()
        };
        let secret = MeshSecret::generate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = caudal_node::Settings {
            name: "limiter".to_owned(),
            mesh_secret: secret.clone(),
            limits: ServerLimits::default(),
        };
        let settings = Settings::with_slots(SlotLimits::default().for_one_process())
            .unwrap()
            .limit_providers([(provider.name().to_owned(), limit)]);
        let parts = ServerParts::new(node, listener, CancellationToken::new());
        tokio::spawn(async move { caudal_limiter::serve(&settings, parts).await.unwrap() });
        let channel = Channels::default().channel(&address).unwrap();
        let channel = ServiceIdentity::new("embeddings", &secret).channel(channel);
        let metrics = ProviderMetrics::new(&Registry::new("embeddings"));
        LimiterPermits::new(provider, limit, channel, metrics)
    }

    #[tokio::test]
    async fn what_was_got_for_a_request_that_was_given_up_is_there_for_the_next() {
        let permits = permits().await;
        let begun = Instant::now();
        let given_up = tokio::time::timeout(Duration::from_secs(2), permits.take(1, 30)).await;
        assert!(given_up.is_err());
        permits.take(1, 30).await.unwrap();
        // Three seconds are what thirty tokens take; two more, what was got before would be lost.
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(1_900), "{took:?}");
        assert!(took < Duration::from_millis(4_500), "{took:?}");
        // The request itself was asked for once.
        let kept = permits.kept.lock().await;
        assert_eq!((kept.tokens, kept.requests), (0, 0));
    }
}
