//! One server that speaks OpenAI's API, whatever is asked of it: each POST passes pause, breaker, permits and pace, and what
//! comes back is told apart by whose fault it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api_key::{ApiKey, SettingsError};
use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Verdict};
use crate::embeddings::ProviderState;
use crate::error::ProviderError;
use crate::http::{Answer as HttpAnswer, HttpClient, NoAnswer};
use crate::pace::Pace;
use crate::permits::{ProviderAnswer, ProviderPermits};

/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);

/// A shorter wait happens here; a longer one is told to the caller, who may wait where waiting costs nothing.
const LONGEST_WAIT_HERE: Duration = Duration::from_secs(5);

/// So long a request is tried again here after a 429 with a short pause.
const LONGEST_THROTTLED_HERE: Duration = Duration::from_secs(20);

/// The longest pause a provider can ask for; a longer one is asked for again.
const MAX_PAUSE: Duration = Duration::from_secs(3_600);

/// How much of a provider's error text is kept.
const MAX_ANSWER_CHARS: usize = 300;

/// How to reach a server, and which model to ask there.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The address up to and without `/embeddings` or `/chat/completions`, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name, as the provider knows it.
    pub model: String,
    /// Sent as a bearer token; `None` for servers that ask for none.
    pub api_key: Option<ApiKey>,
    /// Time from sending a request to the end of its answer.
    pub timeout: Duration,
    /// When to stop calling a provider that fails.
    pub breaker: BreakerPolicy,
}

/// A server and one path of it.
pub(crate) struct Server {
    settings: ServerSettings,
    endpoint: Uri,
    client: HttpClient,
    permits: Arc<dyn ProviderPermits>,
    breaker: Mutex<Breaker>,
    pace: Mutex<Pace>,
    /// How it failed last: what the breaker is open for.
    failure: Mutex<Option<ProviderError>>,
}

/// What a request used up, as the server counts.
#[derive(Default, Deserialize)]
pub(crate) struct TokensUsed {
    #[serde(default)]
    total_tokens: u64,
    #[serde(default)]
    prompt_tokens: u64,
}

