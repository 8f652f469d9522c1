//! Requests of the tus protocol as they go over the wire, and what becomes of what they send. The clients that people use
//! are tested beside; these requests say exactly what a section of the protocol is about.
#![allow(
    dead_code,
    reason = "each of the programs that share this uses a part of it"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use caudal_harness::{until, until_now};
use caudal_sdk::{Client, v1};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

/// How long a file may take to be processed.
const PATIENCE: Duration = Duration::from_secs(60);
const CHUNK: &str = "application/offset+octet-stream";

/// Bytes that look like nothing and differ by `seed`.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// `Upload-Metadata`, encoded.
pub(crate) fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs
        .iter()
        .map(|(key, value)| format!("{key} {}", base64(value.as_bytes())));
    pairs.collect::<Vec<_>>().join(",")
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            match place <= three.len() {
                true => text.push(char::from(
                    LETTERS[(number >> (18 - 6 * place)) as usize & 63],
                )),
                false => text.push('='),
            }
        }
    }
    text
}

/// Looks again and again until there is something.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_now(what, PATIENCE, look).unwrap()
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) words: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn offset(&self) -> usize {
        self.header("upload-offset").unwrap().parse().unwrap()
    }
}

/// Somebody who sends.
pub(crate) struct Sender {
    gateway: String,
    key: String,
    http: reqwest::Client,
    runtime: Runtime,
}

impl Sender {
    pub(crate) fn new(gateway: &str, key: &str) -> Self {
        Self {
            gateway: gateway.to_owned(),
            key: key.to_owned(),
            http: reqwest::Client::new(),
            runtime: Runtime::new().unwrap(),
        }
    }

