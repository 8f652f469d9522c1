//! An S3 server on a folder: the protocol and its signatures by s3s, the storage by our own [`store`].
//!
//! What holds, as far as Caudal relies on S3:
//! - Every request must be signed with the configured keys, and the signature cover each `x-amz-*` header; a presigned URL
//!   fixes key, length, type and expiry, and never copies. Only the [`S3Door`], which no network reaches, asks for none.
//! - An object appears whole under its key, with its ETag, or not at all; a body that breaks off or differs from a declared
//!   checksum leaves what was there. A reader gets the object it opened to its end, whatever is put meanwhile.
//! - If-Match and If-None-Match are honoured on GetObject, HeadObject, PutObject, CompleteMultipartUpload, and as the copy
//!   source's condition on CopyObject and UploadPartCopy; they are checked on the very bytes that are read or copied.
//! - What was answered survives the loss of power with [`Durability::PowerLoss`]: it is synced before the answer, deletes
//!   too. All writes that wait are synced once.
//! - An ETag names bytes: equal ones have equal ETags, if they were sent with the same kind of checksum. It is their MD5 only
//!   if Content-MD5 was sent (see [`etag`]).
//! - Keys are 1 to 1024 bytes long, whatever they are; one may be the folder of another. Listings are in their byte order.
//!
//! The folder has `index.redb`, where each key has its record, and small objects their bytes ([`index`]), and `files`, where
//! larger ones have theirs ([`files`]). A copy is a second record of the same file, and what was sent in parts is a list of
//! the parts' files ([`joined`]). All that changes goes through one thread, in groups ([`group`]).

mod body;
mod disk;
mod door;
#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod durability_tests;
mod earlier;
mod etag;
mod failure;
mod files;
mod group;
mod index;
mod joined;
mod listing;
#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod long_tests;
mod pages;
mod receive;
mod record;
mod service;
mod signature;
mod store;
mod strict;
mod uploads;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caudal_connections::{Bounds, Over, Table};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, S3Error, S3ErrorCode};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{Any, CorsLayer};

pub use disk::Durability;
pub use door::{DoorBody, DoorError, S3Door};
pub use store::MAX_KEY_BYTES;

use service::Service;
use store::Store;

const CONNECTIONS: Bounds = Bounds {
    connections: 512,
    of_one_peer: 256,
    first_head_within: Duration::from_secs(10),
    credential_within: Duration::from_secs(30),
};
/// How long a client may take to send the head of a further request, and how long a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(90);
/// How long requests in flight may take to end after the token is cancelled.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// The wait after a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The region that is named to whoever names none that a store may have. Any that may be is taken.
const REGION: &str = "us-east-1";
/// The longest XML body: ten thousand parts of a CompleteMultipartUpload are about half of it.
const MAX_XML_BYTES: usize = 4 * 1024 * 1024;
/// Of a refusal's XML.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// How to start the embedded S3 server.
#[derive(Clone)]
pub struct S3Settings {
    /// Where the objects live; made where missing. One server per folder (see [`DataFolder`](crate::DataFolder)).
    pub folder: PathBuf,
    /// The only access key accepted.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The only bucket; three characters at least, by S3's rules of names.
    pub bucket: String,
    /// What an answered write survives.
    pub durability: Durability,
    /// Whether it refuses what stores refuse that are stricter than AWS: parts of different sizes, as R2 does, and checksums
    /// after the body or of algorithms that not all know. For tests of what is to work with all of them.
    pub is_strict: bool,
    /// Is told the method of each request, of those by the door too.
    pub on_request: OnRequest,
}

/// Who is told of requests; nobody by default.
#[derive(Clone, Default)]
pub struct OnRequest(Option<Arc<Listener>>);

type Listener = dyn Fn(&str) + Send + Sync;

impl OnRequest {
    /// Tells `listener`, which must not block.
    pub fn tell(listener: impl Fn(&str) + Send + Sync + 'static) -> OnRequest {
        OnRequest(Some(Arc::new(listener)))
    }

    fn came(&self, method: &Method) {
        if let Some(listener) = &self.0 {
            listener(method.as_str());
        }
    }
}

impl fmt::Debug for OnRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("OnRequest")
            .field(&self.0.is_some())
            .finish()
    }
}

