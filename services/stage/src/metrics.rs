use std::sync::atomic::{AtomicU64, Ordering};

use caudal_domain::{Reason, Stage};
use caudal_node::metrics::{Counter, Gauge, Histogram, Labelled, Registry};

use crate::failure::Dependency;

/// The metrics of a stage process. The series are found once, so counting costs no look-up.
#[derive(Debug)]
pub(crate) struct StageMetrics {
    pub(crate) recorded: Verdict,
    pub(crate) failed: Verdict,
    pub(crate) superseded: Verdict,
    pub(crate) not_granted: Verdict,
    pub(crate) stopped: Verdict,
    pub(crate) released: Verdict,
    pub(crate) held: Gauge,
    pub(crate) running: Gauge,
    pub(crate) slots: Gauge,
    pub(crate) handler_seconds: Histogram,
    pub(crate) leases: Counter,
    pub(crate) renewals: Counter,
    pub(crate) renew_stops: Counter,
    pub(crate) entries_read: Counter,
    pub(crate) entries_acknowledged: Counter,
    pub(crate) groups_created: Counter,
    pub(crate) unanswered_calls: Counter,
    pub(crate) landing: LandingMetrics,
    pub(crate) gate: GateMetrics,
}

/// For what the stage waits.
#[derive(Debug, Clone)]
pub(crate) struct GateMetrics {
    stage: &'static str,
    waiting: Labelled<Gauge, 2>,
    shut: Labelled<Counter, 3>,
    probes: Labelled<Counter, 3>,
}

impl GateMetrics {
    pub(crate) fn new(registry: &Registry, stage: &'static str) -> Self {
        Self {
            stage,
            waiting: registry.gauges(
                "stage_waits",
                "1 while the stage waits for a part of the installation and takes no files",
                ["stage", "for"],
            ),
            shut: registry.counters(
                "stage_waits_begun",
                "Times that the stage began to wait",
                ["stage", "for", "reason"],
            ),
            probes: registry.counters(
                "stage_probes",
                "Probes of what the stage waits for",
                ["stage", "for", "end"],
            ),
        }
    }

    pub(crate) fn shut(&self, on: Dependency, reason: Reason) {
        self.waiting.with([self.stage, on.name()]).set(1);
        self.shut.with([self.stage, on.name(), reason.code()]).inc();
    }

    pub(crate) fn opened(&self, on: Dependency) {
        self.waiting.with([self.stage, on.name()]).set(0);
    }

    pub(crate) fn probed(&self, on: Dependency, passed: bool) {
        let end = if passed { "passed" } else { "failed" };
        self.probes.with([self.stage, on.name(), end]).inc();
    }
}

/// What becomes of landing objects.
#[derive(Debug, Clone)]
pub(crate) struct LandingMetrics {
    pub(crate) waiting: Gauge,
    pub(crate) freed: Counter,
    pub(crate) left: Counter,
}

impl LandingMetrics {
    pub(crate) fn new(registry: &Registry, stage: &str) -> Self {
        let waiting = registry.gauges(
            "stage_landing_waiting_objects",
            "Landing objects of recorded files that are not freed yet",
            ["stage"],
        );
        let ended = registry.counters(
            "stage_landing_objects",
            "Landing objects of recorded files that were freed, or left to a collector",
            ["stage", "end"],
        );
        Self {
            waiting: waiting.with([stage]),
            freed: ended.with([stage, "freed"]),
            left: ended.with([stage, "left"]),
        }
    }
}

/// A count that the process also tells of itself.
#[derive(Debug)]
pub(crate) struct Verdict {
    exported: Counter,
    since_start: AtomicU64,
}

impl Verdict {
    fn new(exported: Counter) -> Self {
        Self {
            exported,
            since_start: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self) {
        self.exported.inc();
        self.since_start.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn since_start(&self) -> u64 {
        self.since_start.load(Ordering::Relaxed)
    }
}

impl StageMetrics {
    pub(crate) fn new(registry: &Registry, stage: Stage) -> Self {
        let stage = stage.name();
        let files = registry.counters(
            "stage_files",
            "Dispatches by their end",
            ["stage", "verdict"],
        );
        let verdict = |name: &str| Verdict::new(files.with([stage, name]));
        let counter =
            |name: &str, help: &str| registry.counters(name, help, ["stage"]).with([stage]);
        let gauge = |name: &str, help: &str| registry.gauges(name, help, ["stage"]).with([stage]);
        let seconds = registry.duration_families(
            "stage_handler_seconds",
            "Time that a handler works in its slot",
            ["stage"],
        );
        Self {
            recorded: verdict("recorded"),
            failed: verdict("failed"),
            superseded: verdict("superseded"),
            not_granted: verdict("not_granted"),
            stopped: verdict("stopped"),
            released: verdict("released"),
            held: gauge(
                "stage_held_files",
                "Dispatches held, waiting, running or being reported",
            ),
            running: gauge("stage_running_files", "Handlers at work"),
            slots: gauge("stage_slots", "Handlers that may be at work now"),
            handler_seconds: seconds.with([stage]),
            leases: counter("stage_leases", "Dispatches granted"),
            renewals: counter("stage_renewals", "Leases renewed"),
            renew_stops: counter("stage_renew_stops", "Dispatches stopped by a renewal"),
            entries_read: counter("stage_entries_read", "Stream entries read"),
            entries_acknowledged: counter(
                "stage_entries_acknowledged",
                "Stream entries acknowledged and deleted",
            ),
            groups_created: counter(
                "stage_groups_created",
                "Times the consumer group was missing and made",
            ),
            unanswered_calls: counter(
                "stage_unanswered_calls",
                "Calls of ledger or Redis without an answer",
            ),
            landing: LandingMetrics::new(registry, stage),
            gate: GateMetrics::new(registry, stage),
        }
    }
}
