//! The headers of the tus protocol, read and written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caudal_domain::limits::{MAX_TUS_METADATA_BYTES, MAX_TUS_PARTIALS};
use caudal_domain::{Refusal, RefusalKind};
use http::header::{self, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The version of the protocol that is spoken.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
/// What of the protocol's extensions is served.
pub(super) const EXTENSIONS: HeaderValue = HeaderValue::from_static(
    "creation,creation-with-upload,creation-defer-length,termination,checksum,checksum-trailer,\
     expiration,concatenation",
);
/// Checksums that a PATCH may carry.
pub(super) const ALGORITHMS: HeaderValue = HeaderValue::from_static("md5,sha1,sha256");
/// The type of a body that is bytes of an upload.
pub(super) const BYTES: &str = "application/offset+octet-stream";

pub(super) const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(super) const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub(super) const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub(super) const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub(super) const TUS_CHECKSUM_ALGORITHM: HeaderName =
    HeaderName::from_static("tus-checksum-algorithm");
pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
pub(super) const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(super) const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
pub(super) const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
pub(super) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub(super) const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Refuses whoever speaks another version, or none.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get(TUS_RESUMABLE) == Some(&VERSION) {
        return Ok(());
    }
    let words = "this speaks tus 1.0.0: send the header `Tus-Resumable: 1.0.0`";
    Err(Refusal::failed_precondition("TUS_VERSION", words))
}

/// A header as text.
pub(super) fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Refusal::invalid(name.as_str(), "is no text of printable ASCII"))?;
    Ok(Some(text.trim().to_owned()))
}

/// A header that counts bytes.
pub(super) fn bytes(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number
        .filter(|number| i64::try_from(*number).is_ok())
        .map(Some)
        .ok_or_else(|| Refusal::invalid(name.as_str(), "must be a number of bytes"))
}

/// Whether a body is bytes of an upload.
pub(super) fn carries_bytes(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(BYTES))
}

/// What `Upload-Metadata` says, and the text itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) text: String,
    pairs: Vec<(String, String)>,
}

impl Metadata {
    /// Reads `key base64, key base64, key`.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = text(headers, &UPLOAD_METADATA)?.unwrap_or_default();
        let invalid = |words: String| Refusal::invalid(UPLOAD_METADATA.as_str(), words);
        if text.len() > MAX_TUS_METADATA_BYTES {
            let words = format!(
                "has {} bytes; at most {MAX_TUS_METADATA_BYTES} are taken",
                text.len()
            );
            return Err(invalid(words));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if pairs.iter().any(|(known, _)| known == key) {
                return Err(invalid(format!("the key `{key}` stands twice")));
            }
            let value = STANDARD.decode(value.trim());
            let value = value.ok().and_then(|value| String::from_utf8(value).ok());
            let value = value
                .ok_or_else(|| invalid(format!("the value of `{key}` is no text in base64")))?;
            pairs.push((key.to_owned(), value));
        }
        Ok(Self { text, pairs })
    }

    /// A value that says something. Some clients send the word null for what they do not know.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.pairs.iter();
        let (_, value) = pairs.find(|(known, _)| known == key)?;
        let says = !value.is_empty() && value != "null" && value != "undefined";
        says.then_some(value.as_str())
    }
}

/// What `Upload-Concat` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Concat {
    /// A part that is to be concatenated.
    Partial,
    /// These uploads, one after another.
    Final(Vec<Uuid>),
}

impl Concat {
    /// Reads `partial` or `final;/files/a /files/b`.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(text) = text(headers, &UPLOAD_CONCAT)? else {
            return Ok(None);
        };
        let invalid = |words: &str| Refusal::invalid(UPLOAD_CONCAT.as_str(), words);
        if text == "partial" {
            return Ok(Some(Self::Partial));
        }
        let urls = text.strip_prefix("final;").ok_or_else(|| {
            invalid("must be `partial`, or `final;` and the URLs of partial uploads")
        })?;
        let mut partials = Vec::new();
        for url in urls.split_ascii_whitespace() {
            let id = url.rsplit('/').next().and_then(|id| id.parse().ok());
            partials.push(id.ok_or_else(|| invalid("names what is no upload of this server"))?);
        }
        if !(1..=MAX_TUS_PARTIALS).contains(&partials.len()) {
            let words = format!("1 to {MAX_TUS_PARTIALS} uploads are joined at once");
            return Err(invalid(&words));
        }
        Ok(Some(Self::Final(partials)))
    }
}

/// Whether a checksum follows the bytes.
fn is_announced(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TRAILER).iter();
    let mut names = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    names.any(|name| name.trim().eq_ignore_ascii_case(UPLOAD_CHECKSUM.as_str()))
}

/// A checksum of the bytes of one request, as far as they have come.
pub(super) struct Checksum {
    /// None while it is still to come, behind the bytes.
    expected: Option<Vec<u8>>,
    sum: Sum,
}

enum Sum {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    /// Which of them is told behind the bytes.
    Any(Box<(Md5, Sha1, Sha256)>),
}

