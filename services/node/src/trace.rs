//! W3C trace context: who is traced is decided once, at the door or by a file's derived id, and carried along. Where
//! the sampled bit is off no span is made: with the OpenTelemetry layer a dropped span costs more than the work in it.

use std::sync::OnceLock;

use caudal_domain::{FileRef, Generation, file_trace_id, sampled};
use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the header and of the gRPC metadata.
pub const TRACEPARENT: &str = "traceparent";

static SAMPLE_RATIO: OnceLock<f64> = OnceLock::new();

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The share of traces that are sampled, 0 to 1, as set by [`crate::telemetry::init`]; 0 before.
#[must_use]
pub fn sample_ratio() -> f64 {
    SAMPLE_RATIO.get().copied().unwrap_or(0.0)
}

pub(crate) fn set_sample_ratio(ratio: f64) {
    // The first call decides: a process has one telemetry.
    let _ = SAMPLE_RATIO.set(ratio);
}

/// Where in which trace we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// The span above; never all zero.
    pub span_id: [u8; 8],
    /// Whether spans of this trace are kept.
    pub sampled: bool,
}

impl TraceContext {
    /// A new trace, sampled by [`sample_ratio`]; none at ratio 0.
    #[must_use]
    pub fn root() -> Option<Self> {
        let ratio = sample_ratio();
        if ratio <= 0.0 {
            return None;
        }
        let trace_id = rand::random::<u128>().max(1).to_be_bytes();
        let span_id = rand::random::<u64>().max(1).to_be_bytes();
        Some(Self {
            trace_id,
            span_id,
            sampled: sampled(trace_id, ratio),
        })
    }

    /// The trace of a file, derived from what it is.
    #[must_use]
    pub fn of_file(file: FileRef, generation: Generation) -> Self {
        let trace_id = file_trace_id(file, generation);
        let mut span_id = [0; 8];
        span_id.copy_from_slice(&trace_id[..8]);
        Self {
            trace_id,
            span_id,
            sampled: sampled(trace_id, sample_ratio()),
        }
    }

    /// Reads `00-{32 hex}-{16 hex}-{2 hex}`. Anything else, and all-zero ids, are no context.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let version = fields.next().filter(|version| version.len() == 2)?;
        let mut version_byte = [0; 1];
        hex::decode_to_slice(version, &mut version_byte).ok()?;
        let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], [0; 1]);
        hex::decode_to_slice(fields.next()?, &mut trace_id).ok()?;
        hex::decode_to_slice(fields.next()?, &mut span_id).ok()?;
        hex::decode_to_slice(fields.next()?, &mut flags).ok()?;
        // Later versions may add fields; version 00 has none, and ff is forbidden.
        let more = fields.next().is_some();
        if version_byte == [0xff]
            || (more && version_byte == [0])
            || trace_id == [0; 16]
            || span_id == [0; 8]
        {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            sampled: flags[0] & 1 == 1,
        })
    }

    /// The value of the header.
    #[must_use]
    pub fn header(&self) -> String {
        let flags = u8::from(self.sampled);
        format!(
            "00-{}-{}-{flags:02x}",
            hex::encode(self.trace_id),
            hex::encode(self.span_id)
        )
    }

    /// From the headers of a request.
    #[must_use]
    pub fn extract(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
    }

    /// Where this task is: the span it is in when sampled, else what the request it serves came with.
    #[must_use]
    pub fn current() -> Option<Self> {
        let carried = CURRENT.try_with(|context| *context).ok()?;
        if !carried.sampled {
            return Some(carried);
        }
        let otel = Span::current().context();
        let span = otel.span().span_context().clone();
        if !span.is_valid() {
            return Some(carried);
        }
        Some(Self {
            trace_id: span.trace_id().to_bytes(),
            span_id: span.span_id().to_bytes(),
            sampled: span.is_sampled(),
        })
    }

    /// Puts [`TraceContext::current`] into the metadata of a call, unless something stands there already.
    pub fn inject(metadata: &mut MetadataMap) {
        if metadata.contains_key(TRACEPARENT) {
            return;
        }
        let Some(context) = Self::current() else {
            return;
        };
        if let Ok(value) = MetadataValue::try_from(context.header()) {
            metadata.insert(TRACEPARENT, value);
        }
    }

    /// A span below this context, or none where it is not sampled: `make` is then not called.
    #[must_use]
    pub fn span(&self, make: impl FnOnce() -> Span) -> Span {
        if !self.sampled {
            return Span::none();
        }
        let span = make();
        let parent = SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        // Without the OpenTelemetry layer there is nothing to set it on.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
        span
    }

    /// Runs something in this context: its calls to other services carry it, and `make` names its span.
    pub async fn run<F: Future>(self, make: impl FnOnce() -> Span, work: F) -> F::Output {
        let span = self.span(make);
        CURRENT.scope(self, work.instrument(span)).await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_and_a_wrong_one_is_none() {
        let context = TraceContext::parse(HEADER).unwrap();
        assert!(context.sampled);
        assert_eq!(context.header(), HEADER);
        assert!(
            !TraceContext::parse(&HEADER.replace("-01", "-00"))
                .unwrap()
                .sampled
        );
        assert!(
            TraceContext::parse(&HEADER.replace("00-4", "01-4").replace("-01", "-01-more"))
                .is_some()
        );
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_unsampled_context_travels_and_makes_no_span() {
        let context = TraceContext {
            sampled: false,
            ..TraceContext::parse(HEADER).unwrap()
        };
        let make = || -> Span { panic!("no span where the sampled bit is off") };
        let carried = context
            .run(make, async {
                let mut metadata = MetadataMap::new();
                TraceContext::inject(&mut metadata);
                metadata
                    .get(TRACEPARENT)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .await;
        assert_eq!(carried, context.header());
        assert_eq!(TraceContext::current(), None);
    }
}
