//! Whether the store compares what it is sent with the checksum that a URL fixes. What it takes under such a URL is then
//! known to have that content, without anybody reading it.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::base64;
use sha2::{Digest as _, Sha256};

use crate::error::ObjectError;
use crate::presign::{Presigned, Presigner};
use crate::settings::Settings;
use crate::store::ObjectStore;

/// The header that carries a checksum, in base64.
pub(crate) const SHA256_HEADER: &str = "x-amz-checksum-sha256";
const PROBE_VALIDITY: Duration = Duration::from_secs(60);
const RIGHT: &[u8] = b"the right bytes of a probe";
/// As long, so that no store refuses it for its length.
const WRONG: &[u8] = b"the wrong bytes of a probe";

/// A checksum as its header carries it.
pub(crate) fn spelled(sha256: &[u8; 32]) -> String {
    base64::encode(sha256)
}

impl ObjectStore {
    /// Whether a URL of [`presign_put_of`](ObjectStore::presign_put_of) takes the bytes of its checksum and no others,
    /// whatever its holder sends beside them. Tries it, with bytes of its own at `key`, which is nobody else's.
    ///
    /// # Errors
    /// The store did not answer as it would on a good day: whether it does is not known.
    pub async fn verifies_checksums(&self, key: &str) -> Result<bool, ObjectError> {
        let verifies = self.try_checksums(key).await;
        if let Err(error) = self.delete(key).await {
            tracing::debug!(%error, "a small object of a probe stays");
        }
        match verifies {
            // A store that refuses to be asked is relied on for nothing.
            Err(error) if !error.is_retryable() => Ok(false),
            verifies => verifies,
        }
    }

    async fn try_checksums(&self, key: &str) -> Result<bool, ObjectError> {
        // As services reach the store: the address for the public may be none that leads anywhere from here.
        let settings = Settings {
            public_endpoint: None,
            ..Settings::clone(&self.settings)
        };
        let presigner = Presigner::new(&settings, self.signer.clone())?;
        let headers = vec![
            ("content-length".to_owned(), RIGHT.len().to_string()),
            (
                SHA256_HEADER.to_owned(),
                spelled(&Sha256::digest(RIGHT).into()),
            ),
        ];
        let url = presigner.presign("PUT", key, &[], headers, PROBE_VALIDITY, SystemTime::now())?;
        let with = |checksum: Option<String>| {
            let mut other = url.clone();
            other.headers.retain(|(name, _)| name != SHA256_HEADER);
            other
                .headers
                .extend(checksum.map(|sum| (SHA256_HEADER.to_owned(), sum)));
            other
        };
        let of_wrong = spelled(&Sha256::digest(WRONG).into());
        // Other bytes than the checksum says; others with their own checksum; others with none.
        for attempt in [url.clone(), with(Some(of_wrong)), with(None)] {
            if self.is_taken(key, attempt, WRONG).await? {
                return Ok(false);
            }
        }
        if self.head(key).await?.is_some() || !self.is_taken(key, url, RIGHT).await? {
            return Ok(false);
        }
        Ok(self.get_bytes(key, RIGHT.len() as u64).await? == RIGHT)
    }

    /// Whether the store takes these bytes by the URL.
    async fn is_taken(
        &self,
        key: &str,
        url: Presigned,
        bytes: &'static [u8],
    ) -> Result<bool, ObjectError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .body(ByteStream::from_static(bytes));
        let sent = put.customize().interceptor(InPlace(url)).send().await;
        match sent.map_err(|error| ObjectError::from_sdk(key, &error)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_retryable() => Err(error),
            Err(_) => Ok(false),
        }
    }
}

/// Sends what somebody without keys would send in place of the client's own request.
#[derive(Debug)]
struct InPlace(Presigned);

impl Intercept for InPlace {
    fn name(&self) -> &'static str {
        "InPlace"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        request.set_uri(self.0.url.as_str())?;
        let own: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| name == "authorization" || name.starts_with("x-amz-"))
            .collect();
        for name in own {
            request.headers_mut().remove(name);
        }
        for (name, value) in &self.0.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(())
    }
}
