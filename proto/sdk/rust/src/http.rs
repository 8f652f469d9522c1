//! PUTs to the store: plain or over TLS, through the proxy that the environment names, on connections that are kept.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Collected, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A store's words on what it refuses; more is not read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes that are in memory.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Bytes as they are read.
pub(crate) fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Its beginning.
    pub(crate) words: Bytes,
}

/// Why there is no answer. It never names the address: a presigned URL is a credential.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// There was not even a connection.
    pub(crate) unreachable: bool,
    pub(crate) words: String,
}

/// A client of the store. Clones share their connections.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client<Connect, Body>,
}

impl Http {
    /// Keeps `idle` connections to a host. `through_proxies`: as the variables of the environment say.
    pub(crate) fn new(tls: ClientConfig, idle: usize, through_proxies: bool) -> Self {
        let proxies = through_proxies.then(|| Arc::new(Matcher::from_env()));
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connect = Connect {
            http,
            tls: Arc::new(tls),
            proxies,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(idle)
            .pool_timer(TokioTimer::new())
            .build(connect);
        Self { client }
    }

    /// Sends and reads the whole answer within `deadline`. Redirections are answers like others.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Answer, NoAnswer> {
        let exchange = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| NoAnswer {
                    unreachable: error.is_connect(),
                    words: deepest(&error),
                })?;
            let (parts, body) = response.into_parts();
            // To its end, so that the connection can be used again.
            let words = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                words: words.map(Collected::to_bytes).unwrap_or_default(),
            })
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(NoAnswer {
                    unreachable: false,
                    words: format!("no answer within {} s", deadline.as_secs()),
                })
            })
    }
}

fn deepest(error: &hyper_util::client::legacy::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = cause.to_string();
        source = cause.source();
    }
    words
}

/// Connections to the store, through a proxy where one is to be used.
#[derive(Clone)]
struct Connect {
    http: HttpConnector,
    tls: Arc<ClientConfig>,
    proxies: Option<Arc<Matcher>>,
}

type Stuck = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connect {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Stuck;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Stuck>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        // Neither connector has a queue.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        let http = self.http.clone();
        let proxy = self
            .proxies
            .as_ref()
            .and_then(|proxies| proxies.intercept(&to));
        let Some(proxy) = proxy else {
            return Box::pin(HttpsConnector::from((http, tls)).call(to));
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        Box::pin(HttpsConnector::from((tunnel, tls)).call(to))
    }
}
