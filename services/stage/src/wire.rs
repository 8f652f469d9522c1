//! Between the messages of the mesh and what handlers see.

use caudal_domain::limits::{MAX_DETAIL_CHARS, MAX_FACTS_BYTES, MAX_WARNINGS_PER_RESULT};
use caudal_domain::{FileRef, Generation, Reason, StageSet, StageVersion, Token, idempotency_key};
use caudal_objects::ObjectStore;
use caudal_proto::convert::{
    outcome_to_proto, sha256_from_bytes, stage_from_name, warning_from_proto, warning_to_proto,
};
use caudal_proto::{mesh, v1};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::handler::{Artifact, ArtifactWriter, Done, Input, InputArtifact, Job, Usage};

/// What a job is made of besides the ledger's message.
pub(crate) struct JobParts {
    pub(crate) file: FileRef,
    pub(crate) token: Token,
    pub(crate) nonce: String,
    pub(crate) objects: ObjectStore,
    pub(crate) cancelled: CancellationToken,
}

/// Makes the job of one execution.
///
/// # Errors
/// The ledger's message makes no sense: a fault of the system, not of the file.
pub(crate) fn job_from_work(
    work: mesh::v1::Work,
    version: &StageVersion,
    parts: JobParts,
) -> Result<Job, Failure> {
    let fault = |detail: String| Failure::new(Reason::Internal, detail);
    let generation = Generation(work.generation);
    let mut inputs = Vec::with_capacity(work.inputs.len());
    for input in work.inputs {
        inputs.push(
            input_from_proto(input)
                .map_err(|error| fault(format!("an input of the lease: {error}")))?,
        );
    }
    let sha256 = |bytes: &[u8]| {
        sha256_from_bytes(bytes).map_err(|error| fault(format!("a checksum of the lease: {error}")))
    };
    let declared_sha256 = sha256(&work.declared_sha256)?;
    let content_sha256 = sha256(&work.content_sha256)?;
    let stages = StageSet::parse(&work.stages)
        .map_err(|error| fault(format!("the stages of the lease: {error}")))?;
    let entry_metadata = json_or_null(&work.entry_metadata)
        .map_err(|error| fault(format!("the entry's metadata: {error}")))?;
    let idempotency_key = match &content_sha256 {
        Some(content) => idempotency_key(content, parts.file.tenant, &work.path, version),
        None => String::new(),
    };
    let artifacts = ArtifactWriter::new(
        parts.objects.clone(),
        version.stage,
        parts.file,
        generation,
        parts.token,
        &parts.nonce,
    );
    Ok(Job {
        file: parts.file,
        token: parts.token,
        generation,
        path: work.path,
        media_type: some_text(work.media_type),
        source_key: some_text(work.source_key),
        final_key: some_text(work.final_key),
        etag: some_text(work.etag),
        declared_size: u64::try_from(work.declared_size).unwrap_or(0),
        declared_sha256,
        content_sha256,
        inputs,
        entry_metadata,
        stages,
        suspect: work.suspect,
        idempotency_key,
        dimensions: Some(work.dimensions).filter(|length| *length > 0),
        objects: parts.objects,
        artifacts,
        cancelled: parts.cancelled,
    })
}

