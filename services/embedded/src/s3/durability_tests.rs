//! What is promised of writes, on disks that forget what was not synced, are full, or make a sync wait.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use s3s::dto::{ETag, ETagCondition};
use s3s::{S3ErrorCode, S3Result};
use tokio::sync::mpsc;

use super::disk::{Disk, Durability, Kernel};
use super::failure::FULL;
use super::group::{Content, Written};
use super::listing::{ListQuery, list};
use super::record::Attributes;
use super::store::{Opened, ReadCondition, Store, WriteCondition};

/// Keeps what was synced, to say what would be there after the loss of power.
#[derive(Debug, Default)]
struct Forgetful(Mutex<Kept>);

#[derive(Debug, Default, Clone)]
struct Kept {
    /// The index as it was synced, and what was written since.
    index: Vec<u8>,
    index_inode: u64,
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Inodes of synced files.
    files: HashSet<u64>,
    /// Names in synced folders.
    names: HashMap<PathBuf, HashSet<OsString>>,
}

impl Disk for Forgetful {
    fn write(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.index_inode = file.metadata()?.ino();
        kept.unsynced.push((at, bytes.to_vec()));
        file.write_all_at(bytes, at)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        let facts = file.metadata()?;
        if facts.ino() != kept.index_inode {
            kept.files.insert(facts.ino());
            return Ok(());
        }
        kept.index.resize(usize::try_from(facts.len()).unwrap(), 0);
        for (at, bytes) in std::mem::take(&mut kept.unsynced) {
            put(&mut kept.index, at, &bytes);
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<_>>()?;
        self.0
            .lock()
            .unwrap()
            .names
            .insert(folder.to_owned(), names);
        Ok(())
    }
}

fn put(index: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap();
    index.resize(index.len().max(at + bytes.len()), 0);
    index[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Forgetful {
    /// Makes a folder of what would be found after a loss of power now: of what was not synced, some has reached the disk
    /// and some has not.
    fn after_a_loss_of_power(&self, root: &Path, found: &Path, chance: usize) {
        let mut kept = self.0.lock().unwrap().clone();
        for (number, (at, bytes)) in kept.unsynced.iter().enumerate() {
            match (number * 7 + chance) % 3 {
                0 => put(&mut kept.index, *at, bytes),
                // A page is not one sector.
                1 if *at >= 4096 => put(&mut kept.index, *at, &bytes[..bytes.len() / 1024 * 512]),
                _ => {}
            }
        }
        fs::create_dir_all(found).unwrap();
        fs::write(found.join("index.redb"), &kept.index).unwrap();
        for (folder, names) in &kept.names {
            let to = found.join(folder.strip_prefix(root).unwrap_or(Path::new("elsewhere")));
            fs::create_dir_all(&to).unwrap();
            for name in names {
                let from = folder.join(name);
                let synced = fs::metadata(&from).ok();
                if synced.is_some_and(|facts| facts.is_file() && kept.files.contains(&facts.ino()))
                {
                    fs::copy(from, to.join(name)).unwrap();
                }
            }
        }
    }
}

fn content(number: usize) -> Vec<u8> {
    let size = [10, 5_000, 100_000][number % 3];
    let word = format!("{number};").into_bytes();
    word.iter().copied().cycle().take(size).collect()
}

fn put_to(store: &Store, key: &str, bytes: Vec<u8>, condition: WriteCondition) -> Written<()> {
    let etag = format!("{}-{}", bytes.len(), key.len());
    let content = match bytes.len() > super::store::FILE_BYTES {
        true => {
            let mut staged = store.stage().unwrap();
            staged.append(&bytes).unwrap();
            store.files.seal(&staged).unwrap();
            Content::Staged(staged)
        }
        false => Content::Memory(Bytes::from(bytes)),
    };
    store.put(
        key.to_owned(),
        content,
        etag,
        Attributes::default(),
        condition,
    )
}

fn bytes_of(opened: &Opened) -> Vec<u8> {
    let mut read = Vec::new();
    let taken = |bytes: &[u8]| {
        read.extend_from_slice(bytes);
        Ok(())
    };
    opened.body.read(0..opened.size, taken).unwrap();
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_a_loss_of_power_and_nothing_is_there_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let disk = Arc::new(Forgetful::default());
    let store = Arc::new(Store::on(disk.clone(), &root).unwrap());
    let next = Arc::new(AtomicUsize::new(0));
    // Those that write wait for the test while it looks at what it found.
    let (answer, mut answers) = mpsc::channel(64);
    for _ in 0..8 {
        let (store, next, answer) = (Arc::clone(&store), Arc::clone(&next), answer.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let key = format!("k/{number}");
                let put = put_to(&store, &key, content(number), WriteCondition::default());
                put.outcome().await.unwrap();
                if answer.send(number).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut answered = Vec::new();
    for chance in 0..12 {
        for _ in 0..25 {
            answered.push(answers.recv().await.unwrap());
        }
        let found = folder.path().join(format!("found-{chance}"));
        disk.after_a_loss_of_power(&root, &found, chance);
        let kernel = Arc::new(Kernel(Durability::ProcessCrash));
        let again = Store::on(kernel, &found).unwrap();
        for number in &answered {
            let opened = again.find(&format!("k/{number}")).unwrap();
            let opened = opened.unwrap_or_else(|| panic!("{number} is lost"));
            assert!(bytes_of(&opened) == content(*number), "{number} is another");
        }
        let query = ListQuery {
            max: 10_000,
            ..ListQuery::default()
        };
        for listed in list(&again, &query).unwrap().0 {
            let number = listed.name().strip_prefix("k/").unwrap().parse().unwrap();
            let opened = again.get(listed.name()).unwrap();
            assert!(bytes_of(&opened) == content(number), "{number} is in part");
        }
    }
}

/// Lets a test hold syncs up and count them.
#[derive(Debug, Default)]
struct Gated {
    is_shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
    syncs: AtomicUsize,
}

/// Lets the store end when a test fails while it is shut.
struct OpensAtLast(Arc<Gated>);

impl Drop for OpensAtLast {
    fn drop(&mut self) {
        self.0.shut(false);
    }
}

impl Gated {
    fn shut(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }
}

impl Disk for Gated {
    fn sync_file(&self, _: &File) -> io::Result<()> {
        let is_shut = self.is_shut.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _open = self.opened.wait_while(is_shut, |is_shut| *is_shut).unwrap();
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_answered_after_its_sync_which_all_share_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Gated::default());
    let store = Arc::new(Store::on(disk.clone(), folder.path()).unwrap());
    let put = |key: String| {
        let put = put_to(&store, &key, b"bytes".to_vec(), WriteCondition::default());
        tokio::spawn(put.outcome())
    };
    put("warm".to_owned()).await.unwrap().unwrap();
    let _at_last = OpensAtLast(Arc::clone(&disk));
    disk.shut(true);
    let (waiting, syncs) = (
        disk.waiting.load(Ordering::SeqCst),
        disk.syncs.load(Ordering::SeqCst),
    );
    let first = put("first".to_owned());
    while disk.waiting.load(Ordering::SeqCst) == waiting {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..50).map(|number| put(number.to_string())).collect();
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);
    assert!(!first.is_finished() && others.iter().all(|put| !put.is_finished()));
    // What is not synced is not shown either.
    assert!(store.find("first").unwrap().is_none());
    disk.shut(false);
    first.await.unwrap().unwrap();
    for put in others {
        put.await.unwrap().unwrap();
    }
    let shared = disk.syncs.load(Ordering::SeqCst) - syncs;
    // Two groups; the file of the index may grow in each.
    assert!(shared <= 4, "{shared} syncs for 51 puts");
    assert!(store.find("49").unwrap().is_some());
}

/// A disk that is full at times: as it says itself, or only when it is written to.
#[derive(Debug)]
struct Full {
    free: AtomicU64,
    refuses: AtomicBool,
}

impl Disk for Full {
    fn write(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self.refuses.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => file.write_all_at(bytes, at),
        }
    }

    fn sync_file(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.free.load(Ordering::SeqCst))
    }
}

fn is_told_full<T>(outcome: S3Result<T>) -> bool {
    let error = outcome.err();
    error.is_some_and(|error| {
        error.code().as_str() == FULL
            && error.status_code() == Some(http::StatusCode::SERVICE_UNAVAILABLE)
            && error.message() == Some("the disk of the object store is full")
    })
}

#[tokio::test]
async fn a_full_disk_is_told_takes_deletes_and_is_written_to_again_when_it_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Full {
        free: AtomicU64::new(u64::MAX),
        refuses: AtomicBool::new(false),
    });
    let store = Store::on(disk.clone(), folder.path()).unwrap();
    let put = async |key: &str| {
        let put = put_to(
            &store,
            key,
            key.as_bytes().to_vec(),
            WriteCondition::default(),
        );
        put.outcome().await
    };
    put("kept").await.unwrap();
    put("other").await.unwrap();

