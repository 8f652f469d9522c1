//! Copies inside the store, of the object of one ETag and no other.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderName, Method};

use crate::address::encoded_path;
use crate::direct::{Ask, PATIENCE_WITH_COPIES};
use crate::error::ObjectError;
use crate::etag::{etag_of, quoted};
use crate::multipart::{PartTag, part_query};
use crate::parts::PartPlan;
use crate::store::ObjectStore;

const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const COPY_SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-amz-copy-source-if-match");
const COPY_SOURCE_RANGE: HeaderName = HeaderName::from_static("x-amz-copy-source-range");

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
        self.copied(self.copy_ask(from, etag, to)).await
    }

    fn copy_ask<'a>(&self, from: &'a str, etag: &str, to: &'a str) -> Ask<'a> {
        let source = format!("{}/{}", self.settings.bucket, encoded_path(from));
        let ask = Ask {
            patience: PATIENCE_WITH_COPIES,
            is_told: true,
            about: from,
            ..Ask::new(Method::PUT, to)
        };
        ask.header(COPY_SOURCE, source)
            .header(COPY_SOURCE_IF_MATCH, quoted(etag))
    }

    async fn copied(&self, ask: Ask<'_>) -> Result<String, ObjectError> {
        let to = ask.key;
        let answer = self.direct.ask(ask).await?;
        let etag = answer.told.as_ref().map(|result| result.text_of("ETag"));
        etag_of(to, etag.filter(|etag| !etag.is_empty()))
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
        let ask = Ask {
            query: part_query(upload, number),
            ..self.copy_ask(from, etag, to)
        };
        let range = format!("bytes={}-{last}", range.start);
        self.copied(ask.header(COPY_SOURCE_RANGE, range)).await
    }
}
