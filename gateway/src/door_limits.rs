//! The limits of tenants that this gateway keeps itself: how many streams and expensive reads each may have at once, and how
//! many of the streams one key of it. They come with the answers about credentials, so that a change is in force as soon as a credential is asked about again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::limits::{EXPENSIVE_READS_AT_ONCE, STREAMS_AT_ONCE, STREAMS_OF_A_TOKEN};
use caudal_domain::{Refusal, TenantId};
use caudal_node::scope::{Role, Scope};
use caudal_proto::mesh::v1::DoorLimits;
use caudal_proto::status::to_status;
use tonic::Status;

/// Tenants whose limits are remembered; beyond it all are forgotten, and told again with the next answer.
const MOST_TENANTS: usize = 10_000;
/// When somebody whose places are taken may ask again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is taken for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Stream,
    ExpensiveRead,
}

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::Stream => "streams",
            Self::ExpensiveRead => "expensive_reads",
        }
    }
}

/// The limits of tenants, and the places that are taken. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct DoorBook {
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    limits: HashMap<TenantId, DoorLimits>,
    taken: HashMap<Holder, u32>,
}

/// Who holds places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Tenant(TenantId, Place),
    /// The streams of a key, by its id.
    Key(String),
}

/// A place that a tenant has taken; given back when it is dropped.
pub(crate) struct Taken {
    book: Arc<Mutex<Book>>,
    of: Holder,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = book.taken.get_mut(&self.of) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                book.taken.remove(&self.of);
            }
        }
    }
}

/// The stream of a caller: a place of its tenant's, and one of its key's.
pub(crate) struct TakenStream {
    _of_tenant: Taken,
    _of_key: Taken,
}

impl DoorBook {
    /// The limits of a tenant as the ledger tells them now.
    pub(crate) fn learn(&self, tenant: TenantId, limits: DoorLimits) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.limits.len() >= MOST_TENANTS {
            book.limits.clear();
        }
        book.limits.insert(tenant, limits);
    }

    /// The limits of a tenant; 0 where it has none of its own.
    pub(crate) fn limits(&self, tenant: TenantId) -> DoorLimits {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.limits.get(&tenant).copied().unwrap_or_default()
    }

    /// Takes a place for an expensive read.
    pub(crate) fn take_read(&self, tenant: TenantId) -> Result<Taken, Status> {
        let most = self.most(tenant, Place::ExpensiveRead);
        let words = Place::ExpensiveRead.words();
        self.take(Holder::Tenant(tenant, Place::ExpensiveRead), words, most)
    }

    /// Takes a place for a stream of this caller. No key has so many that none is left for the others of its tenant.
    pub(crate) fn take_stream(
        &self,
        tenant: TenantId,
        caller: &Scope,
    ) -> Result<TakenStream, Status> {
        let most = self.most(tenant, Place::Stream);
        let (words, most_of_key) = match caller.role {
            Role::Uploader => ("upload_token_streams", STREAMS_OF_A_TOKEN.min(most)),
            _ => ("streams_of_a_key", most.div_ceil(2)),
        };
        let of_tenant = Holder::Tenant(tenant, Place::Stream);
        let of_tenant = self.take(of_tenant, Place::Stream.words(), most)?;
        let of_key = self.take(Holder::Key(caller.key_id.clone()), words, most_of_key)?;
        Ok(TakenStream {
            _of_tenant: of_tenant,
            _of_key: of_key,
        })
    }

    fn most(&self, tenant: TenantId, place: Place) -> u32 {
        let limits = self.limits(tenant);
        let (own, usual) = match place {
            Place::Stream => (limits.streams, STREAMS_AT_ONCE),
            Place::ExpensiveRead => (limits.expensive_reads, EXPENSIVE_READS_AT_ONCE),
        };
        if own == 0 { usual } else { own }
    }

    fn take(&self, of: Holder, words: &str, most: u32) -> Result<Taken, Status> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = book.taken.get(&of).copied().unwrap_or_default();
        if taken >= most {
            let refusal = Refusal::quota_exceeded(words, most.into(), taken.into(), 1)
                .with_retry_after(TRY_AGAIN_AFTER);
            return Err(to_status(&refusal));
        }
        book.taken.insert(of.clone(), taken + 1);
        Ok(Taken {
            book: Arc::clone(&self.book),
            of,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use caudal_proto::status::from_status;
    use uuid::Uuid;

    use super::*;

    fn key(role: Role, id: &str) -> Scope {
        Scope {
            tenant: None,
            principal: id.to_owned(),
            role,
            batch: None,
            key_id: id.to_owned(),
        }
    }

    #[test]
    fn no_key_takes_all_streams_of_its_tenant_and_an_upload_token_only_a_few() {
        let book = DoorBook::default();
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let take_all = |caller: &Scope| {
            let mut taken = Vec::new();
            let refused = loop {
                match book.take_stream(tenant, caller) {
                    Ok(stream) => taken.push(stream),
                    Err(status) => break from_status(&status),
                }
            };
            (taken, refused.quota[0].subject.clone())
        };
        let (of_token, refused) = take_all(&key(Role::Uploader, "token"));
        assert_eq!(of_token.len(), STREAMS_OF_A_TOKEN as usize);
        assert_eq!(refused, "upload_token_streams");
        let (of_key, refused) = take_all(&key(Role::Member, "member"));
        assert_eq!(of_key.len(), STREAMS_AT_ONCE as usize / 2);
        assert_eq!(refused, "streams_of_a_key");
        let (of_another, refused) = take_all(&key(Role::Admin, "admin"));
        assert!(!of_another.is_empty());
        assert_eq!(refused, "streams");
        drop((of_token, of_key, of_another));
        assert!(book.book.lock().unwrap().taken.is_empty());
    }

    #[test]
    fn a_tenant_takes_as_many_places_as_it_may_and_another_is_not_held_up() {
        let book = DoorBook::default();
        let [one, two] = [1, 2].map(|number| TenantId::from_uuid(Uuid::from_u128(number)));
        let limits = DoorLimits {
            streams: 2,
            ..DoorLimits::default()
        };
        book.learn(one, limits);
        let callers = ["a", "b", "c"].map(|id| key(Role::Member, id));
        let first = book.take_stream(one, &callers[0]).unwrap();
        let _second = book.take_stream(one, &callers[1]).unwrap();
        let refused = from_status(&book.take_stream(one, &callers[2]).err().unwrap());
        assert_eq!(refused.quota[0].subject, "streams");
        assert_eq!(
            refused.quota[0].description,
            "the limit is 2, 2 are used, 1 more were asked"
        );
        assert_eq!(refused.retry_after, Some(TRY_AGAIN_AFTER));
        assert!(book.take_stream(two, &callers[2]).is_ok());
        assert!(book.take_read(one).is_ok());
        drop(first);
        let _again = book.take_stream(one, &callers[0]).unwrap();
        // A limit that falls lets nobody in until enough have left, and one that rises does at once.
        book.learn(
            one,
            DoorLimits {
                streams: 1,
                ..limits
            },
        );
        assert!(book.take_stream(one, &callers[2]).is_err());
        book.learn(
            one,
            DoorLimits {
                streams: 3,
                ..limits
            },
        );
        assert!(book.take_stream(one, &callers[2]).is_ok());
    }
}
