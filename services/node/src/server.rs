//! The server of a service: gRPC and HTTP/1.1 on one port, over TLS where it has a certificate, with health, reflection and metrics,
//! explicit limits, and a drain that ends. Built on hyper directly: tonic's own server cannot set all of these limits,
//! and its graceful shutdown waits for ever for an open stream.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use caudal_connections::{Bounds, Over, Place, Table};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use crate::health::Health;
use crate::limits::ServerLimits;
use crate::metrics::{Counter, Histogram, Labelled, OTHER, Registry, TEXT_FORMAT};
use crate::reflection;
use crate::scope::{Called, MeshSecret};
use crate::tls::{Certificate, Certified, MeshTls, Stream};
use crate::trace::TraceContext;

/// Pause after an error of accept: most often the process has no file descriptor left, and asking again at once is a
/// busy loop.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Connections at once of those who read metrics.
const METRICS_CONNECTIONS: usize = 64;

/// How long cut connections may take to notice.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// What a process brings to each server it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the service, e.g. "ledger": in metrics and logs.
    pub name: String,
    /// Checks the scopes of callers.
    pub mesh_secret: MeshSecret,
    /// What the server bears.
    pub limits: ServerLimits,
}

/// Everything a service is started with, so that `serve(settings, parts)` is the same for all of them.
#[derive(Debug)]
pub struct ServerParts {
    /// Name, secret and limits.
    pub settings: Settings,
    /// Where it listens, bound already.
    pub listener: TcpListener,
    /// Ends it.
    pub shutdown: CancellationToken,
    /// Its metrics.
    pub metrics: Registry,
    /// Its health.
    pub health: Health,
    /// The certificates of the mesh; without them it speaks without TLS.
    pub tls: Option<MeshTls>,
    /// Where its metrics are shown; beside its calls when left out.
    pub metrics_listen: Option<SocketAddr>,
}

impl ServerParts {
    /// With fresh metrics and health.
    #[must_use]
    pub fn new(settings: Settings, listener: TcpListener, shutdown: CancellationToken) -> Self {
        let metrics = Registry::new(&settings.name);
        Self {
            settings,
            listener,
            shutdown,
            metrics,
            health: Health::new(),
            tls: None,
            metrics_listen: None,
        }
    }
}

/// Where the metrics of a server are shown.
#[derive(Debug, Clone, Copy, Default)]
enum MetricsDoor {
    /// Beside its calls.
    #[default]
    Beside,
    /// At an address of their own.
    Own(SocketAddr),
    /// By whoever serves its other pages.
    Elsewhere,
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// [`ServerBuilder::listen`] was not called.
    #[error("the server {0} has nothing to listen on")]
    NoListener(String),
    /// A descriptor set cannot be read.
    #[error("a descriptor set cannot be read: {0}")]
    Descriptors(#[from] prost::DecodeError),
    /// Reflection cannot be made.
    #[error("reflection cannot be made: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The metrics cannot be shown at their address.
    #[error("metrics cannot be shown at {address}: {source}; choose another with --metrics-listen")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The listener is broken.
    #[error("the listener is broken: {0}")]
    Listener(#[from] std::io::Error),
}

/// Makes servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Begins with the name of the service.
    pub fn builder(name: impl Into<String>) -> ServerBuilder {
        let name = name.into();
        ServerBuilder {
            metrics: Registry::new(&name),
            name,
            routes: Routes::default(),
            descriptor_sets: Vec::new(),
            reflection: true,
            http: Router::new(),
            listener: None,
            shutdown: CancellationToken::new(),
            limits: ServerLimits::default(),
            tls: None,
            mesh_tls: None,
            metrics_door: MetricsDoor::default(),
            health: Health::new(),
        }
    }
}

/// A server that does not run yet.
#[derive(Debug)]
#[must_use = "it runs with `serve`"]
pub struct ServerBuilder {
    name: String,
    routes: Routes,
    descriptor_sets: Vec<&'static [u8]>,
    reflection: bool,
    metrics: Registry,
    http: Router,
    listener: Option<TcpListener>,
    shutdown: CancellationToken,
    limits: ServerLimits,
    tls: Option<Certificate>,
    mesh_tls: Option<MeshTls>,
    metrics_door: MetricsDoor,
    health: Health,
}

impl ServerBuilder {
    /// Takes name, listener, shutdown, metrics, health and limits at once.
    pub fn parts(mut self, parts: ServerParts) -> Self {
        self.name = parts.settings.name;
        self.limits = parts.settings.limits;
        self.metrics = parts.metrics;
        self.health = parts.health;
        self.shutdown = parts.shutdown;
        self.listener = Some(parts.listener);
        self.mesh_tls(parts.tls).metrics_at(parts.metrics_listen)
    }

