//! Hints over a real Redis that goes away and comes back.

use caudal_domain::BatchId;
use caudal_harness::{PATIENCE, RedisAt, eventually};
use caudal_node::hints::{Heard, Publisher, Subscriber, channel_of};
use caudal_proto::mesh::v1::ChangedBatch;
use tokio_util::sync::CancellationToken;

async fn hear(subscriber: &mut Subscriber) -> Heard {
    tokio::time::timeout(PATIENCE, subscriber.next())
        .await
        .unwrap()
        .unwrap()
}

fn changed(batch: u8, batch_revision: i64) -> ChangedBatch {
    let tenant = bytes::Bytes::copy_from_slice(&[1; 16]);
    ChangedBatch {
        tenant,
        batch: bytes::Bytes::copy_from_slice(&[batch; 16]),
        batch_revision,
    }
}

#[tokio::test]
async fn a_follower_hears_changes_and_is_told_after_each_connection_that_it_may_have_missed_some() {
    let mut redis = RedisAt::reserve().unwrap();
    let url = redis.url();
    let shutdown = CancellationToken::new();
    let publisher = Publisher::new(&url).unwrap();
    let mut subscriber = Subscriber::start(&url, shutdown.clone()).unwrap();
    assert!(
        publisher.publish(vec![changed(1, 1)]).await.is_err(),
        "there is no redis yet"
    );

    redis.start().await.unwrap();
    assert_eq!(hear(&mut subscriber).await, Heard::MayHaveMissed);
    // The publisher connects anew by itself too.
    eventually("the publisher comes back", async || {
        let changes = vec![changed(1, 2), changed(2, 7), changed(17, 3)];
        publisher.publish(changes).await.is_ok()
    })
    .await;
    // Batches of one channel come in one hint: 1 and 17 are the same modulo 16.
    let mut heard = Vec::new();
    for _ in 0..2 {
        let Heard::Changed(hint) = hear(&mut subscriber).await else {
            panic!("nothing was missed")
        };
        heard.push(
            hint.batches
                .iter()
                .map(|batch| batch.batch_revision)
                .collect::<Vec<_>>(),
        );
    }
    heard.sort();
    assert_eq!(heard, [vec![2, 3], vec![7]]);
    publisher.publish(Vec::new()).await.unwrap();

    redis.stop();
    redis.start().await.unwrap();
    assert_eq!(hear(&mut subscriber).await, Heard::MayHaveMissed);
    shutdown.cancel();
    assert_eq!(
        tokio::time::timeout(PATIENCE, subscriber.next())
            .await
            .unwrap(),
        None
    );
}

#[test]
fn a_batch_always_speaks_on_the_same_channel() {
    let batch: BatchId = "0190b5a2-0000-7000-8000-00000000002a".parse().unwrap();
    assert_eq!(channel_of(batch), "caudal:changes:10");
    let error = Publisher::new("nonsense://user:secret@host")
        .unwrap_err()
        .to_string();
    assert!(!error.contains("secret"), "{error}");
}
