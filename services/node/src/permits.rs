//! Permits (tiers 1 and 3): rates, taken from the limiter in blocks and spent here, so that most need no call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use caudal_domain::Refusal;
use caudal_proto::convert::{duration_from_proto, duration_to_proto};
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_proto::mesh::v1::{AcquireRequest, PenalizeRequest, PermitKind};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channels::with_deadline;
use crate::scope::MeshChannel;

/// Keys (tenants, providers) whose blocks are kept; beyond it the empty and the void ones are forgotten.
const MAX_KEYS: usize = 10_000;

/// How long the limiter may take to answer before the local share is used.
const CALL_DEADLINE: Duration = Duration::from_millis(500);

/// The local share is handed out anew this often while the limiter is away.
const LOCAL_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of a wait that the limiter tells, whatever it says.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How permits of one kind are taken.
#[derive(Debug, Clone)]
pub struct PermitSettings {
    /// What the permits are for.
    pub kind: PermitKind,
    /// How many are taken at once when there is room.
    pub block: u32,
    /// How many a second each key may spend here while the limiter is unreachable.
    pub local_share_per_second: u32,
}

/// The answer to a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Granted,
    /// Nothing was spent; ask again after this.
    NotYet(Duration),
}

/// Permits of one kind, by key. Clones share the blocks.
#[derive(Debug, Clone)]
pub struct PermitBlocks {
    limiter: LimiterServiceClient<MeshChannel>,
    settings: Arc<PermitSettings>,
    blocks: Arc<SyncMutex<HashMap<String, Arc<Mutex<Block>>>>>,
    away_until: Arc<SyncMutex<Option<Instant>>>,
}

#[derive(Debug, Default)]
struct Block {
    left: u32,
    void_at: Option<Instant>,
    /// Nothing will be granted before this: asking is useless.
    not_before: Option<Instant>,
    /// At which rate of its own it was granted.
    rate: Option<u32>,
}

impl Block {
    fn spend(&mut self, count: u32, now: Instant) -> bool {
        if self.void_at.is_none_or(|void_at| void_at <= now) {
            self.left = 0;
        }
        if self.left < count {
            return false;
        }
        self.left -= count;
        true
    }

    /// Grants one interval's share of which this demand is a part. A demand above the share is granted all the same
    /// (or it would be stopped until the limiter is back) and waited for afterwards.
    fn spend_local_share(&mut self, count: u32, share: u32, now: Instant) {
        let share = share.max(1);
        let intervals = count.div_ceil(share).max(1);
        self.left = share.saturating_sub(count);
        self.void_at = Some(now + LOCAL_INTERVAL);
        self.not_before = Some(now + (LOCAL_INTERVAL * intervals).min(LONGEST_WAIT));
    }
}

impl PermitBlocks {
    /// With no block yet.
    #[must_use]
    pub fn new(limiter: LimiterServiceClient<MeshChannel>, settings: PermitSettings) -> Self {
        Self {
            limiter,
            settings: Arc::new(settings),
            blocks: Arc::default(),
            away_until: Arc::default(),
        }
    }

    /// Spends `count` permits of a key, or says when to ask again. More than the limiter ever grants at once is never
    /// granted: ask in pieces of at most a block.
    pub async fn try_acquire(&self, key: &str, count: u32) -> Permit {
        self.try_acquire_at(key, count, None).await
    }

    /// The same for a key that has a rate of its own.
    pub async fn try_acquire_at(&self, key: &str, count: u32, own: Option<u32>) -> Permit {
        if count == 0 {
            return Permit::Granted;
        }
        let block = self.block_of(key);
        // One demand of a key asks the limiter, the others wait for its answer instead of asking too.
        let mut block = block.lock().await;
        let now = Instant::now();
        if block.rate != own {
            // What was granted at another rate is not spent, and the wait for it is over.
            *block = Block {
                rate: own,
                ..Block::default()
            };
        }
        if block.spend(count, now) {
            return Permit::Granted;
        }
        if let Some(not_before) = block.not_before
            && not_before > now
        {
            return Permit::NotYet(not_before - now);
        }
        if self.is_away(now) {
            block.spend_local_share(count, self.local_share(own), now);
            return Permit::Granted;
        }
        match self.ask(key, count - block.left, own).await {
            Ok(answer) => {
                block.left += answer.granted;
                block.void_at = Some(now + answer.valid_for);
                block.not_before = None;
                if block.spend(count, now) {
                    return Permit::Granted;
                }
                block.not_before = Some(now + answer.retry_after);
                Permit::NotYet(answer.retry_after)
            }
            Err(error) => {
                let kind = self.settings.kind.as_str_name();
                tracing::warn!(
                    error,
                    kind,
                    "the limiter is unreachable, spending the local share"
                );
                *self
                    .away_until
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(now + LOCAL_INTERVAL);
                block.spend_local_share(count, self.local_share(own), now);
                Permit::Granted
            }
        }
    }

