//! The ledger over real gRPC, on a real database and a real Redis: one suite, run on both databases.

mod bounds;
mod commits;
mod full_disk;
mod leadership;
mod manifest;
mod operations;
mod recovery;
mod selector;
mod stages;
mod storm;
pub(crate) mod support;
mod verbs;
mod verify;