    disk.free.store(1024 * 1024, Ordering::SeqCst);
    assert!(is_told_full(put("more").await));
    let copy = store.copy("kept".into(), ReadCondition::default(), None, "copy".into());
    assert!(is_told_full(copy.outcome().await));
    store.delete(vec!["other".into()]).outcome().await.unwrap();
    assert!(store.find("other").unwrap().is_none());
    assert_eq!(bytes_of(&store.get("kept").unwrap()), b"kept");
    disk.free.store(u64::MAX, Ordering::SeqCst);
    put("more").await.unwrap();

    // It is said to have room, and has none.
    disk.refuses.store(true, Ordering::SeqCst);
    assert!(is_told_full(put("most").await));
    assert!(put("most").await.is_err());
    disk.refuses.store(false, Ordering::SeqCst);
    put("most").await.unwrap();
    for key in ["kept", "more", "most"] {
        assert_eq!(bytes_of(&store.get(key).unwrap()), key.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_conditional_writes_at_once_one_finds_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Durability::ProcessCrash).unwrap();
    let absent = || WriteCondition {
        if_none_match: Some(ETagCondition::Any),
        ..WriteCondition::default()
    };
    for round in 0..20 {
        let key = format!("key-{round}");
        let puts: Vec<_> = (0..32)
            .map(|size| put_to(&store, &key, vec![1; 100 + size], absent()))
            .collect();
        let mut won = Vec::new();
        for (size, put) in puts.into_iter().enumerate() {
            match put.outcome().await {
                Ok(()) => won.push(size),
                Err(error) => assert_eq!(*error.code(), S3ErrorCode::PreconditionFailed),
            }
        }
        let [size] = won[..] else {
            panic!("{won:?} took the same place");
        };
        let found = store.get(&key).unwrap();
        assert_eq!(bytes_of(&found).len(), 100 + size);

        let same = || WriteCondition {
            if_match: Some(ETagCondition::ETag(ETag::Strong(found.etag.clone()))),
            ..WriteCondition::default()
        };
        let puts: Vec<_> = (0..32)
            .map(|size| put_to(&store, &key, vec![2; 200 + size], same()))
            .collect();
        let mut won = 0;
        for put in puts {
            won += usize::from(put.outcome().await.is_ok());
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn a_file_goes_with_the_last_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Durability::ProcessCrash).unwrap();
    let put = put_to(&store, "one", content(2), WriteCondition::default());
    put.outcome().await.unwrap();
    let copy = |from: &str, to: &str| {
        let copy = store.copy(from.into(), ReadCondition::default(), None, to.into());
        copy.outcome()
    };
    copy("one", "two").await.unwrap();
    copy("two", "two").await.unwrap();
    let files = || {
        let folders = fs::read_dir(folder.path().join("files")).unwrap();
        let in_each = folders.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count());
        in_each.sum::<usize>()
    };
    assert_eq!(files(), 1);
    store.delete(vec!["one".into()]).outcome().await.unwrap();
    let opened = store.get("two").unwrap();
    store.delete(vec!["two".into()]).outcome().await.unwrap();
    while files() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(bytes_of(&opened) == content(2), "who opened it reads it");
}
