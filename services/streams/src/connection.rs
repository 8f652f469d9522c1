use std::time::Duration;

use caudal_domain::Stage;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Pipeline, RedisResult};

use crate::error::StreamsError;
use crate::inspect::{self, StreamView};
use crate::lane::Lane;
use crate::names::Names;
use crate::publish::Publisher;
use crate::reader::Reader;
use crate::timeouts::CONNECT_TIMEOUT;

/// Longest wait for an answer on the shared connection; nothing on it blocks.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts to reconnect inside one call; more is the caller's business, which has a backoff of its own.
const RECONNECT_ATTEMPTS: usize = 1;
/// Ids in one XACK or XDEL.
const IDS_A_COMMAND: usize = 512;

/// A process's handle on all dispatch streams. Clones share one connection, which reconnects by itself.
#[derive(Clone)]
pub struct Streams {
    pub(crate) client: Client,
    pub(crate) manager: ConnectionManager,
    pub(crate) names: Names,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Streams")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Streams {
    /// A handle on the Redis at `url` (`redis://…`). Connects with the first command, so Redis may be away now. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// The URL is wrong.
    pub fn connect(url: &str, names: Names) -> Result<Self, StreamsError> {
        let client = Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(REPLY_TIMEOUT))
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_number_of_retries(RECONNECT_ATTEMPTS);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        Ok(Self {
            client,
            manager,
            names,
        })
    }

    /// The names in use.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The face that only publishes.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
    }

    /// A reader of the stage's streams for `consumer`, whose name must be unique for each start of a process.
    pub fn reader(&self, stage: Stage, consumer: &str) -> Reader {
        Reader::new(
            self.client.clone(),
            Lane::ALL.map(|lane| self.names.stream(stage, lane)),
            Names::group(stage),
            consumer.to_owned(),
        )
    }

    /// Acknowledges and deletes entries, many ids a command, all in one round trip. Ids that are not there are no error.
    ///
    /// # Errors
    /// Redis did not answer or refused; the same call may be repeated.
    pub async fn acknowledge(&self, stage: Stage, ids: &[String]) -> Result<(), StreamsError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        for lane in Lane::ALL {
            let stream = self.names.stream(stage, lane);
            let marked = ids.iter().map(|id| Lane::of_id(id));
            let own: Vec<&str> = marked
                .filter(|(of, _)| *of == lane)
                .map(|(_, own)| own)
                .collect();
            for page in own.chunks(IDS_A_COMMAND) {
                pipeline
                    .cmd("XACK")
                    .arg(&stream)
                    .arg(Names::group(stage))
                    .arg(page)
                    .ignore();
                pipeline.cmd("XDEL").arg(&stream).arg(page).ignore();
            }
        }
        let () = pipeline.query_async(&mut self.manager.clone()).await?;
        Ok(())
    }

    /// Removes entries, whoever holds them, and ids that are pending without an entry. The same act as
    /// [`Streams::acknowledge`], named for the reconciler.
    ///
    /// # Errors
    /// Redis did not answer or refused; the same call may be repeated.
    pub async fn remove(&self, stage: Stage, ids: &[String]) -> Result<(), StreamsError> {
        self.acknowledge(stage, ids).await
    }

    /// What stands in the stage's streams now, read in bounded pages, at most [`crate::INSPECT_LIMIT`] entries of each.
    ///
    /// # Errors
    /// Redis did not answer or refused.
    pub async fn inspect(&self, stage: Stage) -> Result<StreamView, StreamsError> {
        inspect::inspect(&self.manager, &self.names, stage).await
    }

    /// Number of entries in the stage's streams.
    ///
    /// # Errors
    /// Redis did not answer or refused.
    pub async fn depth(&self, stage: Stage) -> Result<u64, StreamsError> {
        let mut pipeline = Pipeline::new();
        for lane in Lane::ALL {
            pipeline.cmd("XLEN").arg(self.names.stream(stage, lane));
        }
        let depths: Vec<u64> = pipeline.query_async(&mut self.manager.clone()).await?;
        Ok(depths.into_iter().sum())
    }

    /// Deletes a consumer that holds nothing any more; one that still holds entries stays, because its entries would
    /// vanish from the pending list with it and nobody could tell that they were delivered. Returns whether it went.
    ///
    /// # Errors
    /// Redis did not answer or refused.
    pub async fn delete_idle_consumer(
        &self,
        stage: Stage,
        consumer: &str,
    ) -> Result<bool, StreamsError> {
        let mut is_gone = true;
        for lane in Lane::ALL {
            let stream = self.names.stream(stage, lane);
            is_gone &= self
                .delete_where_idle(&stream, Names::group(stage), consumer)
                .await?;
        }
        Ok(is_gone)
    }

    async fn delete_where_idle(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
    ) -> Result<bool, StreamsError> {
        let mut manager = self.manager.clone();
        let held: RedisResult<Vec<(String, String, u64, u64)>> = redis::cmd("XPENDING")
            .arg(stream)
            .arg(group)
            .arg("-")
            .arg("+")
            .arg(1)
            .arg(consumer)
            .query_async(&mut manager)
            .await;
        match held {
            Ok(held) if !held.is_empty() => return Ok(false),
            Ok(_) => {}
            Err(error) if crate::error::says_no_group(&error) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let () = redis::cmd("XGROUP")
            .arg("DELCONSUMER")
            .arg(stream)
            .arg(group)
            .arg(consumer)
            .query_async(&mut manager)
            .await?;
        Ok(true)
    }
}
