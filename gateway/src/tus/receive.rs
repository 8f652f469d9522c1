//! The bytes of one request, put into the store in equal parts. What fills no part is kept as an object of its own until
//! more comes. However a request ends, what the record says is in the store is in the store, and nothing else counts.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use caudal_domain::Refusal;
use caudal_objects::{MAX_PARTS, ObjectError, ObjectStore};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::budget::{Budget, Share};
use super::headers::Checksum;
use super::record::{Held, Progress, Record};
use crate::no_store::not_taken;

/// A client that sends nothing for so long has gone: the upload is free for the next request.
const IDLE: Duration = Duration::from_secs(30);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What the store is told of bytes that nobody has looked into.
pub(super) const MEDIA_TYPE: &str = "application/octet-stream";

/// What receiving needs.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) objects: ObjectStore,
    pub(super) budget: Budget,
    pub(super) shutdown: CancellationToken,
}

/// Bytes of a request that are not in the store yet, after those that fill no part.
struct Buffer {
    bytes: BytesMut,
    share: Share,
}

pub(super) fn store_trouble(error: &ObjectError) -> Status {
    to_status(&not_taken(error))
}

/// The digest over ETags of parts, with one more.
pub(super) fn chained(digest: &[u8], etag: &str) -> Bytes {
    let mut sum = Sha256::new();
    sum.update(digest);
    sum.update(etag.as_bytes());
    sum.finalize().to_vec().into()
}

fn cut() -> Refusal {
    Refusal::unavailable("the request ended before its bytes did", TRY_AGAIN_AFTER)
}

impl Receiver {
    /// Takes the bytes of a body from the upload's offset on. `now` is how far the upload is, with what this request tells
    /// of it beside. The right to write is kept.
    ///
    /// # Errors
    /// The body broke off, or the store or the ledger failed; what is in the store by then counts. With a checksum all of it
    /// counts, or nothing.
    pub(super) async fn receive(
        &self,
        held: &mut Held,
        mut now: Progress,
        body: &mut Body,
        checksum: Option<Checksum>,
    ) -> Result<(), Status> {
        let mut buffer = Buffer {
            bytes: BytesMut::new(),
            share: self.budget.share(),
        };
        self.take_up_tail(held, &now, &mut buffer).await?;
        let tail = now.facts.tail;
        let is_checked = checksum.is_some();
        let taken = self.take(held, &mut now, &mut buffer, body, checksum);
        let taken = match taken.await? {
            Some(refusal) => Err(to_status(&refusal)),
            None => Ok(()),
        };
        if is_checked && taken.is_err() {
            return taken;
        }
        self.put_rest(held, &mut now, buffer).await?;
        let is_moved = tail != 0 && now.facts.tail != tail;
        held.advance(now).await?;
        if is_moved {
            let key = held.record.tail_key(tail);
            if let Err(error) = held.keep(self.objects.delete(&key)).await? {
                tracing::debug!(%error, "bytes that are in a part now are freed when the upload ends");
            }
        }
        taken
    }

    /// What filled no part is read again: parts are equal, so it becomes the beginning of the next one.
    async fn take_up_tail(
        &self,
        held: &mut Held,
        now: &Progress,
        buffer: &mut Buffer,
    ) -> Result<(), Status> {
        let bytes = now.tail_bytes();
        if bytes == 0 {
            return Ok(());
        }
        let key = held.record.tail_key(now.facts.tail);
        let objects = self.objects.clone();
        let share = &mut buffer.share;
        let read = held.keep(async {
            share
                .grow_to(bytes)
                .await
                .map_err(|refusal| to_status(&refusal))?;
            let read = objects.get_bytes(&key, bytes).await;
            read.map_err(|error| store_trouble(&error))
        });
        let read = read.await??;
        if read.len() as u64 != bytes {
            tracing::error!(upload = %held.record.id, "the object of an upload's last bytes has another size");
            return Err(to_status(&Refusal::internal()));
        }
        buffer.bytes.extend_from_slice(&read);
        Ok(())
    }

