//! A provider that speaks OpenAI's embeddings API: `POST {base}/embeddings`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use crate::api_key::{ApiKey, SettingsError};
use crate::batch;
use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Verdict};
use crate::embeddings::{Embeddings, ProviderState};
use crate::error::ProviderError;
use crate::estimate::estimate;
use crate::http::{Answer, HttpClient};
use crate::permits::ProviderPermits;

/// The most texts OpenAI takes in one request.
const MAX_BATCH: usize = 2_048;

/// Tokens in one request, by estimate and padded: far below OpenAI's 300,000.
const MAX_REQUEST_TOKENS: usize = 100_000;

/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);

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
    shared: Arc<Shared>,
}

struct Shared {
    settings: OpenAiSettings,
    endpoint: Uri,
    client: HttpClient,
    permits: Arc<dyn ProviderPermits>,
    breaker: Mutex<Breaker>,
    quiet_until: Mutex<Option<Instant>>,
}

#[derive(Serialize)]
struct EmbeddingsRequest<'a> {
    model: &'a str,
    input: Vec<&'a str>,
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
            shared: Arc::new(Shared {
                settings,
                endpoint,
                client,
                permits,
                breaker,
                quiet_until: Mutex::new(None),
            }),
        })
    }

    /// Embeds `texts`, in order. The request's idempotency key is `idempotency_key` and the number of the batch, so a
    /// repeat of the same texts repeats the same keys.
    pub async fn embed(
        &self,
        texts: &[String],
        idempotency_key: &str,
    ) -> Result<Embeddings, ProviderError> {
        let lengths: Vec<usize> = texts.iter().map(|text| estimate(text).max(1)).collect();
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
        let mut tokens = 0;
        let mut calls = 0;
        for (number, members) in
            batch::plan(&lengths, self.shared.settings.batch, MAX_REQUEST_TOKENS)
                .into_iter()
                .enumerate()
        {
            let input: Vec<&str> = members.iter().map(|&index| texts[index].as_str()).collect();
            let estimated = members.iter().map(|&index| lengths[index] as u64).sum();
            let answer = self
                .request(input, estimated, &format!("{idempotency_key}-{number}"))
                .await?;
            tokens += answer.usage.total_tokens.max(answer.usage.prompt_tokens);
            calls += 1;
            for item in answer.data {
                vectors[members[item.index]] = item.embedding;
            }
        }
        Embeddings::checked(vectors, texts.len(), tokens, calls)
    }

    /// The model's name, as the provider knows it.
    pub fn model(&self) -> &str {
        &self.shared.settings.model
    }

    /// The vector length that was asked for, if any was.
    pub fn dimensions(&self) -> Option<usize> {
        self.shared.settings.dimensions
    }

    /// The most tokens of one text that the model reads.
    pub fn max_tokens(&self) -> usize {
        self.shared.settings.max_tokens
    }

    /// Whether calls pass at this moment.
    pub fn state(&self) -> ProviderState {
        let now = Instant::now();
        if let Some(pause) = self.pause_left(now) {
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

    async fn request(
        &self,
        input: Vec<&str>,
        estimated_tokens: u64,
        idempotency_key: &str,
    ) -> Result<EmbeddingsAnswer, ProviderError> {
        let count = input.len();
        let request = self.encode(input, idempotency_key)?;

        // Asked before the permits, so that a sick provider does not use up the budget of everyone, and taken after them,
        // so that a probe does not wait for a permit.
        let now = Instant::now();
        if let Some(retry_after) = self.pause_left(now) {
            return Err(ProviderError::Throttled { retry_after });
        }
        if let Some(wait) = self.breaker().closed_to_callers_for(now) {
            return Err(breaker_open(wait));
        }
        self.shared
            .permits
            .acquire(1, estimated_tokens)
            .await
            .map_err(|throttled| ProviderError::Throttled {
                retry_after: throttled.retry_after,
            })?;
        let pass = self
            .breaker()
            .try_pass(Instant::now())
            .map_err(breaker_open)?;
        let mut guard = PassGuard {
            provider: self,
            pass: Some(pass),
        };

        let answer = match self
            .shared
            .client
            .send(request, self.shared.settings.timeout)
            .await
        {
            Ok(answer) => answer,
            Err(what) => {
                guard.settle(Verdict::Failure);
                return Err(ProviderError::unavailable(format!(
                    "{} {what}",
                    self.shared.endpoint
                )));
            }
        };
        let result = self.judge(&answer, count);
        guard.settle(match &result {
            Ok(_) | Err(ProviderError::Rejected { .. }) => Verdict::Success,
            Err(ProviderError::Throttled { .. } | ProviderError::NotConfigured { .. }) => {
                Verdict::Unknown
            }
            Err(
                ProviderError::Unavailable { .. }
                | ProviderError::Unauthorized { .. }
                | ProviderError::InvalidAnswer { .. },
            ) => Verdict::Failure,
        });
        if let Err(ProviderError::Throttled { retry_after }) = &result {
            *lock(&self.shared.quiet_until) = Some(Instant::now() + *retry_after);
            self.shared.permits.slow_down(*retry_after);
        }
        result
    }

    fn encode(
        &self,
        input: Vec<&str>,
        idempotency_key: &str,
    ) -> Result<Request<Full<Bytes>>, ProviderError> {
        let body = serde_json::to_vec(&EmbeddingsRequest {
            model: &self.shared.settings.model,
            input,
            encoding_format: "float",
            dimensions: self.shared.settings.dimensions,
        })
        .map_err(|error| ProviderError::unavailable(format!("request not encoded: {error}")))?;
        let mut request = Request::post(self.shared.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header("idempotency-key", idempotency_key);
        if let Some(key) = &self.shared.settings.api_key {
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
    fn judge(&self, answer: &Answer, count: usize) -> Result<EmbeddingsAnswer, ProviderError> {
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

    fn decode(&self, answer: &Answer, count: usize) -> Result<EmbeddingsAnswer, ProviderError> {
        let decoded: EmbeddingsAnswer = serde_json::from_slice(&answer.body).map_err(|error| {
            ProviderError::invalid_answer(format!("answer is not what OpenAI's API gives: {error}"))
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
            if let Some(dimensions) = self.shared.settings.dimensions
                && item.embedding.len() != dimensions
            {
                return Err(ProviderError::invalid_answer(format!(
                    "answer has {} dimensions instead of the {dimensions} asked for",
                    item.embedding.len()
                )));
            }
        }
        if decoded.data.len() != count {
            return Err(ProviderError::invalid_answer(format!(
                "answer has {} vectors for {count} texts",
                decoded.data.len()
            )));
        }
        Ok(decoded)
    }

    /// The provider's own words, bounded, without the key should it be quoted back.
    fn error_words(&self, answer: &Answer) -> String {
        let words = match serde_json::from_slice::<ErrorAnswer>(&answer.body) {
            Ok(ErrorAnswer {
                error: ErrorBody::Structured { message } | ErrorBody::Words(message),
            }) => message,
            Err(_) => {
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(4_096)]).into_owned()
            }
        };
        let words = match &self.shared.settings.api_key {
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

    fn pause_left(&self, now: Instant) -> Option<Duration> {
        let until = (*lock(&self.shared.quiet_until))?;
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.shared.breaker)
    }
}

impl std::fmt::Debug for OpenAi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OpenAi")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// Gives the pass back even when the caller is cancelled in the middle of the call.
struct PassGuard<'a> {
    provider: &'a OpenAi,
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
            tracing::warn!(endpoint = %self.provider.shared.endpoint, ?before, ?after, "circuit breaker changed");
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
