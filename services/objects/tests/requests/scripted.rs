//! A store on a port that gives the answers it was told to, in turns, and keeps what it was asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use caudal_objects::{ObjectStore, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request: its head, and its body.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }
}

pub(crate) struct Scripted {
    pub(crate) store: ObjectStore,
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    /// Gives these answers, and the last of them from then on. One that ends before its `Content-Length` is cut there.
    pub(crate) async fn answers(answers: Vec<String>) -> Scripted {
        Scripted::answers_to(answers, |_| {}).await
    }

    pub(crate) async fn answers_to(
        answers: Vec<String>,
        change: impl FnOnce(&mut Settings),
    ) -> Scripted {
        let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listen.local_addr().unwrap().to_string();
        let endpoint = format!("http://{address}");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (answers, all, count) = (Arc::new(answers), asked.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listen.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, answers.clone(), all.clone()));
            }
        });
        let mut settings = Settings::new(endpoint, "bucket", "access", "secret");
        change(&mut settings);
        Scripted {
            store: ObjectStore::connect(settings).unwrap(),
            address,
            asked,
            connections,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Vec<String>>, all: Arc<Mutex<Vec<Asked>>>) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let body = read.split_off(end);
        let mut asked = Asked {
            head: String::from_utf8(std::mem::take(&mut read)).unwrap(),
            body,
        };
        let length = asked
            .header("content-length")
            .unwrap_or("0")
            .parse()
            .unwrap();
        while asked.body.len() < length {
            if stream.read_buf(&mut asked.body).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let is_head = asked.head.starts_with("HEAD");
        let number = {
            let mut all = all.lock().unwrap();
            all.push(asked);
            all.len() - 1
        };
        let answer = &answers[number.min(answers.len() - 1)];
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let told = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        if !is_head && body.len() < told {
            return;
        }
    }
}

/// An answer of this status with these headers.
pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn error(status: &str, code: &str) -> String {
    let body = format!("<Error><Code>{code}</Code><Message>in words</Message></Error>");
    answer(status, &[], &body)
}