    /// Reads the body to its end, and puts part after part into the store. Says what is wrong with the body, if anything is:
    /// what came before it is good. After an error the buffer is not to be used any more.
    async fn take(
        &self,
        held: &mut Held,
        now: &mut Progress,
        buffer: &mut Buffer,
        body: &mut Body,
        mut checksum: Option<Checksum>,
    ) -> Result<Option<Refusal>, Status> {
        let part = now.part_size();
        let most = part.saturating_mul(MAX_PARTS);
        let most = now.length.map_or(most, |length| length.min(most));
        loop {
            let next = async {
                tokio::select! {
                    () = self.shutdown.cancelled() => None,
                    frame = tokio::time::timeout(IDLE, body.frame()) => Some(frame),
                }
            };
            let frame = match held.keep(next).await? {
                Some(Ok(Some(Ok(frame)))) => frame,
                Some(Ok(None)) => break,
                Some(Ok(Some(Err(error)))) => {
                    tracing::debug!(%error, "the body of an upload broke off");
                    return Ok(Some(cut()));
                }
                Some(Err(_)) => return Ok(Some(cut())),
                None => {
                    let words = "this gateway ends: another goes on with the upload";
                    return Ok(Some(Refusal::unavailable(words, TRY_AGAIN_AFTER)));
                }
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    if let Some(Err(refusal)) = checksum.as_mut().map(|sum| sum.is_told(&trailers))
                    {
                        return Ok(Some(refusal));
                    }
                    continue;
                }
            };
            let received = now.received + self.beyond(now, buffer) + data.len() as u64;
            if received > most {
                let words = format!("more bytes came than the {most} that the upload may have");
                let refusal = Refusal::invalid("(body)", words);
                return Ok(Some(refusal.with_reason("UPLOAD_TOO_LARGE")));
            }
            if let Some(checksum) = &mut checksum {
                checksum.update(&data);
            }
            while !data.is_empty() {
                let filled = buffer.bytes.len() as u64;
                let room = usize::try_from(part - filled).unwrap_or(usize::MAX);
                let more = data.split_to(room.min(data.len()));
                let grown = filled + more.len() as u64;
                let share = &mut buffer.share;
                if let Err(refusal) = held.keep(share.grow_to(grown)).await? {
                    return Ok(Some(refusal));
                }
                if buffer.bytes.is_empty() {
                    // Memory that is not written to is not taken from the system.
                    let left = now.length.map_or(part, |length| length - now.received);
                    buffer
                        .bytes
                        .reserve(usize::try_from(part.min(left)).unwrap_or(0));
                }
                buffer.bytes.extend_from_slice(&more);
                if buffer.bytes.len() as u64 == part {
                    self.put_part(held, now, buffer).await?;
                    if checksum.is_none() {
                        held.advance(now.clone()).await?;
                    }
                }
            }
        }
        Ok(checksum.and_then(|checksum| checksum.check().err()))
    }

    /// Bytes of the buffer that the offset does not count yet.
    fn beyond(&self, now: &Progress, buffer: &Buffer) -> u64 {
        buffer.bytes.len() as u64 - now.tail_bytes()
    }

    /// Puts what the buffer holds into the store as the next part: a full one, or the last.
    async fn put_part(
        &self,
        held: &mut Held,
        now: &mut Progress,
        buffer: &mut Buffer,
    ) -> Result<(), Status> {
        let received = now.received - now.tail_bytes() + buffer.bytes.len() as u64;
        let key = held.record.bytes_key();
        let bytes = buffer.bytes.split().freeze();
        let trouble = |error: ObjectError| store_trouble(&error);
        let is_all = now.facts.multipart.is_empty() && now.length == Some(received);
        if is_all {
            let put = self.objects.put(&key, MEDIA_TYPE, bytes);
            let etag = held.keep(put).await?.map_err(trouble)?;
            now.facts.parts_digest = chained(&[], &etag);
        } else {
            if now.facts.multipart.is_empty() {
                let begun = self.objects.create_multipart(&key, None);
                let begun = held.keep(begun).await?.map_err(trouble)?;
                // Known at once, so that its parts are freed whatever becomes of this request.
                let mut before = held.record.now.clone();
                before.facts.multipart.clone_from(&begun);
                held.advance(before).await?;
                now.facts.multipart = begun;
            }
            let number = received.div_ceil(now.part_size());
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let sent = self
                .objects
                .upload_part(&key, &now.facts.multipart, number, bytes);
            let etag = held.keep(sent).await?.map_err(trouble)?;
            now.facts.parts_digest = chained(&now.facts.parts_digest, &etag);
        }
        now.received = received;
        now.facts.tail = 0;
        if now.is_whole() {
            now.state = mesh::TusState::Whole;
        }
        buffer.share.free();
        Ok(())
    }

    /// What is left at the end of a request: the last part of the upload, or the beginning of a part that is not full yet.
    async fn put_rest(
        &self,
        held: &mut Held,
        now: &mut Progress,
        mut buffer: Buffer,
    ) -> Result<(), Status> {
        let beyond = self.beyond(now, &buffer);
        let received = now.received + beyond;
        let is_end = now.length == Some(received) && now.state == mesh::TusState::Open;
        if is_end {
            // Nothing is left where the last part was full; an empty upload is an empty object.
            if !buffer.bytes.is_empty() || received == 0 {
                return self.put_part(held, now, &mut buffer).await;
            }
            now.state = mesh::TusState::Whole;
            return Ok(());
        }
        if beyond == 0 {
            return Ok(());
        }
        let number = held.record.lock;
        let key = held.record.tail_key(number);
        let put = self.objects.put(&key, MEDIA_TYPE, buffer.bytes.freeze());
        held.keep(put)
            .await?
            .map_err(|error| store_trouble(&error))?;
        now.received = received;
        now.facts.tail = number;
        Ok(())
    }

    /// Frees everything that the store holds of an upload.
    ///
    /// # Errors
    /// As the store answers.
    pub(super) async fn free(&self, record: &Record) -> Result<(), ObjectError> {
        let is_small = record
            .now
            .length
            .is_some_and(|length| length <= record.now.part_size());
        if !is_small {
            // The store is asked: a gateway that died may have begun one that it did not tell of.
            let key = record.bytes_key();
            while let Some(multipart) = self.objects.find_multipart(&key).await? {
                self.objects.abort_multipart(&key, &multipart).await?;
            }
        }
        let prefix = record.prefix();
        let mut after = None;
        loop {
            let page = self.objects.list(&prefix, after.as_deref()).await?;
            let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            if !keys.is_empty() {
                self.objects.delete_many(&keys).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
