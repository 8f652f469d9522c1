//! Tier-3 permits: requests and tokens a minute of a provider, shared by every process that calls it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A permit was not granted in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no permit for the provider, again in {} ms", retry_after.as_millis())]
pub struct Throttled {
    /// How long to wait before asking again.
    pub retry_after: Duration,
}

/// The answer of [`ProviderPermits::acquire`]: boxed, so that the source of permits can be chosen when the process starts.
pub type Permitted<'a> = Pin<Box<dyn Future<Output = Result<(), Throttled>> + Send + 'a>>;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderAnswer {
    /// It did its work.
    Served,
    /// 429.
    Throttled,
    /// It does not accept the key.
    RefusedKey,
    /// It refused what was asked.
    RefusedInput,
    /// An error of its own, or of its account or address.
    ServerError,
    /// An answer that is none of its API, or not what was asked for.
    Unusable,
    /// No answer within the time.
    Timeout,
    /// It could not be reached, or broke off.
    Down,
}

impl ProviderAnswer {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Throttled => "throttled",
            Self::RefusedKey => "refused_key",
            Self::RefusedInput => "refused_input",
            Self::ServerError => "server_error",
            Self::Unusable => "unusable",
            Self::Timeout => "timeout",
            Self::Down => "down",
        }
    }
}

/// Where permits for a provider come from.
pub trait ProviderPermits: Send + Sync + 'static {
    /// Waits for room for `requests` requests carrying about `tokens` tokens. A short wait happens inside; a long one is
    /// answered [`Throttled`], so that the file waits where waiting costs nothing.
    fn acquire(&self, requests: u32, tokens: u64) -> Permitted<'_>;

    /// The provider itself asked for a pause: whoever shares the budget should hear of it.
    fn slow_down(&self, _pause: Duration) {}

    /// What the provider answered: whoever counts hears of it.
    fn answered(&self, _answer: ProviderAnswer) {}
}

/// Grants everything at once: for a provider without a limit, and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl ProviderPermits for Unlimited {
    fn acquire(&self, _requests: u32, _tokens: u64) -> Permitted<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}
