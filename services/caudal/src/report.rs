//! How a batch ended: one JSON object for scripts, a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use caudal_domain::{Reason, plain};
use caudal_sdk::ingest::Problems;
use caudal_sdk::walk::Problem;
use caudal_sdk::{Client, ClientError, v1};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Files looked at to group failures and warnings; beyond it the table says that there are more.
const MAX_LOOKED_AT: usize = 5_000;
const FILES_A_PAGE: i32 = 100;
const PATHS_SHOWN: usize = 3;

/// What `ingest` and `watch` print for scripts.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    batch_id: String,
    state: &'static str,
    files: Map<String, Value>,
    outcomes: Map<String, Value>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_taken: Option<NotTaken>,
}

/// What an `ingest` did not take in, and why.
#[derive(Debug, Serialize)]
pub(crate) struct NotTaken {
    /// How many there are in all, whatever is listed.
    total: u64,
    /// How many of them mean that content is missing; links do not.
    losses: u64,
    /// The first thousand.
    files: Vec<Value>,
}

impl NotTaken {
    pub(crate) fn of(problems: &Problems) -> Self {
        let named = problems.first.iter();
        let file = |one: &Problem| json!({ "path": one.path, "cause": one.why.to_string() });
        Self {
            total: problems.total,
            losses: problems.losses,
            files: named.map(file).collect(),
        }
    }
}

impl Summary {
    pub(crate) fn of(batch: &v1::Batch, seconds: f64, not_taken: Option<NotTaken>) -> Self {
        let counts = batch.counts.unwrap_or_default();
        let map = |rows: &[(&str, u32)]| {
            rows.iter()
                .map(|(name, n)| ((*name).to_owned(), Value::from(*n)))
                .collect()
        };
        Self {
            batch_id: batch_id(&batch.name).to_owned(),
            state: batch_state(batch.state()),
            files: map(&states(&counts)),
            outcomes: map(&outcomes(&counts)),
            seconds: (seconds * 1000.0).round() / 1000.0,
            not_taken,
        }
    }
}

/// The id in a batch's name.
pub(crate) fn batch_id(name: &str) -> &str {
    name.strip_prefix("batches/").unwrap_or(name)
}

pub(crate) fn batch_state(state: v1::BatchState) -> &'static str {
    state
        .as_str_name()
        .strip_prefix("BATCH_STATE_")
        .unwrap_or("UNSPECIFIED")
}

pub(crate) fn file_state(state: v1::FileState) -> &'static str {
    state
        .as_str_name()
        .strip_prefix("FILE_STATE_")
        .unwrap_or("UNSPECIFIED")
}

/// `None` unless the file was processed.
pub(crate) fn outcome(outcome: v1::Outcome) -> Option<&'static str> {
    match outcome {
        v1::Outcome::Unspecified => None,
        other => other.as_str_name().strip_prefix("OUTCOME_"),
    }
}

