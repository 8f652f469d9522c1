//! One POST with a deadline and a bounded answer, over TLS by rustls on ring.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Time to a connection, TLS not counted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read: 2,048 vectors of 3,072 numbers in decimal are some 80 MB, our own batches far smaller.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Idle connections kept for each host.
const MAX_IDLE_CONNECTIONS: usize = 8;

/// A client for one host.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer, in words.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// It did not come in time.
    Late(String),
    /// There was no connection, or it broke off.
    Down(String),
}

impl NoAnswer {
    pub(crate) fn words(&self) -> &str {
        let (Self::Late(words) | Self::Down(words)) = self;
        words
    }
}

impl HttpClient {
    /// A client that can reach `url`. An https address needs the machine's root certificates, an http address does not.
    pub(crate) fn for_url(url: &Uri) -> Result<Self, String> {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS could not be set up: {error}"))?;
        let builder = if url.scheme_str() == Some("https") {
            builder.with_native_roots().map_err(|error| {
                format!("no root certificates for https ({error}); install ca-certificates or set SSL_CERT_FILE")
            })?
        } else {
            builder.with_root_certificates(rustls::RootCertStore::empty())
        };

        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(builder.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { client })
    }

    /// Sends `request` and reads the whole answer within `deadline`. The error says in words what happened.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<Answer, NoAnswer> {
        let exchange = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| NoAnswer::Down(with_cause("could not be reached", &error)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| NoAnswer::Down(format!("broke off its answer: {error}")))?
                .to_bytes();
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(NoAnswer::Late(format!(
                    "gave no answer within {} s",
                    deadline.as_secs_f32()
                )))
            })
    }
}

/// The innermost cause says more ("connection refused") than the outermost ("client error").
fn with_cause(what: &str, error: &hyper_util::client::legacy::Error) -> String {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    match cause {
        Some(cause) => format!("{what}: {cause}"),
        None => format!("{what}: {error}"),
    }
}
