//! Writes in groups: one thread carries out all that wait and syncs once for them.
//!
//! While it syncs, others queue up, and they are the next group. So a lone write waits for its own sync only, many share
//! one, and no timer holds anything up. Being alone, it also decides conditions without locks: what a write finds is what
//! it replaces.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};
use s3s::{S3Error, S3Result};
use tokio::sync::oneshot;

use super::failure::{as_io, closed, from_io, lost, trouble};
use super::files::{Files, Staged};
use super::index::{BYTES, FILES, Index, OBJECTS, PARTS, UPLOADS};
use super::joined::{self, Part};
use super::record::{Attributes, Place, Record};

/// Bytes that a record holds itself; more would make the index's pages large for all that is beside them.
const RECORD_BYTES: usize = 1024;
/// The most writes of a group, and the most bytes: the memory it takes, and what a first one waits for the others.
const GROUP_WRITES: usize = 1024;
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// What is left on a disk for deletes and the index's own pages: a put that would take of it is told that the disk is full.
const RESERVED_BYTES: u64 = 4 * GROUP_BYTES as u64;

type Answer = Box<dyn FnOnce(Result<(), &Failure>) + Send>;
type Work = Box<dyn FnOnce(&mut Group<'_>) -> Answer + Send>;

struct Queued {
    work: Work,
    bytes: usize,
}

/// Why a whole group was not written.
struct Failure {
    kind: io::ErrorKind,
    words: String,
}

impl Failure {
    fn new(error: &io::Error) -> Failure {
        Failure {
            kind: error.kind(),
            words: error.to_string(),
        }
    }

    fn of_a_panic() -> Failure {
        Failure {
            kind: io::ErrorKind::Other,
            words: "a panic".to_owned(),
        }
    }

    fn told(&self) -> S3Error {
        match self.kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => from_io(self.kind.into()),
            _ => closed(),
        }
    }
}

