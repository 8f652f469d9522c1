//! `caudal serve`: one service in a process of its own. Everything it is told is read and checked before it binds a port.

pub(crate) mod arguments;
mod plan;

use std::process::ExitCode;

use caudal_node::ServerLimits;
use serde::Serialize;

use crate::failure::Failure;
use crate::serve::arguments::ServeArguments;
use crate::serve::plan::{Plan, Work};
use crate::service::parts::Parts;
use crate::service::serving::{self, Serving, until_answering, until_serving};
use crate::service::{self, Started, channels_to, listen, open_files};

/// The line for scripts.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    service: &'static str,
    address: String,
}

/// Runs until a signal, or until the service fails.
pub(crate) async fn run(arguments: &ServeArguments) -> Result<ExitCode, Failure> {
    let plan = Plan::of(arguments, |name| std::env::var(name).ok())?;
    let _telemetry = caudal_node::telemetry::init(&plan.telemetry)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    if let Work::Gateway { .. } = plan.work {
        open_files::allow(arguments.door.connections);
    } else {
        open_files::allow(ServerLimits::default().connections);
    }
    serving::run(start(plan)).await
}

async fn start(plan: Plan) -> Result<Serving, Failure> {
    if let Some(warning) = plan.warning() {
        tracing::warn!("{warning}");
    }
    let is_ledger = matches!(plan.work, Work::Ledger(_));
    let name = plan.service.name();
    // The gateway's own address is for those outside of the mesh.
    let tls = plan.tls.clone().filter(|_| name != "gateway");
    let Started { address, part } = match plan.work {
        Work::Gateway { mesh, options } => {
            let listener = listen(plan.listen).await?;
            service::use_store(&mesh.objects()?, &mesh.store).await?;
            service::gateway::start(&mesh, options, listener).await?
        }
        Work::Ledger(settings) => service::ledger::start(*settings, plan.listen).await?,
        Work::Limiter {
            slots,
            limits,
            secret,
        } => {
            let shown = (plan.tls, plan.metrics_listen);
            service::limiter::start(slots, &limits, &secret, shown, plan.listen).await?
        }
        Work::Stage {
            stage,
            mesh,
            options,
        } => {
            service::use_store(&mesh.objects()?, &mesh.store).await?;
            service::stages::start(stage, *options, &mesh, plan.listen).await?
        }
    };
    let channels = channels_to(name, tls.as_ref())?;
    if is_ledger {
        until_answering(&address, &channels).await?;
    } else {
        until_serving(&address, &channels).await?;
    }
    let address = match tls {
        Some(_) => address.replacen("http://", "https://", 1),
        None => address,
    };
    let mut parts = Parts::default();
    parts.stop_first(vec![part]);
    let ready = Ready {
        ready: true,
        service: name,
        address: address.clone(),
    };
    Ok(Serving {
        parts,
        words: format!("{name} serves at {address}; Ctrl-C ends it"),
        // Texts can always be written.
        ready_line: serde_json::to_string(&ready).unwrap_or_default(),
        folder: None,
    })
}
