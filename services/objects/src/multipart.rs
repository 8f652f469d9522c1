//! Multipart uploads: large files from browsers by presigned parts, and whatever arrives in pieces.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use http::Method;

use crate::address::encoded;
use crate::direct::Ask;
use crate::error::ObjectError;
use crate::etag::{etag_of, quoted};
use crate::store::{ObjectStore, size_of};

/// A part as an upload is completed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTag {
    /// 1 is the first.
    pub number: u32,
    /// As the store answered when the part was sent.
    pub etag: String,
}

/// A part the store holds of an unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1 is the first.
    pub number: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Its ETag, without quotes.
    pub etag: String,
}

impl ObjectStore {
    /// The unfinished upload of this key: of several the one that was begun first, so that all who ask agree.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn find_multipart(&self, key: &str) -> Result<Option<String>, ObjectError> {
        // Stores that list uploads of one key only take it as the prefix.
        let list = self
            .client
            .list_multipart_uploads()
            .bucket(&self.settings.bucket)
            .prefix(key);
        let answer = list
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        let first = answer
            .uploads()
            .iter()
            .filter(|upload| upload.key() == Some(key))
            .filter_map(|upload| Some((upload.initiated().copied(), upload.upload_id()?)))
            .min_by(|one, other| {
                let time = |at: Option<aws_smithy_types::DateTime>| at.map(|at| at.as_nanos());
                (time(one.0), one.1).cmp(&(time(other.0), other.1))
            });
        Ok(first.map(|(_, id)| id.to_owned()))
    }

    /// The unfinished uploads of keys that begin with the prefix, (key, upload): a page of them, in no promised order.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn list_multipart(&self, prefix: &str) -> Result<Vec<(String, String)>, ObjectError> {
        let list = self
            .client
            .list_multipart_uploads()
            .bucket(&self.settings.bucket)
            .prefix(prefix);
        let answer = list
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(prefix, &error))?;
        let uploads = answer.uploads().iter();
        let named = uploads
            .filter_map(|upload| Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned())));
        Ok(named.collect())
    }

    /// The upload of this key, begun where there is none. Two who begin one at once end with the same.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn ensure_multipart(&self, key: &str) -> Result<String, ObjectError> {
        if let Some(upload) = self.find_multipart(key).await? {
            return Ok(upload);
        }
        let made = self.create_multipart(key, None).await?;
        let first = self.find_multipart(key).await?;
        match first {
            Some(first) if first != made => {
                self.abort_multipart(key, &made).await?;
                Ok(first)
            }
            _ => Ok(made),
        }
    }

    /// Begins an upload. Returns its id.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn create_multipart(
        &self,
        key: &str,
        media_type: Option<&str>,
    ) -> Result<String, ObjectError> {
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.settings.bucket)
            .key(key);
        let create = create.set_content_type(media_type.map(str::to_owned));
        let answer = create
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        answer
            .upload_id
            .ok_or_else(|| ObjectError::unavailable(key, "the store named no upload id"))
    }

    /// Sends one part; an earlier one of that number is replaced. Returns its ETag.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] when the upload is over.
    pub async fn upload_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
    ) -> Result<String, ObjectError> {
        let ask = Ask {
            query: part_query(upload, number),
            body: bytes,
            ..Ask::new(Method::PUT, key)
        };
        self.direct.ask(ask).await?.etag(key)
    }

    /// Every part the store holds of the upload, by number: what a resumed upload need not send again.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] when the upload is over.
    pub async fn list_parts(
        &self,
        key: &str,
        upload: &str,
    ) -> Result<Vec<UploadedPart>, ObjectError> {
        let mut parts = Vec::new();
        let mut marker = None;
        loop {
            let list = self
                .client
                .list_parts()
                .bucket(&self.settings.bucket)
                .key(key)
                .upload_id(upload);
            let list = list.set_part_number_marker(marker);
            let answer = list
                .send()
                .await
                .map_err(|error| ObjectError::from_sdk(key, &error))?;
            for part in answer.parts.unwrap_or_default() {
                let number = part
                    .part_number
                    .and_then(|number| u32::try_from(number).ok());
                parts.push(UploadedPart {
                    number: number
                        .ok_or_else(|| ObjectError::unavailable(key, "a part without a number"))?,
                    size: size_of(key, part.size)?,
                    etag: etag_of(key, part.e_tag.as_deref())?,
                });
            }
            marker = answer.next_part_number_marker;
            if answer.is_truncated != Some(true) || marker.is_none() {
                return Ok(parts);
            }
        }
    }

    /// Makes the parts one object. Returns its ETag.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] when a part is missing, too small or not the one named; [`ObjectError::NotFound`] when the
    /// upload is over.
    pub async fn complete_multipart(
        &self,
        key: &str,
        upload: &str,
        parts: &[PartTag],
    ) -> Result<String, ObjectError> {
        let mut completed = CompletedMultipartUpload::builder();
        for part in parts {
            let number = part_number(key, part.number)?;
            completed = completed.parts(
                CompletedPart::builder()
                    .part_number(number)
                    .e_tag(quoted(&part.etag))
                    .build(),
            );
        }
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.settings.bucket)
            .key(key);
        let complete = complete
            .upload_id(upload)
            .multipart_upload(completed.build());
        let complete = complete.customize().config_override(self.patient());
        let answer = complete
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        etag_of(key, answer.e_tag.as_deref())
    }

    /// Forgets an upload and its parts; one that is over already is no error.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn abort_multipart(&self, key: &str, upload: &str) -> Result<(), ObjectError> {
        let abort = self
            .client
            .abort_multipart_upload()
            .bucket(&self.settings.bucket)
            .key(key);
        match abort
            .upload_id(upload)
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))
        {
            Ok(_) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Names a part of an upload.
pub(crate) fn part_query(upload: &str, number: u32) -> String {
    format!("partNumber={number}&uploadId={}", encoded(upload))
}

fn part_number(key: &str, number: u32) -> Result<i32, ObjectError> {
    i32::try_from(number).map_err(|error| ObjectError::invalid(key, error.to_string()))
}
