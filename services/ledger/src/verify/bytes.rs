//! I6: the bytes at a file's final key have the recorded checksum.

use caudal_domain::{FileState, keys};
use caudal_objects::{ObjectError, ObjectStore};
use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::report::{Invariant, VerifyReport};
use crate::store::results::ResultRow;
use crate::store::work::WorkRow;

/// Reads what a file's results say is there, and compares.
pub(super) async fn check(
    objects: &ObjectStore,
    row: &WorkRow,
    results: &[ResultRow],
    report: &mut VerifyReport,
) {
    let content = results
        .iter()
        .find_map(|result| Some((result, result.content?)));
    let Some((upload, content)) = content else {
        if row.state == FileState::Processed {
            report.check(Invariant::Bytes);
            let words = format!("{} is PROCESSED without an upload result", row.file);
            report.breaks(Invariant::Bytes, words);
        }
        return;
    };
    report.check(Invariant::Bytes);
    let key = keys::final_key(upload.maker().file, &content);
    match digest(objects, &key).await {
        Ok((size, sha256)) if size == row.size && sha256 == content => {}
        Ok((size, sha256)) => {
            let words = format!(
                "{}: {key} has {size} bytes with sha256 {}, recorded are {} bytes",
                row.file,
                hex::encode(sha256),
                row.size
            );
            report.breaks(Invariant::Bytes, words);
        }
        Err(error) => report.breaks(
            Invariant::Bytes,
            format!("{}: {key} cannot be read: {error}", row.file),
        ),
    }
}

async fn digest(objects: &ObjectStore, key: &str) -> Result<(u64, [u8; 32]), ObjectError> {
    let mut stream = objects.get(key, None).await?.stream;
    let mut sha256 = Sha256::new();
    let mut size = 0;
    while let Some(chunk) = stream.next().await.transpose()? {
        size += chunk.len() as u64;
        sha256.update(&chunk);
    }
    Ok((size, sha256.finalize().into()))
}
