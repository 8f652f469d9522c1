//! Who calls, signed: the gateway signs the scope of the credential it checked, a service signs one for itself. It
//! travels in the metadata `caudal-scope` as `base64url(Scope).base64url(HMAC-SHA256)`, is good for one call of one method at
//! one service, and void after half a minute. Whoever sends a call again signs it again.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caudal_connections::Proof;
use caudal_domain::{BatchId, Refusal, RefusalKind, Stage, TenantId};
use caudal_proto::mesh::v1;
use caudal_proto::status::to_status;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{GrpcMethod, Request, Status};

use crate::callers;
use crate::leader::LeaderChannel;
use crate::tls::Certified;
use crate::trace::TraceContext;
use crate::used::{Nonce, Use, Used};

/// Name of the metadata.
pub const SCOPE_METADATA: &str = "caudal-scope";

/// How long a signature is good.
pub const SCOPE_VALIDITY: Duration = Duration::from_secs(30);

/// How far the clocks of two machines may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// How long a used signature is remembered: as long as anybody may take it for valid.
const REMEMBERED: Duration =
    Duration::from_secs(SCOPE_VALIDITY.as_secs() + 2 * CLOCK_SKEW.as_secs() + 1);

/// Reason of a scope that is refused.
pub const SCOPE_NOT_VALID: &str = "SCOPE_NOT_VALID";
/// Reason of a scope that was good, and is too old: the same call with a new signature is taken.
pub const SCOPE_TOO_OLD: &str = "SCOPE_TOO_OLD";

/// A signed scope is some 300 characters; more is not looked at.
const MAX_SCOPE_CHARACTERS: usize = 1024;

/// Bytes that bind a token of a page to its request: nobody guesses them call by call.
pub const PAGE_TAG_BYTES: usize = 12;

/// Keeps signatures of scopes apart from anything else the secret may sign one day.
const PURPOSE: &[u8] = b"caudal-scope-v1\0";
/// The same for secrets of API keys.
const KEY_PURPOSE: &[u8] = b"caudal-api-key-v1\0";
/// The same for tokens of pages.
const PAGE_PURPOSE: &[u8] = b"caudal-page-v1\0";

/// What a principal may do. Which role may call what stands in [`crate::permission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Fills one batch.
    Uploader,
    /// Reads inside one tenant.
    Viewer,
    /// Works inside one tenant.
    Member,
    /// Works inside one tenant, and runs its keys.
    Admin,
    /// Runs the system.
    Operator,
    /// A service of the mesh.
    Service,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// None for an operator or a service.
    pub tenant: Option<TenantId>,
    /// Name of the credential, e.g. "service:upload".
    pub principal: String,
    /// What it may do.
    pub role: Role,
    /// Set when the credential is good for one batch only.
    pub batch: Option<BatchId>,
    /// The id of the key; empty for a service.
    pub key_id: String,
}

impl Role {
    /// Its name, as KeyRole spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploader => "UPLOADER",
            Self::Viewer => "VIEWER",
            Self::Member => "MEMBER",
            Self::Admin => "ADMIN",
            Self::Operator => "OPERATOR",
            Self::Service => "SERVICE",
        }
    }

    /// Whether it works inside a tenant.
    #[must_use]
    pub fn has_tenant(self) -> bool {
        !matches!(self, Self::Operator | Self::Service)
    }
}