impl S3Settings {
    /// The settings of a server whose writes survive the loss of power.
    pub fn new(
        folder: impl Into<PathBuf>,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        bucket: impl Into<String>,
    ) -> S3Settings {
        S3Settings {
            folder: folder.into(),
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            bucket: bucket.into(),
            durability: Durability::default(),
            is_strict: false,
            on_request: OnRequest::default(),
        }
    }
}

/// A running S3 server. Dropping it breaks its connections off; cancel the token for an orderly end.
pub struct S3Server {
    address: SocketAddr,
    door: S3Door,
    store: Arc<Store>,
    serving: JoinSet<()>,
}

impl fmt::Debug for S3Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl S3Server {
    /// Serves the folder's one bucket on the listener until the token is cancelled.
    ///
    /// # Errors
    /// A bucket name S3 does not allow, or a folder that cannot be used.
    pub async fn start(
        settings: S3Settings,
        listen: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<S3Server, S3ServerError> {
        if !s3s::path::check_bucket_name(&settings.bucket) {
            return Err(S3ServerError::BucketName(settings.bucket));
        }
        let address = listen.local_addr()?;
        let folder = settings.folder.clone();
        let opened = tokio::task::spawn_blocking(move || -> io::Result<Store> {
            let mut store = Store::open(&folder, settings.durability)?;
            store.is_strict = settings.is_strict;
            store.clear_abandoned_uploads().map_err(io::Error::other)?;
            Ok(store)
        });
        let store = opened.await.map_err(io::Error::other)??;
        let store = Arc::new(store);
        let service = Service {
            store: Arc::clone(&store),
            bucket: settings.bucket,
        };
        let door = S3Door {
            service: builder_of(service.clone()).build(),
            is_strict: settings.is_strict,
            on_request: settings.on_request.clone(),
        };
        let service = signed(service, settings.access_key, settings.secret_key);
        let mut serving = JoinSet::new();
        let manner = Manner {
            is_strict: settings.is_strict,
            on_request: settings.on_request,
        };
        serving.spawn(serve(listen, service, manner, shutdown));
        Ok(S3Server {
            address,
            door,
            store,
            serving,
        })
    }

    /// `http://ADDRESS:PORT`, as a client on this machine uses it; requests are path-style.
    pub fn endpoint(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        format!("http://{address}")
    }

    /// The door for the same process, without connection and signature.
    pub fn door(&self) -> S3Door {
        self.door.clone()
    }

    /// Returns when the server has ended after its token was cancelled, at most some ten seconds later. The folder is closed
    /// then, and whoever still holds a [`S3Door`] is told so.
    pub async fn stopped(mut self) {
        while self.serving.join_next().await.is_some() {}
        let closed = tokio::task::spawn_blocking(move || self.store.close());
        if let Err(error) = closed.await {
            tracing::error!(%error, "the object store was not closed in order");
        }
    }
}

/// Why the server could not be started.
#[derive(Debug, Error)]
pub enum S3ServerError {
    /// Bucket names are 3 to 63 characters: lower-case letters, digits, `.` and `-`.
    #[error("{0:?} is not a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens")]
    BucketName(String),
    /// The folder or the listener failed.
    #[error("cannot start the object store: {0}")]
    Io(#[from] io::Error),
}

fn signed(service: Service, access_key: String, secret_key: String) -> S3Service {
    let mut builder = builder_of(service);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
    builder.set_access(signature::OnlySigned);
    builder.build()
}

/// The service with its bounds, and without a check of who asks.
fn builder_of(service: Service) -> S3ServiceBuilder {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML_BYTES;
    // Browser forms are collected in memory before their signature is checked: none are taken.
    config.post_object_max_file_size = 0;
    config.form_max_field_size = 0;
    config.form_max_fields_size = 0;
    let mut builder = S3ServiceBuilder::new(service);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder
}

/// How requests from the network are taken.
#[derive(Clone)]
struct Manner {
    is_strict: bool,
    on_request: OnRequest,
}

/// The service behind the check of what its signatures cover.
fn checked(
    service: S3Service,
    manner: Manner,
) -> impl tower::Service<Request<Incoming>, Response = HttpResponse, Error = HttpError, Future: Send>
+ Clone
+ Send {
    tower::service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        let is_strict = manner.is_strict;
        manner.on_request.came(request.method());
        async move {
            if signature::region_of_nobody(request.headers()).is_some() {
                return told_of_the_region();
            }
            let may = signature::check(request.uri(), request.headers()).and_then(|()| {
                if is_strict {
                    strict::check(request.headers())
                } else {
                    Ok(())
                }
            });
            if let Err(refused) = may {
                tracing::debug!(%refused, "a request was refused");
                return answer_of(refused);
            }
            let sent =
                signature::length_it_fixes(request.uri(), request.headers()).map(str::to_owned);
            let answer = service.call(request.map(Body::from)).await?;
            match sent {
                Some(sent) if answer.status() == http::StatusCode::FORBIDDEN => {
                    told_of_its_length(answer, &sent).await
                }
                _ => Ok(answer),
            }
        }
    })
}

