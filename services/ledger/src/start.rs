//! Starting and ending a ledger.

use std::net::SocketAddr;
use std::sync::Arc;

use caudal_node::callers;
use caudal_node::scope::ScopeGuard;
use caudal_node::{
    Health, MAX_DECODE_BYTES, MAX_ENCODE_BYTES, Registry, ServeError, Server, ServerLimits, hints,
};
use caudal_objects::{ObjectError, ObjectStore};
use caudal_proto::longrunning::operations_server::OperationsServer;
use caudal_proto::mesh::v1::ledger_service_server::LedgerServiceServer;
use caudal_proto::v1::batch_service_server::BatchServiceServer;
use caudal_proto::v1::file_service_server::FileServiceServer;
use caudal_proto::v1::operator_service_server::OperatorServiceServer;
use caudal_proto::v1::tenant_service_server::TenantServiceServer;
use caudal_proto::v1::upload_service_server::UploadServiceServer;
use caudal_streams::{Names, Streams, StreamsError};
use sea_orm::DbErr;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use crate::active_writer::{ActiveWriter, LeaderGuard};
use crate::api;
use crate::leader::Leadership;
use crate::memory::Told;
use crate::metrics::LedgerMetrics;
use crate::settings::LedgerSettings;
use crate::signals::Signals;
use crate::store::Store;
use crate::waits::Waits;

/// Why a ledger does not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database cannot be reached, migrated or read.
    #[error("the database cannot be used: {0}")]
    Database(#[from] DbErr),
    /// The address of Redis is wrong. A Redis that is merely away is waited for.
    #[error("Redis cannot be used: {0}")]
    Streams(#[from] StreamsError),
    /// The same, for hints.
    #[error("Redis cannot be used: {0}")]
    Hints(#[from] hints::HintError),
    /// What is said of the object store is wrong.
    #[error("the object store cannot be used: {0}")]
    Store(#[from] ObjectError),
    /// The server failed.
    #[error("the ledger's server failed: {0}")]
    Serve(#[from] ServeError),
    /// The writer fails whenever it begins.
    #[error(
        "the ledger cannot go on: its writer fails again and again, with all of its memory read anew"
    )]
    Writer,
    /// The listener has no address.
    #[error("the ledger's listener is broken: {0}")]
    Listener(#[from] std::io::Error),
}

/// Starts ledgers.
#[derive(Debug)]
pub struct Ledger;

impl Ledger {
    /// Opens the database, leads if nobody else does, and serves on `listener` until `shutdown`.
    ///
    /// # Errors
    /// When the database cannot be used, or an address is wrong.
    pub async fn start(
        settings: LedgerSettings,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<RunningLedger, LedgerError> {
        let address = listener.local_addr()?;
        let settings = Arc::new(settings);
        let store = Arc::new(Store::open(&settings.database_url).await?);
        let registry = Registry::new("ledger");
        let health = Health::new();
        let active_writer = ActiveWriter::new();
        let told = Told::default();
        let reconcile = Arc::new(Notify::new());
        let streams = Streams::connect(
            &settings.redis_url,
            Names::new(settings.redis_prefix.clone()),
        )?;
        let own_address = if settings.address.is_empty() {
            format!("http://{address}")
        } else {
            settings.address.clone()
        };
        let metrics = LedgerMetrics::new(&registry);
        let operations = Signals::default();
        let leadership = Leadership {
            settings: settings.clone(),
            store: store.clone(),
            streams,
            hints: hints::Publisher::new(&settings.redis_url)?,
            metrics: metrics.clone(),
            health: health.clone(),
            active_writer: active_writer.clone(),
            told: told.clone(),
            objects: settings
                .objects
                .clone()
                .map(ObjectStore::connect)
                .transpose()?,
            address: own_address,
            reconcile: reconcile.clone(),
            operations: operations.clone(),
        };
        let first = leadership.try_take_over().await?;
        let stop_leading = CancellationToken::new();
        let mut leading =
            AbortOnDropHandle::new(tokio::spawn(leadership.run(first, stop_leading.clone())));
        let stop_serving = shutdown.child_token();

        let ledger = api::Ledger {
            store: store.clone(),
            writer: active_writer.clone(),
            leases: told.leases,
            stages: told.stages,
            waits: Waits::new(settings.lease),
            versions: api::versions::Versions::default(),
            reconcile,
            lease: settings.lease,
            upload_deadline: settings.upload_deadline,
            operations,
            windows: settings.windows.clone(),
            metrics,
            mesh_secret: settings.mesh_secret.clone(),
            tenant_limits: settings.tenant_limits.clone(),
            key_uses: api::key_uses::KeyUses::default(),
        };
        let server = Server::builder("ledger")
            .routes(routes(
                ledger,
                LeaderGuard::new(
                    ScopeGuard::new(settings.mesh_secret.clone(), callers::LEDGER),
                    active_writer,
                ),
            ))
            .file_descriptor_set(caudal_proto::FILE_DESCRIPTOR_SET)
            .metrics(registry)
            .health(health)
            .listen(listener)
            .limits(ServerLimits::default())
            .mesh_tls(settings.tls.clone())
            .metrics_at(settings.metrics_listen)
            .shutdown(stop_serving.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let serving = server.serve();
            tokio::pin!(serving);
            let ended_early = tokio::select! {
                // The server goes first: what it was asked is still answered by the writer.
                served = &mut serving => {
                    stop_leading.cancel();
                    let _ = leading.await;
                    store.close().await;
                    return served.map_err(LedgerError::from);
                }
                led = &mut leading => led,
            };
            stop_serving.cancel();
            let _ = serving.await;
            store.close().await;
            match ended_early {
                Ok(led) => led.map_err(|_| LedgerError::Writer),
                Err(panicked) => Err(LedgerError::Listener(std::io::Error::other(panicked))),
            }
        }));
        Ok(RunningLedger { address, task })
    }
}

/// A ledger that runs.
#[derive(Debug)]
pub struct RunningLedger {
    address: SocketAddr,
    task: AbortOnDropHandle<Result<(), LedgerError>>,
}

impl RunningLedger {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a crash would: nothing is answered, nothing given back. For tests of what follows.
    pub fn abort(self) {
        drop(self.task);
    }

    /// Waits until it has ended: after its shutdown token, or when it failed.
    ///
    /// # Errors
    /// When the server failed.
    pub async fn join(self) -> Result<(), LedgerError> {
        match self.task.await {
            Ok(ended) => ended,
            Err(error) => Err(LedgerError::Listener(std::io::Error::other(error))),
        }
    }
}

fn routes(ledger: api::Ledger, guard: LeaderGuard) -> Routes {
    let mesh = LedgerServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let batches = BatchServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let files = FileServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let operations = OperationsServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let operator = OperatorServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let tenants = TenantServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let uploads = UploadServiceServer::new(ledger)
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    Routes::new(InterceptedService::new(mesh, guard.clone()))
        .add_service(InterceptedService::new(batches, guard.clone()))
        .add_service(InterceptedService::new(files, guard.clone()))
        .add_service(InterceptedService::new(operations, guard.clone()))
        .add_service(InterceptedService::new(operator, guard.clone()))
        .add_service(InterceptedService::new(tenants, guard.clone()))
        .add_service(InterceptedService::new(uploads, guard))
}