impl Checksum {
    /// Reads `sha1 base64`, or that it comes as a trailer.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut checksum = Self {
            expected: None,
            sum: Sum::Any(Box::default()),
        };
        if checksum.is_told(headers)? || is_announced(headers) {
            return Ok(Some(checksum));
        }
        Ok(None)
    }

    /// Takes what a header, or a trailer, says; whether it says anything.
    pub(super) fn is_told(&mut self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let Some(text) = text(headers, &UPLOAD_CHECKSUM)? else {
            return Ok(false);
        };
        let invalid = |words: &str| Refusal::invalid(UPLOAD_CHECKSUM.as_str(), words);
        let (algorithm, expected) = text.split_once(' ').ok_or_else(|| {
            invalid("must be the name of an algorithm, a space and a checksum in base64")
        })?;
        let Sum::Any(sums) = &mut self.sum else {
            return Err(invalid("stands before the bytes and behind them"));
        };
        let (md5, sha1, sha256) = std::mem::take(sums.as_mut());
        let (sum, size) = match algorithm {
            "md5" => (Sum::Md5(md5), 16),
            "sha1" => (Sum::Sha1(sha1), 20),
            "sha256" => (Sum::Sha256(sha256), 32),
            _ => return Err(invalid("the algorithms are md5, sha1 and sha256")),
        };
        let expected = STANDARD.decode(expected.trim()).ok();
        let expected = expected
            .filter(|expected| expected.len() == size)
            .ok_or_else(|| invalid("is no checksum of this algorithm in base64"))?;
        (self.expected, self.sum) = (Some(expected), sum);
        Ok(true)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.sum {
            Sum::Md5(sum) => sum.update(bytes),
            Sum::Sha1(sum) => sum.update(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
            Sum::Any(sums) => {
                sums.0.update(bytes);
                sums.1.update(bytes);
                sums.2.update(bytes);
            }
        }
    }

    /// Whether these were the bytes.
    pub(super) fn check(self) -> Result<(), Refusal> {
        let found = match self.sum {
            Sum::Md5(sum) => sum.finalize().to_vec(),
            Sum::Sha1(sum) => sum.finalize().to_vec(),
            Sum::Sha256(sum) => sum.finalize().to_vec(),
            Sum::Any(_) => Vec::new(),
        };
        let Some(expected) = self.expected else {
            let words =
                "was announced as a trailer and did not come: nothing of the bytes was kept";
            return Err(Refusal::invalid(UPLOAD_CHECKSUM.as_str(), words));
        };
        if found == expected {
            return Ok(());
        }
        let words = format!(
            "the bytes that came have the checksum {}, not {}: nothing of them was kept, send them again",
            STANDARD.encode(found),
            STANDARD.encode(expected)
        );
        Err(Refusal::new(
            RefusalKind::InvalidArgument,
            "CHECKSUM_MISMATCH",
            words,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn headers(name: &HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.clone(), value.parse().unwrap())])
    }

    // tus 1.0.0, "Creation", Upload-Metadata.
    #[test]
    fn metadata_is_read_with_keys_that_have_no_value_and_what_is_no_base64_is_refused() {
        let read = |text: &str| Metadata::read(&headers(&UPLOAD_METADATA, text));
        let metadata = read("filename w7EudHh0,is_confidential, relativePath bnVsbA==").unwrap();
        assert_eq!(metadata.get("filename"), Some("ñ.txt"));
        assert_eq!(metadata.get("is_confidential"), None);
        assert_eq!(metadata.get("relativePath"), None);
        assert_eq!(read("").unwrap(), Metadata::default());
        for wrong in ["a !!", "a /w==", "a YQ==,a YQ=="] {
            assert_eq!(
                read(wrong).unwrap_err().violations[0].field,
                "upload-metadata"
            );
        }
    }

    // tus 1.0.0, "Concatenation", Upload-Concat.
    #[test]
    fn a_concatenation_names_uploads_by_paths_or_urls() {
        let read = |text: &str| Concat::read(&headers(&UPLOAD_CONCAT, text));
        assert_eq!(read("partial").unwrap(), Some(Concat::Partial));
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let both = format!("final;/files/{a} https://intake.example/files/{b}");
        assert_eq!(read(&both).unwrap(), Some(Concat::Final(vec![a, b])));
        for wrong in ["final", "final;", "final;/files/x", "parts"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    // tus 1.0.0, "Checksum", Upload-Checksum.
    #[test]
    fn each_algorithm_tells_right_bytes_from_wrong_ones() {
        for good in [
            "md5 XUFAKrxLKna5cZ2REBfFkg==",
            "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
            "sha256 LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        ] {
            let read = || {
                Checksum::read(&headers(&UPLOAD_CHECKSUM, good))
                    .unwrap()
                    .unwrap()
            };
            let mut sum = read();
            sum.update(b"hel");
            sum.update(b"lo");
            sum.check().unwrap();
            let mut sum = read();
            sum.update(b"hell0");
            assert_eq!(sum.check().unwrap_err().reason, "CHECKSUM_MISMATCH");
        }
        // "Checksum", the checksum-trailer extension.
        for good in [
            "md5 XUFAKrxLKna5cZ2REBfFkg==",
            "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        ] {
            let announced = headers(&TRAILER, "x-other, Upload-Checksum");
            let mut sum = Checksum::read(&announced).unwrap().unwrap();
            sum.update(b"hello");
            assert!(sum.is_told(&headers(&UPLOAD_CHECKSUM, good)).unwrap());
            assert!(sum.is_told(&headers(&UPLOAD_CHECKSUM, good)).is_err());
            sum.check().unwrap();
            let sum = Checksum::read(&announced).unwrap().unwrap();
            assert_eq!(
                sum.check().unwrap_err().violations[0].field,
                "upload-checksum"
            );
        }
        for wrong in ["sha1", "crc32 AAAAAA==", "sha1 AAAA", "sha1 *"] {
            assert!(Checksum::read(&headers(&UPLOAD_CHECKSUM, wrong)).is_err());
        }
    }
}
