//! Faults of the database that a test plans: at the beginning, at any statement, at COMMIT and at ROLLBACK of the writer's
//! transactions. A fault does what the database does: SQLite undoes the transaction by itself (its driver does not notice),
//! Postgres lets it stand aborted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use sea_orm::sqlx::error::{DatabaseError, Error as SqlxError, ErrorKind};
use sea_orm::{ConnectionTrait, DbErr, RuntimeErr};

use super::Session;
use super::dialect::Dialect;

/// Where a transaction can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    Begin,
    Statement,
    Commit,
    Rollback,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No room.
    Full,
    /// The disk fails; at COMMIT after the change is written.
    Io,
    /// No memory.
    Memory,
}

/// The faults of one database.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    kind: Option<Kind>,
    /// Points to pass before the first fault.
    pass: u64,
    /// Points that fail then.
    fail: u64,
    /// Points of another sort pass, and are not counted.
    only: Option<Point>,
    hit: Vec<Point>,
}

static PLANNED: LazyLock<Mutex<HashMap<String, Arc<Faults>>>> = LazyLock::new(Mutex::default);

impl Faults {
    /// Plans faults for the database that is opened next under `url`.
    pub(crate) fn of_next(url: &str) -> Arc<Self> {
        let faults = Arc::<Self>::default();
        let mut planned = PLANNED.lock().unwrap_or_else(PoisonError::into_inner);
        planned.insert(url.to_owned(), faults.clone());
        faults
    }

    /// Those planned for `url`.
    pub(super) fn planned(url: &str) -> Option<Arc<Self>> {
        let planned = PLANNED.lock().unwrap_or_else(PoisonError::into_inner);
        planned.get(url).cloned()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After `pass` more points the next `fail` ones fail; with `only` those of one sort.
    pub(crate) fn arm(&self, kind: Kind, pass: u64, fail: u64, only: Option<Point>) {
        *self.plan() = Plan {
            kind: Some(kind),
            pass,
            fail,
            only,
            hit: Vec::new(),
        };
    }

    /// The database works again; what was hit.
    pub(crate) fn disarm(&self) -> Vec<Point> {
        std::mem::take(&mut *self.plan()).hit
    }

    /// What fails here, and how many have failed before.
    fn due(&self, point: Point) -> Option<(Kind, usize)> {
        let mut plan = self.plan();
        let kind = plan.kind?;
        if plan.only.is_some_and(|only| only != point) {
            return None;
        }
        if plan.pass > 0 {
            plan.pass -= 1;
            return None;
        }
        if plan.fail == 0 {
            return None;
        }
        plan.fail -= 1;
        plan.hit.push(point);
        Some((kind, plan.hit.len() - 1))
    }

    pub(super) fn at(&self, point: Point, dialect: Dialect) -> Result<(), DbErr> {
        self.due(point)
            .map_or(Ok(()), |(kind, _)| Err(error(kind, dialect)))
    }

    pub(super) async fn within<C: ConnectionTrait>(
        &self,
        point: Point,
        session: &Session<'_, C>,
    ) -> Result<(), DbErr> {
        let Some((kind, before)) = self.due(point) else {
            return Ok(());
        };
        let what_happens = match (session.dialect, point, kind) {
            (_, Point::Commit, Kind::Io) => Some("COMMIT"),
            // A COMMIT that finds the disk full leaves SQLite in a transaction or not, by where it found it.
            (Dialect::Sqlite, Point::Commit, _) if before % 2 == 1 => None,
            (Dialect::Sqlite, ..) => Some("ROLLBACK"),
            (Dialect::Postgres, ..) => Some("SELECT 1 / 0"),
        };
        if let Some(sql) = what_happens {
            let _ = session.connection.execute_unprepared(sql).await;
        }
        Err(error(kind, session.dialect))
    }
}

fn error(kind: Kind, dialect: Dialect) -> DbErr {
    let (code, words) = match (dialect, kind) {
        (Dialect::Sqlite, Kind::Full) => ("13", "database or disk is full"),
        (Dialect::Sqlite, Kind::Io) => ("1034", "disk I/O error"),
        (Dialect::Sqlite, Kind::Memory) => ("7", "out of memory"),
        (Dialect::Postgres, Kind::Full) => ("53100", "could not extend file"),
        (Dialect::Postgres, Kind::Io) => ("58030", "could not fsync file"),
        (Dialect::Postgres, Kind::Memory) => ("53200", "out of memory"),
    };
    let planned = SqlxError::Database(Box::new(Planned { code, words }));
    DbErr::Exec(RuntimeErr::SqlxError(Arc::new(planned)))
}

/// An error as the database would send it.
#[derive(Debug, thiserror::Error)]
#[error("{words} (planned by a test)")]
struct Planned {
    code: &'static str,
    words: &'static str,
}

impl DatabaseError for Planned {
    fn message(&self) -> &str {
        self.words
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.code))
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}