fn states(counts: &v1::FileCounts) -> [(&'static str, u32); 9] {
    [
        ("PENDING", counts.pending),
        ("UPLOADING", counts.uploading),
        ("UPLOADED", counts.uploaded),
        ("QUEUED", counts.queued),
        ("PROCESSING", counts.processing),
        ("RETRYING", counts.retrying),
        ("PROCESSED", counts.processed),
        ("FAILED", counts.failed),
        ("CANCELLED", counts.cancelled),
    ]
}

fn outcomes(counts: &v1::FileCounts) -> [(&'static str, u32); 3] {
    [
        ("COMPLETE", counts.complete),
        ("PARTIAL", counts.partial),
        ("STORED_ONLY", counts.stored_only),
    ]
}

/// Files that share a reason or a warning.
#[derive(Debug, Default)]
struct Group {
    count: u64,
    stage: String,
    words: String,
    remedy: String,
    needs_bytes: bool,
    /// The system had tried again by itself: what fails so may succeed another time.
    retryable: bool,
    paths: Vec<String>,
}

/// Behind the words of what is waited for: since when, where that is known.
pub(crate) fn since(wait: &v1::Wait) -> String {
    let since = wait.since_time.map(|since| format!(", since {since}"));
    since.unwrap_or_default()
}

/// The table of a batch's end, with failures and warnings grouped and explained.
///
/// # Errors
/// The files cannot be listed.
pub(crate) async fn table(
    client: &Client,
    batch: &v1::Batch,
    seconds: f64,
) -> Result<String, ClientError> {
    let counts = batch.counts.unwrap_or_default();
    let mut text = String::new();
    let id = batch_id(&batch.name);
    let state = batch_state(batch.state());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "batch {id} {state} after {seconds:.1} s, {} files",
        counts.total
    );
    for (name, count) in states(&counts).into_iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "  {name:<12} {count:>9}");
        if name == "PROCESSED" {
            for (name, count) in outcomes(&counts)
                .into_iter()
                .filter(|(_, count)| *count > 0)
            {
                let _ = writeln!(text, "    {name:<12} {count:>7}");
            }
        }
    }
    if counts.failed > 0 {
        let selector = v1::FileSelector {
            states: vec![v1::FileState::Failed.into()],
            ..of_batch(batch)
        };
        let groups = grouped(client, selector, |file| {
            file.reason
                .iter()
                .map(|reason| (reason.code.clone(), reason_group(reason)))
                .collect()
        })
        .await?
        .unwrap_or_default();
        write_groups(&mut text, "failed", &groups, u64::from(counts.failed));
        if let Some(line) = offered_retry(id, &groups) {
            let _ = writeln!(text, "{line}");
        }
        if groups.values().any(|group| group.needs_bytes) {
            let _ = writeln!(
                text,
                "  send what is missing with: caudal ingest DIR --batch {id}"
            );
        }
    }
    if counts.partial > 0 {
        let selector = v1::FileSelector {
            outcomes: vec![v1::Outcome::Partial.into()],
            ..of_batch(batch)
        };
        let groups = grouped(client, selector, |file| {
            file.warnings
                .iter()
                .map(|warning| (warning.code.clone(), warning_group(warning)))
                .collect()
        })
        .await?
        .unwrap_or_default();
        write_groups(
            &mut text,
            "processed in part",
            &groups,
            u64::from(counts.partial),
        );
    }
    Ok(text)
}

fn of_batch(batch: &v1::Batch) -> v1::FileSelector {
    v1::FileSelector {
        batch: batch.name.clone(),
        ..v1::FileSelector::default()
    }
}

/// The command that tries again what may succeed another time, for when what it failed for is mended.
fn offered_retry(batch: &str, groups: &BTreeMap<String, Group>) -> Option<String> {
    let again = groups
        .iter()
        .filter(|(_, group)| group.retryable && !group.needs_bytes);
    let codes: Vec<&str> = again.map(|(code, _)| code.as_str()).collect();
    (!codes.is_empty()).then(|| {
        let codes = codes.join(",");
        format!("  once that is mended try again with: caudal retry {batch} --reason {codes}")
    })
}

fn reason_group(reason: &v1::Reason) -> Group {
    Group {
        stage: reason.stage.clone(),
        words: reason.words.clone(),
        remedy: reason.remedy.clone(),
        needs_bytes: reason.needs_bytes,
        retryable: reason.retryable,
        ..Group::default()
    }
}

fn warning_group(warning: &v1::Warning) -> Group {
    Group {
        stage: warning.stage.clone(),
        words: warning.words.clone(),
        ..Group::default()
    }
}

/// `None`: an upload token may not read what others brought.
async fn grouped(
    client: &Client,
    selector: v1::FileSelector,
    groups_of: impl Fn(&v1::File) -> Vec<(String, Group)>,
) -> Result<Option<BTreeMap<String, Group>>, ClientError> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut looked_at = 0;
    let mut request = v1::ListFilesRequest {
        selector: Some(selector),
        page_size: FILES_A_PAGE,
        page_token: String::new(),
        view: v1::FileView::Full.into(),
    };
    loop {
        let page = match client.list_files(request.clone()).await {
            Err(error) if error.is_denied() => return Ok(None),
            page => page?,
        };
        for file in &page.files {
            looked_at += 1;
            for (code, new) in groups_of(file) {
                let group = groups.entry(code).or_insert(new);
                group.count += 1;
                if group.paths.len() < PATHS_SHOWN {
                    group.paths.push(path_of(file));
                }
            }
        }
        if page.next_page_token.is_empty() || looked_at >= MAX_LOOKED_AT {
            return Ok(Some(groups));
        }
        request.page_token = page.next_page_token;
    }
}

