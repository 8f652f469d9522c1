//! A provider that says no: no file is charged for it, and everything goes on by itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use caudal_harness::{Mood, Provider, System, until_now};
use tempfile::TempDir;

use crate::{binary, json};

const STAGES: &str = "upload,extract-text,embeddings,metadata";
const PATIENCE: Duration = Duration::from_secs(60);

fn system(folder: &TempDir, provider: &Provider, texts_a_request: &str) -> System {
    let environment = [
        ("CAUDAL_EMBEDDING_PROVIDER", "openai"),
        ("CAUDAL_EMBEDDING_URL", provider.url()),
        ("CAUDAL_EMBEDDING_BATCH", texts_a_request),
        ("CAUDAL_EMBEDDING_TIMEOUT_SECONDS", "2"),
    ];
    let data = folder.path().join("data");
    System::start_in(binary(), &data, &[], &environment).unwrap()
}

/// Texts of so many words, each another.
fn texts(folder: &TempDir, count: usize, words: usize) -> PathBuf {
    let root = folder.path().join("texts");
    std::fs::create_dir_all(&root).unwrap();
    for number in 0..count {
        let text = format!("gauge {number} rises. ").repeat(words.div_ceil(3));
        std::fs::write(root.join(format!("{number}.txt")), text).unwrap();
    }
    root
}

fn begin(system: &System, root: &Path) -> Child {
    begin_stages(system, root, STAGES)
}

pub(crate) fn begin_stages(system: &System, root: &Path, stages: &str) -> Child {
    let ingest = [
        "ingest",
        root.to_str().unwrap(),
        "--stages",
        stages,
        "--output",
        "json",
    ];
    system
        .command(&ingest)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a batch: all files are COMPLETE.
pub(crate) fn end(ingest: Child, files: usize) -> String {
    let ended = json(&ingest.wait_with_output().unwrap());
    assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["outcomes"]["COMPLETE"], files, "{ended}");
    ended["batch_id"].as_str().unwrap().to_owned()
}

/// A page of metrics of the embeddings stage.
fn metrics(system: &System) -> String {
    metrics_of(system, "embeddings")
}

pub(crate) fn metrics_of(system: &System, stage: &str) -> String {
    let address = format!("{}/metrics", system.service(stage));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let answer = reqwest::get(address).await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    })
}

fn number(page: &str, series: &str) -> u64 {
    page.lines()
        .filter(|line| line.starts_with(series))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Answers of the provider of this kind.
fn answers(page: &str, answer: &str) -> usize {
    let labels = "service=\"embeddings\",provider=\"embedding-provider\"";
    let series = format!("caudal_provider_answers_total{{{labels},answer=\"{answer}\"}}");
    usize::try_from(number(page, &series)).unwrap()
}

pub(crate) fn charged(page: &str) -> u64 {
    let failed = |line: &&str| {
        line.starts_with("caudal_stage_files_total") && line.contains("verdict=\"failed\"")
    };
    page.lines()
        .filter(failed)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    until_now(what, PATIENCE, || is_so().then_some(())).unwrap();
}

#[test]
fn a_provider_that_throttles_costs_no_attempt_and_is_asked_within_what_it_allows() {
    const FILES: usize = 150;
    let every = Duration::from_millis(1_500);
    let limited = Mood::Limited {
        every,
        retry_after: Duration::from_secs(2),
    };
    let provider = Provider::start(limited).unwrap();
    let folder = TempDir::new().unwrap();
    let system = system(&folder, &provider, "10");
    let begun = Instant::now();
    end(begin(&system, &texts(&folder, FILES, 12)), FILES);
    assert_eq!(charged(&metrics(&system)), 0);
    let asked = provider.asked();
    assert_eq!(asked.served.iter().sum::<usize>(), FILES);
    assert!(begun.elapsed() >= every * (asked.served.len() as u32 - 1));
    assert_eq!(asked.too_early, 0, "{asked:?}");
    assert!(asked.refused * 2 <= asked.served.len(), "{asked:?}");
    let page = metrics(&system);
    assert_eq!(answers(&page, "served"), asked.served.len());
    assert_eq!(answers(&page, "throttled"), asked.refused, "{page}");
    system.verify().unwrap();
}

#[test]
fn a_provider_that_refuses_the_key_fails_hangs_and_breaks_off_costs_no_attempt() {
    const FILES: usize = 150;
    let provider = Provider::start(Mood::Fails(401)).unwrap();
    let folder = TempDir::new().unwrap();
    let system = system(&folder, &provider, "10");
    let ingest = begin(&system, &texts(&folder, FILES, 12));
    for mood in [
        Mood::Fails(401),
        Mood::Fails(500),
        Mood::Hangs,
        Mood::BreaksOff,
    ] {
        provider.set_mood(mood);
        let before = provider.asked().refused;
        until("it is asked again, and waited for", || {
            provider.asked().refused > before
        });
    }
    let page = metrics(&system);
    assert_eq!(
        number(&page, "caudal_stage_waits{"),
        1,
        "it waits, and says so: {page}"
    );
    assert!(number(&page, "caudal_stage_probes_total") < 40, "{page}");
    let refused = system
        .logged()
        .matches("refuses the installation's key")
        .count();
    assert_eq!(refused, 1, "once a minute");
    provider.set_mood(Mood::Fine);
    end(ingest, FILES);
    assert_eq!(charged(&metrics(&system)), 0);
    system.verify().unwrap();
}

/// Begins to ingest; what the command tells goes into a file.
pub(crate) fn begin_told(system: &System, root: &Path, said: &Path, stages: &str) -> Child {
    let mut ingest = system.command(&["ingest", root.to_str().unwrap(), "--stages", stages]);
    ingest
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(said).unwrap())
        .spawn()
        .unwrap()
}