    fn local_share(&self, own: Option<u32>) -> u32 {
        own.unwrap_or(self.settings.local_share_per_second)
    }

    /// A limiter that did not answer is left alone for a while, whatever the key: a hung one would delay each.
    fn is_away(&self, now: Instant) -> bool {
        let away_until = *self
            .away_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        away_until.is_some_and(|until| until > now)
    }

    /// Waits until `count` permits of a key are spent; false when cancelled before.
    pub async fn acquire(&self, key: &str, count: u32, cancelled: &CancellationToken) -> bool {
        loop {
            let waited = async {
                match self.try_acquire(key, count).await {
                    Permit::Granted => true,
                    Permit::NotYet(wait) => {
                        tokio::time::sleep(wait).await;
                        false
                    }
                }
            };
            match cancelled.run_until_cancelled(waited).await {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
    }

    /// Spends `count` permits of a key now or refuses with RESOURCE_EXHAUSTED and when to come again.
    ///
    /// # Errors
    /// When there are none; `subject` says of what, e.g. "calls".
    pub async fn require(&self, key: &str, count: u32, subject: &str) -> Result<(), Refusal> {
        self.require_at(key, count, subject, None).await
    }

    /// The same for a key that has a rate of its own.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub async fn require_at(
        &self,
        key: &str,
        count: u32,
        subject: &str,
        own: Option<u32>,
    ) -> Result<(), Refusal> {
        match self.try_acquire_at(key, count, own).await {
            Permit::Granted => Ok(()),
            Permit::NotYet(wait) => Err(Refusal::rate_limited(subject, wait)),
        }
    }

    /// Slows a provider for everyone: nothing is granted for this long, here at once, elsewhere through the limiter.
    pub async fn penalize(&self, provider: &str, retry_after: Duration) {
        {
            let block = self.block_of(provider);
            let mut block = block.lock().await;
            block.left = 0;
            block.not_before = Some(Instant::now() + retry_after.min(LONGEST_WAIT));
        }
        let request = PenalizeRequest {
            provider: provider.to_owned(),
            retry_after: Some(duration_to_proto(retry_after)),
        };
        let call = self
            .limiter
            .clone()
            .penalize(with_deadline(request, CALL_DEADLINE))
            .await;
        if let Err(status) = call {
            tracing::warn!(%status, provider, "the limiter was not told that the provider wants fewer requests");
        }
    }

    fn block_of(&self, key: &str) -> Arc<Mutex<Block>> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.get(key) {
            return Arc::clone(block);
        }
        if blocks.len() >= MAX_KEYS {
            let now = Instant::now();
            blocks.retain(|_, block| {
                // Somebody holds it: it is in use.
                let Ok(block) = block.try_lock() else {
                    return true;
                };
                let unspent = block.left > 0 && block.void_at.is_some_and(|void_at| void_at > now);
                unspent || block.not_before.is_some_and(|not_before| not_before > now)
            });
        }
        if blocks.len() >= MAX_KEYS {
            // All in use: unspent permits of a few are lost, which only makes them ask again.
            blocks.clear();
        }
        let block = Arc::new(Mutex::new(Block::default()));
        blocks.insert(key.to_owned(), Arc::clone(&block));
        block
    }

    async fn ask(&self, key: &str, want: u32, own: Option<u32>) -> Result<Answer, String> {
        let block = self.settings.block.max(want);
        let request = AcquireRequest {
            kind: self.settings.kind.into(),
            key: key.to_owned(),
            want,
            block,
            per_second: own.unwrap_or_default(),
        };
        let mut limiter = self.limiter.clone();
        let call = limiter.acquire(with_deadline(request, CALL_DEADLINE));
        let answer = tokio::time::timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status.to_string())?
            .into_inner();
        let duration = |duration: Option<prost_types::Duration>| {
            duration
                .as_ref()
                .map_or(Ok(Duration::ZERO), duration_from_proto)
                .map_err(|error| error.to_string())
        };
        Ok(Answer {
            granted: answer.granted,
            valid_for: duration(answer.valid_for)?,
            retry_after: duration(answer.retry_after)?.clamp(SHORTEST_WAIT, LONGEST_WAIT),
        })
    }
}

struct Answer {
    granted: u32,
    valid_for: Duration,
    retry_after: Duration,
}
