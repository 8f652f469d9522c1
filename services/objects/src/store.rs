//! The store: one client, its bucket, and every single-request operation.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, Delete, ObjectIdentifier,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::bare_etag;
use crate::error::ObjectError;
use crate::presign::Presigner;
use crate::settings::Settings;
use crate::stream::{GetObject, ObjectStream};

/// How often one request is made at most: once, and again after a failure worth it.
const MAX_ATTEMPTS: u32 = 3;
/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long the store may take to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A copy, and what makes parts one object, is answered when it is done, which takes S3 minutes for gigabytes.
const COPIED_WITHIN: Duration = Duration::from_secs(600);
/// Written to see whether there is room: more than what a file system keeps beside its own records.
const PROBE_BYTES: usize = 64 * 1024;
/// S3's bound of one DeleteObjects.
pub const DELETE_PAGE: usize = 1000;
/// The region whose buckets are made without naming it.
const HOME_REGION: &str = "us-east-1";

/// The store. Clones share one connection pool. See the module for ETags.
#[derive(Clone)]
pub struct ObjectStore {
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) presigner: Arc<Presigner>,
}

/// Whom connections trust: the system's authorities, and those of the settings.
fn trusting(settings: &Settings) -> Result<TlsContext, ObjectError> {
    let mut trust = TrustStore::default();
    if let Some(pem) = &settings.ca_pem {
        // The client does not say when it finds nothing in them.
        let has_certificate = pem
            .windows(CERTIFICATE.len())
            .any(|words| words == CERTIFICATE);
        if !has_certificate {
            return Err(ObjectError::invalid(
                &settings.endpoint,
                "the CA file of the store holds no certificate in PEM form",
            ));
        }
        trust.add_pem_certificate(pem.as_slice());
    }
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| ObjectError::invalid(&settings.endpoint, error.to_string()))
}

/// How a certificate begins in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its size in bytes.
    pub size: u64,
    /// Its ETag, without quotes.
    pub etag: String,
    /// The media type it was put with, where the store knows one.
    pub media_type: Option<String>,
}