#[test]
fn whoever_follows_a_batch_is_told_what_it_waits_for_and_when_it_goes_on() {
    const FILES: usize = 20;
    let provider = Provider::start(Mood::Fails(401)).unwrap();
    let folder = TempDir::new().unwrap();
    let system = system(&folder, &provider, "10");
    let said = folder.path().join("said");
    let root = texts(&folder, FILES, 12);
    let mut ingest = begin_told(&system, &root, &said, STAGES);
    let said = || std::fs::read_to_string(&said).unwrap();
    let waits = "embeddings waits: the embedding provider refuses the installation's key (PROVIDER_UNAUTHORIZED), since 2";
    until("it is told what is waited for", || said().contains(waits));
    provider.set_mood(Mood::Fine);
    assert!(ingest.wait().unwrap().success(), "{}", said());
    assert_eq!(said().matches(waits).count(), 1, "{}", said());
}

// Protocol 13.6.
#[test]
fn vectors_of_another_length_than_before_a_restart_are_waited_out_and_make_no_file_complete() {
    const FILES: usize = 6;
    let provider = Provider::start(Mood::Fine).unwrap();
    let folder = TempDir::new().unwrap();
    let mut system = system(&folder, &provider, "10");
    end(begin(&system, &texts(&folder, FILES, 12)), FILES);
    assert!(system.stop().unwrap().success());
    system.restart().unwrap();
    provider.set_mood(Mood::Longer);
    let others = TempDir::new().unwrap();
    let said = folder.path().join("said");
    let root = texts(&others, FILES, 15);
    let mut ingest = begin_told(&system, &root, &said, STAGES);
    let said = || std::fs::read_to_string(&said).unwrap();
    let waits = "(PROVIDER_ANSWER_INVALID)";
    until("it is told what is waited for", || said().contains(waits));
    let counted = json(
        &system
            .caudal(&[
                "count",
                "--state",
                "processed",
                "--by",
                "outcome",
                "--output",
                "json",
            ])
            .unwrap(),
    );
    assert_eq!(counted["counts"]["COMPLETE"], FILES, "{counted}");
    assert_eq!(charged(&metrics(&system)), 0);
    provider.set_mood(Mood::Fine);
    assert!(ingest.wait().unwrap().success(), "{}", said());
    system.verify().unwrap();
}

#[test]
fn texts_of_many_files_share_few_requests() {
    const FILES: usize = 200;
    let provider = Provider::start(Mood::Fine).unwrap();
    let folder = TempDir::new().unwrap();
    let system = system(&folder, &provider, "100");
    // Two chunks each.
    end(begin(&system, &texts(&folder, FILES, 220)), FILES);
    let asked = provider.asked();
    let texts = asked.served.iter().sum::<usize>();
    assert!(texts >= 2 * FILES, "{asked:?}");
    assert!(asked.served.len() <= FILES / 4, "{asked:?}");
    system.verify().unwrap();
}

#[test]
fn a_limit_of_a_provider_is_kept_in_every_window_and_a_request_above_its_burst_is_waited_for() {
    const FILES: usize = 40;
    const TEXTS_A_REQUEST: usize = 10;
    // "gauge 7 rises." four times, by the rule of thumb.
    const TOKENS_A_TEXT: f64 = 24.0;
    const REQUESTS_A_SECOND: f64 = 1.0;
    const TOKENS_A_SECOND: f64 = 100.0;
    let provider = Provider::start(Mood::Fine).unwrap();
    let folder = TempDir::new().unwrap();
    let texts_a_request = TEXTS_A_REQUEST.to_string();
    let environment = [
        ("CAUDAL_EMBEDDING_URL", provider.url()),
        ("CAUDAL_EMBEDDING_BATCH", texts_a_request.as_str()),
    ];
    let data = folder.path().join("data");
    let limit = "embedding=requests:60,tokens:6000";
    let options = ["--provider-limit", limit];
    let system = System::start_in(binary(), &data, &options, &environment).unwrap();
    end(begin(&system, &texts(&folder, FILES, 12)), FILES);
    let page = metrics(&system);
    assert_eq!(charged(&page), 0);
    let asked = provider.asked();
    assert!(asked.served.iter().sum::<usize>() >= FILES);
    assert_eq!(answers(&page, "served"), asked.served.len(), "{page}");
    let all: Vec<(Instant, usize)> = asked.served_at.into_iter().zip(asked.served).collect();
    for (index, (from, _)) in all.iter().enumerate() {
        let (mut requests, mut tokens) = (0.0, 0.0);
        for (to, texts) in &all[index..] {
            requests += 1.0;
            tokens += *texts as f64 * TOKENS_A_TEXT;
            let window = (*to - *from).as_secs_f64();
            assert!(
                requests <= REQUESTS_A_SECOND * (window + 3.0) + 1.0,
                "{all:?}"
            );
            let largest = TEXTS_A_REQUEST as f64 * TOKENS_A_TEXT;
            assert!(
                tokens <= TOKENS_A_SECOND * (window + 3.0) + largest,
                "{all:?}"
            );
        }
    }
    system.verify().unwrap();
}