/// As S3 says it to whoever signs for another region; clients read it from the answer.
fn told_of_the_region() -> Result<HttpResponse, HttpError> {
    let words = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AuthorizationHeaderMalformed</Code>\
         <Message>The authorization header is malformed; the region is wrong; expecting '{REGION}'</Message>\
         <Region>{REGION}</Region></Error>"
    );
    let answer = http::Response::builder()
        .status(http::StatusCode::BAD_REQUEST)
        .header(http::header::CONTENT_TYPE, "application/xml")
        .body(Body::from(words));
    answer.map_err(|error| HttpError::new(Box::new(error)))
}

fn answer_of(refused: S3Error) -> Result<HttpResponse, HttpError> {
    let answer = refused.to_http_response();
    answer.map_err(|error| HttpError::new(Box::new(error)))
}

/// A URL that puts one object fixes its size by the signature alone, so another size shows as a signature that does not fit.
/// It is by far the most common reason, and is said.
async fn told_of_its_length(refused: HttpResponse, sent: &str) -> Result<HttpResponse, HttpError> {
    let (parts, body) = refused.into_parts();
    let whole = Limited::new(body, MAX_REFUSAL_BYTES).collect().await;
    let words = whole.map(Collected::to_bytes).unwrap_or_default();
    let code = S3ErrorCode::SignatureDoesNotMatch;
    let is_other_code = !words
        .windows(code.as_str().len())
        .any(|piece| piece == code.as_str().as_bytes());
    if is_other_code {
        return Ok(HttpResponse::from_parts(parts, Body::from(words)));
    }
    answer_of(S3Error::with_message(
        code,
        format!(
            "This URL takes one object of exactly the size that it was made for, by one method, before it expires. \
             What was sent has {sent} bytes: is that the size that was announced?"
        ),
    ))
}

/// Any page may ask: what it may do is decided by the signature in the URL it was given.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::PUT,
            // Of multipart uploads.
            Method::POST,
            Method::DELETE,
        ])
        .allow_headers(Any)
        .expose_headers([
            http::header::ETAG,
            http::header::CONTENT_RANGE,
            http::header::CONTENT_DISPOSITION,
            http::header::ACCEPT_RANGES,
        ])
        .max_age(PREFLIGHT_AGE)
}

async fn serve(
    listen: TcpListener,
    service: S3Service,
    manner: Manner,
    shutdown: CancellationToken,
) {
    let table = Table::new(CONNECTIONS, |why| {
        tracing::debug!(
            why = why.word(),
            "a connection to the object store was ended"
        );
    });
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = table.accept(&listen) => accepted,
        };
        let (stream, _, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the object store could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it an answer's last packet waits for the client's acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            continue;
        }
        let proof = place.proof();
        let service = tower::ServiceBuilder::new()
            .map_request(move |mut request: Request<Incoming>| {
                proof.asked();
                request.extensions_mut().insert(proof.clone());
                request
            })
            .layer(cors())
            .service(checked(service.clone(), manner.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                over = place.over() => match over {
                    Over::AtOnce => return,
                    // One request at a time: what is under way had no good signature.
                    Over::AfterAnswers => tokio::select! {
                        ended = connection => ended,
                        () = place.grace_is_over() => return,
                    },
                },
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the object store broke off");
            }
        });
    }
    drop(listen);
    if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests to the object store were broken off at its end");
    }
    connections.shutdown().await;
}