    /// The gRPC services. Set message limits on each before ([`crate::MAX_DECODE_BYTES`]).
    pub fn routes(mut self, routes: Routes) -> Self {
        self.routes = routes;
        self
    }

    /// Descriptors for reflection, and for the names of methods in metrics. May be called several times. What is in
    /// them and not in the routes is not listed.
    pub fn file_descriptor_set(mut self, encoded: &'static [u8]) -> Self {
        self.descriptor_sets.push(encoded);
        self
    }

    /// Whether reflection is served; it is by default.
    pub fn reflection(mut self, reflection: bool) -> Self {
        self.reflection = reflection;
        self
    }

    /// The registry shown at `GET /metrics`; the server's own metrics are added to it.
    pub fn metrics(mut self, metrics: Registry) -> Self {
        self.metrics = metrics;
        self
    }

    /// What else is served: it gets every request that is neither gRPC nor `/metrics`, its own fallback included.
    pub fn http(mut self, router: Router) -> Self {
        self.http = router;
        self
    }

    /// Where it listens.
    pub fn listen(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Ends it: health says NOT_SERVING, nothing new is accepted, calls in flight finish, and after the drain deadline
    /// are cut. Server streams must end themselves by the same token, or they are what is cut.
    pub fn shutdown(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// What it bears.
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The certificate that it shows; without one it speaks without TLS.
    pub fn tls(mut self, certificate: Option<Certificate>) -> Self {
        self.tls = certificate;
        self
    }

    /// The certificates of the mesh: it takes connections only of those who show one.
    pub fn mesh_tls(mut self, tls: Option<MeshTls>) -> Self {
        self.mesh_tls = tls;
        self
    }

    /// Where its metrics are shown, to everybody who reaches it there; beside its calls when left out.
    pub fn metrics_at(mut self, address: Option<SocketAddr>) -> Self {
        if let Some(address) = address {
            self.metrics_door = MetricsDoor::Own(address);
        }
        self
    }

    /// Leaves the showing of its metrics to its other pages, unless they have an address of their own.
    pub fn metrics_elsewhere(mut self) -> Self {
        if let MetricsDoor::Beside = self.metrics_door {
            self.metrics_door = MetricsDoor::Elsewhere;
        }
        self
    }

    /// Its health, to be switched by the service.
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Serves until shutdown, and returns when the drain is over.
    ///
    /// # Errors
    /// When it cannot begin.
    pub async fn serve(mut self) -> Result<(), ServeError> {
        let Some(listener) = self.listener.take() else {
            return Err(ServeError::NoListener(self.name));
        };
        let address = listener.local_addr()?;
        let app = self.app().await?;
        tracing::info!(service = self.name, %address, "serving");
        let tls = match &self.mesh_tls {
            Some(mesh) => Some(mesh.acceptor()?),
            None => self.tls.as_ref().map(Certificate::acceptor).transpose()?,
        };
        let metrics = match self.metrics_door {
            MetricsDoor::Own(address) => Some(self.metrics_at_their_own(address).await?),
            MetricsDoor::Beside | MetricsDoor::Elsewhere => None,
        };
        let connections = Connections::new(&self.limits, app, tls, &self.metrics);
        connections.accept(&listener, &self.shutdown).await;
        drop(listener);
        self.health.drain().await;
        let open = connections.tasks.len();
        tracing::info!(service = self.name, open, "draining");
        connections.draining.cancel();
        self.health.end_watches().await;
        connections
            .drain(self.limits.drain_deadline, &self.name)
            .await;
        drop(metrics);
        Ok(())
    }

    /// Shows the metrics, and nothing else, until what it gives back is dropped.
    async fn metrics_at_their_own(
        &self,
        address: SocketAddr,
    ) -> Result<AbortOnDropHandle<()>, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Metrics { address, source })?;
        let limits = ServerLimits {
            connections: METRICS_CONNECTIONS,
            connections_of_one_peer: METRICS_CONNECTIONS,
            ..self.limits.clone()
        };
        let app = Router::new().route("/metrics", metrics_page(&self.metrics));
        // What happens to its own connections is told nowhere.
        let connections = Connections::new(&limits, app, None, &Registry::new(&self.name));
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            let never = CancellationToken::new();
            let _ends = connections.draining.clone().drop_guard();
            connections.accept(&listener, &never).await;
        })))
    }

    async fn app(&mut self) -> Result<Router, ServeError> {
        let described = reflection::describe(&self.descriptor_sets)?;
        let routes = std::mem::take(&mut self.routes)
            .into_axum_router()
            .reset_fallback();
        let served = reflection::served(&routes, &described).await;
        self.health.serve(served.iter().cloned()).await;
        let mut builder = RoutesBuilder::from(routes);
        builder.add_service(HealthServer::new(self.health.service()));
        if self.reflection {
            reflection::add(&mut builder, &self.descriptor_sets, &served)?;
        }
        let edge = Arc::new(Edge::new(
            &self.metrics,
            &described.methods,
            self.limits.call_timeout,
        ));
        let grpc = builder
            .routes()
            .into_axum_router()
            .layer(from_fn_with_state(edge, at_the_edge));
        let http = std::mem::take(&mut self.http);
        let rest = Router::new()
            .fallback_service(http)
            .layer(axum::middleware::from_fn(unknown_method));
        let mut app = grpc.reset_fallback();
        if let MetricsDoor::Beside = self.metrics_door {
            app = app.route("/metrics", metrics_page(&self.metrics));
        }
        Ok(app.fallback_service(rest))
    }
}

