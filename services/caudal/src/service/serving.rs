//! From the start to the end of what serves: the ready line, signals, the drain.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use caudal_embedded::DataFolder;
use caudal_node::Channels;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::failure::Failure;
use crate::service::parts::Parts;

/// How long everything may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long each step of the end may take.
const STEP_PATIENCE: Duration = Duration::from_secs(20);

/// What serves.
pub(crate) struct Serving {
    pub(crate) parts: Parts,
    /// What a person reads on a terminal.
    pub(crate) words: String,
    /// The line for scripts, of JSON.
    pub(crate) ready_line: String,
    /// Held until the end.
    pub(crate) folder: Option<DataFolder>,
}

/// Starts it, says so, and runs until a signal, or until a part of it fails.
pub(crate) async fn run(
    start: impl Future<Output = Result<Serving, Failure>>,
) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let mut serving = tokio::select! {
        started = start => started?,
        // Nothing was promised yet: what is half started ends with this process.
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    // Who started it may have closed its output, and wants it to run all the same.
    let mut out = std::io::stdout();
    let _closed = if out.is_terminal() {
        writeln!(out, "{}", serving.words)
    } else {
        writeln!(out, "{}", serving.ready_line)
    };
    let failed = tokio::select! {
        () = signals.next() => None,
        failed = serving.parts.any_ends() => Some(failed),
    };
    if failed.is_none() {
        tracing::info!("stopping");
    }
    tokio::select! {
        () = serving.parts.stop(STEP_PATIENCE) => {}
        () = signals.next() => return Err(Failure::interrupted("stopped at once, as asked a second time")),
    }
    drop(serving.folder);
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

/// Asks a service's health until it says that calls are welcome.
pub(crate) async fn until_serving(address: &str, channels: &Channels) -> Result<(), Failure> {
    until_health(address, channels, |status| status == ServingStatus::Serving).await
}

/// Asks a service's health until it says anything: a ledger that stands by does its part without serving.
pub(crate) async fn until_answering(address: &str, channels: &Channels) -> Result<(), Failure> {
    until_health(address, channels, |_| true).await
}

async fn until_health(
    address: &str,
    channels: &Channels,
    is_enough: impl Fn(ServingStatus) -> bool,
) -> Result<(), Failure> {
    // One that shows a certificate serves when it was started: who is to be trusted is the clients' to say.
    if address.starts_with("https://") {
        return Ok(());
    }
    let channel = channels
        .channel(address)
        .map_err(|error| Failure::broken(error.to_string()))?;
    let mut health = HealthClient::new(channel);
    let asked = async {
        loop {
            let answer = health.check(HealthCheckRequest::default()).await;
            if answer.is_ok_and(|answer| is_enough(answer.into_inner().status())) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, asked)
        .await
        .map_err(|_| {
            Failure::broken(format!(
                "the service at {address} did not serve within {} s",
                READY_WITHIN.as_secs()
            ))
        })
}
