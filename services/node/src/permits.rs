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
use crate::rarely::Rarely;
use crate::scope::MeshChannel;

/// Keys (tenants, providers) whose blocks are kept; beyond it the empty and the void ones are forgotten.
const MAX_KEYS: usize = 10_000;

/// How long the limiter may take to answer before the local share is used.
const CALL_DEADLINE: Duration = Duration::from_millis(500);

/// A limiter that did not answer is asked again after this, and so much of the local share may be saved up meanwhile.
const LOCAL_INTERVAL: Duration = Duration::from_secs(1);

/// A part that the limiter told is kept for the time without it when it is no older than this; so long the limiter counts it.
pub const LOCAL_PART_MEMORY: Duration = Duration::from_secs(600);

/// Bounds of a wait that the limiter tells, whatever it says.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The least that a process may spend a second while the limiter is away.
const SLOWEST_LOCAL_SHARE: f64 = 1.0 / 3600.0;

/// How permits of one kind are taken.
#[derive(Debug, Clone)]
pub struct PermitSettings {
    /// What the permits are for.
    pub kind: PermitKind,
    /// How many are taken at once when there is room.
    pub block: u32,
    /// How many a second each key may spend here while the limiter is unreachable and never told which part of the rate
    /// is this process's.
    pub local_share_per_second: f64,
    /// UUID of the process in text; empty where it needs no part of its own, as at the door.
    pub process: String,
}

/// The answer to a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Granted,
    /// Nothing was spent; ask again after this.
    NotYet(Duration),
}

/// What was spent of a demand that may be served in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub count: u32,
    /// When to ask for the rest; zero when there is none.
    pub wait: Duration,
    /// The wait is a pause that the provider asked for.
    pub paused: bool,
}

impl Taken {
    /// Nothing is to be waited for.
    const fn at_once(count: u32) -> Self {
        Self {
            count,
            wait: Duration::ZERO,
            paused: false,
        }
    }
}

/// Permits of one kind, by key. Clones share the blocks.
#[derive(Debug, Clone)]
pub struct PermitBlocks {
    limiter: LimiterServiceClient<MeshChannel>,
    settings: Arc<PermitSettings>,
    blocks: Arc<SyncMutex<HashMap<String, Arc<Mutex<Block>>>>>,
    away_until: Arc<SyncMutex<Option<Instant>>>,
    warnings: Arc<Rarely>,
}

#[derive(Debug, Default)]
struct Block {
    left: u32,
    void_at: Option<Instant>,
    /// Nothing will be granted before this: asking is useless.
    not_before: Option<Instant>,
    /// Whether that is a pause that a provider asked for.
    paused: bool,
    /// At which rate of its own it was granted.
    rate: Option<u32>,
    /// What the limiter told for the time without it.
    part: Option<LocalPart>,
    /// What was saved up of the local share since the limiter went away.
    saved: Option<Saved>,
    /// What was spent of it and not told yet.
    spent_away: u32,
}

#[derive(Debug, Clone, Copy)]
struct LocalPart {
    per_second: f64,
    fraction: f64,
    told_at: Instant,
}

#[derive(Debug)]
struct Saved {
    permits: f64,
    at: Instant,
    share_per_second: f64,
}

impl Block {
    /// Spends up to `count`, at least `least`, of what was granted.
    fn spend(&mut self, least: u32, count: u32, now: Instant) -> Option<Taken> {
        if self.void_at.is_none_or(|void_at| void_at <= now) {
            self.left = 0;
        }
        if self.left < least {
            return None;
        }
        let spent = self.left.min(count);
        self.left -= spent;
        Some(Taken::at_once(spent))
    }

