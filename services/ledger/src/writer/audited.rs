//! Acts that are written down: the row of the audit stands in the transaction that did it.

use caudal_domain::TenantId;
use uuid::Uuid;

use crate::store::audit::AuditRow;
use crate::store::time::Micros;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Who does something: the words of a key, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) words: String,
    pub(crate) key_id: String,
}

/// What is done, as the audit keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) id: Uuid,
    pub(crate) actor: Actor,
    /// `None`: in no tenant.
    pub(crate) tenant: Option<TenantId>,
    /// The name of the call.
    pub(crate) call: &'static str,
    /// The name of what it is done to.
    pub(crate) target: String,
    /// A JSON object; empty: no particulars.
    pub(crate) detail: String,
}

impl Act {
    fn row(&self, at: Micros) -> AuditRow {
        AuditRow {
            id: self.id,
            tenant: self.tenant,
            at,
            actor: self.actor.words.clone(),
            key_id: self.actor.key_id.clone(),
            act: self.call.to_owned(),
            target: self.target.clone(),
            detail: self.detail.clone(),
        }
    }
}

impl Group<'_> {
    /// Writes an act down.
    pub(super) fn audit(&mut self, act: &Act) {
        if planted!(ActNotWritten) {
            return;
        }
        let row = act.row(self.now);
        self.effects.tenancy.audit.push(row);
    }
}

/// A verb whose act is written down when it is taken; a repeat of a request is no other act.
#[derive(Clone, Debug)]
pub(crate) struct Audited<V> {
    pub(crate) verb: V,
    /// `None`: whoever asks may do it unwritten.
    pub(crate) act: Option<Act>,
}

impl<V: Verb> Verb for Audited<V> {
    type Answer = V::Answer;
    const NAME: &'static str = V::NAME;

    fn rows(&self) -> usize {
        self.verb.rows()
    }

    fn needs(&self) -> Needs {
        self.verb.needs()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<V::Answer>, Stop> {
        let request = self.verb.needs().request;
        let answered = |group: &Group<'_>| {
            request.is_some_and(|name| {
                group.loaded.answered.contains_key(&name)
                    || group.effects.answer_of(&name).is_some()
            })
        };
        let is_repeat = answered(group);
        let reply = self.verb.decide(group)?;
        if let Some(act) = self.act.as_ref().filter(|_| !is_repeat) {
            group.audit(act);
        }
        Ok(reply)
    }

    #[cfg(debug_assertions)]
    fn makes(&self) -> Option<&str> {
        self.verb.makes()
    }
}
