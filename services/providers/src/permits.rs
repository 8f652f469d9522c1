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

/// Where permits for a provider come from.
pub trait ProviderPermits: Send + Sync + 'static {
    /// Waits for room for `requests` requests carrying about `tokens` tokens. A short wait happens inside; a long one is
    /// answered [`Throttled`], so that the file waits where waiting costs nothing.
    fn acquire(&self, requests: u32, tokens: u64) -> Permitted<'_>;

    /// The provider itself asked for a pause: whoever shares the budget should hear of it.
    fn slow_down(&self, _pause: Duration) {}
}

/// Grants everything at once: for a provider without a limit, and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl ProviderPermits for Unlimited {
    fn acquire(&self, _requests: u32, _tokens: u64) -> Permitted<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}
