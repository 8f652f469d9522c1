//! The bytes of a file, brought here for a child to read.

use std::path::Path;

use caudal_domain::Reason;
use caudal_objects::ObjectError;
use futures::StreamExt;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use crate::{Failure, Job};

/// A job's verified bytes in a file of the system's temp folder, which goes when this is dropped.
#[derive(Debug)]
pub struct FetchedInput {
    file: NamedTempFile,
    size: u64,
}

impl FetchedInput {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Fetches the object at the job's final key into a file. Stops when the job is cancelled.
///
/// # Errors
///
/// `too_large` when it has more than `max_bytes`, `ObjectMissing`, `StoreUnavailable`, `DiskFull`, `Internal`.
pub async fn fetch_input(
    job: &Job,
    max_bytes: u64,
    too_large: Reason,
) -> Result<FetchedInput, Failure> {
    let key = job
        .final_key
        .as_deref()
        .ok_or_else(|| Failure::new(Reason::Internal, "the job names no verified object"))?;
    tokio::select! {
        fetched = fetch(job, key, max_bytes, too_large) => fetched,
        () = job.cancelled.cancelled() => Err(Failure::new(Reason::Internal, "fetching was cancelled")),
    }
}

async fn fetch(
    job: &Job,
    key: &str,
    max_bytes: u64,
    too_large: Reason,
) -> Result<FetchedInput, Failure> {
    // Nothing else is written under a final key, so its content needs no ETag here.
    let mut object = job
        .objects
        .get(key, None)
        .await
        .map_err(|error| refused(&error))?;
    if object.size > max_bytes {
        return Err(Failure::new(
            too_large,
            format!("{} bytes are more than {max_bytes}", object.size),
        ));
    }
    let file = NamedTempFile::new().map_err(|error| Failure::of_temp_folder(&error))?;
    let mut writer = tokio::fs::File::from_std(
        file.reopen()
            .map_err(|error| Failure::of_temp_folder(&error))?,
    );
    // The stream itself ends well only after the size it was announced with.
    while let Some(chunk) = object.stream.next().await {
        let chunk = chunk.map_err(|error| refused(&error))?;
        writer
            .write_all(&chunk)
            .await
            .map_err(|error| Failure::of_temp_folder(&error))?;
    }
    writer
        .flush()
        .await
        .map_err(|error| Failure::of_temp_folder(&error))?;
    Ok(FetchedInput {
        file,
        size: object.size,
    })
}

fn refused(error: &ObjectError) -> Failure {
    let reason = match error {
        ObjectError::NotFound { .. } => Reason::ObjectMissing,
        ObjectError::Refused { .. } if error.trouble().is_none() => Reason::Internal,
        _ => Reason::StoreUnavailable,
    };
    Failure::of_store(reason, error)
}
