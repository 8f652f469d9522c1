//! Against a real Redis, started for each test on a port of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use caudal_domain::{BatchId, FileRef, Stage, TenantId, Token};
use caudal_harness::{Redis, RedisAt, eventually};
use caudal_streams::{Lane, Names, Standing, Streams, encode};
use uuid::Uuid;

fn streams(redis: &Redis) -> Streams {
    Streams::connect(&redis.url(), Names::default()).unwrap()
}

async fn command(redis: &Redis, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(&mut connection).await
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
    publish_on(streams, Lane::Regular, ordinals).await
}

async fn publish_on(streams: &Streams, lane: Lane, ordinals: &[u32]) -> String {
    let entry = (STAGE, lane, encode(&dispatches(ordinals), lane, 5));
    let mut answers = streams.publisher().publish(&[entry]).await.unwrap();
    answers.remove(0).unwrap()
}

fn ordinals(entries: &[caudal_streams::Entry]) -> Vec<u32> {
    entries
        .iter()
        .map(|entry| entry.files[0].0.ordinal)
        .collect()
}

#[tokio::test]
async fn a_read_brings_both_streams_and_the_express_one_first() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    assert!(reader.read(1, SHORT).await.unwrap().group_created);
    let regular = publish(&streams, &[1]).await;
    publish(&streams, &[2]).await;
    let express = publish_on(&streams, Lane::Express, &[3]).await;
    publish_on(&streams, Lane::Express, &[4]).await;
    assert_eq!(streams.depth(STAGE).await.unwrap(), 4);

    let read = reader.read(2, BLOCK).await.unwrap();
    assert_eq!(ordinals(&read.entries), [3, 1]);
    assert_eq!(read.entries[0].lane, Lane::Express);
    assert_eq!(read.entries[0].id, express);
    assert_eq!(read.entries[1].id, regular);
    let view = streams.inspect(STAGE).await.unwrap();
    assert_eq!(ordinals(&view.entries), [3, 4, 1, 2]);
    let standing = view.entries.iter().map(|entry| view.standing(&entry.id));
    let is_held = standing.map(|standing| matches!(standing, Standing::Pending(_)));
    assert_eq!(is_held.collect::<Vec<_>>(), [true, false, true, false]);
    // What was delivered in an answer that was lost is found on each.
    let held = reader.held(Lane::Express, None, 10).await.unwrap();
    assert_eq!(ordinals(&held), [3]);
    assert!(
        reader
            .held(Lane::Express, Some(&express), 10)
            .await
            .unwrap()
            .is_empty()
    );
    let held = reader.held(Lane::Regular, None, 10).await.unwrap();
    assert_eq!(ordinals(&held), [1]);

    streams.acknowledge(STAGE, &[express]).await.unwrap();
    assert!(!streams.delete_idle_consumer(STAGE, "a").await.unwrap());
    streams.acknowledge(STAGE, &[regular]).await.unwrap();
    let view = streams.inspect(STAGE).await.unwrap();
    assert_eq!(ordinals(&view.entries), [4, 2]);
    assert!(view.pending.is_empty());
    assert!(streams.delete_idle_consumer(STAGE, "a").await.unwrap());
}

#[tokio::test]
async fn entries_of_both_streams_that_redis_gave_one_id_are_told_apart() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    for stream in [STREAM, "caudal:dispatch:extract-text:express"] {
        let added = command(&redis, &["XADD", stream, "7-1", "d", ""]).await;
        added.unwrap();
    }
    let entries = reader.read(2, BLOCK).await.unwrap().entries;
    assert_eq!(entries.len(), 2);
    let (express, regular) = (&entries[0].id, &entries[1].id);
    streams
        .acknowledge(STAGE, std::slice::from_ref(express))
        .await
        .unwrap();
    let view = streams.inspect(STAGE).await.unwrap();
    assert_eq!(view.entries.len(), 1);
    assert!(matches!(view.standing(regular), Standing::Pending(_)));
}

#[tokio::test]
async fn a_stream_that_is_lost_alone_is_made_again() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    publish(&streams, &[1]).await;
    assert_eq!(reader.read(2, BLOCK).await.unwrap().entries.len(), 1);
    let lost = "caudal:dispatch:extract-text:express";
    command(&redis, &["DEL", lost]).await.unwrap();
    let view = streams.inspect(STAGE).await.unwrap();
    assert!(view.group_missing);
    assert!(matches!(
        view.standing(&view.entries[0].id),
        Standing::Pending(_)
    ));
    publish_on(&streams, Lane::Express, &[2]).await;
    assert!(reader.read(2, BLOCK).await.unwrap().group_created);
    let read = reader.read(2, BLOCK).await.unwrap();
    assert_eq!(ordinals(&read.entries), [2]);
}

