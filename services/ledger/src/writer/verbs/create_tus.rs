//! Remembers an upload that comes in pieces through gateways.

use std::time::Duration;

use caudal_domain::{BatchId, BatchRef, FileEvent, FileRef, FileState, Refusal, TenantId, limits};
use uuid::Uuid;

use crate::store::tus::{TusRow, TusState, UnderWay};
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// An upload that is begun. What its tenant had under way just before comes along: a bound that a few who begin at once may
/// pass by as many.
#[derive(Clone, Debug)]
pub(crate) struct CreateTus {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) batch: Option<BatchId>,
    pub(crate) ordinal: Option<u32>,
    pub(crate) length: Option<u64>,
    pub(crate) facts: Vec<u8>,
    pub(crate) lifetime: Duration,
    pub(crate) under_way: UnderWay,
}

impl CreateTus {
    fn file(&self) -> Option<FileRef> {
        Some(FileRef::new(self.tenant, self.batch?, self.ordinal?))
    }
}

/// What a verb needs that may begin the file of an upload.
pub(super) fn needs_of(
    tenant: TenantId,
    id: Uuid,
    batch: Option<BatchId>,
    file: Option<FileRef>,
) -> Needs {
    Needs {
        files: file.into_iter().collect(),
        batch: batch.map(|batch| BatchRef::new(tenant, batch)),
        tenant: Some(tenant),
        tus: Some((tenant, id)),
        ..Needs::default()
    }
}

impl Verb for CreateTus {
    type Answer = TusRow;
    const NAME: &'static str = "CreateTus";

    fn needs(&self) -> Needs {
        needs_of(self.tenant, self.id, self.batch, self.file())
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<TusRow>, Stop> {
        if let Some(row) = group.tus(self.tenant, self.id) {
            return Ok(Reply::Now(row));
        }
        if let Some(batch) = self.batch {
            group.batch_in_force(BatchRef::new(self.tenant, batch))?;
        }
        let bytes = self.length.unwrap_or(0);
        let limits = group.limits_of(self.tenant)?;
        if bytes > limits.file_bytes {
            let refusal = Refusal::quota_exceeded("file_bytes", limits.file_bytes, 0, bytes);
            return Err(refusal.into());
        }
        let most = u64::from(limits::MAX_TUS_UPLOADS);
        if self.under_way.uploads >= most {
            let used = self.under_way.uploads;
            return Err(Refusal::quota_exceeded("tus_uploads", most, used, 1).into());
        }
        let used = group
            .used_bytes(self.tenant)
            .saturating_add(self.under_way.bytes);
        if self.ordinal.is_none() && used.saturating_add(bytes) > limits.stored_bytes {
            let most = limits.stored_bytes;
            return Err(Refusal::quota_exceeded("stored_bytes", most, used, bytes).into());
        }
        if let Some(file) = self.file() {
            group.begin_upload(file)?;
        }
        let row = TusRow {
            tenant: self.tenant,
            id: self.id,
            batch: self.batch,
            ordinal: self.ordinal,
            length: self.length,
            received: 0,
            state: TusState::Open,
            lock: 0,
            locked_until: None,
            expires_at: group.now.plus(self.lifetime),
            facts: self.facts.clone(),
        };
        group.put_tus(row.clone());
        Ok(Reply::Now(row))
    }
}

impl Group<'_> {
    /// An upload through gateways, as this group has left it so far.
    pub(super) fn tus(&self, tenant: TenantId, id: Uuid) -> Option<TusRow> {
        match self.effects.tus.get(&(tenant, id)) {
            Some(left) => left.clone(),
            None => self.loaded.tus.get(&(tenant, id)).cloned(),
        }
    }

    pub(super) fn put_tus(&mut self, row: TusRow) {
        self.effects.tus.insert((row.tenant, row.id), Some(row));
    }

    /// The bytes of a file have begun to come: PENDING becomes UPLOADING, and its token stays (protocol 12.2).
    pub(super) fn begin_upload(&mut self, file: FileRef) -> Result<(), GroupError> {
        let row = self.rows.file(file);
        if row.is_some_and(|row| row.state == FileState::Pending) {
            self.step(file, FileEvent::UploadBegun)?;
            self.touch(file.batch_ref())?;
        }
        Ok(())
    }

    fn used_bytes(&self, tenant: TenantId) -> u64 {
        self.rows.tenant(tenant).map_or(0, |row| row.used_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::Token;

    use super::*;
    use crate::writer::trial::Trial;

    // Protocol 12.2: PENDING -> UPLOADING does not raise the token.
    #[test]
    fn a_file_whose_upload_is_begun_is_uploading_under_its_old_token_and_is_confirmed_like_any_other()
     {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let create = trial.tus(Some(file));
        trial.ask(create).unwrap();
        let row = trial.row(file);
        assert_eq!(
            (row.state, row.token),
            (FileState::Uploading, Token::new(1))
        );
        assert_eq!(trial.progress(batch).facts.counts.uploading, 1);
        trial.confirm(&[file]);
        assert_eq!(trial.row(file).state, FileState::Queued);
    }

    #[test]
    fn an_upload_is_begun_once_however_often_it_is_asked_for() {
        let mut trial = Trial::new();
        let create = trial.tus(None);
        let first = trial.ask(create.clone()).unwrap();
        let before = trial.everything();
        assert_eq!(trial.ask(create).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn what_stands_in_no_manifest_is_held_against_the_quotas_too() {
        let mut trial = Trial::new();
        trial.limit(r#"{"stored_bytes": 100, "file_bytes": 60}"#);
        let refused = |trial: &mut Trial, length, bytes| {
            let create = CreateTus {
                length: Some(length),
                under_way: UnderWay { uploads: 1, bytes },
                ..trial.tus(None)
            };
            let refusal = trial.ask(create).err()?;
            Some(refusal.quota[0].subject.clone())
        };
        assert_eq!(refused(&mut trial, 61, 0).as_deref(), Some("file_bytes"));
        assert_eq!(refused(&mut trial, 50, 51).as_deref(), Some("stored_bytes"));
        assert_eq!(refused(&mut trial, 50, 50), None);
        let many = CreateTus {
            under_way: UnderWay {
                uploads: u64::from(limits::MAX_TUS_UPLOADS),
                bytes: 0,
            },
            ..trial.tus(None)
        };
        assert_eq!(trial.ask(many).unwrap_err().quota[0].subject, "tus_uploads");
    }

    #[test]
    fn a_cancelled_batch_begins_no_upload() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        trial.cancel(batch);
        let create = trial.tus(Some(file));
        assert_eq!(trial.ask(create).unwrap_err().reason, "BATCH_CANCELLED");
    }
}
