//! The ledger over real gRPC, on a real database and a real Redis.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod manifest;
mod recovery;
mod stages;
mod support;
