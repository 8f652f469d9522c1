//! Results that are taken over by reference: from an earlier generation of the file (protocol 11.3), or from another file
//! of the tenant with the same content (protocol 13.3). Work is done once for a content and a stage version.

use std::collections::{BTreeSet, HashMap};

use caudal_domain::{FileRef, Generation, Recorded, Stage, StageSet, TenantId, Token, next_hop};

use super::group::{Group, GroupError};
use crate::store::results::{self, ResultRow};
use crate::store::work;

/// Content by tenant: nothing is ever lent across tenants.
pub(super) type TenantContent = (TenantId, [u8; 32]);

/// Results by file.
type ResultsOfFiles = HashMap<FileRef, Vec<ResultRow>>;

/// What a file brings to the next stages of its route.
pub(super) struct Onward<'a> {
    pub(super) file: FileRef,
    pub(super) generation: Generation,
    /// A token of the file under which nothing is dispatched.
    pub(super) token: Token,
    pub(super) asked: StageSet,
    /// Results that the generation has already.
    pub(super) has: &'a [ResultRow],
    /// Results that may be taken over where their version is the newest.
    pub(super) lent: &'a [ResultRow],
}

impl Group<'_> {
    /// Whether a result was made by the newest version of its stage that a process was seen to run.
    pub(super) fn is_newest(&self, result: &ResultRow) -> bool {
        let newest = self
            .newest_versions
            .get(&result.stage)
            .or_else(|| self.state.newest_versions.get(&result.stage));
        !result.skipped && result.version.is_some() && result.version == newest.copied()
    }

    /// Where the file goes after `recorded`: past the stages that have a result in this generation, and past those whose
    /// result is lent. What is lent and what is skipped on the way is recorded. `None`: the route is at its end.
    pub(super) fn go_on(
        &mut self,
        mut recorded: Recorded<'_>,
        onward: &Onward<'_>,
    ) -> Option<Stage> {
        let Onward {
            file,
            generation,
            token,
            ..
        } = *onward;
        loop {
            let hop = next_hop(&recorded, onward.asked);
            for skipped in hop.skipped {
                if !onward.has.iter().any(|result| result.stage == skipped) {
                    self.results.push(ResultRow::skipped(
                        file, generation, skipped, token, self.now,
                    ));
                }
            }
            let next = hop.next?;
            // The final record is a file's own.
            if next == Stage::Metadata {
                return Some(next);
            }
            let of_next = |result: &&ResultRow| result.stage == next && !result.skipped;
            let has_text = if let Some(result) = onward.has.iter().find(of_next) {
                result.has_text
            } else if let Some(result) = onward
                .lent
                .iter()
                .find(of_next)
                .filter(|result| self.is_newest(result))
            {
                let taken = result.taken_over(file, generation, token, self.now);
                self.results.push(taken);
                result.has_text
            } else {
                return Some(next);
            };
            recorded = Recorded {
                stage: next,
                media_type: None,
                has_text,
            };
        }
    }

    /// Results of these files' generations, those of this group included.
    pub(super) async fn results_of(
        &self,
        files: &[(FileRef, Generation)],
    ) -> Result<ResultsOfFiles, GroupError> {
        let mut found = results::of_generations(&self.session, files).await?;
        if !self.results.is_empty() {
            let wanted: BTreeSet<(FileRef, Generation)> = files.iter().copied().collect();
            for result in &self.results {
                if wanted.contains(&(result.file, result.generation)) {
                    found.entry(result.file).or_default().push(result.clone());
                }
            }
        }
        Ok(found)
    }

    /// For each content the results of a file that holds it, whose row is locked until the group ends: a lender cannot be
    /// erased between the look and the reference (protocol 13.3).
    pub(super) async fn lenders(
        &self,
        contents: &BTreeSet<TenantContent>,
    ) -> Result<HashMap<TenantContent, Vec<ResultRow>>, GroupError> {
        let contents: Vec<TenantContent> = contents.iter().copied().collect();
        let holders = results::holders(&self.session, &contents).await?;
        if holders.is_empty() {
            return Ok(HashMap::new());
        }
        let lenders: BTreeSet<FileRef> = holders.values().copied().collect();
        let unknown: Vec<FileRef> = lenders
            .iter()
            .copied()
            .filter(|file| !self.files.contains_key(file))
            .collect();
        let mut generations: Vec<(FileRef, Generation)> = work::lock(&self.session, &unknown)
            .await?
            .into_iter()
            .map(|row| (row.file, row.generation))
            .collect();
        for file in &lenders {
            if let Some(worked) = self.files.get(file) {
                generations.push((*file, worked.row.generation));
            }
        }
        let mut results = self.results_of(&generations).await?;
        let mut found = HashMap::new();
        for (content, lender) in holders {
            // Only what the lender's current generation holds: a reprocess may have begun since.
            let lent = results.remove(&lender).unwrap_or_default();
            let holds = lent
                .iter()
                .any(|result| result.stage == Stage::Upload && result.content == Some(content.1));
            if holds {
                found.insert(content, lent);
            }
        }
        Ok(found)
    }
}
