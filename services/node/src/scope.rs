//! Who calls, signed: the gateway signs the scope of the credential it checked, a service signs one for itself. It
//! travels in the metadata `caudal-scope` as `base64url(Scope).base64url(HMAC-SHA256)` and is void after a minute.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caudal_connections::Proof;
use caudal_domain::{BatchId, Refusal, Stage, TenantId};
use caudal_proto::mesh::v1;
use caudal_proto::status::to_status;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::leader::LeaderChannel;
use crate::trace::TraceContext;

/// Name of the metadata.
pub const SCOPE_METADATA: &str = "caudal-scope";

/// How long a signature is good.
pub const SCOPE_VALIDITY: Duration = Duration::from_secs(60);

/// How far the clocks of two machines may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// A signed scope is some 200 characters; more is not looked at.
const MAX_SCOPE_CHARACTERS: usize = 1024;

/// Services of the mesh that do the work of no stage, and the person who calls one by hand.
const SERVICES_BUT_STAGES: [&str; 4] = ["gateway", "ledger", "limiter", "operator"];

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

    /// Whether this service does the work of a stage: of its own, where it is the service of one, and of none where it is
    /// another service of the mesh.
    #[must_use]
    pub fn works_for(&self, stage: Stage) -> bool {
        let Some(name) = self.principal.strip_prefix("service:") else {
            return false;
        };
        match name.parse::<Stage>() {
            Ok(own) => own == stage,
            Err(_) => !SERVICES_BUT_STAGES.contains(&name),
        }
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
    Refusal::unauthenticated(format!("the scope of this call is not valid: {why}"))
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

/// The value of the metadata for a scope, good for [`SCOPE_VALIDITY`] from now.
#[must_use]
pub fn sign(scope: &Scope, secret: &MeshSecret) -> MetadataValue<Ascii> {
    sign_at(scope, secret, SystemTime::now())
}

/// The same by another clock.
#[must_use]
pub fn sign_at(scope: &Scope, secret: &MeshSecret, now: SystemTime) -> MetadataValue<Ascii> {
    let payload = scope
        .to_message(unix_seconds(now + SCOPE_VALIDITY))
        .encode_to_vec();
    let mac = secret.mac(&payload).finalize().into_bytes();
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(&payload),
        URL_SAFE_NO_PAD.encode(mac)
    );
    // base64url and a dot are ASCII.
    MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""))
}

/// Whose call it is.
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
        return Err(refused("it has expired"));
    }
    if message.expires_at > now_seconds + validity + skew {
        return Err(refused("it is from the future: are the clocks right?"));
    }
    Scope::from_proto(&message)
}

/// When it was made, and the value.
type Signature = (SystemTime, MetadataValue<Ascii>);

/// A scope with its signature, made anew after half its life.
#[derive(Debug, Clone)]
pub struct SignedScope {
    scope: Arc<Scope>,
    secret: MeshSecret,
    cached: Arc<Mutex<Option<Signature>>>,
}

impl SignedScope {
    /// Signs when first used.
    #[must_use]
    pub fn new(scope: Scope, secret: MeshSecret) -> Self {
        Self {
            scope: Arc::new(scope),
            secret,
            cached: Arc::default(),
        }
    }

    /// The value of the metadata.
    #[must_use]
    pub fn value(&self) -> MetadataValue<Ascii> {
        self.value_at(SystemTime::now())
    }

    fn value_at(&self, now: SystemTime) -> MetadataValue<Ascii> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((signed_at, value)) = cached.as_ref()
            // A clock that was set back fails here, and the value is made anew.
            && now.duration_since(*signed_at).is_ok_and(|age| age < SCOPE_VALIDITY / 2)
        {
            return value.clone();
        }
        let value = sign_at(&self.scope, &self.secret, now);
        *cached = Some((now, value.clone()));
        value
    }
}

/// A channel on which a service calls others in its own name.
pub type MeshChannel = InterceptedService<LeaderChannel, ServiceIdentity>;

