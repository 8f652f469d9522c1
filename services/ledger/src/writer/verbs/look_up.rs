//! Looks rows up while no dispatch is in flight, and frees the places of pairs that moved on (protocol 2.3, 8.1).

use std::collections::HashMap;

use caudal_domain::Stage;

use super::{Held, files_of};
use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Pairs that have been out for long.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) held: Held,
}

/// Rows as the writer found them, with what the reconciler compares them to.
#[derive(Debug)]
pub(crate) struct LookedUp {
    pub(crate) now: Micros,
    pub(crate) rows: Vec<WorkRow>,
    /// When the oldest unpublished dispatch of each stage was written.
    pub(crate) oldest_outbox: HashMap<Stage, Micros>,
}

impl Verb for LookUp {
    type Answer = LookedUp;
    const NAME: &'static str = "LookUp";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs {
            looked_up: Some(files_of(&self.held)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<LookedUp>, Stop> {
        let loaded = group.loaded.clone();
        let mut rows = Vec::with_capacity(self.held.len());
        for (file, token) in &self.held {
            let row = loaded.looked_up.get(file);
            // What this group sends out under a token that an undone one had sent out is out, whatever was read.
            let moved = group.rows.file(*file);
            let is_out = |row: &WorkRow| row.token == *token && row.dispatched_at.is_some();
            let current = moved.or(row).is_some_and(is_out);
            let moved_on_in_this_group = moved.is_some_and(|row| row.token != *token);
            if !current && !moved_on_in_this_group && !planted!(PlacesNeverCompared) {
                group.memory.dispatcher.leave(*file, *token);
                group.memory.dispatcher.forget(*file);
            }
            rows.extend(row.cloned());
        }
        Ok(Reply::Now(LookedUp {
            now: group.now,
            rows,
            oldest_outbox: loaded.oldest_outbox.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use caudal_domain::Token;

    use super::*;
    use crate::likeness::Likeness;
    use crate::writer::trial::Trial;

    // Protocol 2.3: drops those that moved on; else one lost place is lost for ever.
    #[test]
    fn pairs_that_moved_on_give_their_places_back_and_those_that_are_out_keep_them() {
        let mut trial = Trial::new();
        let files = trial.queued(2);
        let held = trial.held(&files);
        let old = (files[0], Token::FIRST);
        let now = trial.now();
        // As a COMMIT without an answer leaves it.
        trial
            .memory
            .dispatcher
            .enter(Stage::Upload, old.0, old.1, Likeness::sized(1), now);
        assert_eq!(trial.places(Stage::Upload), 3);
        let before = trial.everything();
        let held = vec![old, held[0], held[1]];
        trial.ask(LookUp { held: held.clone() }).unwrap();
        assert_eq!(trial.places(Stage::Upload), 2);
        assert!(!trial.memory.dispatcher.holds(old.0, old.1));
        assert!(trial.memory.dispatcher.holds(files[0], held[1].1));
        assert_eq!(trial.everything(), before);
    }

    // Protocol 8.1: rows out before the oldest unpublished dispatch of their stage.
    #[test]
    fn the_rows_come_as_they_are_with_the_oldest_dispatch_that_waits() {
        let mut trial = Trial::new();
        let files = trial.queued(1);
        let sent = trial.now();
        trial.pass(Duration::from_secs(6));
        trial.queued(1);
        let held = trial.held(&files);
        let found = trial.ask(LookUp { held }).unwrap();
        assert_eq!(found.rows, [trial.row(files[0])]);
        assert_eq!(found.now, trial.now());
        assert_eq!(found.oldest_outbox.get(&Stage::Upload), Some(&sent));
    }
}
