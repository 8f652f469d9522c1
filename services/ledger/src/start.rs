//! Starting and ending a ledger.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use caudal_domain::BatchId;
use caudal_node::scope::ScopeGuard;
use caudal_node::{
    MAX_DECODE_BYTES, MAX_ENCODE_BYTES, Registry, ServeError, Server, ServerLimits, hints,
};
use caudal_proto::mesh::v1::ChangedBatch;
use caudal_proto::mesh::v1::ledger_service_server::LedgerServiceServer;
use caudal_proto::v1::batch_service_server::BatchServiceServer;
use caudal_proto::v1::file_service_server::FileServiceServer;
use caudal_proto::v1::upload_service_server::UploadServiceServer;
use caudal_streams::{Names, Streams, StreamsError};
use sea_orm::DbErr;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use uuid::Uuid;

use crate::api;
use crate::dispatcher::{Dispatcher, Windows};
use crate::metrics::LedgerMetrics;
use crate::reconciler::Reconciler;
use crate::relay::{self, RelayHandle};
use crate::settings::{Bootstrap, LedgerSettings};
use crate::store::progress::{self, BatchKey};
use crate::store::{Session, Store, changes, credentials, results, work};
use crate::writer::{HINT_QUEUE, Writer, WriterState};

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
    /// The server failed.
    #[error("the ledger's server failed: {0}")]
    Serve(#[from] ServeError),
    /// The listener has no address.
    #[error("the ledger's listener is broken: {0}")]
    Listener(#[from] std::io::Error),
}

/// Starts ledgers.
#[derive(Debug)]
pub struct Ledger;

impl Ledger {
    /// Opens the database, takes the leadership and serves on `listener` until `shutdown`.
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
        let metrics = LedgerMetrics::new(&registry);
        let state = take_over(&store, &settings, address, metrics.clone()).await?;

        let streams = Streams::connect(
            &settings.redis_url,
            Names::new(settings.redis_prefix.clone()),
        )?;
        let hint_publisher = hints::Publisher::new(&settings.redis_url)?;
        let relay_handle = RelayHandle::default();
        let (hint_sender, hint_receiver) = mpsc::channel(HINT_QUEUE);
        let (writer, writer_handle, old_pairs) =
            Writer::new(store.clone(), state, relay_handle.clone(), hint_sender);
        let wanted = Arc::new(Notify::new());

        // The server goes first at the end: what it was asked is still answered by the writer.
        let stop_writer = CancellationToken::new();
        let stop_rest = CancellationToken::new();
        let lost_leadership = CancellationToken::new();
        let relay = tokio::spawn(relay::run(
            relay_handle.clone(),
            streams.publisher(),
            metrics.clone(),
            stop_rest.clone(),
        ));
        let hinter = tokio::spawn(publish_hints(hint_publisher, hint_receiver));
        let reconciler = Reconciler {
            settings: settings.clone(),
            store: store.clone(),
            streams,
            writer: writer_handle.clone(),
            relay: relay_handle,
            old_pairs,
            metrics,
            wanted: wanted.clone(),
        };
        let reconciler = tokio::spawn(reconciler.run(stop_rest.clone()));
        let writer = tokio::spawn(writer.run(stop_writer.clone(), lost_leadership));

        let ledger = api::Ledger {
            store: store.clone(),
            writer: writer_handle,
            reconcile: wanted,
            lease: settings.lease,
        };
        let server = Server::builder("ledger")
            .routes(routes(ledger, &settings))
            .file_descriptor_set(caudal_proto::FILE_DESCRIPTOR_SET)
            .metrics(registry)
            .listen(listener)
            .limits(ServerLimits::default())
            .shutdown(shutdown);
        let task = tokio::spawn(async move {
            let served = server.serve().await;
            stop_rest.cancel();
            let _ = reconciler.await;
            let _ = relay.await;
            stop_writer.cancel();
            let _ = writer.await;
            let _ = hinter.await;
            store.close().await;
            served.map_err(LedgerError::from)
        });
        Ok(RunningLedger { address, task })
    }
}

