//! The upload stage: reads the object that was confirmed once, checks it against what was declared, finds out what it is,
//! and copies it, inside the store, to the key where it stays. The landing object goes only after that is recorded.

mod container;
mod content;
mod media_type;
mod text;

use caudal_domain::keys::{final_key, tenant_prefix};
use caudal_domain::{Reason, Stage, StageVersion, Warning, WarningCode};
use caudal_objects::{ObjectError, ObjectStore};
use caudal_stage::{Artifact, Done, Failure, Handler, Job, RecordedFile, Usage};

use content::Content;

/// Version of this stage's code: raised whenever it would find something else in the same bytes.
pub const CODE_VERSION: &str = "1";

/// Name of the artifact that is the file itself, at its final key.
pub const ORIGINAL: &str = "original";

/// The handler of the upload stage.
#[derive(Debug, Clone)]
pub struct Upload {
    objects: ObjectStore,
}

impl Upload {
    /// A handler that tidies up in this store.
    pub fn new(objects: ObjectStore) -> Self {
        Self { objects }
    }
}

impl Handler for Upload {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::Upload, CODE_VERSION)
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        let Some(source) = job.source_key.clone() else {
            return Err(Failure::new(Reason::Internal, "the lease names no source"));
        };
        let content = read(&job, &source).await?;
        check(&job, &content)?;
        let kept = final_key(job.file, &content.sha256);
        // At a reprocess the source is the final object already.
        let etag = if source == kept {
            content.etag.clone()
        } else {
            let copied = job
                .objects
                .copy_sized_if_match(&source, &content.etag, content.size, &kept)
                .await;
            copied.map_err(|error| failure_of_source(&error))?
        };
        let media_type = media_type::sniff(&content, &job.path);
        let warnings = media_type::differs_from_name(media_type, &job.path)
            .map(|words| Warning::new(WarningCode::MediaTypeDiffers, Stage::Upload, words));
        Ok(Done {
            artifacts: vec![Artifact {
                name: ORIGINAL.to_owned(),
                size: content.size,
                media_type: media_type.to_owned(),
            }],
            facts: serde_json::json!({
                "size": content.size,
                "sha256": hex::encode(content.sha256),
                "media_type": media_type,
                "etag": etag,
            }),
            content_sha256: Some(content.sha256),
            media_type: Some(media_type.to_owned()),
            warnings: warnings.into_iter().collect(),
            usage: Usage {
                bytes: content.size,
                ..Usage::default()
            },
            ..Done::default()
        })
    }

    fn wants_recorded(&self) -> bool {
        true
    }

    /// Deletes the landing objects: they are recorded elsewhere now. What is not deleted here the collector finds.
    async fn recorded(&self, files: Vec<RecordedFile>) {
        let mut landed = Vec::with_capacity(files.len());
        for file in files {
            let landing = format!("{}landing/", tenant_prefix(file.file.tenant));
            landed.extend(
                file.source_key
                    .filter(|source| source.starts_with(&landing)),
            );
        }
        if landed.is_empty() {
            return;
        }
        if let Err(error) = self.objects.delete_many(&landed).await {
            tracing::warn!(key = error.key(), %error, objects = landed.len(), "landing objects stay for the collector");
        }
    }
}

/// Reads the confirmed object. A final object has its sha256 in its key and needs no ETag.
async fn read(job: &Job, source: &str) -> Result<Content, Failure> {
    let landing = format!("{}landing/", tenant_prefix(job.file.tenant));
    let confirmed = job.etag.as_deref().filter(|_| source.starts_with(&landing));
    let object = job
        .objects
        .get(source, confirmed)
        .await
        .map_err(|error| failure_of_source(&error))?;
    if object.size != job.declared_size {
        let detail = format!(
            "declared {} bytes, found {}",
            job.declared_size, object.size
        );
        return Err(Failure::new(Reason::SizeMismatch, detail));
    }
    tokio::select! {
        read = Content::read(object) => read.map_err(|error| failure_of_source(&error)),
        () = job.cancelled.cancelled() => Err(Failure::new(Reason::Internal, "cancelled")),
    }
}

/// Compares with what was declared, and at a reprocess with what was recorded.
fn check(job: &Job, content: &Content) -> Result<(), Failure> {
    for (expected, whose) in [
        (&job.declared_sha256, "declared"),
        (&job.content_sha256, "recorded before"),
    ] {
        if let Some(expected) = expected
            && *expected != content.sha256
        {
            let detail = format!(
                "sha256 {whose} {}, found {}",
                hex::encode(expected),
                hex::encode(content.sha256)
            );
            return Err(Failure::new(Reason::ChecksumMismatch, detail));
        }
    }
    Ok(())
}

/// The source is the caller's upload: gone or replaced, only the caller can bring it again.
fn failure_of_source(error: &ObjectError) -> Failure {
    let reason = match error {
        ObjectError::NotFound { .. } => Reason::ObjectMissing,
        ObjectError::PreconditionFailed { .. } => Reason::ObjectChanged,
        ObjectError::Unavailable { .. }
        | ObjectError::TooLarge { .. }
        | ObjectError::Refused { .. } => Reason::StoreUnavailable,
    };
    Failure::of_store(reason, error)
}
