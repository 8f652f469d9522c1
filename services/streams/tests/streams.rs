//! Against a real Redis, started for each test on a port of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use caudal_domain::{BatchId, FileRef, Stage, TenantId, Token};
use caudal_streams::{Names, Standing, Streams, encode};
use uuid::Uuid;

struct Redis {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self::start_on(port).await
    }

    async fn start_on(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self {
            child,
            url: format!("redis://127.0.0.1:{port}/"),
            _folder: folder,
        };
        let client = redis::Client::open(redis.url.as_str()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let pong: redis::RedisResult<String> =
                    redis::cmd("PING").query_async(&mut connection).await;
                if pong.is_ok() {
                    return redis;
                }
            }
            assert!(Instant::now() < deadline, "redis-server did not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn streams(&self) -> Streams {
        Streams::connect(&self.url, Names::default()).unwrap()
    }

    async fn command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const STAGE: Stage = Stage::ExtractText;
const STREAM: &str = "caudal:dispatch:extract-text";
const BLOCK: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(1);

fn dispatches(ordinals: &[u32]) -> Vec<(FileRef, Token)> {
    let tenant = TenantId::from_uuid(Uuid::from_u128(1));
    let batch = BatchId::from_uuid(Uuid::from_u128(2));
    ordinals
        .iter()
        .map(|ordinal| {
            (
                FileRef {
                    tenant,
                    batch,
                    ordinal: *ordinal,
                },
                Token(7),
            )
        })
        .collect()
}

async fn publish(streams: &Streams, ordinals: &[u32]) -> String {
    let body = encode(&dispatches(ordinals), 5);
    let mut answers = streams.publisher().publish(&[(STAGE, body)]).await.unwrap();
    answers.remove(0).unwrap()
}

#[tokio::test]
async fn what_is_published_is_read_once_and_gone_after_the_acknowledgement() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    assert!(reader.read(8, SHORT).await.unwrap().group_created);
    let id = publish(&streams, &[3, 4]).await;

    let read = reader.read(8, BLOCK).await.unwrap();
    assert_eq!(read.entries.len(), 1);
    assert_eq!(read.entries[0].id, id);
    assert_eq!(read.entries[0].files, dispatches(&[3, 4]));
    assert_eq!(read.entries[0].admitted_unix_ms, 5);
    assert!(
        streams
            .reader(STAGE, "b")
            .read(8, SHORT)
            .await
            .unwrap()
            .entries
            .is_empty()
    );
    assert!(!streams.delete_idle_consumer(STAGE, "a").await.unwrap());

    streams.acknowledge(STAGE, &[id]).await.unwrap();
    assert_eq!(streams.depth(STAGE).await.unwrap(), 0);
    let view = streams.inspect(STAGE).await.unwrap();
    assert!(view.entries.is_empty() && view.pending.is_empty() && !view.group_missing);
    assert!(streams.delete_idle_consumer(STAGE, "a").await.unwrap());
}