impl Scope {
    /// A service of the mesh: "service:{name}".
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self {
            tenant: None,
            principal: format!("service:{name}"),
            role: Role::Service,
            batch: None,
            key_id: String::new(),
        }
    }

    /// The tenant.
    ///
    /// # Errors
    /// PERMISSION_DENIED for an operator or a service, which have none.
    pub fn require_tenant(&self) -> Result<TenantId, Refusal> {
        self.tenant
            .ok_or_else(|| Refusal::permission_denied("this needs a credential of a tenant"))
    }

    /// The name of the service; none for a credential.
    #[must_use]
    pub fn service_name(&self) -> Option<&str> {
        let name = self.principal.strip_prefix("service:")?;
        (self.role == Role::Service).then_some(name)
    }

    /// Whether this is the service that does the work of a stage.
    #[must_use]
    pub fn works_for(&self, stage: Stage) -> bool {
        self.service_name() == Some(stage.name())
    }

    /// Whether the scope covers a batch of its tenant.
    #[must_use]
    pub fn covers(&self, batch: BatchId) -> bool {
        self.batch.is_none_or(|only| only == batch)
    }

    /// As a message that is void, or ends, at a time.
    #[must_use]
    pub fn to_message(&self, expires_at: i64) -> v1::Scope {
        let role = match self.role {
            Role::Uploader => v1::Role::Uploader,
            Role::Viewer => v1::Role::Viewer,
            Role::Member => v1::Role::Member,
            Role::Admin => v1::Role::Admin,
            Role::Operator => v1::Role::Operator,
            Role::Service => v1::Role::Service,
        };
        let tenant = self
            .tenant
            .map(|tenant| tenant.as_bytes().to_vec())
            .unwrap_or_default();
        let batch = self
            .batch
            .map(|batch| batch.as_bytes().to_vec())
            .unwrap_or_default();
        v1::Scope {
            tenant: tenant.into(),
            principal: self.principal.clone(),
            role: role.into(),
            batch: batch.into(),
            expires_at,
            key_id: self.key_id.clone(),
            ..v1::Scope::default()
        }
    }

    /// From the message, e.g. of CheckCredential; `expires_at` is not looked at.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the role is unknown or an id is none.
    pub fn from_proto(scope: &v1::Scope) -> Result<Self, Refusal> {
        let role = match scope.role() {
            v1::Role::Uploader => Role::Uploader,
            v1::Role::Viewer => Role::Viewer,
            v1::Role::Member => Role::Member,
            v1::Role::Admin => Role::Admin,
            v1::Role::Operator => Role::Operator,
            v1::Role::Service => Role::Service,
            v1::Role::Unspecified => return Err(refused("its role is unknown")),
        };
        let tenant = match scope.tenant.is_empty() {
            true => None,
            false => Some(
                TenantId::from_slice(&scope.tenant).map_err(|_| refused("its tenant is no id"))?,
            ),
        };
        let batch = match scope.batch.is_empty() {
            true => None,
            false => {
                Some(BatchId::from_slice(&scope.batch).map_err(|_| refused("its batch is no id"))?)
            }
        };
        if role.has_tenant() && tenant.is_none() {
            return Err(refused("its role works inside a tenant, and it has none"));
        }
        if role == Role::Uploader && batch.is_none() {
            return Err(refused("its role fills one batch, and it has none"));
        }
        Ok(Self {
            tenant,
            principal: scope.principal.clone(),
            role,
            batch,
            key_id: scope.key_id.clone(),
        })
    }
}

fn refused(why: &str) -> Refusal {
    let words = format!("the scope of this call is not valid: {why}");
    Refusal::new(RefusalKind::Unauthenticated, SCOPE_NOT_VALID, words)
}

fn too_old(why: &str) -> Refusal {
    Refusal {
        reason: SCOPE_TOO_OLD,
        ..refused(why)
    }
}

/// A secret that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMeshSecret {
    /// Too short to be safe.
    #[error(
        "the mesh secret has {0} bytes, it needs at least {MIN_SECRET_BYTES}: make one with `openssl rand -hex 32`"
    )]
    TooShort(usize),
    /// The file cannot be read.
    #[error("the mesh secret cannot be read from {path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

const MIN_SECRET_BYTES: usize = 32;

/// The secret that all services of a mesh share. It is never shown.
#[derive(Clone)]
pub struct MeshSecret {
    keyed: Arc<Hmac<Sha256>>,
    for_keys: Arc<Hmac<Sha256>>,
    for_pages: Arc<Hmac<Sha256>>,
}

impl fmt::Debug for MeshSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MeshSecret(redacted)")
    }
}

