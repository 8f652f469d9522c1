//! An upload as the ledger keeps it, and the right to write to it.

use std::time::{Duration, Instant};

use caudal_domain::limits::TUS_LOCK;
use caudal_domain::{BatchId, Refusal, TenantId, keys};
use caudal_node::scope::Scope;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::status::to_status;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::ledger::{Ledger, Signed, passed_on};

/// How often the right to write is renewed while it holds: two renewals may fail.
const RENEWALS: u32 = 3;

/// An upload as the ledger told it last.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) tenant: TenantId,
    pub(super) batch: Option<BatchId>,
    pub(super) lock: u64,
    pub(super) expires_in: Duration,
    pub(super) now: Progress,
}

/// Everything of it that moves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    pub(super) ordinal: Option<u32>,
    pub(super) length: Option<u64>,
    pub(super) received: u64,
    pub(super) state: mesh::TusState,
    pub(super) facts: mesh::TusFacts,
}

impl Progress {
    pub(super) fn is_whole(&self) -> bool {
        self.length == Some(self.received)
    }

    pub(super) fn part_size(&self) -> u64 {
        u64::try_from(self.facts.part_size).unwrap_or(1).max(1)
    }

    /// How many parts are in the store.
    pub(super) fn parts(&self) -> u64 {
        let part = self.part_size();
        match self.is_whole() {
            true => self.received.div_ceil(part),
            false => self.received / part,
        }
    }

    /// Bytes that fill no part yet, and stand in an object of their own.
    pub(super) fn tail_bytes(&self) -> u64 {
        match self.facts.tail {
            0 => 0,
            _ => self.received % self.part_size(),
        }
    }

    pub(super) fn is_partial(&self) -> bool {
        self.facts.concat == "partial"
    }

    pub(super) fn is_final(&self) -> bool {
        self.facts.concat.starts_with("final")
    }
}

impl Record {
    fn of(told: &mesh::TusUpload) -> Result<Self, Status> {
        let read = || {
            let batch = match told.batch.is_empty() {
                true => None,
                false => Some(BatchId::from_slice(&told.batch).ok()?),
            };
            Some(Self {
                id: Uuid::from_slice(&told.upload).ok()?,
                tenant: TenantId::from_slice(&told.tenant).ok()?,
                batch,
                lock: told.lock,
                expires_in: Duration::from_millis(u64::try_from(told.expires_in_ms).ok()?),
                now: Progress {
                    ordinal: told.ordinal,
                    length: told.length.map(u64::try_from).transpose().ok()?,
                    received: u64::try_from(told.received).ok()?,
                    state: told.state(),
                    facts: told.facts.clone()?,
                },
            })
        };
        read().ok_or_else(|| {
            tracing::error!("the ledger told of an upload what makes no sense");
            to_status(&Refusal::internal())
        })
    }

    pub(super) fn bytes_key(&self) -> String {
        keys::tus_bytes_key(self.tenant, self.id)
    }

    pub(super) fn tail_key(&self, number: u64) -> String {
        keys::tus_tail_key(self.tenant, self.id, number)
    }

    pub(super) fn prefix(&self) -> String {
        keys::tus_prefix(self.tenant, self.id)
    }

    pub(super) fn is_expired(&self) -> bool {
        self.expires_in.is_zero()
    }

    /// Of what is written in its name when nobody calls.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            tenant: Some(self.tenant),
            principal: "gateway".to_owned(),
            role: caudal_node::scope::Role::Member,
            batch: None,
            key_id: String::new(),
        }
    }
}

/// The records of uploads, and how long they live.
#[derive(Clone)]
pub(super) struct Records {
    pub(super) ledger: Ledger,
    pub(super) lifetime: Duration,
}

