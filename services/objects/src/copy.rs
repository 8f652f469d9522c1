//! Copies inside the store, of the object of one ETag and no other.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::ObjectError;
use crate::multipart::PartTag;
use crate::parts::PartPlan;
use crate::presign::encoded_path;
use crate::store::{ObjectStore, etag_of, patient, quoted};

/// How many parts of one object are copied at a time.
const PARTS_AT_A_TIME: usize = 4;

impl ObjectStore {
    /// Copies the object of that ETag to another key, inside the store, whatever its size. Returns the copy's ETag. A
    /// caller that knows the size saves a request with [`copy_sized_if_match`](ObjectStore::copy_sized_if_match).
    ///
    /// # Errors
    /// [`ObjectError::PreconditionFailed`] when another object is under `from`; [`ObjectError::NotFound`].
    pub async fn copy_if_match(
        &self,
        from: &str,
        etag: &str,
        to: &str,
    ) -> Result<String, ObjectError> {
        let head = self.head(from).await?;
        let head = head.ok_or_else(|| ObjectError::NotFound {
            key: from.to_owned(),
        })?;
        self.copy_sized_if_match(from, etag, head.size, to).await
    }

    /// As [`copy_if_match`](ObjectStore::copy_if_match), for an object of `size` bytes.
    ///
    /// # Errors
    /// As [`copy_if_match`](ObjectStore::copy_if_match).
    pub async fn copy_sized_if_match(
        &self,
        from: &str,
        etag: &str,
        size: u64,
        to: &str,
    ) -> Result<String, ObjectError> {
        if size > self.settings.copy_in_parts_above {
            return self.copy_in_parts(from, etag, size, to).await;
        }
        let copy = self
            .client
            .copy_object()
            .bucket(&self.settings.bucket)
            .key(to);
        let copy = copy
            .copy_source(self.copy_source(from))
            .copy_source_if_match(quoted(etag));
        let answer = copy.customize().config_override(patient()).send().await;
        let answer = answer.map_err(|error| ObjectError::from_sdk(from, &error))?;
        etag_of(
            to,
            answer.copy_object_result.and_then(|result| result.e_tag),
        )
    }

    async fn copy_in_parts(
        &self,
        from: &str,
        etag: &str,
        size: u64,
        to: &str,
    ) -> Result<String, ObjectError> {
        // A multipart upload begins without the source's media type.
        let head = self.head(from).await?;
        let head = head.ok_or_else(|| ObjectError::NotFound {
            key: from.to_owned(),
        })?;
        let upload = self
            .create_multipart(to, head.media_type.as_deref())
            .await?;
        let copied = self.copy_parts(from, etag, size, to, &upload).await;
        let completed = match copied {
            Ok(parts) => self.complete_multipart(to, &upload, &parts).await,
            Err(error) => Err(error),
        };
        if completed.is_err()
            && let Err(error) = self.abort_multipart(to, &upload).await
        {
            tracing::warn!(key = to, upload, %error, "an unfinished copy could not be aborted");
        }
        completed
    }

    async fn copy_parts(
        &self,
        from: &str,
        etag: &str,
        size: u64,
        to: &str,
        upload: &str,
    ) -> Result<Vec<PartTag>, ObjectError> {
        let plan = PartPlan::new(size, self.settings.copy_part_bytes);
        let ranges = (1..=plan.count()).filter_map(|number| Some((number, plan.range(number)?)));
        let copies = ranges.map(|(number, range)| async move {
            let etag = self
                .copy_part_if_match(from, etag, range, to, upload, number)
                .await?;
            Ok::<_, ObjectError>(PartTag { number, etag })
        });
        stream::iter(copies)
            .buffered(PARTS_AT_A_TIME)
            .try_collect()
            .await
    }

    /// Copies a range of the object of that ETag inside the store, as a part of an upload. Returns the part's ETag.
    ///
    /// # Errors
    /// As [`copy_if_match`](ObjectStore::copy_if_match).
    pub async fn copy_part_if_match(
        &self,
        from: &str,
        etag: &str,
        range: Range<u64>,
        to: &str,
        upload: &str,
        number: u32,
    ) -> Result<String, ObjectError> {
        let last = range.end.saturating_sub(1);
        let copy = self
            .client
            .upload_part_copy()
            .bucket(&self.settings.bucket)
            .key(to);
        let copy = copy
            .upload_id(upload)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .copy_source(self.copy_source(from))
            .copy_source_if_match(quoted(etag))
            .copy_source_range(format!("bytes={}-{last}", range.start));
        let answer = copy.customize().config_override(patient()).send().await;
        let answer = answer.map_err(|error| ObjectError::from_sdk(from, &error))?;
        etag_of(to, answer.copy_part_result.and_then(|result| result.e_tag))
    }

    fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", self.settings.bucket, encoded_path(key))
    }
}