impl MeshSecret {
    /// From its bytes, at least 32.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(secret: &[u8]) -> Result<Self, InvalidMeshSecret> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(InvalidMeshSecret::TooShort(secret.len()));
        }
        let keyed = Hmac::<Sha256>::new_from_slice(secret)
            .map_err(|_| InvalidMeshSecret::TooShort(secret.len()))?;
        Ok(Self::keyed(&keyed))
    }

    /// From a file; blanks around it are cut off.
    ///
    /// # Errors
    /// When it cannot be read or is too short.
    pub fn from_file(path: &Path) -> Result<Self, InvalidMeshSecret> {
        let bytes = std::fs::read(path).map_err(|source| InvalidMeshSecret::File {
            path: path.display().to_string(),
            source,
        })?;
        Self::new(bytes.trim_ascii())
    }

    /// A new one, for a mesh that lives in one process.
    #[must_use]
    pub fn generate() -> Self {
        let secret: [u8; MIN_SECRET_BYTES] = rand::random();
        Self::keyed(&Hmac::<Sha256>::new(&expand(secret)))
    }

    fn keyed(secret: &Hmac<Sha256>) -> Self {
        let for_purpose = |purpose: &[u8]| {
            let mut keyed = secret.clone();
            keyed.update(purpose);
            Arc::new(keyed)
        };
        Self {
            keyed: for_purpose(PURPOSE),
            for_keys: for_purpose(KEY_PURPOSE),
            for_pages: for_purpose(PAGE_PURPOSE),
        }
    }

    /// The secret of an API key that is made of its id and a nonce. Whoever holds both and not this secret learns nothing.
    #[must_use]
    pub fn key_secret(&self, key_id: &str, nonce: &[u8]) -> [u8; 32] {
        let mut mac = (*self.for_keys).clone();
        mac.update(key_id.as_bytes());
        mac.update(b"\0");
        mac.update(nonce);
        mac.finalize().into_bytes().into()
    }

    /// What shows that a place was given as the next page of a request, and by a ledger of this mesh.
    #[must_use]
    pub fn page_tag(&self, request: &[u8], place: &[u8]) -> [u8; PAGE_TAG_BYTES] {
        let mut mac = (*self.for_pages).clone();
        mac.update(&(request.len() as u64).to_be_bytes());
        mac.update(request);
        mac.update(place);
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; PAGE_TAG_BYTES];
        tag.copy_from_slice(&whole[..PAGE_TAG_BYTES]);
        tag
    }

    fn mac(&self, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = (*self.keyed).clone();
        mac.update(payload);
        mac
    }
}

/// A block-sized HMAC key, so that making one cannot fail.
fn expand(secret: [u8; MIN_SECRET_BYTES]) -> hmac::digest::Key<Hmac<Sha256>> {
    let mut key = hmac::digest::Key::<Hmac<Sha256>>::default();
    key[..MIN_SECRET_BYTES].copy_from_slice(&secret);
    key
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// One call of one method, at one service of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// `package.Service/Method`.
    pub call: &'a str,
    /// Who is asked, by its name in the mesh.
    pub service: &'a str,
}

/// The value of the metadata for a scope, good for one such call for [`SCOPE_VALIDITY`] from now.
#[must_use]
pub fn sign(scope: &Scope, asked: Asked<'_>, secret: &MeshSecret) -> MetadataValue<Ascii> {
    sign_at(scope, asked, secret, SystemTime::now())
}

/// The same by another clock.
#[must_use]
pub fn sign_at(
    scope: &Scope,
    asked: Asked<'_>,
    secret: &MeshSecret,
    now: SystemTime,
) -> MetadataValue<Ascii> {
    let nonce: Nonce = rand::random();
    let payload = v1::Scope {
        call: asked.call.to_owned(),
        service: asked.service.to_owned(),
        nonce: nonce.to_vec().into(),
        ..scope.to_message(unix_seconds(now + SCOPE_VALIDITY))
    };
    let payload = payload.encode_to_vec();
    let mac = secret.mac(&payload).finalize().into_bytes();
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(&payload),
        URL_SAFE_NO_PAD.encode(mac)
    );
    // base64url and a dot are ASCII.
    MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""))
}

/// Whose scope it is, whichever call it was signed for and however often it came: a [`ScopeGuard`] looks at that.
///
/// # Errors
/// UNAUTHENTICATED when there is no scope, its signature does not fit, or it is too old.
pub fn verify(metadata: &MetadataMap, secret: &MeshSecret) -> Result<Scope, Refusal> {
    verify_at(metadata, secret, SystemTime::now())
}

/// The same by another clock.
///
/// # Errors
/// As [`verify`].
pub fn verify_at(
    metadata: &MetadataMap,
    secret: &MeshSecret,
    now: SystemTime,
) -> Result<Scope, Refusal> {
    Scope::from_proto(&read_at(metadata, secret, now)?)
}

