//! A store in memory, in this process, that keeps what it was asked and takes its time where it is told to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use caudal_objects::{InProcess, ObjectStore, Settings};
use futures::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// How long its clients wait for an answer.
pub(crate) const WITHIN: Duration = Duration::from_millis(500);

#[derive(Clone, Default)]
pub(crate) struct Memory {
    objects: Arc<Mutex<HashMap<String, Bytes>>>,
    asked: Arc<Mutex<Vec<(Method, String, HeaderMap)>>>,
    answers_after: Duration,
    sends_after: Duration,
}

impl Memory {
    pub(crate) fn slow(answers_after: Duration, sends_after: Duration) -> Memory {
        Memory {
            answers_after,
            sends_after,
            ..Memory::default()
        }
    }

    /// A client of it. Its endpoint leads nowhere.
    pub(crate) fn store(&self) -> ObjectStore {
        let mut settings = Settings::new("http://127.0.0.1:1", "bucket", "access", "secret");
        settings.answer_within = WITHIN;
        settings.in_process = Some(InProcess::new(self.clone()));
        ObjectStore::connect(settings).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<(Method, String, HeaderMap)> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path().to_owned();
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let mut objects = self.objects.lock().unwrap();
        let answer = Response::builder();
        let etag = |bytes: &Bytes| format!("\"{}-{}\"", bytes.len(), bytes.first().unwrap_or(&0));
        let none = || {
            let body = "<Error><Code>NoSuchKey</Code></Error>";
            let answer = Response::builder().status(StatusCode::NOT_FOUND);
            answer.body(Bytes::from_static(body.as_bytes())).unwrap()
        };
        match (request.method().as_str(), header("x-amz-copy-source")) {
            ("PUT", Some(source)) => {
                let Some(bytes) = objects.get(&format!("/{source}")).cloned() else {
                    return none();
                };
                let body = format!(
                    "<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>",
                    etag(&bytes)
                );
                objects.insert(path, bytes);
                answer.body(Bytes::from(body)).unwrap()
            }
            ("PUT", None) => {
                let bytes = request.body().clone();
                let answer = answer.header("etag", etag(&bytes));
                objects.insert(path, bytes);
                answer.body(Bytes::new()).unwrap()
            }
            ("GET" | "HEAD", _) => {
                let Some(bytes) = objects.get(&path).cloned() else {
                    return none();
                };
                let answer = answer
                    .header("etag", etag(&bytes))
                    .header("content-length", bytes.len());
                let is_head = request.method() == Method::HEAD;
                answer
                    .body(if is_head { Bytes::new() } else { bytes })
                    .unwrap()
            }
            ("DELETE", _) => {
                objects.remove(&path);
                answer
                    .status(StatusCode::NO_CONTENT)
                    .body(Bytes::new())
                    .unwrap()
            }
            _ => answer
                .status(StatusCode::NOT_IMPLEMENTED)
                .body(Bytes::new())
                .unwrap(),
        }
    }
}

impl tower::Service<Request<Full<Bytes>>> for Memory {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        // It is whole: nothing is waited for.
        let request = request.map(|body| {
            let whole = body.collect().now_or_never().unwrap();
            whole.unwrap().to_bytes()
        });
        let asked = (
            request.method().clone(),
            request.uri().to_string(),
            request.headers().clone(),
        );
        self.asked.lock().unwrap().push(asked);
        let answer = self.answer(&request);
        let (answers_after, sends_after) = (self.answers_after, self.sends_after);
        Box::pin(async move {
            tokio::time::sleep(answers_after).await;
            Ok(answer.map(|bytes| {
                if sends_after.is_zero() {
                    return Full::new(bytes).boxed_unsync();
                }
                let pieces: Vec<Bytes> = bytes.chunks(2).map(Bytes::copy_from_slice).collect();
                let pieces =
                    futures::stream::unfold(pieces.into_iter(), move |mut left| async move {
                        let piece = left.next()?;
                        tokio::time::sleep(sends_after).await;
                        Some((Ok(Frame::data(piece)), left))
                    });
                StreamBody::new(pieces).boxed_unsync()
            }))
        })
    }
}
