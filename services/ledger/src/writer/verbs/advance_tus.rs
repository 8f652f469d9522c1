//! What has become of an upload that comes in pieces, told by the gateway that has the right to write to it.

use std::time::Duration;

use caudal_domain::{BatchId, BatchRef, FileRef, Refusal, TenantId};
use uuid::Uuid;

use super::create_tus::needs_of;
use super::lock_tus::{lock_lost, no_upload};
use crate::store::tus::{TusRow, TusState};
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Everything that moves, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct AdvanceTus {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    /// Its batch, which never changes: the file that becomes known is of it.
    pub(crate) batch: Option<BatchId>,
    pub(crate) lock: u64,
    pub(crate) ordinal: Option<u32>,
    pub(crate) length: Option<u64>,
    pub(crate) received: u64,
    pub(crate) state: TusState,
    pub(crate) facts: Vec<u8>,
    pub(crate) lifetime: Duration,
    /// `None` gives the right to write back.
    pub(crate) hold: Option<Duration>,
}

impl AdvanceTus {
    fn file(&self) -> Option<FileRef> {
        Some(FileRef::new(self.tenant, self.batch?, self.ordinal?))
    }

    /// Whether the right was given back with this very word before: the call is repeated because its answer was lost.
    fn is_done(&self, row: &TusRow) -> bool {
        self.hold.is_none()
            && (row.ordinal, row.length, row.received) == (self.ordinal, self.length, self.received)
            && row.state == self.state
            && row.facts == self.facts
    }

    /// Whether nothing goes back, and what is set stays as it was set.
    fn goes_on(&self, row: &TusRow) -> bool {
        let stays = |was: Option<u64>, is: Option<u64>| was.is_none() || was == is;
        row.batch == self.batch
            && stays(row.length, self.length)
            && stays(row.ordinal.map(u64::from), self.ordinal.map(u64::from))
            && row.received <= self.received
            && row.state <= self.state
            && self.length.is_none_or(|length| self.received <= length)
            && (self.state == TusState::Open || self.length == Some(self.received))
    }
}

impl Verb for AdvanceTus {
    type Answer = TusRow;
    const NAME: &'static str = "AdvanceTus";

