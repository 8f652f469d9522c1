//! What a request costs its client: CPU of this process for each GET and PUT of a small object, by the SDK and by our own
//! requests, in turns. The store answers from memory in a process of its own, so that it is not counted.
//!
//! `cargo run --release -p caudal-objects --example request_cost [REQUESTS]`

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use caudal_objects::{ObjectStore, Settings};

type Any = Box<dyn Error + Send + Sync>;

const OBJECT_BYTES: usize = 250;
const ROUNDS: usize = 5;
const KEY: &str =
    "0198c0de-0000-7000-8000-000000000000/files/0198c0de-0000-7000-8000-000000000001/17";
/// Tells the process that it is the store.
const STORE: &str = "store";

fn main() -> Result<(), Any> {
    let told = std::env::args().nth(1);
    if told.as_deref() == Some(STORE) {
        return serve();
    }
    let requests: usize = told.map_or(Ok(5_000), |number| number.parse())?;
    let mut store = Command::new(std::env::current_exe()?)
        .arg(STORE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = store.stdout.take().ok_or("no output of the store")?;
    let mut endpoint = String::new();
    BufReader::new(out).read_line(&mut endpoint)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(measure(endpoint.trim(), requests));
    // It ends with its standard input.
    drop(store.stdin.take());
    store.wait()?;
    measured
}

async fn measure(endpoint: &str, requests: usize) -> Result<(), Any> {
    let settings = |trusts_network| {
        let settings = Settings::new(endpoint, "caudal", "access", "secret");
        Settings {
            trusts_network,
            ..settings
        }
    };
    let hashing = ObjectStore::connect(settings(false))?;
    let trusting = ObjectStore::connect(settings(true))?;
    let client = sdk(endpoint);
    let body = Bytes::from(vec![b'x'; OBJECT_BYTES]);
    println!("microseconds of CPU a request, of {requests} each, one after the other");
    println!("round  GET: SDK  ours   PUT: SDK  ours  ours, not hashed");
    for round in 1..=ROUNDS {
        let sdk_get = cost(requests, || sdk_get(&client)).await?;
        let our_get = cost(requests, async || {
            let bytes = hashing.get_bytes(KEY, OBJECT_BYTES as u64).await?;
            whole(&bytes)
        });
        let our_get = our_get.await?;
        let sdk_put = cost(requests, || sdk_put(&client, &body)).await?;
        let put = async |store: &ObjectStore| {
            store.put(KEY, "text/plain", body.clone()).await?;
            Ok(())
        };
        let our_put = cost(requests, || put(&hashing)).await?;
        let trusted_put = cost(requests, || put(&trusting)).await?;
        println!(
            "{round:>5}  {sdk_get:>8.1} {our_get:>5.1}   {sdk_put:>8.1} {our_put:>5.1} {trusted_put:>17.1}"
        );
    }
    Ok(())
}

fn sdk(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::from_keys("access", "secret", None))
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

async fn sdk_get(client: &Client) -> Result<(), Any> {
    let got = client.get_object().bucket("caudal").key(KEY).send().await?;
    whole(&got.body.collect().await?.into_bytes())
}

async fn sdk_put(client: &Client, body: &Bytes) -> Result<(), Any> {
    let put = client.put_object().bucket("caudal").key(KEY);
    let put = put
        .content_type("text/plain")
        .body(ByteStream::from(body.clone()));
    put.send().await?;
    Ok(())
}

fn whole(bytes: &[u8]) -> Result<(), Any> {
    if bytes.len() == OBJECT_BYTES {
        Ok(())
    } else {
        Err("not the whole object".into())
    }
}

/// Microseconds of CPU of this process for each request.
async fn cost<F>(requests: usize, request: impl Fn() -> F) -> Result<f64, Any>
where
    F: Future<Output = Result<(), Any>>,
{
    for _ in 0..requests / 10 {
        request().await?;
    }
    let before = cpu()?;
    for _ in 0..requests {
        request().await?;
    }
    let spent = cpu()?.saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e6 / requests as f64)
}

/// What this process has used of the CPU, in user and kernel, as Linux counts it for each of its threads.
fn cpu() -> Result<Duration, Any> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let spent = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = spent.split(' ').next().unwrap_or_default();
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Answers every PUT with an ETag and every GET with an object, until the standard input ends.
fn serve() -> Result<(), Any> {
    let listen = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listen.local_addr()?);
    std::thread::spawn(move || {
        for stream in listen.incoming().flatten() {
            std::thread::spawn(move || answer_all(stream));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn answer_all(mut stream: TcpStream) -> Result<(), Any> {
    stream.set_nodelay(true)?;
    let object = "x".repeat(OBJECT_BYTES);
    let got = format!(
        "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Type: text/plain\r\nContent-Length: {OBJECT_BYTES}\r\n\r\n{object}"
    );
    let put = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    let started = Instant::now();
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(format!("closed after {:?}", started.elapsed()).into());
        }
        read.extend_from_slice(&piece[..count]);
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let is_put = read.starts_with(b"PUT");
        let whole = end + 4 + if is_put { OBJECT_BYTES } else { 0 };
        if read.len() < whole {
            continue;
        }
        read.drain(..whole);
        stream.write_all(if is_put { put } else { &got }.as_bytes())?;
    }
}
