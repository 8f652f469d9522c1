//! Requests of our own making, for what is done with every file. The SDK resolves endpoint, credentials, checksums and more
//! for each call anew, which costs more than a small object's request itself; here all that is known from the beginning.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, DATE, ETAG, HOST, HeaderName, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

use crate::address::Address;
use crate::error::ObjectError;
use crate::etag::etag_of;
use crate::retry::{MAX_ATTEMPTS, Quota, SKEWED, backoff, is_worth_another_try};
use crate::settings::Settings;
use crate::signing::{ALGORITHM, Canonical, HASH_OF_NOTHING, Signer, UNSIGNED, hash_of};
use crate::transport::{AnswerBody, SendError, Transport};
use crate::xml::{Element, Words};

/// A copy, and what makes parts one object, is answered when it is done, which takes S3 minutes for gigabytes: so many times
/// as long as another answer may take.
pub(crate) const PATIENCE_WITH_COPIES: u32 = 20;
/// A body takes its time to be sent, before there can be an answer: at this rate at least.
const BYTES_A_SECOND: u64 = 1024 * 1024;
/// The longest answer in XML that is read: that to a page of deletions of which each one failed.
const MAX_TOLD_BYTES: usize = 4 * 1024 * 1024;

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const PRODUCT: HeaderValue =
    HeaderValue::from_static(concat!("caudal/", env!("CARGO_PKG_VERSION")));

/// What a request asks for.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Empty for what is asked of the bucket.
    pub(crate) key: &'a str,
    /// Sorted and encoded.
    pub(crate) query: String,
    pub(crate) headers: Vec<(HeaderName, Cow<'a, str>)>,
    pub(crate) body: Bytes,
    /// How many times as long as usual the answer may take.
    pub(crate) patience: u32,
    /// Whether the answer says in its body what became of the request.
    pub(crate) is_told: bool,
    /// What errors are about.
    pub(crate) about: &'a str,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, key: &'a str) -> Ask<'a> {
        Ask {
            method,
            key,
            query: String::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            patience: 1,
            is_told: false,
            about: key,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<Cow<'a, str>>) -> Ask<'a> {
        self.headers.push((name, value.into()));
        self
    }
}

/// A good answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Taken out where it was read already.
    pub(crate) body: Option<AnswerBody>,
    /// What it says, where it says something; none where it is empty.
    pub(crate) told: Option<Element>,
}

impl Answer {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn etag(&self, about: &str) -> Result<String, ObjectError> {
        etag_of(about, self.header(&ETAG))
    }

    pub(crate) fn length(&self, about: &str) -> Result<u64, ObjectError> {
        self.header(&CONTENT_LENGTH)
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| ObjectError::unavailable(about, "the store named no size"))
    }
}

/// Why there is no good answer.
enum Failure {
    /// It cannot be asked.
    Invalid(ObjectError),
    /// None came.
    Send(SendError),
    Answered {
        status: u16,
        words: Words,
        date: Option<String>,
    },
}

impl Failure {
    fn is_worth_another_try(&self) -> bool {
        match self {
            Failure::Invalid(_) => false,
            Failure::Send(_) => true,
            Failure::Answered { status, words, .. } => is_worth_another_try(*status, &words.code),
        }
    }

    fn into_error(self, about: &str) -> ObjectError {
        match self {
            Failure::Invalid(error) => error,
            Failure::Send(error) => ObjectError::of_send(about, error),
            Failure::Answered { status, words, .. } => {
                ObjectError::of_answer(about, status, words.code, words.message)
            }
        }
    }
}

/// Makes requests of one bucket.
#[derive(Debug)]
pub(crate) struct Direct {
    address: Address,
    signer: Arc<Signer>,
    transport: Transport,
    quota: Quota,
    /// Whether somebody on the way could change bodies, so that signatures cover them.
    hashes_bodies: bool,
    answer_within: Duration,
}

impl Direct {
    pub(crate) fn new(
        settings: &Settings,
        address: Address,
        signer: Arc<Signer>,
        transport: Transport,
    ) -> Direct {
        Direct {
            answer_within: settings.answer_within,
            hashes_bodies: !address.is_https() && !settings.trusts_network,
            address,
            signer,
            transport,
            quota: Quota::new(),
        }
    }

