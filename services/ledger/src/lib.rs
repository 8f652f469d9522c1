//! The ledger: the only owner of the database. Manifests, transitions, the outbox and its relay, the dispatcher,
//! retries, dead letters and the reconciler.
//!
//! Every change goes through one [`writer`], which merges what waits into groups; what may go out next is decided by
//! the [`dispatcher`] in the writer's own memory; after a commit the [`relay`] publishes dispatches on Redis; the
//! [`reconciler`] compares rows with streams and repairs what was lost; bulk [`operations`] go on in slices beside it.
//! The [`api`] translates.

mod api;
mod briefs;
mod dispatcher;
#[cfg(test)]
mod fault_tests;
mod hints;
mod leadership;
mod metrics;
mod operations;
mod reconciler;
mod relay;
mod settings;
mod start;
mod store;
mod verify;
mod writer;

pub use settings::{Bootstrap, DispatchWindows, KeyRecord, LedgerSettings, TenantLimits};
pub use start::{Ledger, LedgerError, RunningLedger};
pub use verify::{Invariant, VerifyError, VerifyReport, Violation, verify};