/// Shows the metrics to everybody.
fn metrics_page(registry: &Registry) -> MethodRouter {
    let registry = registry.clone();
    get(move || async move { shown(&registry) })
}

/// The page of a registry's metrics.
#[must_use]
pub fn shown(registry: &Registry) -> Response {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], registry.render()).into_response()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A gRPC call to a path nobody serves gets a gRPC answer, whatever the fallback for pages is.
async fn unknown_method(request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let method = request.uri().path().chars().take(200).collect::<String>();
    grpc_error(
        request.headers(),
        Status::unimplemented(format!("this server has no method {method}")),
    )
}

fn grpc_error(asked: &HeaderMap, status: Status) -> Response {
    let mut response = status.into_http::<axum::body::Body>().into_response();
    // A browser's client accepts an answer of the kind it asked in only.
    if let Some(kind) = asked.get(header::CONTENT_TYPE)
        && kind.as_bytes().starts_with(b"application/grpc-web")
    {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, kind.clone());
    }
    response
}

/// What stands around every gRPC call.
struct Edge {
    methods: HashMap<String, MethodMetrics>,
    unknown: MethodMetrics,
    calls: Labelled<Counter, 2>,
    panics: Counter,
    call_timeout: Duration,
}

struct MethodMetrics {
    method: String,
    seconds: Histogram,
    by_code: [OnceLock<Counter>; 17],
}

