//! Where the bucket's objects are: in the path of the store's address, or under a host name of the bucket's own.

use std::net::IpAddr;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use crate::error::ObjectError;

/// The address of one bucket, as requests and signatures spell it.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    scheme: Scheme,
    authority: Authority,
    /// As the Host header says it.
    host: HeaderValue,
    /// What precedes a key in the path; begins and ends with a slash.
    prefix: String,
}

impl Address {
    /// The address of `bucket` at `endpoint`, `http(s)://HOST[:PORT]`.
    pub(crate) fn new(
        endpoint: &str,
        bucket: &str,
        force_path_style: bool,
    ) -> Result<Address, ObjectError> {
        let (scheme, host) = check_endpoint(endpoint)?;
        let is_in_path = force_path_style || !has_host_of_its_own(scheme, host, bucket);
        let (host, prefix) = if is_in_path {
            (host.to_owned(), format!("/{}/", encoded_path(bucket)))
        } else {
            (format!("{bucket}.{host}"), "/".to_owned())
        };
        let unusable = |error: &dyn std::fmt::Display| {
            ObjectError::invalid(
                "",
                format!("the object store's endpoint cannot be used: {error}"),
            )
        };
        Ok(Address {
            scheme: if scheme == "https" {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            host: HeaderValue::from_str(&host).map_err(|error| unusable(&error))?,
            authority: Authority::try_from(host).map_err(|error| unusable(&error))?,
            prefix,
        })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// `http(s)://HOST[:PORT]`, with the bucket in it unless it is in the path.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    pub(crate) fn host(&self) -> &str {
        self.authority.as_str()
    }

    pub(crate) fn host_header(&self) -> HeaderValue {
        self.host.clone()
    }

    /// The path of a key, encoded. That of no key is the bucket's.
    pub(crate) fn path(&self, key: &str) -> String {
        let mut path = String::with_capacity(self.prefix.len() + key.len() + 16);
        path.push_str(&self.prefix);
        push_encoded(&mut path, key, b'/');
        path
    }

    /// The whole URI of a path and query that are encoded already.
    pub(crate) fn uri(&self, path_and_query: PathAndQuery) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
    }
}

/// Whether a bucket of this name can be part of a host name there: neither an address of numbers nor a certificate for all
/// buckets of a host takes every one.
fn has_host_of_its_own(scheme: &str, host: &str, bucket: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let is_ip = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|byte| is_plain(*byte))
            && bytes.last().is_some_and(|byte| is_plain(*byte))
            && bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
    };
    let is_name = (3..=63).contains(&bucket.len())
        && bucket.split('.').all(is_label)
        && bucket.parse::<IpAddr>().is_err()
        && (scheme == "http" || !bucket.contains('.'));
    is_name && !is_ip
}

/// Scheme and authority of `http(s)://HOST[:PORT]`.
fn check_endpoint(endpoint: &str) -> Result<(&str, &str), ObjectError> {
    // It is not repeated: somebody may have written a password into it.
    let wrong = || {
        let detail = "the object store's endpoint is not http(s)://HOST[:PORT]".to_owned();
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

/// A key as it stands in a path: its slashes are kept.
pub(crate) fn encoded_path(key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 8);
    push_encoded(&mut text, key, b'/');
    text
}

/// A name or value as it stands in a query.
pub(crate) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 8);
    push_encoded(&mut text, value, b'~');
    text
}

/// Percent-encoded but for the unreserved characters and `kept`.
fn push_encoded(encoded: &mut String, text: &str, kept: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
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
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn origin_and_path(endpoint: &str, bucket: &str, force_path_style: bool) -> (String, String) {
        let address = Address::new(endpoint, bucket, force_path_style).unwrap();
        (address.origin(), address.path("a key"))
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
            assert!(
                Address::new(endpoint, "bucket", true).is_err(),
                "{endpoint}"
            );
        }
        for endpoint in ["http://user:secret@store", "http://sto\u{1}re:secret"] {
            let error = Address::new(endpoint, "bucket", true).err().unwrap();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let host = |endpoint| {
            let address = Address::new(endpoint, "bucket", true).unwrap();
            (address.is_https(), address.host().to_owned())
        };
        assert_eq!(host("https://store:443/"), (true, "store".to_owned()));
        assert_eq!(host("http://store:443"), (false, "store:443".to_owned()));
    }

    #[test]
    fn a_bucket_is_in_the_host_name_where_it_can_be_and_may_be() {
        let in_host = |endpoint, bucket, force| {
            origin_and_path(endpoint, bucket, force)
                .0
                .contains(&format!("//{bucket}."))
        };
        assert_eq!(
            origin_and_path("https://s3.eu.example", "caudal", false),
            (
                "https://caudal.s3.eu.example".to_owned(),
                "/a%20key".to_owned()
            )
        );
        assert_eq!(
            origin_and_path("https://s3.eu.example", "caudal", true),
            (
                "https://s3.eu.example".to_owned(),
                "/caudal/a%20key".to_owned()
            )
        );
        assert!(in_host("http://s3.example:9000", "a.bucket", false));
        // A certificate for *.s3.example is none for a.bucket.s3.example.
        assert!(!in_host("https://s3.example", "a.bucket", false));
        assert!(!in_host("http://127.0.0.1:9000", "caudal", false));
        assert!(!in_host("http://[::1]:9000", "caudal", false));
        assert!(!in_host("http://s3.example", "Caudal_1", false));
    }

    #[test]
    fn a_path_spells_every_key_in_characters_that_mean_nothing_else() {
        let address = Address::new("http://store", "bucket", true).unwrap();
        assert_eq!(
            address.path("a b+c%20~/ñ/日?x=1&y#z//.."),
            "/bucket/a%20b%2Bc%2520~/%C3%B1/%E6%97%A5%3Fx%3D1%26y%23z//.."
        );
        assert_eq!(encoded("a/b ~"), "a%2Fb%20~");
        assert_eq!(address.path(""), "/bucket/");
    }
}