    /// Asks, and again where that may help.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, ObjectError> {
        let mut attempt = 1;
        loop {
            let failure = match self.once(&ask).await {
                Ok(answer) => {
                    self.quota.give_back(attempt);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let is_worth_it = failure.is_worth_another_try() | self.is_of_the_clock(&failure);
            if attempt == MAX_ATTEMPTS || !is_worth_it || !self.quota.take() {
                return Err(failure.into_error(ask.about));
            }
            attempt += 1;
            tokio::time::sleep(backoff(attempt)).await;
        }
    }

    /// Whether a signature was refused for its time; the next is made for the store's. An answer without words, as to HEAD,
    /// is known by the store's clock.
    fn is_of_the_clock(&self, failure: &Failure) -> bool {
        let Failure::Answered {
            status: 400 | 403,
            words,
            date: Some(date),
        } = failure
        else {
            return false;
        };
        matches!(words.code.as_str(), SKEWED | "") && self.signer.learn_store_time(date)
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let request = self.request(ask).map_err(Failure::Invalid)?;
        let sending = Duration::from_secs(ask.body.len() as u64 / BYTES_A_SECOND);
        let patience = self.answer_within * ask.patience + sending;
        let answered = tokio::time::timeout(patience, self.answer(ask, request));
        answered.await.unwrap_or_else(|_| {
            Err(Failure::Send(SendError {
                is_away: false,
                detail: format!("no answer within {} s", patience.as_secs_f32()),
            }))
        })
    }

    async fn answer(&self, ask: &Ask<'_>, request: Request<Bytes>) -> Result<Answer, Failure> {
        let answer = self.transport.send(request).await.map_err(Failure::Send)?;
        let (parts, body) = answer.into_parts();
        let is_good = parts.status.is_success();
        let mut answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: None,
            told: None,
        };
        if is_good && !ask.is_told {
            answer.body = Some(body);
            return Ok(answer);
        }
        let told = Limited::new(body, MAX_TOLD_BYTES).collect().await;
        let told = match told {
            Ok(told) => told.to_bytes(),
            // What it says is known by its status at least.
            Err(_) if !is_good => Bytes::new(),
            Err(error) => {
                return Err(Failure::Send(SendError {
                    is_away: false,
                    detail: format!("the answer broke off: {error}"),
                }));
            }
        };
        answer.told = Element::parse(&told);
        let words = answer.told.as_ref().and_then(Words::of);
        // S3 begins to answer before a copy is done, with a 200, and says afterwards that it failed.
        let is_error = |element: &Element| element.name == "Error";
        if is_good && !answer.told.as_ref().is_some_and(is_error) {
            if answer.told.is_none() && !told.trim_ascii().is_empty() {
                return Err(not_understood());
            }
            return Ok(answer);
        }
        Err(Failure::Answered {
            status: if is_good { 200 } else { answer.status.as_u16() },
            words: words.unwrap_or_default(),
            date: answer.header(&DATE).map(str::to_owned),
        })
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Bytes>, ObjectError> {
        let invalid =
            |error: &dyn std::fmt::Display| ObjectError::invalid(ask.about, error.to_string());
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| invalid(&error));
        let path = self.address.path(ask.key);
        let mut headers = HeaderMap::with_capacity(ask.headers.len() + 6);
        for (name, text) in &ask.headers {
            headers.insert(name.clone(), value(text)?);
        }
        headers.insert(HOST, self.address.host_header());
        headers.insert(USER_AGENT, PRODUCT);
        if matches!(ask.method, Method::PUT | Method::POST) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(ask.body.len()));
        }
        if self.transport.is_network() {
            self.sign(ask, &path, &mut headers)?;
        }
        let mut target = path;
        if !ask.query.is_empty() {
            target.push('?');
            target.push_str(&ask.query);
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
            .map_err(|error| invalid(&error))?;
        // As a server sees it that has read it from a connection.
        let uri = if self.transport.is_network() {
            self.address.uri(target).map_err(|error| invalid(&error))?
        } else {
            Uri::from(target)
        };
        let mut request = Request::new(ask.body.clone());
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn sign(&self, ask: &Ask<'_>, path: &str, headers: &mut HeaderMap) -> Result<(), ObjectError> {
        let invalid =
            |error: &dyn std::fmt::Display| ObjectError::invalid(ask.about, error.to_string());
        let moment = self.signer.moment(self.signer.store_time())?;
        let body: Cow<'_, str> = if ask.body.is_empty() {
            HASH_OF_NOTHING.into()
        } else if self.hashes_bodies {
            hash_of(&ask.body).into()
        } else {
            UNSIGNED.into()
        };
        let mut signed: Vec<(&str, &str)> = Vec::with_capacity(ask.headers.len() + 3);
        signed.extend([
            (HOST.as_str(), self.address.host()),
            ("x-amz-content-sha256", body.as_ref()),
            ("x-amz-date", moment.time.as_str()),
        ]);
        signed.extend(
            ask.headers
                .iter()
                .map(|(name, text)| (name.as_str(), &**text)),
        );
        signed.sort_unstable();
        let canonical = Canonical {
            method: ask.method.as_str(),
            path,
            query: &ask.query,
            headers: &signed,
            body: &body,
        };
        let names = canonical.names();
        let signature = self.signer.signature(&moment, &canonical.text(&names))?;
        let credential = self.signer.credential(&moment);
        let authorization = format!(
            "{ALGORITHM} Credential={credential},SignedHeaders={names},Signature={signature}"
        );
        for (name, text) in [
            (AUTHORIZATION, authorization),
            (AMZ_DATE, moment.time.clone()),
            (CONTENT_SHA256, body.into_owned()),
        ] {
            let value = HeaderValue::try_from(text).map_err(|error| invalid(&error))?;
            headers.insert(name, value);
        }
        Ok(())
    }
}

/// A good answer that is none of S3's.
fn not_understood() -> Failure {
    Failure::Answered {
        status: 200,
        words: Words::default(),
        date: None,
    }
}
