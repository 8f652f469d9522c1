//! The stage runtime. A stage service is one [`Handler`]; [`StageProcess`] does all the rest: it reads the stage's stream as
//! far ahead as it has room, leases in bulk, runs handlers at once within its slots, renews while they work, reports in
//! bulk, and acknowledges only what has a final answer. Untrusted bytes are parsed in a [`sandbox`], and a file that was
//! at work when a process died is handled in a process of its own.
//!
//! The way of a dispatch through the files here: `read` -> `lease` -> `run` -> `report` -> `release`, with `renew` beside
//! it and the `book` below. The `gate` before `read` is shut while store or provider cannot do their part. What landed waits in `landing` until `free` may delete it.

mod any_handler;
mod attend;
mod backoff;
mod book;
mod core;
mod failure;
mod free;
mod gate;
mod handler;
mod landing;
mod lease;
mod ledger;
mod metrics;
mod probe;
mod process;
mod read;
mod release;
mod renew;
mod report;
mod run;
pub mod sandbox;
mod service;
mod settings;
mod slot_time;
mod solo;
mod timeout;
mod wire;

pub use any_handler::AnyHandler;
pub use caudal_providers::Provider;
pub use failure::{Dependency, Failure, Trouble, Wait};
pub use handler::{Artifact, ArtifactWriter, Done, Handler, Input, InputArtifact, Job, Usage};
pub use process::{Dependencies, SlotSource, StageError, StageProcess};
pub use settings::{
    FAST_PREFETCH, InvalidSettings, LANDING_DELAY, MAX_LANDING_DELAY, MAX_PREFETCH, MAX_SLOTS,
    SLOW_READ_AHEAD, SoloSettings, StageSettings,
};
pub use solo::{SOLO_ARGUMENT, Solo, run_solo_if_asked};
