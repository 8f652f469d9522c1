//! `caudal ingest`: takes a folder in and waits until every file is processed.

use std::cell::RefCell;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use caudal_domain::limits::MAX_DISPLAY_NAME_CHARS;
use caudal_sdk::ingest::{Ingested, check_folder};
use caudal_sdk::{Client, Ingest, IngestSettings, Update, Watch, v1};

use crate::arguments::Output;
use crate::cli::IngestArguments;
use crate::failure::{Failure, status};
use crate::follow::Display;
use crate::report::{Summary, batch_id, table};

/// How often the display looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Things that were not taken in are listed up to this number.
const PROBLEMS_SHOWN: usize = 20;

pub(crate) async fn run(arguments: IngestArguments) -> Result<ExitCode, Failure> {
    check_folder(&arguments.folder)?;
    let client = arguments.gateway.connect().await?;
    let began = Instant::now();
    let batch = client.create_batch(new_batch(&arguments)).await?;
    let id = batch_id(&batch.name).to_owned();

    let display = RefCell::new(Display::new());
    let worked = tokio::select! {
        worked = ingest(&client, &arguments, &batch.name, &display) => worked,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted(format!(
            "stopped. What was uploaded is kept and processed; follow it with: caudal watch {id}"
        ))),
    };
    display.borrow_mut().finish();
    let (ingested, ended) = worked?;

    show_problems(&ingested);
    let all_taken = ingested.problems.losses == 0;
    let Some(ended) = ended else {
        match arguments.output.output {
            Output::Json => println!("{}", serde_json::json!({ "batch_id": id })),
            Output::Text => println!("batch {id} is uploaded; follow it with: caudal watch {id}"),
        }
        return Ok(status(all_taken));
    };
    let seconds = began.elapsed().as_secs_f64();
    let succeeded = show_end(&client, arguments.output.output, &ended, seconds).await?;
    Ok(status(succeeded && all_taken))
}

/// Prints how the batch ended; answers whether it SUCCEEDED.
pub(crate) async fn show_end(
    client: &Client,
    output: Output,
    batch: &v1::Batch,
    seconds: f64,
) -> Result<bool, Failure> {
    match output {
        Output::Json => {
            let summary = serde_json::to_string(&Summary::of(batch, seconds))
                .map_err(|error| Failure::broken(format!("cannot write the answer: {error}")))?;
            println!("{summary}");
        }
        Output::Text => print!("{}", table(client, batch, seconds).await?),
    }
    Ok(batch.state() == v1::BatchState::Succeeded)
}

fn new_batch(arguments: &IngestArguments) -> v1::Batch {
    let display_name = arguments
        .name
        .clone()
        .unwrap_or_else(|| name_of(&arguments.folder));
    v1::Batch {
        display_name: display_name
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MAX_DISPLAY_NAME_CHARS)
            .collect(),
        options: Some(v1::BatchOptions {
            stages: arguments.stages.clone(),
            ..v1::BatchOptions::default()
        }),
        ..v1::Batch::default()
    }
}

fn name_of(folder: &Path) -> String {
    let whole = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    whole
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Uploads, and unless told not to wait follows the processing at the same time, to its end.
async fn ingest(
    client: &Client,
    arguments: &IngestArguments,
    batch: &str,
    display: &RefCell<Display>,
) -> Result<(Ingested, Option<v1::Batch>), Failure> {
    let settings = IngestSettings {
        parallel: usize::from(arguments.parallel),
        ..IngestSettings::default()
    };
    let ingest = Ingest::new(client.clone(), batch, &arguments.folder, settings)?;
    let uploading = upload(ingest, display);
    if arguments.no_wait {
        return Ok((uploading.await?, None));
    }
    let mut watch = Watch::new(client.clone(), batch);
    let (ingested, ()) = tokio::try_join!(uploading, follow(&mut watch, display))?;
    Ok((ingested, Some(at_its_end(client, &watch).await)))
}

async fn upload(ingest: Ingest, display: &RefCell<Display>) -> Result<Ingested, Failure> {
    let progress = ingest.progress();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut uploading = std::pin::pin!(ingest.run());
    loop {
        let done = tokio::select! {
            done = &mut uploading => Some(done?),
            _ = look.tick() => None,
        };
        let now = progress.borrow().clone();
        display.borrow_mut().upload(&now);
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

/// Follows a batch until it has ended.
pub(crate) async fn follow(watch: &mut Watch, display: &RefCell<Display>) -> Result<(), Failure> {
    let mut told = false;
    while !watch.known().has_ended() {
        match watch.next().await? {
            // Once an outage, however often it connects in vain.
            Update::Reconnecting if told => {}
            Update::Reconnecting => {
                told = true;
                let trouble = watch.last_trouble().unwrap_or_default();
                display
                    .borrow_mut()
                    .say(&format!("connecting again: {trouble}"));
            }
            Update::Snapshot | Update::Changes => {
                told = false;
                display.borrow_mut().batch(watch.known().batch());
            }
        }
    }
    Ok(())
}

/// The whole record of a batch that has ended; what the watch knows when it cannot be read any more.
pub(crate) async fn at_its_end(client: &Client, watch: &Watch) -> v1::Batch {
    let known = watch.known().batch();
    match client.get_batch(&known.name).await {
        Ok(batch) => batch,
        Err(_) => known.clone(),
    }
}

fn show_problems(ingested: &Ingested) {
    let problems = &ingested.problems;
    if problems.total == 0 {
        return;
    }
    eprintln!("not taken in:");
    for problem in problems.first.iter().take(PROBLEMS_SHOWN) {
        eprintln!("  {} {}", problem.path.escape_debug(), problem.why);
    }
    let shown = problems.first.len().min(PROBLEMS_SHOWN) as u64;
    if problems.total > shown {
        eprintln!("  and {} more", problems.total - shown);
    }
}
