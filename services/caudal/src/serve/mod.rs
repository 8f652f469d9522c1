//! `caudal serve`: one service in a process of its own. Everything it is told is read and checked before it binds a port.

pub(crate) mod arguments;
mod plan;

use std::process::ExitCode;

use serde::Serialize;

use crate::failure::Failure;
use crate::serve::arguments::ServeArguments;
use crate::serve::plan::{Plan, Work};
use crate::service::parts::Parts;
use crate::service::serving::{self, Serving, until_answering, until_serving};
use crate::service::{self, Mesh, Started, listen};

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
    serving::run(start(plan)).await
}

async fn start(plan: Plan) -> Result<Serving, Failure> {
    let is_ledger = matches!(plan.work, Work::Ledger(_));
    let Started { address, part } = match plan.work {
        Work::Gateway { mesh, options } => {
            let listener = listen(plan.listen).await?;
            make_bucket(&mesh).await?;
            service::gateway::start(&mesh, options, listener).await?
        }
        Work::Ledger(settings) => service::ledger::start(*settings, plan.listen).await?,
        Work::Limiter { slots, secret } => {
            service::limiter::start(slots, &secret, plan.listen).await?
        }
        Work::Stage {
            stage,
            mesh,
            options,
        } => service::stages::start(stage, options, &mesh, plan.listen).await?,
    };
    if is_ledger {
        until_answering(&address).await?;
    } else {
        until_serving(&address).await?;
    }
    let mut parts = Parts::default();
    parts.stop_first(vec![part]);
    let ready = Ready {
        ready: true,
        service: plan.service.name(),
        address,
    };
    Ok(Serving {
        parts,
        // Texts can always be written.
        ready_line: serde_json::to_string(&ready).unwrap_or_default(),
        folder: None,
    })
}

/// The store may be away now and come later, and whoever runs it may allow nobody to make buckets: that stops nothing.
async fn make_bucket(mesh: &Mesh) -> Result<(), Failure> {
    if let Err(error) = mesh.objects()?.ensure_bucket().await {
        tracing::warn!(
            bucket = mesh.store.bucket,
            endpoint = mesh.store.endpoint,
            %error,
            "the bucket cannot be used now"
        );
    }
    Ok(())
}
