//! Who leads. Several ledgers may run on one Postgres: one is active and does everything, the others stand by, answer
//! UNAVAILABLE with the active one's address, and take over when its term ends unrenewed (protocol 9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use caudal_node::scope::Role as KeyOf;
use caudal_node::{Health, Rarely, hints};
use caudal_objects::ObjectStore;
use caudal_streams::Streams;
use sea_orm::DbErr;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::collector::Collector;
use super::landed::Landed;
use super::reconciler::Reconciler;
use super::relay;
use super::slices::SliceRunner;
use crate::active_writer::{ActiveWriter, Role};
use crate::memory::relay_queue::RelayQueue;
use crate::memory::{Memory, Recovered, Told};
use crate::metrics::LedgerMetrics;
use crate::settings::{Bootstrap, LedgerSettings};
use crate::signals::Signals;
use crate::store::dialect::Dialect;
use crate::store::time::Micros;
use crate::store::{
    Session, Store, Transaction, credentials, leadership, progress, stages, versions, work,
};
use crate::writer::{HINT_QUEUE, Writer, WriterFailed};

/// How often a ledger that stands by looks whether the term has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long giving the leadership back may take.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(2);
/// A writer that lived for so long before it failed gets all its lives back.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// How often the writer may fail in a row before the ledger ends.
const WRITER_LIVES: u32 = 5;

/// Everything that leading needs.
pub(crate) struct Leadership {
    pub(crate) settings: Arc<LedgerSettings>,
    pub(crate) store: Arc<Store>,
    pub(crate) streams: Streams,
    pub(crate) hints: hints::Publisher,
    pub(crate) metrics: LedgerMetrics,
    pub(crate) health: Health,
    pub(crate) active_writer: ActiveWriter,
    pub(crate) told: Told,
    pub(crate) objects: Option<ObjectStore>,
    pub(crate) address: String,
    pub(crate) reconcile: Arc<Notify>,
    pub(crate) operations: Signals,
}

impl Leadership {
    /// Leads whenever it can, until `shutdown`; then gives the leadership back, so that another takes over at once.
    /// `first` is what the first attempt gave.
    ///
    /// # Errors
    /// The writer fails again and again, with all of its memory read anew.
    pub(crate) async fn run(
        self,
        first: Option<Memory>,
        shutdown: CancellationToken,
    ) -> Result<(), WriterFailed> {
        let mut state = first;
        let mut lives = WRITER_LIVES;
        loop {
            if state.is_none() {
                state = self.wait(&shutdown).await;
            }
            let Some(taken) = state.take() else {
                return Ok(());
            };
            let epoch = taken.epoch;
            let begun = Instant::now();
            let led = self.lead(taken, &shutdown).await;
            if led.is_err() {
                self.metrics.writer_failures.inc();
                if begun.elapsed() >= STEADY_AFTER {
                    lives = WRITER_LIVES;
                }
                lives -= 1;
            }
            if led.is_err() || shutdown.is_cancelled() {
                self.give_back(epoch).await;
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
            if lives == 0 {
                return led;
            }
        }
    }

    /// Stands by until the term ends. `None`: shut down.
    async fn wait(&self, shutdown: &CancellationToken) -> Option<Memory> {
        self.health.set_serving(false).await;
        let unanswered = Rarely::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.try_take_over().await {
                Ok(Some(state)) => return Some(state),
                Ok(None) => {}
                Err(error) => {
                    if let Some(times) = unanswered.next() {
                        tracing::warn!(%error, times, "standing by; the database did not answer");
                    }
                }
            }
        }
    }

