//! The faces of the ledger: handlers check and translate; what is to be done the writer decides. A lease of a later hop is
//! the exception: it is granted from memory in `mesh.rs`, so that it need not wait for the writer.

pub(crate) mod batches;
mod bounds;
pub(crate) mod entries;
pub(crate) mod events;
mod failure;
mod failures;
pub(crate) mod files;
mod history;
pub(crate) mod key_uses;
pub(crate) mod mesh;
pub(crate) mod operations;
mod operator;
pub(crate) mod page_token;
mod stages;
mod tenancy;
mod tus;
pub(crate) mod uploads;
pub(crate) mod versions;
mod words;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{BatchId, BatchRef, FieldViolation, FileRef, Refusal, TenantId, names};
use caudal_node::scope::{self, MeshSecret, Role, Scope};
use caudal_proto::convert::leave_out_words;
use caudal_proto::v1;
use prost::Message;
use sea_orm::DbErr;
use sha2::{Digest, Sha256};
use tonic::Request;
use uuid::Uuid;

use self::bounds::Bounded;
use self::failure::Failure;
use self::key_uses::KeyUses;
use self::page_token::{Paged, Pages};
use self::versions::Versions;
use crate::active_writer::ActiveWriter;
use crate::memory::lease_cache::LeaseCache;
use crate::memory::stages::Stages;
use crate::metrics::LedgerMetrics;
use crate::settings::{DispatchWindows, TenantLimits};
use crate::signals::Signals;
use crate::store::{Store, manifest};
use crate::waits::Waits;
use crate::writer::audited::{Act, Actor};
use crate::writer::request_key::RequestKey;

/// What every face shares.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) store: Arc<Store>,
    pub(crate) writer: ActiveWriter,
    pub(crate) reconcile: Arc<tokio::sync::Notify>,
    pub(crate) lease: Duration,
    pub(crate) upload_deadline: Duration,
    pub(crate) leases: LeaseCache,
    pub(crate) waits: Waits,
    pub(crate) stages: Stages,
    pub(crate) versions: Versions,
    pub(crate) operations: Signals,
    pub(crate) windows: DispatchWindows,
    pub(crate) metrics: LedgerMetrics,
    /// The secrets of keys are made with it.
    pub(crate) mesh_secret: MeshSecret,
    /// Limits of tenants that have none of their own.
    pub(crate) tenant_limits: TenantLimits,
    pub(crate) key_uses: KeyUses,
}

/// How long a read may take that goes through many rows.
const LONG_READ: Duration = Duration::from_secs(60);

/// A read that takes longer than it may is given up: whoever asks may ask for less.
async fn within_time<T, E>(read: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    within(LONG_READ, read).await
}

