//! Looks whether what the stage waits for is there again, and opens its gate.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::Reason;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::failure::{Dependency, Failure, Trouble};
use crate::gate::Waiting;
use crate::handler::Handler;
use crate::solo;

/// A probe that takes longer has failed.
const PROBE_WITHIN: Duration = Duration::from_secs(30);
/// Written to see whether the temp folder has room.
const TEMP_PROBE_BYTES: usize = 1 << 20;

/// Opens the gate again, each time that it was shut, until `ended`.
pub(crate) async fn tend<H: Handler>(core: Arc<Core>, handler: Arc<H>, ended: CancellationToken) {
    let mut is_shut = core.gate.is_shut.subscribe();
    let tending = async {
        while is_shut.wait_for(|shut| *shut).await.is_ok() {
            while let Some(look_at) = core.gate.look_at() {
                tokio::time::sleep_until(look_at).await;
                // Another file may have brought a later time.
                if core.gate.look_at().is_some_and(|at| at <= Instant::now()) {
                    look(&core, handler.as_ref()).await;
                }
            }
        }
    };
    tokio::select! {
        () = tending => {}
        () = ended.cancelled() => {}
    }
}

async fn look<H: Handler>(core: &Core, handler: &H) {
    let Some(Waiting { wait, failure, .. }) = core.gate.waiting() else {
        return;
    };
    // Whoever named a time has said what there is to know; to ask before the work would use up what is allowed.
    if wait.trouble == Trouble::Busy {
        core.gate.probe_passed();
        return;
    }
    let probe = async {
        match wait.on {
            Dependency::Provider(provider) => handler.probe(provider).await,
            Dependency::Store => probe_store(core).await,
            Dependency::TempFolder => probe_temp_folder().await,
            Dependency::ParserHost => probe_parser_host(core, handler).await,
        }
    };
    let result = tokio::time::timeout(PROBE_WITHIN, probe)
        .await
        .unwrap_or(Err(failure));
    core.gate.metrics.probed(wait.on, result.is_ok());
    match result {
        Ok(()) => core.gate.probe_passed(),
        Err(failure) => core.gate.probe_failed(failure, Instant::now()),
    }
}

async fn probe_store(core: &Core) -> Result<(), Failure> {
    let key = format!("probe/{}/{}", core.stage.name(), core.process);
    let probed = core.objects.probe(&key).await;
    probed.map_err(|error| Failure::of_store(Reason::StoreUnavailable, &error))
}

/// What is written has a name, as the files have that are fetched here.
async fn probe_temp_folder() -> Result<(), Failure> {
    let writing = tokio::task::spawn_blocking(|| {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&vec![0; TEMP_PROBE_BYTES])?;
        file.as_file().sync_data()
    });
    let written = writing.await.unwrap_or_else(|error| Err(error.into()));
    written.map_err(|error| Failure::of_temp_folder(&error))
}

/// Starts what the handler reads files in, and what a suspect file is handled in.
async fn probe_parser_host<H: Handler>(core: &Core, handler: &H) -> Result<(), Failure> {
    handler.probe_parser_host().await?;
    match &core.settings.solo {
        Some(solo) => solo::probe(solo).await,
        None => Ok(()),
    }
}
