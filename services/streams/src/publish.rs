use bytes::Bytes;
use caudal_domain::Stage;
use redis::{Pipeline, RedisResult};

use crate::connection::Streams;
use crate::entry::BODY_FIELD;
use crate::error::StreamsError;
use crate::lane::Lane;

/// Entries sent in one round trip. With the commit group's own bound this is one or two round trips.
const ENTRIES_A_PIPELINE: usize = 1_024;

/// Appends entries to stage streams.
#[derive(Debug, Clone)]
pub struct Publisher {
    streams: Streams,
}

impl Publisher {
    pub(crate) fn new(streams: Streams) -> Self {
        Self { streams }
    }

    /// Appends entries, pipelined, in order. The answer names for each the id it got, or why Redis did not take it: a full
    /// Redis refuses one by one. An entry without an answer may stand in the stream all the same; publish it again, a
    /// doubled dispatch is harmless.
    ///
    /// # Errors
    /// Nothing was answered at all: every entry must be taken as not published.
    pub async fn publish(
        &self,
        entries: &[(Stage, Lane, Bytes)],
    ) -> Result<Vec<Result<String, StreamsError>>, StreamsError> {
        let mut answers = Vec::with_capacity(entries.len());
        for page in entries.chunks(ENTRIES_A_PIPELINE) {
            match self.publish_page(page).await {
                Ok(page_answers) => {
                    let lanes = page.iter().map(|(_, lane, _)| lane);
                    let answers_by_lane = lanes.zip(page_answers);
                    answers.extend(answers_by_lane.map(|(lane, answer)| {
                        let id = answer.map_err(StreamsError::from)?;
                        Ok(lane.mark(&id))
                    }));
                }
                Err(error) if answers.is_empty() => return Err(error),
                Err(error) => {
                    answers.resize(entries.len(), Err(error));
                    break;
                }
            }
        }
        Ok(answers)
    }

    async fn publish_page(
        &self,
        page: &[(Stage, Lane, Bytes)],
    ) -> Result<Vec<RedisResult<String>>, StreamsError> {
        let mut pipeline = Pipeline::with_capacity(page.len());
        pipeline.ignore_errors();
        for (stage, lane, body) in page {
            let stream = self.streams.names.stream(*stage, *lane);
            pipeline
                .cmd("XADD")
                .arg(stream)
                .arg("*")
                .arg(BODY_FIELD)
                .arg(body.as_ref());
        }
        let answers = pipeline
            .query_async(&mut self.streams.manager.clone())
            .await?;
        Ok(answers)
    }
}
