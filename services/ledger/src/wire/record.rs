//! The final record of a file. Each fact is kept once, with the stage that found it; the record is composed when it is read.

use caudal_domain::Stage;
use caudal_domain::limits::MAX_FACTS_BYTES;
use serde_json::{Map, Value, json};

use super::json::struct_of;
use crate::store::reads::FileView;
use crate::store::results::{ResultRow, StoredArtifact};

/// Bytes of a record as JSON at most.
const MAX_RECORD_BYTES: usize = MAX_FACTS_BYTES;
/// What stands in place of facts that make a record too large. They are still in the stage's own result.
const LEFT_OUT: &str = "left_out";
/// Kept with the metadata stage's result: how the file ended in that generation.
const OUTCOME: &str = "outcome";

/// The record of the generation that these results belong to; none before the metadata stage has judged it. Where it would
/// be too large, the largest facts are left out, one stage after the other.
pub(super) fn record(
    view: &FileView,
    results: &[ResultRow],
    versions: &dyn Fn(u32) -> String,
) -> Option<prost_types::Struct> {
    let judged = results.iter().find(|result| is_judgement(result))?;
    let upload = results.iter().find(|result| result.content.is_some());
    let of_work = results.iter().filter(|result| !is_judgement(result));
    let mut stages: Vec<Value> = of_work.map(|result| stage(result, versions)).collect();
    let mut metadata = object(view.metadata.as_deref().unwrap_or_default()).map(Value::Object);
    loop {
        let record = json!({
            "path": view.path,
            "size": view.work.size,
            "sha256": upload.and_then(|upload| upload.content).map(hex::encode),
            "media_type": upload.and_then(|upload| upload.media_type.as_deref()),
            "stages": stages,
            "metadata": metadata,
            "outcome": object(&judged.facts)?.get(OUTCOME),
        });
        if json_bytes(&record) <= MAX_RECORD_BYTES {
            return struct_of(record.as_object()?);
        }
        match largest_facts(&mut stages) {
            Some(largest) => largest["facts"] = left_out(),
            None if metadata.is_some() => metadata = None,
            None => return None,
        }
    }
}

/// The facts of a result as they are shown: the upload stage's stand in columns of their own, but for what only the store
/// knows.
pub(super) fn facts(result: &ResultRow) -> Option<Map<String, Value>> {
    let mut facts = object(&result.facts)?;
    if let Some(content) = result.content {
        let size = result.artifacts.first().map(|original| original.size);
        facts.insert("sha256".to_owned(), hex::encode(content).into());
        facts.insert("size".to_owned(), json!(size));
        facts.insert("media_type".to_owned(), json!(result.media_type));
    }
    Some(facts)
}

fn is_judgement(result: &ResultRow) -> bool {
    result.stage == Stage::Metadata
}

fn stage(result: &ResultRow, versions: &dyn Fn(u32) -> String) -> Value {
    let warnings = result.warnings.iter();
    let warnings: Vec<Value> = warnings
        .map(|warning| json!({ "code": warning.code.code(), "words": warning.words }))
        .collect();
    json!({
        "stage": result.stage.name(),
        "version": result.version.map(versions).unwrap_or_default(),
        "facts": facts(result),
        "artifacts": result.artifacts.iter().map(artifact).collect::<Vec<_>>(),
        "warnings": warnings,
        "skipped": result.skipped,
        "usage": {
            "bytes": result.used.bytes,
            "pages": result.used.pages,
            "tokens": result.used.tokens,
            "provider_calls": result.used.calls,
        },
    })
}

/// Keys stay inside: a record is shown, and an object is fetched by stage and name.
fn artifact(artifact: &StoredArtifact) -> Value {
    json!({ "name": artifact.name, "size": artifact.size, "media_type": artifact.media_type })
}

fn largest_facts(stages: &mut [Value]) -> Option<&mut Value> {
    let shrinkable = stages
        .iter_mut()
        .filter(|stage| stage["facts"].get(LEFT_OUT).is_none() && !stage["facts"].is_null());
    shrinkable.max_by_key(|stage| json_bytes(&stage["facts"]))
}

