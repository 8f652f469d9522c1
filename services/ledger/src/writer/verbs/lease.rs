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
            let row = group.rows.current(*file, *token);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{Stage, Token};

    use super::*;
    use crate::writer::trial::{Trial, version};
    use crate::writer::verbs::release::Release;

    fn grants(trial: &mut Trial, version: StageVersion, held: Held) -> Vec<bool> {
        let granted = trial.ask(Lease { version, held }).unwrap();
        granted.iter().map(Option::is_some).collect()
    }

    // Protocol 5.1: no answer: ask again.
    #[test]
    fn a_queued_file_becomes_processing_under_its_token_and_may_be_asked_for_again() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let held = trial.held(&files);
        assert_eq!(
            grants(&mut trial, version(Stage::Upload), held.clone()),
            [true]
        );
        let row = trial.row(files[0]);
        assert_eq!((row.state, row.token), (FileState::Processing, held[0].1));
        assert_eq!(row.lease_until, None);
        let before = trial.everything();
        assert_eq!(grants(&mut trial, version(Stage::Upload), held), [true]);
        assert_eq!(trial.everything(), before);
    }

    // Protocol 5.1: when the token is the row's, at that row's stage.
    #[test]
    fn a_token_that_moved_on_is_not_granted_and_neither_is_another_stage() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let old = trial.held(&files);
        trial.ask(Release { held: old.clone() }).unwrap();
        let before = trial.row(files[0]);
        let unknown = vec![(files[0].batch_ref().file(9), Token::FIRST)];
        let current = trial.held(&files);
        assert_eq!(grants(&mut trial, version(Stage::Upload), old), [false]);
        assert_eq!(grants(&mut trial, version(Stage::Upload), unknown), [false]);
        assert_eq!(
            grants(&mut trial, version(Stage::Metadata), current),
            [false]
        );
        assert_eq!(trial.row(files[0]), before);
    }

    // Protocol 13.3: the newest that a process of the stage was seen to run.
    #[test]
    fn the_newest_version_of_a_stage_is_the_last_that_was_first_seen() {
        let mut trial = Trial::new();
        let newest =
            |trial: &Trial| trial.read(|tables| tables.newest.get(&Stage::Upload).copied());
        let held = Held::new();
        grants(&mut trial, version(Stage::Upload), held.clone());
        let old = newest(&trial);
        grants(
            &mut trial,
            StageVersion::new(Stage::Upload, "2"),
            held.clone(),
        );
        let new = newest(&trial);
        assert!(old < new);
        grants(&mut trial, version(Stage::Upload), held);
        assert_eq!(newest(&trial), new);
    }

    // Protocol 13.3: the database may have taken it, and an old version's results would be lent by what memory keeps.
    #[test]
    fn the_newest_version_is_read_again_where_the_commit_that_moved_it_got_no_answer() {
        let mut trial = Trial::new();
        grants(&mut trial, version(Stage::Upload), Held::new());
        trial.lose_answer(Lease {
            version: StageVersion::new(Stage::Upload, "2"),
            held: Held::new(),
        });
        trial.tick();
        let newest = trial.read(|tables| tables.newest.clone());
        let known = trial.memory.newest_versions.clone().unwrap();
        assert_eq!(known.get(&Stage::Upload), newest.get(&Stage::Upload));
        assert_eq!(known.len(), newest.len());
    }
}
