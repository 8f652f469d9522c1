//! The suite of the ledger on SQLite.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod suite;

/// Which database the suite runs on.
const DATABASE: suite::support::Database = suite::support::Database::Sqlite;
