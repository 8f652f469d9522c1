//! `caudal stages`: what waits at each stage, and what operators set for it.

use std::process::ExitCode;

use caudal_domain::Stage;
use caudal_proto::convert::duration_from_proto;
use caudal_sdk::v1;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::arguments::{GatewayArguments, Output, OutputArguments};
use crate::failure::Failure;
use crate::report::since;

#[derive(Debug, Args)]
pub(crate) struct StagesArguments {
    #[command(subcommand)]
    act: Option<StagesAct>,
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// What is done with stages. All of it needs an operator's key.
#[derive(Debug, Subcommand)]
enum StagesAct {
    /// List all stages, what waits there and for what (also without a word)
    List,
    /// Let nothing more begin at a stage, in all its processes, within a second and over restarts; what runs ends
    Pause {
        /// The stage, such as embeddings
        #[arg(value_name = "STAGE", value_parser = stage_name)]
        stage: String,
        /// Why; whose files wait reads it too
        #[arg(long, value_name = "WORDS", default_value = "")]
        note: String,
    },
    /// Let a paused stage go on
    Resume {
        /// The stage, such as embeddings
        #[arg(value_name = "STAGE", value_parser = stage_name)]
        stage: String,
    },
    /// Change how much a stage does at once, in all its processes
    Size {
        /// The stage, such as embeddings
        #[arg(value_name = "STAGE", value_parser = stage_name)]
        stage: String,
        /// Files that are worked on at once; `default`: as processes and limiter were started
        #[arg(long, value_name = "N", value_parser = size, required_unless_present = "files")]
        slots: Option<u32>,
        /// Files that are out at once, worked on or waiting for a slot; `default`: as the ledger was started
        #[arg(long, value_name = "M", value_parser = size)]
        files: Option<u32>,
    },
}

fn stage_name(text: &str) -> Result<String, String> {
    match text.parse::<Stage>() {
        Ok(stage) => Ok(stage.name().to_owned()),
        Err(_) => Err(format!(
            "no stage `{text}`; there are {}",
            Stage::ALL.map(Stage::name).join(", ")
        )),
    }
}

/// A number from 1 on; 0 stands for the default.
fn size(text: &str) -> Result<u32, String> {
    if text == "default" {
        return Ok(0);
    }
    let number = text.parse::<u32>().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "is a number from 1 on, or `default`".to_owned())
}

pub(crate) async fn run(arguments: StagesArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let output = arguments.output.output;
    let named = |name: String| v1::Stage {
        name,
        ..v1::Stage::default()
    };
    let (stage, paths) = match arguments.act {
        None | Some(StagesAct::List) => {
            show(&client.list_stages().await?.stages, output);
            return Ok(ExitCode::SUCCESS);
        }
        Some(StagesAct::Pause { stage, note }) => {
            let pause = v1::StagePause {
                note,
                ..v1::StagePause::default()
            };
            let stage = v1::Stage {
                pause: Some(pause),
                ..named(stage)
            };
            (stage, vec!["pause"])
        }
        Some(StagesAct::Resume { stage }) => (named(stage), vec!["pause"]),
        Some(StagesAct::Size {
            stage,
            slots,
            files,
        }) => {
            let mut paths = Vec::new();
            paths.extend(slots.map(|_| "max_slots"));
            paths.extend(files.map(|_| "max_files"));
            let stage = v1::Stage {
                max_slots: slots.unwrap_or_default(),
                max_files: files.unwrap_or_default(),
                ..named(stage)
            };
            (stage, paths)
        }
    };
    let paths = paths.into_iter().map(str::to_owned).collect();
    let changed = client.update_stage(stage, paths).await?;
    show(std::slice::from_ref(&changed), output);
    Ok(ExitCode::SUCCESS)
}

fn show(stages: &[v1::Stage], output: Output) {
    match output {
        Output::Json => answer!(
            "{}",
            json!({"stages": stages.iter().map(stage_json).collect::<Vec<_>>()})
        ),
        Output::Text => {
            for stage in stages {
                answer!("{}", line(stage));
                if let Some(oldest) = stage.oldest_ready_time {
                    answer!("  the first of them waits since {oldest}");
                }
                if let Some(costs) = costs(stage) {
                    answer!("  a file takes {costs}");
                }
                for told in &stage.waits {
                    let wait = told.wait.clone().unwrap_or_default();
                    let since = since(&wait);
                    answer!("  waits: {} ({}){since}", wait.words, wait.reason);
                    if !told.detail.is_empty() {
                        answer!("    {}", told.detail);
                    }
                }
                if let Some(pause) = &stage.pause {
                    answer!("  paused by {}", pause.who);
                }
            }
        }
    }
}

fn seconds(time: Option<&prost_types::Duration>) -> f64 {
    time.map_or(0.0, |time| {
        duration_from_proto(time).unwrap_or_default().as_secs_f64()
    })
}

/// What files lately took: the smallest and the largest of which something is known.
fn costs(stage: &v1::Stage) -> Option<String> {
    let cost = |cost: &v1::StageCost| {
        let usual = seconds(cost.usual.as_ref());
        format!("{usual:.3} s up to {} bytes", cost.max_size)
    };
    let (smallest, largest) = (stage.costs.first()?, stage.costs.last()?);
    Some(match stage.costs.len() {
        1 => cost(smallest),
        _ => format!("{}, {}", cost(smallest), cost(largest)),
    })
}

fn line(stage: &v1::Stage) -> String {
    let set = |number: u32| if number > 0 { " (set)" } else { "" };
    format!(
        "{:<16} {} wait, {} of {} out{} ({:.1} of {:.1} s), {} slots{} in {} processes",
        stage.name,
        stage.waiting,
        stage.dispatched,
        stage.window,
        set(stage.max_files),
        seconds(stage.dispatched_time.as_ref()),
        seconds(stage.window_time.as_ref()),
        stage.slots,
        set(stage.max_slots),
        stage.processes,
    )
}

fn stage_json(stage: &v1::Stage) -> Value {
    let waits = stage.waits.iter().map(|told| {
        let wait = told.wait.clone().unwrap_or_default();
        json!({
            "for": wait.r#for,
            "reason": wait.reason,
            "words": wait.words,
            "since": wait.since_time.map(|since| since.to_string()),
            "processes": told.processes,
            "detail": told.detail,
        })
    });
    let costs = stage.costs.iter();
    let costs = costs.map(|cost| {
        let usual = seconds(cost.usual.as_ref());
        json!({"max_size": cost.max_size, "seconds": usual})
    });
    json!({
        "stage": stage.name,
        "oldest": stage.oldest_ready_time.map(|since| since.to_string()),
        "waiting": stage.waiting,
        "out": stage.dispatched,
        "window": stage.window,
        "out_seconds": seconds(stage.dispatched_time.as_ref()),
        "window_seconds": stage.window_time.as_ref().map(|time| seconds(Some(time))),
        "costs": costs.collect::<Vec<_>>(),
        "max_slots": stage.max_slots,
        "max_files": stage.max_files,
        "processes": stage.processes,
        "slots": stage.slots,
        "paused": stage.pause.as_ref().map(|pause| json!({"who": pause.who, "note": pause.note})),
        "waits": waits.collect::<Vec<_>>(),
    })
}
