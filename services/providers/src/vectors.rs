//! Vectors from a provider that speaks OpenAI's embeddings API, `POST {base}/embeddings`: of texts, and of pictures.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::api_key::SettingsError;
use crate::embeddings::{Embeddings, ProviderState};
use crate::error::ProviderError;
use crate::gather::{self, Answer, Bounds, Gatherer, Input, Source};
use crate::permits::ProviderPermits;
use crate::picture::Picture;
use crate::server::{Server, ServerSettings, TokensUsed, decoded, encoded};

/// The most inputs OpenAI takes in one request.
const MAX_BATCH: usize = 2_048;

/// Tokens in one request, by estimate: far below OpenAI's 300,000.
const MAX_REQUEST_TOKENS: usize = 100_000;

/// Requests under way at once, where there is enough to fill them.
const MAX_REQUESTS_AT_ONCE: usize = 4;

/// How to reach a provider of vectors of texts, and what to ask of it.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// Where it is, and which model.
    pub server: ServerSettings,
    /// Asks for vectors of this length, and refuses any other; `None` takes what comes.
    pub dimensions: Option<usize>,
    /// The most tokens of one text that the model reads.
    pub max_tokens: usize,
    /// The most texts in one request, 1 to 2,048.
    pub batch: usize,
}

/// How to reach a provider of vectors of pictures, and what to ask of it.
#[derive(Debug, Clone)]
pub struct PictureVectorsSettings {
    /// Where it is, and which model.
    pub server: ServerSettings,
    /// Asks for vectors of this length, and refuses any other; `None` takes what comes.
    pub dimensions: Option<usize>,
    /// The longer side of a picture that is sent, at most.
    pub side: u32,
    /// The most pictures in one request, 1 to 2,048.
    pub batch: usize,
}

/// An OpenAI-compatible provider. Cheap to clone; clones share connections, breaker and pauses.
#[derive(Debug, Clone)]
pub struct OpenAi {
    vectors: Vectors<String>,
    max_tokens: usize,
}

/// A provider of vectors of pictures. Cheap to clone; clones share connections, breaker and pauses.
///
/// Each picture is an input of its own, `{"image": "data:image/jpeg;base64,…"}`, as Jina's API, SGLang and others that speak
/// OpenAI's take it.
#[derive(Debug, Clone)]
pub struct PictureVectors {
    vectors: Vectors<Picture>,
    side: u32,
}

impl OpenAi {
    /// A provider that asks `permits` before each request. Nothing is sent yet; wrong settings are named.
    pub fn new(
        settings: OpenAiSettings,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        let OpenAiSettings {
            server,
            dimensions,
            max_tokens,
            batch,
        } = settings;
        if max_tokens == 0 {
            return Err(SettingsError::new("max_tokens", "must be above zero"));
        }
        Ok(Self {
            vectors: Vectors::new(server, dimensions, batch, permits)?,
            max_tokens,
        })
    }

    /// Embeds `texts`, in order, together with those of other callers.
    /// `tenant` is any number that is a tenant's own: tenants take turns.
    pub async fn embed(&self, tenant: u128, texts: &[String]) -> Result<Embeddings, ProviderError> {
        self.vectors.gatherer.embed(tenant, texts).await
    }

    /// Asks for the vector of a text that is nobody's.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        self.vectors.gatherer.probe().await
    }

    /// Texts that travel in one request.
    pub fn texts_a_request(&self) -> usize {
        self.vectors.api().batch
    }

    /// The model's name, as the provider knows it.
    pub fn model(&self) -> &str {
        self.vectors.api().server.model()
    }

    /// The vector length that was asked for, if any was.
    pub fn dimensions(&self) -> Option<usize> {
        self.vectors.api().asked_for
    }

    /// The length that vectors of this model had before.
    pub fn expect_dimensions(&self, length: usize) {
        self.vectors.expect_dimensions(length);
    }

    /// The most tokens of one text that the model reads.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether calls pass at this moment.
    pub fn state(&self) -> ProviderState {
        self.vectors.api().server.state()
    }
}

impl PictureVectors {
    /// A provider that asks `permits` before each request. Nothing is sent yet; wrong settings are named.
    pub fn new(
        settings: PictureVectorsSettings,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        let PictureVectorsSettings {
            server,
            dimensions,
            side,
            batch,
        } = settings;
        Ok(Self {
            vectors: Vectors::new(server, dimensions, batch, permits)?,
            side,
        })
    }

    /// Embeds a picture, together with those of other callers.
    /// `tenant` is any number that is a tenant's own: tenants take turns.
    pub async fn embed(&self, tenant: u128, picture: Picture) -> Result<Embeddings, ProviderError> {
        self.vectors.gatherer.embed(tenant, &[picture]).await
    }

    /// Asks for the vector of a picture that is nobody's.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        self.vectors.gatherer.probe().await
    }

    /// The longer side of a picture that is sent, at most.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// The model's name, as the provider knows it.
    pub fn model(&self) -> &str {
        self.vectors.api().server.model()
    }

    /// The length that vectors of this model had before.
    pub fn expect_dimensions(&self, length: usize) {
        self.vectors.expect_dimensions(length);
    }

    /// What of the settings changes results, always spelled the same.
    pub fn version_options(&self) -> String {
        let length = self.vectors.api().asked_for.unwrap_or(0);
        format!("side={},dimensions={length}", self.side)
    }
}

/// What can have a vector.
trait Embeddable: Input {
    /// As it stands in a request.
    fn encoded(&self) -> Encoded<'_>;
}

#[derive(Serialize)]
#[serde(untagged)]
enum Encoded<'a> {
    Text(&'a str),
    Picture { image: String },
}

