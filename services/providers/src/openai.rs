//! A provider that speaks OpenAI's embeddings API: `POST {base}/embeddings`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api_key::{ApiKey, SettingsError};
use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Verdict};
use crate::embeddings::{Embeddings, ProviderState};
use crate::error::ProviderError;
use crate::estimate::estimate;
use crate::gather::{self, Answer, Bounds, Gatherer, Source};
use crate::http::{Answer as HttpAnswer, HttpClient};
use crate::pace::Pace;
use crate::permits::ProviderPermits;

/// The most texts OpenAI takes in one request.
const MAX_BATCH: usize = 2_048;

/// Tokens in one request, by estimate: far below OpenAI's 300,000.
const MAX_REQUEST_TOKENS: usize = 100_000;

/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);

/// A shorter wait happens here; a longer one is told to the caller, who may wait where waiting costs nothing.
const LONGEST_WAIT_HERE: Duration = Duration::from_secs(5);

/// So long a request is tried again here after a 429 with a short pause.
const LONGEST_THROTTLED_HERE: Duration = Duration::from_secs(20);

/// Requests under way at once, where there is enough to fill them.
const MAX_REQUESTS_AT_ONCE: usize = 4;

/// The longest pause a provider can ask for; a longer one is asked for again.
const MAX_PAUSE: Duration = Duration::from_secs(3_600);

/// How much of a provider's error text is kept.
const MAX_ANSWER_CHARS: usize = 300;

/// How to reach the provider, and what to ask of it.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// The address up to and without `/embeddings`, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name, as the provider knows it.
    pub model: String,
    /// Sent as a bearer token; `None` for servers that ask for none.
    pub api_key: Option<ApiKey>,
    /// Asks for vectors of this length, and refuses any other; `None` takes what comes.
    pub dimensions: Option<usize>,
    /// The most tokens of one text that the model reads.
    pub max_tokens: usize,
    /// The most texts in one request, 1 to 2,048.
    pub batch: usize,
    /// Time from sending a request to the end of its answer.
    pub timeout: Duration,
    /// When to stop calling a provider that fails.
    pub breaker: BreakerPolicy,
}

/// An OpenAI-compatible provider. Cheap to clone; clones share connections, breaker and pauses.
#[derive(Clone)]
pub struct OpenAi {
    gatherer: Arc<Gatherer<Shared>>,
}

struct Shared {
    settings: OpenAiSettings,
    endpoint: Uri,
    client: HttpClient,
    permits: Arc<dyn ProviderPermits>,
    breaker: Mutex<Breaker>,
    pace: Mutex<Pace>,
    /// The length of the vectors of the first answer, or of those before; 0 while there was none.
    dimensions: AtomicUsize,
}

#[derive(Serialize)]
struct EmbeddingsRequest<'a> {
    model: &'a str,
    input: &'a [&'a str],
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct EmbeddingsAnswer {
    data: Vec<EmbeddingItem>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct EmbeddingItem {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Default, Deserialize)]
struct Usage {
    #[serde(default)]
    total_tokens: u64,
    #[serde(default)]
    prompt_tokens: u64,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Structured { message: String },
    Words(String),
}

