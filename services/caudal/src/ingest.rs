//! `caudal ingest`: takes a folder in and waits until every file is processed.

use std::cell::RefCell;
use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use caudal_domain::limits::MAX_DISPLAY_NAME_CHARS;
use caudal_domain::{plain, steers_a_screen};
use caudal_sdk::ingest::{Ingested, check_folder};
use caudal_sdk::walk::left_out;
use caudal_sdk::{Client, ClientError, Ingest, IngestSettings, Rules, Update, Watch, v1};
use tonic::Code;

use crate::answer;
use crate::arguments::Output;
use crate::cli::IngestArguments;
use crate::failure::{Failure, status};
use crate::follow::Display;
use crate::report::{NotTaken, Summary, batch_id, since, table};
use crate::unfinished::{metadata_with, source_of, unfinished};

/// How often the display looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is asked what a batch waits for: parts of the installation that do not do their own.
const WAITS_EVERY: Duration = Duration::from_secs(5);
/// What is over sooner is no silence that anybody needs to hear of.
const SILENCE_SAID_AFTER: Duration = Duration::from_secs(1);
/// Things that were not taken in are listed up to this number.
const PROBLEMS_SHOWN: usize = 20;

pub(crate) async fn run(arguments: IngestArguments) -> Result<ExitCode, Failure> {
    check_folder(&arguments.folder)?;
    let rules = Rules::of_folder(&arguments.folder, &arguments.exclude, arguments.everything)?;
    let client = arguments.gateway.connect().await?;
    let began = Instant::now();
    show_left_out(&arguments.folder, &rules);
    let batch = batch_for(&client, &arguments).await?;
    let id = batch_id(&batch.name).to_owned();

    let display = RefCell::new(Display::new());
    // What is waited for meanwhile is told by the display, once for all calls that wait.
    let told_by_display = client.telling(|_| {});
    let worked = tokio::select! {
        worked = ingest(&told_by_display, &arguments, rules, &batch.name, &display) => worked,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted(format!(
            "stopped. What was uploaded is kept and processed; the same command sends the rest. Follow it with: caudal watch {id}"
        ))),
    };
    display.borrow_mut().finish();
    let (ingested, ended) = worked?;

    show_sent(&ingested);
    show_problems(&ingested);
    let all_taken = ingested.problems.losses == 0;
    let Some(ended) = ended else {
        match arguments.output.output {
            Output::Json => {
                let not_taken = NotTaken::of(&ingested.problems);
                let answer = serde_json::json!({ "batch_id": id, "not_taken": not_taken });
                answer!("{answer}");
            }
            Output::Text => answer!("batch {id} is uploaded; follow it with: caudal watch {id}"),
        }
        return Ok(status(all_taken));
    };
    let seconds = began.elapsed().as_secs_f64();
    let not_taken = Some(NotTaken::of(&ingested.problems));
    let output = arguments.output.output;
    let succeeded = show_end(&client, output, &ended, seconds, not_taken).await?;
    Ok(status(succeeded && all_taken))
}

/// The batch that was named, the unfinished one of this folder, or a new one.
async fn batch_for(client: &Client, arguments: &IngestArguments) -> Result<v1::Batch, Failure> {
    let source = source_of(&arguments.folder);
    let found = match &arguments.batch {
        Some(name) => Some(client.get_batch(name).await?),
        None if arguments.new => None,
        None => match unfinished(client, &source, &arguments.stages).await {
            // An upload token lists nothing: it is good for one batch.
            Err(error) if error.is_denied() => return of_token(client, error).await,
            found => found?,
        },
    };
    let Some(batch) = found else {
        return Ok(client.create_batch(new_batch(arguments, &source)).await?);
    };
    let counts = batch.counts.unwrap_or_default();
    let how = match arguments.batch {
        Some(_) => "",
        None => " of this folder, which is unfinished (--new begins another)",
    };
    let waiting = counts.pending + counts.uploading;
    let mut stands = format!("{waiting} of {} files wait for their bytes", counts.total);
    if counts.failed > 0 {
        stands.push_str(&format!(", {} failed", counts.failed));
    }
    say!(
        "going on with batch {}{how}: {stands}",
        batch_id(&batch.name)
    );
    Ok(batch)
}

