//! `caudal up`: the whole system in one process. Its parts talk over real gRPC on loopback, so nothing differs from
//! separate processes but the addresses.

mod parts;
mod permits;
mod plan;
pub(crate) mod stages;
mod system;

use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::UpArguments;
use crate::failure::Failure;
use crate::up::plan::Plan;
use crate::up::system::System;

/// Runs until a signal, or until a part of it fails.
pub(crate) async fn run(arguments: UpArguments) -> Result<ExitCode, Failure> {
    let plan = Plan::of(&arguments)?;
    let _telemetry = caudal_node::telemetry::init(&plan.telemetry)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let mut signals = Signals::new()?;

    let mut system = tokio::select! {
        started = System::start(plan) => started?,
        // Nothing was promised yet: what is half started ends with this process.
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    // Who started it may have closed its output, and wants it to run all the same.
    let _closed = writeln!(std::io::stdout(), "{}", system.ready_line());
    let failed = tokio::select! {
        () = signals.next() => None,
        failed = system.a_part_ends() => Some(failed),
    };
    if failed.is_none() {
        tracing::info!("stopping");
    }
    tokio::select! {
        () = system.stop() => {}
        () = signals.next() => return Err(Failure::interrupted("stopped at once, as asked a second time")),
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(words) => Err(Failure::broken(words)),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::broken(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
