//! What can be asked of the writer. A verb is a type in a file of its own under `verbs/`: it says which rows it needs, and
//! decides over them without a session, a clock or dice of its own. Whoever asks it gets its own type of answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use caudal_domain::{BatchRef, Refusal};
use caudal_proto::v1;
use tokio::sync::oneshot;

use super::error::{GroupError, Stop};
use super::group::Group;
use super::needs::Needs;
use super::request_key::RequestKey;

/// One thing that is asked of the writer. One bad item never fails its neighbours; a bad verb never fails the others of its
/// group.
pub(crate) trait Verb: Send + Sync + 'static {
    /// What its caller gets.
    type Answer: Send + Sync + 'static;

    /// For logs.
    const NAME: &'static str;

    /// How many rows it may touch: a group takes verbs up to a bound.
    fn rows(&self) -> usize {
        1
    }

    /// The rows that it reads or changes.
    fn needs(&self) -> Needs;

    /// Decides over the rows that were loaded. It may be asked again when its group was not committed.
    ///
    /// # Errors
    /// A refusal, and then nothing was changed; or what fails the whole group.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Self::Answer>, Stop>;

    /// The name of what it makes, where a test may want it to fail.
    #[cfg(debug_assertions)]
    fn makes(&self) -> Option<&str> {
        None
    }
}

/// What a verb has decided to answer.
#[derive(Debug)]
pub(crate) enum Reply<A> {
    /// This.
    Now(A),
    /// The batch as the whole group leaves it; remembered for the request.
    Batch {
        batch: BatchRef,
        request: RequestKey,
        answer: fn(v1::Batch) -> A,
    },
}

impl Reply<v1::Batch> {
    /// The batch itself.
    pub(crate) fn batch(batch: BatchRef, request: &RequestKey) -> Self {
        Self::Batch {
            batch,
            request: request.clone(),
            answer: |batch| batch,
        }
    }
}

/// A verb, and who waits for its answer: without its types.
pub(crate) trait AskedVerb: Send + Sync {
    fn name(&self) -> &'static str;
    fn decide(&mut self, group: &mut Group<'_>) -> Result<(), GroupError>;
    /// The batch that it answers with.
    fn batch_wanted(&self) -> Option<(BatchRef, &RequestKey)>;
    /// That batch, as the group leaves it.
    fn batch_found(&mut self, batch: v1::Batch);
    /// Its group is committed: the caller gets what was decided.
    fn committed(self: Box<Self>);
    /// The caller gets this instead.
    fn refuse(self: Box<Self>, refusal: Refusal);
    #[cfg(debug_assertions)]
    fn makes(&self) -> Option<&str>;
}

/// A verb that waits to be decided, with what a group must know of it before.
pub(crate) struct Request {
    pub(super) verb: Box<dyn AskedVerb>,
    pub(super) needs: Needs,
    pub(super) rows: usize,
}

/// Where the answer comes.
pub(crate) type Answered<A> = oneshot::Receiver<Result<A, Refusal>>;

impl Request {
    /// What its group must know of it.
    #[cfg(test)]
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Asks for a verb.
    pub(crate) fn new<V: Verb>(verb: V) -> (Self, Answered<V::Answer>) {
        let (reply, answer) = oneshot::channel();
        let request = Self {
            needs: verb.needs(),
            rows: verb.rows(),
            verb: Box::new(Asked {
                verb,
                reply,
                decided: None,
            }),
        };
        (request, answer)
    }
}

struct Asked<V: Verb> {
    verb: V,
    reply: oneshot::Sender<Result<V::Answer, Refusal>>,
    decided: Option<Result<Reply<V::Answer>, Refusal>>,
}

impl<V: Verb> AskedVerb for Asked<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn decide(&mut self, group: &mut Group<'_>) -> Result<(), GroupError> {
        let changed_before = group.changes();
        // What it moved in memory is taken back with its group.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(debug_assertions)]
            super::test_panics::panic_where_asked(self.verb.makes());
            self.verb.decide(group)
        }));
        self.decided = Some(match decided {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Stop::Refused(_))) if group.changes() != changed_before => {
                let words = format!("{} was refused after it had changed something", V::NAME);
                return Err(GroupError::defect(words));
            }
            Ok(Err(Stop::Refused(refusal))) => Err(refusal),
            Ok(Err(Stop::Group(error))) => return Err(error),
            Err(panic) => return Err(GroupError::panicked(panic.as_ref())),
        });
        Ok(())
    }

    fn batch_wanted(&self) -> Option<(BatchRef, &RequestKey)> {
        match &self.decided {
            Some(Ok(Reply::Batch { batch, request, .. })) => Some((*batch, request)),
            _ => None,
        }
    }

    fn batch_found(&mut self, batch: v1::Batch) {
        if let Some(Ok(Reply::Batch { answer, .. })) = &self.decided {
            self.decided = Some(Ok(Reply::Now(answer(batch))));
        }
    }

    fn committed(self: Box<Self>) {
        let answer = match self.decided {
            Some(Ok(Reply::Now(answer))) => Ok(answer),
            Some(Err(refusal)) => Err(refusal),
            Some(Ok(Reply::Batch { .. })) | None => Err(Refusal::internal()),
        };
        // A caller that is gone asks again with the same request id.
        let _ = self.reply.send(answer);
    }

    fn refuse(self: Box<Self>, refusal: Refusal) {
        let _ = self.reply.send(Err(refusal));
    }

    #[cfg(debug_assertions)]
    fn makes(&self) -> Option<&str> {
        self.verb.makes()
    }
}
