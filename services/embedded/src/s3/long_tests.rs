//! Long objects: files past the page cache, and objects of parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use s3s::dto::StreamingBlob;

use super::body::Body;
use super::disk::Durability;
use super::receive::{Declared, receive};
use super::record::Attributes;
use super::store::{ReadCondition, Store, WriteCondition};
use super::uploads::NamedPart;

const MIB: usize = 1024 * 1024;

/// No two blocks are alike, and some are zeros.
fn content(size: usize, seed: usize) -> Vec<u8> {
    let block = |number: usize| match number % 5 {
        3 => vec![0; 4096],
        _ => format!("{seed}/{number};").into_bytes(),
    };
    let blocks = (0..).map(block).map(|block| {
        let mut whole = block.repeat(4096 / block.len() + 1);
        whole.truncate(4096);
        whole
    });
    let mut bytes: Vec<u8> = blocks.take(size / 4096 + 1).flatten().collect();
    bytes.truncate(size);
    bytes
}

/// A body of a known length that comes in pieces of this size.
fn body_of(bytes: &[u8], piece: usize) -> StreamingBlob {
    let pieces: Vec<_> = bytes
        .chunks(piece)
        .map(|piece| {
            Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::copy_from_slice(piece)))
        })
        .collect();
    let body = http_body_util::StreamBody::new(futures::stream::iter(pieces));
    let body = Sized {
        body,
        left: bytes.len() as u64,
    };
    s3s::Body::http_body_unsync(body).into()
}

/// Tells its length, as a request with a Content-Length does.
struct Sized<B> {
    body: B,
    left: u64,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Sized<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, B::Error>>> {
        let frame = std::pin::Pin::new(&mut self.body).poll_frame(context);
        if let std::task::Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.saturating_sub(bytes as u64);
        }
        frame
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

async fn put(store: &Arc<Store>, key: &str, body: StreamingBlob) {
    let received = receive(store, Some(body), Declared::default()).await;
    let received = received.unwrap();
    let put = store.put(
        key.to_owned(),
        received.content,
        received.etag,
        Attributes::default(),
        WriteCondition::default(),
    );
    put.outcome().await.unwrap();
}

async fn read(body: Body, range: std::ops::Range<u64>) -> Vec<u8> {
    let stream = body.stream(range).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let folders = fs::read_dir(folder.join("files")).unwrap();
    let names = folders.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn open(folder: &Path) -> Arc<Store> {
    Arc::new(Store::open(folder, Durability::ProcessCrash).unwrap())
}

#[tokio::test]
async fn long_bodies_of_any_size_in_any_pieces_are_read_as_they_were_sent() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = open(folder.path());
    let sizes = [
        MIB,
        MIB + 1,
        3 * MIB / 2 - 1,
        3 * MIB / 2,
        2 * MIB + 4095,
        2 * MIB + 4096,
        4 * MIB,
    ];
    for (number, size) in sizes.into_iter().enumerate() {
        for piece in [1_000, 4_096, 70_001, 8 * MIB] {
            let sent = content(size, number);
            put(&store, "key", body_of(&sent, piece)).await;
            let opened = store.get("key").unwrap();
            assert_eq!(opened.size, size as u64);
            let got = read(opened.body, 0..size as u64).await;
            assert!(got == sent, "{size} bytes in pieces of {piece}");
        }
    }
}

/// Sends three parts under the key, the last of them small, and joins them; what it was joined of.
async fn join(store: &Arc<Store>, key: &str, seed: usize) -> Vec<u8> {
    let upload = store.create_upload(key.to_owned(), Attributes::default());
    let id = upload.await.unwrap();
    let mut named = Vec::new();
    let mut whole = Vec::new();
    for (number, size) in [(1, 5 * MIB), (2, 5 * MIB + 3), (3, 5_000)] {
        let sent = content(size, seed + number);
        let received = receive(store, Some(body_of(&sent, MIB)), Declared::default());
        let received = received.await.unwrap();
        let etag = received.etag.clone();
        let number = i32::try_from(number).unwrap();
        let put = store.put_part(&id, key.to_owned(), number, received.content, received.etag);
        put.await.unwrap();
        named.push(NamedPart { number, etag });
        whole.extend_from_slice(&sent);
    }
    let completed = store.complete_upload(&id, key.to_owned(), named, WriteCondition::default());
    completed.await.unwrap();
    whole
}

#[tokio::test]
async fn parts_become_one_object_without_a_copy_and_any_range_of_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let whole = join(&store, "key", 0).await;
    // The two large parts, as they were sent.
    assert_eq!(files(folder.path()).len(), 2);
    let size = whole.len() as u64;
    let ends = [
        0,
        1,
        5 * MIB as u64,
        5 * MIB as u64 + 1,
        size - 5_001,
        size - 1,
        size,
    ];
    for from in ends {
        for to in ends.into_iter().filter(|to| *to > from) {
            let opened = store.get("key").unwrap();
            assert_eq!(opened.size, size);
            let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
            assert!(
                read(opened.body, from..to).await == whole[range.clone()],
                "{range:?}"
            );
            let opened = store.get("key").unwrap();
            let mut got = Vec::new();
            let taken = |bytes: &[u8]| {
                got.extend_from_slice(bytes);
                Ok(())
            };
            opened.body.read(from..to, taken).unwrap();
            assert!(got == whole[range.clone()], "{range:?}");
        }
    }
    drop(store);
    let again = open(folder.path());
    assert!(read(again.get("key").unwrap().body, 0..size).await == whole);
}

