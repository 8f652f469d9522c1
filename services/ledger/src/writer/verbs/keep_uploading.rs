//! Notes that a client asks where bytes go: however long it sends them, the batch waits for them (protocol 12.3).

use caudal_domain::BatchRef;

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// A batch to which somebody sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepUploading {
    pub(crate) batch: BatchRef,
}

impl Verb for KeepUploading {
    type Answer = ();
    const NAME: &'static str = "KeepUploading";

    fn needs(&self) -> Needs {
        Needs {
            batch: Some(self.batch),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        group.batch_in_force(self.batch)?;
        group.touch(self.batch)?;
        Ok(Reply::Now(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::{FileState, Reason, limits};

    use super::*;
    use crate::writer::trial::Trial;

    // Protocol 12.3.
    #[test]
    fn a_batch_whose_client_asks_where_its_bytes_go_waits_for_them_however_long_they_take() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        for _ in 0..3 {
            trial.pass(limits::UPLOAD_DEADLINE - Duration::from_secs(1));
            trial.settle_missing(&files, true);
            assert_eq!(trial.row(files[0]).state, FileState::Pending);
            trial.ask(KeepUploading { batch }).unwrap();
        }
        trial.pass(limits::UPLOAD_DEADLINE + Duration::from_secs(1));
        trial.settle_missing(&files, true);
        assert_eq!(trial.letter(files[0]), Some(Reason::NeverArrived));
    }

    // Protocol 10.2.
    #[test]
    fn a_cancelled_batch_waits_for_nothing_more() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.add(batch, 1);
        trial.cancel(batch);
        let before = trial.everything();
        let refused = trial.ask(KeepUploading { batch }).unwrap_err();
        assert_eq!(refused.reason, "BATCH_CANCELLED");
        assert_eq!(trial.everything(), before);
    }
}
