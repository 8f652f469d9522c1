//! Metrics: one registry a server, named `caudal_<noun>_<unit>`, with labels that cannot grow without bound.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Metric;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// The media type of [`Registry::render`].
pub const TEXT_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Series that one labelled metric may have; values beyond are counted under [`OTHER`].
pub const MAX_SERIES: usize = 500;

/// The label value that stands for everything beyond the bound.
pub const OTHER: &str = "other";

/// Upper bounds in seconds of the buckets of a duration, 0.5 ms to 65 s.
#[must_use]
pub fn duration_buckets() -> Vec<f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.0005, 2.0, 18).collect()
}

/// The metrics of one server. Clones share it. Names get the prefix `caudal_` and each series the label `service`.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Mutex<prometheus_client::registry::Registry>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// Empty. `service` is the name of the server, e.g. "ledger".
    #[must_use]
    pub fn new(service: &str) -> Self {
        let labels = [("service".into(), service.to_owned().into())];
        let inner = prometheus_client::registry::Registry::with_prefix_and_labels(
            "caudal",
            labels.into_iter(),
        );
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Registers any metric of prometheus-client. `name` without the prefix, `help` without a full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.lock().register(name, help, metric.clone());
        metric
    }

    /// A count that only rises; its name on the page ends in `_total`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A value that goes up and down.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A distribution of durations in seconds; end the name in `_seconds`.
    #[must_use]
    pub fn durations(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, Histogram::new(duration_buckets()))
    }

    /// Counters by labels.
    #[must_use]
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Labelled<Counter, N> {
        self.labelled(name, help, labels, Counter::default)
    }

    /// Gauges by labels.
    #[must_use]
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Labelled<Gauge, N> {
        self.labelled(name, help, labels, Gauge::default)
    }

    /// Distributions of durations in seconds, by labels.
    #[must_use]
    pub fn duration_families<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Labelled<Histogram, N> {
        self.labelled(name, help, labels, || Histogram::new(duration_buckets()))
    }

    /// Everything registered, in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut page, &self.lock());
        page
    }

    fn labelled<M, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        make: fn() -> M,
    ) -> Labelled<M, N>
    where
        M: Clone + 'static,
        Family<LabelValues<N>, M, Make<M>>: Metric,
    {
        let family = Family::new_with_constructor(Make(make));
        self.lock().register(name, help, family.clone());
        Labelled {
            family,
            labels,
            count: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, prometheus_client::registry::Registry> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names and values of the labels of one series.
pub type LabelValues<const N: usize> = [(&'static str, String); N];

/// Makes a fresh metric for a new series.
#[derive(Debug)]
pub struct Make<M>(fn() -> M);

impl<M> Clone for Make<M> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<M> MetricConstructor<M> for Make<M> {
    fn new_metric(&self) -> M {
        (self.0)()
    }
}

/// A metric with labels, at most [`MAX_SERIES`] series. Clones share it.
#[derive(Debug)]
pub struct Labelled<M, const N: usize> {
    family: Family<LabelValues<N>, M, Make<M>>,
    labels: [&'static str; N],
    count: Arc<Mutex<usize>>,
}

impl<M, const N: usize> Clone for Labelled<M, N> {
    fn clone(&self) -> Self {
        Self {
            family: self.family.clone(),
            labels: self.labels,
            count: Arc::clone(&self.count),
        }
    }
}

impl<M: Clone, const N: usize> Labelled<M, N> {
    /// The series of these values, in the order of the labels. A new one beyond the bound becomes the one in which
    /// every value is [`OTHER`]. Keep the answer on a hot path: finding it costs a lock and N small strings.
    #[must_use]
    pub fn with(&self, values: [&str; N]) -> M {
        let series = self.series(values);
        if let Some(metric) = self.family.get(&series) {
            return metric.clone();
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if self.family.get(&series).is_none() {
            if *count >= MAX_SERIES {
                return self.family.get_or_create_owned(&self.series([OTHER; N]));
            }
            *count += 1;
        }
        self.family.get_or_create_owned(&series)
    }

    /// Forgets a series, e.g. of a stage that is gone.
    pub fn forget(&self, values: [&str; N]) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if self.family.remove(&self.series(values)) {
            *count = count.saturating_sub(1);
        }
    }

    fn series(&self, values: [&str; N]) -> LabelValues<N> {
        std::array::from_fn(|index| (self.labels[index], values[index].to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_beyond_the_bound_are_counted_together() {
        let registry = Registry::new("test");
        let calls = registry.counters("calls", "Calls", ["method"]);
        for number in 0..MAX_SERIES + 20 {
            calls.with([&number.to_string()]).inc();
        }
        calls.with(["3"]).inc();
        assert_eq!(calls.with(["3"]).get(), 2);
        assert_eq!(calls.with([OTHER]).get(), 20);
        assert!(
            registry
                .render()
                .contains("caudal_calls_total{service=\"test\",method=\"3\"} 2")
        );
    }
}