#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error(transparent)]
    Convert(#[from] caudal_proto::convert::ConvertError),
    #[error("facts: {0}")]
    Facts(#[from] serde_json::Error),
}

fn input_from_proto(input: mesh::v1::Input) -> Result<Input, InputError> {
    let mut warnings = Vec::with_capacity(input.warnings.len());
    for warning in &input.warnings {
        warnings.push(warning_from_proto(warning)?);
    }
    let artifact = |artifact: mesh::v1::InputArtifact| InputArtifact {
        name: artifact.name,
        key: artifact.key,
        size: u64::try_from(artifact.size).unwrap_or(0),
        media_type: artifact.media_type,
    };
    Ok(Input {
        stage: stage_from_name(&input.stage)?,
        facts: json_or_null(&input.facts)?,
        artifacts: input.artifacts.into_iter().map(artifact).collect(),
        warnings,
        version: input.version,
        skipped: input.skipped,
        usage: usage_from_proto(input.usage.unwrap_or_default()),
    })
}

fn some_text(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn json_or_null(bytes: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    if bytes.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(bytes)
}

/// A good outcome as it is reported.
///
/// # Errors
/// The handler found more than a result may hold.
pub(crate) fn done_to_proto(done: Done, nonce: String) -> Result<mesh::v1::Done, Failure> {
    let facts = match &done.facts {
        serde_json::Value::Null => b"{}".to_vec(),
        serde_json::Value::Object(_) => serde_json::to_vec(&done.facts)
            .map_err(|error| Failure::new(Reason::Internal, format!("facts: {error}")))?,
        _ => {
            return Err(Failure::new(
                Reason::Internal,
                "the facts of a result must be an object",
            ));
        }
    };
    if facts.len() > MAX_FACTS_BYTES {
        let detail = format!(
            "facts of {} bytes, at most {MAX_FACTS_BYTES} are kept",
            facts.len()
        );
        return Err(Failure::new(Reason::OutputTooLarge, detail));
    }
    let artifact = |artifact: Artifact| mesh::v1::WrittenArtifact {
        name: artifact.name,
        size: saturating_i64(artifact.size),
        media_type: artifact.media_type,
    };
    let outcome: v1::Outcome = outcome_to_proto(done.outcome);
    Ok(mesh::v1::Done {
        artifacts: done.artifacts.into_iter().map(artifact).collect(),
        nonce,
        facts: facts.into(),
        content_sha256: done
            .content_sha256
            .map(|sha256| sha256.to_vec().into())
            .unwrap_or_default(),
        media_type: done.media_type.unwrap_or_default(),
        has_text: done.has_text,
        warnings: done
            .warnings
            .iter()
            .take(MAX_WARNINGS_PER_RESULT)
            .map(warning_to_proto)
            .collect(),
        usage: Some(usage_to_proto(done.usage)),
        outcome: outcome.into(),
        dimensions: done.dimensions.unwrap_or(0),
    })
}

/// A bad outcome as it is reported. `trace_id` is empty when nothing was traced.
pub(crate) fn failure_to_proto(failure: &Failure, trace_id: String) -> mesh::v1::Failed {
    let retry_after_ms = failure.retry_after.map_or(0, |delay| {
        u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)
    });
    mesh::v1::Failed {
        reason: failure.reason.code().to_owned(),
        detail: failure.detail.chars().take(MAX_DETAIL_CHARS).collect(),
        trace_id,
        retry_after_ms,
    }
}

fn usage_to_proto(usage: Usage) -> v1::Usage {
    v1::Usage {
        bytes: saturating_i64(usage.bytes),
        pages: saturating_i64(usage.pages),
        tokens: saturating_i64(usage.tokens),
        provider_calls: saturating_i64(usage.provider_calls),
    }
}

fn usage_from_proto(usage: v1::Usage) -> Usage {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Usage {
        bytes: number(usage.bytes),
        pages: number(usage.pages),
        tokens: number(usage.tokens),
        provider_calls: number(usage.provider_calls),
    }
}

fn saturating_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use caudal_domain::Outcome;

    #[test]
    fn facts_beyond_the_bound_or_of_another_shape_are_a_failure() {
        let large = Done {
            facts: serde_json::json!({ "text": "x".repeat(MAX_FACTS_BYTES) }),
            ..Done::default()
        };
        assert_eq!(
            done_to_proto(large, "n".into()).unwrap_err().reason,
            Reason::OutputTooLarge
        );
        let list = Done {
            facts: serde_json::json!([1]),
            ..Done::default()
        };
        assert_eq!(
            done_to_proto(list, "n".into()).unwrap_err().reason,
            Reason::Internal
        );
        let none = Done {
            outcome: Some(Outcome::Partial),
            ..Done::default()
        };
        let done = done_to_proto(none, "n".into()).unwrap();
        assert_eq!(
            (done.facts.as_ref(), done.outcome),
            (b"{}".as_slice(), v1::Outcome::Partial as i32)
        );
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let failure = Failure::new(Reason::Internal, "ñ".repeat(MAX_DETAIL_CHARS + 9));
        let failed = failure_to_proto(&failure, String::new());
        assert_eq!(failed.detail.chars().count(), MAX_DETAIL_CHARS);
        assert_eq!(
            (failed.reason.as_str(), failed.retry_after_ms),
            ("INTERNAL", 0)
        );
    }
}
