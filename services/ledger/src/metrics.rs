//! What the ledger counts.

use caudal_node::metrics::{Counter, Gauge, Histogram, Labelled, Registry};

use crate::phases::Phase;

/// Metrics of the writer, the dispatcher, the relay and the reconciler.
#[derive(Clone)]
pub(crate) struct LedgerMetrics {
    pub(crate) groups: Counter,
    pub(crate) group_verbs: Counter,
    pub(crate) group_failures: Counter,
    pub(crate) defects: Counter,
    pub(crate) writer_failures: Counter,
    pub(crate) group_seconds: Histogram,
    /// By the phases, in their order.
    pub(crate) phase_seconds: [Histogram; Phase::ALL.len()],
    pub(crate) illegal_transitions: Counter,
    pub(crate) late_reports: Counter,
    pub(crate) redispatches: Counter,
    pub(crate) kills: Counter,
    pub(crate) relay_failures: Counter,
    pub(crate) relayed: Counter,
    pub(crate) reconcile_failures: Counter,
    pub(crate) collected: Counter,
    pub(crate) other_dimensions: Counter,
    pub(crate) outstanding: Labelled<Gauge, 1>,
    pub(crate) window_files: Labelled<Gauge, 1>,
    /// Microseconds of slots: what is out, and what may be.
    pub(crate) outstanding_time: Labelled<Gauge, 1>,
    pub(crate) window_time: Labelled<Gauge, 1>,
    pub(crate) waiting_batches: Labelled<Gauge, 2>,
    pub(crate) longest_wait: Labelled<Gauge, 2>,
    pub(crate) admissions: Labelled<Counter, 1>,
    /// Microseconds of slots: what files were expected to take, what they took, and by how much each was missed.
    pub(crate) expected_time: Labelled<Counter, 1>,
    pub(crate) taken_time: Labelled<Counter, 1>,
    pub(crate) missed_time: Labelled<Counter, 1>,
}

impl LedgerMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let phase_seconds = registry.duration_families(
            "writer_phase_seconds",
            "Time of a group, by phase",
            ["phase"],
        );
        Self {
            groups: registry.counter("writer_groups", "Groups committed"),
            group_verbs: registry.counter("writer_verbs", "Verbs committed, in groups"),
            group_failures: registry
                .counter("writer_group_failures", "Groups that were not committed"),
            defects: registry.counter(
                "writer_defects",
                "Verbs that were answered INTERNAL: deciding them failed or panicked",
            ),
            writer_failures: registry.counter(
                "writer_failures",
                "Times the writer ended by itself and its memory was read anew",
            ),
            group_seconds: registry.durations(
                "writer_group_seconds",
                "Time of a group, from begin to commit",
            ),
            phase_seconds: Phase::ALL.map(|phase| phase_seconds.with([phase.name()])),
            illegal_transitions: registry.counter(
                "illegal_transitions",
                "Transitions the state machine refused",
            ),
            late_reports: registry
                .counter("late_reports", "Reports whose token was no longer current"),
            redispatches: registry.counter("redispatches", "Lost dispatches sent again"),
            kills: registry.counter("kills", "Workers lost while they held a file"),
            relay_failures: registry.counter(
                "relay_failures",
                "Attempts to publish that Redis did not take",
            ),
            relayed: registry.counter("relayed", "Dispatches published"),
            reconcile_failures: registry
                .counter("reconcile_failures", "Reconcile passes that failed"),
            collected: registry.counter(
                "collected_objects",
                "Objects deleted that nothing could reach any more",
            ),
            other_dimensions: registry.counter(
                "other_dimensions",
                "Results that were not recorded, for their vectors have another length than those before",
            ),
            outstanding: registry.gauges("outstanding_files", "Files that are out", ["stage"]),
            window_files: registry.gauges("window_files", "Files that may be out", ["stage"]),
            outstanding_time: registry.gauges(
                "outstanding_microseconds",
                "What is out, by what it is expected to take of slots",
                ["stage"],
            ),
            window_time: registry.gauges(
                "window_microseconds",
                "What may be out by that; 0 while no process has told its slots",
                ["stage"],
            ),
            waiting_batches: registry.gauges(
                "waiting_batches",
                "Batches that wait for their turn, by the weight of their tenants",
                ["stage", "weight"],
            ),
            longest_wait: registry.gauges(
                "longest_wait_seconds",
                "For how long the batch that has waited longest for a turn has had none",
                ["stage", "weight"],
            ),
            admissions: registry.counters("admissions", "Files that went out", ["stage"]),
            expected_time: registry.counters(
                "expected_microseconds",
                "What reported files had been expected to take of slots",
                ["stage"],
            ),
            taken_time: registry.counters(
                "taken_microseconds",
                "What reported files took of slots",
                ["stage"],
            ),
            missed_time: registry.counters(
                "missed_microseconds",
                "By how much they took more or less than was expected of each",
                ["stage"],
            ),
        }
    }
}
