//! Stage versions: each gets a number when it is first seen, and the newest of a stage is the one whose results are taken
//! over.

use caudal_domain::{Stage, StageVersion};

use super::error::GroupError;
use super::group::Group;
use crate::store::results::ResultRow;

impl Group<'_> {
    /// Notes the version that a live process runs: results are taken over from the newest one only.
    pub(super) fn see_version(&mut self, version: &StageVersion) -> Result<(), GroupError> {
        let number = self.version_number(version)?;
        let stage = version.stage;
        if self.newest_version(stage).is_none_or(|seen| seen < number) {
            self.effects.newest_versions.insert(stage, number);
        }
        Ok(())
    }

    /// The number of a version; a new one where it was never seen.
    pub(super) fn version_number(&mut self, version: &StageVersion) -> Result<u32, GroupError> {
        if let Some(number) = self.memory.versions.get(version) {
            return Ok(*number);
        }
        let recorded = self.loaded.versions.as_ref().ok_or(GroupError::Stale)?;
        let new = &self.effects.new_versions;
        if let Some((number, _)) = new.iter().find(|(_, known)| known == version) {
            return Ok(*number);
        }
        if let Some((number, _)) = recorded.iter().find(|(_, known)| known == version) {
            // Of a group whose COMMIT got no answer.
            let seen = &mut self.effects.seen_versions;
            seen.push((*number, version.clone()));
            return Ok(*number);
        }
        let numbers = recorded.iter().chain(new).map(|(number, _)| *number);
        let number = numbers.max().map_or(1, |highest| highest + 1);
        let new = &mut self.effects.new_versions;
        new.push((number, version.clone()));
        Ok(number)
    }

    /// Whether a result was made by the newest version of its stage that a process was seen to run.
    pub(super) fn is_newest(&self, result: &ResultRow) -> bool {
        let newest = self.newest_version(result.stage);
        !result.skipped && result.version.is_some() && result.version == newest
    }

    fn newest_version(&self, stage: Stage) -> Option<u32> {
        let now = self.effects.newest_versions.get(&stage);
        let known = || self.memory.newest_versions.as_ref()?.get(&stage);
        now.or_else(known).copied()
    }
}
