//! The public door: authentication, presigning, forwarding and live progress. It holds no state that matters: the
//! ledger answers, the store keeps the bytes, and a client that loses one gateway goes on with another.

mod auth;
mod browser;
mod door_limits;
mod events;
mod feed;
mod fold;
mod ledger;
mod live;
mod metrics_page;
mod no_store;
mod oversize;
mod page;
mod parts;
mod public_api;
mod rates;
mod tus;
mod uploads;
mod wakeups;
mod watch;
mod weight;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use caudal_domain::limits::{MAX_MESSAGE_BYTES, UPLOAD_URL_VALIDITY};
use caudal_node::permission;
use caudal_node::scope::MeshSecret;
use caudal_node::{Certificate, LeaderChannel, Proof, Registry, ServeError, Server, ServerLimits};
use caudal_objects::ObjectStore;
use caudal_proto::FILE_DESCRIPTOR_SET;
use caudal_proto::longrunning::operations_server::OperationsServer;
use caudal_proto::status::to_status;
use caudal_proto::v1::batch_service_server::BatchServiceServer;
use caudal_proto::v1::event_service_server::EventServiceServer;
use caudal_proto::v1::file_service_server::FileServiceServer;
use caudal_proto::v1::operator_service_server::OperatorServiceServer;
use caudal_proto::v1::tenant_service_server::TenantServiceServer;
use caudal_proto::v1::upload_service_server::UploadServiceServer;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

pub use caudal_node::api_key as key;

pub use browser::{AllowedOrigins, InvalidOrigin};
pub use live::WatchSettings;
pub use tus::TusSettings;

use crate::auth::Authenticator;
use crate::door_limits::DoorBook;
use crate::events::Events;
use crate::feed::Feeds;
use crate::ledger::Ledger;
use crate::live::Live;
use crate::oversize::Oversize;
use crate::public_api::PublicApi;
use crate::rates::Rates;
use crate::tus::Tus;
use crate::uploads::Uploads;
use crate::wakeups::Wakeups;
use crate::watch::Watches;
use crate::weight::Scales;

/// How a gateway behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Signs the scopes of callers for the ledger.
    pub mesh_secret: MeshSecret,
    /// What the server bears.
    pub limits: ServerLimits,
    /// How long an answer about a credential is believed: a revoked key works on for this long at most.
    pub credential_validity: Duration,
    /// How long the ledger may take where the caller set no deadline.
    pub call_timeout: Duration,
    /// For how long a call is sent again while no ledger that leads is met: longer than another takes to take over.
    pub takeover_patience: Duration,
    /// How long an upload URL works.
    pub upload_url_validity: Duration,
    /// How long a download URL works.
    pub download_url_validity: Duration,
    /// Whether an ETag that a client tells is taken for what landed without asking the store, which is asked by default. It
    /// saves a HEAD a file, and one that was made up shows only at the upload stage.
    pub trusts_etags: bool,
    /// Whether bytes whose checksum was declared go straight to where they stay, if the store is found to verify checksums.
    pub uses_final_keys: bool,
    /// How uploads by the tus protocol are served.
    pub tus: TusSettings,
    /// The certificate that the gateway shows; it speaks plain HTTP without one.
    pub tls: Option<Certificate>,
    /// How watchers are served.
    pub watch: WatchSettings,
    /// Whose pages may call; by default those of every origin.
    pub allowed_origins: AllowedOrigins,
    /// Its metrics; others of the same process may be registered beside them.
    pub metrics: Registry,
    /// Where its metrics are shown; when left out, to operators at the public door.
    pub metrics_listen: Option<SocketAddr>,
    /// Folder of the built page, relative to the working directory; by default what `CAUDAL_WEB_DIR` names, or
    /// `gateway/web/dist`.
    pub web_dir: PathBuf,
}

