//! The store's door for its own process: plain HTTP requests and answers, without connection, signature or table of
//! connections. Whoever holds it may do all; the network never reaches it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use s3s::Body;
use s3s::service::S3Service;

use super::{OnRequest, strict};

/// Why a request has no answer, or its body no end.
pub type DoorError = Box<dyn Error + Send + Sync>;
/// The body of an answer.
pub type DoorBody = UnsyncBoxBody<Bytes, DoorError>;

/// Answers S3 requests of the same process, as the server answers signed ones: path-style (`/BUCKET/KEY`), and without a
/// host. What is signed is answered too; the signature is not looked at.
///
/// When the server has stopped, it answers that the store is closed.
#[derive(Clone)]
pub struct S3Door {
    pub(super) service: S3Service,
    pub(super) is_strict: bool,
    pub(super) on_request: OnRequest,
}

impl fmt::Debug for S3Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Door").finish_non_exhaustive()
    }
}

impl<B> tower::Service<Request<B>> for S3Door
where
    B: hyper::body::Body<Data = Bytes, Error: Into<DoorError>> + Send + 'static,
{
    type Response = Response<DoorBody>;
    type Error = DoorError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<DoorBody>, DoorError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DoorError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.on_request.came(request.method());
        let (service, is_strict) = (self.service.clone(), self.is_strict);
        let request = request.map(|body| Body::http_body_unsync(body.map_err(Into::into)));
        Box::pin(async move {
            let may = match is_strict {
                true => strict::check(request.headers()),
                false => Ok(()),
            };
            let answer = match may {
                Ok(()) => service.call(request).await?,
                Err(refused) => refused.to_http_response()?,
            };
            Ok(answer.map(BodyExt::boxed_unsync))
        })
    }
}