    /// Spends of the local share, which comes in by time alone: what is asked for above it waits until enough is saved.
    fn spend_local_share(
        &mut self,
        least: u32,
        count: u32,
        configured: f64,
        begins_full: bool,
        now: Instant,
    ) -> Taken {
        let part = self.part;
        let saved = self.saved.get_or_insert_with(|| {
            let known = part.filter(|part| now - part.told_at < LOCAL_PART_MEMORY);
            let share_per_second = known.map_or(configured, |part| part.per_second * part.fraction);
            let full = share_per_second.max(f64::from(least));
            Saved {
                permits: if begins_full { full } else { 0.0 },
                at: now,
                share_per_second,
            }
        });
        // Never stopped: one an hour at least.
        let share = saved.share_per_second.max(SLOWEST_LOCAL_SHARE);
        let most = (share * LOCAL_INTERVAL.as_secs_f64()).max(f64::from(least));
        let come = (now - saved.at).as_secs_f64() * share;
        saved.permits = (saved.permits + come).min(most);
        saved.at = now;
        if saved.permits < f64::from(least) {
            let missing = f64::from(least) - saved.permits;
            return Taken {
                count: 0,
                wait: Duration::from_secs_f64((missing / share).min(LONGEST_WAIT.as_secs_f64()))
                    .max(SHORTEST_WAIT),
                paused: false,
            };
        }
        // Bounded by `most`, which is far below.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let spent = (saved.permits.floor() as u32).min(count);
        saved.permits -= f64::from(spent);
        self.spent_away = self.spent_away.saturating_add(spent);
        Taken::at_once(spent)
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
            warnings: Arc::default(),
        }
    }

    /// Spends `count` permits of a key, or says when to ask again. More than the limiter ever grants at once is never
    /// granted: ask in pieces of at most a block.
    pub async fn try_acquire(&self, key: &str, count: u32) -> Permit {
        self.try_acquire_at(key, count, None).await
    }

    /// The same for a key that has a rate of its own.
    pub async fn try_acquire_at(&self, key: &str, count: u32, own: Option<u32>) -> Permit {
        let taken = self.take_at_least(count, key, count, own).await;
        if taken.count == count {
            Permit::Granted
        } else {
            Permit::NotYet(taken.wait)
        }
    }

    /// Spends up to `count` permits of a key: what there is, so that a demand above all that is granted at once is served in
    /// parts. With nothing spent it says when to ask again.
    pub async fn take(&self, key: &str, count: u32) -> Taken {
        self.take_at_least(1, key, count, None).await
    }

    async fn take_at_least(&self, least: u32, key: &str, count: u32, own: Option<u32>) -> Taken {
        if count == 0 {
            return Taken::at_once(0);
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
        if let Some(taken) = block.spend(least, count, now) {
            return taken;
        }
        let not_yet = |block: &Block, wait| Taken {
            count: 0,
            wait,
            paused: block.paused,
        };
        if let Some(not_before) = block.not_before
            && not_before > now
        {
            return not_yet(&block, not_before - now);
        }
        let configured = own.map_or(self.settings.local_share_per_second, f64::from);
        if self.is_away(now) {
            return block.spend_local_share(least, count, configured, self.begins_full(), now);
        }
        match self.ask(key, (least, count), own, &block).await {
            Ok(answer) => {
                block.left += answer.granted;
                block.void_at = Some(now + answer.valid_for);
                block.not_before = None;
                block.paused = answer.paused;
                block.part = answer.part.map(|(per_second, fraction)| LocalPart {
                    per_second,
                    fraction,
                    told_at: now,
                });
                block.saved = None;
                block.spent_away = 0;
                if let Some(taken) = block.spend(least, count, now) {
                    return taken;
                }
                block.not_before = Some(now + answer.retry_after);
                not_yet(&block, answer.retry_after)
            }
            Err(error) => {
                if let Some(times) = self.warnings.next() {
                    let kind = self.settings.kind.as_str_name();
                    tracing::warn!(
                        error,
                        kind,
                        times,
                        "the limiter is unreachable, spending the local share"
                    );
                }
                let now = Instant::now();
                *self
                    .away_until
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(now + LOCAL_INTERVAL);
                block.spend_local_share(least, count, configured, self.begins_full(), now)
            }
        }
    }

    /// Tenants have a second's worth at once, as with the limiter; providers get nothing before its time.
    fn begins_full(&self) -> bool {
        matches!(self.settings.kind, PermitKind::Calls | PermitKind::Entries)
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
            block.paused = true;
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
        if let Err(status) = call
            && let Some(times) = self.warnings.next()
        {
            tracing::warn!(%status, provider, times, "the limiter was not told that the provider wants fewer requests");
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

    async fn ask(
        &self,
        key: &str,
        (least, count): (u32, u32),
        own: Option<u32>,
        has: &Block,
    ) -> Result<Answer, String> {
        // No more than comes in a second: what is not spent is lost to the others too.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let a_second = has.part.map(|part| (part.per_second.ceil() as u32).max(1));
        let block = self.settings.block.min(a_second.unwrap_or(u32::MAX));
        let want = if least < count {
            // In parts that come in a tenth of a second, so that one who wants much does not wait for all of it.
            let part = a_second.map_or(least, |a_second| (a_second / 10).max(least));
            part.min(count)
        } else {
            count - has.left
        };
        let request = AcquireRequest {
            kind: self.settings.kind.into(),
            key: key.to_owned(),
            want,
            block: block.max(want),
            per_second: own.unwrap_or_default(),
            process: self.settings.process.clone(),
            local_fraction: has.part.map_or(0.0, |part| part.fraction),
            spent_away: has.spent_away,
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
            paused: answer.paused,
            part: (answer.per_second > 0.0 && answer.local_fraction > 0.0)
                .then_some((answer.per_second, answer.local_fraction)),
        })
    }
}

struct Answer {
    granted: u32,
    valid_for: Duration,
    retry_after: Duration,
    paused: bool,
    /// The rate, and the part of it for the time without the limiter.
    part: Option<(f64, f64)>,
}