/// A ledger that runs.
#[derive(Debug)]
pub struct RunningLedger {
    address: SocketAddr,
    task: JoinHandle<Result<(), LedgerError>>,
}

impl RunningLedger {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Takes the leadership and reads what a leader must know: outstanding dispatches by one scan (protocol 9.1), and who
/// waits.
async fn take_over(
    store: &Store,
    settings: &Arc<LedgerSettings>,
    address: SocketAddr,
    metrics: LedgerMetrics,
) -> Result<WriterState, LedgerError> {
    let transaction = store.begin().await?;
    let session = Session::new(&transaction, store.dialect());
    let own_address = if settings.address.is_empty() {
        format!("http://{address}")
    } else {
        settings.address.clone()
    };
    let epoch =
        changes::take_leadership(&session, &Uuid::new_v4().to_string(), &own_address).await?;
    let now = session.now().await?;
    if let Some(bootstrap) = &settings.bootstrap {
        ensure_bootstrap(&session, bootstrap, now).await?;
    }
    let windows = Windows {
        of_stage: settings.windows.of_stage.clone(),
        of_tenant: settings.windows.of_tenant,
    };
    let mut dispatcher = Dispatcher::new(windows);
    for row in work::all_dispatched(&session).await? {
        dispatcher.enter(row.stage, row.file, row.token);
        dispatcher.remember(row);
    }
    let priorities = progress::live_priorities(&session).await?;
    for waiting in work::all_waiting(&session).await? {
        let key = (waiting.tenant, waiting.batch);
        let weight = priorities.get(&key).copied().unwrap_or_default();
        dispatcher.wait(waiting.stage, key, weight, waiting.earliest, now);
    }
    let versions: HashMap<_, _> = results::versions(&session)
        .await?
        .into_iter()
        .map(|(number, version)| (version, number))
        .collect();
    transaction.commit().await?;
    Ok(WriterState::new(
        settings.clone(),
        epoch,
        dispatcher,
        versions,
        metrics,
    ))
}

async fn ensure_bootstrap<C: sea_orm::ConnectionTrait>(
    session: &Session<'_, C>,
    bootstrap: &Bootstrap,
    now: crate::store::time::Micros,
) -> Result<(), DbErr> {
    let tenant = credentials::ensure_tenant(session, &bootstrap.tenant_name, now).await?;
    let key = &bootstrap.api_key;
    credentials::ensure_key(
        session,
        &key.id,
        &key.secret_sha256,
        Some(tenant),
        "MEMBER",
        now,
    )
    .await?;
    let key = &bootstrap.operator_key;
    credentials::ensure_key(session, &key.id, &key.secret_sha256, None, "OPERATOR", now).await
}

async fn publish_hints(
    publisher: hints::Publisher,
    mut hints: mpsc::Receiver<Vec<(BatchKey, u64)>>,
) {
    while let Some(changed) = hints.recv().await {
        let batches = changed
            .into_iter()
            .map(
                |((tenant, batch), revision): ((_, BatchId), u64)| ChangedBatch {
                    tenant: bytes::Bytes::copy_from_slice(caudal_domain::TenantId::as_bytes(
                        &tenant,
                    )),
                    batch: bytes::Bytes::copy_from_slice(batch.as_bytes()),
                    batch_revision: i64::try_from(revision).unwrap_or(i64::MAX),
                },
            )
            .collect();
        if let Err(error) = publisher.publish(batches).await {
            tracing::debug!(%error, "a hint was not published; watchers find the change by themselves");
        }
    }
}

fn routes(ledger: api::Ledger, settings: &LedgerSettings) -> Routes {
    let guard = ScopeGuard::new(settings.mesh_secret.clone());
    let mesh = LedgerServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let batches = BatchServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let files = FileServiceServer::new(ledger.clone())
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let uploads = UploadServiceServer::new(ledger)
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    Routes::new(InterceptedService::new(mesh, guard.clone()))
        .add_service(InterceptedService::new(batches, guard.clone()))
        .add_service(InterceptedService::new(files, guard.clone()))
        .add_service(InterceptedService::new(uploads, guard))
}
