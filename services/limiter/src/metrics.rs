//! What the limiter counts.

use caudal_domain::Stage;
use caudal_node::Registry;
use caudal_node::metrics::{Counter, Gauge, Labelled};
use caudal_proto::mesh::v1::PermitKind;

use crate::slots::StageSum;

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    granted: Labelled<Counter, 1>,
    refused: Labelled<Counter, 1>,
    penalties: Labelled<Counter, 1>,
    provider_rate: Labelled<Gauge, 2>,
    held: Labelled<Gauge, 1>,
    limit: Labelled<Gauge, 1>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            granted: registry.counters(
                "limiter_permits_granted",
                "Permits granted, by kind",
                ["kind"],
            ),
            refused: registry.counters(
                "limiter_permits_refused",
                "Permits asked for and not granted, by kind",
                ["kind"],
            ),
            penalties: registry.counters(
                "limiter_penalties",
                "Times a provider asked for fewer requests",
                ["provider"],
            ),
            provider_rate: registry.gauges(
                "limiter_provider_rate_per_minute",
                "What all processes together may ask of a provider in a minute now, by provider and kind",
                ["provider", "kind"],
            ),
            held: registry.gauges(
                "limiter_slots_held",
                "Worker slots held, by stage",
                ["stage"],
            ),
            limit: registry.gauges(
                "limiter_slots_limit",
                "Worker slots there are, by stage",
                ["stage"],
            ),
        }
    }

    pub(crate) fn permits(&self, kind: PermitKind, want: u32, granted: u32) {
        let Some(name) = name(kind) else {
            return;
        };
        self.granted.with([name]).inc_by(u64::from(granted));
        self.refused
            .with([name])
            .inc_by(u64::from(want.saturating_sub(granted)));
    }

    pub(crate) fn penalty(&self, provider: &str) {
        self.penalties.with([provider]).inc();
    }

    pub(crate) fn provider_rate(&self, kind: PermitKind, provider: &str, per_second: f64) {
        let Some(name) = name(kind) else {
            return;
        };
        // Rates are bounded far below what does not fit.
        #[expect(clippy::cast_possible_truncation)]
        let per_minute = (per_second * 60.0).round() as i64;
        self.provider_rate.with([provider, name]).set(per_minute);
    }

    pub(crate) fn slots(&self, sums: &[StageSum]) {
        for StageSum {
            stage, limit, held, ..
        } in sums
        {
            self.held.with([Stage::name(*stage)]).set(i64::from(*held));
            self.limit
                .with([Stage::name(*stage)])
                .set(i64::from(*limit));
        }
    }
}

fn name(kind: PermitKind) -> Option<&'static str> {
    match kind {
        PermitKind::Unspecified => None,
        PermitKind::Calls => Some("calls"),
        PermitKind::Entries => Some("entries"),
        PermitKind::ProviderRequests => Some("provider_requests"),
        PermitKind::ProviderTokens => Some("provider_tokens"),
    }
}