impl Settings {
    /// The defaults around the secret of the mesh.
    #[must_use]
    pub fn new(mesh_secret: MeshSecret) -> Self {
        Self {
            mesh_secret,
            limits: ServerLimits::default(),
            credential_validity: Duration::from_millis(500),
            call_timeout: Duration::from_secs(30),
            takeover_patience: Duration::from_secs(8),
            upload_url_validity: UPLOAD_URL_VALIDITY,
            download_url_validity: Duration::from_secs(15 * 60),
            trusts_etags: false,
            uses_final_keys: true,
            tus: TusSettings::default(),
            tls: None,
            watch: WatchSettings::default(),
            allowed_origins: AllowedOrigins::default(),
            metrics: Registry::new("gateway"),
            metrics_listen: None,
            web_dir: page::default_folder(),
        }
    }
}

/// What a gateway works with.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The ledger, for calls.
    pub ledger: LeaderChannel,
    /// The ledger on a connection of its own, for watches: however many of them there are, calls find a free stream.
    pub ledger_for_watches: LeaderChannel,
    /// The limiter, as this gateway calls it.
    pub limiter: caudal_node::MeshChannel,
    /// The object store that clients send to.
    pub objects: ObjectStore,
    /// Address of the Redis that carries hints. Without it watchers are served by asking the ledger each second.
    pub redis_url: Option<String>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The listener is of no use.
    #[error("the gateway cannot listen: {0}")]
    Listener(#[from] std::io::Error),
    /// The address of Redis is none.
    #[error("hints cannot be received: {0}")]
    Hints(#[from] caudal_node::hints::HintError),
    /// The descriptors of the API cannot be read.
    #[error("the descriptors of the API cannot be read: {0}")]
    Descriptors(#[from] prost::DecodeError),
    /// Reflection cannot be made.
    #[error("reflection cannot be made: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The public door.
#[derive(Debug)]
pub struct Gateway;

/// A gateway that serves.
#[derive(Debug)]
pub struct RunningGateway {
    address: SocketAddr,
    server: JoinHandle<Result<(), ServeError>>,
}

impl RunningGateway {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has drained; it begins to when the token it was started with is cancelled.
    ///
    /// # Errors
    /// It could not serve.
    pub async fn join(self) -> Result<(), ServeError> {
        match self.server.await {
            Ok(ended) => ended,
            Err(error) => Err(ServeError::Listener(std::io::Error::other(error))),
        }
    }
}

impl Gateway {
    /// Serves on `listener` until `shutdown`; then watchers are told goodbye and calls in flight finish.
    ///
    /// # Errors
    /// The listener or the address of Redis is of no use. Whether ledger, store or Redis answer is not asked here.
    pub async fn start(
        settings: Settings,
        deps: Deps,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<RunningGateway, GatewayError> {
        let address = listener.local_addr()?;
        let connect = |channel| {
            Ledger::new(
                channel,
                settings.mesh_secret.clone(),
                settings.call_timeout,
                settings.takeover_patience,
            )
        };
        let ledger = connect(deps.ledger);
        let book = DoorBook::default();
        let validity = settings.credential_validity;
        let authenticator = Authenticator::new(ledger.clone(), validity, book.clone());
        let rates = Rates::new(deps.limiter, book.clone());
        let wakeups = Wakeups::default();
        let hints = match &deps.redis_url {
            Some(url) => Some(wakeups::receive_hints(
                url,
                wakeups.clone(),
                shutdown.clone(),
            )?),
            None => None,
        };
        let live = Live::new(
            settings.watch,
            authenticator.clone(),
            book.clone(),
            shutdown.clone(),
        );
        let ledger_for_watches = connect(deps.ledger_for_watches);
        let events = Events::new(ledger_for_watches.clone(), wakeups.clone(), live.clone());
        let feeds = Feeds::new(ledger_for_watches, wakeups, live.clone());
        let metrics = settings.metrics;
        let public_api = PublicApi {
            uploads: Uploads::new(
                ledger.clone(),
                deps.objects.clone(),
                settings.upload_url_validity,
                settings.trusts_etags,
                &metrics,
            ),
            watches: Watches::new(feeds, live.clone()),
            events,
            objects: deps.objects,
            rates: rates.clone(),
            book,
            ledger,
            download_validity: settings.download_url_validity,
        };
        let page = page::page(&settings.web_dir, &public_api.objects).await;
        let tus = Tus::new(
            settings.tus,
            authenticator.clone(),
            rates.clone(),
            public_api.uploads.clone(),
            public_api.ledger.clone(),
            public_api.objects.clone(),
            shutdown.clone(),
        );
        let collecting = tokio::spawn(tus.clone().collect());
        let asking = settings.uses_final_keys.then(|| {
            let uploads = public_api.uploads.clone();
            tokio::spawn(uploads.learn_whether_the_store_verifies(shutdown.clone()))
        });
        let mut http = tus.routes(&settings.allowed_origins).fallback_service(page);
        if settings.metrics_listen.is_none() {
            http = http.merge(metrics_page::route(authenticator.clone(), metrics.clone()));
        }
        let door = Door {
            authenticator,
            rates,
            oversize: Oversize::new(&metrics),
            scales: Scales::new()?,
        };
        let routes =
            browser::open_to_browsers(routes(public_api, door), &settings.allowed_origins)?;
        let serving = Server::builder("gateway")
            .metrics(metrics)
            .routes(routes)
            .file_descriptor_set(FILE_DESCRIPTOR_SET)
            .reflection(false)
            .http(http)
            .listen(listener)
            .limits(settings.limits)
            .tls(settings.tls)
            .metrics_at(settings.metrics_listen)
            .metrics_elsewhere()
            .shutdown(shutdown)
            .serve();
        let server = tokio::spawn(async move {
            let ended = serving.await;
            live.ended().await;
            // It ends by the same token.
            let _joined = collecting.await;
            if let Some(asking) = asking {
                // So does it.
                let _joined = asking.await;
            }
            if let Some(hints) = hints {
                // It ends by the same token.
                let _joined = hints.await;
            }
            ended
        });
        Ok(RunningGateway { address, server })
    }
}

fn routes(public_api: PublicApi, door: Door) -> Router {
    let batches = BatchServiceServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let files = FileServiceServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let events = EventServiceServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let operations = OperationsServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let operator = OperatorServiceServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let tenants = TenantServiceServer::new(public_api.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let uploads = UploadServiceServer::new(public_api)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(batches)
        .add_service(files)
        .add_service(uploads)
        .add_service(events)
        .add_service(operations)
        .add_service(operator)
        .add_service(tenants)
        .into_axum_router()
        .route_layer(from_fn_with_state(door, admit))
}

/// Stands before every public call: nothing of a request is read before its caller is known and within its rate.
#[derive(Clone)]
struct Door {
    authenticator: Authenticator,
    rates: Rates,
    oversize: Oversize,
    scales: Scales,
}

/// The address that a request came from.
fn peer_of(extensions: &http::Extensions) -> Option<IpAddr> {
    let info = extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(info.0.ip())
}

async fn admit(
    State(door): State<Door>,
    mut request: axum::extract::Request,
    next: Next,
) -> Response {
    let peer = peer_of(request.extensions());
    let caller = match door
        .caller(request.uri().path(), request.headers(), peer)
        .await
    {
        Ok(caller) => caller,
        Err(status) => return status.into_http::<axum::body::Body>().into_response(),
    };
    if let Some(proof) = request.extensions().get::<Proof>() {
        proof.give();
    }
    let tenant = caller.scope.tenant;
    request.extensions_mut().insert(caller);
    let uri = request.uri().clone();
    let (request, weight) = match door.scales.weigh(tenant, request).await {
        Ok(weighed) => weighed,
        Err(status) => return status.into_http::<axum::body::Body>().into_response(),
    };
    let response = next.run(request).await;
    drop(weight);
    let told = response
        .extensions()
        .get::<Status>()
        .and_then(|status| door.oversize.refusal(uri.path(), status));
    if let Some(refusal) = told {
        return refusal.into_http::<axum::body::Body>().into_response();
    }
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                door.oversize.replace(uri.path(), trailers);
            }
            frame
        }))
    })
}

impl Door {
    async fn caller(
        &self,
        path: &str,
        headers: &http::HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<auth::Caller, Status> {
        let caller = self.authenticator.caller(headers, peer).await?;
        let Some(roles) = permission::roles_of(path) else {
            return Err(Status::unimplemented("there is no such call"));
        };
        permission::check(roles, caller.scope.role).map_err(|refusal| to_status(&refusal))?;
        if let Some(tenant) = caller.scope.tenant {
            self.rates.call(tenant).await?;
        }
        Ok(caller)
    }
}