impl Embeddable for String {
    fn encoded(&self) -> Encoded<'_> {
        Encoded::Text(self)
    }
}

impl Embeddable for Picture {
    fn encoded(&self) -> Encoded<'_> {
        Encoded::Picture {
            image: self.data_url(),
        }
    }
}

#[derive(Serialize)]
struct EmbeddingsRequest<'a> {
    model: &'a str,
    input: Vec<Encoded<'a>>,
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct EmbeddingsAnswer {
    data: Vec<EmbeddingItem>,
    #[serde(default)]
    usage: TokensUsed,
}

#[derive(Deserialize)]
struct EmbeddingItem {
    index: usize,
    embedding: Vec<f32>,
}

/// What both kinds of vectors have in common.
struct Vectors<I: Embeddable> {
    gatherer: Arc<Gatherer<EmbeddingsApi<I>>>,
}

struct EmbeddingsApi<I> {
    server: Server,
    batch: usize,
    asked_for: Option<usize>,
    /// The length of the vectors of the first answer, or of those before; 0 while there was none.
    dimensions: AtomicUsize,
    of: PhantomData<fn() -> I>,
}

impl<I: Embeddable> Vectors<I> {
    fn new(
        server: ServerSettings,
        dimensions: Option<usize>,
        batch: usize,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        if !(1..=MAX_BATCH).contains(&batch) {
            return Err(SettingsError::new(
                "batch",
                format!("must be 1 to {MAX_BATCH}"),
            ));
        }
        if dimensions == Some(0) {
            return Err(SettingsError::new("dimensions", "must be above zero"));
        }
        let api = EmbeddingsApi {
            server: Server::new(server, "embeddings", permits)?,
            batch,
            asked_for: dimensions,
            dimensions: AtomicUsize::new(0),
            of: PhantomData,
        };
        Ok(Self {
            gatherer: Arc::new(Gatherer::new(api)),
        })
    }

    fn api(&self) -> &EmbeddingsApi<I> {
        self.gatherer.source()
    }

    fn expect_dimensions(&self, length: usize) {
        self.api().dimensions.store(length, Ordering::Relaxed);
    }
}

impl<I: Embeddable> EmbeddingsApi<I> {
    fn decode(&self, body: &[u8], count: usize) -> Result<EmbeddingsAnswer, ProviderError> {
        let decoded: EmbeddingsAnswer = decoded(body)?;
        let mut seen = vec![false; count];
        for item in &decoded.data {
            match seen.get_mut(item.index) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return Err(ProviderError::invalid_answer(format!(
                        "answer has an unexpected index {}",
                        item.index
                    )));
                }
            }
            if !item.embedding.iter().all(|number| number.is_finite()) {
                return Err(ProviderError::invalid_answer(
                    "answer has numbers that are not finite",
                ));
            }
        }
        if decoded.data.len() != count {
            return Err(ProviderError::invalid_answer(format!(
                "answer has {} vectors for {count} inputs",
                decoded.data.len()
            )));
        }
        self.check_dimensions(&decoded.data)?;
        Ok(decoded)
    }

    /// All vectors of a model have one length: the one that was asked for, or the one that its first answer had.
    fn check_dimensions(&self, items: &[EmbeddingItem]) -> Result<(), ProviderError> {
        let Some(first) = items.first() else {
            return Ok(());
        };
        let found = first.embedding.len();
        if found == 0 || items.iter().any(|item| item.embedding.len() != found) {
            return Err(ProviderError::invalid_answer(
                "answer has vectors of several lengths",
            ));
        }
        let asked_for = self.asked_for;
        let first = || {
            let known =
                self.dimensions
                    .compare_exchange(0, found, Ordering::Relaxed, Ordering::Relaxed);
            known.err().unwrap_or(found)
        };
        let expected = asked_for.unwrap_or_else(first);
        if found == expected {
            return Ok(());
        }
        let whose = if asked_for.is_some() {
            "asked for"
        } else {
            "that its answers had before"
        };
        Err(ProviderError::misbehaves(format!(
            "answer has {found} dimensions instead of the {expected} {whose}"
        )))
    }
}

impl<I: Embeddable> Source for EmbeddingsApi<I> {
    type Input = I;
    type Output = Answer;

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: self.batch,
            tokens: MAX_REQUEST_TOKENS,
            eager: 1,
            at_most: self.server.width().min(MAX_REQUESTS_AT_ONCE),
        }
    }

    async fn ask(&self, inputs: &[&I]) -> Result<Vec<Answer>, ProviderError> {
        let weights: Vec<u64> = inputs.iter().map(|input| input.tokens() as u64).collect();
        let body = encoded(&EmbeddingsRequest {
            model: self.server.model(),
            input: inputs.iter().map(|input| input.encoded()).collect(),
            encoding_format: "float",
            dimensions: self.asked_for,
        })?;
        let count = inputs.len();
        let answer = self
            .server
            .post(body, weights.iter().sum(), |answer| {
                self.decode(answer, count)
            })
            .await?;
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); count];
        for item in answer.data {
            vectors[item.index] = item.embedding;
        }
        let shares = gather::shares(answer.usage.all(), &weights);
        let answers = vectors.into_iter().zip(shares);
        Ok(answers
            .map(|(vector, tokens)| Answer {
                vector,
                tokens,
                unread: 0,
            })
            .collect())
    }
}

impl<I: Embeddable> Clone for Vectors<I> {
    fn clone(&self) -> Self {
        Self {
            gatherer: Arc::clone(&self.gatherer),
        }
    }
}

impl<I: Embeddable> std::fmt::Debug for Vectors<I> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Vectors")
            .field("server", self.api().server.settings())
            .finish_non_exhaustive()
    }
}