#[tokio::test]
async fn messages_published_before_the_group_existed_are_delivered() {
    // protocol 4.1: the group begins at 0, so nothing between its loss and its return is skipped.
    let redis = Redis::start().await;
    let streams = redis.streams();
    publish(&streams, &[1]).await;
    assert!(streams.inspect(STAGE).await.unwrap().group_missing);

    let mut reader = streams.reader(STAGE, "a");
    assert!(reader.read(8, BLOCK).await.unwrap().group_created);
    assert_eq!(reader.read(8, BLOCK).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_flush_under_a_blocked_reader_ends_in_a_new_group_and_is_told() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    let blocked = tokio::spawn(async move {
        // Depending on the server's version the blocked read is ended with an error of its own before NOGROUP is said.
        for _ in 0..3 {
            if reader
                .read(1, Duration::from_secs(5))
                .await
                .unwrap()
                .group_created
            {
                return reader;
            }
        }
        panic!("the loss of the group was not told");
    });
    wait_until_blocked(&redis).await;
    redis.command(&["FLUSHALL"]).await.unwrap();

    let mut reader = blocked.await.unwrap();
    publish(&streams, &[9]).await;
    assert_eq!(
        reader.read(1, BLOCK).await.unwrap().entries[0].files,
        dispatches(&[9])
    );
}

async fn wait_until_blocked(redis: &Redis) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let info: String =
            redis::from_redis_value(redis.command(&["INFO", "clients"]).await.unwrap()).unwrap();
        if info.contains("blocked_clients:1") {
            return;
        }
        assert!(Instant::now() < deadline, "no reader is blocked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_lost_group_is_made_again_at_the_beginning() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    publish(&streams, &[1]).await;
    assert_eq!(reader.read(1, BLOCK).await.unwrap().entries.len(), 1);
    redis
        .command(&["XGROUP", "DESTROY", STREAM, "extract-text"])
        .await
        .unwrap();

    assert!(reader.read(1, BLOCK).await.unwrap().group_created);
    assert_eq!(reader.read(1, BLOCK).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn entries_whose_answer_was_lost_are_found_among_what_is_held() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    let first = publish(&streams, &[1]).await;
    let second = publish(&streams, &[2]).await;
    reader.read(2, BLOCK).await.unwrap();

    let mut restored = streams.reader(STAGE, "a");
    let held = restored.held("0", 10).await.unwrap();
    assert_eq!(
        held.iter()
            .map(|entry| entry.id.as_str())
            .collect::<Vec<_>>(),
        [&first, &second]
    );
    assert_eq!(restored.held(&first, 10).await.unwrap().len(), 1);
    assert!(
        streams
            .reader(STAGE, "b")
            .held("0", 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_inspection_tells_waiting_held_spent_and_orphaned_entries_apart() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    let spent = publish(&streams, &[0]).await;
    let held = publish(&streams, &[1]).await;
    let orphan = publish(&streams, &[2]).await;
    reader.read(3, BLOCK).await.unwrap();
    let waiting = publish(&streams, &[3]).await;
    redis
        .command(&["XACK", STREAM, "extract-text", &spent])
        .await
        .unwrap();
    redis.command(&["XDEL", STREAM, &orphan]).await.unwrap();

    let view = streams.inspect(STAGE).await.unwrap();
    assert_eq!(view.standing(&spent), Standing::Spent);
    assert_eq!(view.standing(&waiting), Standing::Undelivered);
    let Standing::Pending(pending) = view.standing(&held) else {
        panic!("not held")
    };
    assert_eq!(pending.consumer, "a");
    assert_eq!(view.pending_without_entry, std::slice::from_ref(&orphan));
    assert_eq!(
        view.entries
            .iter()
            .map(|entry| entry.files[0].0.ordinal)
            .collect::<Vec<_>>(),
        [0, 1, 3]
    );

    // protocol 8.4: an entry may be removed while a live consumer holds it.
    streams
        .remove(STAGE, &[spent, held, orphan, waiting])
        .await
        .unwrap();
    let view = streams.inspect(STAGE).await.unwrap();
    assert!(
        view.entries.is_empty() && view.pending.is_empty() && view.pending_without_entry.is_empty()
    );
}

#[tokio::test]
async fn inspection_pages_through_more_entries_than_one_page() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let entries: Vec<_> = (0..2_500)
        .map(|ordinal| (STAGE, encode(&dispatches(&[ordinal]), 0)))
        .collect();
    let answers = streams.publisher().publish(&entries).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    assert_eq!(
        reader.read(2_000, BLOCK).await.unwrap().entries.len(),
        2_000
    );

    let view = streams.inspect(STAGE).await.unwrap();
    assert_eq!(
        (view.entries.len(), view.pending.len(), view.truncated),
        (2_500, 2_000, false)
    );
    let ids: Vec<String> = view.entries.iter().map(|entry| entry.id.clone()).collect();
    streams.acknowledge(STAGE, &ids).await.unwrap();
    assert_eq!(streams.depth(STAGE).await.unwrap(), 0);
}

#[tokio::test]
async fn a_full_redis_refuses_for_now_and_an_absent_one_gives_no_answer() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    redis
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await
        .unwrap();
    let body = encode(&dispatches(&[1]), 0);
    let answers = streams
        .publisher()
        .publish(&[(STAGE, body.clone())])
        .await
        .unwrap();
    assert!(answers[0].as_ref().unwrap_err().retryable());
    redis
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .await
        .unwrap();
    assert!(
        streams
            .publisher()
            .publish(&[(STAGE, body.clone())])
            .await
            .unwrap()[0]
            .is_ok()
    );

    let url = redis.url.clone();
    drop(redis);
    let error = streams
        .publisher()
        .publish(&[(STAGE, body.clone())])
        .await
        .unwrap_err();
    assert!(error.retryable(), "{error}");

    let port = url
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let _redis = Redis::start_on(port).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while streams
        .publisher()
        .publish(&[(STAGE, body.clone())])
        .await
        .is_err()
    {
        assert!(
            Instant::now() < deadline,
            "the connection does not come back"
        );
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_delivered_without_dispatches() {
    let redis = Redis::start().await;
    let streams = redis.streams();
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    redis
        .command(&["XADD", STREAM, "*", "d", "\u{1}nonsense"])
        .await
        .unwrap();
    let read = reader.read(1, BLOCK).await.unwrap();
    assert!(read.entries[0].files.is_empty());
}
