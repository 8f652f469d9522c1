//! URLs for those who have no keys: what may be put, and what may be read, until they expire.

use std::time::{Duration, SystemTime};

use crate::checksums::{SHA256_HEADER, spelled};
use crate::error::ObjectError;
use crate::presign::{Presigned, attachment};
use crate::store::ObjectStore;

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
