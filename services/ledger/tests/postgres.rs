//! The suite of the ledger on Postgres.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod suite;

/// Which database the suite runs on.
const DATABASE: suite::support::Database = suite::support::Database::Postgres;