fn read_at(
    metadata: &MetadataMap,
    secret: &MeshSecret,
    now: SystemTime,
) -> Result<v1::Scope, Refusal> {
    let value = metadata
        .get(SCOPE_METADATA)
        .ok_or_else(|| refused("there is none"))?;
    let text = value.to_str().map_err(|_| refused("it is not text"))?;
    if text.len() > MAX_SCOPE_CHARACTERS {
        return Err(refused("it is too long"));
    }
    let (payload, signature) = text
        .split_once('.')
        .ok_or_else(|| refused("it is not signed"))?;
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_| refused("it is not base64"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| refused("it is not base64"))?;
    // Compares in constant time.
    secret
        .mac(&payload)
        .verify_slice(&signature)
        .map_err(|_| refused("the signature does not fit"))?;
    let message =
        v1::Scope::decode(payload.as_slice()).map_err(|_| refused("it cannot be read"))?;
    let now_seconds = unix_seconds(now);
    let skew = CLOCK_SKEW.as_secs().cast_signed();
    let validity = SCOPE_VALIDITY.as_secs().cast_signed();
    if message.expires_at + skew < now_seconds {
        return Err(too_old("it has expired"));
    }
    if message.expires_at > now_seconds + validity + skew {
        return Err(refused("it is from the future: are the clocks right?"));
    }
    Ok(message)
}

/// Signs each call that passes with one scope: an interceptor for clients.
#[derive(Debug, Clone)]
pub struct SignedScope {
    scope: Arc<Scope>,
    secret: MeshSecret,
    /// Who is asked, where the call does not say it.
    service: Option<Arc<str>>,
}

impl SignedScope {
    /// Signs this scope.
    #[must_use]
    pub fn new(scope: Scope, secret: MeshSecret) -> Self {
        Self {
            scope: Arc::new(scope),
            secret,
            service: None,
        }
    }

    /// For calls of this service: of calls that more than one service answers nobody knows otherwise who is asked.
    #[must_use]
    pub fn at(self, service: &str) -> Self {
        Self {
            service: Some(service.into()),
            ..self
        }
    }
}

impl Interceptor for SignedScope {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        Ok(signed(
            request,
            &self.scope,
            self.service.as_deref(),
            &self.secret,
        ))
    }
}

/// The request with the scope's signature, for who is named or the one service that answers such calls.
fn signed(
    mut request: Request<()>,
    scope: &Scope,
    service: Option<&str>,
    secret: &MeshSecret,
) -> Request<()> {
    let call = called_by(&request);
    let service = service.or_else(|| callers::answered_by(&call));
    let asked = Asked {
        call: &call,
        // A signature for nobody is taken by nobody.
        service: service.unwrap_or_default(),
    };
    let value = sign(scope, asked, secret);
    request.metadata_mut().insert(SCOPE_METADATA, value);
    request
}

/// The method that a client calls, as its generated code says; empty where it does not, and good for nothing then.
fn called_by(request: &Request<()>) -> String {
    request
        .extensions()
        .get::<GrpcMethod<'static>>()
        .map(|call| format!("{}/{}", call.service(), call.method()))
        .unwrap_or_default()
}

/// Signs each call with the [`Scope`] in its extensions: an interceptor for the clients of whoever calls in the names of
/// others.
#[derive(Debug, Clone)]
pub struct ScopeSigner {
    secret: MeshSecret,
}

impl ScopeSigner {
    /// Signs with this secret.
    #[must_use]
    pub fn new(secret: MeshSecret) -> Self {
        Self { secret }
    }
}

impl Interceptor for ScopeSigner {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(scope) = request.extensions_mut().remove::<Scope>() else {
            tracing::error!("a call was to be sent in nobody's name");
            return Err(to_status(&Refusal::internal()));
        };
        Ok(signed(request, &scope, None, &self.secret))
    }
}

/// A channel on which a service calls others in its own name.
pub type MeshChannel = InterceptedService<LeaderChannel, ServiceIdentity>;

/// The name of a service in the mesh: an interceptor that signs each call, and carries the trace context along.
#[derive(Debug, Clone)]
pub struct ServiceIdentity {
    signed: SignedScope,
}

impl ServiceIdentity {
    /// "service:{name}".
    #[must_use]
    pub fn new(name: &str, secret: &MeshSecret) -> Self {
        Self {
            signed: SignedScope::new(Scope::service(name), secret.clone()),
        }
    }

    /// For calls of this service alone, as those of one stage.
    #[must_use]
    pub fn at(self, service: &str) -> Self {
        Self {
            signed: self.signed.at(service),
        }
    }

    /// A channel that calls in this name.
    #[must_use]
    pub fn channel(&self, channel: impl Into<LeaderChannel>) -> MeshChannel {
        InterceptedService::new(channel.into(), self.clone())
    }
}

