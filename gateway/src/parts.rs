//! Large files, in parts. The store itself keeps which upload of a landing key is under way and which parts of it have landed,
//! so that nothing of it is kept here: any gateway goes on with it, for whichever client.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use caudal_domain::Refusal;
use caudal_domain::limits::{MAX_PARTS_PER_TARGET, MULTIPART_THRESHOLD_BYTES};
use caudal_objects::{ObjectError, ObjectStore, PartPlan, PartTag};
use caudal_proto::v1;

/// How a file of this size is cut.
fn plan(size: u64) -> PartPlan {
    PartPlan::new(size, MULTIPART_THRESHOLD_BYTES)
}

/// Whether a file may go in parts.
pub(crate) fn may_go_in_parts(size: u64) -> bool {
    size > MULTIPART_THRESHOLD_BYTES
}

/// The next parts of a file, each with its URL.
pub(crate) async fn next_parts(
    objects: &ObjectStore,
    key: &str,
    size: u64,
    validity: Duration,
) -> Result<v1::MultipartTarget, ObjectError> {
    let plan = plan(size);
    let upload = objects.ensure_multipart(key).await?;
    let landed = landed(objects, key, &upload, &plan).await?;
    let bytes: u64 = landed.keys().map(|number| size_of(&plan, *number)).sum();
    let expires = SystemTime::now() + validity;
    let missing = (1..=plan.count()).filter(|number| !landed.contains_key(number));
    let mut first_parts = Vec::new();
    for number in missing.take(MAX_PARTS_PER_TARGET) {
        let size = size_of(&plan, number);
        let presigned = objects
            .presign_part(key, &upload, number, size, validity)
            .await?;
        first_parts.push(v1::PartTarget {
            number,
            url: presigned.url,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            expire_time: Some(expires.into()),
            valid_for: prost_types::Duration::try_from(validity).ok(),
        });
    }
    Ok(v1::MultipartTarget {
        part_size: i64::try_from(plan.part_bytes()).unwrap_or(i64::MAX),
        part_count: plan.count(),
        first_parts,
        parts_landed: u32::try_from(landed.len()).unwrap_or(u32::MAX),
        bytes_landed: i64::try_from(bytes).unwrap_or(i64::MAX),
    })
}

/// What became of parts that were to be made one object.
pub(crate) enum Joined {
    Whole,
    NoUpload,
    /// Some have not landed: how many have, in words.
    Incomplete(Refusal),
}

/// Makes the parts one object when all have landed.
pub(crate) async fn join(
    objects: &ObjectStore,
    key: &str,
    size: u64,
    name: &str,
) -> Result<Joined, ObjectError> {
    let plan = plan(size);
    let Some(upload) = objects.find_multipart(key).await? else {
        return Ok(Joined::NoUpload);
    };
    let landed = landed(objects, key, &upload, &plan).await?;
    let mut parts = Vec::with_capacity(landed.len());
    for number in 1..=plan.count() {
        let Some(etag) = landed.get(&number) else {
            let message = format!(
                "{} of {} parts of {name} have landed: ask for the missing ones and send them first",
                landed.len(),
                plan.count()
            );
            let refusal = Refusal::failed_precondition("NOT_LANDED", message);
            return Ok(Joined::Incomplete(refusal));
        };
        let etag = etag.clone();
        parts.push(PartTag { number, etag });
    }
    match objects.complete_multipart(key, &upload, &parts).await {
        // Somebody else has just done it.
        Ok(_) | Err(ObjectError::NotFound { .. }) => Ok(Joined::Whole),
        Err(error) => Err(error),
    }
}

/// The parts of a file that have landed.
pub(crate) async fn list(
    objects: &ObjectStore,
    key: &str,
    size: u64,
) -> Result<v1::ListPartsResponse, ObjectError> {
    let plan = plan(size);
    let mut parts = Vec::new();
    if let Some(upload) = objects.find_multipart(key).await? {
        let mut landed = Vec::from_iter(landed(objects, key, &upload, &plan).await?);
        landed.sort_unstable();
        for (number, etag) in landed {
            let size = i64::try_from(size_of(&plan, number)).unwrap_or(i64::MAX);
            parts.push(v1::LandedPart { number, size, etag });
        }
    }
    Ok(v1::ListPartsResponse {
        part_size: i64::try_from(plan.part_bytes()).unwrap_or(i64::MAX),
        part_count: plan.count(),
        parts,
    })
}

/// Frees what has landed of other uploads of the key.
pub(crate) async fn keep_only(
    objects: &ObjectStore,
    key: &str,
    kept: &str,
) -> Result<(), ObjectError> {
    for (of, upload) in objects.list_multipart(key).await? {
        if of == key && upload != kept {
            objects.abort_multipart(key, &upload).await?;
        }
    }
    Ok(())
}

/// The bytes of the part of that number.
pub(crate) fn part_size(size: u64, number: u32) -> Result<u64, Refusal> {
    let plan = plan(size);
    if plan.range(number).is_some() {
        return Ok(size_of(&plan, number));
    }
    let words = format!("the file has the parts 1 to {}", plan.count());
    Err(Refusal::invalid("part_number", words))
}

/// Frees whatever has landed in parts, of however many who began at once.
pub(crate) async fn abort(objects: &ObjectStore, key: &str) -> Result<(), ObjectError> {
    while let Some(upload) = objects.find_multipart(key).await? {
        objects.abort_multipart(key, &upload).await?;
    }
    Ok(())
}

/// ETags of the parts that are there in their right size; one of another size is sent again, and replaced.
async fn landed(
    objects: &ObjectStore,
    key: &str,
    upload: &str,
    plan: &PartPlan,
) -> Result<HashMap<u32, String>, ObjectError> {
    let parts = objects.list_parts(key, upload).await?;
    let right = parts.into_iter().filter(|part| {
        plan.range(part.number).is_some() && part.size == size_of(plan, part.number)
    });
    Ok(right.map(|part| (part.number, part.etag)).collect())
}

fn size_of(plan: &PartPlan, number: u32) -> u64 {
    plan.range(number)
        .map_or(0, |range| range.end - range.start)
}
