//! URLs for those who have no keys: what may be put, and what may be read, until they expire.

use std::time::{Duration, SystemTime};

use crate::checksums::{SHA256_HEADER, spelled};
use crate::error::ObjectError;
use crate::presign::{Presigned, attachment};
use crate::store::ObjectStore;

/// A call of a multipart upload, beside the sending of a part; of the upload with that id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultipartCall<'a> {
    /// Begins an upload; whoever calls is told its id.
    Create,
    /// Lists the parts that have landed.
    List(&'a str),
    /// Makes the parts that its body names one object.
    Complete(&'a str),
    /// Forgets the upload and its parts.
    Abort(&'a str),
}

impl MultipartCall<'_> {
    /// The method of the request.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Create | Self::Complete(_) => "POST",
            Self::List(_) => "GET",
            Self::Abort(_) => "DELETE",
        }
    }
}

impl ObjectStore {
    /// A URL that puts exactly `size` bytes under exactly this key until it expires; with `media_type` as exactly that.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] when `expires` is under a second or over [`MAX_VALIDITY`](crate::MAX_VALIDITY).
    pub async fn presign_put(
        &self,
        key: &str,
        size: u64,
        media_type: Option<&str>,
        expires: Duration,
    ) -> Result<Presigned, ObjectError> {
        let mut headers = vec![("content-length".to_owned(), size.to_string())];
        if let Some(media_type) = media_type {
            headers.push(("content-type".to_owned(), media_type.to_owned()));
        }
        self.presigner
            .presign("PUT", key, &[], headers, expires, SystemTime::now())
    }

    /// As [`presign_put`](ObjectStore::presign_put), for bytes of exactly this checksum, where the store compares it
    /// ([`verifies_checksums`](ObjectStore::verifies_checksums)).
    ///
    /// # Errors
    /// As [`presign_put`](ObjectStore::presign_put).
    pub async fn presign_put_of(
        &self,
        key: &str,
        size: u64,
        sha256: &[u8; 32],
        expires: Duration,
    ) -> Result<Presigned, ObjectError> {
        let headers = vec![
            ("content-length".to_owned(), size.to_string()),
            (SHA256_HEADER.to_owned(), spelled(sha256)),
        ];
        self.presigner
            .presign("PUT", key, &[], headers, expires, SystemTime::now())
    }

    /// A URL that sends one part of exactly `size` bytes of an upload until it expires.
    ///
    /// # Errors
    /// As [`presign_put`](ObjectStore::presign_put).
    pub async fn presign_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        size: u64,
        expires: Duration,
    ) -> Result<Presigned, ObjectError> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let headers = vec![("content-length".to_owned(), size.to_string())];
        self.presigner
            .presign("PUT", key, &query, headers, expires, SystemTime::now())
    }

    /// A URL for one call of a multipart upload of exactly this key until it expires.
    ///
    /// # Errors
    /// As [`presign_put`](ObjectStore::presign_put); and when the upload has no id: the same request without one is about the
    /// object itself.
    pub async fn presign_multipart(
        &self,
        key: &str,
        call: MultipartCall<'_>,
        expires: Duration,
    ) -> Result<Presigned, ObjectError> {
        let query = match call {
            MultipartCall::Create => ("uploads", ""),
            MultipartCall::List("") | MultipartCall::Complete("") | MultipartCall::Abort("") => {
                return Err(ObjectError::invalid(key, "the upload has no id"));
            }
            MultipartCall::List(upload)
            | MultipartCall::Complete(upload)
            | MultipartCall::Abort(upload) => ("uploadId", upload),
        };
        let (method, now) = (call.method(), SystemTime::now());
        self.presigner
            .presign(method, key, &[query], Vec::new(), expires, now)
    }

    /// A URL that reads the object until it expires; with `download_name` a browser saves it under that name instead of
    /// showing it.
    ///
    /// # Errors
    /// As [`presign_put`](ObjectStore::presign_put).
    pub async fn presign_get(
        &self,
        key: &str,
        expires: Duration,
        download_name: Option<&str>,
    ) -> Result<Presigned, ObjectError> {
        let disposition = download_name.map(attachment);
        let query = disposition
            .as_deref()
            .map(|value| ("response-content-disposition", value));
        let query = query.as_slice();
        self.presigner
            .presign("GET", key, query, Vec::new(), expires, SystemTime::now())
    }
}