/// The name of a service in the mesh: an interceptor that signs each call, and carries the trace context along.
/// Metadata that stands there already (a caller's scope that is forwarded) is left alone.
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

    /// A channel that calls in this name.
    #[must_use]
    pub fn channel(&self, channel: impl Into<LeaderChannel>) -> MeshChannel {
        InterceptedService::new(channel.into(), self.clone())
    }
}

impl Interceptor for ServiceIdentity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if !metadata.contains_key(SCOPE_METADATA) {
            metadata.insert(SCOPE_METADATA, self.signed.value());
        }
        TraceContext::inject(metadata);
        Ok(request)
    }
}

/// An interceptor for servers: checks the scope of each call and puts it into the request's extensions, where
/// [`of`], [`require_service`] and [`require_operator`] find it.
#[derive(Debug, Clone)]
pub struct ScopeGuard {
    secret: MeshSecret,
    services_only: bool,
}

impl ScopeGuard {
    /// Any signed scope may call.
    #[must_use]
    pub fn new(secret: MeshSecret) -> Self {
        Self {
            secret,
            services_only: false,
        }
    }

    /// Only services of the mesh may call.
    #[must_use]
    pub fn services_only(secret: MeshSecret) -> Self {
        Self {
            secret,
            services_only: true,
        }
    }
}

impl Interceptor for ScopeGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let scope =
            verify(request.metadata(), &self.secret).map_err(|refusal| to_status(&refusal))?;
        if self.services_only && scope.role != Role::Service {
            return Err(to_status(&not_a_service()));
        }
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
    use caudal_domain::RefusalKind;

    use super::*;

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
        let signed = metadata(sign(&scope(), &secret()));
        assert_eq!(verify(&signed, &secret()), Ok(scope()));
        let error = verify(&signed, &MeshSecret::generate()).unwrap_err();
        assert_eq!(error.kind, RefusalKind::Unauthenticated);
        assert!(verify(&MetadataMap::new(), &secret()).is_err());
    }

    #[test]
    fn a_changed_scope_is_refused() {
        let text = sign(&scope(), &secret()).to_str().unwrap().to_owned();
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
    fn a_scope_is_void_after_its_minute_and_before_its_time() {
        let now = SystemTime::now();
        let signed = metadata(sign_at(&scope(), &secret(), now));
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            verify_at(
                &signed,
                &secret(),
                if seconds < 0 { now - by } else { now + by },
            )
        };
        assert!(at(64).is_ok());
        assert!(at(67).unwrap_err().message.contains("expired"));
        assert!(at(-4).is_ok());
        assert!(at(-7).unwrap_err().message.contains("future"));
    }

    #[test]
    fn a_signature_is_made_anew_after_half_its_life() {
        let signed = SignedScope::new(Scope::service("upload"), secret());
        let now = SystemTime::now();
        let first = signed.value_at(now);
        assert_eq!(signed.value_at(now + Duration::from_secs(29)), first);
        let second = signed.value_at(now + Duration::from_secs(31));
        assert_ne!(second, first);
        assert_ne!(signed.value_at(now - Duration::from_secs(10)), second);
    }

    #[test]
    fn a_guard_for_services_refuses_a_member_and_lets_a_service_in() {
        let mut guard = ScopeGuard::services_only(secret());
        let mut member = Request::new(());
        member
            .metadata_mut()
            .insert(SCOPE_METADATA, sign(&scope(), &secret()));
        assert_eq!(
            guard.call(member).unwrap_err().code(),
            tonic::Code::Unauthenticated
        );
        let service = ServiceIdentity::new("upload", &secret())
            .call(Request::new(()))
            .unwrap();
        let service = guard.call(service).unwrap();
        assert_eq!(
            require_service(&service).unwrap().principal,
            "service:upload"
        );
        assert!(require_operator(&service).is_err());
    }

    #[test]
    fn a_service_does_the_work_of_its_own_stage_and_of_no_other() {
        let asked = |service: &str, stage| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Scope::service(service));
            require_service_of(&request, stage).map(drop)
        };
        assert_eq!(asked("upload", Stage::Upload), Ok(()));
        for other in ["metadata", "gateway", "limiter", "ledger", "operator"] {
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
        assert!(verify(&metadata(sign(&scope(), &from_file)), &secret()).is_ok());
    }
}
