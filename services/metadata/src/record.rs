use caudal_domain::limits::MAX_FACTS_BYTES;
use caudal_domain::{Outcome, Reason};
use caudal_stage::{Failure, Input, InputArtifact, Job};
use serde_json::{Value, json};

/// Bytes of a record as JSON: it is kept as this stage's facts.
pub const MAX_RECORD_BYTES: usize = MAX_FACTS_BYTES;

/// What stands in place of facts that make a record too large. They are still in the stage's own result.
const LEFT_OUT: &str = "left_out";

/// The final record of a file. Where it would be too large, the largest facts are left out, one stage after the other: they
/// are kept with the stages' results in any case.
pub(crate) fn record(job: &Job, outcome: Outcome) -> Result<Value, Failure> {
    let mut stages: Vec<Value> = job.inputs.iter().map(stage).collect();
    loop {
        let record = json!({
            "path": job.path,
            "size": size(job),
            "sha256": job.content_sha256.map(hex::encode),
            "media_type": job.media_type,
            "stages": stages,
            "metadata": job.entry_metadata,
            "outcome": outcome.name(),
        });
        let bytes = json_bytes(&record);
        if bytes <= MAX_RECORD_BYTES {
            return Ok(record);
        }
        let Some(largest) = largest_facts(&mut stages) else {
            let detail = format!("a record of {bytes} bytes, at most {MAX_RECORD_BYTES} are kept");
            return Err(Failure::new(Reason::OutputTooLarge, detail));
        };
        largest["facts"] = json!({ LEFT_OUT: true });
    }
}

/// As verified by the upload stage; the declared size is the same, or the file would not be here.
fn size(job: &Job) -> Value {
    let verified = job.inputs.iter().find_map(|input| input.facts.get("size"));
    verified
        .cloned()
        .unwrap_or_else(|| json!(job.declared_size))
}

fn stage(input: &Input) -> Value {
    let mut warnings = Vec::with_capacity(input.warnings.len());
    for warning in &input.warnings {
        warnings.push(json!({ "code": warning.code.code(), "words": warning.words }));
    }
    json!({
        "stage": input.stage.name(),
        "version": input.version,
        "facts": input.facts,
        "artifacts": input.artifacts.iter().map(artifact).collect::<Vec<_>>(),
        "warnings": warnings,
        "skipped": input.skipped,
        "usage": {
            "bytes": input.usage.bytes,
            "pages": input.usage.pages,
            "tokens": input.usage.tokens,
            "provider_calls": input.usage.provider_calls,
        },
    })
}

/// Keys stay inside: a record is shown, and an object is fetched by stage and name.
fn artifact(artifact: &InputArtifact) -> Value {
    json!({ "name": artifact.name, "size": artifact.size, "media_type": artifact.media_type })
}

fn largest_facts(stages: &mut [Value]) -> Option<&mut Value> {
    let shrinkable = stages
        .iter_mut()
        .filter(|stage| stage["facts"].get(LEFT_OUT).is_none());
    let largest = shrinkable.max_by_key(|stage| json_bytes(&stage["facts"]));
    largest.filter(|stage| !stage["facts"].is_null())
}

fn json_bytes(value: &Value) -> usize {
    value.to_string().len()
}
