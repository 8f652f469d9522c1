use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};

use crate::entry::{Entry, RawEntry};
use crate::error::{StreamsError, says_no_group};
use crate::lane::Lane;
use crate::timeouts::CONNECT_TIMEOUT;

/// A blocking read that is silent for this long after its own time is held for dead and its connection dropped.
const READ_GRACE: Duration = Duration::from_secs(5);

/// What one read brought.
#[derive(Debug, Default)]
pub struct Read {
    /// New entries, those of the express stream first, each stream's in order; empty when the time was over first.
    pub entries: Vec<Entry>,
    /// The group was not there and has been made, at the beginning of a stream. Dispatches may have been lost with it:
    /// ask the ledger for a reconcile pass.
    pub group_created: bool,
}

/// Reads one stage's streams for one consumer, on a connection of its own.
pub struct Reader {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// In the order of [`Lane::ALL`].
    streams: [String; 2],
    group: &'static str,
    consumer: String,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Reader")
            .field("streams", &self.streams)
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

/// The answer of XREADGROUP by stream; nil when nothing came in time.
type StreamsAnswer = Option<Vec<(String, Vec<RawEntry>)>>;

impl Reader {
    pub(crate) fn new(
        client: Client,
        streams: [String; 2],
        group: &'static str,
        consumer: String,
    ) -> Self {
        Self {
            client,
            connection: None,
            streams,
            group,
            consumer,
        }
    }

    /// Reads at most `count` new entries, half of them of each stream, and one of each at least, waiting at most `block` (at
    /// least a millisecond) for the first. Makes the group when it is missing, and says so.
    ///
    /// Dropping the future may leave entries delivered to this consumer that nobody saw: [`Reader::held`] finds them.
    ///
    /// # Errors
    /// Redis did not answer or refused. The connection is made anew by the next call; entries may have been delivered on
    /// the lost one: [`Reader::held`] finds them.
    pub async fn read(&mut self, count: usize, block: Duration) -> Result<Read, StreamsError> {
        // Redis takes BLOCK 0 for "for ever".
        let block = block.max(Duration::from_millis(1));
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.group)
            .arg(&self.consumer)
            .arg("COUNT")
            .arg(count.div_ceil(self.streams.len()).max(1));
        command
            .arg("BLOCK")
            .arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX));
        command.arg("STREAMS").arg(&self.streams).arg(&[">", ">"]);
        match self.query(&command, block + READ_GRACE).await {
            Ok(answer) => Ok(Read {
                entries: self.entries_of(answer),
                group_created: false,
            }),
            Err(QueryError::Redis(error)) if says_no_group(&error) => {
                let group_created = self.create_groups().await?;
                Ok(Read {
                    entries: Vec::new(),
                    group_created,
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Entries of one stream that were delivered to this consumer and not yet acknowledged, after the entry `after` (the first
    /// when none is named), at most `count`. The caller holds most of them already; what it does not hold came in an answer
    /// that was lost.
    ///
    /// # Errors
    /// Redis did not answer or refused.
    pub async fn held(
        &mut self,
        lane: Lane,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Entry>, StreamsError> {
        let stream = &self.streams[lane as usize];
        let after = after.map_or("0", |id| Lane::of_id(id).1);
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.group)
            .arg(&self.consumer)
            .arg("COUNT")
            .arg(count);
        command.arg("STREAMS").arg(stream).arg(after);
        match self.query(&command, READ_GRACE).await {
            Ok(answer) => Ok(self.entries_of(answer)),
            Err(QueryError::Redis(error)) if says_no_group(&error) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the streams and their group where they are missing. Returns whether it was this call that made one.
    async fn create_groups(&mut self) -> Result<bool, StreamsError> {
        let mut any_created = false;
        for stream in self.streams.clone() {
            any_created |= self.create_group(&stream).await?;
        }
        Ok(any_created)
    }

    /// Makes the stream and its group, from the first entry on: what was published before the group would otherwise never
    /// be delivered. Returns whether it was this call that made it.
    async fn create_group(&mut self, stream: &str) -> Result<bool, StreamsError> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(stream)
            .arg(self.group)
            .arg("0")
            .arg("MKSTREAM");
        let created: Result<(), QueryError> = self.query(&command, READ_GRACE).await;
        match created {
            Ok(()) => Ok(true),
            Err(QueryError::Redis(error)) if error.code() == Some("BUSYGROUP") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a command, connecting first where needed; forgets the connection after anything but an answer of the server.
    async fn query<T: redis::FromRedisValue>(
        &mut self,
        command: &redis::Cmd,
        patience: Duration,
    ) -> Result<T, QueryError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(QueryError::Redis)?,
        };
        // Taken out meanwhile: a future dropped half-way leaves no connection behind on which an old answer would arrive.
        let answer: RedisResult<T> =
            match tokio::time::timeout(patience, command.query_async(&mut connection)).await {
                Ok(answer) => answer,
                Err(_) => return Err(QueryError::Silent),
            };
        let connection_is_good = match &answer {
            Ok(_) => true,
            Err(error) => !error.is_io_error() && !error.is_unrecoverable_error(),
        };
        if connection_is_good {
            self.connection = Some(connection);
        }
        answer.map_err(QueryError::Redis)
    }

    fn entries_of(&self, answer: StreamsAnswer) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (stream, raw_entries) in answer.unwrap_or_default() {
            let lane = match stream == self.streams[Lane::Express as usize] {
                true => Lane::Express,
                false => Lane::Regular,
            };
            let read = raw_entries.into_iter();
            entries.extend(read.filter_map(|raw| raw.decode_unless_deleted(lane)));
        }
        entries
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // By default every reply must come within half a second, which no blocking read can promise.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(CONNECT_TIMEOUT));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

enum QueryError {
    Redis(redis::RedisError),
    Silent,
}

impl From<QueryError> for StreamsError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Redis(error) => error.into(),
            QueryError::Silent => Self::Silent,
        }
    }
}