impl Records {
    async fn ask<T, A, F>(
        &self,
        scope: &Scope,
        request: T,
        call: impl Fn(LedgerServiceClient<Signed>, Request<T>) -> F,
    ) -> Result<A, Status>
    where
        T: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let asked = self.ledger.call(scope, request, |ledger, request| {
            call(ledger.mesh(), request)
        });
        asked.await.map_err(|status| passed_on(&status))
    }

    pub(super) async fn create(
        &self,
        scope: &Scope,
        id: Uuid,
        batch: Option<BatchId>,
        now: &Progress,
    ) -> Result<Record, Status> {
        let batch = batch.map(|batch| batch.as_bytes().to_vec());
        let request = mesh::CreateTusRequest {
            upload: id.as_bytes().to_vec().into(),
            batch: batch.unwrap_or_default().into(),
            ordinal: now.ordinal,
            length: now.length.map(signed),
            facts: Some(now.facts.clone()),
            lifetime_ms: milliseconds(self.lifetime),
        };
        Record::of(
            &self
                .ask(scope, request, |mut mesh, request| async move {
                    mesh.create_tus(request).await
                })
                .await?,
        )
    }

    pub(super) async fn get(&self, scope: &Scope, id: Uuid) -> Result<Record, Status> {
        let request = mesh::GetTusRequest {
            upload: id.as_bytes().to_vec().into(),
        };
        Record::of(
            &self
                .ask(scope, request, |mut mesh, request| async move {
                    mesh.get_tus(request).await
                })
                .await?,
        )
    }

    /// Takes the right to write. An upload that is done is only told.
    pub(super) async fn lock(&self, scope: &Scope, id: Uuid) -> Result<Held, Status> {
        let request = mesh::LockTusRequest {
            upload: id.as_bytes().to_vec().into(),
            hold_ms: milliseconds(TUS_LOCK),
        };
        let since = Instant::now();
        let record = Record::of(
            &self
                .ask(scope, request, |mut mesh, request| async move {
                    mesh.lock_tus(request).await
                })
                .await?,
        )?;
        Ok(Held {
            records: self.clone(),
            scope: scope.clone(),
            record,
            renewed: since,
        })
    }

    pub(super) async fn end(&self, scope: &Scope, record: &Record) -> Result<(), Status> {
        let request = mesh::EndTusRequest {
            upload: record.id.as_bytes().to_vec().into(),
            lock: record.lock,
        };
        self.ask(scope, request, |mut mesh, request| async move {
            mesh.end_tus(request).await
        })
        .await
        .map(|_| ())
    }

    pub(super) async fn due(&self, count: u32) -> Result<Vec<Record>, Status> {
        let scope = Scope::service("gateway");
        let request = mesh::ListDueTusRequest { count };
        let listed = self
            .ask(&scope, request, |mut mesh, request| async move {
                mesh.list_due_tus(request).await
            })
            .await?;
        listed
            .uploads
            .into_iter()
            .map(|told| Record::of(&told))
            .collect()
    }
}

/// The right to write to an upload. Whoever holds it keeps it by [`Held::keep`], and gives it back at the end.
pub(super) struct Held {
    records: Records,
    pub(super) scope: Scope,
    pub(super) record: Record,
    renewed: Instant,
}

impl Held {
    /// Does something that takes its time, and keeps the right meanwhile.
    ///
    /// # Errors
    /// The right was lost: what was being done was given up.
    pub(super) async fn keep<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Status> {
        let mut work = std::pin::pin!(work);
        if self.record.now.state == mesh::TusState::Done {
            return Ok(work.await);
        }
        loop {
            let due = self.renewed + TUS_LOCK / RENEWALS;
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.advance(self.record.now.clone()).await?;
        }
    }

    /// Writes how far it is, and keeps the right to write.
    pub(super) async fn advance(&mut self, now: Progress) -> Result<(), Status> {
        self.write(now, TUS_LOCK).await
    }

    /// Writes how far it is, and gives the right to write back.
    pub(super) async fn release(&mut self, now: Progress) -> Result<(), Status> {
        self.write(now, Duration::ZERO).await
    }

    async fn write(&mut self, now: Progress, hold: Duration) -> Result<(), Status> {
        let request = mesh::AdvanceTusRequest {
            upload: self.record.id.as_bytes().to_vec().into(),
            lock: self.record.lock,
            ordinal: now.ordinal,
            length: now.length.map(signed),
            received: signed(now.received),
            state: now.state.into(),
            facts: Some(now.facts),
            lifetime_ms: milliseconds(self.records.lifetime),
            hold_ms: milliseconds(hold),
        };
        let since = Instant::now();
        let scope = &self.scope;
        self.record = Record::of(
            &self
                .records
                .ask(scope, request, |mut mesh, request| async move {
                    mesh.advance_tus(request).await
                })
                .await?,
        )?;
        self.renewed = since;
        Ok(())
    }

    /// Gives the right to write back where nothing has moved. If it does not get through, the right runs out by itself.
    pub(super) async fn let_go(mut self) {
        let now = self.record.now.clone();
        if now.state == mesh::TusState::Done {
            return;
        }
        if let Err(status) = self.release(now).await {
            tracing::warn!(error = %status, "the right to write to an upload was not given back: it runs out by itself");
        }
    }

    /// Forgets the upload.
    pub(super) async fn end(&self) -> Result<(), Status> {
        self.records.end(&self.scope, &self.record).await
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