    /// Exactly these headers.
    pub(crate) fn bare(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.gateway));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let response = request.body(body).send().await.unwrap();
            Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                words: response.text().await.unwrap(),
            }
        })
    }

    /// With a key and the protocol's version.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let key = format!("Bearer {}", self.key);
        let usual = [("authorization", key.as_str()), ("tus-resumable", "1.0.0")];
        self.bare(method, path, &[&usual, headers].concat(), body)
    }

    pub(crate) fn post(&self, headers: &[(&str, &str)]) -> Answer {
        self.send("POST", "/files", headers, Vec::new())
    }

    /// A new upload of a known length; its path.
    pub(crate) fn create(&self, bytes: usize, pairs: &[(&str, &str)]) -> String {
        let (bytes, pairs) = (bytes.to_string(), metadata(pairs));
        let made = self.post(&[("upload-length", &bytes), ("upload-metadata", &pairs)]);
        assert_eq!(made.status, 201, "{}", made.words);
        made.header("location").unwrap().to_owned()
    }

    pub(crate) fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], Vec::new())
    }

    pub(crate) fn patch(&self, path: &str, offset: usize, body: &[u8]) -> Answer {
        self.patch_with(path, offset, &[], body)
    }

    pub(crate) fn patch_with(
        &self,
        path: &str,
        offset: usize,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let offset = offset.to_string();
        let usual = [("content-type", CHUNK), ("upload-offset", offset.as_str())];
        self.send("PATCH", path, &[&usual, headers].concat(), body.to_vec())
    }

    /// Begins a PATCH of the rest of a file and sends some of its bytes: the connection stays open.
    pub(crate) fn begin_patch(&self, path: &str, offset: usize, whole: usize, some: &[u8]) -> Open {
        let address = self.gateway.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let (key, rest) = (&self.key, whole - offset);
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ntus-resumable: 1.0.0\r\n\
             content-type: {CHUNK}\r\nupload-offset: {offset}\r\ncontent-length: {rest}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(some).unwrap();
        Open(stream)
    }

    /// Sends bytes in two chunks, and behind them the trailers; the status of the answer.
    pub(crate) fn patch_with_trailers(
        &self,
        path: &str,
        offset: usize,
        bytes: &[u8],
        trailers: &str,
    ) -> Option<u16> {
        let address = self.gateway.strip_prefix("http://").unwrap();
        let mut open = Open(TcpStream::connect(address).unwrap());
        let key = &self.key;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ntus-resumable: 1.0.0\r\n\
             content-type: {CHUNK}\r\nupload-offset: {offset}\r\ntrailer: Upload-Checksum\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        open.send(head.as_bytes());
        let (one, other) = bytes.split_at(bytes.len() / 2);
        for chunk in [one, other] {
            open.send(format!("{:x}\r\n", chunk.len()).as_bytes());
            open.send(chunk);
            open.send(b"\r\n");
        }
        open.send(format!("0\r\n{trailers}\r\n").as_bytes());
        open.status()
    }

    /// As [`Sender::begin_patch`], and comes back when the gateway holds the upload for it.
    pub(crate) fn hold(&self, path: &str, whole: usize, some: &[u8]) -> Open {
        eventually("a request to hold the upload", || {
            let open = self.begin_patch(path, 0, whole, some);
            // One that asks at the same moment may be first; then the other is refused, and begins anew.
            (0..20)
                .any(|_| self.patch(path, whole, &[]).status == 423)
                .then_some(open)
        })
    }

    /// Asks for the offset until nobody writes any more.
    pub(crate) fn offset_at_rest(&self, path: &str) -> usize {
        let looked = until("the upload to be free", PATIENCE, async || {
            let (status, offset) = self.try_empty_patch(path).await;
            (status == 204).then_some(offset)
        });
        self.runtime.block_on(looked).unwrap()
    }

    async fn try_empty_patch(&self, path: &str) -> (u16, usize) {
        let key = format!("Bearer {}", self.key);
        let url = format!("{}{path}", self.gateway);
        let of = |method| {
            let request = self.http.request(method, &url);
            request
                .header("authorization", &key)
                .header("tus-resumable", "1.0.0")
        };
        let Ok(head) = of(reqwest::Method::HEAD).send().await else {
            return (0, 0);
        };
        let Some(offset) = head.headers().get("upload-offset").cloned() else {
            return (0, 0);
        };
        let patch = of(reqwest::Method::PATCH)
            .header("content-type", CHUNK)
            .header("upload-offset", offset.clone());
        let status = patch
            .send()
            .await
            .map_or(0, |answer| answer.status().as_u16());
        (status, offset.to_str().unwrap().parse().unwrap())
    }

    /// Sends the rest of a file in requests of so many bytes, going on where the upload says.
    pub(crate) fn send_rest(&self, path: &str, bytes: &[u8], piece: usize) {
        let mut offset = self.offset_at_rest(path);
        while offset < bytes.len() {
            let end = bytes.len().min(offset + piece);
            let answer = self.patch(path, offset, &bytes[offset..end]);
            assert_eq!(answer.status, 204, "{}", answer.words);
            assert_eq!(answer.offset(), end);
            offset = end;
        }
    }

    fn sdk(&self) -> Client {
        self.runtime
            .block_on(async { Client::connect(&self.gateway, &self.key).await.unwrap() })
    }

    /// A new batch.
    pub(crate) fn batch(&self) -> String {
        let client = self.sdk();
        let made = client.create_batch(v1::Batch::default());
        self.runtime.block_on(made).unwrap().name
    }

    pub(crate) fn complete(&self, batch: &str, files: u32) {
        let client = self.sdk();
        let done = client.complete_batch(batch, v1::MissingFiles::Wait, files);
        self.runtime.block_on(done).unwrap();
    }

    /// The batches of the tenant, newest first.
    pub(crate) fn batches(&self) -> Vec<v1::Batch> {
        let client = self.sdk();
        let listed = client.list_batches(v1::ListBatchesRequest::default());
        self.runtime.block_on(listed).unwrap().batches
    }

    /// The files of a batch, by path.
    pub(crate) fn files(&self, batch: &str) -> Vec<v1::File> {
        let client = self.sdk();
        let request = v1::ListFilesRequest {
            selector: Some(v1::FileSelector {
                batch: batch.to_owned(),
                ..v1::FileSelector::default()
            }),
            view: v1::FileView::Full.into(),
            ..v1::ListFilesRequest::default()
        };
        let mut files = self
            .runtime
            .block_on(client.list_files(request))
            .unwrap()
            .files;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    }

    /// Waits until the file has been processed: it has these bytes.
    pub(crate) fn arrived(&self, batch: &str, path: &str, bytes: &[u8]) {
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(self.processed(batch, path).sha256, sha256);
    }

    /// The file, once it has been processed.
    pub(crate) fn processed(&self, batch: &str, path: &str) -> v1::File {
        let client = self.sdk();
        let request = v1::ListFilesRequest {
            selector: Some(v1::FileSelector {
                batch: batch.to_owned(),
                ..v1::FileSelector::default()
            }),
            view: v1::FileView::Full.into(),
            ..v1::ListFilesRequest::default()
        };
        let processed = until("the file to be processed", PATIENCE, async || {
            let files = client.list_files(request.clone()).await.ok()?.files;
            let file = files.into_iter().find(|file| file.path == path)?;
            (file.state() == v1::FileState::Processed).then_some(file)
        });
        self.runtime.block_on(processed).unwrap()
    }

    /// Waits until a batch has ended; its state.
    pub(crate) fn ended(&self, batch: &str) -> v1::BatchState {
        let client = self.sdk();
        let ended = until("the batch to end", PATIENCE, async || {
            let batch = client.get_batch(batch).await.ok()?;
            let open = [v1::BatchState::Open, v1::BatchState::Running];
            (!open.contains(&batch.state())).then(|| batch.state())
        });
        self.runtime.block_on(ended).unwrap()
    }
}

/// A request that is not whole yet.
pub(crate) struct Open(TcpStream);

impl Open {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Ends as a cable that is pulled does: with a reset where anything was unread, else with an end.
    pub(crate) fn cut(self) {
        self.0.shutdown(Shutdown::Both).unwrap();
    }

    /// The status of the answer; none when the connection broke.
    pub(crate) fn status(self) -> Option<u16> {
        self.status_within(PATIENCE)
    }

    /// The status of the answer; none when there is none by then. The connection ends.
    pub(crate) fn status_within(mut self, time: Duration) -> Option<u16> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut head = [0; 12];
        self.0.read_exact(&mut head).ok()?;
        std::str::from_utf8(&head[9..]).ok()?.parse().ok()
    }
}
