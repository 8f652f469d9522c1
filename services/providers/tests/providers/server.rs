//! A server that speaks OpenAI's API, and does what a test wants next.
#![expect(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use caudal_providers::breaker::BreakerPolicy;
use caudal_providers::{ApiKey, ServerSettings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the server answers next; without a script it embeds each text, or each address of a picture, as `[its length, 1]`, in
/// reversed order, and describes a picture by the length of its address.
pub(crate) enum Scripted {
    Status(StatusCode, Vec<(&'static str, &'static str)>, &'static str),
    Never,
    Fine,
}

#[derive(Default)]
pub(crate) struct FakeProvider {
    script: VecDeque<Scripted>,
    pub(crate) seen: Vec<(HeaderMap, Value)>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) provider: Arc<Mutex<FakeProvider>>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub(crate) async fn start(script: Vec<Scripted>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let provider = Arc::new(Mutex::new(FakeProvider {
            script: script.into(),
            seen: Vec::new(),
        }));
        let router = Router::new()
            .route("/v1/embeddings", post(answer))
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&provider));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            provider,
            serving,
        }
    }

    pub(crate) fn seen(&self) -> usize {
        self.provider.lock().unwrap().seen.len()
    }
}

async fn answer(
    State(provider): State<Arc<Mutex<FakeProvider>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let scripted = {
        let mut provider = provider.lock().unwrap();
        provider.seen.push((headers, request.clone()));
        provider.script.pop_front()
    };
    match scripted {
        Some(Scripted::Status(status, headers, body)) => {
            let mut response = (status, body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Some(Scripted::Never) => std::future::pending().await,
        Some(Scripted::Fine) | None => match request["messages"][0]["content"].as_array() {
            Some(parts) => described(parts).into_response(),
            None => embedded(&request).into_response(),
        },
    }
}

fn described(parts: &[Value]) -> axum::Json<Value> {
    let url = parts[1]["image_url"]["url"].as_str().unwrap();
    axum::Json(json!({
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": format!(" A picture of {}.\n", url.len())},
        }],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
    }))
}

fn embedded(request: &Value) -> axum::Json<Value> {
    let input = request["input"].as_array().unwrap();
    let length = |input: &Value| input.as_str().or(input["image"].as_str()).unwrap().len();
    let mut data: Vec<Value> = input
        .iter()
        .enumerate()
        .map(|(index, input)| {
            json!({"object": "embedding", "index": index, "embedding": [length(input), 1]})
        })
        .collect();
    data.reverse();
    axum::Json(json!({
        "object": "list", "data": data, "model": request["model"],
        "usage": {"prompt_tokens": input.len() * 3, "total_tokens": input.len() * 3},
    }))
}

/// The answer to one request.
pub(crate) fn status(code: u16, body: &'static str) -> Scripted {
    Scripted::Status(StatusCode::from_u16(code).unwrap(), Vec::new(), body)
}

pub(crate) fn settings(url: &str) -> ServerSettings {
    ServerSettings {
        base_url: url.to_owned(),
        model: "small".to_owned(),
        api_key: ApiKey::new("sk-secret"),
        timeout: Duration::from_secs(20),
        breaker: BreakerPolicy::try_new(2, Duration::from_millis(300), 1).unwrap(),
    }
}
