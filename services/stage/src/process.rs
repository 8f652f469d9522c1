//! One stage process: its tasks, its server, and its end.

use std::sync::Arc;

use caudal_domain::Stage;
use caudal_node::slots::{SlotHolder, SlotSettings};
use caudal_node::{MeshChannel, ScopeGuard, ServeError, Server, ServerParts};
use caudal_objects::ObjectStore;
use caudal_proto::FILE_DESCRIPTOR_SET;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_proto::mesh::v1::stage_service_server::StageServiceServer;
use caudal_streams::Streams;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use uuid::Uuid;

use crate::core::{Core, CoreParts};
use crate::handler::Handler;
use crate::ledger::LedgerLink;
use crate::metrics::StageMetrics;
use crate::service::Service;
use crate::settings::{InvalidSettings, StageSettings};
use crate::{attend, free, lease, probe, read, release, renew, report, run};

/// What a stage process works with.
#[derive(Debug, Clone)]
pub struct Dependencies {
    /// The ledger, called in the name of this service.
    pub ledger: MeshChannel,
    /// The object store.
    pub objects: ObjectStore,
    /// The dispatch streams.
    pub streams: Streams,
    /// The limiter, and how many slots may be used while it is away. None: the settings' slots are all there is.
    pub limiter: Option<SlotSource>,
}

/// Where slots come from.
#[derive(Debug, Clone)]
pub struct SlotSource {
    /// The limiter, called in the name of this service.
    pub channel: MeshChannel,
    /// Slots to use while it is away: this process's share of what all processes of the stage may use.
    pub local_share: u32,
}

