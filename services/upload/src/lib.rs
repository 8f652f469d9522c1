//! The upload stage: reads the object that was confirmed once, checks it against what was declared, finds out what it is,
//! and copies it, inside the store, to the key where it stays. What stands there already, under the checksum that was
//! declared, was checked before: by this stage, or by the store, which takes nothing else by the URL of such a key. Of that
//! only the beginning is read (protocol 12.5).

mod content;
mod media_type;
mod ole;
mod package;
mod source;
mod text;

use caudal_domain::keys::{final_key, landing_prefix};
use caudal_domain::{Reason, Stage, StageVersion, Warning, WarningCode};
use caudal_objects::ObjectError;
use caudal_stage::{Artifact, Done, Failure, Handler, Job, Usage};

use content::Content;
use source::{Source, Stored};

/// Version of this stage's code: raised whenever it would find something else in the same bytes.
pub const CODE_VERSION: &str = "2";

/// Name of the artifact that is the file itself, at its final key.
pub const ORIGINAL: &str = "original";

/// The handler of the upload stage.
#[derive(Debug, Clone, Copy)]
pub struct Upload;

impl Handler for Upload {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::Upload, CODE_VERSION)
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        let Some(source) = job.source_key.clone() else {
            return Err(Failure::new(Reason::Internal, "the lease names no source"));
        };
        // At a reprocess the source is a final object: it has its sha256 in its key, and it stays.
        let landed = source.starts_with(&landing_prefix(job.file));
        let stands = match job.declared_sha256.filter(|_| landed) {
            Some(sha256) => standing(&job, sha256).await?,
            None => None,
        };
        let is_new = stands.is_none();
        let content = match stands {
            Some(content) => content,
            None => {
                let confirmed = job.etag.as_deref().filter(|_| landed);
                read(&job, &source, confirmed).await?
            }
        };
        check(&job, &content)?;
        let kept = final_key(job.file, &content.sha256);
        let etag = if source == kept || !is_new {
            content.etag.clone()
        } else {
            let copied = job
                .objects
                .copy_sized_if_match(&source, &content.etag, content.size, &kept)
                .await;
            copied.map_err(|error| failure_of_source(&error))?
        };
        // From where it stays: what landed may go as soon as its copy is there.
        let known = Source {
            content: &content,
            store: Some(Stored {
                objects: &job.objects,
                key: &kept,
                etag: &etag,
            }),
        };
        let media_type = media_type::sniff(&known, &job.path)
            .await
            .map_err(|error| Failure::of_store(Reason::StoreUnavailable, &error))?;
        let warnings = media_type::differs_from_name(media_type, &job.path)
            .map(|words| Warning::new(WarningCode::MediaTypeDiffers, Stage::Upload, words));
        Ok(Done {
            artifacts: vec![Artifact {
                name: ORIGINAL.to_owned(),
                size: content.size,
                media_type: media_type.to_owned(),
            }],
            // Size, checksum and media type are recorded as such.
            facts: serde_json::json!({ "etag": etag }),
            content_sha256: Some(content.sha256),
            media_type: Some(media_type.to_owned()),
            landing_key: (landed && is_new).then_some(source),
            warnings: warnings.into_iter().collect(),
            usage: Usage {
                bytes: if is_new {
                    content.size
                } else {
                    content.head.len() as u64
                },
                ..Usage::default()
            },
            ..Done::default()
        })
    }
}

/// The media type of these bytes under this path: what the stage says of an uploaded file.
#[must_use]
pub fn sniff_bytes(bytes: &[u8], path: &str) -> &'static str {
    let content = Content::whole_of(bytes);
    let source = Source {
        content: &content,
        store: None,
    };
    // All of it is known, so nothing is waited for and nothing can fail.
    futures::executor::block_on(media_type::sniff(&source, path))
        .unwrap_or(caudal_domain::media_type::UNKNOWN)
}

/// What stands at the final key of the declared checksum: bytes that were verified before.
async fn standing(job: &Job, sha256: [u8; 32]) -> Result<Option<Content>, Failure> {
    let key = final_key(job.file, &sha256);
    let content = Content::of_verified(&job.objects, &key, sha256)
        .await
        .map_err(|error| failure_of_source(&error))?;
    if let Some(content) = &content {
        check_size(job, content.size)?;
    }
    Ok(content)
}

fn check_size(job: &Job, found: u64) -> Result<(), Failure> {
    if found == job.declared_size {
        return Ok(());
    }
    let detail = format!("declared {} bytes, found {found}", job.declared_size);
    Err(Failure::new(Reason::SizeMismatch, detail))
}

/// Reads the object, the confirmed one where it says so.
async fn read(job: &Job, source: &str, confirmed: Option<&str>) -> Result<Content, Failure> {
    let object = job
        .objects
        .get(source, confirmed)
        .await
        .map_err(|error| failure_of_source(&error))?;
    check_size(job, object.size)?;
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
