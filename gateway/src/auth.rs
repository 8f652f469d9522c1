//! Who calls: the credential of a request is checked with the ledger before anything else of it is read. A peer that comes with
//! one wrong key after the other is told to wait; keys that were good a moment ago are not held up by it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
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
    guesses: Guesses,
}

impl Authenticator {
    pub(crate) fn new(ledger: Ledger, keep_for: Duration, book: DoorBook) -> Self {
        Self {
            ledger,
            keep_for,
            book,
            known: Arc::default(),
            guesses: Guesses::default(),
        }
    }

    /// Who sent these headers.
    pub(crate) async fn caller(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Status> {
        let credential = credential(headers)?;
        self.may_come(&credential, peer)?;
        let scope = self.scope(&credential).await;
        let scope = scope.inspect_err(|status| self.came(status, peer))?;
        Ok(Caller { scope, credential })
    }

    /// Whether a peer may come with these headers: who comes with wrong keys only has to wait.
    pub(crate) fn may_ask(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<(), Status> {
        self.may_come(&credential(headers)?, peer)
    }

    fn may_come(&self, credential: &Credential, peer: Option<IpAddr>) -> Result<(), Status> {
        match peer.filter(|_| !self.was_good(credential)) {
            Some(peer) => self.guesses.may_guess(peer, Instant::now()),
            None => Ok(()),
        }
    }

    /// Counts a wrong key.
    pub(crate) fn came(&self, refused: &Status, peer: Option<IpAddr>) {
        if let Some(peer) = peer.filter(|_| refused.code() == Code::Unauthenticated) {
            self.guesses.failed(peer, Instant::now());
        }
    }

    /// Whether a credential was good when it was last asked about.
    fn was_good(&self, credential: &Credential) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(credential)
            .is_some_and(|known| known.scope.is_some())
    }

    /// What a credential may do now.
    pub(crate) async fn scope(&self, credential: &Credential) -> Result<Scope, Status> {
        if let Some(known) = self.known_scope(credential) {
            return known.ok_or_else(unknown_key);
        }
        let request = mesh::CheckCredentialRequest {
            key_id: credential.key_id.clone(),
            secret_sha256: credential.secret_sha256.to_vec().into(),
            only_asked: false,
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

/// How many wrong keys a peer may come with at once, and how many a second after that.
const GUESSES_AT_ONCE: f64 = 50.0;
const GUESSES_A_SECOND: f64 = 10.0;
/// Peers that are remembered; those that have been quiet are forgotten first.
const MOST_PEERS: usize = 10_000;

/// What peers have left of the wrong keys that they may come with.
#[derive(Clone, Default)]
struct Guesses {
    left: Arc<Mutex<HashMap<IpAddr, Left>>>,
}

struct Left {
    guesses: f64,
    at: Instant,
}

impl Left {
    fn now(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.guesses + since * GUESSES_A_SECOND).min(GUESSES_AT_ONCE)
    }
}

impl Guesses {
    /// Whether a peer may come with a key that nobody knows to be good.
    fn may_guess(&self, peer: IpAddr, now: Instant) -> Result<(), Status> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let guesses = left.get(&of_one_site(peer)).map(|left| left.now(now));
        let missing = 1.0 - guesses.unwrap_or(GUESSES_AT_ONCE);
        if missing <= 0.0 {
            return Ok(());
        }
        let wait = Duration::from_secs_f64(missing / GUESSES_A_SECOND);
        Err(to_status(&Refusal::rate_limited("wrong API keys", wait)))
    }

    fn failed(&self, peer: IpAddr, now: Instant) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = of_one_site(peer);
        if left.len() >= MOST_PEERS && !left.contains_key(&peer) {
            left.retain(|_, one| one.now(now) < GUESSES_AT_ONCE);
            if left.len() >= MOST_PEERS {
                left.clear();
            }
        }
        let guesses = left
            .get(&peer)
            .map_or(GUESSES_AT_ONCE, |left| left.now(now));
        let guesses = (guesses - 1.0).max(0.0);
        left.insert(peer, Left { guesses, at: now });
    }
}

/// One site has as many addresses of IPv6 as it likes, and one prefix.
fn of_one_site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
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
    fn who_comes_with_wrong_keys_only_is_told_to_wait_and_another_is_not() {
        let guesses = Guesses::default();
        let peer = |last: u16| IpAddr::V6(Ipv6Addr::new(1, 2, 3, last, 9, 9, 9, last));
        let now = Instant::now();
        let mut tried = 0;
        while guesses.may_guess(peer(1), now).is_ok() {
            guesses.failed(peer(1), now);
            tried += 1;
        }
        assert_eq!(f64::from(tried), GUESSES_AT_ONCE);
        assert!(guesses.may_guess(peer(2), now).is_ok());
        // Another address of the same site.
        let beside = IpAddr::V6(Ipv6Addr::new(1, 2, 3, 1, 0, 0, 0, 7));
        let refused = guesses.may_guess(beside, now).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let later = now + Duration::from_millis(100);
        assert!(guesses.may_guess(peer(1), later).is_ok());
        for number in 0..=MOST_PEERS {
            let number = u32::try_from(number).unwrap();
            guesses.failed(IpAddr::V4(number.into()), now);
        }
        assert!(guesses.left.lock().unwrap().len() <= MOST_PEERS);
    }

    #[test]
    fn each_way_to_have_no_credential_has_its_own_remedy() {
        let words = |headers: &HeaderMap| credential(headers).unwrap_err().message().to_owned();
        assert!(words(&HeaderMap::new()).contains("send your API key in the header"));
        assert!(words(&headers("Basic abc")).contains("not a bearer credential"));
        assert!(words(&headers("Bearer caudal_abc_def")).contains("copy it again"));
    }
}
