//! `caudal batches`: the tenant's batches, and which of them wait for bytes.

use std::process::ExitCode;
use std::time::SystemTime;

use caudal_sdk::v1;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::arguments::{GatewayArguments, Output, OutputArguments};
use crate::count::{age, words_of};
use crate::failure::Failure;
use crate::report::{batch_id, batch_state};

const BATCHES_A_PAGE: u16 = 200;

#[derive(Debug, Args)]
pub(crate) struct BatchesArguments {
    /// Only batches of this state
    #[arg(long, env = "CAUDAL_BATCH_STATE", value_enum)]
    pub(crate) state: Vec<State>,
    /// How many, newest first
    #[arg(long, env = "CAUDAL_LIMIT", value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Where a batch may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// More may be added.
    Open,
    /// On its way.
    Running,
    /// Ended, with every file processed.
    Succeeded,
    /// Ended, with files that failed.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl From<State> for v1::BatchState {
    fn from(state: State) -> Self {
        match state {
            State::Open => Self::Open,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

pub(crate) async fn run(arguments: BatchesArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let states = arguments.state.iter().copied().map(v1::BatchState::from);
    let mut request = v1::ListBatchesRequest {
        states: states.map(i32::from).collect(),
        ..v1::ListBatchesRequest::default()
    };
    let mut left = usize::from(arguments.limit);
    let mut batches = Vec::new();
    while left > 0 {
        let page = left.min(usize::from(BATCHES_A_PAGE));
        request.page_size = i32::try_from(page).unwrap_or(i32::from(BATCHES_A_PAGE));
        let page = client.list_batches(request.clone()).await?;
        left = left.saturating_sub(page.batches.len());
        batches.extend(page.batches);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let now = SystemTime::now();
    match arguments.output.output {
        Output::Json => {
            let rows: Vec<_> = batches.iter().map(|batch| row(batch, now)).collect();
            answer!("{}", json!({ "batches": rows }));
        }
        Output::Text => {
            for batch in &batches {
                answer!("{}", line(batch, now));
            }
            if batches.is_empty() {
                say!("no batches");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(batch: &v1::Batch, now: SystemTime) -> serde_json::Value {
    let counts = batch.counts.unwrap_or_default();
    json!({
        "batch_id": batch_id(&batch.name),
        "name": batch.display_name,
        "state": batch_state(batch.state()),
        "files": counts.total,
        "processed": counts.processed,
        "failed": counts.failed,
        "without_bytes": counts.pending + counts.uploading,
        "age_seconds": age(batch.create_time, now).as_secs(),
    })
}

fn line(batch: &v1::Batch, now: SystemTime) -> String {
    let counts = batch.counts.unwrap_or_default();
    let without_bytes = counts.pending + counts.uploading;
    let mut words = format!(
        "{}  {:<16} {:>9} of {:<9} {:>5}  {}",
        batch_id(&batch.name),
        batch_state(batch.state()),
        counts.processed,
        counts.total,
        words_of(age(batch.create_time, now)),
        batch.display_name.escape_debug(),
    );
    if counts.failed > 0 {
        words.push_str(&format!(" ({} failed)", counts.failed));
    }
    if without_bytes > 0 && !batch.cancelling {
        words.push_str(&format!(
            " ({without_bytes} wait for their bytes: caudal ingest DIR --batch {})",
            batch_id(&batch.name)
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_waits_for_bytes_says_what_brings_them() {
        let batch = v1::Batch {
            name: "batches/0190b5a2-0000-7000-8000-000000000001".to_owned(),
            display_name: "gauges\n".to_owned(),
            state: v1::BatchState::Open.into(),
            counts: Some(v1::FileCounts {
                total: 5,
                processed: 2,
                pending: 3,
                ..v1::FileCounts::default()
            }),
            ..v1::Batch::default()
        };
        let line = line(&batch, SystemTime::UNIX_EPOCH);
        assert!(line.contains("OPEN"), "{line}");
        assert!(line.contains("2 of 5"), "{line}");
        assert!(line.contains("gauges\\n"), "{line}");
        assert!(
            line.contains("3 wait for their bytes: caudal ingest DIR --batch 0190b5a2-"),
            "{line}"
        );
    }
}
