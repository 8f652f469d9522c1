//! The caudal command: up, serve, ingest, watch, batches, files, count, stuck, retry, cancel, reprocess, dismiss, pause, resume,
//! stages, tenants, keys, token, audit, usage, verify.

// The macros of the standard library panic when nobody reads: see `answer`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod answer;
mod arguments;
mod batches;
mod bulk;
mod cli;
mod config_file;
mod count;
#[cfg(test)]
mod documented;
mod failure;
mod files;
mod follow;
mod ingest;
mod provider_limits;
mod report;
mod scope;
mod selector;
mod serve;
mod service;
mod settings;
mod stages;
mod tenants;
mod unfinished;
mod up;
mod verify;
mod watch;

use std::process::ExitCode;

use crate::cli::Command;
use crate::failure::Failure;

// A file on its way is many small allocations, here and in SQLite, which takes its memory from the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // This program also runs as a child of itself; then nothing below is reached.
    service::stages::run_as_child_if_asked();
    caudal_embedded::run_redis_child_if_asked();

    let cli = match config_file::parse(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(wrong) => return wrong.show(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Failure::broken(format!("cannot start: {error}")).show(),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Up(arguments) => up::run(*arguments).await,
            Command::Serve(arguments) => serve::run(&arguments).await,
            Command::Ingest(arguments) => ingest::run(arguments).await,
            Command::Watch(arguments) => watch::run(arguments).await,
            Command::Batches(arguments) => batches::run(arguments).await,
            Command::Files(arguments) => files::run(arguments).await,
            Command::Count(arguments) => count::count(arguments).await,
            Command::Stuck(arguments) => count::stuck(arguments).await,
            Command::Retry(arguments) => bulk::retry(arguments).await,
            Command::Cancel(arguments) => bulk::cancel(arguments).await,
            Command::Reprocess(arguments) => bulk::reprocess(arguments).await,
            Command::Dismiss(arguments) => bulk::dismiss(arguments).await,
            Command::Pause(arguments) => bulk::pause(arguments).await,
            Command::Resume(arguments) => bulk::resume(arguments).await,
            Command::Priority(arguments) => bulk::priority(arguments).await,
            Command::Stages(arguments) => stages::run(*arguments).await,
            Command::Tenants(arguments) => tenants::tenants(*arguments).await,
            Command::Keys(arguments) => tenants::keys(*arguments).await,
            Command::Token(arguments) => tenants::token(arguments).await,
            Command::Audit(arguments) => tenants::audit(arguments).await,
            Command::Usage(arguments) => tenants::usage(arguments).await,
            Command::Scope(arguments) => scope::run(&arguments),
            Command::Verify(arguments) => verify::run(*arguments).await,
        }
    });
    match ended {
        Ok(code) => code,
        Err(failure) => failure.show(),
    }
}
