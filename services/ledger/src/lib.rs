//! The ledger: the only owner of the database. Manifests, transitions, the outbox and its relay, the dispatcher,
//! retries, dead letters and the reconciler.
//!
//! Every change goes through one [`writer`], which merges what waits into groups; what may go out next is decided by
//! the dispatcher in the writer's own [`memory`]. Around it are the tasks of the [`leader`]: after a commit the relay
//! publishes dispatches on Redis; the reconciler compares rows with streams and repairs what was lost; bulk operations go on
//! in slices. The [`api`] translates, with the messages of [`wire`]; [`select`] is the one way to choose files; [`store`]
//! holds every statement; [`verify`] checks what must hold.

#[macro_use]
mod planted;

mod active_writer;
mod api;
mod failure;
#[cfg(test)]
mod fault_tests;
mod leader;
mod likeness;
mod memory;
mod metrics;
mod phases;
mod select;
mod settings;
mod signals;
#[cfg(test)]
mod simulation;
mod start;
mod store;
mod verify;
mod waits;
mod wire;
mod writer;

// Histories are a matter of small objects: a seventh of their time.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use settings::{Bootstrap, DispatchWindows, KeyRecord, LedgerSettings, TenantLimits};
pub use start::{Ledger, LedgerError, RunningLedger};
pub use store::{BadDatabaseUrl, check_url as check_database_url};
pub use verify::{Invariant, VerifyError, VerifyReport, Violation, verify};