impl Edge {
    fn new(registry: &Registry, methods: &BTreeSet<String>, call_timeout: Duration) -> Self {
        let seconds = registry.duration_families(
            "rpc_answer_seconds",
            "Time until the answer of a gRPC call began",
            ["method"],
        );
        let metrics_of = |method: &str| MethodMetrics {
            method: method.to_owned(),
            seconds: seconds.with([method]),
            by_code: std::array::from_fn(|_| OnceLock::new()),
        };
        let methods = methods
            .iter()
            .map(|path| (path.clone(), metrics_of(path.trim_start_matches('/'))))
            .collect();
        Self {
            methods,
            unknown: metrics_of(OTHER),
            calls: registry.counters(
                "rpc_calls",
                "gRPC calls by method and code of the answer's head",
                ["method", "code"],
            ),
            panics: registry.counter("rpc_panics", "Handlers that panicked"),
            call_timeout,
        }
    }

    fn count(&self, method: &MethodMetrics, code: Code, began: Instant) {
        method.seconds.observe(began.elapsed().as_secs_f64());
        let number = code as usize;
        let by_code = &method.by_code[number.min(method.by_code.len() - 1)];
        by_code
            .get_or_init(|| self.calls.with([&method.method, &format!("{code:?}")]))
            .inc();
    }
}

async fn at_the_edge(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.uri().path().to_owned();
    let called = Called(path.trim_start_matches('/').to_owned());
    request.extensions_mut().insert(called);
    let method = edge.methods.get(&path).unwrap_or(&edge.unknown);
    let timeout = grpc_timeout(request.headers())
        .map_or(edge.call_timeout, |asked| asked.min(edge.call_timeout));
    let trace = TraceContext::extract(request.headers()).or_else(TraceContext::root);
    let asked: HeaderMap = request
        .headers()
        .get(header::CONTENT_TYPE)
        .map(|kind| HeaderMap::from_iter([(header::CONTENT_TYPE, kind.clone())]))
        .unwrap_or_default();
    let run = tokio::time::timeout(timeout, AssertUnwindSafe(next.run(request)).catch_unwind());
    let answer = match trace {
        Some(trace) => {
            let name = path.trim_start_matches('/');
            trace
                .run(
                    || tracing::info_span!("rpc", otel.name = name, otel.kind = "server"),
                    run,
                )
                .await
        }
        None => run.await,
    };
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            // The panic's own words were printed by the panic hook.
            tracing::error!(method = path, "a handler panicked");
            edge.panics.inc();
            grpc_error(
                &asked,
                caudal_proto::status::to_status(&caudal_domain::Refusal::internal()),
            )
        }
        Err(_) => {
            let words = format!("no answer within {} ms", timeout.as_millis());
            grpc_error(&asked, Status::deadline_exceeded(words))
        }
    };
    edge.count(method, code_of(response.headers()), began);
    response
}

/// An error without a body stands in the head; whatever has a body began well.
fn code_of(headers: &HeaderMap) -> Code {
    headers
        .get("grpc-status")
        .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// Reads `{1 to 8 digits}{H|M|S|m|u|n}`.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers
        .get("grpc-timeout")
        .and_then(|value: &HeaderValue| value.to_str().ok())?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The connections of a server, each an owned task, and so is each HTTP/2 stream.
struct Connections {
    app: Router,
    tls: Option<TlsAcceptor>,
    http: auto::Builder<OwnedTasks>,
    table: Table,
    tasks: TaskTracker,
    draining: CancellationToken,
    cut: CancellationToken,
}

/// Spawns what hyper spawns so that it can be waited for and cut.
#[derive(Debug, Clone)]
struct OwnedTasks {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for OwnedTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            cut.run_until_cancelled_owned(work).await;
        });
    }
}

