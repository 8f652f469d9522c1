//! Measurements through the real mesh: every service its own process, a real Redis, a real Postgres or a SQLite file that waits
//! for the disk, and stages of the product's runtime around a handler that does nothing, or that waits. A file that is lost or
//! an invariant that breaks ends them with an error.

mod cost;
mod database;
mod fairness;
mod measure;
mod mesh;
mod null;
mod others;
mod raw;
mod slim;
mod way;

use std::process::ExitCode;

use clap::Parser as _;

/// `bench-ledger`: what the ledger takes and gives, beside the same writes as a loop of plain SQL. Prints one JSON object.
#[must_use]
pub fn bench_ledger() -> ExitCode {
    ended(as_a_process_of_the_mesh().unwrap_or_else(|| alone(measure::run())))
}

/// `bench-fairness`: who waits for whom, and what limits hold. Prints a table.
#[must_use]
pub fn bench_fairness() -> ExitCode {
    ended(as_a_process_of_the_mesh().unwrap_or_else(|| alone(fairness::run())))
}

fn ended(run: anyhow::Result<()>) -> ExitCode {
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where this program was started by itself, as a stage or as one of the product's services.
fn as_a_process_of_the_mesh() -> Option<anyhow::Result<()>> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next()?;
    let arguments = std::iter::once(first.clone()).chain(arguments);
    if first == null::NULL_STAGE {
        let stage = null::NullStage::parse_from(arguments);
        return Some(as_a_service(null::run(stage)));
    }
    if first == slim::SLIM {
        let service = slim::Slim::parse_from(arguments);
        return Some(as_a_service(slim::run(service)));
    }
    None
}

/// On the runtime that the product's processes have.
fn as_a_service(service: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(service)
}

/// On this thread alone: processes that it starts end with it.
fn alone(measured: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measured)
}
