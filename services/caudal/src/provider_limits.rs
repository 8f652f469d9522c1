//! `--provider-limit`: what all processes together may ask of each provider in a minute.

use std::collections::BTreeMap;
use std::str::FromStr;

use caudal_limiter::{InvalidSettings, ProviderLimit, Rate};
use caudal_stage::Provider;
use clap::Args;

use crate::failure::Failure;

/// What is said where a setting is none.
const FORM: &str =
    "say PROVIDER=requests:N,tokens:N, such as embedding=requests:3000,tokens:1000000";

/// The limits of providers.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProviderLimitArguments {
    /// Requests and tokens a minute of a provider, for all processes together: `embedding`, `caption` or `image-embedding`.
    /// Once for each provider, or all of them separated by commas. What is left out keeps its default: 3,000 requests and
    /// 960,000 tokens. The limiter keeps them; stages that are told them too have an eighth of them each where they never
    /// reached the limiter
    #[arg(
        long = "provider-limit",
        env = "CAUDAL_PROVIDER_LIMIT",
        value_name = "PROVIDER=requests:N,tokens:N"
    )]
    provider_limit: Vec<ProviderLimits>,
}

impl ProviderLimitArguments {
    /// All of them together.
    ///
    /// # Errors
    /// When one stands twice.
    pub(crate) fn limits(&self) -> Result<ProviderLimits, Failure> {
        let mut all = ProviderLimits::default();
        for limits in &self.provider_limit {
            for (&provider, &limit) in &limits.by_provider {
                all.add(provider, limit).map_err(|words| {
                    Failure::misconfigured(format!("--provider-limit: {words}"))
                })?;
            }
        }
        Ok(all)
    }
}

/// Limits by provider.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProviderLimits {
    by_provider: BTreeMap<&'static str, ProviderLimit>,
}

impl ProviderLimits {
    /// What is set of one provider.
    pub(crate) fn of(&self, provider: Provider) -> ProviderLimit {
        self.by_provider
            .get(provider.kind())
            .copied()
            .unwrap_or_default()
    }

    /// Each by the name that permits have.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, ProviderLimit)> {
        let all = Provider::ALL.map(|provider| (provider.name().to_owned(), self.of(provider)));
        all.into_iter()
    }

    fn add(&mut self, provider: &'static str, limit: ProviderLimit) -> Result<(), String> {
        let known = self.by_provider.entry(provider).or_default();
        for (what, known, new) in [
            ("requests", &mut known.requests, limit.requests),
            ("tokens", &mut known.tokens, limit.tokens),
        ] {
            if known.is_some() && new.is_some() {
                return Err(format!("{what} of {provider} stand twice: leave one out"));
            }
            *known = known.or(new);
        }
        Ok(())
    }
}

impl FromStr for ProviderLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        let mut provider = None;
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let limit = match part.split_once('=') {
                Some((name, limit)) => {
                    provider = Some(named(name.trim())?);
                    limit.trim()
                }
                None => part,
            };
            let provider = provider.ok_or_else(|| format!("`{part}` names no provider: {FORM}"))?;
            let (what, number) = limit
                .split_once(':')
                .ok_or_else(|| format!("`{limit}` is no limit: {FORM}"))?;
            let a_minute: u32 = number.trim().parse().map_err(|_| {
                format!("{provider}.{what}: `{number}` is no whole number a minute: {FORM}")
            })?;
            let rate = |what: &str| {
                Rate::a_minute(&format!("{provider}.{what}"), a_minute)
                    .map_err(|error: InvalidSettings| error.to_string())
            };
            let limit = match what.trim() {
                "requests" => ProviderLimit {
                    requests: Some(rate("requests")?),
                    tokens: None,
                },
                "tokens" => ProviderLimit {
                    requests: None,
                    tokens: Some(rate("tokens")?),
                },
                other => {
                    return Err(format!(
                        "{provider}: there is no limit of `{other}`, only of requests and tokens"
                    ));
                }
            };
            limits.add(provider, limit)?;
        }
        Ok(limits)
    }
}

fn named(name: &str) -> Result<&'static str, String> {
    let mut all = Provider::ALL.into_iter().map(Provider::kind);
    all.find(|kind| *kind == name).ok_or_else(|| {
        let known = Provider::ALL.map(Provider::kind).join(", ");
        format!("there is no provider `{name}`, only {known}")
    })
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn a_minute(rate: Option<Rate>) -> f64 {
        rate.unwrap().per_second() * 60.0
    }

    #[test]
    fn limits_are_a_minute_of_each_provider_and_what_is_left_out_is_not_set() {
        let limits: ProviderLimits =
            "embedding=requests:3000,tokens:1000000, caption = requests: 30"
                .parse()
                .unwrap();
        let embedding = limits.of(Provider::Embedding);
        assert!((a_minute(embedding.requests) - 3000.0).abs() < 1e-6);
        assert!((a_minute(embedding.tokens) - 1_000_000.0).abs() < 1e-3);
        assert_eq!(embedding.requests.unwrap().burst(), 50);
        let caption = limits.of(Provider::Caption);
        assert_eq!(caption.requests.unwrap().burst(), 1);
        assert_eq!(caption.tokens, None);
        assert_eq!(
            limits.of(Provider::ImageEmbedding),
            ProviderLimit::default()
        );
        assert_eq!("".parse(), Ok(ProviderLimits::default()));
        let names: Vec<String> = limits.named().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "embedding-provider",
                "caption-provider",
                "image-embedding-provider"
            ]
        );
    }

    #[test]
    fn a_wrong_limit_names_its_field_and_the_remedy() {
        for (text, told) in [
            (
                "embedings=requests:1",
                "only embedding, caption, image-embedding",
            ),
            ("requests:1", "names no provider: say PROVIDER="),
            ("embedding=1", "is no limit: say PROVIDER="),
            ("embedding=words:1", "only of requests and tokens"),
            ("embedding=tokens:many", "embedding.tokens: `many`"),
            ("embedding=tokens:0", "embedding.tokens"),
            ("caption=requests:4000000000", "caption.requests"),
            ("caption=requests:1,requests:2", "stand twice"),
        ] {
            let words = text.parse::<ProviderLimits>().unwrap_err();
            assert!(words.contains(told), "{text}: {words}");
        }
    }
}