impl OpenAi {
    /// A provider that asks `permits` before each request. Nothing is sent yet; wrong settings are named.
    pub fn new(
        settings: OpenAiSettings,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        let endpoint: Uri = format!("{}/embeddings", settings.base_url.trim_end_matches('/'))
            .parse()
            .map_err(|error| {
                SettingsError::new("base_url", format!("is not an address: {error}"))
            })?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) {
            return Err(SettingsError::new(
                "base_url",
                "must begin with https:// or http://",
            ));
        }
        if settings.model.is_empty() {
            return Err(SettingsError::new(
                "model",
                "must name the provider's model",
            ));
        }
        if !(1..=MAX_BATCH).contains(&settings.batch) {
            return Err(SettingsError::new(
                "batch",
                format!("must be 1 to {MAX_BATCH}"),
            ));
        }
        if settings.max_tokens == 0 || settings.dimensions == Some(0) || settings.timeout.is_zero()
        {
            return Err(SettingsError::new(
                "max_tokens, dimensions and timeout",
                "must be above zero",
            ));
        }
        if let Some(key) = &settings.api_key {
            key.as_bearer()?;
        }
        let client = HttpClient::for_url(&endpoint)
            .map_err(|problem| SettingsError::new("base_url", problem))?;
        let breaker = Mutex::new(Breaker::new(settings.breaker));
        Ok(Self {
            gatherer: Arc::new(Gatherer::new(Shared {
                settings,
                endpoint,
                client,
                permits,
                breaker,
                pace: Mutex::default(),
                dimensions: AtomicUsize::new(0),
            })),
        })
    }

    /// Embeds `texts`, in order, together with those of other callers.
    pub async fn embed(&self, texts: &[String]) -> Result<Embeddings, ProviderError> {
        self.gatherer.embed(texts).await
    }

    /// Asks for the vector of a text that is nobody's.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        self.gatherer.probe().await
    }

    /// Texts that travel in one request.
    pub fn texts_a_request(&self) -> usize {
        self.shared().settings.batch
    }

    /// The model's name, as the provider knows it.
    pub fn model(&self) -> &str {
        &self.shared().settings.model
    }

    /// The vector length that was asked for, if any was.
    pub fn dimensions(&self) -> Option<usize> {
        self.shared().settings.dimensions
    }

    /// The length that vectors of this model had before.
    pub fn expect_dimensions(&self, length: usize) {
        self.shared().dimensions.store(length, Ordering::Relaxed);
    }

    /// The most tokens of one text that the model reads.
    pub fn max_tokens(&self) -> usize {
        self.shared().settings.max_tokens
    }

    /// Whether calls pass at this moment.
    pub fn state(&self) -> ProviderState {
        self.shared().state()
    }

    fn shared(&self) -> &Shared {
        self.gatherer.source()
    }
}

impl Shared {
    fn state(&self) -> ProviderState {
        let now = Instant::now();
        let pause = lock(&self.pace).pause_left(now);
        if pause > LONGEST_WAIT_HERE {
            return ProviderState::Paused {
                retry_after: pause,
                why: "the provider asked for a pause".to_owned(),
            };
        }
        let breaker = self.breaker();
        match breaker.closed_to_callers_for(now) {
            Some(wait) if breaker.state(now) == BreakerState::Open => ProviderState::Paused {
                retry_after: wait,
                why: "the provider failed several times in a row".to_owned(),
            },
            _ => ProviderState::Ready,
        }
    }

    /// One request, and after a 429 with a short pause the same again.
    async fn request(
        &self,
        input: &[&str],
        tokens: u64,
    ) -> Result<EmbeddingsAnswer, ProviderError> {
        let asked_until = Instant::now() + LONGEST_THROTTLED_HERE;
        loop {
            let result = self.request_once(input, tokens).await;
            let Err(ProviderError::Throttled { retry_after }) = &result else {
                return result;
            };
            let comes_back = Instant::now() + *retry_after;
            if *retry_after > LONGEST_WAIT_HERE || comes_back > asked_until {
                return result;
            }
        }
    }

