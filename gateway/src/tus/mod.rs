//! Uploads by the tus protocol, version 1.0.0, at `/files`: for clients that send their bytes to the gateway, in pieces, and
//! go on where they broke off. How far an upload is the ledger keeps, its bytes the store: any gateway goes on with it. Its
//! own keys in the store keep it apart from whoever sends the same file another way; when it is whole it is copied to where
//! files land and confirmed like the others.

mod answer;
mod bind;
mod budget;
mod collect;
mod concat;
mod finish;
mod headers;
mod receive;
mod record;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use caudal_domain::limits::{MAX_TUS_BYTES, MAX_TUS_PART_BYTES, TUS_LIFETIME, TUS_PART_BYTES};
use caudal_domain::{BatchId, Refusal, batch_name};
use caudal_node::scope::Scope;
use caudal_node::{Proof, permission};
use caudal_objects::{MAX_PARTS, ObjectStore};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower_http::cors::{AllowOrigin, CorsLayer};
use uuid::Uuid;

use self::bind::Entered;
use self::budget::Budget;
use self::headers::{
    ALGORITHMS, Checksum, Concat, EXTENSIONS, METHOD_OVERRIDE, Metadata, TUS_CHECKSUM_ALGORITHM,
    TUS_EXTENSION, TUS_MAX_SIZE, TUS_RESUMABLE, TUS_VERSION, UPLOAD_CHECKSUM, UPLOAD_CONCAT,
    UPLOAD_DEFER_LENGTH, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_OFFSET, VERSION,
    carries_bytes,
};
use self::receive::Receiver;
use self::record::{Held, Progress, Record, Records};
use crate::auth::{Authenticator, needs_a_tenant};
use crate::browser::AllowedOrigins;
use crate::ledger::Ledger;
use crate::peer_of;
use crate::rates::Rates;
use crate::uploads::Uploads;

/// Bytes of a part whose upload's length is not known yet.
const PART_BYTES_OF_UNKNOWN: u64 = 2 * TUS_PART_BYTES;
/// The longest that browsers remember a preflight.
const PREFLIGHT_REMEMBERED: Duration = Duration::from_secs(2 * 60 * 60);

/// How long, and for how many bytes, a body that is refused is read on.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 32 << 20;

/// How uploads by the tus protocol are served.
#[derive(Debug, Clone, Copy)]
pub struct TusSettings {
    /// How long an upload may rest before it is given up, and how long one that is done can be asked about.
    pub lifetime: Duration,
    /// Bytes of memory that all uploads may hold together.
    pub memory: u64,
}

impl Default for TusSettings {
    fn default() -> Self {
        Self {
            lifetime: TUS_LIFETIME,
            memory: 512 << 20,
        }
    }
}

/// Serves uploads.
#[derive(Clone)]
pub(crate) struct Tus {
    authenticator: Authenticator,
    rates: Rates,
    uploads: Uploads,
    records: Records,
    receiver: Receiver,
}

impl Tus {
    pub(crate) fn new(
        settings: TusSettings,
        authenticator: Authenticator,
        rates: Rates,
        uploads: Uploads,
        ledger: Ledger,
        objects: ObjectStore,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            authenticator,
            rates,
            uploads,
            records: Records {
                ledger,
                lifetime: settings.lifetime,
            },
            receiver: Receiver {
                objects,
                budget: Budget::new(settings.memory),
                shutdown,
            },
        }
    }

    /// Its routes, open to the pages of these origins.
    pub(crate) fn routes(self, origins: &AllowedOrigins) -> Router {
        let state = Arc::new(self);
        Router::new()
            .route("/files", any(collection))
            .route("/files/", any(collection))
            .route("/files/{id}", any(upload))
            .with_state(state)
            .layer(cors(origins))
            .layer(from_fn(speak_tus))
    }
}

/// What the protocol asks of every answer; OPTIONS is answered before, by what lets pages of other origins in.
async fn speak_tus(request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, VERSION);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_options || status == StatusCode::PRECONDITION_FAILED {
        headers.insert(TUS_VERSION, VERSION);
    }
    if is_options {
        headers.insert(TUS_EXTENSION, EXTENSIONS);
        headers.insert(TUS_MAX_SIZE, MAX_TUS_BYTES.into());
        headers.insert(TUS_CHECKSUM_ALGORITHM, ALGORITHMS);
    }
    response
}

