//! What the batch itself keeps of what is not in it, so that whoever looks at it later, on the page or elsewhere, does not
//! take it for the whole folder. The page writes and reads the same.

use caudal_proto::convert::{json_from_struct, struct_from_json};
use caudal_proto::v1;
use serde_json::{Map, Value, json};

use super::progress::Problems;
use crate::client::Client;
use crate::rules::is_of_the_list;
use crate::walk::{NotTaken, Problem};

const NOTE: &str = "left_out";
const NAMES_IN_NOTE: usize = 100;
/// The metadata of a batch may have 16 KiB, and a letter up to six bytes as JSON.
const LETTERS_IN_NOTE: usize = 2_500;

/// Writes the note. Without it the files are where they belong all the same, so a refusal is only logged.
pub(super) async fn keep(client: &Client, batch: &v1::Batch, problems: &Problems) {
    let Some(note) = note_of(problems) else {
        return;
    };
    let known = batch.metadata.as_ref().map(json_from_struct);
    let mut metadata = known.and_then(Result::ok).unwrap_or_default();
    metadata.insert(NOTE.to_owned(), note);
    let Ok(metadata) = struct_from_json(&metadata) else {
        return;
    };
    let changed = v1::Batch {
        name: batch.name.clone(),
        metadata: Some(metadata),
        ..v1::Batch::default()
    };
    let kept = client.update_batch(changed, &["metadata"]).await;
    // An upload token writes none.
    if let Err(error) = kept
        && !error.is_denied()
    {
        tracing::warn!(%error, "what was left out could not be noted on the batch");
    }
}

fn note_of(problems: &Problems) -> Option<Value> {
    let named = problems.left_out_first.iter().chain(&problems.first);
    let mut names = Vec::new();
    let mut letters = 0;
    let mut listed = 0;
    for problem in named {
        let Some(kind) = kind_of(&problem.why) else {
            listed += 1;
            continue;
        };
        let name = name_of(problem, kind);
        letters += problem.path.chars().count() + problem.why.to_string().chars().count() + 24;
        if letters <= LETTERS_IN_NOTE && names.len() < NAMES_IN_NOTE {
            names.push(Value::Object(name));
        }
    }
    let count = (problems.left_out + problems.total).saturating_sub(listed);
    (count > 0).then(|| json!({ "files": count, "folders": 0, "names": names }))
}

fn name_of(problem: &Problem, kind: &str) -> Map<String, Value> {
    let why = match problem.why {
        // The kind says it.
        NotTaken::LeftOut(_) => String::new(),
        ref why => why.to_string(),
    };
    let mut name = Map::new();
    name.insert("path".to_owned(), problem.path.as_str().into());
    name.insert("kind".to_owned(), kind.into());
    name.insert("why".to_owned(), why.into());
    name.insert("folder".to_owned(), false.into());
    name
}

/// None for what is in the batch.
fn kind_of(why: &NotTaken) -> Option<&'static str> {
    match why {
        NotTaken::LeftOut(rule) if is_of_the_list(rule) => Some("left-out"),
        NotTaken::LeftOut(_) => Some("by-rule"),
        NotTaken::Unreadable(_) => Some("unreadable"),
        NotTaken::SymbolicLink
        | NotTaken::NotARegularFile
        | NotTaken::NameNotUtf8
        | NotTaken::PathNotAllowed(_)
        | NotTaken::Refused(_) => Some("refused"),
        NotTaken::NotInBatch => Some("not-in-batch"),
        NotTaken::OtherInBatch
        | NotTaken::ChangedSince
        | NotTaken::ChangedBefore
        | NotTaken::NotHere
        | NotTaken::Vanished
        | NotTaken::Changed
        | NotTaken::UploadFailed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn problem(path: &str, why: NotTaken) -> Problem {
        let path = path.to_owned();
        Problem { path, why }
    }

    #[test]
    fn the_note_counts_what_is_not_in_the_batch_and_names_the_first() {
        let problems = Problems {
            first: vec![
                problem("link", NotTaken::SymbolicLink),
                problem("gone", NotTaken::NotHere),
            ],
            total: 2,
            losses: 1,
            left_out_first: vec![problem(
                "Thumbs.db",
                NotTaken::LeftOut("Thumbs.db".to_owned()),
            )],
            left_out: 1,
        };
        let note = note_of(&problems).unwrap();
        assert_eq!(note["files"], 2);
        assert_eq!(note["names"][0]["kind"], "left-out");
        assert_eq!(note["names"][1]["path"], "link");
        assert_eq!(note["names"].as_array().unwrap().len(), 2);
        assert_eq!(note_of(&Problems::default()), None);
    }

    #[test]
    fn the_note_fits_into_the_metadata_of_a_batch() {
        let long = "\u{1f3c4}".repeat(60);
        let first = (0..1_000)
            .map(|number| {
                problem(
                    &format!("{long}{number}"),
                    NotTaken::LeftOut("*".to_owned()),
                )
            })
            .collect();
        let problems = Problems {
            left_out_first: first,
            left_out: 5_000,
            ..Problems::default()
        };
        let note = note_of(&problems).unwrap();
        assert!(note.to_string().len() < 16 * 1024);
        assert_eq!(note["files"], 5_000);
    }
}