    /// Takes the leadership if its term has ended, and reads what a leader must know: outstanding dispatches by one
    /// scan (protocol 9.1: else a new leader counts from zero and exceeds the windows), and who waits.
    pub(crate) async fn try_take_over(&self) -> Result<Option<Memory>, DbErr> {
        let transaction = self.store.begin().await?;
        match self.take_over_in(&transaction).await {
            Ok(None) => {
                transaction.roll_back().await;
                Ok(None)
            }
            Ok(Some((state, leads_until))) => {
                transaction.commit().await?;
                self.told.leases.forget_all();
                self.told.leases.leads_until(leads_until);
                tracing::info!(epoch = state.epoch, "leading");
                Ok(Some(state))
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    async fn take_over_in(
        &self,
        transaction: &Transaction,
    ) -> Result<Option<(Memory, Instant)>, DbErr> {
        let asked = Instant::now();
        let session = transaction.session();
        // A SQLite file has one ledger, whose data folder is locked: nobody else can be leading.
        let whatever_the_term = self.store.dialect() == Dialect::Sqlite;
        let holder = Uuid::new_v4().to_string();
        let term = self.settings.term;
        let taken =
            leadership::take(&session, &holder, &self.address, term, whatever_the_term).await?;
        let Some(epoch) = taken else {
            let leader = leadership::leader_address(&session).await?;
            self.active_writer.set(Role::StandsBy { leader });
            return Ok(None);
        };
        let now = session.now().await?;
        if let Some(bootstrap) = &self.settings.bootstrap {
            ensure_bootstrap(&session, bootstrap, now).await?;
        }
        let state = self.recover(&session, epoch, now).await?;
        Ok(Some((state, asked + term)))
    }

    /// Reads all that a leader must know.
    async fn recover<C: sea_orm::ConnectionTrait>(
        &self,
        session: &Session<'_, C>,
        epoch: u64,
        now: Micros,
    ) -> Result<Memory, DbErr> {
        let read = Recovered {
            now,
            dispatched: work::all_dispatched(session).await?,
            waiting: work::all_waiting(session).await?,
            priorities: progress::live_priorities(session).await?,
            versions: versions::all(session).await?,
            newest_versions: versions::newest(session).await?.into_iter().collect(),
            stages: stages::all(session).await?,
            dimensions: versions::dimensions(session).await?,
        };
        Ok(Memory::recover(
            self.settings.clone(),
            epoch,
            read,
            self.told.clone(),
            self.metrics.clone(),
            rand::random(),
        ))
    }

    /// Leads until `shutdown`, or until another ledger does.
    ///
    /// # Errors
    /// The writer ended by itself, which is a loss of the leadership too: nobody is served any more.
    async fn lead(&self, state: Memory, shutdown: &CancellationToken) -> Result<(), WriterFailed> {
        let lost = CancellationToken::new();
        let stop_writer = CancellationToken::new();
        let stop_rest = CancellationToken::new();
        let epoch = state.epoch;
        let relay_queue = RelayQueue::default();
        let (hint_sender, hint_receiver) = mpsc::channel(HINT_QUEUE);
        let (database_takes_calls, mut takes_calls) = watch::channel(true);
        let (writer, handle, old_pairs) = Writer::new(
            self.store.clone(),
            state,
            relay_queue.clone(),
            hint_sender,
            database_takes_calls,
        );
        let relay = AbortOnDropHandle::new(tokio::spawn(relay::run(
            relay_queue.clone(),
            self.streams.publisher(),
            self.settings.windows.clone(),
            self.metrics.clone(),
            stop_rest.clone(),
        )));
        let hinter = AbortOnDropHandle::new(tokio::spawn(super::hints::run(
            self.hints.clone(),
            hint_receiver,
        )));
        let landed = Landed {
            objects: self.objects.clone(),
        };
        let reconciler = Reconciler {
            settings: self.settings.clone(),
            epoch,
            store: self.store.clone(),
            streams: self.streams.clone(),
            writer: handle.clone(),
            relay: relay_queue,
            old_pairs,
            metrics: self.metrics.clone(),
            wanted: self.reconcile.clone(),
            landed: landed.clone(),
        };
        let reconciler = AbortOnDropHandle::new(tokio::spawn(reconciler.run(stop_rest.clone())));
        let collector = self.objects.clone().map(|objects| {
            let collector = Collector {
                settings: self.settings.clone(),
                store: self.store.clone(),
                writer: handle.clone(),
                objects,
                metrics: self.metrics.clone(),
            };
            AbortOnDropHandle::new(tokio::spawn(collector.run(stop_rest.clone())))
        });
        let operations = SliceRunner {
            store: self.store.clone(),
            writer: handle.clone(),
            landed,
            signals: self.operations.clone(),
        };
        let operations = AbortOnDropHandle::new(tokio::spawn(operations.run(stop_rest.clone())));
        let mut writer =
            AbortOnDropHandle::new(tokio::spawn(writer.run(stop_writer.clone(), lost.clone())));
        self.active_writer.set(Role::Leads(handle));
        self.health.set_serving(true).await;

        let mut writer_ended = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = lost.cancelled() => {
                    tracing::warn!("another ledger leads; standing by");
                    self.serve_nobody().await;
                    break;
                }
                ended = &mut writer => {
                    self.serve_nobody().await;
                    writer_ended = Some(ended);
                    break;
                }
                changed = takes_calls.changed() => {
                    if changed.is_ok() {
                        let takes_calls = *takes_calls.borrow_and_update();
                        self.health.set_serving(takes_calls).await;
                    }
                }
            }
        }
        stop_rest.cancel();
        let _ = reconciler.await;
        let _ = operations.await;
        if let Some(collector) = collector {
            let _ = collector.await;
        }
        let _ = relay.await;
        stop_writer.cancel();
        let ended = match writer_ended {
            Some(ended) => ended,
            None => writer.await,
        };
        let _ = hinter.await;
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failed)) => {
                tracing::error!("{failed}; its memory is read anew");
                Err(failed)
            }
            Err(panicked) => {
                tracing::error!(%panicked, "the writer ended; its memory is read anew");
                Err(WriterFailed)
            }
        }
    }

    /// Nobody leads here from now on.
    async fn serve_nobody(&self) {
        let leader = String::new();
        self.active_writer.set(Role::StandsBy { leader });
        self.told.leases.forget_all();
        self.health.set_serving(false).await;
    }

    async fn give_back(&self, epoch: u64) {
        let given_back = async {
            let transaction = self.store.begin().await?;
            leadership::give_back(&transaction.session(), epoch).await?;
            transaction.commit().await
        };
        let why = match tokio::time::timeout(GIVE_BACK_PATIENCE, given_back).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database does not answer".to_owned(),
        };
        tracing::warn!(error = %why, "the leadership was not given back; another ledger waits for the end of the term");
    }
}

/// Makes the first tenant and the first keys. What was made of them since stays: a key that was revoked, a tenant that is
/// called otherwise or was closed.
async fn ensure_bootstrap<C: sea_orm::ConnectionTrait>(
    session: &Session<'_, C>,
    bootstrap: &Bootstrap,
    now: Micros,
) -> Result<(), DbErr> {
    let (of_tenant, of_operator) = (&bootstrap.api_key, &bootstrap.operator_key);
    if credentials::key(session, &of_tenant.id).await?.is_none() {
        let tenant = credentials::ensure_tenant(session, &bootstrap.tenant_name, now).await?;
        let (id, secret) = (&of_tenant.id, &of_tenant.secret_sha256);
        credentials::ensure_key(session, id, secret, Some(tenant), KeyOf::Admin, now).await?;
    }
    let (id, secret) = (&of_operator.id, &of_operator.secret_sha256);
    credentials::ensure_key(session, id, secret, None, KeyOf::Operator, now).await
}
