//! What the limiter grants. Valid by construction: a value that cannot be is refused with the name of its field.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use caudal_domain::Stage;
use caudal_proto::mesh::v1::PermitKind;
use governor::Quota;

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidSettings {
    /// Which, e.g. `slots.embeddings`.
    pub field: String,
    /// What must hold, and what was given.
    pub rule: String,
}

fn invalid(field: impl Into<String>, rule: impl Into<String>) -> InvalidSettings {
    InvalidSettings {
        field: field.into(),
        rule: rule.into(),
    }
}

/// So many permits a second, and so many at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: NonZeroU32,
    quota: Quota,
}

impl Rate {
    /// Once an hour.
    const SLOWEST: f64 = 1.0 / 3600.0;
    const FASTEST: f64 = 10_000_000.0;
    const LARGEST_BURST: u32 = 100_000_000;
    const MOST_A_MINUTE: u32 = 600_000_000;

    /// A rate; `field` names it in the error.
    ///
    /// # Errors
    /// When the rate is not between once an hour and ten million a second, or the burst not from 1 to 10^8.
    pub fn try_new(field: &str, per_second: f64, burst: u32) -> Result<Self, InvalidSettings> {
        if !(Self::SLOWEST..=Self::FASTEST).contains(&per_second) {
            let rule = format!(
                "must be from {} to {} a second, not {per_second}",
                Self::SLOWEST,
                Self::FASTEST
            );
            return Err(invalid(format!("{field}.per_second"), rule));
        }
        let burst = NonZeroU32::new(burst)
            .filter(|burst| burst.get() <= Self::LARGEST_BURST)
            .ok_or_else(|| {
                invalid(
                    format!("{field}.burst"),
                    format!("must be from 1 to {}, not {burst}", Self::LARGEST_BURST),
                )
            })?;
        let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second))
            .ok_or_else(|| invalid(format!("{field}.per_second"), "is too fast"))?
            .allow_burst(burst);
        Ok(Self {
            per_second,
            burst,
            quota,
        })
    }

    /// So many a minute, of which a second's worth may come at once.
    ///
    /// # Errors
    /// When it is not from 1 to 600 million; `field` names it.
    pub fn a_minute(field: &str, permits: u32) -> Result<Self, InvalidSettings> {
        if !(1..=Self::MOST_A_MINUTE).contains(&permits) {
            let rule = format!(
                "must be from 1 to {} a minute, not {permits}",
                Self::MOST_A_MINUTE
            );
            return Err(invalid(field, rule));
        }
        Self::try_new(field, f64::from(permits) / 60.0, permits.div_ceil(60))
    }

    /// Permits a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Permits at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    pub(crate) fn quota(&self) -> Quota {
        self.quota
    }
}

/// The rate of every key that has none of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DefaultRates {
    /// Calls of a tenant.
    pub calls: Rate,
    /// Manifest entries of a tenant.
    pub entries: Rate,
    /// Requests to a provider.
    pub provider_requests: Rate,
    /// Tokens sent to a provider.
    pub provider_tokens: Rate,
}

impl DefaultRates {
    pub(crate) fn of(&self, kind: PermitKind) -> Option<Rate> {
        match kind {
            PermitKind::Unspecified => None,
            PermitKind::Calls => Some(self.calls),
            PermitKind::Entries => Some(self.entries),
            PermitKind::ProviderRequests => Some(self.provider_requests),
            PermitKind::ProviderTokens => Some(self.provider_tokens),
        }
    }
}

/// What is set of one provider; what is not keeps its default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProviderLimit {
    /// Requests of all processes.
    pub requests: Option<Rate>,
    /// Tokens of all processes.
    pub tokens: Option<Rate>,
}

/// How many files may be in work: at each stage, and in all.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotLimits {
    by_stage: BTreeMap<Stage, u32>,
    total: u32,
    validity: Duration,
    recovery: Duration,
}

impl SlotLimits {
    const LARGEST: u32 = 1_000_000;

    /// Slots of each stage (one left out keeps its default) and in total, how long a lease of slots is good, and how
    /// long after its start the limiter only confirms what processes announce. `recovery` must be at least `validity`
    /// where processes may outlive the limiter, and zero where they cannot (all in one process).
    ///
    /// # Errors
    /// When a stage or the total has no slot or too many, the validity is not from 100 ms to a minute, or the recovery
    /// is between zero and the validity.
    pub fn try_new(
        by_stage: impl IntoIterator<Item = (Stage, u32)>,
        total: u32,
        validity: Duration,
        recovery: Duration,
    ) -> Result<Self, InvalidSettings> {
        let mut limits = Self::defaults();
        limits.by_stage.extend(by_stage);
        for (stage, slots) in &limits.by_stage {
            if !(1..=Self::LARGEST).contains(slots) {
                let rule = format!("must be from 1 to {}, not {slots}", Self::LARGEST);
                return Err(invalid(format!("slots.{stage}"), rule));
            }
        }
        let stages = u32::from(
            Stage::ALL
                .map(Stage::code)
                .into_iter()
                .max()
                .unwrap_or_default(),
        );
        if !(stages..=Self::LARGEST).contains(&total) {
            let rule = format!(
                "must be from {stages} (one for each stage) to {}, not {total}",
                Self::LARGEST
            );
            return Err(invalid("slots.total", rule));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&validity) {
            return Err(invalid(
                "slots.validity",
                format!("must be from 100 ms to 60 s, not {validity:?}"),
            ));
        }
        if !recovery.is_zero() && recovery < validity {
            let rule =
                format!("must be zero or at least the validity of {validity:?}, not {recovery:?}");
            return Err(invalid("slots.recovery", rule));
        }
        Ok(Self {
            total,
            validity,
            recovery,
            ..limits
        })
    }