impl Connections {
    fn new(
        limits: &ServerLimits,
        app: Router,
        tls: Option<TlsAcceptor>,
        metrics: &Registry,
    ) -> Self {
        let ended = metrics.counters(
            "connections_ended",
            "Connections that were ended, or not taken, because of what they did not do or where they came from",
            ["why"],
        );
        let bounds = Bounds {
            connections: limits.connections,
            of_one_peer: limits.connections_of_one_peer,
            first_head_within: limits.header_timeout,
            credential_within: limits.credential_timeout,
        };
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        let mut http = auto::Builder::new(OwnedTasks {
            tasks: tasks.clone(),
            cut: cut.clone(),
        });
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size((limits.header_list_bytes as usize * 4).max(64 * 1024));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .max_pending_accept_reset_streams(limits.pending_accept_resets)
            .max_local_error_reset_streams(limits.local_error_resets)
            .max_header_list_size(limits.header_list_bytes)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_send_buf_size(limits.send_buffer_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        Self {
            app,
            tls,
            http,
            table: Table::new(bounds, move |why| {
                ended.with([why.word()]).inc();
            }),
            tasks,
            draining: CancellationToken::new(),
            cut,
        }
    }

    async fn accept(&self, listener: &TcpListener, shutdown: &CancellationToken) {
        loop {
            let next = self.table.accept(listener);
            let Some(accepted) = shutdown.run_until_cancelled(next).await else {
                return;
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    self.tasks.spawn(self.connection(stream, peer, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    shutdown
                        .run_until_cancelled(tokio::time::sleep(ACCEPT_ERROR_PAUSE))
                        .await;
                }
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
    ) -> impl Future<Output = ()> + Send + 'static {
        let http = self.http.clone();
        let app = self.app.clone();
        let tls = self.tls.clone();
        let draining = self.draining.clone();
        let cut = self.cut.clone();
        async move {
            let info = TcpConnectInfo {
                local_addr: stream.local_addr().ok(),
                remote_addr: Some(peer),
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection was gone before it began");
                return;
            }
            let mut certified = None;
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => {
                    let shaken = tokio::select! {
                        shaken = tls.accept(stream) => shaken,
                        _ = place.over() => return,
                        () = draining.cancelled() => return,
                    };
                    match shaken {
                        Ok(stream) => {
                            certified = Certified::of(&stream);
                            Stream::Tls(Box::new(stream))
                        }
                        Err(error) => {
                            tracing::debug!(%error, %peer, "a TLS handshake failed");
                            return;
                        }
                    }
                }
            };
            let proof = place.proof();
            let service = hyper::service::service_fn(
                move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(info.clone());
                    request.extensions_mut().insert(ConnectInfo(peer));
                    request.extensions_mut().insert(proof.clone());
                    if let Some(certified) = &certified {
                        request.extensions_mut().insert(certified.clone());
                    }
                    proof.asked();
                    let answer = Service::call(&mut app.clone(), request);
                    async move {
                        Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {}))
                    }
                },
            );
            let connection = http.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                over = place.over() => match over {
                    Over::AtOnce => return,
                    Over::AfterAnswers => {
                        connection.as_mut().graceful_shutdown();
                        tokio::select! {
                            ended = connection.as_mut() => ended,
                            () = place.grace_is_over() => return,
                            () = cut.cancelled() => return,
                        }
                    }
                },
                () = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = cut.cancelled() => return,
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, %peer, "a connection broke");
            }
        }
    }

    async fn drain(&self, deadline: Duration, name: &str) {
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait())
            .await
            .is_ok()
        {
            tracing::info!(service = name, "drained");
            return;
        }
        let left = self.tasks.len();
        tracing::warn!(service = name, left, "calls were cut at the drain deadline");
        self.cut.cancel();
        if tokio::time::timeout(CUT_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                service = name,
                left = self.tasks.len(),
                "handlers do not yield"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_callers_timeout_is_read_as_the_protocol_writes_it() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(text).unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        for wrong in ["", "m", "123456789m", "-1m", "5x", "5é"] {
            assert_eq!(
                HeaderValue::from_str(wrong).ok().and_then(|_| read(wrong)),
                None,
                "{wrong}"
            );
        }
    }
}
