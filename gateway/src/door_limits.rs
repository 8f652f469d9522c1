//! The limits of tenants that this gateway keeps itself: how many streams and expensive reads each may have at once. They
//! come with the answers about credentials, so that a change is in force as soon as a credential is asked about again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::limits::{EXPENSIVE_READS_AT_ONCE, STREAMS_AT_ONCE};
use caudal_domain::{Refusal, TenantId};
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
    taken: HashMap<(TenantId, Place), u32>,
}

/// A place that a tenant has taken; given back when it is dropped.
pub(crate) struct Taken {
    book: Arc<Mutex<Book>>,
    of: (TenantId, Place),
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

    /// Takes a place.
    pub(crate) fn take(&self, tenant: TenantId, place: Place) -> Result<Taken, Status> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = book.limits.get(&tenant).copied().unwrap_or_default();
        let (own, usual) = match place {
            Place::Stream => (limits.streams, STREAMS_AT_ONCE),
            Place::ExpensiveRead => (limits.expensive_reads, EXPENSIVE_READS_AT_ONCE),
        };
        let most = if own == 0 { usual } else { own };
        let taken = book.taken.entry((tenant, place)).or_default();
        if *taken >= most {
            let refusal = Refusal::quota_exceeded(place.words(), most.into(), (*taken).into(), 1)
                .with_retry_after(TRY_AGAIN_AFTER);
            return Err(to_status(&refusal));
        }
        *taken += 1;
        Ok(Taken {
            book: Arc::clone(&self.book),
            of: (tenant, place),
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

    #[test]
    fn a_tenant_takes_as_many_places_as_it_may_and_another_is_not_held_up() {
        let book = DoorBook::default();
        let [one, two] = [1, 2].map(|number| TenantId::from_uuid(Uuid::from_u128(number)));
        let limits = DoorLimits {
            streams: 2,
            ..DoorLimits::default()
        };
        book.learn(one, limits);
        let first = book.take(one, Place::Stream).unwrap();
        let _second = book.take(one, Place::Stream).unwrap();
        let refused = from_status(&book.take(one, Place::Stream).err().unwrap());
        assert_eq!(refused.quota[0].subject, "streams");
        assert_eq!(
            refused.quota[0].description,
            "the limit is 2, 2 are used, 1 more were asked"
        );
        assert_eq!(refused.retry_after, Some(TRY_AGAIN_AFTER));
        assert!(book.take(two, Place::Stream).is_ok());
        assert!(book.take(one, Place::ExpensiveRead).is_ok());
        drop(first);
        let _again = book.take(one, Place::Stream).unwrap();
        // A limit that falls lets nobody in until enough have left, and one that rises does at once.
        book.learn(
            one,
            DoorLimits {
                streams: 1,
                ..limits
            },
        );
        assert!(book.take(one, Place::Stream).is_err());
        book.learn(
            one,
            DoorLimits {
                streams: 3,
                ..limits
            },
        );
        assert!(book.take(one, Place::Stream).is_ok());
    }
}
