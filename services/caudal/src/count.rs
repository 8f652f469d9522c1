//! `caudal count` and `caudal stuck`: how many files, where.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use caudal_proto::convert::duration_to_proto;
use caudal_sdk::v1;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::arguments::{GatewayArguments, Output, OutputArguments, tenant_name};
use crate::failure::Failure;
use crate::report::file_state;
use crate::selector::{SelectorArguments, duration, state};

#[derive(Debug, Args)]
pub(crate) struct CountArguments {
    #[command(flatten)]
    pub(crate) selector: SelectorArguments,
    /// What is counted apart
    #[arg(long, env = "CAUDAL_COUNT_BY", value_enum)]
    pub(crate) by: Option<CountBy>,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CountBy {
    /// A line for each state.
    State,
    /// A line for each reason.
    Reason,
    /// A line for each stage.
    Stage,
    /// A line for each outcome.
    Outcome,
}

pub(crate) async fn count(arguments: CountArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let group_by = match arguments.by {
        None => v1::CountGrouping::None,
        Some(CountBy::State) => v1::CountGrouping::State,
        Some(CountBy::Reason) => v1::CountGrouping::Reason,
        Some(CountBy::Stage) => v1::CountGrouping::Stage,
        Some(CountBy::Outcome) => v1::CountGrouping::Outcome,
    };
    let counted = client
        .count_files(arguments.selector.selector(), group_by)
        .await?;
    match arguments.output.output {
        Output::Json => {
            let counts: serde_json::Map<String, serde_json::Value> = counted
                .counts
                .into_iter()
                .map(|row| (row.key, row.count.into()))
                .collect();
            answer!("{}", json!({"total": counted.total, "counts": counts}));
        }
        Output::Text => {
            for row in &counted.counts {
                let key = if row.key.is_empty() { "-" } else { &row.key };
                answer!("{key:<24} {:>9}", row.count);
            }
            answer!("{:<24} {:>9}", "files", counted.total);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(crate) struct StuckArguments {
    /// The state that files are stuck in
    #[arg(long, env = "CAUDAL_STUCK_STATE", value_name = "STATE", default_value = "UPLOADED", value_parser = state)]
    pub(crate) state: v1::FileState,
    /// For at least how long, e.g. 90s, 10m, 2h, 1d
    #[arg(long = "for", env = "CAUDAL_STUCK_FOR", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) min_age: Duration,
    /// One tenant: `tenants/ID`; all when left out
    #[arg(long, env = "CAUDAL_TENANT", value_name = "TENANT", value_parser = tenant_name)]
    pub(crate) tenant: Option<String>,
    /// What is counted apart
    #[arg(long, env = "CAUDAL_STUCK_BY", value_enum, default_value = "tenant")]
    pub(crate) by: StuckBy,
    #[command(flatten)]
    pub(crate) gateway: GatewayArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StuckBy {
    /// A line for each tenant.
    Tenant,
    /// A line for each stage.
    Stage,
}

pub(crate) async fn stuck(arguments: StuckArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let group_by = match arguments.by {
        StuckBy::Tenant => v1::AgedGrouping::Tenant,
        StuckBy::Stage => v1::AgedGrouping::Stage,
    };
    let request = v1::CountAgedRequest {
        state: arguments.state.into(),
        min_age: Some(duration_to_proto(arguments.min_age)),
        tenant: arguments.tenant.unwrap_or_default(),
        group_by: group_by.into(),
    };
    let aged = client.count_aged(request).await?;
    let now = SystemTime::now();
    match arguments.output.output {
        Output::Json => {
            let rows: Vec<_> = aged
                .rows
                .iter()
                .map(|row| match arguments.by {
                    StuckBy::Tenant => json!({
                        "tenant": row.tenant,
                        "name": row.tenant_display_name,
                        "count": row.count,
                        "oldest_seconds": oldest(row, now).as_secs(),
                    }),
                    StuckBy::Stage => json!({
                        "stage": row.stage,
                        "count": row.count,
                        "oldest_seconds": oldest(row, now).as_secs(),
                    }),
                })
                .collect();
            answer!("{}", json!({"total": aged.total, "rows": rows}));
        }
        Output::Text => {
            for row in &aged.rows {
                let whose = match arguments.by {
                    StuckBy::Tenant => format!("{} {}", row.tenant, row.tenant_display_name),
                    StuckBy::Stage => row.stage.clone(),
                };
                answer!(
                    "{:>9}  for up to {:<8} {whose}",
                    row.count,
                    words_of(oldest(row, now))
                );
            }
            answer!(
                "{:>9}  files {} for {} or longer",
                aged.total,
                file_state(arguments.state),
                words_of(arguments.min_age)
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn oldest(row: &v1::AgedFiles, now: SystemTime) -> Duration {
    age(row.oldest_time, now)
}

/// How long ago that was; nothing where it is not known.
pub(crate) fn age(since: Option<prost_types::Timestamp>, now: SystemTime) -> Duration {
    let since = since.and_then(|time| SystemTime::try_from(time).ok());
    since
        .and_then(|since| now.duration_since(since).ok())
        .unwrap_or_default()
}

/// A time in its largest whole unit.
pub(crate) fn words_of(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
