//! The two databases that what is tested must be right on.

/// Which database a test works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file; for one ledger.
    Sqlite,
    /// A database of its own on the server that the tests of a process share.
    Postgres,
}
