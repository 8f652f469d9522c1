//! `caudal retry`, `cancel`, `reprocess`, `dismiss`: an act on every file of a selection; `pause`, `resume` and `priority`.

use std::process::ExitCode;
use std::time::Duration;

use caudal_sdk::{Bulk, BulkProgress, Client, v1};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::arguments::{GatewayArguments, Output, OutputArguments, batch_name, tenant_name};
use crate::failure::{Failure, status};
use crate::report::{batch_id, batch_state};
use crate::selector::{SelectorArguments, stage};

/// How long one look at an operation waits.
const LOOK: Duration = Duration::from_secs(1);

/// What all acts are told.
#[derive(Debug, Args)]
pub(crate) struct BulkArguments {
    #[command(flatten)]
    pub(crate) selector: SelectorArguments,
    /// Only count the files; do nothing
    #[arg(long, env = "CAUDAL_DRY_RUN")]
    pub(crate) dry_run: bool,
    /// Do nothing when more files are chosen
    #[arg(long, env = "CAUDAL_MAX_COUNT", value_name = "N", default_value_t = 0)]
    pub(crate) max_count: u32,
    /// Whose files, with an operator's key: `tenants/ID`
    #[arg(long, env = "CAUDAL_TENANT", value_name = "TENANT", value_parser = tenant_name)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArguments {
    #[command(flatten)]
    pub(crate) bulk: BulkArguments,
    /// Files that wait for their next attempt are tried at once too
    #[arg(long, env = "CAUDAL_RETRY_NOW")]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReprocessArguments {
    #[command(flatten)]
    pub(crate) bulk: BulkArguments,
    /// The first stage that runs again; upload when left out
    #[arg(long, env = "CAUDAL_FROM_STAGE", value_name = "STAGE", value_parser = stage)]
    pub(crate) from: Option<String>,
    /// Run later stages again too where their results are current
    #[arg(long, env = "CAUDAL_FORCE")]
    pub(crate) force: bool,
}

pub(crate) async fn retry(arguments: RetryArguments) -> Result<ExitCode, Failure> {
    let act = Bulk::Retry(v1::RetryFilesRequest {
        selector: Some(arguments.bulk.selector.selector()),
        skip_backoff: arguments.now,
        max_count: arguments.bulk.max_count,
        validate_only: arguments.bulk.dry_run,
        request_id: String::new(),
    });
    run(&arguments.bulk, act, "retried").await
}

pub(crate) async fn reprocess(arguments: ReprocessArguments) -> Result<ExitCode, Failure> {
    let act = Bulk::Reprocess(v1::ReprocessFilesRequest {
        selector: Some(arguments.bulk.selector.selector()),
        from_stage: arguments.from.unwrap_or_default(),
        force: arguments.force,
        max_count: arguments.bulk.max_count,
        validate_only: arguments.bulk.dry_run,
        request_id: String::new(),
    });
    run(&arguments.bulk, act, "sent through the route again").await
}

pub(crate) async fn dismiss(arguments: BulkArguments) -> Result<ExitCode, Failure> {
    let act = Bulk::Dismiss(v1::DismissFailuresRequest {
        selector: Some(arguments.selector.selector()),
        max_count: arguments.max_count,
        validate_only: arguments.dry_run,
        request_id: String::new(),
    });
    run(&arguments, act, "dismissed").await
}

/// A batch that is named alone is cancelled as a whole: it takes nothing more and ends CANCELLED.
pub(crate) async fn cancel(arguments: BulkArguments) -> Result<ExitCode, Failure> {
    let whole = arguments.selector.is_whole_batch() && arguments.tenant.is_none();
    let bounded = arguments.dry_run || arguments.max_count > 0;
    let act = |validate_only| {
        Bulk::Cancel(v1::CancelFilesRequest {
            selector: Some(arguments.selector.selector()),
            max_count: arguments.max_count,
            validate_only,
            request_id: String::new(),
        })
    };
    if !whole || arguments.dry_run {
        return run(&arguments, act(arguments.dry_run), "cancelled").await;
    }
    let client = arguments.gateway.connect().await?;
    if bounded {
        client.begin(act(true), None).await?;
    }
    let name = arguments.selector.batch.clone().unwrap_or_default();
    let batch = client.cancel_batch(&name).await?;
    show_batch(&batch, arguments.output.output);
    Ok(ExitCode::SUCCESS)
}

