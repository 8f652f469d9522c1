//! Partial uploads joined to one. Its parts are equal like those of any other upload: what lies within one partial upload
//! is copied inside the store, what crosses from one to the next goes through here, a part at a time.

use bytes::BytesMut;
use caudal_domain::limits::MAX_TUS_BYTES;
use caudal_domain::{Refusal, RefusalKind};
use caudal_node::scope::Scope;
use caudal_objects::ObjectError;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use tonic::Status;
use uuid::Uuid;

use super::Tus;
use super::receive::{chained, store_trouble};
use super::record::{Held, Record};

/// A partial upload that is joined.
#[derive(Debug)]
pub(super) struct Source {
    key: String,
    etag: String,
    size: u64,
}

/// A range of one source.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    source: usize,
    from: u64,
    to: u64,
}

/// The slices that make up the bytes from `from` to `to` of all sources one after another.
fn slices(sizes: &[u64], from: u64, to: u64) -> Vec<Slice> {
    let mut found = Vec::new();
    let mut begin = 0;
    for (source, size) in sizes.iter().enumerate() {
        let end = begin + size;
        if *size > 0 && from < end && to > begin {
            found.push(Slice {
                source,
                from: from.max(begin) - begin,
                to: to.min(end) - begin,
            });
        }
        begin = end;
    }
    found
}

impl Tus {
    /// The partial uploads of a concatenation.
    ///
    /// # Errors
    /// One is none, or is not whole.
    pub(super) async fn sources(
        &self,
        scope: &Scope,
        partials: &[Uuid],
    ) -> Result<Vec<Source>, Status> {
        let mut sources = Vec::with_capacity(partials.len());
        let mut whole: u64 = 0;
        for id in partials {
            let record = self.records.get(scope, *id).await?;
            if !record.now.is_partial() || record.now.state != mesh::TusState::Done {
                let words = format!("files/{id} is no partial upload, or is not whole yet");
                let refusal = Refusal::failed_precondition("PARTIAL_NOT_WHOLE", words);
                return Err(to_status(&refusal));
            }
            whole = whole.saturating_add(record.now.received);
            sources.push(self.source(&record).await?);
        }
        if whole > MAX_TUS_BYTES {
            return Err(to_status(&super::too_large(whole)));
        }
        Ok(sources)
    }

    async fn source(&self, record: &Record) -> Result<Source, Status> {
        let key = record.bytes_key();
        let head = self.receiver.objects.head(&key).await;
        let head = head.map_err(|error| store_trouble(&error))?;
        let head = head.filter(|head| head.size == record.now.received);
        let head = head.ok_or_else(|| {
            let words = format!("the bytes of files/{} are gone: send it again", record.id);
            let reason = "UPLOAD_DAMAGED";
            to_status(&Refusal::new(
                RefusalKind::FailedPrecondition,
                reason,
                words,
            ))
        })?;
        Ok(Source {
            key,
            etag: head.etag,
            size: head.size,
        })
    }

    /// Puts the bytes of all sources into the store as those of this upload.
    pub(super) async fn concatenate(
        &self,
        held: &mut Held,
        sources: &[Source],
    ) -> Result<(), Status> {
        let sizes: Vec<u64> = sources.iter().map(|source| source.size).collect();
        let mut now = held.record.now.clone();
        let (whole, part) = (sizes.iter().sum::<u64>(), now.part_size());
        let key = held.record.bytes_key();
        let objects = self.receiver.objects.clone();
        if whole > part {
            let begun = held.keep(objects.create_multipart(&key, None)).await?;
            now.facts.multipart = begun.map_err(|error| store_trouble(&error))?;
            held.advance(now.clone()).await?;
        }
        let mut share = self.receiver.budget.share();
        let mut number = 0;
        while now.received < whole || number == 0 {
            let (from, to) = (now.received, whole.min(now.received + part));
            number += 1;
            let wanted = slices(&sizes, from, to);
            let trouble = |error: ObjectError| store_trouble(&error);
            let etag = if let ([slice], true) = (wanted.as_slice(), whole > part) {
                let source = &sources[slice.source];
                let range = slice.from..slice.to;
                let (from, etag) = (&source.key, &source.etag);
                let multipart = &now.facts.multipart;
                let copied = objects.copy_part_if_match(from, etag, range, &key, multipart, number);
                held.keep(copied).await?.map_err(trouble)?
            } else {
                let grown = held.keep(share.grow_to(to - from)).await?;
                grown.map_err(|refusal| to_status(&refusal))?;
                let mut bytes = BytesMut::new();
                for slice in &wanted {
                    let source = &sources[slice.source];
                    let range = slice.from..slice.to;
                    let read = objects.get_range(&source.key, Some(&source.etag), range);
                    bytes.extend_from_slice(&held.keep(read).await?.map_err(trouble)?);
                }
                let bytes = bytes.freeze();
                if whole > part {
                    let sent = objects.upload_part(&key, &now.facts.multipart, number, bytes);
                    held.keep(sent).await?.map_err(trouble)?
                } else {
                    let put = objects.put(&key, super::receive::MEDIA_TYPE, bytes);
                    held.keep(put).await?.map_err(trouble)?
                }
            };
            now.facts.parts_digest = chained(&now.facts.parts_digest, &etag);
            now.received = to;
        }
        now.state = mesh::TusState::Whole;
        held.advance(now).await
    }
}

pub(super) fn size_of(sources: &[Source]) -> u64 {
    sources.iter().map(|source| source.size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(source: usize, from: u64, to: u64) -> Slice {
        Slice { source, from, to }
    }

    #[test]
    fn a_part_takes_the_end_of_one_source_and_the_beginning_of_the_next() {
        let sizes = [5, 0, 3, 10];
        assert_eq!(slices(&sizes, 0, 4), [slice(0, 0, 4)]);
        assert_eq!(
            slices(&sizes, 4, 9),
            [slice(0, 4, 5), slice(2, 0, 3), slice(3, 0, 1)]
        );
        assert_eq!(slices(&sizes, 8, 18), [slice(3, 0, 10)]);
        assert_eq!(slices(&[], 0, 0), []);
    }
}
