//! An upload whose bytes are all in the store becomes its file: its parts one object, that a copy at the landing place, and
//! that is confirmed like any other upload. Each step may have been done before by a gateway that died after it.

use caudal_domain::{BatchId, Refusal, batch_name};
use caudal_node::scope::Scope;
use caudal_objects::{ObjectError, PartTag};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::{from_status, to_status};
use caudal_proto::v1;
use caudal_proto::v1::FileState as S;
use caudal_proto::v1::confirmation::Result as Confirmed;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::Tus;
use super::receive::{chained, store_trouble};
use super::record::{Held, Record};
use super::request_id;
use crate::ledger::passed_on;
use crate::no_store::freed_later;
use crate::uploads::not_waited_for;

impl Tus {
    /// Makes the file, gives the right to write back and frees what is not needed any more. An upload whose file can never
    /// be confirmed ends with that. `again`: somebody may have tried before, and died after the confirmation.
    pub(super) async fn finish(&self, mut held: Held, again: bool) -> Result<Record, Status> {
        match self.make_file(&mut held, again).await {
            Ok(()) => {}
            Err(status) if is_transient(&status) => {
                held.let_go().await;
                return Err(status);
            }
            Err(status) => {
                self.drop_upload(held).await;
                return Err(status);
            }
        }
        let mut now = held.record.now.clone();
        now.state = mesh::TusState::Done;
        held.release(now).await?;
        // A partial upload is its object.
        if held.record.now.is_partial() {
            return Ok(held.record);
        }
        if let Err(error) = self.receiver.free(&held.record).await {
            freed_later(&error);
        }
        Ok(held.record)
    }

    async fn make_file(&self, held: &mut Held, again: bool) -> Result<(), Status> {
        let etag = self.join(held).await?;
        if held.record.now.is_partial() {
            return Ok(());
        }
        let (Some(batch), Some(ordinal)) = (held.record.batch, held.record.now.ordinal) else {
            tracing::error!(upload = %held.record.id, "an upload is whole and no file");
            return Err(to_status(&Refusal::internal()));
        };
        let scope = held.record.scope();
        let record = held.record.clone();
        let facts = self.uploads.facts_of_one(&scope, batch, ordinal);
        let facts = held.keep(facts).await??;
        let is_waited_for = matches!(facts.state(), S::Pending | S::Uploading | S::Failed);
        if !is_waited_for && !again {
            // Its bytes came another way meanwhile, and may be others.
            let refusal = not_waited_for(batch, &facts).unwrap_or_else(Refusal::internal);
            return Err(to_status(&refusal));
        }
        if is_waited_for {
            let size = held.record.now.received;
            let (from, to) = (held.record.bytes_key(), facts.landing_key.clone());
            let objects = self.receiver.objects.clone();
            let copied = objects.copy_sized_if_match(&from, &etag, size, &to);
            let etag = held.keep(copied).await?.map_err(|error| match error {
                ObjectError::PreconditionFailed { .. } => to_status(&damaged()),
                error => store_trouble(&error),
            })?;
            let confirmed = self.confirm(&record, &scope, &facts, etag);
            held.keep(confirmed).await??;
        }
        self.complete_own(held, &scope).await
    }

    /// Completes the batch that was made for this file alone, if there is one.
    pub(super) async fn complete_own(&self, held: &mut Held, scope: &Scope) -> Result<(), Status> {
        let own = held
            .record
            .batch
            .filter(|_| held.record.now.facts.own_batch);
        if let Some(batch) = own {
            let record = held.record.clone();
            let completed = self.complete(&record, scope, batch, v1::MissingFiles::Wait);
            held.keep(completed).await??;
        }
        Ok(())
    }