async fn run(arguments: &BulkArguments, act: Bulk, done: &str) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let mut progress = client.begin(act, arguments.tenant.as_deref()).await?;
    if !arguments.dry_run {
        let followed = tokio::select! {
            followed = follow(&client, &progress.name) => followed,
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::interrupted(format!("stopped watching; {} goes on", progress.name)))
            }
        };
        progress = followed?;
    }
    show(&progress, arguments, done);
    Ok(status(progress.error.is_none()))
}

/// Waits for the end of an operation, with a line of progress now and then.
async fn follow(client: &Client, name: &str) -> Result<BulkProgress, Failure> {
    let mut last = String::new();
    loop {
        let progress = client.wait_operation(name, LOOK).await?;
        let metadata = &progress.metadata;
        let line = format!(
            "{} of {} files",
            metadata.done + progress.refused(),
            metadata.matched
        );
        if line != last && !progress.ended {
            say!("{line}");
            last = line;
        }
        if progress.ended {
            return Ok(progress);
        }
    }
}

fn show(progress: &BulkProgress, arguments: &BulkArguments, done: &str) {
    let metadata = &progress.metadata;
    match arguments.output.output {
        Output::Json => {
            let refused: serde_json::Map<String, serde_json::Value> = metadata
                .refused
                .iter()
                .map(|refused| (refused.reason.clone(), refused.count.into()))
                .collect();
            let operation = (!progress.name.is_empty()).then_some(&progress.name);
            let answer = json!({
                "operation": operation,
                "dry_run": arguments.dry_run,
                "matched": metadata.matched,
                "done": metadata.done,
                "refused": refused,
                "error": progress.error,
            });
            answer!("{answer}");
        }
        Output::Text if arguments.dry_run => answer!(
            "{} files would be {done}; nothing was done",
            metadata.matched
        ),
        Output::Text => {
            answer!("{} of {} files {done}", metadata.done, metadata.matched);
            for refused in &metadata.refused {
                answer!("{:>9}  left alone: {}", refused.count, refused.reason);
            }
            if let Some(error) = &progress.error {
                answer!("{error}");
            }
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    /// The batch: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: String,
    /// Words for those who see the pause
    #[arg(
        long,
        env = "CAUDAL_PAUSE_NOTE",
        value_name = "WORDS",
        default_value = ""
    )]
    pub(crate) note: String,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

pub(crate) async fn pause(arguments: PauseArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let batch = client
        .pause_batch(&arguments.batch, &arguments.note)
        .await?;
    show_batch(&batch, arguments.output.output);
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(crate) struct PriorityArguments {
    /// The batch: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: String,
    /// Its share among the batches of its tenant: 1, 4 or 16
    #[arg(value_enum)]
    pub(crate) priority: Priority,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Priority {
    /// A quarter of the usual.
    Low,
    /// The usual.
    Normal,
    /// Four times the usual.
    High,
}

pub(crate) async fn priority(arguments: PriorityArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let priority = match arguments.priority {
        Priority::Low => v1::Priority::Low,
        Priority::Normal => v1::Priority::Normal,
        Priority::High => v1::Priority::High,
    };
    let batch = v1::Batch {
        name: arguments.batch,
        priority: priority.into(),
        ..v1::Batch::default()
    };
    let batch = client.update_batch(batch, &["priority"]).await?;
    show_batch(&batch, arguments.output.output);
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// The batch: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: String,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

pub(crate) async fn resume(arguments: ResumeArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let batch = client.resume_batch(&arguments.batch).await?;
    show_batch(&batch, arguments.output.output);
    Ok(ExitCode::SUCCESS)
}

fn show_batch(batch: &v1::Batch, output: Output) {
    let id = batch_id(&batch.name);
    let state = batch_state(batch.state());
    let (paused, cancelling) = (batch.pause.is_some(), batch.cancelling);
    match output {
        Output::Json => answer!(
            "{}",
            json!({"batch_id": id, "state": state, "paused": paused, "cancelling": cancelling})
        ),
        Output::Text => {
            let more = match (cancelling, paused) {
                (true, _) => ", being cancelled",
                (false, true) => ", paused",
                (false, false) => "",
            };
            answer!("batch {id} {state}{more}");
        }
    }
}
