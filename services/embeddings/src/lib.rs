//! The embeddings stage: cuts a file's text into chunks and turns each into a vector.
//!
//! The text is what extract-text found, or an image's caption. One artifact comes out, [`EMBEDDINGS_ARTIFACT`]: a row a chunk,
//! with its place in the text and its vector. Without a provider the file goes on without it and says so; a provider that is
//! away, throttles or refuses the key is waited for. Chunks of many files travel in one request.

mod chunk;
mod places;
mod settings;
mod table;
mod text;

use bytes::Bytes;
use caudal_domain::{Reason, Stage, StageVersion, Warning, WarningCode};
use caudal_providers::{EmbeddingProvider, Embeddings, Provider, ProviderError, ProviderState};
use caudal_stage::{Done, Failure, Handler, Job, Usage};
use serde_json::json;

pub use crate::chunk::{Chunk, ChunkLimits, Chunked, InvalidChunkLimits, chunk};
pub use crate::settings::{EmbeddingsSettings, InvalidEmbeddingsSettings};
use crate::table::{About, ChunkTable, TableError};
use crate::text::{ReadText, SourceText};

/// The artifact with the chunks and their vectors: a row a chunk, as docs/results.md describes it.
pub const EMBEDDINGS_ARTIFACT: &str = "embeddings.arrow";

/// What an Arrow IPC file is registered as.
const ARROW_MEDIA_TYPE: &str = "application/vnd.apache.arrow.file";

/// Raised whenever the same text would give other results.
const CODE_VERSION: &str = "4";

/// The handler of the embeddings stage.
#[derive(Debug, Clone)]
pub struct EmbeddingsStage {
    provider: EmbeddingProvider,
    settings: EmbeddingsSettings,
    absent: Option<String>,
}

/// What became of one text.
#[derive(Debug)]
struct Embedded {
    chunks: Vec<Chunk>,
    /// The artifact; none without chunks.
    table: Option<Bytes>,
    /// Length of a vector; 0 without chunks.
    dimensions: usize,
    /// Tokens of all chunks, as the list of chunks has them.
    tokens: u64,
    /// Tokens that the provider read, with those that frame each chunk.
    read: u64,
    /// What of the text the model could not read.
    unread: Unread,
    calls: u64,
    truncated: bool,
}

/// What of a text the model could not read, blanks not counted; what stands in two chunks counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unread {
    characters: u64,
    /// Of so many.
    of: u64,
    /// Chunks of which that is more than half.
    chunks: usize,
}

impl Unread {
    fn add(&mut self, chunk: &str, characters: u64) {
        let of = chunk
            .chars()
            .filter(|character| !character.is_whitespace())
            .count() as u64;
        self.characters += characters;
        self.of += of;
        self.chunks += usize::from(characters * 2 > of);
    }
}

/// Of a hundred characters, so many may be unread before a file is said not to be understood: a few names and signs are in
/// any text. A chunk of which most is unread is told of whatever the others are, for its vector says nothing.
const UNREAD_PERCENT: u64 = 10;

impl EmbeddingsStage {
    /// A stage that embeds through `provider`.
    ///
    /// Whether there is a provider is decided here, once: the stage's version says so, and results with and without
    /// vectors must never pass for one another. A provider that is installed later is found at the next start.
    pub fn new(provider: EmbeddingProvider, settings: EmbeddingsSettings) -> Self {
        let absent = match provider.state() {
            ProviderState::NotConfigured { why } => Some(why),
            ProviderState::Ready | ProviderState::Paused { .. } => None,
        };
        Self {
            provider,
            settings,
            absent,
        }
    }

    /// The model that results have: `none` where there is no provider.
    fn model(&self) -> &str {
        match self.absent {
            Some(_) => "none",
            None => self.provider.model(),
        }
    }

    /// What of the settings changes results, always spelled the same.
    fn version_options(&self) -> String {
        let stage = self.settings.version_options();
        match &self.provider {
            EmbeddingProvider::OpenAi(remote) => format!(
                "{stage},read={},dimensions={}",
                remote.max_tokens(),
                remote.dimensions().unwrap_or(0)
            ),
            EmbeddingProvider::Local(_) | EmbeddingProvider::Unavailable { .. } => stage,
        }
    }

    /// What all rows of a file's artifact have in common; `text` is the name of the artifact that they are of.
    fn about(&self, text: &str) -> About {
        About {
            text: text.to_owned(),
            model: self.model().to_owned(),
            pooling: self.provider.pooling(),
            version: self.version().key_string(),
        }
    }

    async fn embed_text(&self, tenant: u128, read: ReadText) -> Result<Embedded, ProviderError> {
        let ReadText {
            text,
            truncated: _,
            name,
            parts,
        } = read;
        let counter = self.provider.token_counter().await?;
        let limits = self.settings.chunk_limits(self.provider.max_tokens());
        // A tokenizer takes its time with megabytes of text.
        let cutting = tokio::task::spawn_blocking(move || {
            let mut chunked = chunk(&text, limits, |part| counter.count(part));
            // A chunk has the tokens that it has as a whole, wherever its pieces were cut.
            for chunk in &mut chunked.chunks {
                chunk.tokens = counter.count(&text[chunk.start..chunk.end]);
            }
            (text, chunked)
        });
        let (text, chunked) = cutting.await.map_err(|error| {
            // Of this text alone.
            ProviderError::InvalidAnswer {
                detail: format!("text could not be cut: {error}"),
            }
        })?;

        let places = parts.places(&text, &chunked.chunks);
        let mut table = ChunkTable::new(self.about(name));
        let mut embedded = Embedded {
            table: None,
            dimensions: 0,
            tokens: chunked.chunks.iter().map(|chunk| chunk.tokens as u64).sum(),
            chunks: chunked.chunks,
            read: 0,
            unread: Unread::default(),
            calls: 0,
            truncated: chunked.truncated,
        };
        // No more at once than what travels in a request: files that are shorter travel between the pages of this one.
        for page in places.chunks(self.provider.texts_a_request()) {
            let texts: Vec<String> = page
                .iter()
                .map(|place| text[place.chunk.start..place.chunk.end].to_owned())
                .collect();
            let Embeddings {
                vectors,
                tokens,
                unread,
                calls,
            } = self.provider.embed(tenant, &texts).await?;
            table
                .push(page, &vectors)
                .map_err(|error| unusable(&error))?;
            embedded.read += tokens;
            for (text, characters) in texts.iter().zip(unread) {
                embedded.unread.add(text, characters);
            }
            embedded.calls += u64::from(calls);
        }
        embedded.dimensions = table.dimensions();
        embedded.table = table.finish().map_err(|error| unusable(&error))?;
        Ok(embedded)
    }