async fn within<T, E>(
    time: Duration,
    read: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure>
where
    Failure: From<E>,
{
    match tokio::time::timeout(time, read).await {
        Ok(read) => Ok(read?),
        Err(_) => {
            let words = format!(
                "this looks at too many files to be answered within {} s: ask for a batch, a folder, states or ordinals",
                time.as_secs()
            );
            Err(Refusal::exhausted("READ_TOO_LONG", words).into())
        }
    }
}

impl Ledger {
    /// Which of these files the caller does not know: who comes with an upload token knows what was added with it, and
    /// everybody else the whole batch.
    async fn foreign_to(
        &self,
        scope: &TenantScope,
        batch: BatchRef,
        ordinals: Vec<u32>,
    ) -> Result<HashSet<u32>, DbErr> {
        let Some(token) = scope.token() else {
            return Ok(HashSet::new());
        };
        let session = self.store.reader_of(scope.tenant);
        let files: Vec<FileRef> = ordinals
            .iter()
            .map(|ordinal| batch.file(*ordinal))
            .collect();
        let own = manifest::added_with(&session, token, &files).await?;
        Ok(ordinals
            .into_iter()
            .filter(|ordinal| !own.contains(&batch.file(*ordinal)))
            .collect())
    }

    /// The pages of what is asked for in a tenant, or over all.
    fn pages<'a, R: Paged>(&'a self, whose: Option<TenantId>, request: &'a R) -> Pages<'a> {
        Pages::of(&self.mesh_secret, whose, request)
    }
}

/// A caller who works inside one tenant: every query of the public services takes it, so that none can forget it.
#[derive(Clone, Debug)]
pub(crate) struct TenantScope {
    pub(crate) tenant: TenantId,
    pub(crate) principal: String,
    pub(crate) role: Role,
    pub(crate) actor: Actor,
    only: Option<BatchId>,
}

impl TenantScope {
    /// The caller's, once it is known that the request holds no more than it may.
    pub(crate) fn of<T: Bounded>(request: &Request<T>) -> Result<Self, Failure> {
        let scope: &Scope = scope::of(request)?;
        let tenant = scope.require_tenant()?;
        bounds::check(request.get_ref())?;
        Ok(Self {
            tenant,
            principal: scope.principal.clone(),
            role: scope.role,
            actor: Actor {
                words: scope.principal.clone(),
                key_id: scope.key_id.clone(),
            },
            only: scope.batch,
        })
    }

    /// The batch of a name, if this caller may see it: a foreign name and an unknown one answer alike.
    pub(crate) fn batch(&self, field: &str, name: &str) -> Result<BatchId, Refusal> {
        let batch = names::parse_batch_name(name).map_err(|error| error.refusal(field))?;
        self.check(batch, name)?;
        Ok(batch)
    }

    /// A batch of this tenant.
    pub(crate) fn batch_ref(&self, batch: BatchId) -> BatchRef {
        BatchRef::new(self.tenant, batch)
    }

    pub(crate) fn check(&self, batch: BatchId, name: &str) -> Result<(), Refusal> {
        if self.only.is_some_and(|only| only != batch) {
            return Err(Refusal::not_found(name));
        }
        Ok(())
    }

    /// What this caller does, as the audit keeps it.
    pub(crate) fn act(&self, call: &'static str, target: &str) -> Act {
        Act {
            id: Uuid::now_v7(),
            actor: self.actor.clone(),
            tenant: Some(self.tenant),
            call,
            target: target.to_owned(),
            detail: String::new(),
        }
    }

    /// The same, of acts that only those of admins are written down of.
    pub(crate) fn act_of_admin(&self, call: &'static str, target: &str) -> Option<Act> {
        (self.role == Role::Admin).then(|| self.act(call, target))
    }

    /// A batch as this caller may see it. A gateway that follows one for all who watch it sees all, and leaves out itself.
    pub(crate) fn shown(&self, mut batch: v1::Batch) -> v1::Batch {
        if self.token().is_some() {
            leave_out_words(&mut batch);
        }
        batch
    }

    /// The upload token that the caller comes with.
    pub(crate) fn token(&self) -> Option<&str> {
        (self.role == Role::Uploader).then_some(self.actor.key_id.as_str())
    }

    /// Whether the credential is good for one batch only.
    pub(crate) fn knows_one_batch(&self) -> bool {
        self.only.is_some()
    }

    /// A credential for one batch makes and lists none.
    pub(crate) fn require_whole_tenant(&self) -> Result<(), Refusal> {
        if self.only.is_some() {
            return Err(Refusal::permission_denied(
                "this credential is good for one batch only",
            ));
        }
        Ok(())
    }
}

/// The key under which a mutation's answer is kept.
pub(crate) fn request_key(
    method: &'static str,
    request_id: &str,
    body: &impl Message,
) -> Result<RequestKey, Refusal> {
    let id = Uuid::try_parse(request_id).map_err(|_| {
        let description =
            "must be a UUID made by the client before the first send, e.g. from `uuidgen`";
        Refusal::invalid_fields(vec![FieldViolation::new("request_id", description)])
    })?;
    Ok(RequestKey {
        id,
        method,
        body_hash: Sha256::digest(body.encode_to_vec()).into(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[tokio::test]
    async fn a_read_that_takes_too_long_is_given_up_with_words() {
        let endless = std::future::pending::<Result<(), Refusal>>();
        let failure = within(Duration::ZERO, endless).await.err().unwrap();
        let words = tonic::Status::from(failure);
        assert_eq!(words.code(), tonic::Code::ResourceExhausted);
        assert!(words.message().contains("ask for a batch"), "{words:?}");
        let read = within_time(async { Ok::<_, Refusal>(7) }).await;
        assert_eq!(read.ok(), Some(7));
    }
}
