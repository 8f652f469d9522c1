//! Results that are taken over by reference: from an earlier generation of the file (protocol 11.3), or from another file
//! of the tenant with the same content (protocol 13.3). Work is done once for a content and a stage version.

use caudal_domain::{FileRef, Generation, Recorded, Stage, StageSet, Token, next_hop};

use super::group::Group;
use super::loaded::Loaded;
use crate::store::results::{ResultRow, TenantContent};

/// What a file brings to the next stages of its route.
pub(super) struct Onward<'a> {
    pub(super) file: FileRef,
    pub(super) generation: Generation,
    /// A token of the file under which nothing is dispatched.
    pub(super) token: Token,
    pub(super) asked: StageSet,
    /// Results that the generation has already.
    pub(super) has: &'a [ResultRow],
    /// Results of another file, that may be taken over where their version is the newest.
    pub(super) offered: &'a [ResultRow],
}

impl Group<'_> {
    /// The results that a file of this content offers, if its generation is still the one they were read for.
    pub(super) fn offered<'a>(
        &self,
        loaded: &'a Loaded,
        content: Option<TenantContent>,
    ) -> &'a [ResultRow] {
        let source = content.and_then(|content| loaded.sources.get(&content));
        let current = source.filter(|source| {
            let row = self.rows.file(source.file);
            row.is_none_or(|row| row.generation == source.generation)
        });
        current.map_or(&[], |source| &source.results)
    }

    /// Where the file goes after `recorded`: past the stages that have a result in this generation, and past those whose
    /// result is offered. What is taken over and what is skipped on the way is recorded. `None`: the route is at its end.
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
                    let row = ResultRow::skipped(file, generation, skipped, token, self.now);
                    self.effects.results.push(row);
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
                .offered
                .iter()
                .find(of_next)
                .filter(|result| self.is_newest(result) || planted!(OldVersionLent))
            {
                let taken = result.taken_over(file, generation, token, self.now);
                self.effects.results.push(taken);
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
}
