//! Gives one gateway the right to write to an upload.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId};
use uuid::Uuid;

use crate::store::tus::{TusRow, TusState};
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// The right to write, for a time. Whoever had it before has it no more: its number has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockTus {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) hold: Duration,
}

/// What is answered for an upload that is not there, or another tenant's.
pub(crate) fn no_upload(id: Uuid) -> Refusal {
    Refusal::not_found(&format!("files/{id}"))
}

/// What a gateway is told whose right to write has gone to another.
pub(super) fn lock_lost() -> Refusal {
    Refusal::aborted(
        "UPLOAD_LOCK_LOST",
        "another request writes to this upload now",
    )
}

impl Verb for LockTus {
    type Answer = TusRow;
    const NAME: &'static str = "LockTus";

    fn needs(&self) -> Needs {
        Needs {
            tus: Some((self.tenant, self.id)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<TusRow>, Stop> {
        let row = group.tus(self.tenant, self.id);
        let mut row = row.ok_or_else(|| no_upload(self.id))?;
        if let Some(until) = row.locked_until
            && until > group.now
            && !planted!(LockTakenAway)
        {
            let words = "another request writes to this upload: try again when it has ended";
            let refusal = Refusal::aborted("UPLOAD_LOCKED", words);
            return Err(refusal.with_retry_after(until.since(group.now)).into());
        }
        if row.state == TusState::Done {
            return Ok(Reply::Now(row));
        }
        row.lock += 1;
        row.locked_until = Some(group.now.plus(self.hold));
        group.put_tus(row.clone());
        Ok(Reply::Now(row))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::writer::trial::Trial;

    #[test]
    fn one_gateway_writes_at_a_time_and_another_as_soon_as_the_lock_of_a_dead_one_has_run_out() {
        let mut trial = Trial::new();
        let create = trial.tus(None);
        let lock = LockTus {
            tenant: create.tenant,
            id: create.id,
            hold: Duration::from_secs(8),
        };
        assert_eq!(trial.ask(lock).unwrap_err().reason, "NOT_FOUND");
        trial.ask(create).unwrap();
        assert_eq!(trial.ask(lock).unwrap().lock, 1);
        let refusal = trial.ask(lock).unwrap_err();
        assert_eq!(refusal.reason, "UPLOAD_LOCKED");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(8)));
        trial.pass(Duration::from_secs(8));
        assert_eq!(trial.ask(lock).unwrap().lock, 2);
    }
}