    /// Texts that the model cannot read are never embedded in silence.
    fn not_understood(&self, embedded: &Embedded) -> Option<Warning> {
        let Unread {
            characters,
            of,
            chunks,
        } = embedded.unread;
        let too_many = characters * 100 > of * UNREAD_PERCENT || chunks > 0;
        let words = || {
            let parts = match embedded.chunks.len() {
                0 | 1 => String::new(),
                all => format!(", most of {chunks} of {all} chunks,"),
            };
            format!(
                "{characters} of {of} characters{parts} cannot be read by {}, which was made for English: its vectors say little of such a text",
                self.model()
            )
        };
        too_many.then(|| Warning::new(WarningCode::TextNotUnderstood, Stage::Embeddings, words()))
    }

    fn without_provider(&self, why: &str) -> Done {
        Done {
            facts: self.facts(None),
            warnings: vec![Warning::new(
                WarningCode::NoEmbeddingProvider,
                Stage::Embeddings,
                why,
            )],
            ..Done::default()
        }
    }

    fn facts(&self, embedded: Option<&Embedded>) -> serde_json::Value {
        json!({
            "model": self.model(),
            "dimensions": embedded.map_or(0, |embedded| embedded.dimensions),
            "chunks": embedded.map_or(0, |embedded| embedded.chunks.len()),
            "tokens": embedded.map_or(0, |embedded| embedded.tokens),
            "unread_characters": embedded.map_or(0, |embedded| embedded.unread.characters),
        })
    }

    async fn work(&self, mut job: Job) -> Result<Done, Failure> {
        let Some(source) = SourceText::of(&job) else {
            return Ok(Done {
                facts: self.facts(None),
                ..Done::default()
            });
        };
        if let Some(why) = &self.absent {
            return Ok(self.without_provider(why));
        }
        let read = source
            .read(&job.objects, self.settings.max_text_bytes)
            .await?;
        let bytes = read.text.len() as u64;
        let is_cut = read.truncated;

        let expected = job
            .dimensions
            .and_then(|length| usize::try_from(length).ok());
        if let Some(expected) = expected {
            self.provider.expect_dimensions(expected);
        }
        let embedded = self
            .embed_text(job.file.tenant.as_uuid().as_u128(), read)
            .await
            .map_err(|error| failure(&error))?;
        let dimensions = embedded.dimensions;
        if let Some(expected) = expected.filter(|length| dimensions > 0 && *length != dimensions) {
            let words = format!(
                "vectors have {dimensions} dimensions, and the first of this stage version had {expected}"
            );
            return Err(failure(&ProviderError::Misbehaves { detail: words }));
        }
        let facts = self.facts(Some(&embedded));
        let usage = Usage {
            bytes,
            tokens: embedded.read,
            provider_calls: embedded.calls,
            ..Usage::default()
        };
        let mut warnings = Vec::new();
        if embedded.truncated || is_cut {
            warnings.push(truncation_warning(&embedded));
        }
        warnings.extend(self.not_understood(&embedded));
        if let Some(table) = embedded.table {
            job.artifacts
                .put(EMBEDDINGS_ARTIFACT, ARROW_MEDIA_TYPE, table)
                .await?;
        }
        Ok(Done {
            artifacts: job.artifacts.finish(),
            facts,
            warnings,
            usage,
            dimensions: u32::try_from(dimensions).ok().filter(|length| *length > 0),
            ..Done::default()
        })
    }
}

impl Handler for EmbeddingsStage {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::Embeddings, CODE_VERSION)
            .with_model(self.model())
            .with_options(self.version_options())
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        let cancelled = job.cancelled.clone();
        // Dropping the work stops it after the batch that is being computed.
        cancelled
            .run_until_cancelled(self.work(job))
            .await
            .unwrap_or_else(|| Err(Failure::new(Reason::Internal, "cancelled")))
    }

    async fn probe(&self, _: Provider) -> Result<(), Failure> {
        self.provider.probe().await.map_err(|error| failure(&error))
    }
}

/// Vectors that make no table.
fn unusable(error: &TableError) -> ProviderError {
    ProviderError::InvalidAnswer {
        detail: error.to_string(),
    }
}

fn truncation_warning(embedded: &Embedded) -> Warning {
    let end = embedded.chunks.last().map_or(0, |chunk| chunk.end);
    Warning::new(
        WarningCode::EmbeddingsTruncated,
        Stage::Embeddings,
        format!(
            "the text is longer than {} chunks can hold: only its first {end} bytes were embedded",
            embedded.chunks.len()
        ),
    )
}

/// What the provider did not do.
fn failure(error: &ProviderError) -> Failure {
    Failure::of_provider(Provider::Embedding, error)
}

#[cfg(test)]
mod tests;