/// The batch that an upload token is good for.
async fn of_token(client: &Client, denied: ClientError) -> Result<v1::Batch, Failure> {
    let batch = match client.own_batch().await {
        Ok(batch) => batch,
        // It is none, but another key that does not do.
        Err(error) if error.code() == Some(Code::InvalidArgument) => return Err(denied.into()),
        Err(error) if error.is_denied() => return Err(denied.into()),
        Err(error) => return Err(error.into()),
    };
    say!(
        "filling batch {}, which the upload token is good for",
        batch_id(&batch.name)
    );
    Ok(batch)
}

/// Prints how the batch ended; answers whether it SUCCEEDED.
pub(crate) async fn show_end(
    client: &Client,
    output: Output,
    batch: &v1::Batch,
    seconds: f64,
    not_taken: Option<NotTaken>,
) -> Result<bool, Failure> {
    match output {
        Output::Json => {
            let summary = serde_json::to_string(&Summary::of(batch, seconds, not_taken))
                .map_err(|error| Failure::broken(format!("cannot write the answer: {error}")))?;
            answer!("{summary}");
        }
        Output::Text => answer::text(&table(client, batch, seconds).await?),
    }
    Ok(batch.state() == v1::BatchState::Succeeded)
}

fn new_batch(arguments: &IngestArguments, source: &str) -> v1::Batch {
    let display_name = arguments
        .name
        .clone()
        .unwrap_or_else(|| name_of(&arguments.folder));
    v1::Batch {
        display_name: display_name
            .chars()
            .filter(|letter| !steers_a_screen(*letter))
            .take(MAX_DISPLAY_NAME_CHARS)
            .collect(),
        options: Some(v1::BatchOptions {
            stages: arguments.stages.clone(),
            ..v1::BatchOptions::default()
        }),
        metadata: metadata_with(source),
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
    rules: Rules,
    batch: &str,
    display: &RefCell<Display>,
) -> Result<(Ingested, Option<v1::Batch>), Failure> {
    let settings = IngestSettings {
        parallel: usize::from(arguments.parallel),
        rules,
        ..IngestSettings::default()
    };
    let ingest = Ingest::new(client, batch, &arguments.folder, settings)?;
    let uploading = upload(ingest, display);
    if arguments.no_wait {
        return Ok((uploading.await?, None));
    }
    let mut watch = Watch::new(client.clone(), batch);
    let (ingested, _) = tokio::try_join!(uploading, follow(client, batch, &mut watch, display))?;
    // One that had ended before goes on with what was sent now.
    let batch = follow(client, batch, &mut watch, display).await?;
    Ok((ingested, Some(batch)))
}

fn has_ended(batch: &v1::Batch) -> bool {
    !matches!(
        batch.state(),
        v1::BatchState::Open | v1::BatchState::Running
    )
}

async fn upload(ingest: Ingest, display: &RefCell<Display>) -> Result<Ingested, Failure> {
    let progress = ingest.progress();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut uploading = std::pin::pin!(ingest.run());
    let mut silent_since: Option<Instant> = None;
    let mut is_said = false;
    loop {
        let done = tokio::select! {
            done = &mut uploading => Some(done?),
            _ = look.tick() => None,
        };
        let now = progress.borrow().clone();
        display.borrow_mut().upload(&now);
        match &now.silence {
            // Once a silence, however often it is tried in vain.
            Some(trouble) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if !is_said && since.elapsed() >= SILENCE_SAID_AFTER {
                    is_said = true;
                    display.borrow_mut().say(&format!(
                        "waiting: {trouble}. Nothing is lost, and it goes on by itself"
                    ));
                }
            }
            None => {
                silent_since = None;
                if std::mem::take(&mut is_said) {
                    display.borrow_mut().say("going on");
                }
            }
        }
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

/// Follows a batch until it has ended, and says what it waits for meanwhile.
pub(crate) async fn follow(
    client: &Client,
    batch: &str,
    watch: &mut Watch,
    display: &RefCell<Display>,
) -> Result<v1::Batch, Failure> {
    tokio::select! {
        followed = follow_to_its_end(client, batch, watch, display) => followed,
        never = tell_waits(client, batch, display) => match never {},
    }
}

/// The whole record of a batch, when it says too that the batch has ended: what a watch is told first may be a moment old, and the batch run again
/// since. Then what came of that is told next.
async fn follow_to_its_end(
    client: &Client,
    batch: &str,
    watch: &mut Watch,
    display: &RefCell<Display>,
) -> Result<v1::Batch, Failure> {
    loop {
        follow_changes(watch, display).await?;
        match client.get_batch(batch).await {
            Ok(record) if !has_ended(&record) => watch.next().await?,
            Ok(record) => return Ok(record),
            // What the watch knows, when the record cannot be read any more.
            Err(_) => return Ok(watch.known().batch().clone()),
        };
    }
}

/// Says what stages of a batch wait for, each thing once; one that cannot be asked for says nothing.
async fn tell_waits(client: &Client, batch: &str, display: &RefCell<Display>) -> Infallible {
    let mut told: Vec<String> = Vec::new();
    let mut waited_for_turn = false;
    let mut looks = tokio::time::interval(WAITS_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Ok(batch) = client.get_batch(batch).await else {
            continue;
        };
        let mut waits: Vec<String> = batch.waits.iter().map(words_of_wait).collect();
        // Whoever waits for a part of the system has no turn that comes; and a turn that comes at once is not worth a word.
        let place = batch.queue.filter(|_| waits.is_empty());
        match place {
            Some(place) if waited_for_turn => waits.push(words_of_place(&place)),
            place => waited_for_turn = place.is_some(),
        }
        let mut display = display.borrow_mut();
        for new in waits.iter().filter(|wait| !told.contains(wait)) {
            display.say(new);
        }
        if waits.is_empty() && !told.is_empty() {
            display.say("nothing is waited for any more");
        }
        told = waits;
    }
}

fn words_of_place(place: &v1::QueuePlace) -> String {
    format!("{} waits for its turn, {}", place.stage, place.words)
}

fn words_of_wait(wait: &v1::Wait) -> String {
    let since = since(wait);
    // The tenant's pause is no matter of a stage.
    if wait.stage.is_empty() {
        return format!(
            "{}{since}; nothing is lost, and it goes on when an operator says so",
            plain(&wait.words),
        );
    }
    format!(
        "{} waits: {} ({}){since}; nothing is lost, and it goes on by itself",
        wait.stage, wait.words, wait.reason
    )
}

async fn follow_changes(watch: &mut Watch, display: &RefCell<Display>) -> Result<(), Failure> {
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

/// What the rules leave out is said before anything is sent.
fn show_left_out(folder: &Path, rules: &Rules) {
    let left_out = left_out(folder, rules);
    let (files, folders) = (left_out.files, left_out.folders);
    let counted = match (files, folders) {
        (0, 0) => return,
        (files, 0) => count(files, "file"),
        (0, folders) => count(folders, "folder"),
        (files, folders) => format!("{} and {}", count(files, "file"), count(folders, "folder")),
    };
    say!("left out by rule: {counted} (--everything and .caudalignore change that)");
    for path in left_out.first.iter().take(PROBLEMS_SHOWN) {
        say!("  {}", path.escape_debug());
    }
    let shown = left_out.first.len().min(PROBLEMS_SHOWN) as u64;
    if files + folders > shown {
        say!("  and {} more", files + folders - shown);
    }
}

fn show_sent(ingested: &Ingested) {
    let mut words = format!("{} sent", count(ingested.sent, "file"));
    if ingested.unchanged > 0 {
        words.push_str(&format!(", {} unchanged", ingested.unchanged));
    }
    if ingested.arrived > 0 {
        words.push_str(&format!(", {} had arrived before", ingested.arrived));
    }
    say!("{words}");
}

fn count(number: u64, of: &str) -> String {
    match number {
        1 => format!("1 {of}"),
        _ => format!("{number} {of}s"),
    }
}

fn show_problems(ingested: &Ingested) {
    let problems = &ingested.problems;
    if problems.total == 0 {
        return;
    }
    say!("not taken in: {}", problems.total);
    for problem in problems.first.iter().take(PROBLEMS_SHOWN) {
        say!("  {} {}", problem.path.escape_debug(), problem.why);
    }
    let shown = problems.first.len().min(PROBLEMS_SHOWN) as u64;
    if problems.total > shown {
        say!("  and {} more", problems.total - shown);
    }
}