/// An object of which only the beginning was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Size of the whole object in bytes.
    pub size: u64,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its first bytes.
    pub bytes: Bytes,
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
    /// A client of the store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] when an endpoint is not `http(s)://HOST[:PORT]`.
    pub fn connect(settings: Settings) -> Result<ObjectStore, ObjectError> {
        let presigner = Presigner::new(&settings)?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(trusting(&settings)?)
            .build_https();
        let credentials = Credentials::from_keys(
            settings.access_key.as_str(),
            settings.secret_key.as_str(),
            None,
        );
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .endpoint_url(&settings.endpoint)
            .credentials_provider(credentials)
            .force_path_style(settings.force_path_style)
            .http_client(http)
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(MAX_ATTEMPTS)
                    .with_max_backoff(MAX_BACKOFF),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_WITHIN)
                    .read_timeout(ANSWER_WITHIN)
                    .build(),
            )
            // Other S3s do not know the SDK's own checksums. Bodies are covered by the signature, and by sha256 above us.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(ObjectStore {
            client: Client::from_conf(config),
            settings: Arc::new(settings),
            presigner: Arc::new(presigner),
        })
    }

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
        let put = self
            .client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(key);
        let put = put.content_type(media_type).body(ByteStream::from(bytes));
        let answer = put
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        etag_of(key, answer.e_tag)
    }

    /// Opens an object. With `if_match` only the object of that ETag is given, whatever the store thinks of conditions.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`]; [`ObjectError::PreconditionFailed`] when another object is under the key.
    pub async fn get(&self, key: &str, if_match: Option<&str>) -> Result<GetObject, ObjectError> {
        let get = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key);
        let get = get.set_if_match(if_match.map(quoted));
        let answer = get
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        let etag = etag_of(key, answer.e_tag)?;
        // Not every S3 honours If-Match on a GET.
        if if_match.is_some_and(|wanted| bare_etag(wanted) != etag) {
            return Err(ObjectError::PreconditionFailed {
                key: key.to_owned(),
            });
        }
        let size = size_of(key, answer.content_length)?;
        Ok(GetObject {
            etag,
            size,
            media_type: answer.content_type,
            stream: ObjectStream::new(key, answer.body, size),
        })
    }

    /// Reads a whole object of at most `max` bytes.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`] before a byte is read; else as [`get`](ObjectStore::get).
    pub async fn get_bytes(&self, key: &str, max: u64) -> Result<Bytes, ObjectError> {
        let mut object = self.get(key, None).await?;
        let size = object.size;
        let too_large = || ObjectError::TooLarge {
            key: key.to_owned(),
            size,
            limit: max,
        };
        if size > max {
            return Err(too_large());
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(size).map_err(|_| too_large())?);
        while let Some(piece) = object.stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    /// Reads a part of an object, which must not go beyond its end.
    ///
    /// # Errors
    /// [`ObjectError::Unavailable`] when the store gives another part; else as [`get`](ObjectStore::get).
    pub async fn get_range(
        &self,
        key: &str,
        if_match: Option<&str>,
        range: Range<u64>,
    ) -> Result<Bytes, ObjectError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let answer = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_if_match(if_match.map(quoted))
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))?;
        let etag = etag_of(key, answer.e_tag)?;
        if if_match.is_some_and(|wanted| bare_etag(wanted) != etag) {
            return Err(ObjectError::PreconditionFailed {
                key: key.to_owned(),
            });
        }
        let size = size_of(key, answer.content_length)?;
        if size != wanted {
            let detail = format!("{size} bytes came of a part of {wanted}");
            return Err(ObjectError::unavailable(key, detail));
        }
        let mut stream = ObjectStream::new(key, answer.body, size);
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    /// The first bytes of an object, at most `most` of them, or none when there is no object.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn get_beginning(
        &self,
        key: &str,
        most: u64,
    ) -> Result<Option<Beginning>, ObjectError> {
        let Some(head) = self.head(key).await? else {
            return Ok(None);
        };
        let range = 0..head.size.min(most);
        let bytes = self.get_range(key, Some(&head.etag), range).await?;
        Ok(Some(Beginning {
            size: head.size,
            etag: head.etag,
            bytes,
        }))
    }

    /// Size and ETag of an object, or none when there is none.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn head(&self, key: &str) -> Result<Option<Head>, ObjectError> {
        let head = self
            .client
            .head_object()
            .bucket(&self.settings.bucket)
            .key(key);
        let answer = match head
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))
        {
            Ok(answer) => answer,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Head {
            size: size_of(key, answer.content_length)?,
            etag: etag_of(key, answer.e_tag)?,
            media_type: answer.content_type,
        }))
    }

    /// Deletes an object; none there is no error.
    ///
    /// # Errors
    /// As the store answers; see [`ObjectError`].
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let delete = self
            .client
            .delete_object()
            .bucket(&self.settings.bucket)
            .key(key);
        match delete
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(key, &error))
        {
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
        let mut delete = Delete::builder().quiet(true);
        for key in keys {
            let object = ObjectIdentifier::builder().key(key).build();
            delete = delete
                .objects(object.map_err(|error| ObjectError::invalid(key, error.to_string()))?);
        }
        let delete = delete
            .build()
            .map_err(|error| ObjectError::invalid(bucket, error.to_string()))?;
        let delete = self.client.delete_objects().bucket(bucket).delete(delete);
        let answer = delete
            .send()
            .await
            .map_err(|error| ObjectError::from_sdk(bucket, &error))?;
        let failed = answer
            .errors()
            .iter()
            .find(|error| error.code() != Some("NoSuchKey"));
        let Some(failed) = failed else {
            return Ok(());
        };
        let key = failed.key().unwrap_or(bucket).to_owned();
        let code = failed.code().unwrap_or_default().to_owned();
        let detail = failed.message().unwrap_or_default().to_owned();
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
}

impl std::fmt::Debug for ObjectStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ObjectStore")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

pub(crate) fn quoted(etag: &str) -> String {
    format!("\"{}\"", bare_etag(etag))
}

pub(crate) fn etag_of(key: &str, etag: Option<String>) -> Result<String, ObjectError> {
    let etag = etag.ok_or_else(|| ObjectError::unavailable(key, "the store named no ETag"))?;
    Ok(bare_etag(&etag).to_owned())
}

pub(crate) fn size_of(key: &str, size: Option<i64>) -> Result<u64, ObjectError> {
    size.and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| ObjectError::unavailable(key, "the store named no size"))
}

/// The configuration of a request that is answered when the store has moved the bytes.
pub(crate) fn patient() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder().read_timeout(COPIED_WITHIN).build();
    aws_sdk_s3::Config::builder().timeout_config(timeouts)
}