/// A file's path, and of one that was left out why: its client said so, and nobody else knows.
fn path_of(file: &v1::File) -> String {
    let path = plain(&file.path);
    let left_out = file.reason.as_ref().filter(|reason| {
        reason.code == Reason::LeftOutByClient.code() && !reason.detail.is_empty()
    });
    match left_out {
        Some(reason) => format!("{path} ({})", plain(&reason.detail)),
        None => path.into_owned(),
    }
}

fn write_groups(text: &mut String, title: &str, groups: &BTreeMap<String, Group>, files: u64) {
    let _ = writeln!(text, "\n{title}:");
    let mut shown = 0;
    for (code, group) in groups {
        shown += group.count;
        let stage = if group.stage.is_empty() {
            String::new()
        } else {
            format!(" in {}", group.stage)
        };
        let _ = writeln!(text, "  {:>6}  {code}{stage}: {}", group.count, group.words);
        if !group.remedy.is_empty() {
            let _ = writeln!(text, "          {}", group.remedy);
        }
        let more = if group.count > group.paths.len() as u64 {
            ", …"
        } else {
            ""
        };
        let _ = writeln!(text, "          {}{more}", group.paths.join(", "));
    }
    if shown < files {
        let _ = writeln!(
            text,
            "  and {} more: `caudal files` lists them all",
            files - shown
        );
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_file_that_was_left_out_is_shown_with_the_words_of_who_left_it_out() {
        let file = |reason: Reason| v1::File {
            path: "a\u{202E}b".into(),
            reason: Some(v1::Reason {
                code: reason.code().into(),
                detail: "Permission denied".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let left_out = path_of(&file(Reason::LeftOutByClient));
        assert_eq!(left_out, "a\\u{202e}b (Permission denied)");
        assert_eq!(path_of(&file(Reason::CorruptDocument)), "a\\u{202e}b");
    }

    #[test]
    fn what_may_succeed_another_time_is_offered_to_be_tried_again() {
        let of = |reason: Reason| {
            let group = reason_group(&v1::Reason {
                retryable: reason.retryable(),
                needs_bytes: reason.needs_bytes(),
                ..v1::Reason::default()
            });
            (reason.code().to_owned(), group)
        };
        let broken = BTreeMap::from([of(Reason::CorruptDocument), of(Reason::NeverArrived)]);
        assert_eq!(offered_retry("b", &broken), None);
        let healed = BTreeMap::from([
            of(Reason::CorruptDocument),
            of(Reason::StoreUnavailable),
            of(Reason::WorkerLost),
        ]);
        assert_eq!(
            offered_retry("b", &healed).unwrap(),
            "  once that is mended try again with: caudal retry b --reason STORE_UNAVAILABLE,WORKER_LOST"
        );
    }

    #[test]
    fn the_summary_has_exactly_the_promised_fields() {
        let batch = v1::Batch {
            name: "batches/0190b5a2-0000-7000-8000-000000000001".into(),
            state: v1::BatchState::Failed.into(),
            counts: Some(v1::FileCounts {
                total: 3,
                processed: 2,
                failed: 1,
                complete: 2,
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = serde_json::to_value(Summary::of(&batch, 1.23456, None)).unwrap();
        assert_eq!(json["batch_id"], "0190b5a2-0000-7000-8000-000000000001");
        assert_eq!(json["state"], "FAILED");
        assert_eq!(
            (&json["files"]["PROCESSED"], &json["files"]["FAILED"]),
            (&2.into(), &1.into())
        );
        assert_eq!(json["files"]["PENDING"], 0);
        assert_eq!(
            json["outcomes"],
            serde_json::json!({"COMPLETE": 2, "PARTIAL": 0, "STORED_ONLY": 0})
        );
        assert_eq!(json["seconds"], 1.235);
        assert_eq!(json.as_object().unwrap().len(), 5);
    }

    #[test]
    fn groups_say_how_many_are_not_shown() {
        let mut groups = BTreeMap::new();
        let group = Group {
            count: 2,
            words: "the PDF is damaged".into(),
            paths: vec!["a.pdf".into()],
            ..Group::default()
        };
        groups.insert("CORRUPT_DOCUMENT".to_owned(), group);
        let mut text = String::new();
        write_groups(&mut text, "failed", &groups, 5);
        assert!(
            text.contains("2  CORRUPT_DOCUMENT: the PDF is damaged"),
            "{text}"
        );
        assert!(
            text.contains("a.pdf, …") && text.contains("and 3 more"),
            "{text}"
        );
    }
}
