//! What a small object costs the embedded S3 server: puts, reads and deletes objects of 250 bytes, sixteen at once, on a
//! server in a process of its own, and prints objects a second and the server's CPU time an object.
//!
//! `cargo run --example small_objects -p caudal-embedded -- [OBJECTS] [FOLDER]`; for system calls, `strace -c -f -p` the
//! process it names.
#![expect(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use caudal_embedded::{S3Server, S3Settings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "caudal";
const ACCESS: &str = "CAUDALTEST";
const SECRET: &str = "secret-of-the-measurement";
const SIZE: usize = 250;
const AT_ONCE: usize = 16;
/// Of the times in /proc.
const TICK: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("serve") {
        return serve(&arguments.next().unwrap()).await;
    }
    let objects = first.map_or(5_000, |objects| objects.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments
        .next()
        .unwrap_or_else(|| temporary.path().to_str().unwrap().to_owned());
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["serve", &folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut endpoint)
        .unwrap();
    let pid = server.id();
    println!("server: process {pid}, {}", endpoint.trim());
    let s3 = client(endpoint.trim());
    for step in ["put", "get", "head", "delete"] {
        let (began, cpu) = (Instant::now(), cpu_of(pid));
        all(&s3, step, objects).await;
        let took = began.elapsed();
        let cpu = cpu_of(pid).saturating_sub(cpu);
        println!(
            "{step}: {:.0}/s, {:.0} us of the server's CPU each",
            objects as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / objects as f64
        );
    }
    drop(server.stdin.take());
    server.wait().unwrap();
}

async fn serve(folder: &str) {
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = S3Settings::new(folder, ACCESS, SECRET, BUCKET);
    let shutdown = CancellationToken::new();
    let server = S3Server::start(settings, listen, shutdown.clone())
        .await
        .unwrap();
    println!("{}", server.endpoint());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    shutdown.cancel();
    server.stopped().await;
}

async fn all(s3: &Client, step: &'static str, objects: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (s3, next) = (s3.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return;
                }
                one(&s3, step, number).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn one(s3: &Client, step: &str, number: usize) {
    // As the product names them.
    let key = format!(
        "5d0e21b0-5a3c/landing/0197{:012x}/{number}/1",
        number / 1000
    );
    match step {
        "put" => {
            let body = format!("{number:0>SIZE$}").into_bytes();
            let put = s3.put_object().bucket(BUCKET).key(key);
            put.body(ByteStream::from(body)).send().await.unwrap();
        }
        "get" => {
            let got = s3
                .get_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap();
            let bytes = got.body.collect().await.unwrap().to_vec();
            assert!(bytes.ends_with(number.to_string().as_bytes()));
        }
        "head" => {
            s3.head_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap();
        }
        _ => {
            s3.delete_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap();
        }
    }
}

/// What a process has used of the processors.
fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().unwrap().parse::<u32>().unwrap();
    TICK * (ticks() + ticks())
}

fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::from_keys(ACCESS, SECRET, None))
        .force_path_style(true)
        .http_client(http);
    Client::from_conf(config.build())
}
