//! Uploads that come in pieces through gateways: what `caudal.mesh.v1.LedgerService` says of them. The bytes are the
//! gateways' business; here stands who may write, how far they are, and which file they become.

use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{BatchId, Refusal, limits, names};
use caudal_proto::convert::batch_from_bytes;
use caudal_proto::mesh::v1 as mesh;
use prost::Message;
use tonic::Request;
use uuid::Uuid;

use super::bounds;
use super::failure::Failure;
use super::{Ledger, TenantScope};
use crate::store::time::Micros;
use crate::store::tus::{self, TusRow, TusState};
use crate::writer::verbs::advance_tus::AdvanceTus;
use crate::writer::verbs::create_tus::CreateTus;
use crate::writer::verbs::end_tus::EndTus;
use crate::writer::verbs::lock_tus::{LockTus, no_upload};

impl Ledger {
    pub(super) async fn begin_tus(
        &self,
        request: Request<mesh::CreateTusRequest>,
    ) -> Result<mesh::TusUpload, Failure> {
        let scope = TenantScope::of(&request)?;
        let message = request.into_inner();
        let batch = optional_batch(&message.batch)?;
        if let Some(batch) = batch {
            scope.check(batch, &names::batch_name(batch))?;
        } else {
            scope.require_whole_tenant()?;
        }
        let ordinal = message.ordinal.into_iter().collect();
        if let Some(batch) = batch
            && let batch = scope.batch_ref(batch)
            && let Some(foreign) = self
                .foreign_to(&scope, batch, ordinal)
                .await?
                .into_iter()
                .next()
        {
            let name = names::file_name(batch.batch, foreign);
            return Err(Refusal::not_found(&name).into());
        }
        let under_way = tus::under_way(&self.store.reader_of(scope.tenant), scope.tenant).await?;
        let create = CreateTus {
            tenant: scope.tenant,
            id: upload_id(&message.upload)?,
            batch,
            ordinal: message.ordinal,
            length: optional_bytes("length", message.length)?,
            facts: facts_of(message.facts),
            lifetime: lifetime(message.lifetime_ms)?,
            under_way,
        };
        self.told(self.writer.ask(create).await?).await
    }

    pub(super) async fn read_tus(
        &self,
        request: Request<mesh::GetTusRequest>,
    ) -> Result<mesh::TusUpload, Failure> {
        let scope = TenantScope::of(&request)?;
        let row = self.tus_of(&scope, &request.get_ref().upload).await?;
        self.told(row).await
    }

    pub(super) async fn take_tus(
        &self,
        request: Request<mesh::LockTusRequest>,
    ) -> Result<mesh::TusUpload, Failure> {
        let scope = TenantScope::of(&request)?;
        let message = request.get_ref();
        let row = self.tus_of(&scope, &message.upload).await?;
        let lock = LockTus {
            tenant: scope.tenant,
            id: row.id,
            hold: hold(message.hold_ms)?.unwrap_or(limits::TUS_LOCK),
        };
        self.told(self.writer.ask(lock).await?).await
    }

    pub(super) async fn move_tus(
        &self,
        request: Request<mesh::AdvanceTusRequest>,
    ) -> Result<mesh::TusUpload, Failure> {
        let scope = TenantScope::of(&request)?;
        let message = request.into_inner();
        let row = self.tus_of(&scope, &message.upload).await?;
        let state = state_of(message.state())?;
        let received = optional_bytes("received", Some(message.received))?;
        let advance = AdvanceTus {
            tenant: scope.tenant,
            id: row.id,
            batch: row.batch,
            lock: message.lock,
            ordinal: message.ordinal,
            length: optional_bytes("length", message.length)?,
            received: received.unwrap_or_default(),
            state,
            facts: facts_of(message.facts),
            lifetime: lifetime(message.lifetime_ms)?,
            hold: hold(message.hold_ms)?,
        };
        self.told(self.writer.ask(advance).await?).await
    }

    pub(super) async fn forget_tus(
        &self,
        request: Request<mesh::EndTusRequest>,
    ) -> Result<mesh::EndTusResponse, Failure> {
        let scope = TenantScope::of(&request)?;
        let message = request.get_ref();
        let id = upload_id(&message.upload)?;
        let session = self.store.reader_of(scope.tenant);
        if let Some(row) = tus::get(&session, scope.tenant, id).await? {
            check(&scope, &row)?;
        }
        let end = EndTus {
            tenant: scope.tenant,
            id,
            lock: message.lock,
        };
        self.writer.ask(end).await?;
        Ok(mesh::EndTusResponse {})
    }

