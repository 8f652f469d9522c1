//! What a ledger that leads keeps in memory. All of it can be read from the database again.

pub(crate) mod ancestors;
pub(crate) mod clock;
pub(crate) mod costs;
mod crew;
pub(crate) mod dispatcher;
pub(crate) mod known;
mod later;
pub(crate) mod lease_cache;
pub(crate) mod queues;
pub(crate) mod relay_queue;
pub(crate) mod stages;
mod tenant_queue;

use std::sync::Arc;
use std::time::Instant;

use caudal_domain::{BatchRef, Stage, StageVersion};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustc_hash::FxHashMap;

use self::ancestors::Ancestors;
use self::clock::DatabaseClock;
use self::dispatcher::Dispatcher;
use self::known::Known;
use self::lease_cache::LeaseCache;
use self::stages::Stages;
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::store::outbox;
use crate::store::stages::StageRow;
use crate::store::time::Micros;
use crate::store::work::{WaitingBatch, WorkRow};

/// What the writer keeps between groups.
pub(crate) struct Memory {
    pub(crate) settings: Arc<LedgerSettings>,
    pub(crate) epoch: u64,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) metrics: LedgerMetrics,
    pub(crate) versions: FxHashMap<StageVersion, u32>,
    /// The newest version that processes of each stage were seen to run. `None`: to be read, for a group that moved one got no
    /// answer to its COMMIT.
    pub(crate) newest_versions: Option<FxHashMap<Stage, u32>>,
    /// The length of the vectors that stage versions were first recorded with, by their numbers.
    pub(crate) dimensions: FxHashMap<u32, u32>,
    /// Whether that, and what operators set for stages, is to be read, for a group that changed it got no answer to its COMMIT.
    pub(crate) stages_unread: bool,
    /// What others are told of stages.
    pub(crate) stages: Stages,
    pub(crate) clock: DatabaseClock,
    pub(crate) leases: LeaseCache,
    pub(crate) known: Known,
    pub(crate) ancestors: Ancestors,
    outbox_counter: u64,
    dice: SmallRng,
}

/// What a ledger reads when it begins to lead.
pub(crate) struct Recovered {
    /// The database's time.
    pub(crate) now: Micros,
    /// Rows of all files that are out: else a new leader counts from zero and exceeds the windows (protocol 9.1).
    pub(crate) dispatched: Vec<WorkRow>,
    pub(crate) waiting: Vec<WaitingBatch>,
    pub(crate) priorities: FxHashMap<BatchRef, u32>,
    pub(crate) versions: Vec<(u32, StageVersion)>,
    pub(crate) newest_versions: FxHashMap<Stage, u32>,
    /// What operators set for stages.
    pub(crate) stages: Vec<StageRow>,
    /// The length of the vectors of stage versions, by their numbers.
    pub(crate) dimensions: Vec<(u32, u32)>,
}

/// What a ledger that leads tells those who ask it beside its writer.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub(crate) leases: LeaseCache,
    pub(crate) stages: Stages,
}

impl Memory {
    /// The memory of a ledger that leads under `epoch`, as it is after what was read. `seed` is of its dice.
    pub(crate) fn recover(
        settings: Arc<LedgerSettings>,
        epoch: u64,
        read: Recovered,
        Told { leases, stages }: Told,
        metrics: LedgerMetrics,
        seed: u64,
    ) -> Self {
        stages.begin(Instant::now());
        let mut dispatcher = Dispatcher::new(settings.windows.clone());
        for row in read.dispatched {
            if planted!(CountsFromZero) {
                break;
            }
            dispatcher.enter(row.stage, row.file, row.token, row.likeness(), read.now);
            dispatcher.remember(row);
        }
        for waiting in read.waiting {
            if planted!(WaitingForgotten) {
                break;
            }
            let weight = read.priorities.get(&waiting.batch).copied();
            dispatcher.enqueue(
                Waiting {
                    stage: waiting.stage,
                    batch: waiting.batch,
                    weight: weight.unwrap_or_default(),
                    at: waiting.earliest,
                },
                read.now,
            );
        }
        for row in read.stages {
            dispatcher.set_stage(&row);
            stages.set(row);
        }
        let dimensions: FxHashMap<u32, u32> = read.dimensions.into_iter().collect();
        for (number, version) in &read.versions {
            if let Some(dimensions) = dimensions.get(number) {
                stages.set_dimensions(version.clone(), *dimensions);
            }
        }
        let versions = read.versions.into_iter();
        Self {
            settings,
            epoch,
            dispatcher,
            metrics,
            versions: versions
                .map(|(number, version)| (version, number))
                .collect(),
            newest_versions: Some(read.newest_versions),
            dimensions,
            stages_unread: false,
            stages,
            clock: DatabaseClock::default(),
            leases,
            known: Known::default(),
            ancestors: Ancestors::default(),
            outbox_counter: 0,
            dice: SmallRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn next_outbox_id(&mut self) -> u64 {
        self.outbox_counter += 1;
        outbox::outbox_id(self.epoch, self.outbox_counter)
    }

    /// A number from 0 to 1, that spreads retries.
    pub(crate) fn jitter(&mut self) -> f64 {
        self.dice.random_range(0.0..1.0)
    }

    /// Results of a stage version have vectors of this length.
    pub(crate) fn learn_dimensions(&mut self, number: u32, dimensions: u32) {
        self.dimensions.insert(number, dimensions);
        let mut versions = self.versions.iter();
        if let Some((version, _)) = versions.find(|(_, known)| **known == number) {
            self.stages.set_dimensions(version.clone(), dimensions);
        }
    }

    /// What operators set for a stage is in force.
    pub(crate) fn learn_stage(&mut self, row: StageRow) {
        self.dispatcher.set_stage(&row);
        self.stages.set(row);
    }

    /// What is remembered of rows may not be what the database holds.
    pub(crate) fn forget(&mut self) {
        self.known.forget();
        self.ancestors.forget();
    }
}

/// Files of a batch wait for a stage, from a time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) stage: Stage,
    pub(crate) batch: BatchRef,
    /// Orders a tenant's batches.
    pub(crate) weight: u32,
    pub(crate) at: Micros,
}