impl TokensUsed {
    pub(crate) fn all(&self) -> u64 {
        self.total_tokens.max(self.prompt_tokens)
    }
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

impl Server {
    /// A server that asks `permits` before each request. Nothing is sent yet; wrong settings are named.
    pub(crate) fn new(
        settings: ServerSettings,
        path: &str,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        let endpoint: Uri = format!("{}/{path}", settings.base_url.trim_end_matches('/'))
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
        if settings.timeout.is_zero() {
            return Err(SettingsError::new("timeout", "must be above zero"));
        }
        if let Some(key) = &settings.api_key {
            key.as_bearer()?;
        }
        let client = HttpClient::for_url(&endpoint)
            .map_err(|problem| SettingsError::new("base_url", problem))?;
        let breaker = Mutex::new(Breaker::new(settings.breaker));
        Ok(Self {
            settings,
            endpoint,
            client,
            permits,
            breaker,
            pace: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    pub(crate) fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    pub(crate) fn model(&self) -> &str {
        &self.settings.model
    }

    /// Requests that may be under way at once.
    pub(crate) fn width(&self) -> usize {
        lock(&self.pace).width()
    }

    /// Whether calls pass at this moment.
    pub(crate) fn state(&self) -> ProviderState {
        let now = Instant::now();
        let pause = lock(&self.pace).pause_left(now);
        if pause > LONGEST_WAIT_HERE {
            return ProviderState::Paused {
                retry_after: pause,
                why: "the provider asked for a pause".to_owned(),
            };
        }
        let breaker = lock(&self.breaker);
        match breaker.closed_to_callers_for(now) {
            Some(wait) if breaker.state(now) == BreakerState::Open => ProviderState::Paused {
                retry_after: wait,
                why: "the provider failed several times in a row".to_owned(),
            },
            _ => ProviderState::Ready,
        }
    }

    /// Sends `body`, of about `tokens` tokens, and after a 429 with a short pause the same again. `decode` reads an answer
    /// that is none of an error.
    pub(crate) async fn post<T: Send>(
        &self,
        body: Bytes,
        tokens: u64,
        decode: impl Fn(&[u8]) -> Result<T, ProviderError> + Send + Sync,
    ) -> Result<T, ProviderError> {
        let asked_until = Instant::now() + LONGEST_THROTTLED_HERE;
        loop {
            let result = self.post_once(&body, tokens, &decode).await;
            let Err(ProviderError::Throttled { retry_after }) = &result else {
                return result;
            };
            let comes_back = Instant::now() + *retry_after;
            if *retry_after > LONGEST_WAIT_HERE || comes_back > asked_until {
                return result;
            }
        }
    }

    async fn post_once<T: Send>(
        &self,
        body: &Bytes,
        tokens: u64,
        decode: &(impl Fn(&[u8]) -> Result<T, ProviderError> + Send + Sync),
    ) -> Result<T, ProviderError> {
        let request = self.request(body)?;

        // Asked before the permits, so that a sick provider does not use up the budget of everyone, and taken after them,
        // so that a probe does not wait for a permit.
        let now = Instant::now();
        let pause = lock(&self.pace).pause_left(now);
        if pause > LONGEST_WAIT_HERE {
            return Err(ProviderError::Throttled { retry_after: pause });
        }
        if let Some(wait) = lock(&self.breaker).closed_to_callers_for(now) {
            return Err(self.closed_for(wait));
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
        let pass = lock(&self.breaker)
            .try_pass(Instant::now())
            .map_err(|wait| self.closed_for(wait))?;
        let mut guard = PassGuard {
            server: self,
            pass: Some(pass),
        };

        let result = match self.client.send(request, self.settings.timeout).await {
            Ok(answer) => {
                let result = self.judge(&answer, decode);
                self.permits.answered(answered(&result));
                result
            }
            Err(what) => {
                self.permits.answered(match what {
                    NoAnswer::Late(_) => ProviderAnswer::Timeout,
                    NoAnswer::Down(_) => ProviderAnswer::Down,
                });
                let words = format!("{} {}", self.endpoint, what.words());
                Err(ProviderError::unavailable(words))
            }
        };
        let verdict = verdict(&result);
        guard.settle(verdict);
        if verdict == Verdict::Failure {
            *lock(&self.failure) = result.as_ref().err().cloned();
        }
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

    /// Nothing is sent while the breaker is open. A key that was refused, or an answer of another API, is still what is waited
    /// for then.
    fn closed_for(&self, wait: Duration) -> ProviderError {
        match &*lock(&self.failure) {
            Some(
                last @ (ProviderError::Unauthorized { .. } | ProviderError::Misbehaves { .. }),
            ) => last.clone(),
            _ => ProviderError::Unavailable {
                detail: "circuit breaker is open after several failures in a row".to_owned(),
                retry_after: Some(wait),
            },
        }
    }

    fn request(&self, body: &Bytes) -> Result<Request<Full<Bytes>>, ProviderError> {
        // Of all that is sent: the same request sent twice has the same key, and no other has.
        let idempotency_key = hex::encode(Sha256::digest(body));
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
            .body(Full::new(body.clone()))
            .map_err(|error| not_encoded(&error))
    }

    /// What an answer means. A refused key, a wrong address or an unknown model is the configuration's fault and not the
    /// file's: such files wait for the remedy instead of failing for good.
    fn judge<T>(
        &self,
        answer: &HttpAnswer,
        decode: impl Fn(&[u8]) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        let status = answer.status;
        if status.is_success() {
            return decode(&answer.body);
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
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => ProviderError::Rejected {
                status: status.as_u16(),
                detail: words,
            },
            // No request of another file would fare better: payment is due, it is locked, or not allowed here.
            _ if status.is_client_error() => unavailable(" (check the account with the provider)"),
            _ if status.is_redirection() => {
                unavailable(" (redirects are not followed: set the final address)")
            }
            _ => unavailable(""),
        })
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
        self.quoted(&words)
    }

    /// What the provider said, fit for a log.
    pub(crate) fn quoted(&self, words: &str) -> String {
        let words = match &self.settings.api_key {
            Some(key) => key.redact(words),
            None => words.to_owned(),
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
}

/// Gives the pass back even when the caller is cancelled in the middle of the call.
struct PassGuard<'a> {
    server: &'a Server,
    pass: Option<Pass>,
}

impl PassGuard<'_> {
    fn settle(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else {
            return;
        };
        let now = Instant::now();
        let mut breaker = lock(&self.server.breaker);
        let before = breaker.state(now);
        breaker.settle(pass, verdict, now);
        let after = breaker.state(now);
        drop(breaker);
        if before != after {
            tracing::warn!(endpoint = %self.server.endpoint, ?before, ?after, "circuit breaker changed");
        }
    }
}

impl Drop for PassGuard<'_> {
    fn drop(&mut self) {
        self.settle(Verdict::Unknown);
    }
}

/// How an answer that came is counted.
fn answered<T>(result: &Result<T, ProviderError>) -> ProviderAnswer {
    match result {
        Ok(_) => ProviderAnswer::Served,
        Err(error) => match error {
            ProviderError::Throttled { .. } | ProviderError::NoPermit { .. } => {
                ProviderAnswer::Throttled
            }
            ProviderError::Unauthorized { .. } => ProviderAnswer::RefusedKey,
            ProviderError::Rejected { .. } => ProviderAnswer::RefusedInput,
            ProviderError::Misbehaves { .. } | ProviderError::InvalidAnswer { .. } => {
                ProviderAnswer::Unusable
            }
            ProviderError::Unavailable { .. } | ProviderError::NotConfigured { .. } => {
                ProviderAnswer::ServerError
            }
        },
    }
}

/// What an answer says of the provider's health.
fn verdict<T>(result: &Result<T, ProviderError>) -> Verdict {
    match result {
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
    }
}

/// A request as it is sent.
pub(crate) fn encoded(request: &impl Serialize) -> Result<Bytes, ProviderError> {
    let body = serde_json::to_vec(request).map_err(|error| not_encoded(&error))?;
    Ok(Bytes::from(body))
}

/// What a successful answer holds; anything else is none of OpenAI's API.
pub(crate) fn decoded<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ProviderError> {
    serde_json::from_slice(body).map_err(|error| {
        ProviderError::misbehaves(format!("answer is not what OpenAI's API gives: {error}"))
    })
}

fn not_encoded(error: &dyn std::error::Error) -> ProviderError {
    ProviderError::unavailable(format!("request not encoded: {error}"))
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