fn cors(origins: &AllowedOrigins) -> CorsLayer {
    let origins = match origins {
        AllowedOrigins::Any => AllowOrigin::any(),
        AllowedOrigins::These(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    let asked_with: [HeaderName; 12] = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        TUS_RESUMABLE,
        UPLOAD_LENGTH,
        UPLOAD_OFFSET,
        UPLOAD_DEFER_LENGTH,
        UPLOAD_METADATA,
        UPLOAD_CHECKSUM,
        UPLOAD_CONCAT,
        METHOD_OVERRIDE,
        HeaderName::from_static("x-requested-with"),
        HeaderName::from_static("x-request-id"),
    ];
    let answered_with: [HeaderName; 13] = [
        header::LOCATION,
        header::RETRY_AFTER,
        TUS_RESUMABLE,
        TUS_VERSION,
        TUS_EXTENSION,
        TUS_MAX_SIZE,
        TUS_CHECKSUM_ALGORITHM,
        UPLOAD_LENGTH,
        UPLOAD_OFFSET,
        UPLOAD_DEFER_LENGTH,
        UPLOAD_METADATA,
        UPLOAD_CONCAT,
        UPLOAD_EXPIRES,
    ];
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST, Method::HEAD, Method::PATCH, Method::DELETE])
        .allow_headers(asked_with)
        .expose_headers(answered_with)
        .max_age(PREFLIGHT_REMEMBERED)
}

async fn collection(State(tus): State<Arc<Tus>>, request: Request) -> Response {
    match method_of(&request) {
        Method::POST => tus.by_itself(Call::Create, request).await,
        _ => not_allowed("POST, OPTIONS"),
    }
}

async fn upload(State(tus): State<Arc<Tus>>, Path(id): Path<String>, request: Request) -> Response {
    let Ok(id) = id.parse::<Uuid>() else {
        return answer::refused(&to_status(&Refusal::not_found(&format!("files/{id}"))));
    };
    let call = match method_of(&request) {
        Method::HEAD => Call::Head(id),
        Method::PATCH => Call::Patch(id),
        Method::DELETE => Call::Delete(id),
        _ => return not_allowed("HEAD, PATCH, DELETE, OPTIONS"),
    };
    tus.by_itself(call, request).await
}

/// What is asked, and of which upload.
#[derive(Clone, Copy)]
enum Call {
    Create,
    Head(Uuid),
    Patch(Uuid),
    Delete(Uuid),
}

/// Reads on for a moment where a body is refused: many clients read no answer before they have sent all of it, and one whose
/// connection is reset never sees why.
async fn linger(headers: &HeaderMap, body: &mut Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut left = LINGER_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
            left = left.saturating_sub(bytes);
            if left == 0 {
                return;
            }
        }
    };
    let _ended_or_not = tokio::time::timeout(LINGER, read).await;
}

/// The method, or the one that stands in a header: for clients that cannot send it.
fn method_of(request: &Request) -> Method {
    let told = request.headers().get(METHOD_OVERRIDE);
    let told = told.and_then(|told| Method::from_bytes(told.as_bytes()).ok());
    told.unwrap_or_else(|| request.method().clone())
}

fn not_allowed(methods: &'static str) -> Response {
    let allow = [(header::ALLOW, HeaderValue::from_static(methods))];
    (StatusCode::METHOD_NOT_ALLOWED, allow).into_response()
}

/// The id of a request to the ledger that an upload makes: the same each time, so that one that is repeated is answered as
/// the first time.
fn request_id(upload: Uuid, what: &str) -> String {
    let digest = Sha256::new()
        .chain_update(upload.as_bytes())
        .chain_update(what);
    let digest: [u8; 32] = digest.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(id).into_uuid().to_string()
}

fn too_large(bytes: u64) -> Refusal {
    let words = format!(
        "an upload has at most {MAX_TUS_BYTES} bytes, not {bytes}: larger files go by presigned parts"
    );
    Refusal::invalid(UPLOAD_LENGTH.as_str(), words).with_reason("UPLOAD_TOO_LARGE")
}

