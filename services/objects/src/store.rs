//! The store: one client, its bucket, and every single-request operation.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_smithy_types::base64;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method};
use md5::{Digest as _, Md5};

use crate::direct::{Ask, Direct, PATIENCE_WITH_COPIES};
use crate::error::ObjectError;
use crate::presign::Presigner;
use crate::settings::Settings;
use crate::signing::Signer;
use crate::xml;

/// Written to see whether there is room: more than what a file system keeps beside its own records.
const PROBE_BYTES: usize = 64 * 1024;
/// S3's bound of one DeleteObjects.
pub const DELETE_PAGE: usize = 1000;
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// The region whose buckets are made without naming it.
const HOME_REGION: &str = "us-east-1";

/// The store. Clones share one set of connections. See the module for ETags.
#[derive(Clone)]
pub struct ObjectStore {
    pub(crate) client: Client,
    pub(crate) direct: Arc<Direct>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) presigner: Arc<Presigner>,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPage {
    /// At most 1,000 objects, by the bytes of their keys.
    pub objects: Vec<Listed>,
    /// Asks for the next page; none after the last.
    pub next: Option<String>,
}

impl ObjectStore {
    /// Makes the bucket unless it is there; so also the check that the store can be used.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] when the keys are wrong, [`ObjectError::Unavailable`] when the store does not answer.
    pub async fn ensure_bucket(&self) -> Result<(), ObjectError> {
        let bucket = self.settings.bucket.as_str();
        let found = self.client.head_bucket().bucket(bucket).send().await;
        let missing = match found {
            Ok(_) => return Ok(()),
            Err(error) => ObjectError::from_sdk(bucket, &error),
        };
        let is_missing = matches!(&missing, ObjectError::NotFound { .. })
            || matches!(&missing, ObjectError::Refused { code, .. } if code == "NoSuchBucket");
        if !is_missing {
            return Err(missing);
        }
        let mut create = self.client.create_bucket().bucket(bucket);
        let is_elsewhere = self.settings.region != HOME_REGION && self.settings.region != "auto";
        if is_elsewhere {
            let region = BucketLocationConstraint::from(self.settings.region.as_str());
            create = create.create_bucket_configuration(
                CreateBucketConfiguration::builder()
                    .location_constraint(region)
                    .build(),
            );
        }
        match create.send().await {
            Ok(_) => Ok(()),
            // Another process was quicker.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(CreateBucketError::is_bucket_already_owned_by_you) =>
            {
                Ok(())
            }
            Err(error) => Err(ObjectError::from_sdk(bucket, &error)),
        }
    }

    /// Whether the store does now what a stage needs of it: writes a small object at `key`, reads it and takes it away.
    ///
    /// # Errors
    /// As the store answers to the first of these that it does not do.
    pub async fn probe(&self, key: &str) -> Result<(), ObjectError> {
        let written = Bytes::from_static(&[0; PROBE_BYTES]);
        self.put(key, "application/octet-stream", written).await?;
        match self.get_bytes(key, PROBE_BYTES as u64).await {
            // Another process that probes took it away.
            Ok(_) | Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.delete(key).await
    }

    /// Puts an object, replacing what was there. Returns its ETag.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn put(
        &self,
        key: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, ObjectError> {
        let ask = Ask {
            body: bytes,
            ..Ask::new(Method::PUT, key)
        };
        let ask = ask.header(CONTENT_TYPE, media_type);
        self.direct.ask(ask).await?.etag(key)
    }

    /// Deletes an object; none there is no error.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.direct.ask(Ask::new(Method::DELETE, key)).await {
            Ok(_) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes objects, [`DELETE_PAGE`] a request. Those that are not there are no error, so it may be repeated.
    ///
    /// # Errors
    /// The first failure; what follows it in the same page may be deleted, later pages are not.
    pub async fn delete_many(&self, keys: &[String]) -> Result<(), ObjectError> {
        for page in keys.chunks(DELETE_PAGE) {
            self.delete_page(page).await?;
        }
        Ok(())
    }

    async fn delete_page(&self, keys: &[String]) -> Result<(), ObjectError> {
        let bucket = self.settings.bucket.as_str();
        let body = xml::deletion(keys);
        let ask = Ask {
            query: "delete=".to_owned(),
            is_told: true,
            about: bucket,
            ..Ask::new(Method::POST, "")
        };
        // What stores have asked of this request from the beginning; the SDK's own checksum came later, and not to all.
        let md5 = base64::encode(Md5::digest(body.as_bytes()));
        let ask = ask
            .header(CONTENT_MD5, md5)
            .header(CONTENT_TYPE, "application/xml");
        let ask = Ask {
            body: Bytes::from(body),
            ..ask
        };
        let told = self.direct.ask(ask).await?.told;
        let failed = told.iter().flat_map(|result| &result.children);
        let mut failed = failed.filter(|child| child.name == "Error");
        let Some(failed) = failed.find(|error| error.text_of("Code") != "NoSuchKey") else {
            return Ok(());
        };
        let key = match failed.text_of("Key") {
            "" => bucket.to_owned(),
            key => key.to_owned(),
        };
        let code = failed.text_of("Code").to_owned();
        let detail = failed.text_of("Message").to_owned();
        if matches!(
            code.as_str(),
            "InternalError" | "SlowDown" | "ServiceUnavailable"
        ) {
            return Err(ObjectError::unavailable(&key, format!("{code} {detail}")));
        }
        Err(ObjectError::Refused { key, code, detail })
    }

    /// A page of the objects whose key begins with the prefix; `after` is the [`ListedPage::next`] of the page before.
    /// For verifying and collecting: keys are computable, the way of a file lists nothing.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListedPage, ObjectError> {
        let list = self
            .client
            .list_objects_v2()
            .bucket(&self.settings.bucket)
            .prefix(prefix);
        let list = list.set_continuation_token(after.map(str::to_owned));
        let answer = list
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(prefix, &error))?;
        let next = answer.next_continuation_token;
        let mut objects = Vec::new();
        for object in answer.contents.unwrap_or_default() {
            let key = object.key.unwrap_or_default();
            let size = size_of(&key, object.size)?;
            objects.push(Listed { key, size });
        }
        Ok(ListedPage { objects, next })
    }

    /// The configuration of a request of the SDK's that is answered when the store has moved the bytes.
    pub(crate) fn patient(&self) -> aws_sdk_s3::config::Builder {
        let within = self.settings.answer_within * PATIENCE_WITH_COPIES;
        let timeouts = TimeoutConfig::builder().read_timeout(within).build();
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }
}

impl std::fmt::Debug for ObjectStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ObjectStore")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

pub(crate) fn size_of(key: &str, size: Option<i64>) -> Result<u64, ObjectError> {
    size.and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| ObjectError::unavailable(key, "the store named no size"))
}