impl Interceptor for ServiceIdentity {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = self.signed.call(request)?;
        TraceContext::inject(request.metadata_mut());
        Ok(request)
    }
}

/// The method that a server is asked for, `package.Service/Method`: what serves requests puts it beside each.
#[derive(Debug, Clone)]
pub struct Called(pub String);

/// An interceptor for servers: checks the scope of each call, that it was signed for this call of this service and did not
/// come before, and puts it into the request's extensions, where [`of`], [`require_service`] and [`require_operator`] find
/// it. Clones remember together what came.
#[derive(Debug, Clone)]
pub struct ScopeGuard {
    secret: MeshSecret,
    /// Whose guard it is.
    service: Arc<str>,
    services_only: bool,
    used: Arc<Mutex<Used>>,
}

impl ScopeGuard {
    /// Any signed scope may call the service of this name.
    #[must_use]
    pub fn new(secret: MeshSecret, service: &str) -> Self {
        Self {
            secret,
            service: service.into(),
            services_only: false,
            used: Arc::new(Mutex::new(Used::new(REMEMBERED, before_now()))),
        }
    }

    /// Only services of the mesh may call.
    #[must_use]
    pub fn services_only(secret: MeshSecret, service: &str) -> Self {
        Self {
            services_only: true,
            ..Self::new(secret, service)
        }
    }

    /// Another may have taken calls until now: what was signed before is refused.
    pub fn take_over(&self) {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget_until(before_now());
    }

    /// Whose call it is, once.
    fn check(&self, request: &Request<()>) -> Result<Scope, Refusal> {
        let signed = read_at(request.metadata(), &self.secret, SystemTime::now())?;
        let called = request.extensions().get::<Called>();
        let called = called.map_or("", |called| called.0.as_str());
        if called.is_empty() || called != signed.call {
            return Err(refused("it was signed for another call"));
        }
        if *self.service != *signed.service {
            return Err(refused("it was signed for another service"));
        }
        let nonce = Nonce::try_from(signed.nonce.as_ref())
            .map_err(|_| refused("nothing tells it from others"))?;
        let scope = Scope::from_proto(&signed)?;
        let name = match scope.role {
            Role::Service => scope.service_name().unwrap_or_default(),
            _ => "gateway",
        };
        let certified = request.extensions().get::<Certified>();
        if certified.is_some_and(|certified| !certified.is(name)) {
            return Err(refused("the certificate of this connection is another's"));
        }
        if scope.role == Role::Service {
            callers::check_service(called, name)?;
        } else if self.services_only {
            return Err(not_a_service());
        }
        let made = signed.expires_at - SCOPE_VALIDITY.as_secs().cast_signed();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.take(nonce, made, Instant::now()) {
            Use::First => Ok(scope),
            Use::Again => Err(refused("it was used before")),
            Use::Unknown => Err(too_old("it may have been used before")),
        }
    }
}

/// Seconds since 1970 before which nobody honest has signed what comes now.
fn before_now() -> i64 {
    unix_seconds(SystemTime::now()) - CLOCK_SKEW.as_secs().cast_signed() - 1
}

impl Interceptor for ScopeGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let scope = self
            .check(&request)
            .map_err(|refusal| to_status(&refusal))?;
        if let Some(proof) = request.extensions().get::<Proof>() {
            proof.give();
        }
        request.extensions_mut().insert(scope);
        Ok(request)
    }
}

fn not_a_service() -> Refusal {
    Refusal::unauthenticated("only services of the mesh may call this")
}

/// The scope that a [`ScopeGuard`] put into the request.
///
/// # Errors
/// UNAUTHENTICATED when there is none.
pub fn of<T>(request: &Request<T>) -> Result<&Scope, Refusal> {
    request
        .extensions()
        .get::<Scope>()
        .ok_or_else(|| refused("there is none"))
}

/// The same, and it must be a service's.
///
/// # Errors
/// UNAUTHENTICATED when it is not.
pub fn require_service<T>(request: &Request<T>) -> Result<&Scope, Refusal> {
    let scope = of(request)?;
    if scope.role != Role::Service {
        return Err(not_a_service());
    }
    Ok(scope)
}

