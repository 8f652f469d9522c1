//! What an error of the database means for those who asked.

use sea_orm::sqlx::error::Error as SqlxError;
use sea_orm::{DbErr, RuntimeErr};

/// Whose fault an error of the database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The database has no room: it takes nothing until it has.
    Full,
    /// The database has no memory.
    OutOfMemory,
    /// The database cannot read or write its files.
    Disk,
    /// The database is away, or did not answer in time.
    Away,
    /// Others were in the way: the same may go well the next time.
    Busy,
    /// What was asked, or what is stored: the same will fail again.
    Defect,
}

impl Trouble {
    /// What an error is.
    pub(crate) fn of(error: &DbErr) -> Self {
        let cause = match error {
            DbErr::Conn(RuntimeErr::SqlxError(cause))
            | DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => cause,
            DbErr::ConnectionAcquire(_) | DbErr::Conn(RuntimeErr::Internal(_)) => {
                return Self::Away;
            }
            _ => return Self::Defect,
        };
        match cause.as_ref() {
            SqlxError::Database(cause) => {
                let code = cause.code().unwrap_or_default();
                match code.parse() {
                    // Five letters and digits are an SQLSTATE, and some of them are all digits.
                    Ok(number) if code.len() < 5 => Self::of_sqlite(number),
                    _ => Self::of_postgres(&code),
                }
            }
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolTimedOut
            | SqlxError::PoolClosed
            | SqlxError::WorkerCrashed => Self::Away,
            _ => Self::Defect,
        }
    }

    /// By SQLite's result code (<https://www.sqlite.org/rescode.html>), whose low byte is the primary one.
    fn of_sqlite(code: u32) -> Self {
        match code & 0xff {
            // SQLITE_FULL
            13 => Self::Full,
            // SQLITE_NOMEM
            7 => Self::OutOfMemory,
            // SQLITE_PERM, _READONLY, _IOERR, _CORRUPT, _CANTOPEN, _NOTADB
            3 | 8 | 10 | 11 | 14 | 26 => Self::Disk,
            // SQLITE_ABORT, _BUSY, _LOCKED, _INTERRUPT, _PROTOCOL, _SCHEMA
            4 | 5 | 6 | 9 | 15 | 17 => Self::Busy,
            _ => Self::Defect,
        }
    }

    /// By SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    fn of_postgres(code: &str) -> Self {
        match code {
            "53100" => Self::Full,
            "53200" => Self::OutOfMemory,
            // A statement inside a transaction that failed before.
            "25P02" | "25P03" => Self::Busy,
            _ => match code.get(..2) {
                // Connection exception, too many connections, an operator's act, a shutdown.
                Some("08" | "53" | "57") => Self::Away,
                // System error.
                Some("58") => Self::Disk,
                // Deadlock, serialization failure, lock not available.
                Some("40" | "55") => Self::Busy,
                _ => Self::Defect,
            },
        }
    }

    /// What a caller is told.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Full => "the database's disk is full",
            Self::OutOfMemory => "the database is out of memory",
            Self::Disk => "the database cannot read or write its files",
            Self::Away => "the database does not answer",
            Self::Busy | Self::Defect => "the database did not take the change",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Trouble;

    #[test]
    fn codes_of_both_databases_are_told_apart() {
        assert_eq!(Trouble::of_sqlite(13), Trouble::Full);
        // SQLITE_IOERR_WRITE
        assert_eq!(Trouble::of_sqlite(778), Trouble::Disk);
        // SQLITE_CONSTRAINT_PRIMARYKEY
        assert_eq!(Trouble::of_sqlite(1555), Trouble::Defect);
        assert_eq!(Trouble::of_postgres("53100"), Trouble::Full);
        assert_eq!(Trouble::of_postgres("53300"), Trouble::Away);
        assert_eq!(Trouble::of_postgres("57P01"), Trouble::Away);
        assert_eq!(Trouble::of_postgres("40P01"), Trouble::Busy);
        assert_eq!(Trouble::of_postgres("23505"), Trouble::Defect);
        assert_eq!(Trouble::of_postgres("22003"), Trouble::Defect);
    }
}