    fn defaults() -> Self {
        let by_stage = Stage::ALL.map(|stage| (stage, stage.profile().slots));
        Self {
            by_stage: BTreeMap::from(by_stage),
            total: 768,
            validity: Duration::from_secs(6),
            recovery: Duration::from_secs(6),
        }
    }

    /// For a limiter that lives and dies with all processes of the stages: no recovery.
    #[must_use]
    pub fn for_one_process(mut self) -> Self {
        self.recovery = Duration::ZERO;
        self
    }

    /// Slots of a stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> u32 {
        self.by_stage.get(&stage).copied().unwrap_or(1)
    }

    /// Slots of all stages together.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How long a lease of slots is good.
    #[must_use]
    pub fn validity(&self) -> Duration {
        self.validity
    }

    /// How long after the start nothing is granted beyond what is announced.
    #[must_use]
    pub fn recovery(&self) -> Duration {
        self.recovery
    }
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self::defaults()
    }
}

/// Everything the limiter is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub(crate) rates: DefaultRates,
    pub(crate) own_rates: BTreeMap<(PermitKind, String), Rate>,
    pub(crate) slots: SlotLimits,
    pub(crate) permit_validity: Duration,
}

impl Settings {
    /// Puts them together. `own_rates` are those of single tenants (UUID in text) and providers (by name).
    /// `permit_validity` is how long an unused block is good.
    ///
    /// # Errors
    /// When a rate is for no kind, its key is empty, or the validity is not from 100 ms to a minute.
    pub fn try_new(
        rates: DefaultRates,
        own_rates: impl IntoIterator<Item = ((PermitKind, String), Rate)>,
        slots: SlotLimits,
        permit_validity: Duration,
    ) -> Result<Self, InvalidSettings> {
        let own_rates: BTreeMap<_, _> = own_rates.into_iter().collect();
        for (kind, key) in own_rates.keys() {
            if *kind == PermitKind::Unspecified || key.is_empty() {
                return Err(invalid(
                    format!("rates.{key}"),
                    "names no kind of permit or no key",
                ));
            }
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&permit_validity) {
            let rule = format!("must be from 100 ms to 60 s, not {permit_validity:?}");
            return Err(invalid("permit_validity", rule));
        }
        Ok(Self {
            rates,
            own_rates,
            slots,
            permit_validity,
        })
    }

    /// The defaults, with other slots.
    ///
    /// # Errors
    /// None in practice: the defaults are valid, as a test proves.
    pub fn with_slots(slots: SlotLimits) -> Result<Self, InvalidSettings> {
        let rates = DefaultRates {
            calls: Rate::try_new("rates.calls", 200.0, 400)?,
            entries: Rate::try_new("rates.entries", 100_000.0, 200_000)?,
            provider_requests: Rate::try_new("rates.provider_requests", 50.0, 100)?,
            provider_tokens: Rate::try_new("rates.provider_tokens", 16_000.0, 200_000)?,
        };
        Self::try_new(rates, [], slots, Duration::from_secs(2))
    }

    /// The same with limits of providers, by the names that permits have.
    #[must_use]
    pub fn limit_providers(
        mut self,
        limits: impl IntoIterator<Item = (String, ProviderLimit)>,
    ) -> Self {
        for (provider, ProviderLimit { requests, tokens }) in limits {
            let rates = [
                (PermitKind::ProviderRequests, requests),
                (PermitKind::ProviderTokens, tokens),
            ];
            for (kind, rate) in rates {
                if let Some(rate) = rate {
                    self.own_rates.insert((kind, provider.clone()), rate);
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_wrong_setting_is_named() {
        let defaults = SlotLimits::default();
        let by_stage = Stage::ALL.map(|stage| (stage, defaults.of(stage)));
        let rebuilt = SlotLimits::try_new(
            by_stage,
            defaults.total(),
            defaults.validity(),
            defaults.recovery(),
        );
        assert_eq!(rebuilt, Ok(defaults.clone()));
        let settings = Settings::with_slots(defaults.for_one_process()).unwrap();
        assert!(settings.slots.recovery().is_zero());

        let second = Duration::from_secs(1);
        let field = |result: Result<SlotLimits, InvalidSettings>| result.unwrap_err().field;
        assert_eq!(
            field(SlotLimits::try_new(
                [(Stage::Embeddings, 0)],
                50,
                second,
                second
            )),
            "slots.embeddings"
        );
        assert_eq!(
            field(SlotLimits::try_new([], 4, second, second)),
            "slots.total"
        );
        assert_eq!(
            field(SlotLimits::try_new([], 50, Duration::ZERO, second)),
            "slots.validity"
        );
        assert_eq!(
            field(SlotLimits::try_new([], 50, second, second / 2)),
            "slots.recovery"
        );
        for (per_second, burst, wrong) in [
            (0.0, 1, "calls.per_second"),
            (f64::NAN, 1, "calls.per_second"),
            (-1.0, 1, "calls.per_second"),
            (1e9, 1, "calls.per_second"),
            (1.0, 0, "calls.burst"),
            (1.0, u32::MAX, "calls.burst"),
        ] {
            assert_eq!(
                Rate::try_new("calls", per_second, burst).unwrap_err().field,
                wrong
            );
        }
        let rate = Rate::try_new("x", 1.0, 1).unwrap();
        let nameless = [((PermitKind::Calls, String::new()), rate)];
        assert!(Settings::try_new(settings.rates, nameless, settings.slots, second).is_err());
    }
}