fn left_out() -> Value {
    json!({ LEFT_OUT: true })
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn json_bytes(value: &Value) -> usize {
    value.to_string().len()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchId, FileRef, Generation, TenantId, Token, Warning, WarningCode};
    use caudal_proto::convert::json_from_struct;
    use uuid::Uuid;

    use super::*;
    use crate::likeness::Likeness;
    use crate::store::results::Used;
    use crate::store::time::Micros;
    use crate::store::work::WorkRow;

    const AT: Micros = Micros(0);

    fn file() -> FileRef {
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        FileRef::new(tenant, BatchId::from_uuid(Uuid::from_u128(2)), 3)
    }

    fn view() -> FileView {
        FileView {
            work: WorkRow::pending(file(), 0, Likeness::sized(7), AT),
            path: "in/report.pdf".to_owned(),
            declared_sha256: None,
            metadata: Some(r#"{"author":"Ana"}"#.to_owned()),
            modified_at: None,
            created_at: AT,
        }
    }

    fn result(stage: Stage, facts: &Value) -> ResultRow {
        ResultRow {
            version: Some(4),
            facts: facts.to_string(),
            skipped: false,
            ..ResultRow::skipped(file(), Generation::FIRST, stage, Token::FIRST, AT)
        }
    }

    fn upload() -> ResultRow {
        ResultRow {
            content: Some([0xab; 32]),
            media_type: Some("application/pdf".to_owned()),
            artifacts: vec![StoredArtifact {
                name: "original".to_owned(),
                size: 7,
                media_type: "application/pdf".to_owned(),
            }],
            ..result(Stage::Upload, &json!({ "etag": "e" }))
        }
    }

    fn judged() -> ResultRow {
        result(Stage::Metadata, &json!({ "outcome": "PARTIAL" }))
    }

    fn shown(results: &[ResultRow]) -> Option<Value> {
        let record = record(&view(), results, &|version| format!("version {version}"))?;
        Some(Value::Object(json_from_struct(&record).unwrap()))
    }

    #[test]
    fn the_record_holds_what_every_stage_found() {
        let text = ResultRow {
            warnings: vec![Warning::plain(
                WarningCode::NoTextOnPages,
                Stage::ExtractText,
            )],
            used: Used {
                pages: 2,
                ..Used::default()
            },
            ..result(Stage::ExtractText, &json!({ "words": 12 }))
        };
        let record = shown(&[upload(), text, judged()]).unwrap();
        assert_eq!(record["path"], "in/report.pdf");
        assert_eq!(record["size"].as_f64(), Some(7.0));
        assert_eq!(record["sha256"], "ab".repeat(32));
        assert_eq!(record["media_type"], "application/pdf");
        assert_eq!(record["metadata"]["author"], "Ana");
        assert_eq!(record["outcome"], "PARTIAL");
        let stages = record["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 2);
        assert_eq!(stages[0]["facts"]["etag"], "e");
        assert_eq!(stages[0]["facts"]["sha256"], "ab".repeat(32));
        assert_eq!(stages[0]["facts"]["media_type"], "application/pdf");
        assert_eq!(stages[0]["facts"]["size"].as_f64(), Some(7.0));
        assert_eq!(stages[0]["artifacts"][0]["name"], "original");
        assert_eq!(stages[1]["stage"], "extract-text");
        assert_eq!(stages[1]["version"], "version 4");
        assert_eq!(stages[1]["facts"]["words"].as_f64(), Some(12.0));
        assert_eq!(stages[1]["usage"]["pages"].as_f64(), Some(2.0));
        assert_eq!(stages[1]["warnings"][0]["code"], "NO_TEXT_ON_PAGES");
    }

    #[test]
    fn there_is_no_record_before_the_file_is_judged() {
        assert_eq!(shown(&[upload()]), None);
    }

    #[test]
    fn a_record_never_exceeds_its_bound_and_keeps_the_smaller_facts() {
        let large = json!({ "text": "x".repeat(MAX_RECORD_BYTES - 100) });
        let record = shown(&[
            upload(),
            result(Stage::ExtractText, &large),
            result(Stage::Embeddings, &json!({ "chunks": 4 })),
            judged(),
        ]);
        let record = record.unwrap();
        assert!(json_bytes(&record) <= MAX_RECORD_BYTES + 100);
        assert_eq!(record["stages"][1]["facts"]["left_out"], true);
        assert_eq!(record["stages"][2]["facts"]["chunks"].as_f64(), Some(4.0));
    }
}