/// Bytes of a part, so that ten thousand are enough.
fn part_bytes(length: Option<u64>) -> u64 {
    const MIB: u64 = 1 << 20;
    let Some(length) = length else {
        return PART_BYTES_OF_UNKNOWN;
    };
    let least = length.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB;
    least.clamp(TUS_PART_BYTES, MAX_TUS_PART_BYTES)
}

impl Tus {
    /// Answers a request by a task of its own: when its connection breaks, what has come is still put away.
    async fn by_itself(self: Arc<Self>, call: Call, request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        let task = tokio::spawn(async move {
            let peer = peer_of(&parts.extensions);
            let answered = match (self.authenticator.may_ask(&parts.headers, peer), call) {
                (Err(refused), _) => Err(refused),
                (Ok(()), Call::Create) => self.create(&parts, &mut body).await,
                (Ok(()), Call::Head(id)) => self.head(id, &parts).await,
                (Ok(()), Call::Patch(id)) => self.patch(id, &parts, &mut body).await,
                (Ok(()), Call::Delete(id)) => self.delete(id, &parts).await,
            };
            if let Err(refused) = &answered {
                self.authenticator.came(refused, peer);
                linger(&parts.headers, &mut body).await;
            }
            answered
        });
        match task.await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => answer::refused(&status),
            Err(error) => {
                tracing::error!(%error, "a handler of uploads panicked");
                answer::refused(&to_status(&Refusal::internal()))
            }
        }
    }

    /// Who calls, within their rate, in the protocol's version.
    async fn caller(&self, request: &Parts) -> Result<Scope, Status> {
        // Whoever answers the request has looked at its peer.
        let caller = self.authenticator.caller(&request.headers, None).await?;
        if let Some(proof) = request.extensions.get::<Proof>() {
            proof.give();
        }
        needs_a_tenant(&caller.scope)?;
        permission::check_upload(caller.scope.role).map_err(|refusal| to_status(&refusal))?;
        if let Some(tenant) = caller.scope.tenant {
            self.rates.call(tenant).await?;
        }
        headers::check_version(&request.headers).map_err(|refusal| to_status(&refusal))?;
        Ok(caller.scope)
    }

    async fn create(&self, request: &Parts, body: &mut Body) -> Result<Response, Status> {
        let scope = self.caller(request).await?;
        let headers = &request.headers;
        let asked = Creation::read(headers).map_err(|refusal| to_status(&refusal))?;
        let id = Uuid::now_v7();
        let sources = match &asked.concat {
            Some(Concat::Final(partials)) => Some(self.sources(&scope, partials).await?),
            _ => None,
        };
        let length = sources
            .as_deref()
            .map_or(asked.length, |sources| Some(concat::size_of(sources)));
        let mut facts = asked.facts;
        facts.part_size = record::signed(part_bytes(length));
        let is_partial = asked.concat == Some(Concat::Partial);
        let batch =
            bind::named_batch(&scope, &asked.metadata).map_err(|refusal| to_status(&refusal))?;
        let (batch, entered) = if is_partial {
            (batch.filter(|_| scope.batch.is_some()), None)
        } else {
            let batch = match batch {
                Some(batch) => batch,
                None => {
                    facts.own_batch = true;
                    self.make_batch(&scope, id, &facts.path).await?
                }
            };
            let entered = self.enter_if_known(&scope, id, batch, length, &facts).await;
            if entered.is_err() {
                let own_batch = Some(batch).filter(|_| facts.own_batch);
                self.cancel_own(&scope, id, own_batch).await;
            }
            (Some(batch), entered?)
        };
        // What the tenant holds is not sent: the upload is over as it begins.
        let (ordinal, is_held) = match entered {
            None => (None, false),
            Some(Entered::Waits(ordinal)) => (Some(ordinal), false),
            Some(Entered::Held(ordinal)) => (Some(ordinal), true),
        };
        let now = Progress {
            ordinal,
            length,
            received: 0,
            state: mesh::TusState::Open,
            facts,
        };
        let own_batch = batch.filter(|_| now.facts.own_batch);
        let mut record = match self.records.create(&scope, id, batch, &now).await {
            Ok(record) => record,
            Err(status) => {
                self.cancel_own(&scope, id, own_batch).await;
                return Err(status);
            }
        };
        if is_held {
            let held = self.records.lock(&scope, id).await?;
            record = self.end_held(held, &scope, now.clone()).await?;
        }
        let carries = carries_bytes(headers) && sources.is_none();
        // Whatever comes with the creation of what is held is not looked at.
        if !is_held && (carries || length == Some(0) || sources.is_some()) {
            let mut held = self.records.lock(&scope, id).await?;
            record = match sources {
                Some(sources) => {
                    let joined = self.concatenate(&mut held, &sources).await;
                    if let Err(status) = joined {
                        self.cancel_own(&scope, id, own_batch).await;
                        self.drop_upload(held).await;
                        return Err(status);
                    }
                    self.finish(held, false).await?
                }
                None => {
                    let none = &mut Body::empty();
                    let body = if carries { body } else { none };
                    self.receive(held, now, body, asked.checksum).await?
                }
            };
        }
        let location = HeaderValue::from_str(&format!("/files/{id}"));
        let mut response = StatusCode::CREATED.into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::LOCATION,
            location.map_err(|_| to_status(&Refusal::internal()))?,
        );
        headers.insert(UPLOAD_OFFSET, record.now.received.into());
        expires(headers, &record);
        Ok(response)
    }

    /// The file in its manifest, where its length is known; else whether its batch will take it.
    async fn enter_if_known(
        &self,
        scope: &Scope,
        id: Uuid,
        batch: BatchId,
        length: Option<u64>,
        facts: &mesh::TusFacts,
    ) -> Result<Option<Entered>, Status> {
        match length {
            Some(length) => self.enter(scope, id, batch, length, facts).await.map(Some),
            None => self.check_open(scope, batch).await.map(|()| None),
        }
    }

    /// Ends an upload of which the tenant turns out to hold the bytes, when its length is told.
    async fn end_held(
        &self,
        mut held: Held,
        scope: &Scope,
        mut now: Progress,
    ) -> Result<Record, Status> {
        now.received = now.length.unwrap_or_default();
        now.state = mesh::TusState::Done;
        self.complete_own(&mut held, scope).await?;
        held.release(now).await?;
        Ok(held.record)
    }

    /// Takes the bytes of a request, and makes the file when they are all there.
    async fn receive(
        &self,
        mut held: Held,
        now: Progress,
        body: &mut Body,
        checksum: Option<Checksum>,
    ) -> Result<Record, Status> {
        let received = self.receiver.receive(&mut held, now, body, checksum).await;
        if let Err(status) = received {
            held.let_go().await;
            return Err(status);
        }
        if held.record.now.state == mesh::TusState::Whole {
            return self.finish(held, false).await;
        }
        let now = held.record.now.clone();
        held.release(now).await?;
        Ok(held.record)
    }

    async fn head(&self, id: Uuid, request: &Parts) -> Result<Response, Status> {
        let scope = self.caller(request).await?;
        let mut record = self.records.get(&scope, id).await?;
        if record.now.state == mesh::TusState::Whole {
            // Whoever made a file of it has died, or still does: it is not said to be there before it is.
            let held = self.records.lock(&scope, id).await?;
            record = match held.record.now.state {
                mesh::TusState::Done => held.record,
                _ => self.finish(held, true).await?,
            };
        }
        not_expired(&record)?;
        let now = &record.now;
        let mut response = StatusCode::OK.into_response();
        let headers = response.headers_mut();
        headers.insert(UPLOAD_OFFSET, now.received.into());
        match now.length {
            Some(length) => headers.insert(UPLOAD_LENGTH, length.into()),
            None => headers.insert(UPLOAD_DEFER_LENGTH, HeaderValue::from_static("1")),
        };
        for (name, text) in [
            (UPLOAD_METADATA, &now.facts.metadata),
            (UPLOAD_CONCAT, &now.facts.concat),
        ] {
            if let Ok(text) = HeaderValue::from_str(text)
                && !text.is_empty()
            {
                headers.insert(name, text);
            }
        }
        expires(headers, &record);
        Ok(response)
    }

    async fn patch(&self, id: Uuid, request: &Parts, body: &mut Body) -> Result<Response, Status> {
        let scope = self.caller(request).await?;
        let asked = Piece::read(&request.headers).map_err(|refusal| to_status(&refusal))?;
        let held = self.records.lock(&scope, id).await?;
        let now = match self.piece(&scope, &held.record, &asked).await {
            Ok(now) => now,
            Err(status) => {
                held.let_go().await;
                return Err(status);
            }
        };
        let record = match now.state {
            mesh::TusState::Done if held.record.now.state != now.state => {
                self.end_held(held, &scope, now).await?
            }
            mesh::TusState::Done => held.record,
            mesh::TusState::Whole => self.finish(held, true).await?,
            _ => self.receive(held, now, body, asked.checksum).await?,
        };
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(UPLOAD_OFFSET, record.now.received.into());
        expires(headers, &record);
        Ok(response)
    }

    /// What a PATCH tells of its upload, if it may come now.
    async fn piece(
        &self,
        scope: &Scope,
        record: &Record,
        asked: &Piece,
    ) -> Result<Progress, Status> {
        let refused = |refusal: Refusal| to_status(&refusal);
        not_expired(record)?;
        let mut now = record.now.clone();
        if now.is_final() {
            let words = "a concatenation takes no bytes: they are in its partial uploads";
            return Err(refused(Refusal::failed_precondition(
                "UPLOAD_IS_FINAL",
                words,
            )));
        }
        if asked.offset != now.received {
            let words = format!("the upload is at {}, not at {}", now.received, asked.offset);
            return Err(refused(Refusal::failed_precondition(
                "OFFSET_DIFFERS",
                words,
            )));
        }
        if let Some(length) = asked.length {
            if now.length.is_some_and(|known| known != length) || length < now.received {
                let words = "the length of an upload is told once, and is not below its offset";
                return Err(refused(Refusal::invalid(UPLOAD_LENGTH.as_str(), words)));
            }
            let most = now.part_size().saturating_mul(MAX_PARTS);
            if length > most {
                return Err(refused(too_large(length)));
            }
            now.length = Some(length);
            if let (None, Some(batch), false) = (now.ordinal, record.batch, now.is_partial()) {
                let entered = self.enter(scope, record.id, batch, length, &now.facts);
                match entered.await? {
                    Entered::Waits(ordinal) => now.ordinal = Some(ordinal),
                    Entered::Held(ordinal) => {
                        now.ordinal = Some(ordinal);
                        now.state = mesh::TusState::Done;
                        return Ok(now);
                    }
                }
            }
        }
        let end = asked.bytes.map(|bytes| now.received.saturating_add(bytes));
        if let (Some(end), Some(length)) = (end, now.length)
            && end > length
        {
            let words = format!("{end} bytes would be there, and the upload has {length}");
            let refusal = Refusal::invalid("(body)", words);
            return Err(refused(refusal.with_reason("UPLOAD_TOO_LARGE")));
        }
        Ok(now)
    }

    async fn delete(&self, id: Uuid, request: &Parts) -> Result<Response, Status> {
        let scope = self.caller(request).await?;
        let held = self.records.lock(&scope, id).await?;
        let record = held.record.clone();
        let is_undone = record.now.state != mesh::TusState::Done;
        let own_batch = record
            .batch
            .filter(|_| record.now.facts.own_batch && is_undone);
        self.cancel_own(&scope, id, own_batch).await;
        self.drop_upload(held).await;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Ends a batch that was made for an upload which will not come. It is ended by the system some day anyway.
    async fn cancel_own(&self, scope: &Scope, upload: Uuid, batch: Option<BatchId>) {
        let Some(batch) = batch else {
            return;
        };
        let request = v1::CancelBatchRequest {
            name: batch_name(batch),
            request_id: request_id(upload, "cancel"),
        };
        let cancelled = self.records.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.cancel_batch(request).await }
        });
        if let Err(status) = cancelled.await {
            tracing::warn!(error = %status, "the batch of an upload that will not come is not cancelled");
        }
    }
}