    async fn request_once(
        &self,
        input: &[&str],
        tokens: u64,
    ) -> Result<EmbeddingsAnswer, ProviderError> {
        let count = input.len();
        let request = self.encode(input)?;

        // Asked before the permits, so that a sick provider does not use up the budget of everyone, and taken after them,
        // so that a probe does not wait for a permit.
        let now = Instant::now();
        let pause = lock(&self.pace).pause_left(now);
        if pause > LONGEST_WAIT_HERE {
            return Err(ProviderError::Throttled { retry_after: pause });
        }
        if let Some(wait) = self.breaker().closed_to_callers_for(now) {
            return Err(breaker_open(wait));
        }
        self.permits
            .acquire(1, tokens)
            .await
            .map_err(|throttled| ProviderError::NoPermit {
                retry_after: throttled.retry_after,
            })?;
        let turn = lock(&self.pace).turn(Instant::now(), LONGEST_WAIT_HERE);
        let wait = turn.map_err(|retry_after| ProviderError::Throttled { retry_after })?;
        tokio::time::sleep(wait).await;
        let pass = self
            .breaker()
            .try_pass(Instant::now())
            .map_err(breaker_open)?;
        let mut guard = PassGuard {
            provider: self,
            pass: Some(pass),
        };

        let answer = match self.client.send(request, self.settings.timeout).await {
            Ok(answer) => answer,
            Err(what) => {
                guard.settle(Verdict::Failure);
                return Err(ProviderError::unavailable(format!(
                    "{} {what}",
                    self.endpoint
                )));
            }
        };
        let result = self.judge(&answer, count);
        guard.settle(match &result {
            Ok(_) | Err(ProviderError::Rejected { .. } | ProviderError::InvalidAnswer { .. }) => {
                Verdict::Success
            }
            Err(
                ProviderError::Throttled { .. }
                | ProviderError::NoPermit { .. }
                | ProviderError::NotConfigured { .. },
            ) => Verdict::Unknown,
            Err(
                ProviderError::Unavailable { .. }
                | ProviderError::Unauthorized { .. }
                | ProviderError::Misbehaves { .. },
            ) => Verdict::Failure,
        });
        match &result {
            Ok(_) => lock(&self.pace).served(),
            Err(ProviderError::Throttled { retry_after }) => {
                lock(&self.pace).throttled(Instant::now(), *retry_after);
                self.permits.slow_down(*retry_after);
            }
            Err(_) => {}
        }
        result
    }

    fn encode(&self, input: &[&str]) -> Result<Request<Full<Bytes>>, ProviderError> {
        let body = serde_json::to_vec(&EmbeddingsRequest {
            model: &self.settings.model,
            input,
            encoding_format: "float",
            dimensions: self.settings.dimensions,
        })
        .map_err(|error| ProviderError::unavailable(format!("request not encoded: {error}")))?;
        // Of all that is sent: the same request sent twice has the same key, and no other has.
        let idempotency_key = hex::encode(Sha256::digest(&body));
        let mut request = Request::post(self.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header("idempotency-key", idempotency_key);
        if let Some(key) = &self.settings.api_key {
            let bearer = key
                .as_bearer()
                .map_err(|error| ProviderError::unavailable(error.to_string()))?;
            request = request.header(header::AUTHORIZATION, bearer);
        }
        request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ProviderError::unavailable(format!("request not encoded: {error}")))
    }

    /// What an answer means. A refused key, a wrong address or an unknown model is the configuration's fault and not the
    /// file's: such files wait for the remedy instead of failing for good.
    fn judge(&self, answer: &HttpAnswer, count: usize) -> Result<EmbeddingsAnswer, ProviderError> {
        let status = answer.status;
        if status.is_success() {
            return self.decode(answer, count);
        }
        let retry_after = retry_after(&answer.headers, SystemTime::now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(ProviderError::Throttled {
                retry_after: retry_after.unwrap_or(DEFAULT_PAUSE),
            });
        }
        let words = self.error_words(answer);
        let unavailable = |hint: &str| ProviderError::Unavailable {
            detail: format!("status {}: {words}{hint}", status.as_u16()),
            retry_after,
        };
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ProviderError::Unauthorized {
                detail: format!("status {}: {words}", status.as_u16()),
            },
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                unavailable(" (check the provider's address and the model's name)")
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => unavailable(""),
            _ if status.is_client_error() => ProviderError::Rejected {
                status: status.as_u16(),
                detail: words,
            },
            _ if status.is_redirection() => {
                unavailable(" (redirects are not followed: set the final address)")
            }
            _ => unavailable(""),
        })
    }

    fn decode(&self, answer: &HttpAnswer, count: usize) -> Result<EmbeddingsAnswer, ProviderError> {
        let decoded: EmbeddingsAnswer = serde_json::from_slice(&answer.body).map_err(|error| {
            ProviderError::misbehaves(format!("answer is not what OpenAI's API gives: {error}"))
        })?;
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
                "answer has {} vectors for {count} texts",
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
        let asked_for = self.settings.dimensions;
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

    /// The provider's own words, bounded, without the key should it be quoted back.
    fn error_words(&self, answer: &HttpAnswer) -> String {
        let words = match serde_json::from_slice::<ErrorAnswer>(&answer.body) {
            Ok(ErrorAnswer {
                error: ErrorBody::Structured { message } | ErrorBody::Words(message),
            }) => message,
            Err(_) => {
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(4_096)]).into_owned()
            }
        };
        let words = match &self.settings.api_key {
            Some(key) => key.redact(&words),
            None => words,
        };
        let words: String = words
            .chars()
            .map(|character| {
                if character.is_control() {
                    ' '
                } else {
                    character
                }
            })
            .take(MAX_ANSWER_CHARS)
            .collect();
        words.trim().to_owned()
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }
}

