//! The database's clock, between two looks at it.

use std::time::Instant;

use crate::store::time::Micros;

/// Relates the database's clock to this process's, for timers only: what is decided is decided by the database's.
#[derive(Default)]
pub(crate) struct DatabaseClock {
    seen: Option<(Micros, Instant)>,
}

impl DatabaseClock {
    /// The database has shown its time.
    pub(crate) fn set(&mut self, now: Micros) {
        self.seen = Some((now, Instant::now()));
    }

    /// What it shows now, as far as this process can tell; `None` before it was first seen.
    pub(crate) fn now(&self) -> Option<Micros> {
        self.seen.map(|(now, instant)| now.plus(instant.elapsed()))
    }

    /// When it will show `at`.
    pub(crate) fn instant_of(&self, at: Micros) -> Instant {
        match self.seen {
            Some((now, instant)) => instant + at.since(now),
            None => Instant::now(),
        }
    }
}