#[tokio::test]
async fn whoever_opened_an_object_of_parts_reads_it_to_its_end_and_then_its_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let whole = join(&store, "key", 0).await;
    let size = whole.len() as u64;
    let opened = store.get("key").unwrap();
    let mut stream = opened.body.stream(0..size).await.unwrap();
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    let copied = store.copy("key".into(), ReadCondition::default(), None, "copy".into());
    copied.outcome().await.unwrap();
    let other = join(&store, "key", 10).await;
    store.delete(vec!["copy".into()]).outcome().await.unwrap();
    // Those of the one that is read, and those of the one that took its place.
    assert_eq!(files(folder.path()).len(), 4);
    while let Some(bytes) = stream.next().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert!(got == whole);
    drop(stream);
    while files(folder.path()).len() > 2 {
        tokio::task::yield_now().await;
    }
    let opened = store.get("key").unwrap();
    assert!(read(opened.body, 0..opened.size).await == other);
    store.delete(vec!["key".into()]).outcome().await.unwrap();
    while !files(folder.path()).is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_copy_of_an_object_of_parts_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let whole = join(&store, "key", 0).await;
    let size = whole.len() as u64;
    let copied = store.copy("key".into(), ReadCondition::default(), None, "copy".into());
    copied.outcome().await.unwrap();
    store.delete(vec!["key".into()]).outcome().await.unwrap();
    assert_eq!(files(folder.path()).len(), 2);
    assert!(read(store.get("copy").unwrap().body, 0..size).await == whole);
    // A part made of a range over the border of two.
    let upload = store.create_upload("ranged".into(), Attributes::default());
    let id = upload.await.unwrap();
    let source = store.get("copy").unwrap();
    let range = 4 * MIB as u64..10 * MIB as u64;
    let part = Arc::clone(&store).copy_part(&id, "ranged".into(), 1, source, range.clone());
    let named = vec![NamedPart {
        number: 1,
        etag: part.await.unwrap(),
    }];
    let completed = store.complete_upload(&id, "ranged".into(), named, WriteCondition::default());
    completed.await.unwrap();
    let opened = store.get("ranged").unwrap();
    assert!(read(opened.body, 0..opened.size).await == whole[4 * MIB..10 * MIB]);
}
