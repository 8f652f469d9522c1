//! Reading: the whole of an object, a part, its beginning, or what is known of it.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, RANGE};
use http::{Method, StatusCode};

use crate::direct::{Answer, Ask};
use crate::error::ObjectError;
use crate::etag::{bare_etag, quoted};
use crate::store::ObjectStore;
use crate::stream::{GetObject, ObjectStream};

/// What S3 says of a range that is not in the object: in words, or without.
const NO_SUCH_PART: [&str; 2] = ["InvalidRange", "416"];

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

impl ObjectStore {
    /// Opens an object. With `if_match` only the object of that ETag is given, whatever the store thinks of conditions.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`]; [`ObjectError::PreconditionFailed`] when another object is under the key.
    pub async fn get(&self, key: &str, if_match: Option<&str>) -> Result<GetObject, ObjectError> {
        let answer = self.direct.ask(get_ask(key, if_match)).await?;
        self.opened(key, if_match, answer)
    }

    /// Reads a whole object of at most `max` bytes.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`] before a byte is read; else as [`get`](ObjectStore::get).
    pub async fn get_bytes(&self, key: &str, max: u64) -> Result<Bytes, ObjectError> {
        let object = self.get(key, None).await?;
        if object.size > max {
            return Err(ObjectError::TooLarge {
                key: key.to_owned(),
                size: object.size,
                limit: max,
            });
        }
        object.stream.whole().await
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
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let ask = get_ask(key, if_match).header(RANGE, bytes);
        let answer = self.direct.ask(ask).await?;
        let other = |detail: String| Err(ObjectError::unavailable(key, detail));
        if let Some(part) = part_of(&answer)
            && part.begins != range.start
        {
            return other(format!(
                "a part from {} came of one from {}",
                part.begins, range.start
            ));
        }
        let object = self.opened(key, if_match, answer)?;
        if object.size != wanted {
            return other(format!("{} bytes came of a part of {wanted}", object.size));
        }
        object.stream.whole().await
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
        if most == 0 {
            return self.beginning_by_head(key, most).await;
        }
        let ask = get_ask(key, None).header(RANGE, format!("bytes=0-{}", most - 1));
        let answer = match self.direct.ask(ask).await {
            Ok(answer) => answer,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            // There is no first byte of nothing.
            Err(ObjectError::Refused { code, .. }) if NO_SUCH_PART.contains(&code.as_str()) => {
                return self.beginning_by_head(key, most).await;
            }
            Err(error) => return Err(error),
        };
        match self.beginning_of(key, most, answer).await {
            Err(error) if error.is_retryable() => self.beginning_by_head(key, most).await,
            beginning => beginning.map(Some),
        }
    }

    /// The beginning that an answer holds. Stores differ in what they say of a part of less than was asked for.
    async fn beginning_of(
        &self,
        key: &str,
        most: u64,
        answer: Answer,
    ) -> Result<Beginning, ObjectError> {
        let untold = |detail: &str| ObjectError::unavailable(key, detail);
        let size = match (answer.status, part_of(&answer)) {
            (StatusCode::PARTIAL_CONTENT, Some(Part { begins: 0, whole })) => whole,
            (StatusCode::PARTIAL_CONTENT, _) => {
                return Err(untold("a part came that says not of what"));
            }
            // Not every store knows parts, nor sees one in the whole.
            _ => answer.length(key)?,
        };
        let object = self.opened(key, None, answer)?;
        let etag = object.etag;
        // Some announce bytes of it all the same.
        let bytes = match size {
            0 => Bytes::new(),
            _ => object.stream.first(most).await?,
        };
        if bytes.len() as u64 != size.min(most) {
            return Err(untold("another part came than the beginning"));
        }
        Ok(Beginning { size, etag, bytes })
    }

    /// As [`get_beginning`](ObjectStore::get_beginning), in two requests: for what one does not tell, as of nothing.
    async fn beginning_by_head(
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
        let answer = match self.direct.ask(Ask::new(Method::HEAD, key)).await {
            Ok(answer) => answer,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Head {
            size: answer.length(key)?,
            etag: answer.etag(key)?,
            media_type: answer.header(&CONTENT_TYPE).map(str::to_owned),
        }))
    }

    /// What an answered GET gives: the object of that ETag and no other.
    fn opened(
        &self,
        key: &str,
        if_match: Option<&str>,
        mut answer: Answer,
    ) -> Result<GetObject, ObjectError> {
        let etag = answer.etag(key)?;
        // Not every S3 honours If-Match on a GET.
        if if_match.is_some_and(|wanted| bare_etag(wanted) != etag) {
            return Err(ObjectError::PreconditionFailed {
                key: key.to_owned(),
            });
        }
        let size = answer.length(key)?;
        let body = answer.body.take();
        let body = body.ok_or_else(|| ObjectError::unavailable(key, "an answer without a body"))?;
        Ok(GetObject {
            etag,
            size,
            media_type: answer.header(&CONTENT_TYPE).map(str::to_owned),
            stream: ObjectStream::new(key, body, size, self.settings.answer_within),
        })
    }
}

/// The part of an object that an answer holds.
struct Part {
    begins: u64,
    /// Size of the whole object.
    whole: u64,
}

/// None where the answer does not say, in full.
fn part_of(answer: &Answer) -> Option<Part> {
    let range = answer.header(&CONTENT_RANGE)?.strip_prefix("bytes ")?;
    let (part, whole) = range.split_once('/')?;
    let (begins, _) = part.split_once('-')?;
    Some(Part {
        begins: begins.parse().ok()?,
        whole: whole.parse().ok()?,
    })
}

fn get_ask<'a>(key: &'a str, if_match: Option<&str>) -> Ask<'a> {
    let ask = Ask::new(Method::GET, key);
    match if_match {
        Some(etag) => ask.header(IF_MATCH, quoted(etag)),
        None => ask,
    }
}
