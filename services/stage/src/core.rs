//! What the tasks of one stage process share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::limits::{LEASE, RENEWALS_PER_LEASE};
use caudal_domain::{Stage, StageVersion};
use caudal_node::Rarely;
use caudal_objects::ObjectStore;
use caudal_streams::Streams;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::book::Book;
use crate::gate::Gate;
use crate::landing::Landings;
use crate::ledger::LedgerLink;
use crate::metrics::StageMetrics;
use crate::settings::{MAX_SLOTS, SLOW_READ_AHEAD, StageSettings};

pub(crate) struct Core {
    pub(crate) stage: Stage,
    pub(crate) version: StageVersion,
    pub(crate) process: Uuid,
    pub(crate) settings: StageSettings,
    pub(crate) book: Book,
    pub(crate) landings: Landings,
    pub(crate) ledger: LedgerLink,
    pub(crate) streams: Streams,
    pub(crate) objects: ObjectStore,
    pub(crate) metrics: StageMetrics,
    /// Nothing is read while true.
    pub(crate) paused: watch::Sender<bool>,
    /// Operators paused the stage, in all its processes, or the ledger has not said yet that they did not: nothing is read
    /// nor begun while true.
    pub(crate) stage_paused: watch::Sender<bool>,
    /// Handlers of all processes of the stage, as operators set it; none: not known yet, 0: as they were started.
    pub(crate) stage_slots: watch::Sender<Option<u32>>,
    /// The number of handlers was set for this process alone.
    pub(crate) set_alone: AtomicBool,
    /// Nothing is read nor begun while it is shut.
    pub(crate) gate: Gate,
    /// Handlers that this process is set to run at once.
    pub(crate) wanted_slots: watch::Sender<usize>,
    /// Of these, granted by the limiter.
    pub(crate) granted_slots: watch::Sender<usize>,
    /// The stream's group was missing: the ledger is to be asked for a reconcile pass.
    pub(crate) reconcile_wanted: Notify,
    /// Nothing new is begun once this is cancelled.
    pub(crate) shutdown: CancellationToken,
    /// Everything ends as it stands once this is cancelled.
    pub(crate) deadline: CancellationToken,
    lease_ms: AtomicU64,
    last_error: Mutex<String>,
    said_unanswered: Rarely,
    pub(crate) said_unfreed: Rarely,
}

/// What a [`Core`] is made of.
pub(crate) struct CoreParts {
    pub(crate) version: StageVersion,
    pub(crate) process: Uuid,
    pub(crate) settings: StageSettings,
    pub(crate) ledger: LedgerLink,
    pub(crate) streams: Streams,
    pub(crate) objects: ObjectStore,
    pub(crate) metrics: StageMetrics,
    pub(crate) shutdown: CancellationToken,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let slots = parts.settings.slots;
        Self {
            stage: parts.version.stage,
            version: parts.version,
            process: parts.process,
            book: Book::new(parts.settings.prefetch),
            landings: Landings::new(parts.settings.landing_delay, parts.metrics.landing.clone()),
            gate: Gate::new(
                parts.settings.first_pause,
                parts.settings.longest_pause,
                parts.metrics.gate.clone(),
            ),
            settings: parts.settings,
            ledger: parts.ledger,
            streams: parts.streams,
            objects: parts.objects,
            metrics: parts.metrics,
            paused: watch::Sender::new(false),
            stage_paused: watch::Sender::new(true),
            stage_slots: watch::Sender::new(None),
            set_alone: AtomicBool::new(false),
            wanted_slots: watch::Sender::new(slots),
            granted_slots: watch::Sender::new(slots),
            reconcile_wanted: Notify::new(),
            shutdown: parts.shutdown,
            deadline: CancellationToken::new(),
            lease_ms: AtomicU64::new(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)),
            last_error: Mutex::default(),
            said_unanswered: Rarely::default(),
            said_unfreed: Rarely::default(),
        }
    }

    /// Name of the consumer, new with each start of the process.
    pub(crate) fn consumer(&self) -> String {
        self.process.to_string()
    }

    /// Time between two renewals of one lease.
    pub(crate) fn renewal_interval(&self) -> Duration {
        Duration::from_millis(self.lease_ms.load(Ordering::Relaxed)) / RENEWALS_PER_LEASE
    }

    /// The ledger said how long a lease lives; 0 says nothing.
    pub(crate) fn set_lease(&self, lease_ms: u32) {
        if lease_ms > 0 {
            self.lease_ms.store(u64::from(lease_ms), Ordering::Relaxed);
        }
    }

    /// Handlers that may run at once now.
    pub(crate) fn allowed_slots(&self) -> usize {
        (*self.wanted_slots.borrow()).min(*self.granted_slots.borrow())
    }

    /// Whether nothing more may be read or begun for now.
    pub(crate) fn is_held_up(&self) -> bool {
        self.gate.is_shut() || *self.stage_paused.borrow()
    }

    /// What operators set for all processes of the stage. Each runs as many handlers as they allow in all, as far as the
    /// limiter grants them, unless the number was set for this process alone.
    pub(crate) fn follow(&self, paused: bool, max_slots: u32) {
        let changed = self.stage_paused.send_if_modified(|known| {
            let changed = *known != paused;
            *known = paused;
            changed
        });
        if changed {
            tracing::info!(stage = %self.stage, paused, "what operators set for the stage");
        }
        self.stage_slots.send_if_modified(|known| {
            let changed = *known != Some(max_slots);
            *known = Some(max_slots);
            changed
        });
        if self.set_alone.load(Ordering::Relaxed) {
            return;
        }
        let wanted = match usize::try_from(max_slots).unwrap_or(MAX_SLOTS) {
            0 => self.settings.slots,
            in_all => in_all.min(MAX_SLOTS),
        };
        self.want_slots(wanted);
    }

    /// How many handlers this process runs at once, as far as they are granted.
    pub(crate) fn want_slots(&self, slots: usize) {
        if slots > self.settings.slots {
            self.book.hold_at_least(slots + SLOW_READ_AHEAD);
        }
        self.wanted_slots.send_if_modified(|known| {
            let changed = *known != slots;
            *known = slots;
            changed
        });
    }

    pub(crate) fn last_error(&self) -> String {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_last_error(&self, error: String) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// A call got no answer: counted, told to who asks for this process, and said once a minute.
    pub(crate) fn unanswered(&self, call: &'static str, error: &dyn std::fmt::Display) {
        self.metrics.unanswered_calls.inc();
        if let Some(times) = self.said_unanswered.next() {
            tracing::warn!(stage = %self.stage, call, %error, times, "no answer");
        }
        self.set_last_error(format!("{call}: {error}"));
    }
}
