//! `caudal watch`: follows a batch to its end, through restarts of the gateway too.

use std::cell::RefCell;
use std::process::ExitCode;

use caudal_sdk::Watch;
use caudal_sdk::watch::seconds_taken;

use crate::cli::WatchArguments;
use crate::failure::{Failure, status};
use crate::follow::Display;
use crate::ingest::{follow, show_end};

pub(crate) async fn run(arguments: WatchArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let mut watch = Watch::new(client.clone(), &arguments.batch);
    let display = RefCell::new(Display::new());
    let followed = tokio::select! {
        followed = follow(&client, &arguments.batch, &mut watch, &display) => followed,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted("stopped watching; the batch goes on")),
    };
    display.borrow_mut().finish();
    let batch = followed?;
    let succeeded = show_end(
        &client,
        arguments.output.output,
        &batch,
        seconds_taken(&batch),
        None,
    )
    .await?;
    Ok(status(succeeded))
}
