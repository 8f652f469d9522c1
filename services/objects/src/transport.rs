//! How requests get to the store: over one set of pooled connections, or by a call where the store is in this process.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// Time to a connection, TLS and all.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A connection that nobody used for so long is closed.
const IDLE_FOR: Duration = Duration::from_secs(60);

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
type InProcessBody = UnsyncBoxBody<Bytes, BoxError>;

/// A store in this process. It gets requests as a server reads them from a connection, in bodies that are whole, and without
/// signatures: nobody is between.
#[derive(Clone)]
pub struct InProcess(BoxCloneSyncService<Request<Full<Bytes>>, Response<InProcessBody>, BoxError>);

impl InProcess {
    /// A store that answers as S3 does.
    pub fn new<S, B>(service: S) -> InProcess
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let service = service
            .map_response(|answer: Response<B>| {
                answer.map(|body| body.map_err(Into::into).boxed_unsync())
            })
            .map_err(Into::into);
        InProcess(BoxCloneSyncService::new(service))
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("InProcess")
    }
}

/// Carries requests to one store.
#[derive(Debug)]
pub(crate) enum Transport {
    Network(Box<Client<Connector, Full<Bytes>>>),
    InProcess(InProcess),
}

impl Transport {
    pub(crate) fn network(tls: ClientConfig) -> Transport {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .set_host(false)
            .build(Connector(connector));
        Transport::Network(Box::new(client))
    }

    /// Whether there is a way between that others may be on.
    pub(crate) fn is_network(&self) -> bool {
        matches!(self, Transport::Network(_))
    }

    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<AnswerBody>, SendError> {
        match self {
            Transport::Network(client) => {
                let answer = client.request(request.map(Full::new)).await;
                let answer = answer.map_err(|error| SendError::of_network(&error))?;
                Ok(answer.map(AnswerBody::Network))
            }
            Transport::InProcess(service) => {
                let answer = service.0.clone().oneshot(request.map(Full::new)).await;
                let answer = answer.map_err(|error| SendError {
                    is_away: false,
                    detail: in_words(error.as_ref()),
                })?;
                Ok(answer.map(AnswerBody::InProcess))
            }
        }
    }
}

/// There was no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// Nobody is there, or they hung up.
    pub(crate) is_away: bool,
    pub(crate) detail: String,
}

impl SendError {
    fn of_network(error: &hyper_util::client::legacy::Error) -> SendError {
        let first: &(dyn Error + 'static) = error;
        let mut causes = std::iter::successors(Some(first), |&error| error.source());
        let hung_up = |error: &(dyn Error + 'static)| {
            error.is::<std::io::Error>()
                || error
                    .downcast_ref::<hyper::Error>()
                    .is_some_and(|error| error.is_closed() || error.is_canceled())
        };
        SendError {
            is_away: error.is_connect() || causes.any(hung_up),
            detail: in_words(error),
        }
    }
}

/// An error and its causes.
pub(crate) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !words.ends_with(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = deeper.source();
    }
    words
}

/// The body of an answer, as it arrives.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Network(Incoming),
    InProcess(InProcessBody),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            AnswerBody::Network(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|error| in_words(&error).into()),
            AnswerBody::InProcess(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Network(body) => body.is_end_stream(),
            AnswerBody::InProcess(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Network(body) => body.size_hint(),
            AnswerBody::InProcess(body) => body.size_hint(),
        }
    }
}

/// Makes connections, each within its time.
#[derive(Debug, Clone)]
pub(crate) struct Connector(HttpsConnector<HttpConnector>);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connected = self.0.call(uri);
        Box::pin(async move {
            let late = |_| format!("no connection within {} s", CONNECT_WITHIN.as_secs());
            tokio::time::timeout(CONNECT_WITHIN, connected)
                .await
                .map_err(late)?
        })
    }
}