    /// The object of all its bytes; its ETag. Parts that are not those which were recorded never become one.
    async fn join(&self, held: &mut Held) -> Result<String, Status> {
        let key = held.record.bytes_key();
        let objects = self.receiver.objects.clone();
        let now = held.record.now.clone();
        let found = held.keep(objects.head(&key)).await?;
        let found = found.map_err(|error| store_trouble(&error))?;
        let found = found.filter(|head| head.size == now.received);
        let multipart = &now.facts.multipart;
        if let Some(head) = found {
            let is_recorded = chained(&[], &head.etag) == now.facts.parts_digest;
            if multipart.is_empty() && !is_recorded {
                return Err(to_status(&damaged()));
            }
            return Ok(head.etag);
        }
        if multipart.is_empty() {
            return Err(to_status(&damaged()));
        }
        let listed = held.keep(objects.list_parts(&key, multipart)).await?;
        let listed = match listed {
            Ok(listed) => listed,
            Err(ObjectError::NotFound { .. }) => return Err(to_status(&damaged())),
            Err(error) => return Err(store_trouble(&error)),
        };
        let count = u32::try_from(now.parts()).unwrap_or(u32::MAX);
        let mut parts: Vec<PartTag> = Vec::new();
        let mut digest = bytes::Bytes::new();
        for part in listed.into_iter().filter(|part| part.number <= count) {
            digest = chained(&digest, &part.etag);
            let (number, etag) = (part.number, part.etag);
            parts.push(PartTag { number, etag });
        }
        if digest != now.facts.parts_digest {
            return Err(to_status(&damaged()));
        }
        let joined = objects.complete_multipart(&key, multipart, &parts);
        match held.keep(joined).await? {
            Ok(etag) => Ok(etag),
            Err(ObjectError::Refused { .. }) => Err(to_status(&damaged())),
            Err(error) => Err(store_trouble(&error)),
        }
    }

    async fn confirm(
        &self,
        record: &Record,
        scope: &Scope,
        facts: &mesh::IssueFacts,
        etag: String,
    ) -> Result<(), Status> {
        let Some(batch) = record.batch else {
            return Err(to_status(&Refusal::internal()));
        };
        let request = v1::ConfirmUploadsRequest {
            batch: batch_name(batch),
            uploads: vec![v1::Uploaded {
                ordinal: facts.ordinal,
                target: facts.target,
                etag: etag.clone(),
            }],
            request_id: request_id(record.id, &format!("confirm {} {etag}", facts.target)),
        };
        let metadata = MetadataMap::new();
        let uploads = &self.uploads;
        let answer = uploads.confirm(scope, record.tenant, &metadata, request);
        let answer = answer.await?.confirmations.into_iter().next();
        match answer.and_then(|confirmation| confirmation.result) {
            Some(Confirmed::State(_)) => Ok(()),
            Some(Confirmed::Error(refusal)) => Err(Status::with_details(
                Code::from_i32(refusal.code),
                refusal.message.clone(),
                prost::Message::encode_to_vec(&refusal).into(),
            )),
            None => Err(to_status(&Refusal::internal())),
        }
    }

    pub(super) async fn complete(
        &self,
        record: &Record,
        scope: &Scope,
        batch: BatchId,
        missing: v1::MissingFiles,
    ) -> Result<(), Status> {
        let request = v1::CompleteBatchRequest {
            name: batch_name(batch),
            missing: missing.into(),
            expected_entries: 0,
            request_id: request_id(record.id, &format!("complete {missing:?}")),
        };
        let asked = self.records.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.complete_batch(request).await }
        });
        asked.await.map(|_| ()).map_err(|status| passed_on(&status))
    }

    /// Forgets an upload of which nothing can become any more, with all that the store holds of it.
    pub(super) async fn drop_upload(&self, mut held: Held) {
        let record = held.record.clone();
        let freed = match held.keep(self.receiver.free(&record)).await {
            Ok(Ok(())) => held.end().await,
            Ok(Err(error)) => Err(store_trouble(&error)),
            Err(status) => Err(status),
        };
        if let Err(status) = freed {
            freed_later(&status);
            held.let_go().await;
        }
    }
}

fn damaged() -> Refusal {
    Refusal::failed_precondition(
        "UPLOAD_DAMAGED",
        "what the store holds of this upload is not what was sent: send the file again, as a new upload",
    )
}

fn is_transient(status: &Status) -> bool {
    let refusal = from_status(status);
    refusal.is_retryable() || matches!(status.code(), Code::Internal | Code::Unknown)
}
