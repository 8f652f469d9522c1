//! Forgets an upload that came in pieces.

use caudal_domain::TenantId;
use uuid::Uuid;

use super::lock_tus::lock_lost;
use crate::store::tus::TusState;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// The upload, and the right to write under which it ends: nobody needs one to forget an upload that is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndTus {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) lock: u64,
}

impl Verb for EndTus {
    type Answer = ();
    const NAME: &'static str = "EndTus";

    fn needs(&self) -> Needs {
        Needs {
            tus: Some((self.tenant, self.id)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let Some(row) = group.tus(self.tenant, self.id) else {
            return Ok(Reply::Now(()));
        };
        if row.state != TusState::Done && row.lock != self.lock {
            return Err(lock_lost().into());
        }
        group.effects.tus.insert((self.tenant, self.id), None);
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verbs::lock_tus::LockTus;

    #[test]
    fn an_upload_is_forgotten_by_whoever_may_write_to_it_and_no_other() {
        let mut trial = Trial::new();
        let create = trial.tus(None);
        let (tenant, id) = (create.tenant, create.id);
        trial.ask(create).unwrap();
        let hold = Duration::from_secs(8);
        trial.ask(LockTus { tenant, id, hold }).unwrap();
        let end = |lock| EndTus { tenant, id, lock };
        assert_eq!(trial.ask(end(0)).unwrap_err().reason, "UPLOAD_LOCK_LOST");
        trial.ask(end(1)).unwrap();
        assert!(trial.read(|tables| tables.tus.is_empty()));
        // Repeated, because the answer was lost.
        trial.ask(end(1)).unwrap();
    }
}