#[tokio::test]
async fn what_is_published_is_read_once_and_gone_after_the_acknowledgement() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
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
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    publish(&streams, &[1]).await;
    assert!(streams.inspect(STAGE).await.unwrap().group_missing);

    let mut reader = streams.reader(STAGE, "a");
    assert!(reader.read(8, BLOCK).await.unwrap().group_created);
    assert_eq!(reader.read(8, BLOCK).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_flush_under_a_blocked_reader_ends_in_a_new_group_and_is_told() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
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
    command(&redis, &["FLUSHALL"]).await.unwrap();

    let mut reader = blocked.await.unwrap();
    publish(&streams, &[9]).await;
    assert_eq!(
        reader.read(1, BLOCK).await.unwrap().entries[0].files,
        dispatches(&[9])
    );
}

async fn wait_until_blocked(redis: &Redis) {
    eventually("a reader is blocked", async || {
        let info = command(redis, &["INFO", "clients"]).await.unwrap();
        let info: String = redis::from_redis_value(info).unwrap();
        info.contains("blocked_clients:1")
    })
    .await;
}

#[tokio::test]
async fn a_lost_group_is_made_again_at_the_beginning() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    publish(&streams, &[1]).await;
    assert_eq!(reader.read(1, BLOCK).await.unwrap().entries.len(), 1);
    command(&redis, &["XGROUP", "DESTROY", STREAM, "extract-text"])
        .await
        .unwrap();

    assert!(reader.read(1, BLOCK).await.unwrap().group_created);
    assert_eq!(reader.read(1, BLOCK).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn entries_whose_answer_was_lost_are_found_among_what_is_held() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    let first = publish(&streams, &[1]).await;
    let second = publish(&streams, &[2]).await;
    reader.read(4, BLOCK).await.unwrap();

    let mut restored = streams.reader(STAGE, "a");
    let held = restored.held(Lane::Regular, None, 10).await.unwrap();
    assert_eq!(
        held.iter()
            .map(|entry| entry.id.as_str())
            .collect::<Vec<_>>(),
        [&first, &second]
    );
    assert_eq!(
        restored
            .held(Lane::Regular, Some(&first), 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        streams
            .reader(STAGE, "b")
            .held(Lane::Regular, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_inspection_tells_waiting_held_spent_and_orphaned_entries_apart() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    let spent = publish(&streams, &[0]).await;
    let held = publish(&streams, &[1]).await;
    let orphan = publish(&streams, &[2]).await;
    reader.read(6, BLOCK).await.unwrap();
    let waiting = publish(&streams, &[3]).await;
    command(&redis, &["XACK", STREAM, "extract-text", &spent])
        .await
        .unwrap();
    command(&redis, &["XDEL", STREAM, &orphan]).await.unwrap();

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
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let entries: Vec<_> = (0..2_500)
        .map(|ordinal| {
            let body = encode(&dispatches(&[ordinal]), Lane::Regular, 0);
            (STAGE, Lane::Regular, body)
        })
        .collect();
    let answers = streams.publisher().publish(&entries).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    assert_eq!(
        reader.read(4_000, BLOCK).await.unwrap().entries.len(),
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
async fn a_full_redis_refuses_for_now() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    command(&redis, &["CONFIG", "SET", "maxmemory", "1"])
        .await
        .unwrap();
    let body = encode(&dispatches(&[1]), Lane::Regular, 0);
    let answers = streams
        .publisher()
        .publish(&[(STAGE, Lane::Regular, body.clone())])
        .await
        .unwrap();
    assert!(answers[0].as_ref().unwrap_err().retryable());
    command(&redis, &["CONFIG", "SET", "maxmemory", "0"])
        .await
        .unwrap();
    assert!(
        streams
            .publisher()
            .publish(&[(STAGE, Lane::Regular, body.clone())])
            .await
            .unwrap()[0]
            .is_ok()
    );
}

#[tokio::test]
async fn an_absent_redis_gives_no_answer_and_one_that_is_back_is_found() {
    let mut redis = RedisAt::reserve().unwrap();
    redis.start().await.unwrap();
    let streams = Streams::connect(&redis.url(), Names::default()).unwrap();
    let publisher = streams.publisher();
    let body = encode(&dispatches(&[1]), Lane::Regular, 0);
    let answers = publisher
        .publish(&[(STAGE, Lane::Regular, body.clone())])
        .await
        .unwrap();
    assert!(answers[0].is_ok());

    redis.stop();
    let error = publisher
        .publish(&[(STAGE, Lane::Regular, body.clone())])
        .await
        .unwrap_err();
    assert!(error.retryable(), "{error}");

    redis.start().await.unwrap();
    eventually("the connection comes back", async || {
        publisher
            .publish(&[(STAGE, Lane::Regular, body.clone())])
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_delivered_without_dispatches() {
    let redis = Redis::start().await.unwrap();
    let streams = streams(&redis);
    let mut reader = streams.reader(STAGE, "a");
    reader.read(1, SHORT).await.unwrap();
    command(&redis, &["XADD", STREAM, "*", "d", "\u{1}nonsense"])
        .await
        .unwrap();
    let read = reader.read(1, BLOCK).await.unwrap();
    assert!(read.entries[0].files.is_empty());
}
