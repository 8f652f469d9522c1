//! What the caller says of a file and what stages found in it: chosen by, read back, and asked for in plain SQL.

use bytes::Bytes;
use caudal_domain::{BatchId, Stage, names};
use caudal_harness::Database;
use caudal_proto::convert::{json_from_struct, struct_from_json, timestamp_from_micros};
use caudal_proto::mesh::v1::Done;
use caudal_proto::v1::metadata_match::Value;
use caudal_proto::v1::{
    AddEntriesRequest, Batch, CountFilesRequest, CountGrouping, FileEntry, FileSelector,
    ListFilesRequest, MetadataMatch, entry,
};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::json;
use tonic::{Code, Status};

use super::support::{TestLedger, file, good, request_id, uploaded, wrong_fields};

/// Adds a file for each object, named after its place: `0.txt`, `1.txt`.
async fn add(
    ledger: &TestLedger,
    batch: BatchId,
    metadata: &[serde_json::Value],
) -> Result<(), Status> {
    let entries = metadata.iter().enumerate().map(|(at, metadata)| {
        let mut entry = file(&format!("{at}.txt"), 10);
        entry.kind = Some(entry::Kind::File(FileEntry {
            size: 10,
            metadata: metadata
                .as_object()
                .map(|object| struct_from_json(object).unwrap()),
            modified_time: Some(timestamp_from_micros(1_000_000 + at as i64)),
            ..FileEntry::default()
        }));
        entry
    });
    let request = AddEntriesRequest {
        batch: names::batch_name(batch),
        entries: entries.collect(),
        request_id: request_id(),
    };
    ledger.batches().add_entries(request).await.map(|_| ())
}

fn at(path: &[&str], value: Value) -> MetadataMatch {
    MetadataMatch {
        path: path.iter().map(|name| (*name).to_owned()).collect(),
        value: Some(value),
    }
}

fn text(path: &[&str], value: &str) -> MetadataMatch {
    at(path, Value::Text(value.to_owned()))
}

fn of(batch: BatchId, metadata: &[MetadataMatch]) -> FileSelector {
    FileSelector {
        batch: names::batch_name(batch),
        metadata: metadata.to_vec(),
        ..FileSelector::default()
    }
}