/// Why a stage process does not run, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A setting is out of its range.
    #[error("the settings of stage {stage} are wrong: {source}")]
    Settings {
        /// Which stage.
        stage: Stage,
        /// Which setting.
        source: InvalidSettings,
    },
    /// The server ended badly.
    #[error("the server of a stage: {0}")]
    Serve(#[from] ServeError),
    /// A task of the runtime panicked, which is a fault of the runtime.
    #[error("a task of a stage ended by itself: {0}")]
    Task(#[from] JoinError),
}

/// A running stage process.
#[derive(Debug)]
pub struct StageProcess {
    process: Uuid,
    task: JoinHandle<Result<(), StageError>>,
}

impl StageProcess {
    /// Serves gRPC (health, reflection, StageService, /metrics) and works on what is dispatched to the handler's stage,
    /// until the server parts' shutdown is cancelled. Then it reads no more, lets running handlers end within the drain
    /// deadline, gives back what was not begun or not finished, and ends.
    ///
    /// # Errors
    /// A setting is wrong. Ledger, Redis, limiter and object store may be away; it waits for them.
    pub fn start<H: Handler>(
        handler: H,
        settings: StageSettings,
        dependencies: Dependencies,
        server: ServerParts,
    ) -> Result<Self, StageError> {
        let version = handler.version();
        let stage = version.stage;
        settings
            .check()
            .map_err(|source| StageError::Settings { stage, source })?;
        let process = Uuid::new_v4();
        let core = Arc::new(Core::new(CoreParts {
            version,
            process,
            settings,
            ledger: LedgerLink::new(dependencies.ledger),
            streams: dependencies.streams,
            objects: dependencies.objects,
            metrics: StageMetrics::new(&server.metrics, stage),
            shutdown: server.shutdown.child_token(),
        }));
        // Until the limiter has answered, or failed to.
        let granted_at_first = if dependencies.limiter.is_some() {
            0
        } else {
            usize::MAX
        };
        core.granted_slots.send_replace(granted_at_first);
        let task = tokio::spawn(serve_and_consume(
            core,
            Arc::new(handler),
            dependencies.limiter,
            server,
        ));
        Ok(Self { process, task })
    }

    /// The process's UUID: its name at ledger and limiter, and as a consumer.
    pub fn process(&self) -> Uuid {
        self.process
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It ended otherwise than by shutdown.
    pub async fn wait(self) -> Result<(), StageError> {
        self.task.await?
    }
}

async fn serve_and_consume<H: Handler>(
    core: Arc<Core>,
    handler: Arc<H>,
    limiter: Option<SlotSource>,
    mut server: ServerParts,
) -> Result<(), StageError> {
    let guard = ScopeGuard::new(server.settings.mesh_secret.clone(), core.stage.name());
    let service =
        InterceptedService::new(StageServiceServer::new(Service::new(core.clone())), guard);
    let health = server.health.clone();
    // It serves on during the drain: that is when one wants to look.
    let consumed = CancellationToken::new();
    server.shutdown = consumed.clone();
    let serving = Server::builder(core.stage.name())
        .parts(server)
        .routes(Routes::new(service))
        .file_descriptor_set(FILE_DESCRIPTOR_SET)
        .serve();
    let consuming = async {
        let result = consume(core.clone(), handler, limiter).await;
        consumed.cancel();
        result
    };
    let draining = async {
        core.shutdown.cancelled().await;
        health.set_serving(false).await;
    };
    let serving = async {
        let result = serving.await;
        // Without a server the process is no member of the mesh any more.
        core.shutdown.cancel();
        result
    };
    let (served, consumed, ()) = tokio::join!(serving, consuming, draining);
    consumed?;
    served?;
    Ok(())
}

async fn consume<H: Handler>(
    core: Arc<Core>,
    handler: Arc<H>,
    limiter: Option<SlotSource>,
) -> Result<(), StageError> {
    let queue = core.settings.queue();
    let (to_lease, keys) = mpsc::channel(queue);
    let (to_run, leased) = mpsc::channel(queue);
    let (to_report, ended) = mpsc::channel(queue);
    let (to_release, given_back) = mpsc::channel(queue);
    // Each of these ends when the one before it has; together they end when everything has a final answer.
    let mut way = JoinSet::new();
    way.spawn(read::read(core.clone(), to_lease));
    way.spawn(lease::lease(core.clone(), keys, to_run, to_release.clone()));
    way.spawn(run::run(
        core.clone(),
        handler.clone(),
        leased,
        to_report,
        to_release,
    ));
    way.spawn(report::report(core.clone(), ended));
    way.spawn(release::release(core.clone(), given_back));
    way.spawn(release::ask_for_reconcile(core.clone()));
    // These serve all of them, and end when told to.
    let answered = CancellationToken::new();
    let mut sides = JoinSet::new();
    sides.spawn(renew::renew(core.clone(), answered.clone()));
    sides.spawn(attend::attend(core.clone(), answered.clone()));
    sides.spawn(free::free(core.clone(), answered.clone()));
    sides.spawn(probe::tend(core.clone(), handler, answered.clone()));
    sides.spawn(hold_slots(core.clone(), limiter, answered.clone()));
    let settled = CancellationToken::new();
    let mut acknowledging = JoinSet::new();
    acknowledging.spawn(release::acknowledge(core.clone(), settled.clone()));
    let finished = CancellationToken::new();
    let mut deadline = JoinSet::new();
    deadline.spawn(end_at_deadline(core.clone(), finished.clone()));

    tracing::info!(stage = %core.stage, process = %core.process, version = %core.version, "consuming");
    let way_ended = all_end(&mut way, &core).await;
    answered.cancel();
    let sides_ended = all_end(&mut sides, &core).await;
    settled.cancel();
    let acknowledging_ended = all_end(&mut acknowledging, &core).await;
    delete_consumer(&core).await;
    finished.cancel();
    let deadline_ended = all_end(&mut deadline, &core).await;
    way_ended
        .and(sides_ended)
        .and(acknowledging_ended)
        .and(deadline_ended)?;
    tracing::info!(stage = %core.stage, process = %core.process, "consumed");
    Ok(())
}

/// Waits for all tasks of a set; one that panics ends the process, so the others are told to end.
async fn all_end(tasks: &mut JoinSet<()>, core: &Core) -> Result<(), JoinError> {
    let mut result = Ok(());
    while let Some(end) = tasks.join_next().await {
        if let Err(error) = end {
            core.shutdown.cancel();
            core.deadline.cancel();
            result = Err(error);
        }
    }
    result
}

async fn delete_consumer(core: &Core) {
    match core
        .streams
        .delete_idle_consumer(core.stage, &core.consumer())
        .await
    {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(stage = %core.stage, "entries are left pending, the ledger will dispatch their files again");
        }
        Err(error) => core.unanswered("delete consumer", &error),
    }
}

/// Cancels everything when drain and farewell are over, unless all has ended before.
async fn end_at_deadline(core: Arc<Core>, finished: CancellationToken) {
    let patience = core.settings.drain + core.settings.farewell;
    let deadline = async {
        core.shutdown.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        () = deadline => core.deadline.cancel(),
        () = finished.cancelled() => {}
    }
}

/// Follows what the limiter grants, and asks it for what the process is set to.
async fn hold_slots(core: Arc<Core>, limiter: Option<SlotSource>, ended: CancellationToken) {
    let Some(source) = limiter else {
        return;
    };
    let mut wanted = core.wanted_slots.subscribe();
    let mut limit = core.stage_slots.subscribe();
    let want = |slots: usize| u32::try_from(slots).unwrap_or(u32::MAX);
    let settings = SlotSettings {
        stage: core.stage,
        process: core.process.to_string(),
        want: want(*wanted.borrow_and_update()),
        local_share: source.local_share,
    };
    let holder = SlotHolder::start(LimiterServiceClient::new(source.channel), settings, &ended);
    // What operators set may have been heard before.
    holder.set_stage_limit(*limit.borrow_and_update());
    let mut granted = holder.granted();
    loop {
        core.granted_slots
            .send_replace(usize::try_from(*granted.borrow_and_update()).unwrap_or(usize::MAX));
        tokio::select! {
            changed = granted.changed() => if changed.is_err() {
                break;
            },
            _ = wanted.changed() => holder.set_want(want(*wanted.borrow_and_update())),
            _ = limit.changed() => holder.set_stage_limit(*limit.borrow_and_update()),
            () = ended.cancelled() => break,
        }
    }
    holder.stop().await;
}