    fn needs(&self) -> Needs {
        needs_of(self.tenant, self.id, self.batch, self.file())
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<TusRow>, Stop> {
        let row = group.tus(self.tenant, self.id);
        let row = row.ok_or_else(|| no_upload(self.id))?;
        if row.lock == self.lock && row.locked_until.is_none() && self.is_done(&row) {
            return Ok(Reply::Now(row));
        }
        let lost = row.lock != self.lock || row.locked_until.is_none();
        if lost && !planted!(LostLockWrites) {
            return Err(lock_lost().into());
        }
        if !self.goes_on(&row) && !planted!(LostLockWrites) {
            let words = "an upload never goes back, and its length and file stay what they are";
            return Err(Refusal::failed_precondition("UPLOAD_WENT_BACK", words).into());
        }
        let most = group.limits_of(self.tenant)?.file_bytes;
        let bytes = self.length.unwrap_or(self.received);
        if bytes > most {
            return Err(Refusal::quota_exceeded("file_bytes", most, 0, bytes).into());
        }
        if let Some(file) = self.file().filter(|_| row.ordinal.is_none()) {
            group.begin_upload(file)?;
        }
        let batch = self.batch.map(|batch| BatchRef::new(self.tenant, batch));
        let expires_at = group.now.plus(self.lifetime);
        if let Some(batch) = batch.filter(|batch| group.rows.batch(*batch).is_some()) {
            group.keep_waiting(batch, expires_at)?;
        }
        let back = (self.state == TusState::Whole).then_some(group.now);
        let row = TusRow {
            ordinal: self.ordinal,
            length: self.length,
            received: self.received,
            state: self.state,
            locked_until: self.hold.map(|hold| group.now.plus(hold)).or(back),
            expires_at,
            facts: self.facts.clone(),
            ..row
        };
        group.put_tus(row.clone());
        Ok(Reply::Now(row))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{FileState, limits};

    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::create_tus::CreateTus;
    use crate::writer::verbs::lock_tus::LockTus;

    const HOLD: Duration = Duration::from_secs(8);

    fn locked(trial: &mut Trial, create: CreateTus) -> (LockTus, AdvanceTus) {
        let row = trial.ask(create).unwrap();
        let lock = LockTus {
            tenant: row.tenant,
            id: row.id,
            hold: HOLD,
        };
        let row = trial.ask(lock).unwrap();
        let advance = AdvanceTus {
            tenant: row.tenant,
            id: row.id,
            batch: row.batch,
            lock: row.lock,
            ordinal: row.ordinal,
            length: row.length,
            received: 4,
            state: TusState::Open,
            facts: vec![1],
            lifetime: Duration::from_secs(60),
            hold: Some(HOLD),
        };
        (lock, advance)
    }

    // Else: a gateway that slept tells of an offset that another has passed.
    #[test]
    fn a_gateway_whose_lock_was_given_to_another_writes_nothing_more() {
        let mut trial = Trial::new();
        let create = trial.tus(None);
        let (lock, advance) = locked(&mut trial, create);
        assert_eq!(trial.ask(advance.clone()).unwrap().received, 4);
        trial.pass(HOLD);
        trial.ask(lock).unwrap();
        let before = trial.everything();
        let refusal = trial.ask(advance.clone()).unwrap_err();
        assert_eq!(refusal.reason, "UPLOAD_LOCK_LOST");
        assert_eq!(trial.everything(), before);
        let back = AdvanceTus {
            lock: 2,
            hold: None,
            ..advance.clone()
        };
        let given_back = trial.ask(back.clone()).unwrap();
        // Its answer was lost.
        assert_eq!(trial.ask(back).unwrap(), given_back);
        let late = AdvanceTus { lock: 2, ..advance };
        assert_eq!(trial.ask(late).unwrap_err().reason, "UPLOAD_LOCK_LOST");
    }

    // Protocol 12.3: an upload that goes on, or rests as long as it may, is not given up as never arrived.
    #[test]
    fn a_batch_waits_for_an_upload_as_long_as_that_may_rest() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let create = trial.tus(Some(file));
        let (_, advance) = locked(&mut trial, create);
        let lifetime = limits::UPLOAD_DEADLINE * 3;
        trial
            .ask(AdvanceTus {
                lifetime,
                ..advance
            })
            .unwrap();
        trial.pass(limits::UPLOAD_DEADLINE * 2);
        trial.settle_missing(&[file], true);
        assert_eq!(trial.row(file).state, FileState::Uploading);
        trial.pass(limits::UPLOAD_DEADLINE * 2);
        trial.settle_missing(&[file], true);
        assert_eq!(trial.row(file).state, FileState::Failed);
    }

    #[test]
    fn an_upload_never_goes_back_and_its_length_stays() {
        let mut trial = Trial::new();
        let create = CreateTus {
            length: Some(10),
            ..trial.tus(None)
        };
        let (_, advance) = locked(&mut trial, create);
        trial.ask(advance.clone()).unwrap();
        let refused = |trial: &mut Trial, advance: AdvanceTus| {
            trial.ask(advance).err().map(|refusal| refusal.reason)
        };
        let wrong = [
            AdvanceTus {
                received: 3,
                ..advance.clone()
            },
            AdvanceTus {
                received: 11,
                ..advance.clone()
            },
            AdvanceTus {
                length: Some(11),
                ..advance.clone()
            },
            AdvanceTus {
                length: None,
                ..advance.clone()
            },
            AdvanceTus {
                state: TusState::Whole,
                ..advance.clone()
            },
        ];
        for wrong in wrong {
            assert_eq!(refused(&mut trial, wrong), Some("UPLOAD_WENT_BACK"));
        }
        let whole = AdvanceTus {
            received: 10,
            state: TusState::Whole,
            ..advance
        };
        assert_eq!(refused(&mut trial, whole), None);
    }

    // Protocol 12.2, for a file that enters the manifest when its length is told.
    #[test]
    fn a_file_that_becomes_known_while_its_bytes_come_is_uploading() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let file = trial.add(batch, 1)[0];
        let create = CreateTus {
            batch: Some(file.batch),
            ..trial.tus(None)
        };
        let (_, advance) = locked(&mut trial, create);
        let known = AdvanceTus {
            ordinal: Some(file.ordinal),
            length: Some(10),
            ..advance
        };
        trial.ask(known).unwrap();
        assert_eq!(trial.row(file).state, FileState::Uploading);
    }
}