/// The thread that writes. Dropping this ends it after what is queued.
pub(super) struct Writer {
    queue: RwLock<Option<mpsc::Sender<Queued>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(index: Arc<Index>, files: Arc<Files>) -> io::Result<Writer> {
        let (queue, queued) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("objects-writer".to_owned())
            .spawn(move || write_all(&queued, &index, &files))?;
        Ok(Writer {
            queue: RwLock::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a write of so many bytes. It is answered when it is synced, also where it failed: what made it fail may be
    /// of the same group. It has to find out whether it fails before it changes anything.
    pub(super) fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&mut Group<'_>) -> S3Result<T> + Send + 'static,
    ) -> Written<T> {
        let (told, written) = oneshot::channel();
        let work: Work = Box::new(move |group| {
            let outcome = work(group);
            Box::new(move |synced| {
                let outcome = match synced {
                    Ok(()) => outcome,
                    Err(failure) => Err(failure.told()),
                };
                // Whoever asked may have gone.
                told.send(outcome).ok();
            })
        });
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            // Where the thread has ended, the write is dropped, which is told as a failure.
            queue.send(Queued { work, bytes }).ok();
        }
        Written(written)
    }

    /// Takes nothing more, and returns when what is queued is written. Blocks.
    pub(super) fn end(&self) {
        *self.queue.write().unwrap_or_else(PoisonError::into_inner) = None;
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A write that is under way.
pub(super) struct Written<T>(oneshot::Receiver<S3Result<T>>);

impl<T> Written<T> {
    /// What became of it.
    pub(super) async fn outcome(self) -> S3Result<T> {
        self.0.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The same, for threads that may wait.
    pub(super) fn wait(self) -> S3Result<T> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }
}

fn write_all(queued: &mpsc::Receiver<Queued>, index: &Index, files: &Arc<Files>) {
    while let Ok(first) = queued.recv() {
        let mut bytes = first.bytes;
        let mut waiting = vec![first.work];
        while waiting.len() < GROUP_WRITES && bytes < GROUP_BYTES {
            let Ok(next) = queued.try_recv() else { break };
            bytes += next.bytes;
            waiting.push(next.work);
        }
        if index.is_closed() {
            index.reopen();
        }
        let mut answers = Vec::with_capacity(waiting.len());
        let group = AssertUnwindSafe(|| write_group(waiting, &mut answers, index, files));
        // A panic drops the transaction, and must not end the only thread that writes.
        let written = catch_unwind(group).unwrap_or_else(|_| Err(Failure::of_a_panic()));
        if let Err(failure) = &written {
            tracing::error!(why = failure.words, "writes to the object store failed");
            index.reopen();
        }
        for answer in answers {
            answer(written.as_ref().map(|_| ()));
        }
        for number in written.unwrap_or_default() {
            files.discard(number);
        }
    }
}

/// Carries out a group; returns the files that nothing names any more.
fn write_group(
    waiting: Vec<Work>,
    answers: &mut Vec<Answer>,
    index: &Index,
    files: &Arc<Files>,
) -> Result<Vec<u64>, Failure> {
    let failed = |error: io::Error| Failure::new(&error);
    let transaction = index.begin().map_err(failed)?;
    let has_room = files.free().map_err(failed)? > RESERVED_BYTES;
    let group = Group::open(&transaction, files, has_room);
    let mut group = group.map_err(|error| failed(io::Error::other(error)))?;
    answers.extend(waiting.into_iter().map(|work| work(&mut group)));
    let Some((named, unnamed)) = group.changed() else {
        return Ok(Vec::new());
    };
    files.sync_names(&named).map_err(failed)?;
    transaction
        .commit()
        .map_err(|error| failed(as_io(error.into())))?;
    Ok(unnamed)
}

/// What a write sees and changes: all that is kept, with what the writes before it in its group have changed.
pub(super) struct Group<'transaction> {
    objects: Table<'transaction, &'static str, &'static [u8]>,
    bytes: Table<'transaction, u64, &'static [u8]>,
    references: Table<'transaction, u64, u32>,
    uploads: Table<'transaction, u128, &'static [u8]>,
    parts: Table<'transaction, (u128, u16), &'static [u8]>,
    files: Arc<Files>,
    has_room: bool,
    is_changed: bool,
    /// Files that are named for the first time, and those that are not named any more.
    named: Vec<u64>,
    unnamed: Vec<u64>,
}

impl<'transaction> Group<'transaction> {
    fn open(
        transaction: &'transaction WriteTransaction,
        files: &Arc<Files>,
        has_room: bool,
    ) -> S3Result<Self> {
        Ok(Group {
            objects: transaction.open_table(OBJECTS).map_err(trouble)?,
            bytes: transaction.open_table(BYTES).map_err(trouble)?,
            references: transaction.open_table(FILES).map_err(trouble)?,
            uploads: transaction.open_table(UPLOADS).map_err(trouble)?,
            parts: transaction.open_table(PARTS).map_err(trouble)?,
            files: Arc::clone(files),
            has_room,
            is_changed: false,
            named: Vec::new(),
            unnamed: Vec::new(),
        })
    }

    /// The files that it named and those that nothing names any more, if it changed anything.
    fn changed(self) -> Option<(Vec<u64>, Vec<u64>)> {
        self.is_changed.then_some((self.named, self.unnamed))
    }

    /// Refuses to take more room where there is little left.
    pub(super) fn check_room(&self) -> S3Result<()> {
        match self.has_room {
            true => Ok(()),
            false => Err(from_io(io::ErrorKind::StorageFull.into())),
        }
    }

    /// The record under a key.
    pub(super) fn object(&self, key: &str) -> S3Result<Option<Record>> {
        let text = self.objects.get(key).map_err(trouble)?;
        text.map(|text| Record::decoded(text.value())).transpose()
    }

    /// Puts a record under a key, in the place of what is there.
    pub(super) fn put_object(&mut self, key: &str, record: &Record) -> S3Result<()> {
        let text = record.encoded()?;
        self.is_changed = true;
        let before = self.objects.insert(key, text.as_slice()).map_err(trouble)?;
        let before = before.map(|text| Record::decoded(text.value()));
        self.release(before.transpose()?)
    }

    /// Removes what is under a key, if anything.
    pub(super) fn remove_object(&mut self, key: &str) -> S3Result<()> {
        let before = self.objects.remove(key).map_err(trouble)?;
        let before = before.map(|text| Record::decoded(text.value()));
        self.is_changed |= before.is_some();
        self.release(before.transpose()?)
    }

    /// An upload, as it is kept.
    pub(super) fn upload(&self, id: u128) -> S3Result<Option<Vec<u8>>> {
        let text = self.uploads.get(id).map_err(trouble)?;
        Ok(text.map(|text| text.value().to_vec()))
    }

    pub(super) fn put_upload(&mut self, id: u128, text: &[u8]) -> S3Result<()> {
        self.is_changed = true;
        self.uploads.insert(id, text).map_err(trouble)?;
        Ok(())
    }

    /// Removes an upload and its parts.
    pub(super) fn remove_upload(&mut self, id: u128) -> S3Result<()> {
        self.is_changed = true;
        self.uploads.remove(id).map_err(trouble)?;
        let mut numbers = Vec::new();
        for part in self
            .parts
            .range((id, 0)..=(id, u16::MAX))
            .map_err(trouble)?
        {
            numbers.push(part.map_err(trouble)?.0.value().1);
        }
        for number in numbers {
            let before = self.parts.remove((id, number)).map_err(trouble)?;
            let before = before.map(|text| Record::decoded(text.value()));
            self.release(before.transpose()?)?;
        }
        Ok(())
    }

    pub(super) fn part(&self, id: u128, number: u16) -> S3Result<Option<Record>> {
        let text = self.parts.get((id, number)).map_err(trouble)?;
        text.map(|text| Record::decoded(text.value())).transpose()
    }

    /// Makes a record the part of that number, in the place of an earlier one.
    pub(super) fn put_part(&mut self, id: u128, number: u16, record: &Record) -> S3Result<()> {
        let text = record.encoded()?;
        self.is_changed = true;
        let at = (id, number);
        let before = self.parts.insert(at, text.as_slice()).map_err(trouble)?;
        let before = before.map(|text| Record::decoded(text.value()));
        self.release(before.transpose()?)
    }

    /// Keeps content; returns its record.
    pub(super) fn keep(
        &mut self,
        content: Content,
        etag: String,
        attributes: Attributes,
    ) -> S3Result<Record> {
        let size = content.size();
        let place = match content {
            Content::Memory(bytes) => self.keep_bytes(bytes)?,
            Content::Staged(staged) => {
                let number = staged.kept();
                self.named.push(number);
                self.name_file(number)?;
                Place::File(number)
            }
        };
        Ok(Record {
            place,
            size,
            modified: SystemTime::now(),
            etag,
            attributes,
        })
    }

    /// Names a file that is to come, under a new number.
    pub(super) fn name_next_file(&mut self) -> S3Result<u64> {
        let number = self.files.next_number();
        self.name_file(number)?;
        Ok(number)
    }

    fn name_file(&mut self, number: u64) -> S3Result<()> {
        self.is_changed = true;
        self.references.insert(number, 1).map_err(trouble)?;
        Ok(())
    }

    /// Bytes as they are kept: in the record, or apart.
    pub(super) fn keep_bytes(&mut self, bytes: Bytes) -> S3Result<Place> {
        if bytes.len() <= RECORD_BYTES {
            return Ok(Place::Here(bytes));
        }
        let number = self.files.next_number();
        self.is_changed = true;
        self.bytes.insert(number, bytes.as_ref()).map_err(trouble)?;
        Ok(Place::Apart(number))
    }

    /// The place of the same bytes for another record: a file is shared, few bytes are copied.
    pub(super) fn shared(&mut self, place: &Place) -> S3Result<Place> {
        match place {
            Place::Here(bytes) => Ok(Place::Here(bytes.clone())),
            Place::Apart(number) => {
                let bytes = self.bytes_at(*number)?;
                self.keep_bytes(bytes)
            }
            Place::File(number) => {
                self.share_file(*number)?;
                Ok(Place::File(*number))
            }
            Place::Parts(number) => {
                let parts = joined::decoded(&self.bytes_at(*number)?)?;
                self.keep_parts(&parts)
            }
        }
    }

    /// One place of all that these records hold, in their order: files are shared, and nothing is copied but small ends.
    pub(super) fn joined<'record>(
        &mut self,
        records: impl Iterator<Item = &'record Record>,
    ) -> S3Result<Place> {
        let mut parts = Vec::new();
        for Record { place, size, .. } in records {
            match place {
                Place::Here(bytes) => parts.push(Part::Here(bytes.clone())),
                Place::Apart(number) => parts.push(Part::Here(self.bytes_at(*number)?)),
                Place::File(number) => parts.push(Part::File {
                    number: *number,
                    size: *size,
                }),
                Place::Parts(number) => parts.extend(joined::decoded(&self.bytes_at(*number)?)?),
            }
        }
        self.keep_parts(&parts)
    }

    fn keep_parts(&mut self, parts: &[Part]) -> S3Result<Place> {
        for part in parts {
            if let Part::File { number, .. } = part {
                self.share_file(*number)?;
            }
        }
        let number = self.files.next_number();
        let list = joined::encoded(parts);
        self.is_changed = true;
        self.bytes
            .insert(number, list.as_slice())
            .map_err(trouble)?;
        Ok(Place::Parts(number))
    }

    fn bytes_at(&self, number: u64) -> S3Result<Bytes> {
        let found = self.bytes.get(number).map_err(trouble)?;
        let bytes = found.map(|bytes| Bytes::copy_from_slice(bytes.value()));
        bytes.ok_or_else(|| lost("the bytes of an object"))
    }

    fn share_file(&mut self, number: u64) -> S3Result<()> {
        let count = self.references_to(number)?;
        self.is_changed = true;
        self.references
            .insert(number, count.saturating_add(1))
            .map_err(trouble)?;
        Ok(())
    }

    /// Frees what a record that is no more was the last to name.
    fn release(&mut self, record: Option<Record>) -> S3Result<()> {
        match record.map(|record| record.place) {
            None | Some(Place::Here(_)) => {}
            Some(Place::Apart(number)) => {
                self.bytes.remove(number).map_err(trouble)?;
            }
            Some(Place::File(number)) => self.release_file(number)?,
            Some(Place::Parts(number)) => {
                let list = self.bytes.remove(number).map_err(trouble)?;
                let list = list.map(|list| Bytes::copy_from_slice(list.value()));
                for part in joined::decoded(&list.unwrap_or_default())? {
                    if let Part::File { number, .. } = part {
                        self.release_file(number)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn release_file(&mut self, number: u64) -> S3Result<()> {
        match self.references_to(number)? {
            0 | 1 => {
                self.references.remove(number).map_err(trouble)?;
                self.unnamed.push(number);
            }
            count => {
                self.references.insert(number, count - 1).map_err(trouble)?;
            }
        }
        Ok(())
    }

    fn references_to(&self, number: u64) -> S3Result<u32> {
        let count = self.references.get(number).map_err(trouble)?;
        Ok(count.map_or(0, |count| count.value()))
    }
}

/// The bytes of an object that is being put.
#[derive(Debug)]
pub(super) enum Content {
    /// Few enough for the index.
    Memory(Bytes),
    /// In a file, written and synced.
    Staged(Staged),
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Staged(staged) => staged.size(),
        }
    }

    /// What of it goes through the index.
    pub(super) fn weight(&self) -> usize {
        match self {
            Content::Memory(bytes) => bytes.len(),
            Content::Staged(_) => 0,
        }
    }
}
