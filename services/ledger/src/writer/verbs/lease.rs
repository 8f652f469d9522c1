//! Grants dispatches to a stage process (protocol 5.1).

use std::sync::Arc;

use caudal_domain::{FileEvent, FileState, StageVersion};

use super::{Held, files_of};
use crate::memory::lease_cache::Granted;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Dispatches that a process of this version has read.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) version: StageVersion,
    pub(crate) held: Held,
}

impl Verb for Lease {
    /// By position; `None`: not current any more.
    type Answer = Vec<Option<Arc<Granted>>>;
    const NAME: &'static str = "Lease";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs {
            version: Some(self.version.clone()),
            ..Needs::of_files(files_of(&self.held))
        }
    }

    /// A QUEUED file becomes PROCESSING, a later hop writes nothing.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<Self::Answer>, Stop> {
        group.see_version(&self.version)?;
        let mut answers = Vec::with_capacity(self.held.len());
        for (file, token) in &self.held {
            let row = group.current(*file, *token);
            let any = group.rows.file(*file);
            let row = row.or_else(|| any.filter(|_| planted!(StaleLeaseGranted)));
            let state = row.filter(|row| row.stage == self.version.stage);
            match state.map(|row| row.state) {
                Some(FileState::Queued) => group.step(*file, FileEvent::Leased)?,
                Some(FileState::Processing) => {}
                _ => {
                    answers.push(None);
                    continue;
                }
            }
            let row = group.rows.file(*file).ok_or(GroupError::Stale)?;
            answers.push(Some(group.granted(row)));
        }
        Ok(Reply::Now(answers))
    }
}