fn not_expired(record: &Record) -> Result<(), Status> {
    if !record.is_expired() {
        return Ok(());
    }
    let words = "the upload rested for too long and was given up: begin a new one";
    let refusal = Refusal::failed_precondition("UPLOAD_EXPIRED", words);
    Err(to_status(&refusal))
}

/// Until when the upload can be gone on with; one that is done needs no such time.
fn expires(headers: &mut HeaderMap, record: &Record) {
    if record.now.state == mesh::TusState::Done {
        return;
    }
    let at = httpdate::fmt_http_date(SystemTime::now() + record.expires_in);
    if let Ok(at) = HeaderValue::from_str(&at) {
        headers.insert(UPLOAD_EXPIRES, at);
    }
}

/// What a POST asks for.
struct Creation {
    length: Option<u64>,
    concat: Option<Concat>,
    metadata: Metadata,
    facts: mesh::TusFacts,
    checksum: Option<Checksum>,
}

impl Creation {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let metadata = Metadata::read(headers)?;
        let concat = Concat::read(headers)?;
        let mut facts = bind::described(&metadata)?;
        facts.concat = headers::text(headers, &UPLOAD_CONCAT)?.unwrap_or_default();
        let length = headers::bytes(headers, &UPLOAD_LENGTH)?;
        let deferred = headers::text(headers, &UPLOAD_DEFER_LENGTH)?;
        let invalid = |name: &HeaderName, words: &str| Refusal::invalid(name.as_str(), words);
        if deferred.as_deref().is_some_and(|deferred| deferred != "1") {
            return Err(invalid(&UPLOAD_DEFER_LENGTH, "can only be 1"));
        }
        let is_final = matches!(concat, Some(Concat::Final(_)));
        match (length, deferred, is_final) {
            (Some(_), Some(_), _) => {
                let words = "must not be told where it is deferred";
                return Err(invalid(&UPLOAD_LENGTH, words));
            }
            (None, None, false) => {
                let words = "is missing: tell the length of the upload, or that it is deferred";
                return Err(invalid(&UPLOAD_LENGTH, words));
            }
            (length, deferred, true) if length.is_some() || deferred.is_some() => {
                let words =
                    "must not be told of a concatenation: it is the sum of its partial uploads";
                return Err(invalid(&UPLOAD_LENGTH, words));
            }
            _ => {}
        }
        if let Some(length) = length.filter(|length| *length > MAX_TUS_BYTES) {
            return Err(too_large(length));
        }
        Ok(Self {
            length,
            concat,
            metadata,
            facts,
            checksum: Checksum::read(headers)?,
        })
    }
}