impl Source for Shared {
    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: self.settings.batch,
            tokens: MAX_REQUEST_TOKENS,
            eager: 1,
            at_most: lock(&self.pace).width().min(MAX_REQUESTS_AT_ONCE),
        }
    }

    async fn ask(&self, texts: &[&str]) -> Result<Vec<Answer>, ProviderError> {
        let weights: Vec<u64> = texts
            .iter()
            .map(|text| estimate(text).max(1) as u64)
            .collect();
        let answer = self.request(texts, weights.iter().sum()).await?;
        let read = answer.usage.total_tokens.max(answer.usage.prompt_tokens);
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
        for item in answer.data {
            vectors[item.index] = item.embedding;
        }
        let answers = vectors.into_iter().zip(gather::shares(read, &weights));
        Ok(answers
            .map(|(vector, tokens)| Answer {
                vector,
                tokens,
                unread: 0,
            })
            .collect())
    }
}

impl std::fmt::Debug for OpenAi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OpenAi")
            .field("settings", &self.shared().settings)
            .finish_non_exhaustive()
    }
}

/// Gives the pass back even when the caller is cancelled in the middle of the call.
struct PassGuard<'a> {
    provider: &'a Shared,
    pass: Option<Pass>,
}

impl PassGuard<'_> {
    fn settle(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else {
            return;
        };
        let now = Instant::now();
        let mut breaker = self.provider.breaker();
        let before = breaker.state(now);
        breaker.settle(pass, verdict, now);
        let after = breaker.state(now);
        drop(breaker);
        if before != after {
            tracing::warn!(endpoint = %self.provider.endpoint, ?before, ?after, "circuit breaker changed");
        }
    }
}

impl Drop for PassGuard<'_> {
    fn drop(&mut self) {
        self.settle(Verdict::Unknown);
    }
}

fn breaker_open(wait: Duration) -> ProviderError {
    ProviderError::Unavailable {
        detail: "circuit breaker is open after several failures in a row".to_owned(),
        retry_after: Some(wait),
    }
}

/// No guarded section here can panic half-way, so a poisoned lock still holds a whole value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pause an answer asks for: `retry-after-ms`, or `Retry-After` in seconds or as a date. Bounded by [`MAX_PAUSE`].
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| {
        headers
            .get(name)
            .map(HeaderValue::to_str)?
            .ok()
            .map(str::trim)
    };
    let milliseconds = text(HeaderName::from_static("retry-after-ms"))
        .and_then(|value| value.parse::<u64>().ok())
        .map(Duration::from_millis);
    let pause = milliseconds.or_else(|| {
        let value = text(header::RETRY_AFTER)?;
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(now).unwrap_or(Duration::ZERO))
    })?;
    Some(pause.min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_pause_is_read_as_milliseconds_seconds_or_a_date_and_is_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(now - Duration::from_secs(90));
        for (pairs, expected) in [
            (vec![("retry-after", "7")], Some(Duration::from_secs(7))),
            (
                vec![("retry-after", "7"), ("retry-after-ms", "250")],
                Some(Duration::from_millis(250)),
            ),
            (
                vec![("retry-after", date.as_str())],
                Some(Duration::from_secs(90)),
            ),
            (vec![("retry-after", past.as_str())], Some(Duration::ZERO)),
            (vec![("retry-after", "999999999")], Some(MAX_PAUSE)),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            assert_eq!(retry_after(&headers(&pairs), now), expected, "{pairs:?}");
        }
    }
}