    pub(super) async fn due_tus(
        &self,
        request: Request<mesh::ListDueTusRequest>,
    ) -> Result<mesh::ListDueTusResponse, Failure> {
        caudal_node::scope::require_service(&request)?;
        bounds::check(request.get_ref())?;
        let count = request.get_ref().count;
        if count == 0 || count as usize > limits::MAX_PAGE_SIZE {
            let words = format!("1 to {} are listed at once", limits::MAX_PAGE_SIZE);
            return Err(Refusal::invalid("count", words).into());
        }
        let session = self.store.reader();
        let now = session.now().await?;
        let rows = tus::due(&session, now, count).await?;
        let uploads = rows.iter().map(|row| message_of(row, now));
        Ok(mesh::ListDueTusResponse {
            uploads: uploads.collect::<Result<_, _>>()?,
        })
    }

    /// The upload, if this caller may see it: a foreign one and an unknown one answer alike.
    async fn tus_of(&self, scope: &TenantScope, id: &[u8]) -> Result<TusRow, Failure> {
        let id = upload_id(id)?;
        let row = tus::get(&self.store.reader_of(scope.tenant), scope.tenant, id).await?;
        let row = row.ok_or_else(|| no_upload(id))?;
        check(scope, &row)?;
        Ok(row)
    }

    async fn told(&self, row: TusRow) -> Result<mesh::TusUpload, Failure> {
        let now = self.store.reader().now().await?;
        Ok(message_of(&row, now)?)
    }
}

fn check(scope: &TenantScope, row: &TusRow) -> Result<(), Refusal> {
    match row.batch {
        Some(batch) => scope
            .check(batch, &names::batch_name(batch))
            .map_err(|_| no_upload(row.id)),
        None if scope.knows_one_batch() => Err(no_upload(row.id)),
        None => Ok(()),
    }
}

fn message_of(row: &TusRow, now: Micros) -> Result<mesh::TusUpload, Refusal> {
    let facts = mesh::TusFacts::decode(row.facts.as_slice()).map_err(|error| {
        tracing::error!(%error, upload = %row.id, "what is kept of an upload cannot be read");
        Refusal::internal()
    })?;
    let state = match row.state {
        TusState::Open => mesh::TusState::Open,
        TusState::Whole => mesh::TusState::Whole,
        TusState::Done => mesh::TusState::Done,
    };
    let batch = row.batch.map(|batch| batch.as_bytes().to_vec());
    let expires_in = row.expires_at.since(now).as_millis();
    Ok(mesh::TusUpload {
        upload: Bytes::copy_from_slice(row.id.as_bytes()),
        tenant: Bytes::copy_from_slice(row.tenant.as_bytes()),
        batch: batch.unwrap_or_default().into(),
        ordinal: row.ordinal,
        length: row
            .length
            .map(|length| i64::try_from(length).unwrap_or(i64::MAX)),
        received: i64::try_from(row.received).unwrap_or(i64::MAX),
        state: state.into(),
        lock: row.lock,
        expires_in_ms: i64::try_from(expires_in).unwrap_or(i64::MAX),
        facts: Some(facts),
    })
}

fn facts_of(facts: Option<mesh::TusFacts>) -> Vec<u8> {
    facts.unwrap_or_default().encode_to_vec()
}

fn state_of(state: mesh::TusState) -> Result<TusState, Refusal> {
    match state {
        mesh::TusState::Open => Ok(TusState::Open),
        mesh::TusState::Whole => Ok(TusState::Whole),
        mesh::TusState::Done => Ok(TusState::Done),
        mesh::TusState::Unspecified => Err(Refusal::invalid("state", "says nothing")),
    }
}

fn upload_id(bytes: &[u8]) -> Result<Uuid, Refusal> {
    Uuid::from_slice(bytes).map_err(|_| Refusal::invalid("upload", "is no id"))
}

fn optional_batch(bytes: &[u8]) -> Result<Option<BatchId>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let batch = batch_from_bytes(bytes).map_err(|error| error.refusal("batch"))?;
    Ok(Some(batch))
}

fn optional_bytes(field: &str, bytes: Option<i64>) -> Result<Option<u64>, Refusal> {
    let count = |bytes| u64::try_from(bytes).map_err(|_| Refusal::invalid(field, "is negative"));
    bytes.map(count).transpose()
}

fn lifetime(milliseconds: i64) -> Result<Duration, Refusal> {
    within("lifetime_ms", milliseconds, 1)
}

fn hold(milliseconds: i64) -> Result<Option<Duration>, Refusal> {
    let hold = within("hold_ms", milliseconds, 0)?;
    Ok((!hold.is_zero()).then_some(hold))
}

fn within(field: &str, milliseconds: i64, least: u64) -> Result<Duration, Refusal> {
    let time = u64::try_from(milliseconds)
        .ok()
        .filter(|time| *time >= least);
    time.map(Duration::from_millis)
        .filter(|time| *time <= limits::MAX_TUS_LIFETIME)
        .ok_or_else(|| Refusal::invalid(field, "is no time that an upload may have"))
}