/// What a PATCH brings.
struct Piece {
    offset: u64,
    /// As the request says: chunked ones do not.
    bytes: Option<u64>,
    length: Option<u64>,
    checksum: Option<Checksum>,
}

impl Piece {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        if !carries_bytes(headers) {
            let words = format!("send bytes as `Content-Type: {}`", headers::BYTES);
            return Err(Refusal::failed_precondition("NO_OFFSET_STREAM", words));
        }
        let offset = headers::bytes(headers, &UPLOAD_OFFSET)?;
        let missing = || Refusal::invalid(UPLOAD_OFFSET.as_str(), "is missing");
        Ok(Self {
            offset: offset.ok_or_else(missing)?,
            bytes: headers::bytes(headers, &header::CONTENT_LENGTH)?,
            length: headers::bytes(headers, &UPLOAD_LENGTH)?,
            checksum: Checksum::read(headers)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_are_enough_for_every_length_that_is_taken() {
        for length in [0, 1, TUS_PART_BYTES, 100 << 30, MAX_TUS_BYTES] {
            let part = part_bytes(Some(length));
            assert!(length.div_ceil(part) <= MAX_PARTS, "{length}");
            assert!((TUS_PART_BYTES..=MAX_TUS_PART_BYTES).contains(&part));
        }
        assert_eq!(part_bytes(Some(1)), TUS_PART_BYTES);
    }
}
