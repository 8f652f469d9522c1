//! Logs on stderr, and traces to an OTLP collector when one is configured. Once a process, before anything else.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How long the last spans may take to leave at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and traced.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    /// Name of the process in traces, e.g. "caudal-ledger".
    pub service: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Directives in the form of RUST_LOG, e.g. "info,caudal_ledger=debug".
    pub filter: String,
    /// Where traces go, e.g. "http://127.0.0.1:4317" (OTLP over gRPC). None: nowhere.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that are kept, 0 to 1. Without an endpoint it is taken as 0.
    pub sample_ratio: f64,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            service: "caudal".to_owned(),
            format: LogFormat::Text,
            filter: "info".to_owned(),
            otlp_endpoint: None,
            sample_ratio: 0.01,
        }
    }
}

/// Settings that cannot be, or a second telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error("the log filter `{filter}` is not valid: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// The ratio is wrong.
    #[error("the sample ratio is {0}, it must be from 0 to 1")]
    SampleRatio(f64),
    /// The endpoint is wrong.
    #[error("traces cannot be sent to `{endpoint}`: {reason}")]
    Otlp {
        /// What was given, as it may be shown.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// This process has one already.
    #[error("telemetry was started before")]
    Twice,
}

/// Keeps telemetry running; dropping it sends what is left of the traces.
#[derive(Debug)]
#[must_use = "dropping it ends the export of traces"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_DEADLINE)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Libraries that call an error what is none here, unless the filter names them itself. The object store's server logs each
/// request that it refuses, such as a probe that asks whether it does; the embedded store says itself what is wrong with it.
/// The driver of Postgres repeats the options of an address that it does not know, and one of them may be a password.
const QUIET: &str = "s3s::ops=off,sqlx_postgres::options=off";

/// Starts logging, and tracing when an endpoint is set (inside a tokio runtime then).
///
/// # Errors
/// When a setting is wrong, or telemetry was started before.
pub fn init(settings: &TelemetrySettings) -> Result<Telemetry, TelemetryError> {
    if !(0.0..=1.0).contains(&settings.sample_ratio) {
        return Err(TelemetryError::SampleRatio(settings.sample_ratio));
    }
    let filter = filter_of(&settings.filter)?;
    let provider = match &settings.otlp_endpoint {
        Some(endpoint) => Some(provider(&settings.service, endpoint)?),
        None => None,
    };
    let traces = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("caudal")));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(traces)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    crate::trace::set_sample_ratio(if provider.is_some() {
        settings.sample_ratio
    } else {
        0.0
    });
    Ok(Telemetry { provider })
}

fn filter_of(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| TelemetryError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}

fn provider(service: &str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Otlp {
            endpoint: caudal_domain::shown_address(endpoint),
            reason: error.to_string(),
        })?;
    // Who is traced was decided before the span was made: every span that exists is kept.
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(
            Resource::builder()
                .with_service_name(service.to_owned())
                .build(),
        )
        .with_batch_exporter(exporter)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_error_here_is_not_logged_as_one_unless_it_is_asked_for() {
        let shown = |filter: &str| filter_of(filter).map(|filter| filter.to_string());
        for filter in ["info", "debug,caudal_ledger=trace"] {
            assert!(shown(filter).is_ok_and(|shown| shown.contains("s3s::ops=off")));
        }
        let asked = shown("info,s3s::ops=debug");
        assert!(asked.is_ok_and(|shown| {
            shown.contains("s3s::ops=debug") && !shown.contains("s3s::ops=off")
        }));
    }

    #[test]
    fn wrong_settings_are_named() {
        let wrong_filter = TelemetrySettings {
            filter: "caudal=loud".to_owned(),
            ..TelemetrySettings::default()
        };
        let error = init(&wrong_filter)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(error.is_err_and(|words| words.contains("caudal=loud")));
        let wrong_ratio = TelemetrySettings {
            sample_ratio: 1.5,
            ..TelemetrySettings::default()
        };
        assert!(matches!(
            init(&wrong_ratio),
            Err(TelemetryError::SampleRatio(_))
        ));
    }
}
