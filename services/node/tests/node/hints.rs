//! Hints over a real Redis that goes away and comes back.

use std::process::Stdio;
use std::time::Duration;

use caudal_domain::BatchId;
use caudal_node::hints::{Heard, Publisher, Subscriber, channel_of};
use caudal_proto::mesh::v1::ChangedBatch;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::fakes::DEADLINE;

fn redis(port: u16) -> Child {
    Command::new("redis-server")
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
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn free_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn hear(subscriber: &mut Subscriber) -> Heard {
    tokio::time::timeout(DEADLINE, subscriber.next())
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
    let port = free_port().await;
    let url = format!("redis://127.0.0.1:{port}");
    let shutdown = CancellationToken::new();
    let publisher = Publisher::new(&url).unwrap();
    let mut subscriber = Subscriber::start(&url, shutdown.clone()).unwrap();
    assert!(
        publisher.publish(vec![changed(1, 1)]).await.is_err(),
        "there is no redis yet"
    );

    let mut server = redis(port);
    assert_eq!(hear(&mut subscriber).await, Heard::MayHaveMissed);
    // The publisher connects anew by itself too.
    let began = std::time::Instant::now();
    while publisher
        .publish(vec![changed(1, 2), changed(2, 7), changed(17, 3)])
        .await
        .is_err()
    {
        assert!(
            began.elapsed() < DEADLINE,
            "the publisher does not come back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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

    server.kill().await.unwrap();
    let _server = redis(port);
    assert_eq!(hear(&mut subscriber).await, Heard::MayHaveMissed);
    shutdown.cancel();
    assert_eq!(
        tokio::time::timeout(DEADLINE, subscriber.next())
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
