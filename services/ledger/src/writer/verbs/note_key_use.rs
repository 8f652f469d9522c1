//! Notes that a key was used, coarsely.

use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Which key.
#[derive(Clone, Debug)]
pub(crate) struct NoteKeyUse {
    pub(crate) key: String,
}

impl Verb for NoteKeyUse {
    type Answer = ();
    const NAME: &'static str = "NoteKeyUse";

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        let used = (self.key.clone(), group.now);
        group.effects.tenancy.used_keys.push(used);
        Ok(Reply::Now(()))
    }
}
