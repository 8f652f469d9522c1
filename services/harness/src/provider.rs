//! A provider that speaks OpenAI's API: vectors of texts and pictures, and captions. It counts who asks it for what, and is in
//! whatever mood a test wants.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Longest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Does its work.
    Fine,
    /// Does its work, and takes so long for each request.
    Takes(Duration),
    /// Does its work, in vectors of another length.
    Longer,
    /// Has nothing to say of any picture.
    Silent,
    /// Describes no picture but the one that is nobody's.
    Refuses,
    /// Serves one request each `every`, and answers the others 429.
    Limited {
        /// Time between two requests.
        every: Duration,
        /// What `Retry-After` says, in whole seconds.
        retry_after: Duration,
    },
    /// Answers with this status.
    Fails(u16),
    /// Never answers.
    Hangs,
    /// Breaks the connection off.
    BreaksOff,
}

/// What it has seen.
#[derive(Debug, Default, Clone)]
pub struct Asked {
    /// Texts or pictures of each request that was served.
    pub served: Vec<usize>,
    /// When each of these came.
    pub served_at: Vec<Instant>,
    /// The addresses, which hold all bytes, of the pictures in them that are of files.
    pub pictures: Vec<String>,
    /// Requests that were answered otherwise, or not at all.
    pub refused: usize,
    /// Of these, within the time that an earlier answer had asked to wait.
    pub too_early: usize,
}

struct State {
    mood: Mood,
    asked: Asked,
    free_at: Option<Instant>,
    quiet_until: Option<Instant>,
}

/// A running provider; it ends when dropped.
pub struct Provider {
    url: String,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Whoever has it may be on a runtime too, where nothing may wait for another's end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Provider")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Starts one on a free port, on a thread of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mood: Mood) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State {
            mood,
            asked: Asked::default(),
            free_at: None,
            quiet_until: None,
        }));
        let served = state.clone();
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else {
                return;
            };
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, served.clone()));
            }
        });
        Ok(Self {
            url,
            state,
            runtime: Some(runtime),
        })
    }

    /// The address up to and without `/embeddings` and `/chat/completions`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes what it does from the next request on.
    pub fn set_mood(&self, mood: Mood) {
        lock(&self.state).mood = mood;
    }

    /// What it has seen until now.
    #[must_use]
    pub fn asked(&self) -> Asked {
        lock(&self.state).asked.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request, then the connection is closed. Whatever goes wrong is the asker's to notice.
async fn serve(mut connection: TcpStream, state: Arc<Mutex<State>>) {
    let Some(request) = read(&mut connection).await else {
        return;
    };
    let Some((status, header, body)) = answer(&state, &request) else {
        if lock(&state).mood == Mood::Hangs {
            std::future::pending::<()>().await;
        }
        return;
    };
    let mood = lock(&state).mood;
    if let Mood::Takes(time) = mood {
        tokio::time::sleep(time).await;
    }
    let head = format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n",
        body.len()
    );
    let _ = connection.write_all(head.as_bytes()).await;
    let _ = connection.write_all(body.as_bytes()).await;
    let _ = connection.shutdown().await;
}

async fn read(connection: &mut TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))?;
            let length: usize = length.trim().parse().ok()?;
            while bytes.len() < end + 4 + length {
                if connection.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            return serde_json::from_slice(&bytes[end + 4..]).ok();
        }
        if bytes.len() > MAX_HEAD || connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// The address of the picture of a request for a caption.
fn shown(request: &Value) -> Option<&str> {
    let parts = request["messages"][0]["content"].as_array()?;
    parts
        .iter()
        .find_map(|part| part["image_url"]["url"].as_str())
}

/// What is asked whether the provider does its work is no JPEG.
fn is_of_a_file(url: &str) -> bool {
    url.starts_with("data:image/jpeg;base64,")
}

fn answer(state: &Mutex<State>, request: &Value) -> Option<(u16, String, String)> {
    let now = Instant::now();
    let mut state = lock(state);
    let refused = |state: &mut State| {
        state.asked.refused += 1;
        let is_early = state.quiet_until.is_some_and(|until| now < until);
        state.asked.too_early += usize::from(is_early);
    };
    match state.mood {
        Mood::Fine | Mood::Takes(_) | Mood::Longer | Mood::Silent | Mood::Refuses => {}
        Mood::Limited { every, retry_after } => {
            if state.free_at.is_some_and(|at| now < at) {
                refused(&mut state);
                state.quiet_until = Some(now + retry_after);
                let header = format!("retry-after: {}\r\n", retry_after.as_secs());
                return Some((429, header, error_body("slow down")));
            }
            state.free_at = Some(now + every);
        }
        Mood::Fails(status) => {
            refused(&mut state);
            return Some((status, String::new(), error_body("not now")));
        }
        Mood::Hangs | Mood::BreaksOff => {
            refused(&mut state);
            return None;
        }
    }
    state.asked.served_at.push(now);
    let body = match shown(request) {
        Some(url) => describe(&mut state, url),
        None => embed(&mut state, request),
    };
    Some((200, String::new(), body.to_string()))
}

fn describe(state: &mut State, url: &str) -> Value {
    let words = format!("A picture in {} letters.", url.len());
    let is_of_a_file = is_of_a_file(url);
    let message = match state.mood {
        Mood::Silent => json!({ "content": "" }),
        Mood::Refuses if is_of_a_file => {
            json!({ "content": null, "refusal": "I would rather not." })
        }
        _ => json!({ "content": words }),
    };
    state.asked.served.push(1);
    if is_of_a_file {
        state.asked.pictures.push(url.to_owned());
    }
    json!({
        "choices": [{ "index": 0, "finish_reason": "stop", "message": message }],
        "usage": { "prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100 },
    })
}

fn embed(state: &mut State, request: &Value) -> Value {
    let inputs: Vec<&str> = request["input"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|input| input.as_str().or_else(|| input["image"].as_str()))
        .collect();
    state.asked.served.push(inputs.len());
    let pictures = inputs.iter().filter(|input| is_of_a_file(input));
    state
        .asked
        .pictures
        .extend(pictures.map(|picture| (*picture).to_owned()));
    let vectors = inputs.iter().enumerate().map(|(index, input)| {
        let mut vector = vec![input.len(), 1, 0, 0];
        if state.mood == Mood::Longer {
            vector.push(0);
        }
        json!({ "object": "embedding", "index": index, "embedding": vector })
    });
    let tokens = inputs.len() * 10;
    json!({
        "object": "list", "data": vectors.collect::<Vec<_>>(), "model": request["model"],
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })
}

fn error_body(words: &str) -> String {
    json!({ "error": { "message": words, "type": "error" } }).to_string()
}
