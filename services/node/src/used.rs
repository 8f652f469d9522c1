//! Which signatures of calls were used: each is good once. What is remembered is bounded in time and in number; a signature
//! that may have been used and forgotten is refused, and whoever is honest signs another.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Bytes that tell one signature from another.
pub(crate) const NONCE_BYTES: usize = 16;

/// Bytes of one signature.
pub(crate) type Nonce = [u8; NONCE_BYTES];

/// Signatures of one generation, of which there are two: some 50 MB of them, and 8,000 calls a second before one
/// is forgotten that is not void anyway.
const MOST_OF_A_GENERATION: usize = 500_000;

/// What a signature is to whoever remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It was not used before.
    First,
    /// It was.
    Again,
    /// It was made so long ago that nobody knows.
    Unknown,
}

#[derive(Debug, Default)]
struct Generation {
    nonces: HashSet<Nonce>,
    /// When the newest of them was made, by the clock of who made it.
    newest: i64,
}

/// The signatures that were used.
#[derive(Debug)]
pub(crate) struct Used {
    validity: Duration,
    most: usize,
    now: Generation,
    before: Generation,
    since: Instant,
    /// Of what was made then and earlier nothing is known.
    forgotten: i64,
}

impl Used {
    /// Remembers for at least `validity`; of what was made until `forgotten`, in seconds since 1970, nothing is known.
    pub(crate) fn new(validity: Duration, forgotten: i64) -> Self {
        Self {
            validity,
            most: MOST_OF_A_GENERATION,
            now: Generation::default(),
            before: Generation::default(),
            since: Instant::now(),
            forgotten,
        }
    }

    /// Somebody else may have taken calls until `forgotten`.
    pub(crate) fn forget_until(&mut self, forgotten: i64) {
        self.forgotten = self.forgotten.max(forgotten);
    }

    /// Uses the signature of this nonce, made at `made` by the clock of its maker.
    pub(crate) fn take(&mut self, nonce: Nonce, made: i64, at: Instant) -> Use {
        if made <= self.forgotten {
            return Use::Unknown;
        }
        let is_over = at.saturating_duration_since(self.since) > self.validity;
        if is_over || self.now.nonces.len() >= self.most {
            if !self.before.nonces.is_empty() {
                self.forgotten = self.forgotten.max(self.before.newest);
            }
            self.before = std::mem::take(&mut self.now);
            self.since = at;
            if made <= self.forgotten {
                return Use::Unknown;
            }
        }
        if self.before.nonces.contains(&nonce) || !self.now.nonces.insert(nonce) {
            return Use::Again;
        }
        self.now.newest = self.now.newest.max(made);
        Use::First
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDITY: Duration = Duration::from_secs(40);

    fn nonce(number: u8) -> Nonce {
        [number; NONCE_BYTES]
    }

    #[test]
    fn a_signature_is_good_once_for_as_long_as_it_is_valid() {
        let mut used = Used::new(VALIDITY, 0);
        let began = used.since;
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        assert_eq!(used.take(nonce(1), 139, at(39)), Use::First);
        assert_eq!(used.take(nonce(1), 139, at(39)), Use::Again);
        // Its generation ends a second later, and it is known still.
        assert_eq!(used.take(nonce(2), 141, at(41)), Use::First);
        assert_eq!(used.take(nonce(1), 139, at(79)), Use::Again);
        assert_eq!(used.take(nonce(2), 141, at(79)), Use::Again);
    }

    #[test]
    fn what_may_have_been_forgotten_is_refused_and_what_is_remembered_is_bounded() {
        let mut used = Used::new(VALIDITY, 100);
        used.most = 3;
        let at = used.since;
        assert_eq!(used.take(nonce(0), 100, at), Use::Unknown);
        for number in 1..=9 {
            let made = 200 + i64::from(number);
            assert_eq!(used.take(nonce(number), made, at), Use::First, "{number}");
            assert!(used.now.nonces.len() + used.before.nonces.len() <= 6);
        }
        // Those of the first generation are forgotten: neither again nor one that was made with them.
        for number in [1, 3] {
            assert_eq!(used.take(nonce(number), 203, at), Use::Unknown);
        }
        for number in 4..=9 {
            let made = 200 + i64::from(number);
            assert_ne!(used.take(nonce(number), made, at), Use::First, "{number}");
        }
        used.forget_until(300);
        assert_eq!(used.take(nonce(10), 300, at), Use::Unknown);
        assert_eq!(used.take(nonce(10), 301, at), Use::First);
    }
}