/// The same, and it must be one that does the work of this stage.
///
/// # Errors
/// UNAUTHENTICATED when it is no service, PERMISSION_DENIED when it is another.
pub fn require_service_of<T>(request: &Request<T>, stage: Stage) -> Result<&Scope, Refusal> {
    let scope = require_service(request)?;
    if !scope.works_for(stage) {
        let words = format!("{} does not do the work of {stage}", scope.principal);
        return Err(Refusal::permission_denied(words));
    }
    Ok(scope)
}

/// The same, and it must be an operator's.
///
/// # Errors
/// UNAUTHENTICATED without a scope, PERMISSION_DENIED for anybody else.
pub fn require_operator<T>(request: &Request<T>) -> Result<&Scope, Refusal> {
    let scope = of(request)?;
    if scope.role != Role::Operator {
        return Err(Refusal::permission_denied("this needs the operator's role"));
    }
    Ok(scope)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    const CALL: &str = "caudal.mesh.v1.LedgerService/Report";
    const REPORT: Asked<'static> = Asked {
        call: CALL,
        service: "ledger",
    };
    const PAUSE: &str = "caudal.mesh.v1.StageService/Pause";

    fn secret() -> MeshSecret {
        MeshSecret::new(b"0123456789abcdef0123456789abcdef").unwrap()
    }

    fn scope() -> Scope {
        Scope {
            tenant: Some(TenantId::from_slice(&[7; 16]).unwrap()),
            principal: "key:abc".to_owned(),
            role: Role::Member,
            batch: Some(BatchId::from_slice(&[9; 16]).unwrap()),
            key_id: "abc".to_owned(),
        }
    }

    fn metadata(value: MetadataValue<Ascii>) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(SCOPE_METADATA, value);
        metadata
    }

    #[test]
    fn a_signed_scope_is_read_by_whoever_has_the_secret_and_nobody_else() {
        let signed = metadata(sign(&scope(), REPORT, &secret()));
        assert_eq!(verify(&signed, &secret()), Ok(scope()));
        let error = verify(&signed, &MeshSecret::generate()).unwrap_err();
        assert_eq!(error.kind, RefusalKind::Unauthenticated);
        assert!(verify(&MetadataMap::new(), &secret()).is_err());
    }

    #[test]
    fn a_changed_scope_is_refused() {
        let text = sign(&scope(), REPORT, &secret())
            .to_str()
            .unwrap()
            .to_owned();
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = MetadataValue::try_from(bytes.as_slice()).unwrap();
            assert!(
                verify(&metadata(changed), &secret()).is_err(),
                "character {index}"
            );
        }
    }

    #[test]
    fn a_scope_is_void_after_its_time_and_before_it() {
        let now = SystemTime::now();
        let signed = metadata(sign_at(&scope(), REPORT, &secret(), now));
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            verify_at(
                &signed,
                &secret(),
                if seconds < 0 { now - by } else { now + by },
            )
        };
        assert!(at(34).is_ok());
        assert_eq!(at(37).unwrap_err().reason, SCOPE_TOO_OLD);
        assert!(at(-4).is_ok());
        assert!(at(-7).unwrap_err().message.contains("future"));
    }

    /// As it comes to a server that is asked for `call`.
    fn arrives(sent: &Request<()>, call: &str) -> Request<()> {
        let mut request = Request::new(());
        *request.metadata_mut() = sent.metadata().clone();
        request.extensions_mut().insert(Called(call.to_owned()));
        request
    }

    /// As a generated client sends it.
    fn sent_by(signer: impl Interceptor) -> Request<()> {
        sent_to(CALL, signer)
    }

    fn sent_to(call: &'static str, mut signer: impl Interceptor) -> Request<()> {
        let mut request = Request::new(());
        let (service, method) = call.split_once('/').unwrap();
        let called = GrpcMethod::new(service, method);
        request.extensions_mut().insert(called);
        request.extensions_mut().insert(scope());
        signer.call(request).unwrap()
    }

    fn words(refused: Result<Request<()>, Status>) -> String {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        status.message().to_owned()
    }

    fn upload() -> ServiceIdentity {
        ServiceIdentity::new("upload", &secret())
    }

    #[test]
    fn a_signature_is_good_for_one_call_of_the_method_it_was_made_for() {
        let mut guard = ScopeGuard::new(secret(), "ledger");
        let sent = sent_by(upload());
        let other = arrives(&sent, "caudal.mesh.v1.LedgerService/Renew");
        assert!(words(guard.call(other)).contains("another call"));
        assert!(words(guard.call(arrives(&sent, ""))).contains("another call"));
        assert!(guard.call(arrives(&sent, CALL)).is_ok());
        let again = guard.clone().call(arrives(&sent, CALL));
        assert!(words(again).contains("used before"));
        let next = sent_by(upload());
        assert!(guard.call(arrives(&next, CALL)).is_ok());
    }

    #[test]
    fn a_signature_is_good_at_the_service_it_was_made_for_and_at_no_other() {
        let operator = ServiceIdentity::new("operator", &secret());
        let for_upload = sent_to(PAUSE, operator.clone().at("upload"));
        for other in ["metadata", "extract-text", "ledger", ""] {
            let mut guard = ScopeGuard::services_only(secret(), other);
            let refused = guard.call(arrives(&for_upload, PAUSE));
            assert!(words(refused).contains("another service"), "{other}");
        }
        let mut upload = ScopeGuard::services_only(secret(), "upload");
        assert!(upload.call(arrives(&for_upload, PAUSE)).is_ok());
        // Every stage answers this call, so nobody knows for whom it is.
        let for_nobody = sent_to(PAUSE, operator);
        assert!(words(upload.call(arrives(&for_nobody, PAUSE))).contains("another service"));
    }

    #[test]
    fn what_was_signed_before_a_server_began_or_took_over_is_refused_by_it() {
        let mut guard = ScopeGuard::new(secret(), "ledger");
        let signed = |ago: u64| {
            let at = SystemTime::now() - Duration::from_secs(ago);
            let mut request = Request::new(());
            let value = sign_at(&Scope::service("upload"), REPORT, &secret(), at);
            request.metadata_mut().insert(SCOPE_METADATA, value);
            arrives(&request, CALL)
        };
        let refused = guard.call(signed(20)).unwrap_err();
        let reason = caudal_proto::status::from_status(&refused).reason;
        assert_eq!(reason, SCOPE_TOO_OLD);
        assert!(guard.call(signed(3)).is_ok());
        guard.used = Arc::new(Mutex::new(Used::new(REMEMBERED, 0)));
        assert!(guard.call(signed(20)).is_ok());
        guard.take_over();
        assert!(words(guard.call(signed(20))).contains("may have been used"));
    }

    #[test]
    fn a_signer_signs_whom_it_finds_beside_the_call_and_sends_nothing_for_nobody() {
        let mut signer = ScopeSigner::new(secret());
        let sent = sent_by(signer.clone());
        assert_eq!(verify(sent.metadata(), &secret()), Ok(scope()));
        assert!(signer.call(Request::new(())).is_err());
    }

    #[test]
    fn a_guard_for_services_refuses_a_member_and_lets_a_service_in() {
        let mut guard = ScopeGuard::services_only(secret(), "ledger");
        let member = sent_by(SignedScope::new(scope(), secret()));
        assert!(words(guard.call(arrives(&member, CALL))).contains("only services"));
        let service = guard.call(arrives(&sent_by(upload()), CALL)).unwrap();
        assert_eq!(
            require_service(&service).unwrap().principal,
            "service:upload"
        );
        assert!(require_operator(&service).is_err());
    }

    #[test]
    fn a_service_makes_the_calls_of_its_own_work_and_no_others() {
        let mut guard = ScopeGuard::new(secret(), "ledger");
        for other in ["gateway", "limiter", "operator", "test"] {
            let sent = sent_by(ServiceIdentity::new(other, &secret()));
            let refused = guard.call(arrives(&sent, CALL)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{other}");
        }
    }

    #[test]
    fn a_service_does_the_work_of_its_own_stage_and_of_no_other() {
        let asked = |service: &str, stage| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Scope::service(service));
            require_service_of(&request, stage).map(drop)
        };
        assert_eq!(asked("upload", Stage::Upload), Ok(()));
        for other in ["metadata", "gateway", "limiter", "operator", "test"] {
            let refusal = asked(other, Stage::Upload).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::PermissionDenied, "{other}");
        }
        let mut request = Request::new(());
        request.extensions_mut().insert(scope());
        let refusal = require_service_of(&request, Stage::Upload).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
    }

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        assert!(matches!(
            MeshSecret::new(b"short"),
            Err(InvalidMeshSecret::TooShort(5))
        ));
        assert_eq!(format!("{:?}", secret()), "MeshSecret(redacted)");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        let from_file = MeshSecret::from_file(&path).unwrap();
        assert!(verify(&metadata(sign(&scope(), REPORT, &from_file)), &secret()).is_ok());
    }
}
