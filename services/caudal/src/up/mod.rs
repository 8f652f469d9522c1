//! `caudal up`: the whole system in one process. Its parts talk over real gRPC on loopback, so nothing differs from
//! separate processes but the addresses.

mod plan;
mod system;

use std::process::ExitCode;

use crate::cli::UpArguments;
use crate::failure::Failure;
use crate::service::{open_files, serving};
use crate::up::plan::Plan;

/// Runs until a signal, or until a part of it fails.
pub(crate) async fn run(arguments: UpArguments) -> Result<ExitCode, Failure> {
    let plan = Plan::of(&arguments)?;
    let _telemetry = caudal_node::telemetry::init(&plan.telemetry)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    if let Some(warning) = plan.warning() {
        tracing::warn!("{warning}");
    }
    open_files::allow(plan.door.connections);
    serving::run(system::start(plan)).await
}
