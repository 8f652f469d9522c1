//! Changes what may be changed of a batch.

use caudal_domain::BatchRef;
use caudal_proto::v1::Batch;

use crate::store::progress::Renamed;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// The changes; what is `None` stays.
#[derive(Clone, Debug)]
pub(crate) struct UpdateBatch {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    pub(crate) changes: Renamed,
}

impl Verb for UpdateBatch {
    type Answer = Batch;
    const NAME: &'static str = "UpdateBatch";

    fn needs(&self) -> Needs {
        Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        group.batch(self.batch)?;
        let batch = group.rows.batch_mut(self.batch)?;
        if let Some(priority) = self.changes.priority {
            batch.row.priority = priority;
        }
        batch.touched = true;
        // Of two changes in one group the later one wins where both say something.
        let earlier = batch.renamed.take().unwrap_or_default();
        batch.renamed = Some(self.changes.clone().or(earlier));
        Ok(Reply::batch(self.batch, &self.request))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchId, RefusalKind};
    use uuid::Uuid;

    use super::*;
    use crate::writer::trial::Trial;
    use crate::writer::verb::Request;

    fn named(name: &str) -> Renamed {
        Renamed {
            name: Some(name.into()),
            ..Renamed::default()
        }
    }

    #[test]
    fn two_changes_in_one_group_are_merged_and_the_later_one_wins() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let both = Renamed {
            priority: Some(7),
            metadata: Some(Some("{}".into())),
            ..named("second")
        };
        let mut update = |changes| UpdateBatch {
            batch,
            request: trial.request(),
            changes,
        };
        let (first, _answer) = Request::new(update(both));
        let (second, mut answer) = Request::new(update(named("third")));
        trial.group(vec![first, second]);
        let answer = answer.try_recv().unwrap().unwrap();
        assert_eq!(
            (answer.display_name.as_str(), answer.priority),
            ("third", 7)
        );
        let (progress, cold) = trial.read(|tables| (*tables.batches[&batch]).clone());
        assert_eq!((cold.name.as_str(), cold.priority), ("third", 7));
        assert_eq!(
            (cold.metadata.as_deref(), progress.priority),
            (Some("{}"), 7)
        );
    }

    #[test]
    fn a_repeated_change_is_not_made_again() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let update = UpdateBatch {
            batch,
            request: trial.request(),
            changes: named("second"),
        };
        let first = trial.ask(update.clone()).unwrap();
        let request = trial.request();
        let changes = named("third");
        trial
            .ask(UpdateBatch {
                request,
                changes,
                ..update.clone()
            })
            .unwrap();
        let before = trial.everything();
        assert_eq!(trial.ask(update).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_batch_that_is_not_there_is_not_changed() {
        let mut trial = Trial::new();
        let update = UpdateBatch {
            batch: BatchRef::new(trial.tenant, BatchId::from_uuid(Uuid::from_u128(9))),
            request: trial.request(),
            changes: named("second"),
        };
        let before = trial.everything();
        assert_eq!(trial.ask(update).unwrap_err().kind, RefusalKind::NotFound);
        assert_eq!(trial.everything(), before);
    }
}
