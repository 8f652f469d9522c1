//! An object's bytes as they arrive, counted against what was announced.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use hyper::body::Body as _;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::ObjectError;
use crate::transport::AnswerBody;

/// An answered GET.
#[derive(Debug)]
pub struct GetObject {
    /// The ETag of these very bytes, without quotes.
    pub etag: String,
    /// How many bytes the stream gives.
    pub size: u64,
    /// The media type it was put with, where the store knows one.
    pub media_type: Option<String>,
    /// The bytes.
    pub stream: ObjectStream,
}

/// The bytes of an object, in pieces of the network's making (some tens of KiB), read from the store as they are taken. It
/// ends well only after exactly the announced number of bytes; less, more or silence is [`ObjectError::Unavailable`].
#[derive(Debug)]
pub struct ObjectStream {
    key: String,
    body: AnswerBody,
    left: u64,
    silence: Duration,
    is_ended: bool,
    /// Made when something is first waited for: most objects come whole with their answer.
    idle: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl ObjectStream {
    /// A store that sends nothing for as long as `silence` has gone.
    pub(crate) fn new(key: &str, body: AnswerBody, size: u64, silence: Duration) -> ObjectStream {
        ObjectStream {
            key: key.to_owned(),
            body,
            left: size,
            silence,
            is_ended: false,
            idle: None,
            is_waiting: false,
        }
    }

    /// All of it. What came in one piece is not copied.
    pub(crate) async fn whole(self) -> Result<Bytes, ObjectError> {
        self.first(u64::MAX).await
    }

    /// The first bytes, at most `most` of them.
    pub(crate) async fn first(mut self, most: u64) -> Result<Bytes, ObjectError> {
        let wanted = usize::try_from(self.left.min(most))
            .map_err(|_| ObjectError::unavailable(&self.key, "more than fits into memory"))?;
        let is_whole = self.left <= most;
        let mut first = Bytes::new();
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if first.is_empty() {
                first = piece;
            } else {
                if bytes.is_empty() {
                    bytes.reserve(wanted);
                    bytes.extend_from_slice(&first);
                }
                bytes.extend_from_slice(&piece);
            }
            let had = first.len().max(bytes.len());
            // To its very end, where all of it is wanted: only that tells whether it was all.
            if had >= wanted && !is_whole {
                break;
            }
        }
        let mut bytes = if bytes.is_empty() {
            first
        } else {
            bytes.freeze()
        };
        bytes.truncate(wanted);
        Ok(bytes)
    }

    fn broken(&mut self, detail: impl Into<String>) -> Poll<Option<Result<Bytes, ObjectError>>> {
        self.is_ended = true;
        Poll::Ready(Some(Err(ObjectError::unavailable(&self.key, detail))))
    }

    /// Whether nothing has come for too long.
    fn is_silent(&mut self, context: &mut Context<'_>) -> bool {
        let silence = self.silence;
        let until = || Instant::now() + silence;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(sleep_until(until())));
        if !self.is_waiting {
            self.is_waiting = true;
            idle.as_mut().reset(until());
        }
        idle.as_mut().poll(context).is_ready()
    }
}

impl Stream for ObjectStream {
    type Item = Result<Bytes, ObjectError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.is_ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.is_waiting = false;
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    let Some(left) = this.left.checked_sub(bytes.len() as u64) else {
                        return this.broken("more bytes came than were announced");
                    };
                    this.left = left;
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return this.broken(error.to_string()),
                Poll::Ready(None) if this.left > 0 => {
                    let left = this.left;
                    return this
                        .broken(format!("the answer broke off {left} bytes before its end"));
                }
                Poll::Ready(None) => this.is_ended = true,
                Poll::Pending if this.is_silent(context) => {
                    return this.broken("the store stopped sending");
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
