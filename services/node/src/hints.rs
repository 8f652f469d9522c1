//! Hints about committed changes, on Redis pub/sub: sent after the commit, they may be lost, doubled or late. Whoever
//! follows a batch reads what it lacks from the ledger; a hint only says that now is the time.

use std::collections::BTreeMap;
use std::time::Duration;

use caudal_domain::{BatchId, shown_address};
use caudal_proto::mesh::v1::{ChangeHint, ChangedBatch};
use futures::StreamExt;
use prost::Message;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Channels of the whole mesh; a batch always speaks on the same one.
pub const CHANNELS: u8 = 16;

/// Batches in one hint.
const MAX_BATCHES_PER_HINT: usize = 500;

/// Hints that wait for a slow follower; beyond it they are dropped and the follower is told that it missed some.
const FOLLOWER_QUEUE: usize = 1024;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// How long Redis may take to connect or to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// How often a silent subscription is probed: a hung Redis keeps its sockets open.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Redis did not take a hint. Nothing is lost that the ledger does not know.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    /// The address is none.
    #[error("`{url}` is no address of a Redis: {source}")]
    Address {
        /// What was given, as it may be shown.
        url: String,
        /// Why not.
        source: redis::RedisError,
    },
    /// Redis is away, full or hung.
    #[error("redis did not take a hint: {0}")]
    Redis(#[from] redis::RedisError),
}

/// Name of the channel on which a batch speaks.
#[must_use]
pub fn channel_of(batch: BatchId) -> String {
    channel(channel_number(batch.as_bytes()))
}

fn channel(number: u8) -> String {
    format!("caudal:changes:{number}")
}

/// The last bytes of an id are its random ones.
fn channel_number(batch: &[u8]) -> u8 {
    batch.last().copied().unwrap_or_default() % CHANNELS
}

fn client(url: &str) -> Result<redis::Client, HintError> {
    redis::Client::open(url).map_err(|source| HintError::Address {
        url: shown_address(url),
        source,
    })
}

/// Publishes hints. Clones share one connection, which is made when first used and mended by itself.
#[derive(Clone)]
pub struct Publisher {
    connection: ConnectionManager,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// For a Redis such as "redis://127.0.0.1:6379". It need not be there yet.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(url: &str) -> Result<Self, HintError> {
        let config = ConnectionManagerConfig::new()
            .set_min_delay(FIRST_BACKOFF)
            .set_max_delay(LONGEST_BACKOFF)
            .set_number_of_retries(0)
            .set_connection_timeout(Some(ANSWER_DEADLINE))
            .set_response_timeout(Some(ANSWER_DEADLINE));
        let connection = ConnectionManager::new_lazy_with_config(client(url)?, config)?;
        Ok(Self { connection })
    }

    /// Publishes what a commit moved: one message for each channel it touches, all in one round trip.
    ///
    /// # Errors
    /// When Redis does not take it within two seconds. Log it and go on.
    pub async fn publish(&self, changed: Vec<ChangedBatch>) -> Result<(), HintError> {
        let mut by_channel: BTreeMap<u8, Vec<ChangedBatch>> = BTreeMap::new();
        for batch in changed {
            by_channel
                .entry(channel_number(&batch.batch))
                .or_default()
                .push(batch);
        }
        if by_channel.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (number, batches) in by_channel {
            for part in batches.chunks(MAX_BATCHES_PER_HINT) {
                let hint = ChangeHint {
                    batches: part.to_vec(),
                };
                pipeline
                    .publish(channel(number), hint.encode_to_vec())
                    .ignore();
            }
        }
        let mut connection = self.connection.clone();
        pipeline.query_async::<()>(&mut connection).await?;
        Ok(())
    }
}

/// What a follower hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// These batches moved.
    Changed(ChangeHint),
    /// Some hints may have been missed: the first thing after each connection, and after this follower was too slow.
    /// Ask the ledger about everything that is followed.
    MayHaveMissed,
}

/// Follows all channels. It reconnects by itself, for ever, until it is dropped or shut down.
#[derive(Debug)]
pub struct Subscriber {
    heard: mpsc::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    /// Begins to follow. Redis need not be there yet.
    ///
    /// # Errors
    /// When the address is none.
    pub fn start(url: &str, shutdown: CancellationToken) -> Result<Self, HintError> {
        let client = client(url)?;
        let (sender, heard) = mpsc::channel(FOLLOWER_QUEUE);
        let task = tokio::spawn(async move {
            shutdown
                .run_until_cancelled_owned(follow(client, sender))
                .await;
        });
        Ok(Self { heard, task })
    }

    /// The next thing heard; none after shutdown.
    pub async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

async fn follow(client: redis::Client, sender: mpsc::Sender<Heard>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let connected = tokio::time::timeout(ANSWER_DEADLINE, subscribe(&client)).await;
        match connected {
            Ok(Ok(pubsub)) => {
                backoff = FIRST_BACKOFF;
                if listen(pubsub, &sender).await.is_err() {
                    return;
                }
                tracing::warn!("the subscription to changes broke, connecting again");
            }
            Ok(Err(error)) => tracing::debug!(%error, "redis is away, hints are missing"),
            Err(_) => tracing::debug!("redis does not answer, hints are missing"),
        }
        // A jitter of half, so that all gateways do not come back in the same instant.
        tokio::time::sleep(backoff.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

async fn subscribe(client: &redis::Client) -> redis::RedisResult<redis::aio::PubSub> {
    let mut pubsub = client.get_async_pubsub().await?;
    let channels: Vec<String> = (0..CHANNELS).map(channel).collect();
    pubsub.subscribe(channels).await?;
    Ok(pubsub)
}

/// The follower is gone.
struct NobodyListens;

/// Passes on what comes until the connection breaks. Never waits for a slow follower: the Redis client below queues
/// without bound.
async fn listen(
    pubsub: redis::aio::PubSub,
    sender: &mpsc::Sender<Heard>,
) -> Result<(), NobodyListens> {
    let (mut sink, mut messages) = pubsub.split();
    let mut missed = true;
    let mut probe = tokio::time::interval(PROBE_INTERVAL);
    probe.reset();
    loop {
        tokio::select! {
            biased;
            room = sender.reserve(), if missed => {
                room.map_err(|_| NobodyListens)?.send(Heard::MayHaveMissed);
                missed = false;
            }
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                if missed {
                    continue;
                }
                let heard = match ChangeHint::decode(message.get_payload_bytes()) {
                    Ok(hint) => Heard::Changed(hint),
                    Err(error) => {
                        tracing::warn!(%error, "a hint cannot be read");
                        Heard::MayHaveMissed
                    }
                };
                match sender.try_send(heard) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => missed = true,
                    Err(mpsc::error::TrySendError::Closed(_)) => return Err(NobodyListens),
                }
            }
            _ = probe.tick() => {
                let answer = tokio::time::timeout(ANSWER_DEADLINE, sink.ping::<redis::Value>()).await;
                if !matches!(answer, Ok(Ok(_))) {
                    return Ok(());
                }
            }
        }
    }
}
