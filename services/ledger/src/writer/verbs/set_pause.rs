//! Pauses a batch, or lets it go on (protocol 10.3).

use caudal_domain::BatchRef;
use caudal_proto::v1::{Batch, PauseSource};

use crate::store::progress::Pause;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// Whether a batch is paused from now on.
#[derive(Clone, Debug)]
pub(crate) struct SetPause {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    /// `None`: it goes on.
    pub(crate) pause: Option<NewPause>,
}

/// Who pauses a batch, and the words they leave.
#[derive(Clone, Debug)]
pub(crate) struct NewPause {
    pub(crate) who: String,
    pub(crate) note: String,
}

impl Verb for SetPause {
    type Answer = Batch;
    const NAME: &'static str = "SetPause";

    fn needs(&self) -> Needs {
        Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Batch>, Stop> {
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let was_paused = group.batch_in_force(self.batch)?.pause.is_some();
        let now = group.now;
        let batch = group.rows.batch_mut(self.batch)?;
        batch.row.pause = self.pause.as_ref().map(|pause| Pause {
            by: PauseSource::Batch as u32,
            who: pause.who.clone(),
            note: pause.note.clone(),
            at: now,
        });
        batch.pause_moved = true;
        batch.touched = true;
        if self.pause.is_none() && was_paused {
            group.let_go_on(self.batch);
        }
        Ok(Reply::batch(self.batch, &self.request))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{FileState, Stage};

    use crate::writer::trial::Trial;

    // Protocol 1.1, 10.3: what is out finishes its stage, and nothing goes out.
    #[test]
    fn in_a_paused_batch_nothing_more_goes_out_until_it_goes_on() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.confirm(&files[..1]);
        trial.pause(batch, true);
        let kept = trial.progress(batch).pause.unwrap();
        assert_eq!((kept.who.as_str(), kept.at), ("somebody", trial.now()));
        trial.confirm(&files[1..]);
        trial.tick();
        assert_eq!(trial.row(files[1]).state, FileState::Uploaded);
        // Protocol 1.3: the next hop in a report's transaction reads the same flag.
        trial.succeed(files[0]);
        let row = trial.row(files[0]);
        assert_eq!((row.stage, row.dispatched_at), (Stage::ExtractText, None));
        trial.tick();
        trial.pause(batch, false);
        assert_eq!(trial.progress(batch).pause, None);
        for file in files {
            assert_eq!(trial.row(file).dispatched_at, Some(trial.now()));
        }
    }

    #[test]
    fn a_repeated_pause_does_not_pause_again_what_goes_on() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let pause = trial.pausing(batch, true);
        let first = trial.ask(pause.clone()).unwrap();
        trial.pause(batch, false);
        let before = trial.everything();
        assert_eq!(trial.ask(pause).unwrap(), first);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 10.2.
    #[test]
    fn a_batch_that_is_being_cancelled_is_not_paused() {
        let mut trial = Trial::new();
        let batch = trial.queued(1)[0].batch_ref();
        trial.cancel(batch);
        let before = trial.everything();
        let pause = trial.pausing(batch, true);
        assert_eq!(trial.ask(pause).unwrap_err().reason, "BATCH_CANCELLED");
        assert_eq!(trial.everything(), before);
    }
}
