//! Who calls: the credential of a request is checked with the ledger before anything else of it is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use caudal_domain::Refusal;
use caudal_node::api_key::ApiKey;
use caudal_node::scope::{Role, Scope};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::{Code, Status};

use crate::door_limits::DoorBook;
use crate::ledger::{Ledger, passed_on};

/// Answers of the ledger kept at once. Beyond it all are forgotten and asked for again.
const MAX_CACHED: usize = 10_000;

/// A credential as it is compared: never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    key_id: String,
    secret_sha256: [u8; 32],
}

/// An authenticated caller; an extension of its request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) scope: Scope,
    pub(crate) credential: Credential,
}

impl Caller {
    /// The caller that [`crate::admit`] put into a request.
    pub(crate) fn of(extensions: &http::Extensions) -> Result<Self, Status> {
        extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| to_status(&Refusal::internal()))
    }
}

/// Answers of the ledger about one credential, for so short that a revoked key is refused within a second.
struct CachedCredential {
    scope: Option<Scope>,
    until: Instant,
}

/// Checks credentials.
#[derive(Clone)]
pub(crate) struct Authenticator {
    ledger: Ledger,
    keep_for: Duration,
    book: DoorBook,
    known: Arc<Mutex<HashMap<Credential, CachedCredential>>>,
}

impl Authenticator {
    pub(crate) fn new(ledger: Ledger, keep_for: Duration, book: DoorBook) -> Self {
        Self {
            ledger,
            keep_for,
            book,
            known: Arc::default(),
        }
    }

    /// Who sent these headers.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let credential = credential(headers)?;
        let scope = self.scope(&credential).await?;
        Ok(Caller { scope, credential })
    }

    /// What a credential may do now.
    pub(crate) async fn scope(&self, credential: &Credential) -> Result<Scope, Status> {
        if let Some(known) = self.known_scope(credential) {
            return known.ok_or_else(unknown_key);
        }
        let request = mesh::CheckCredentialRequest {
            key_id: credential.key_id.clone(),
            secret_sha256: credential.secret_sha256.to_vec().into(),
        };
        let answer = self
            .ledger
            .call(&Scope::service("gateway"), request, |ledger, request| {
                let mut mesh = ledger.mesh();
                async move { mesh.check_credential(request).await }
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::Unauthenticated => {
                self.remember(credential, None);
                return Err(unknown_key());
            }
            Err(status) => return Err(passed_on(&status)),
        };
        let limits = answer.limits.unwrap_or_default();
        let scope = answer
            .scope
            .and_then(|scope| Scope::from_proto(&scope).ok())
            .ok_or_else(|| {
                tracing::error!(
                    "the ledger answered CheckCredential without a scope that makes sense"
                );
                to_status(&Refusal::internal())
            })?;
        if let Some(tenant) = scope.tenant {
            self.book.learn(tenant, limits);
        }
        self.remember(credential, Some(scope.clone()));
        Ok(scope)
    }

    fn known_scope(&self, credential: &Credential) -> Option<Option<Scope>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let one = known.get(credential)?;
        (one.until > Instant::now()).then(|| one.scope.clone())
    }

    fn remember(&self, credential: &Credential, scope: Option<Scope>) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED {
            known.retain(|_, one| one.until > now);
        }
        if known.len() >= MAX_CACHED {
            known.clear();
        }
        known.insert(
            credential.clone(),
            CachedCredential {
                scope,
                until: now + self.keep_for,
            },
        );
    }
}

fn credential(headers: &HeaderMap) -> Result<Credential, Status> {
    let refused = |words: String| to_status(&Refusal::unauthenticated(words));
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(refused(
            "no credential: send your API key in the header `authorization: Bearer caudal_…`"
                .to_owned(),
        ));
    };
    let text = header.to_str().ok().and_then(|text| {
        let (scheme, rest) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    let Some(text) = text else {
        return Err(refused(
            "the `authorization` header is not a bearer credential: send `Bearer ` and your API key".to_owned(),
        ));
    };
    let key: ApiKey = text.parse().map_err(|error| {
        refused(format!(
            "the API key is not whole, {error}: copy it again from where it was shown"
        ))
    })?;
    Ok(Credential {
        key_id: key.id().to_owned(),
        secret_sha256: key.secret_sha256(),
    })
}

fn unknown_key() -> Status {
    to_status(&Refusal::unauthenticated(
        "the API key is unknown here, or it was revoked or has expired: use another, or ask your operator for one",
    ))
}

/// All other services work inside a tenant; an operator's key has none.
pub(crate) fn needs_a_tenant(scope: &Scope) -> Result<(), Status> {
    if scope.tenant.is_some() {
        return Ok(());
    }
    let words = match scope.role {
        Role::Operator => {
            "an operator's key works inside no tenant: use a tenant's API key for this call"
        }
        _ => "this credential works inside no tenant: use a tenant's API key for this call",
    };
    Err(to_status(&Refusal::permission_denied(words)))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_bearer_key_is_taken_apart_and_its_secret_hashed() {
        let key = ApiKey::generate();
        let found = credential(&headers(&format!("bearer {}", key.text()))).unwrap();
        assert_eq!(
            found,
            Credential {
                key_id: key.id().to_owned(),
                secret_sha256: key.secret_sha256()
            }
        );
    }

    #[test]
    fn each_way_to_have_no_credential_has_its_own_remedy() {
        let words = |headers: &HeaderMap| credential(headers).unwrap_err().message().to_owned();
        assert!(words(&HeaderMap::new()).contains("send your API key in the header"));
        assert!(words(&headers("Basic abc")).contains("not a bearer credential"));
        assert!(words(&headers("Bearer caudal_abc_def")).contains("copy it again"));
    }
}
