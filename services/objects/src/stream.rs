//! An object's bytes as they arrive, counted against what was announced.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::ObjectError;

/// A store that sends nothing for so long has gone.
const BODY_IDLE: Duration = Duration::from_secs(30);

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
    body: ByteStream,
    left: u64,
    is_ended: bool,
    idle: Pin<Box<Sleep>>,
}

impl ObjectStream {
    pub(crate) fn new(key: &str, body: ByteStream, size: u64) -> ObjectStream {
        ObjectStream {
            key: key.to_owned(),
            body,
            left: size,
            is_ended: false,
            idle: Box::pin(sleep_until(Instant::now() + BODY_IDLE)),
        }
    }

    fn broken(&mut self, detail: impl Into<String>) -> Poll<Option<Result<Bytes, ObjectError>>> {
        self.is_ended = true;
        Poll::Ready(Some(Err(ObjectError::unavailable(&self.key, detail))))
    }
}

impl Stream for ObjectStream {
    type Item = Result<Bytes, ObjectError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_next(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                let Some(left) = this.left.checked_sub(bytes.len() as u64) else {
                    return this.broken("more bytes came than were announced");
                };
                this.left = left;
                this.idle.as_mut().reset(Instant::now() + BODY_IDLE);
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(error))) => this.broken(error.to_string()),
            Poll::Ready(None) if this.left > 0 => {
                let left = this.left;
                this.broken(format!("the answer broke off {left} bytes before its end"))
            }
            Poll::Ready(None) => {
                this.is_ended = true;
                Poll::Ready(None)
            }
            Poll::Pending if this.idle.as_mut().poll(context).is_ready() => {
                this.broken("the store stopped sending")
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