async fn chosen(ledger: &TestLedger, selector: &FileSelector) -> Vec<u32> {
    let mut found = Vec::new();
    let mut request = ListFilesRequest {
        selector: Some(selector.clone()),
        page_size: 1,
        ..ListFilesRequest::default()
    };
    loop {
        let page = ledger.files().list_files(request.clone()).await.unwrap();
        let page = page.into_inner();
        found.extend(page.files.iter().map(|file| file.ordinal));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let request = CountFilesRequest {
        selector: Some(selector.clone()),
        group_by: CountGrouping::State.into(),
    };
    let counted = ledger.files().count_files(request).await.unwrap();
    assert_eq!(counted.into_inner().total as usize, found.len());
    found
}

async fn files_are_chosen_by_what_the_caller_said_of_them(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let said = [
        json!({ "project": "aforo", "year": 2026, "done": true }),
        json!({ "project": "aforo", "where": { "river": "Paraná", "km": 1.5 } }),
        json!({ "project": ["aforo"], "year": "2026", "done": 1 }),
        json!({ "where": { "river": ["Paraná"], "0": "a \"quoted\"\nline" } }),
        json!(null),
    ];
    add(&ledger, batch, &said).await.unwrap();
    let project = || text(&["project"], "aforo");
    for (metadata, files) in [
        (vec![project()], vec![0, 1]),
        (vec![at(&["year"], Value::Number(2026.0))], vec![0]),
        (vec![text(&["year"], "2026")], vec![2]),
        (vec![at(&["done"], Value::Truth(true))], vec![0]),
        (vec![at(&["done"], Value::Number(1.0))], vec![2]),
        (vec![text(&["where", "river"], "Paraná")], vec![1]),
        (vec![at(&["where", "km"], Value::Number(1.5))], vec![1]),
        (vec![text(&["where", "0"], "a \"quoted\"\nline")], vec![3]),
        (
            vec![project(), text(&["where", "river"], "Paraná")],
            vec![1],
        ),
        (vec![project(), text(&["project"], "other")], vec![]),
        // Nothing of a list, of a text or of nothing is looked at.
        (vec![text(&["project", "0"], "aforo")], vec![]),
        (vec![text(&["project", "aforo"], "aforo")], vec![]),
        (vec![text(&["Project"], "aforo")], vec![]),
    ] {
        assert_eq!(
            chosen(&ledger, &of(batch, &metadata)).await,
            files,
            "{metadata:?}"
        );
    }
    let by_ordinal = FileSelector {
        ordinals: vec![1, 2, 3],
        ..of(batch, &[project()])
    };
    assert_eq!(chosen(&ledger, &by_ordinal).await, [1]);
    // What was said is read back as it was, and so is the time of the last change.
    let read = ledger.file(batch, 1).await;
    let metadata = json_from_struct(&read.metadata.unwrap()).unwrap();
    assert_eq!(serde_json::Value::Object(metadata), said[1]);
    assert_eq!(read.modified_time, Some(timestamp_from_micros(1_000_001)));
    ledger.verify().await;
}

async fn a_match_that_finds_nothing_by_its_form_is_refused(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let long = "x".repeat(65);
    let deep: Vec<&str> = vec!["a"; 9];
    for (metadata, field) in [
        (vec![text(&[], "x")], "selector.metadata[0]"),
        (vec![text(&["a\"b"], "x")], "selector.metadata[0]"),
        (vec![text(&["a", ""], "x")], "selector.metadata[0]"),
        (vec![text(&[&long], "x")], "selector.metadata[0].path[0]"),
        (vec![text(&deep, "x")], "selector.metadata[0].path"),
        (
            vec![text(&["a"], &"x".repeat(1_025))],
            "selector.metadata[0].value",
        ),
        (
            vec![at(&["a"], Value::Number(f64::NAN))],
            "selector.metadata[0]",
        ),
        (vec![text(&["a"], "x"); 5], "selector.metadata"),
        (
            vec![MetadataMatch {
                path: vec!["a".to_owned()],
                value: None,
            }],
            "selector.metadata[0]",
        ),
    ] {
        let request = ListFilesRequest {
            selector: Some(of(batch, &metadata)),
            ..ListFilesRequest::default()
        };
        let refused = ledger.files().list_files(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{metadata:?}");
        assert_eq!(wrong_fields(&refused), [field], "{metadata:?}");
    }
    let anywhere = CountFilesRequest {
        selector: Some(FileSelector {
            metadata: vec![text(&["a"], "x")],
            ..FileSelector::default()
        }),
        ..CountFilesRequest::default()
    };
    let refused = ledger.files().count_files(anywhere).await.unwrap_err();
    assert_eq!(wrong_fields(&refused)[0], "selector.metadata");
}

// No database keeps U+0000 in JSON: callers are told, and stages are read without it.
async fn what_no_database_keeps_in_json_is_refused_or_replaced(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    for bad in [json!({ "a": "x\0" }), json!({ "a\0": ["x"] })] {
        let refused = add(&ledger, batch, &[bad]).await.unwrap_err();
        assert_eq!(wrong_fields(&refused), ["entries[0].file.metadata"]);
    }
    add(&ledger, batch, &[json!({})]).await.unwrap();
    ledger.confirm(batch, 0..1).await;
    pass(&ledger, Stage::Upload, 1, &[]).await;
    let facts = r#"{"title":"a\u0000b","of\u0000":["\\u0000"]}"#;
    pass(&ledger, Stage::ExtractText, 1, &[facts]).await;
    let read = ledger.file(batch, 0).await;
    let results = read.results.iter();
    let text = results.last().unwrap();
    let facts = json_from_struct(text.facts.as_ref().unwrap()).unwrap();
    let expected = json!({ "title": "a\u{FFFD}b", "of\u{FFFD}": ["\\u0000"] });
    assert_eq!(serde_json::Value::Object(facts), expected);
    ledger.verify().await;
}

/// Takes so many files through a stage, each with facts of its own by its ordinal.
async fn pass(ledger: &TestLedger, stage: Stage, count: usize, facts: &[&'static str]) {
    let mut reader = ledger.reader(stage);
    let held = ledger.take(&mut reader, stage, count).await;
    ledger.lease(stage, &held).await;
    for (file, token) in held {
        let report = match facts.get(file.ordinal as usize) {
            None => uploaded("text/plain"),
            Some(facts) => good(Done {
                nonce: "n".into(),
                facts: Bytes::from_static(facts.as_bytes()),
                ..Done::default()
            }),
        };
        ledger.report(stage, &[(file, token)], &report).await;
    }
}

/// The block of SQL in the manual.
fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let (_, rest) = manual.split_once("```sql\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

async fn the_sql_of_the_manual_finds_titles_and_words_by_what_the_caller_said(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let said = [
        json!({ "project": "aforo" }),
        json!({ "project": "other" }),
        json!({ "project": "aforo" }),
    ];
    add(&ledger, batch, &said).await.unwrap();
    ledger.confirm(batch, 0..3).await;
    pass(&ledger, Stage::Upload, 3, &[]).await;
    let facts = [
        r#"{"title":"Puente","words":7}"#,
        r#"{"title":"Not asked for","words":9}"#,
        r#"{"words":12}"#,
    ];
    pass(&ledger, Stage::ExtractText, 3, &facts).await;
    let connection = ledger.database().await;
    let statement = Statement::from_string(connection.get_database_backend(), example());
    let rows = connection.query_all_raw(statement).await.unwrap();
    let found: Vec<(String, Option<String>, i32)> = rows
        .iter()
        .map(|row| {
            (
                row.try_get("", "name").unwrap(),
                row.try_get("", "title").unwrap(),
                row.try_get("", "words").unwrap(),
            )
        })
        .collect();
    let expected = [
        ("2.txt".to_owned(), None, 12),
        ("0.txt".to_owned(), Some("Puente".to_owned()), 7),
    ];
    assert_eq!(found, expected);
}

on_each_database![
    files_are_chosen_by_what_the_caller_said_of_them,
    a_match_that_finds_nothing_by_its_form_is_refused,
    what_no_database_keeps_in_json_is_refused_or_replaced,
    the_sql_of_the_manual_finds_titles_and_words_by_what_the_caller_said,
];
