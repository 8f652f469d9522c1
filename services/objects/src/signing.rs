//! AWS Signature Version 4 with the day's key kept: what presigned URLs and requests of our own are signed with.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::ObjectError;

/// How a signature of this kind is called.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Stands for the hash of a body that is not hashed.
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The hash of no bytes.
pub(crate) const HASH_OF_NOTHING: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Clocks that differ by less are taken for the same: stores let a signature be a quarter of an hour off.
const MEANS_NOTHING: Duration = Duration::from_secs(4 * 60);

/// Signs with the keys of one store.
pub(crate) struct Signer {
    access_key: String,
    secret_key: String,
    region: String,
    day: Mutex<Option<DayKey>>,
    /// By how many seconds the store's clock is ahead, as far as it complained.
    ahead: AtomicI64,
}

/// The key every signature of one day is made with.
struct DayKey {
    /// `YYYYMMDD`
    date: String,
    mac: Hmac<Sha256>,
}

/// When a signature is made, and what it is good for.
pub(crate) struct Moment {
    /// `YYYYMMDDTHHMMSSZ`
    pub(crate) time: String,
    /// `YYYYMMDD/REGION/s3/aws4_request`
    pub(crate) scope: String,
}

impl Signer {
    pub(crate) fn new(access_key: &str, secret_key: &str, region: &str) -> Signer {
        Signer {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: region.to_owned(),
            day: Mutex::new(None),
            ahead: AtomicI64::new(0),
        }
    }

    pub(crate) fn moment(&self, now: SystemTime) -> Result<Moment, ObjectError> {
        let time = compact_time(now)
            .ok_or_else(|| ObjectError::invalid("", "the clock is out of range"))?;
        let scope = format!("{}/{}/s3/aws4_request", &time[..8], self.region);
        Ok(Moment { time, scope })
    }

    /// What names the key in a signature of that scope.
    pub(crate) fn credential(&self, moment: &Moment) -> String {
        format!("{}/{}", self.access_key, moment.scope)
    }

    /// The signature of a canonical request.
    pub(crate) fn signature(
        &self,
        moment: &Moment,
        canonical: &str,
    ) -> Result<String, ObjectError> {
        let Moment { time, scope } = moment;
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let mut mac = self.day_key(&time[..8])?;
        for part in [ALGORITHM, "\n", time, "\n", scope, "\n"] {
            mac.update(part.as_bytes());
        }
        mac.update(digest.as_bytes());
        Ok(hex::encode(mac.finalize().into_bytes()))
    }

    /// The store's time, as far as its complaints made it known.
    pub(crate) fn store_time(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        let now = SystemTime::now();
        let shifted = if ahead < 0 {
            now.checked_sub(by)
        } else {
            now.checked_add(by)
        };
        shifted.unwrap_or(now)
    }

    /// The store refused a signature, it may be for its time, and says with its answer what time it is there. Whether that
    /// is another than the signature's.
    pub(crate) fn learn_store_time(&self, told: &str) -> bool {
        let told = DateTime::from_str(told, Format::HttpDate);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let (Ok(told), Ok(now)) = (told, now) else {
            return false;
        };
        let ahead = told
            .secs()
            .saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let believed = self.ahead.load(Ordering::Relaxed);
        if ahead.abs_diff(believed) < MEANS_NOTHING.as_secs() {
            return false;
        }
        self.ahead.store(ahead, Ordering::Relaxed);
        tracing::warn!(
            seconds_ahead = ahead,
            "the object store's clock differs from this machine's: requests are signed for the store's"
        );
        true
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

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Signer")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// What is signed of a request: path and query are encoded, the headers sorted by their lower-case names.
pub(crate) struct Canonical<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
}

impl Canonical<'_> {
    /// The names of the headers, as a signature lists them.
    pub(crate) fn names(&self) -> String {
        let mut names = String::with_capacity(96);
        for (name, _) in self.headers {
            if !names.is_empty() {
                names.push(';');
            }
            names.push_str(name);
        }
        names
    }

    /// The text that is hashed.
    pub(crate) fn text(&self, names: &str) -> String {
        let mut text = String::with_capacity(512);
        let (method, path, query) = (self.method, self.path, self.query);
        let _ = writeln!(text, "{method}\n{path}\n{query}");
        for (name, value) in self.headers {
            let _ = writeln!(text, "{name}:{}", single_spaced(value));
        }
        let _ = write!(text, "\n{names}\n{}", self.body);
        text
    }
}

/// A header's value without the spaces that mean nothing.
fn single_spaced(value: &str) -> Cow<'_, str> {
    let value = value.trim();
    if !value.contains("  ") {
        return Cow::Borrowed(value);
    }
    let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
    Cow::Owned(words.join(" "))
}

/// The SHA-256 of a body, as its header spells it.
pub(crate) fn hash_of(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

fn begun(key: &[u8]) -> Result<Hmac<Sha256>, ObjectError> {
    Hmac::new_from_slice(key).map_err(|error| ObjectError::invalid("", error.to_string()))
}

/// `YYYYMMDDTHHMMSSZ`
fn compact_time(now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let time = DateTime::from_secs(i64::try_from(seconds).ok()?);
    let time = time.fmt(Format::DateTime).ok()?;
    Some(time.replace(['-', ':'], ""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn signed(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let signer = Signer::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "us-east-1",
        );
        let moment = signer
            .moment(SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600))
            .unwrap();
        let canonical = Canonical {
            method,
            path,
            query: "",
            headers,
            body,
        };
        let text = canonical.text(&canonical.names());
        signer.signature(&moment, &text).unwrap()
    }

    /// The examples of the S3 documentation, "Signature Calculations for the Authorization Header".
    #[test]
    fn the_examples_of_the_s3_documentation_are_signed_as_it_says() {
        let get = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", HASH_OF_NOTHING),
            ("x-amz-date", "20130524T000000Z"),
        ];
        assert_eq!(
            signed("GET", "/test.txt", &get, HASH_OF_NOTHING),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let hash = hash_of(b"Welcome to Amazon S3.");
        let put = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", &hash),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        assert_eq!(
            signed("PUT", "/test%24file.text", &put, &hash),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(hash_of(b""), HASH_OF_NOTHING);
    }

    #[test]
    fn spaces_that_mean_nothing_are_not_signed() {
        assert_eq!(single_spaced(" a  b   c "), "a b c");
        assert_eq!(single_spaced("a b"), "a b");
    }

    #[test]
    fn a_store_that_complains_of_the_clock_tells_the_time() {
        let signer = Signer::new("a", "s", "r");
        assert!(!signer.learn_store_time("yesterday"));
        let far = |one: SystemTime| {
            let now = SystemTime::now();
            one.duration_since(now).unwrap_or_default().as_secs()
        };
        assert_eq!(far(signer.store_time()), 0);
        let then = SystemTime::now() + Duration::from_secs(3600);
        let seconds = then.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let told = DateTime::from_secs(i64::try_from(seconds.as_secs()).unwrap());
        let told = told.fmt(Format::HttpDate).unwrap();
        assert!(signer.learn_store_time(&told));
        assert!(!signer.learn_store_time(&told));
        assert!((3590..=3600).contains(&far(signer.store_time())));
    }
}
